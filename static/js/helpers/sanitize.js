// What may come out of the Markdown worker: the markup of Markdown, of highlight.js and of KaTeX, and nothing that
// loads, runs, or sends.

const MARKDOWN =
  "a blockquote br code del div em h1 h2 h3 h4 h5 h6 hr li ol p pre s span strong table tbody td th thead tr ul";
const MATHML =
  "annotation math menclose mfrac mi mn mo mover mpadded mphantom mroot mrow mspace msqrt mstyle msub msubsup msup " +
  "mtable mtd mtext mtr munder munderover semantics";
const SVG = "line path svg";

const MARKDOWN_ATTRIBUTES = "aria-hidden aria-label class data-align data-language data-style href role start tabindex";
const MATHML_ATTRIBUTES =
  "accent accentunder columnalign columnlines columnspacing depth display displaystyle encoding fence linethickness " +
  "lspace mathbackground mathcolor mathsize mathvariant maxsize minsize notation rowlines rowspacing rspace " +
  "scriptlevel separator stretchy voffset xmlns";
const SVG_ATTRIBUTES = "d height preserveAspectRatio stroke-width viewBox width x1 x2 y1 y2";

/** DOMPurify's configuration. */
export const SANITIZE = {
  ALLOWED_TAGS: [MARKDOWN, MATHML, SVG].join(" ").split(" "),
  ALLOWED_ATTR: [MARKDOWN_ATTRIBUTES, MATHML_ATTRIBUTES, SVG_ATTRIBUTES].join(" ").split(" "),
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  // "height:1em" looks like an address to DOMPurify, with a scheme of its own.
  ADD_URI_SAFE_ATTR: ["data-language", "data-style"],
  RETURN_DOM_FRAGMENT: true,
};
