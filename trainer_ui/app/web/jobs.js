/* The queue: a row for each job, with what can be done to it. */
const ACTS = {
  stop: ["Stop", "finish the step, keep a checkpoint and stop"],
  resume: ["Resume", "go on from the last checkpoint"],
  up: ["↑", "earlier in the queue"],
  down: ["↓", "later in the queue"],
  rename: ["Rename", "give it another name"],
  duplicate: ["Duplicate", "queue a copy of it"],
  delete: ["Delete", "forget it; what it trained stays"],
};

function rename(job, title) {
  const field = make("input", { value: job.name, ariaLabel: "new name" });
  const end = (keep) => {
    const name = field.value.trim();
    field.onblur = null;
    field.replaceWith(title);
    if (keep && name && name !== job.name) trigger("submit", { id: job.id, act: "rename", name });
  };
  field.onkeydown = (event) => {
    if (event.key === "Enter") end(true);
    if (event.key === "Escape") end(false);
  };
  field.onblur = () => end(true);
  title.replaceWith(field);
  field.select();
}

function row(job) {
  const title = button(job.name, "show how far it is", `${job.id} show`, () =>
    trigger("select", { id: job.id }),
  );
  title.className = "name";
  const acts = job.acts.map((act) => {
    const [label, help] = ACTS[act];
    const made = button(label, `${help}: ${job.name}`, `${job.id} ${act}`, () =>
      act === "rename" ? rename(job, title) : trigger("submit", { id: job.id, act, name: "" }),
    );
    made.className = act;
    return made;
  });
  const bar = make("progress", { max: 1, value: job.share, ariaLabel: `progress of ${job.name}` });
  const detail = make("span", { className: "detail" }, job.detail);
  const state = make("span", { className: `state ${job.state}` }, job.state);
  const root = make("li", {}, make("div", {}, title, state, detail), bar, make("div", { className: "acts" }, ...acts));
  root.classList.toggle("shown", job.shown);
  return root;
}

drawn((value) => {
  if (place.querySelector("input")) return; // a name is being typed
  const rows = value.map(row);
  const empty = make("p", { className: "shira-quiet" }, "The queue is empty. Settings above, then Start.");
  place.replaceChildren(rows.length ? make("ul", {}, ...rows) : empty);
});
