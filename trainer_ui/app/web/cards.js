/* Files to choose from: a click chooses one or lets it go. */
let chosen = [];

function card(item) {
  const picture = item.src
    ? make("img", { src: item.src, alt: "", loading: "lazy" })
    : make("div", { className: "missing" }, "no preview");
  const lines = item.lines.filter(Boolean).map((line) => make("span", {}, line));
  const words = make("div", {}, make("b", {}, item.title), ...lines);
  if (item.problem) words.append(make("span", { className: "problem" }, item.problem));
  const root = button("", item.name, item.name, () => {
    chosen = chosen.includes(item.name)
      ? chosen.filter((name) => name !== item.name)
      : [...chosen, item.name];
    mark();
    trigger("select", { names: chosen });
  });
  root.append(picture, words);
  root.disabled = Boolean(item.problem);
  return root;
}

function mark() {
  for (const each of place.querySelectorAll("button")) {
    const at = chosen.indexOf(each.dataset.key);
    each.setAttribute("aria-pressed", String(at >= 0));
    each.dataset.number = at >= 0 ? at + 1 : "";
  }
}

drawn((value) => {
  chosen = chosen.filter((name) => value.some((item) => item.name === name));
  const empty = make("p", { className: "shira-quiet" }, "No .shira files in the folders yet.");
  place.replaceChildren(...(value.length ? value.map(card) : [empty]));
  mark();
});
