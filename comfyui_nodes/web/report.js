/** What a node has said when it ran, shown inside the node. */
import { make } from "./dom.js";
import { after } from "./node.js";
import { addPanel } from "./panel.js";

/** Show the text that a run gives; a node that never gives any stays as small as it is. */
export function showReports(node) {
  let place;
  after(node, "onExecuted", (output) => {
    if (!output?.text) return;
    if (!place) {
      place = make("pre", { className: "shira-report", tabIndex: 0 });
      addPanel(node, "report_text", place);
    }
    place.textContent = [output.text].flat().join("\n");
  });
}
