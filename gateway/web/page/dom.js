// The few lines that stand in for a framework. Everything becomes text nodes: nothing that came over the wire is ever markup.

export const byId = (id) => document.getElementById(id);

/** Makes an element: attributes by name, listeners under `on`, children as nodes or text. */
export function el(tag, { on = {}, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  for (const [type, listener] of Object.entries(on)) element.addEventListener(type, listener);
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

/** A dotted name that may break after its dots. */
export const breakable = (name) => name.split(/(?<=\.)/).flatMap((part) => [part, el("wbr")]);

/**
 * Allows or forbids a button, with the reason where it is not allowed. `aria-disabled` instead of `disabled` leaves it in
 * the order of the Tab key, so that the reason can be found without a mouse.
 */
export function permit(button, why) {
  button.setAttribute("aria-disabled", String(Boolean(why)));
  button.title = why ?? "";
}

export const permitted = (button) => button.getAttribute("aria-disabled") !== "true";

/** JSON in colours, as nodes. */
export function colouredJson(value) {
  const text = JSON.stringify(value, null, 2);
  const token = /("(?:\\.|[^"\\])*")(\s*:)?|\b(?:true|false|null)\b|-?\d[\d.eE+-]*/g;
  const code = el("code");
  let at = 0;
  for (const match of text.matchAll(token)) {
    const [whole, string, colon] = match;
    const kind = colon ? "key" : string ? "string" : "atom";
    code.append(text.slice(at, match.index), el("span", { class: `json-${kind}` }, colon ? string : whole), colon ?? "");
    at = match.index + whole.length;
  }
  code.append(text.slice(at));
  return el("pre", { tabindex: "0" }, code);
}
