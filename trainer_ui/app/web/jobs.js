/* The queue: a row for each job, with what can be done to it. Rows and buttons stay as long as they
   belong there: one that is replaced while it is pressed is never clicked. */
const ACTS = {
  stop: ["Stop", "finish the step, keep a checkpoint and stop"],
  resume: ["Resume", "go on from the last checkpoint"],
  up: ["↑", "earlier in the queue"],
  down: ["↓", "later in the queue"],
  rename: ["Rename", "give it another name"],
  duplicate: ["Duplicate", "queue a copy of it"],
  delete: ["Delete", "forget it; what it trained stays"],
};
const shown = new Map();

function rename(parts) {
  const { job, title } = parts;
  const field = make("input", { value: job.name, ariaLabel: "new name" });
  const end = (keep) => {
    const name = field.value.trim();
    field.onblur = null;
    field.replaceWith(title);
    if (keep && name && name !== job.name) trigger("submit", { id: job.id, act: "rename", name });
  };
  field.onkeydown = (event) => {
    if (event.key !== "Enter" && event.key !== "Escape") return;
    end(event.key === "Enter");
    title.focus();
  };
  field.onblur = () => end(true);
  title.replaceWith(field);
  field.select();
}

function act(parts, name) {
  const [label, help] = ACTS[name];
  const made = button(label, help, `${parts.job.id} ${name}`, () =>
    name === "rename" ? rename(parts) : trigger("submit", { id: parts.job.id, act: name, name: "" }),
  );
  made.className = name;
  return made;
}

function row(job) {
  const title = button("", "show how far it is", `${job.id} show`, () =>
    trigger("select", { id: job.id }),
  );
  title.className = "name";
  const parts = {
    title,
    state: make("span", {}),
    detail: make("span", { className: "detail" }),
    bar: make("progress", { max: 1 }),
    acts: make("div", { className: "acts" }),
  };
  const head = make("div", {}, title, parts.state, parts.detail);
  return { ...parts, root: make("li", {}, head, parts.bar, parts.acts) };
}

function update(parts, job) {
  const same = parts.job?.acts.join() === job.acts.join();
  parts.job = job;
  parts.title.textContent = job.name;
  parts.title.ariaLabel = `show how far it is: ${job.name}`;
  parts.state.textContent = job.state;
  parts.state.className = `state ${job.state}`;
  parts.detail.textContent = job.detail;
  parts.bar.value = job.share;
  parts.bar.ariaLabel = `progress of ${job.name}`;
  parts.root.classList.toggle("shown", job.shown);
  if (!same) parts.acts.replaceChildren(...job.acts.map((name) => act(parts, name)));
  for (const each of parts.acts.children) each.ariaLabel = `${ACTS[each.className][1]}: ${job.name}`;
}

const list = make("ul", {});
const empty = make("p", { className: "shira-quiet" }, "The queue is empty. Settings above, then Start.");

drawn((value) => {
  for (const id of [...shown.keys()]) {
    if (!value.some((job) => job.id === id)) shown.delete(id);
  }
  const roots = value.map((job) => {
    if (!shown.has(job.id)) shown.set(job.id, row(job));
    update(shown.get(job.id), job);
    return shown.get(job.id).root;
  });
  arrange(list, roots);
  arrange(place, [roots.length ? list : empty]);
});
