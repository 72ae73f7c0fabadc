/** Alpha on the canvas: dragging slides between -2 and 2, a click types any number. */

export const LOW = -2;
export const HIGH = 2;
export const STEP = 0.05;
const SHOWN = 2; // decimals, at least
const KEPT = 4; // decimals, as the server rounds
const EDGE = 15; // where litegraph begins and ends a widget

/** Return how far along the slider a value is, 0 to 1. */
export function share(value) {
  return Math.min(1, Math.max(0, (value - LOW) / (HIGH - LOW)));
}

/** Return the value at a place of a slider between its ends `left` and `right`, in whole steps. */
export function valueAt(x, left, right) {
  const along = Math.min(1, Math.max(0, (x - left) / (right - left)));
  const steps = Math.round((LOW + along * (HIGH - LOW)) / STEP);
  return Number((steps * STEP).toFixed(2));
}

/** Return a value with two decimals, or more where it has more. */
export function shown(value) {
  const [, decimals = ""] = String(value).split(".");
  return value.toFixed(Math.max(SHOWN, decimals.length));
}

/** Turn a number widget into such a slider. Its name, value and socket stay as they are. */
export function makeSlider(widget) {
  if (!widget.drawWidget) return; // drawn by the page itself, as a number
  const draw = widget.drawWidget;
  widget.drawWidget = function (context, options) {
    draw.call(this, context, options);
    if (!this.computedDisabled) drawBar(context, this, options.width);
  };
  widget.onDrag = function ({ e, node, canvas }) {
    const width = this.width || node.size[0];
    const value = valueAt(e.canvasX - node.pos[0], EDGE, width - EDGE);
    this.setValue(value, { e, node, canvas });
  };
  // ComfyUI would round what is typed to the decimals of a step.
  widget.callback = (value) => (widget.value = Number(Number(value).toFixed(KEPT)));
  const get = () => (widget.computedDisabled ? "" : shown(widget.value));
  Object.defineProperty(widget, "_displayValue", { get, configurable: true });
}

/** A line below the number, from 0 to the value. */
function drawBar(context, widget, width) {
  const length = width - 2 * EDGE;
  const [zero, end] = [share(0), share(widget.value)];
  const top = widget.y + widget.height - 3;
  context.save();
  context.fillStyle = "#6a9";
  context.fillRect(EDGE + Math.min(zero, end) * length, top, Math.abs(end - zero) * length, 2);
  context.fillRect(EDGE + end * length - 1, top - 2, 3, 5);
  context.restore();
}
