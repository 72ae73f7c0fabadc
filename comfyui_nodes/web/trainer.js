/** A menu entry that opens the trainer's page, or tells how to start it. */
import { app } from "../../scripts/app.js";
import { make } from "./dom.js";

const PORT = 7870;
const COMMAND = "python install.py trainer";

/** Open the trainer where it listens by default: on the machine of the browser or the server. */
async function openTrainer() {
  const address = `${location.protocol}//${location.hostname}:${PORT}/`;
  try {
    await fetch(address, { mode: "no-cors" });
  } catch {
    return tell(address);
  }
  window.open(address, "_blank", "noopener");
}

/** Say that nothing answers there, and what starts it. */
function tell(address) {
  const close = make("button", { type: "button", onclick: () => dialog.close() }, "Close");
  // The page's own use of Escape would keep the dialog open.
  const onkeydown = (event) => event.stopPropagation();
  const dialog = make(
    "dialog",
    { className: "shira-trainer", onclose: () => dialog.remove(), onkeydown },
    make("p", {}, `No trainer answers at ${address}. In SHiRA's folder, run:`),
    make("pre", {}, COMMAND),
    make("p", {}, "Then choose this menu entry again."),
    close,
  );
  document.body.append(dialog);
  dialog.showModal();
}

app.registerExtension({
  name: "shira.trainer",
  commands: [{ id: "shira.trainer", label: "SHiRA trainer", icon: "pi pi-sliders-h", function: openTrainer }],
  menuCommands: [{ path: ["Extensions"], commands: ["shira.trainer"] }],
});
