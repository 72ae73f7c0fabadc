/** Entry of the page: what each of our nodes gets when it is created. */
import { app } from "../../scripts/app.js";
import { refreshAdapters } from "./adapters.js";
import { showAdapter } from "./card.js";
import { addStyles } from "./dom.js";
import { showReports } from "./report.js";
import { makeSlider } from "./slider.js";
import { editRows } from "./stack.js";
import { loadWords } from "./words.js";

/** What a widget of ours gets, by its name. */
const SET_UPS = { adapter: showAdapter, rows: editRows };
const SLIDERS = ["alpha", "alpha_te", "strength"];

app.registerExtension({
  name: "shira.nodes",

  async init() {
    addStyles();
    await Promise.all([loadWords(), refreshAdapters()]);
  },

  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("SHiRA")) return;
    for (const widget of [...(node.widgets ?? [])]) {
      if (widget.type === "number" && SLIDERS.includes(widget.name)) makeSlider(widget);
      SET_UPS[widget.name]?.(node, widget);
    }
    showReports(node);
  },

  async refreshComboInNodes() {
    await refreshAdapters();
  },
});
