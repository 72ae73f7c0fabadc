/** Small changes to a node of litegraph. */

const GAP = 4; // between two widgets

/** Call `then` after a method, whether or not there is one. */
export function after(owner, method, then) {
  const before = owner[method];
  owner[method] = function (...given) {
    const result = before?.apply(this, given);
    then(...given);
    return result;
  };
}

/** Take a widget and its socket out of sight; it keeps its value and its place in saved files. */
export function hideWidget(node, widget) {
  widget.hidden = true;
  widget.options.hidden = true;
  widget.computeSize = () => [0, -GAP]; // litegraph leaves room for hidden widgets, too
  const slot = node.inputs?.findIndex((input) => input.widget?.name === widget.name) ?? -1;
  if (slot >= 0) node.removeInput(slot);
}

/** Make a node at least so wide. */
export function widen(node, width) {
  node.setSize([Math.max(width, node.size[0]), node.size[1]]);
}
