// KaTeX places the parts of a formula with style attributes, which the page's policy refuses. They come as data-style
// and are set through CSSOM, which it permits, if they only measure or colour.

const PROPERTIES = new Set([
  "border-bottom-width",
  "border-color",
  "border-right-style",
  "border-right-width",
  "border-style",
  "border-top-width",
  "border-width",
  "color",
  "background-color",
  "bottom",
  "font-size",
  "height",
  "left",
  "margin",
  "margin-left",
  "margin-right",
  "margin-top",
  "min-width",
  "padding-left",
  "top",
  "vertical-align",
  "width",
]);

/** Sets the styles of every formula inside `root`; `position` is allowed to be relative alone. */
export function applyFormulaStyles(root) {
  for (const element of root.querySelectorAll("[data-style]")) {
    element.removeAttribute("style");
    for (const declaration of element.dataset.style.split(";")) applyDeclaration(element, declaration);
  }
}

function applyDeclaration(element, declaration) {
  const [property, value] = declaration.split(":", 2).map((side) => side.trim());
  if (!value || value.includes("(")) return;
  if (PROPERTIES.has(property) || (property === "position" && value === "relative")) {
    element.style.setProperty(property, value);
  }
}
