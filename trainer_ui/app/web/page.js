/* What the page does for itself, beside its parts. */

/* A long list that opens under a field scrolls, so a browser would stop at it, though it closes when
   the field is left. */
addEventListener("keydown", (event) => {
  if (event.key !== "Tab") return;
  for (const list of document.querySelectorAll("ul[role=listbox]")) list.tabIndex = -1;
}, true);

/* Tell when the trainer has stopped, and what to do; load the page again when it is back. */
const KEPT = "This page then loads itself again. Trainings go on meanwhile, and nothing is lost.";
const STOPPED = `The trainer has stopped. Start it again, with “shira trainer” or as before. ${KEPT}`;
const STARTING = `The trainer has stopped and is being started again. ${KEPT}`;
const LOCKED = "The trainer was started again with another token: open the address that it printed.";

async function problem() {
  try {
    const { status } = await fetch("alive", { cache: "no-store" });
    if (status === 204) return "";
    return status === 403 ? LOCKED : STARTING; // by the WebUI that shows it
  } catch {
    return STOPPED;
  }
}

let line = null;
async function watch() {
  const found = await problem();
  if (line && !found) location.reload();
  if (found && !line) {
    line = document.createElement("p");
    line.id = "gone";
    line.role = "alert";
    document.body.append(line);
  }
  if (line) line.textContent = found;
  setTimeout(watch, 3000);
}
watch();
