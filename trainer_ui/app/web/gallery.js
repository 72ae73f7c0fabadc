/* Pictures with their captions. A caption that is being written is never replaced. */
const shown = new Map();

function card(item) {
  const text = make("textarea", { value: item.caption, rows: 3, ariaLabel: `caption of ${item.name}` });
  text.dataset.key = item.name;
  const parts = {
    text,
    saved: item.caption,
    figure: make("figcaption", {}),
    problems: make("ul", {}),
  };
  text.onchange = () => {
    if (text.value === parts.saved) return;
    parts.saved = text.value;
    trigger("submit", { name: item.name, caption: text.value });
  };
  const picture = item.src
    ? make("img", { src: item.src, alt: item.name, loading: "lazy" })
    : make("div", { className: "missing" }, "no picture");
  parts.root = make("figure", {}, picture, parts.figure, parts.problems, text);
  return parts;
}

function update(parts, item) {
  parts.figure.replaceChildren(make("b", {}, item.name), make("span", {}, item.size));
  parts.problems.replaceChildren(...item.problems.map((line) => make("li", {}, line)));
  parts.root.classList.toggle("bad", item.problems.length > 0);
  if (document.activeElement !== parts.text && parts.text.value === parts.saved) {
    parts.text.value = parts.saved = item.caption;
  }
}

/* The same buttons as long as the page lives: one that is replaced while it is pressed is never
   clicked. */
const pager = make("nav", {});
const turn = (by) => () => trigger("select", { page: props.value.page + by });
const before = button("‹ before", "the pages before", "before", turn(-1));
const after = button("next ›", "the next page", "next", turn(1));
const where = make("span", {});
pager.append(before, where, after);
const grid = make("div", { className: "grid" });

function count(page, pages) {
  where.textContent = `page ${page + 1} of ${pages}`;
  before.disabled = page <= 0;
  after.disabled = page >= pages - 1;
  pager.style.display = pages < 2 ? "none" : "";
}

function draw(value) {
  const { items, page, pages } = value;
  for (const name of [...shown.keys()]) {
    if (!items.some((item) => item.name === name)) shown.delete(name);
  }
  const roots = items.map((item) => {
    if (shown.get(item.name)?.src !== item.src) {
      shown.set(item.name, { ...card(item), src: item.src });
    }
    const parts = shown.get(item.name);
    update(parts, item);
    return parts.root;
  });
  arrange(grid, roots);
  count(page, pages);
  arrange(place, [pager, grid]);
}

drawn(draw);

/* The first pictures do not wait for the rest of the page; what it tells itself is newer. */
async function begin() {
  const answer = await fetch("first-pictures");
  const found = answer.ok ? await answer.json() : props.value;
  if (props.value.items.length === 0) draw(found);
}

if (props.value.items.length === 0) begin().catch(() => {});
