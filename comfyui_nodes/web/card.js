/** The chosen file's picture, title, architecture and trigger words, in the node. */
import { findAdapter, onRefresh, previewAddress } from "./adapters.js";
import { button, copyText, make } from "./dom.js";
import { misfitsOf } from "./fits.js";
import { after, widen } from "./node.js";
import { addPanel } from "./panel.js";
import { say } from "./words.js";

const WIDTH = 300;

/** Show what is known of the file that a widget names. */
export function showAdapter(node, file) {
  const card = make("div", { className: "shira-card" });
  const show = () => card.replaceChildren(...describe(file.value));
  const misfits = misfitsOf(node, file, () => [file.value]);
  addPanel(node, "adapter_card", make("div", {}, card, misfits));
  after(file, "callback", show);
  after(node, "onConfigure", show);
  after(node, "onRemoved", onRefresh(show));
  widen(node, WIDTH);
  show();
}

/** Return the elements that describe an adapter. */
function describe(name) {
  const adapter = findAdapter(name);
  if (!adapter) return [make("span", { className: "shira-dim" }, say("noInfo"))];
  if (adapter.error) return [make("span", { className: "shira-error" }, adapter.error)];
  const parts = adapter.preview ? [preview(name)] : [];
  if (adapter.title) parts.push(make("strong", {}, adapter.title));
  parts.push(make("span", { className: "shira-dim" }, adapter.architecture));
  if (adapter.trigger) parts.push(trigger(adapter.trigger));
  return parts;
}

function preview(name) {
  const picture = make("img", { src: previewAddress(name), alt: say("preview") });
  picture.onerror = () => picture.remove();
  return picture;
}

/** A button with the trigger words, which copies them. */
function trigger(words) {
  const copy = button(words, say("copyTrigger"), async () => {
    await copyText(words, copy.parentElement);
    copy.textContent = say("copied");
    setTimeout(() => (copy.textContent = words), 1000);
  });
  return copy;
}
