/** The rows of the SHiRA accordion. Their only state is the hidden text box `shira_<tab>_rows`. */
(() => {
  "use strict";

  const FIRST = { on: true, name: "", alpha: 1, alpha_te: null, blocks: "", start: 0, stop: 1 };
  const SLIDER = { type: "range", min: -2, max: 2, step: 0.05, className: "shira-alpha" };
  const NO_FILES = "No adapters yet: put .shira files into models/shira, then refresh.";
  const UNREADABLE = "These rows cannot be read. Adding one starts a new list.";
  const PATIENCE_MS = 2000; // a read-out takes longer only where files are read for the first time
  const TRIES = 5;
  const DOUBLE = "This file is in several rows: keep one and add the alphas";

  const editors = ["txt2img", "img2img"].map((tab) => new Editor(tab));
  // Rows that come from a saved stack or an infotext bring a new read-out, which is an update.
  onAfterUiUpdate(() => editors.forEach((editor) => editor.follow()));

  // ---- elements ----
  function make(kind, properties = {}, ...children) {
    const element = document.createElement(kind);
    const { label, ...others } = properties;
    if (label) Object.assign(element, { title: label, ariaLabel: label });
    Object.assign(element, others);
    element.append(...children);
    return element;
  }

  function button(text, label, className, onclick, disabled = false) {
    return make("button", { type: "button", label, className, onclick, disabled }, text);
  }

  /** A field for a number; what is no number is set back. `set` gets null for an empty field. */
  function number(value, set, properties) {
    const field = make("input", { type: "number", step: "any", value: value ?? "", ...properties });
    let last = field.value;
    field.onchange = () => {
      const empty = field.value === "" && !field.validity.badInput;
      if (!empty && !Number.isFinite(field.valueAsNumber)) field.value = last;
      else set(empty ? null : field.valueAsNumber);
      last = field.value;
    };
    return field;
  }

  /** Add words at the end of a tab's prompt, unless they are in it. */
  function insert(tab, words) {
    const prompt = gradioApp().querySelector(`#${tab}_prompt textarea`);
    if (prompt.value.includes(words)) return;
    const before = prompt.value.trimEnd().replace(/,$/, "");
    prompt.value = before ? `${before}, ${words}` : words;
    updateInput(prompt);
  }

  // ---- state ----
  /** A list of objects with names from JSON text; null if it is something else. */
  function parse(text) {
    try {
      const found = JSON.parse(text || "[]");
      return found.every((each) => typeof each.name === "string") ? found : null;
    } catch {
      return null;
    }
  }

  function Editor(tab) {
    const part = (name) => gradioApp().querySelector(`#shira_${tab}_${name}`);
    const box = (name) => part(name)?.querySelector("textarea, input");
    const opened = new Set(); // files whose further fields are shown
    let drawn = null; // the state that is on the page
    let files = new Map();
    let tries = 0; // of asking for the read-out again
    let timer = null;

    const state = () => `${box("rows").value}\n${box("known").value}`;
    const read = () => parse(box("rows").value)?.map((row) => ({ ...FIRST, ...row })) ?? null;
    const place = () => part("editor")?.querySelector(".shira-editor");

    /** Draw anew where the page shows another state. */
    this.follow = () => {
      if (!place() || !box("rows") || !box("known")) return;
      if (drawn !== state() || !place().hasChildNodes()) draw();
      askAgain();
    };

    /** A slow read-out may come after that of later rows: then ask for it again, a few times. */
    function askAgain() {
      if (!isOld()) tries = 0;
      else if (!timer && tries < TRIES) timer = setTimeout(ask, PATIENCE_MS);
    }

    function ask() {
      timer = null;
      if (!isOld()) return;
      tries += 1;
      part("refresh").click();
    }

    /** Whether the read-out is about other rows than those on the page. */
    function isOld() {
      const shown = part("readout")?.querySelector(".shira-readout");
      const plain = (text) => text.replace(/\r\n?/g, "\n");
      return Boolean(shown) && plain(shown.dataset.rows) !== plain(box("rows").value);
    }

    function write(rows) {
      box("rows").value = JSON.stringify(rows);
      updateInput(box("rows"));
      drawn = state();
    }

    function change(at, fields) {
      write(read().map((row, index) => (index === at ? { ...row, ...fields } : row)));
    }

    /** Draw all rows; `focus` is [row, class] of the control that keeps the focus. */
    function draw(focus) {
      drawn = state();
      files = new Map((parse(box("known").value) ?? []).map((file) => [file.name, file]));
      const rows = read();
      const lines = (rows ?? []).map((row, at) => drawRow(row, at, rows));
      if (!rows) lines.push(make("p", { className: "shira-error" }, UNREADABLE));
      place().replaceChildren(...lines, tools());
      if (focus) place().children[focus[0]]?.querySelector(`.${focus[1]}`)?.focus();
    }

    function tools() {
      const add = () => {
        const rows = read() ?? [];
        const sound = [...files.values()].filter((file) => !file.error).map((file) => file.name);
        const name = sound.find((each) => !rows.some((row) => row.name === each)) ?? sound[0] ?? "";
        write([...rows, { ...FIRST, name, alpha: opts.extra_networks_default_multiplier ?? 1 }]);
        draw([rows.length, "shira-file"]);
      };
      const refresh = () => part("refresh").click();
      const bar = make("div", { className: "shira-tools" });
      bar.append(button("+ Add adapter", "Add a row", "shira-add", add));
      bar.append(button("↻ Refresh", "Read the folders anew", "shira-refresh", refresh));
      if (!files.size) bar.append(make("span", {}, NO_FILES));
      return bar;
    }

    function drawRow(row, at, rows) {
      const className = row.on ? "shira-row" : "shira-row shira-off";
      const line = make("div", { className, role: "group", ariaLabel: row.name });
      const more = further(row, at);
      line.append(make("div", {}, toggle(row, at), choice(row, at, rows), ...buttons(at, rows.length)));
      line.append(make("div", {}, ...alphas(row, at), fold(row, more)), more);
      const words = files.get(row.name)?.words ?? [];
      if (words.length) line.append(make("div", { className: "shira-words" }, ...words.map(chip)));
      return line;
    }

    function toggle(row, at) {
      const onchange = (event) => {
        change(at, { on: event.target.checked });
        draw([at, "shira-on"]);
      };
      const box = { type: "checkbox", className: "shira-on", checked: row.on, onchange };
      return make("input", { ...box, label: "Use this adapter" });
    }

    /** The list of files; a row's own is marked if it is not there, broken or in two rows. */
    function choice(row, at, rows) {
      const names = files.has(row.name) ? [...files.keys()] : [row.name, ...files.keys()];
      const twice = row.on && rows.filter((each) => each.on && each.name === row.name).length > 1;
      const wrong = twice || !files.has(row.name) || files.get(row.name).error;
      const list = make("select", { className: wrong ? "shira-file shira-wrong" : "shira-file" });
      list.append(...names.map((name) => make("option", { value: name }, described(name))));
      list.onchange = () => {
        change(at, { name: list.value, hash: undefined });
        draw([at, "shira-file"]);
      };
      const title = twice ? DOUBLE : files.get(row.name)?.error ?? row.name;
      return Object.assign(list, { value: row.name, title, ariaLabel: "Adapter file" });
    }

    function described(name) {
      const file = files.get(name);
      if (!file) return name ? `${name} (not found)` : "choose a file";
      const short = name.replace(/\.shira$/, "");
      return file.error ? `${short} (cannot be used)` : `${short} (${file.architecture})`;
    }

    function buttons(at, count) {
      const move = (by, focus) => () => {
        const moved = read();
        moved.splice(at + by, 0, ...moved.splice(at, 1));
        write(moved);
        draw([at + by, focus]);
      };
      const remove = () => {
        write(read().filter((_, index) => index !== at));
        draw([Math.min(at, count - 2), "shira-remove"]);
      };
      return [
        button("▲", "Move up", "shira-up", move(-1, "shira-up"), at === 0),
        button("▼", "Move down", "shira-down", move(1, "shira-down"), at === count - 1),
        button("✕", "Remove", "shira-remove", remove),
      ];
    }

    /** A slider and a field: any number can be typed. The state follows when the slider is let go. */
    function alphas(row, at) {
      const label = "Alpha: how strongly the adapter changes the model";
      const slider = make("input", { ...SLIDER, value: row.alpha, label });
      const set = (value) => {
        change(at, { alpha: value ?? 1 });
        slider.value = field.value = value ?? 1;
      };
      const field = number(row.alpha, set, { className: "shira-number", label });
      slider.oninput = () => (field.value = slider.value);
      slider.onchange = () => set(slider.valueAsNumber);
      return [make("span", {}, "Alpha"), slider, field];
    }

    function fold(row, more) {
      const open = () => {
        more.hidden = !more.hidden;
        opened[more.hidden ? "delete" : "add"](row.name);
      };
      return button("⋯", "Text encoder, blocks, part of the run", "shira-more", open);
    }

    function further(row, at) {
      const { alpha_te, blocks, start, stop } = row;
      const usual = alpha_te === null && !blocks && start === 0 && stop === 1;
      const set = (name, usually) => (value) => change(at, { [name]: value ?? usually });
      const field = (text, control) => make("label", {}, `${text} `, control);
      const encoder = { className: "shira-te", placeholder: "alpha", label: "Alpha of the text encoders" };
      const factors = { type: "text", className: "shira-blocks", placeholder: "mid=0, in4=0.5", value: blocks };
      const span = { min: 0, max: 1, label: "When it is on: 0 is the first step, 1 the last" };
      const onchange = (event) => change(at, { blocks: event.target.value });
      const more = make(
        "div",
        { hidden: usual && !opened.has(row.name), className: "shira-further" },
        field("Text encoder", number(alpha_te, set("alpha_te", null), encoder)),
        field("Blocks", make("input", { ...factors, onchange, label: "Factors of single blocks; 0 leaves one out" })),
        make(
          "span",
          {},
          field("On from", number(start, set("start", 0), { ...span, className: "shira-start" })),
          field("to", number(stop, set("stop", 1), { ...span, className: "shira-stop" })),
        ),
      );
      return more;
    }

    function chip(word) {
      return button(word, "Add to the prompt", "shira-word", () => insert(tab, word));
    }
  }
})();
