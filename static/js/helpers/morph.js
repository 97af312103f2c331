// Changes a DOM tree into another with as few changes as it can, so that a selection, a scroll position or the
// keyboard's focus in what stays the same survives.

/** Makes `current` equal to `wanted`; both are elements of one name. `wanted` is used up. */
export function morph(current, wanted) {
  copyAttributes(current, wanted);
  const pairs = Math.min(current.childNodes.length, wanted.childNodes.length);
  const rest = Array.from(wanted.childNodes).slice(pairs);
  for (let index = 0; index < pairs; index += 1) {
    morphNode(current.childNodes[index], wanted.childNodes[index]);
  }
  while (current.childNodes.length > pairs) current.lastChild.remove();
  current.append(...rest);
}

function morphNode(current, wanted) {
  if (current.isEqualNode(wanted)) return;
  if (current.nodeType === Node.TEXT_NODE && wanted.nodeType === Node.TEXT_NODE) {
    appendOrReplace(current, wanted.data);
  } else if (current.nodeType === Node.ELEMENT_NODE && current.nodeName === wanted.nodeName) {
    morph(current, wanted);
  } else {
    // The clone leaves `wanted` in its place, so that the pairs keep their indices.
    current.replaceWith(wanted.cloneNode(true));
  }
}

/** Appending keeps a selection inside the text; setting the whole collapses it. */
function appendOrReplace(text, data) {
  if (data.startsWith(text.data)) text.appendData(data.slice(text.data.length));
  else text.data = data;
}

/** `style` stays as it is: the policy refuses it as an attribute, and it is set through CSSOM from data-style. */
function copyAttributes(current, wanted) {
  for (const { name } of Array.from(current.attributes)) {
    if (name !== "style" && !wanted.hasAttribute(name)) current.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (current.getAttribute(name) !== value) current.setAttribute(name, value);
  }
}
