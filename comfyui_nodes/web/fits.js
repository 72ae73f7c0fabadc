/** Adapters that do not fit the model: told in the node before anything is queued. */
import { api } from "../../scripts/api.js";
import { make } from "./dom.js";
import { after } from "./node.js";

/** The widget that names a loader's file, and the folder that it is in. */
const FOLDERS = { ckpt_name: "checkpoints", unet_name: "diffusion_models" };
const watched = new WeakMap(); // loaders' widgets -> the checks that go by them

/** Return an element that tells which of a node's files do not fit its model; `names` returns them. */
export function misfitsOf(node, widget, names) {
  const place = make("div", { className: "shira-error", role: "alert" });
  const check = async () => {
    const told = await Promise.all(names().map((name) => misfit(name, loaderOf(node, check))));
    place.replaceChildren(...told.filter(Boolean).map((text) => make("div", {}, text)));
  };
  after(widget, "callback", check);
  after(node, "onConfigure", check);
  after(node, "onConnectionsChange", check);
  check();
  return place;
}

/** Return the widget with the file that a node's model comes from; `check` follows its changes. */
function loaderOf(node, check) {
  const seen = new Set();
  for (let at = node; at && !seen.has(at); at = before(at)) {
    seen.add(at);
    const widget = at.widgets?.find((each) => each.name in FOLDERS);
    if (widget) return watch(widget, check);
  }
  return null;
}

/** Return the node that gives a node its model. */
function before(node) {
  const isModel = (input) => input.type === "MODEL" && input.link != null;
  const slot = node.inputs?.findIndex(isModel) ?? -1;
  return slot < 0 ? null : node.getInputNode(slot);
}

function watch(widget, check) {
  if (!watched.has(widget)) {
    watched.set(widget, new Set());
    after(widget, "callback", () => watched.get(widget).forEach((each) => each()));
  }
  watched.get(widget).add(check);
  return widget;
}

/** Ask the server why a file does not fit a loader's; "" if it fits or nobody knows. */
async function misfit(name, loader) {
  if (!name || !loader) return "";
  const query = new URLSearchParams({ name, folder: FOLDERS[loader.name], file: loader.value });
  const answer = await api.fetchApi(`/shira/fits?${query}`, { cache: "no-store" });
  return answer.ok ? answer.json() : ""; // an unreadable file is told by the node itself
}
