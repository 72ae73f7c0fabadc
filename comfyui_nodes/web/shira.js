/** Entry of the page: what each of our nodes gets when it is created. */
import { app } from "../../scripts/app.js";
import { refreshAdapters } from "./adapters.js";
import { addStyles } from "./dom.js";
import { setUpLoader } from "./loader.js";
import { showReports } from "./report.js";
import { makeSlider } from "./slider.js";
import { setUpStack } from "./stack.js";
import { loadWords } from "./words.js";

const SET_UPS = { SHiRALoader: setUpLoader, SHiRAStack: setUpStack };

app.registerExtension({
  name: "shira.nodes",

  async init() {
    addStyles();
    await Promise.all([loadWords(), refreshAdapters()]);
  },

  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("SHiRA")) return;
    for (const widget of node.widgets ?? []) {
      if (widget.type === "number" && widget.name.startsWith("alpha")) makeSlider(widget);
    }
    SET_UPS[node.comfyClass]?.(node);
    showReports(node);
  },

  async refreshComboInNodes() {
    await refreshAdapters();
  },
});
