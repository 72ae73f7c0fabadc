/** Fuse SHiRA Stack: an editor for any number of rows. Its only state is the `rows` widget. */
import { adapterNames, onRefresh } from "./adapters.js";
import { button, make } from "./dom.js";
import { misfitsOf } from "./fits.js";
import { after, hideWidget, widen } from "./node.js";
import { addPanel } from "./panel.js";
import { added, changed, isDouble, moved, parseRows, rowsText, without } from "./rows.js";
import { HIGH, LOW, STEP } from "./slider.js";
import { say } from "./words.js";

const WIDTH = 400;

/** Put the editor in the place of the widget that holds the rows. */
export function editRows(node, widget) {
  hideWidget(node, widget);
  const editor = new RowEditor(widget);
  const draw = () => editor.draw();
  after(node, "onConfigure", draw);
  after(node, "onRemoved", onRefresh(draw));
  const used = () => (editor.rows ?? []).filter((row) => row.on).map((row) => row.name);
  const misfits = misfitsOf(node, widget, () => [...new Set(used())]);
  addPanel(node, "row_editor", make("div", {}, editor.element, misfits));
  widen(node, WIDTH);
  draw();
}

class RowEditor {
  constructor(widget) {
    this.widget = widget;
    this.element = make("div", { className: "shira-rows" });
  }

  get rows() {
    return parseRows(this.widget.value);
  }

  /** Write rows to the widget; `draw` shows them where more than one value has changed. */
  write(rows) {
    this.widget.value = rowsText(rows);
    this.widget.callback?.(this.widget.value);
  }

  change(index, fields) {
    this.write(changed(this.rows, index, fields));
  }

  /** Show the rows anew; the control that was in use at `focus` ([row, class]) gets it back. */
  draw(focus) {
    const rows = this.rows;
    const lines = (rows ?? []).map((row, index) => this.line(row, index, rows));
    if (!rows) lines.push(make("div", { className: "shira-error" }, say("unreadableRows")));
    this.element.replaceChildren(...lines, this.adder(rows ?? []));
    if (focus) this.element.children[focus[0]]?.querySelector(`.${focus[1]}`)?.focus();
  }

  adder(rows) {
    const add = () => {
      const used = new Set(rows.map((row) => row.name));
      const names = adapterNames();
      this.write(added(rows, names.find((name) => !used.has(name)) ?? names[0] ?? ""));
      this.draw([rows.length, "shira-file"]);
    };
    const adder = button(`+ ${say("addRow")}`, say("addRow"), add);
    adder.className = "shira-add";
    return adder;
  }

  line(row, index, rows) {
    const line = make(
      "div",
      { className: row.on ? "shira-row" : "shira-row shira-off", role: "group" },
      make("div", {}, this.toggle(row, index), this.file(row, index, isDouble(rows, index))),
      make("div", {}, ...this.alphas(row, index), this.blocks(row, index)),
    );
    line.firstChild.append(...this.tools(index, rows.length));
    line.ariaLabel = row.name;
    return line;
  }

  toggle(row, index) {
    const onchange = (event) => {
      this.change(index, { on: event.target.checked });
      this.draw([index, "shira-on"]);
    };
    const box = { type: "checkbox", className: "shira-on", checked: row.on, onchange };
    return make("input", { ...box, ...named("useRow") });
  }

  /** The choice of files; one that is not found or occurs twice is marked. */
  file(row, index, double) {
    const known = adapterNames();
    const found = known.includes(row.name);
    const options = (found ? known : [row.name, ...known]).map((name) => {
      const text = known.includes(name) ? name : say("missingFile", { name });
      return make("option", { value: name, selected: name === row.name }, text);
    });
    const onchange = (event) => {
      this.change(index, { name: event.target.value });
      this.draw([index, "shira-file"]);
    };
    const className = found && !double ? "shira-file" : "shira-file shira-wrong";
    const title = double ? named("doubleFile") : named("file");
    return make("select", { className, ...title, onchange }, ...options);
  }

  tools(index, count) {
    const move = (by, name) => () => {
      this.write(moved(this.rows, index, by));
      this.draw([index + by, name]);
    };
    const up = button("▲", say("moveUp"), move(-1, "shira-up"));
    const down = button("▼", say("moveDown"), move(1, "shira-down"));
    const remove = button("✕", say("removeRow"), () => {
      this.write(without(this.rows, index));
      this.draw([Math.min(index, count - 2), "shira-remove"]);
    });
    Object.assign(up, { className: "shira-up", disabled: index === 0 });
    Object.assign(down, { className: "shira-down", disabled: index === count - 1 });
    remove.className = "shira-remove";
    return [up, down, remove];
  }

  /** A slider and a number for alpha, a number for the text encoder's: any number can be typed. */
  alphas(row, index) {
    const range = { type: "range", min: LOW, max: HIGH, step: STEP, value: row.alpha };
    const slider = make("input", { ...range, className: "shira-alpha", ...named("alpha") });
    const number = numberField("alpha", "shira-number");
    const encoder = numberField("alphaTe", "shira-encoder");
    const show = () => {
      const { alpha, alpha_te } = this.rows[index];
      [slider.value, number.value, encoder.value] = [alpha, alpha, alpha_te];
    };
    const set = (name, value) => {
      if (Number.isFinite(value)) this.change(index, { [name]: value });
      show(); // what is no number is set back
    };
    slider.oninput = () => set("alpha", slider.valueAsNumber);
    number.onchange = () => set("alpha", number.valueAsNumber);
    encoder.onchange = () => set("alpha_te", encoder.valueAsNumber);
    show();
    return [slider, number, make("span", { className: "shira-dim" }, say("te")), encoder];
  }

  blocks(row, index) {
    const onchange = (event) => this.change(index, { blocks: event.target.value });
    const field = { type: "text", className: "shira-blocks", value: row.blocks, onchange };
    return make("input", { ...field, placeholder: say("blocks"), ...named("blocksHelp") });
  }
}

function named(key) {
  return { title: say(key), ariaLabel: say(key) };
}

function numberField(key, className) {
  return make("input", { type: "number", step: "any", className, ...named(key) });
}
