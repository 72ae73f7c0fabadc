/** A part of a node that is made of HTML and as high as its content. */
import { app } from "../../scripts/app.js";
import { make } from "./dom.js";

const MARGIN = 8;
const MIDDLE_BUTTON = 1;

/** Add `content` below a node's widgets. It is not saved: what it shows comes from elsewhere. */
export function addPanel(node, name, content) {
  let height = 0;
  const wanted = () => height + 2 * MARGIN;
  const frame = make("div", { className: "shira-panel" }, content);
  const options = { serialize: false, margin: MARGIN, getMinHeight: wanted, getMaxHeight: wanted };
  const widget = node.addDOMWidget(name, "shira", frame, options);
  widget.serialize = false;
  keepKeys(frame);
  passPointerOn(frame);
  new ResizeObserver(() => {
    // Height 0: the node is out of sight, not empty.
    if (content.offsetHeight === 0 || content.offsetHeight === height) return;
    height = content.offsetHeight;
    fit(node);
  }).observe(content);
  return widget;
}

function fit(node) {
  node.setSize([node.size[0], node.computeSize()[1]]);
  app.graph?.setDirtyCanvas(true, true);
}

/** Keep plain keys from the page, where Delete would remove the node. */
function keepKeys(frame) {
  frame.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey) event.stopPropagation();
  });
}

/** Zoom by wheel and pan by the middle button as on the canvas beside. */
function passPointerOn(frame) {
  frame.addEventListener("wheel", (event) => {
    if (event.target.closest(".shira-report")) return;
    event.preventDefault();
    app.canvas.processMouseWheel(event);
  });
  frame.addEventListener("pointerdown", (event) => {
    if (event.button === MIDDLE_BUTTON) app.canvas.processMouseDown(event);
  });
  frame.addEventListener("pointermove", (event) => {
    if (event.buttons & 4) app.canvas.processMouseMove(event);
  });
  frame.addEventListener("pointerup", (event) => {
    if (event.button === MIDDLE_BUTTON) app.canvas.processMouseUp(event);
  });
}
