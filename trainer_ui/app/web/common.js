/* Shared by all widgets. `element`, `props`, `trigger` and `watch` come from Gradio. */
const place = element.firstElementChild;

/** Create an element with properties and children; a string becomes a text node. */
function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Create a button; `key` finds it again after the widget was drawn anew. */
function button(label, title, key, onclick) {
  const made = make("button", { type: "button", title, ariaLabel: title, onclick }, label);
  made.dataset.key = key;
  return made;
}

/** Draw now and whenever the value changes; what had the focus keeps it. */
function drawn(draw) {
  const again = () => {
    const key = place.contains(document.activeElement) && document.activeElement.dataset.key;
    draw(props.value);
    if (key) place.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
  };
  watch("value", again);
  again();
}

/** Make these the children of an element; those that are in their places are not touched. */
function arrange(parent, children) {
  const same = (child, at) => child === parent.children[at];
  if (parent.children.length !== children.length || !children.every(same)) {
    parent.replaceChildren(...children);
  }
}
