/** Elements of the page. Whatever comes from files or the server is text, never HTML. */

/** Create an element with properties and children; a string becomes a text node. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Create a button that does not submit, named for screen readers and by its tooltip. */
export function button(text, name, onclick) {
  return make("button", { type: "button", title: name, ariaLabel: name, onclick }, text);
}

/** Load our style sheet, which lies beside this module. */
export async function addStyles() {
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets.push(sheet);
  await sheet.replace(await (await fetch(new URL("./shira.css", import.meta.url))).text());
}

/** Copy text; an insecure page (plain http in a local network) copies from a field in `place`. */
export async function copyText(text, place) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = make("textarea", { value: text });
  place.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
