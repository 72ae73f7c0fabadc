"""The tab After training: compare what a run kept, choose one, finish it, hand it to a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from shira_core.errors import InvalidValue
from shira_core.file import load

from .. import library
from ..jobs import progress
from ..jobs.store import settings_of
from . import drawing, images, places, widgets, words
from .desk import Desk
from .drawing import GRID, Request
from .form import QUIET
from .share_part import SharePart
from .studio import DRAWING, Studio

REFRESH = 2
MOST_CELLS = 120
USUAL = "a cat\na house"


class AfterTab:
    """Draws the tab."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.studio = desk, Studio()

    def build(self) -> None:
        """Draw the tab."""
        with gr.Row():
            self.job = gr.Dropdown(
                [],
                label="job",
                info="trainings of the queue that have written an adapter",
                scale=4,
                min_width=280,
                elem_id="after-job",
            )
            self.again = gr.Button(
                "Look again", size="sm", scale=0, min_width=150, elem_id="after-again"
            )
        gr.Markdown("### Compare")
        with gr.Row():
            self.kept = gr.CheckboxGroup([], label="adapters of this run", elem_id="kept")
            self.alphas = gr.Textbox("0.6 1", label="alphas", elem_id="after-alphas")
            self.prompts = gr.Textbox(
                label="prompts, one in each line; the trigger is put before each",
                lines=3,
                elem_id="after-prompts",
            )
        self.draw = gr.Button("Draw", variant="primary", elem_id="after-draw")
        self.grid = widgets.markup("after-grid")
        gr.Markdown("### Choose one and finish it")
        with gr.Row():
            self.chosen = gr.Dropdown([], label="adapter", elem_id="chosen")
            self.title = gr.Textbox(label="title", elem_id="finish-title")
            self.triggers = gr.Textbox(
                label="trigger words, with commas between", elem_id="finish-triggers"
            )
            self.picture = gr.Dropdown(
                [("as it is", "")], value="", label="preview picture", elem_id="finish-picture"
            )
        self.finish = gr.Button("Write into the file", elem_id="finish")
        with gr.Row():
            self.folder = gr.Dropdown([], label="folder of a host", elem_id="host-folder")
            self.copy = gr.Button("Copy into the host's folder", elem_id="copy")
        self.said = widgets.markup("after-said")
        self.share = SharePart(self.desk, self.chosen)
        self.share.build()

    def connect(self) -> None:
        """Connect the tab."""
        asked, told, newest = gr.State(None), gr.State(""), gr.State(None)
        listed = [self.job, newest]
        self.listing = {"fn": self.jobs, "inputs": listed, "outputs": listed, **QUIET}
        about = [self.title, self.triggers, told]
        look: dict[str, Any] = {"fn": words.answered(self.look), **QUIET}
        look |= {"inputs": [self.job, told]}
        look |= {"outputs": [self.kept, self.folder, self.chosen, *about]}
        self.again.click(**self.listing).then(**look)
        self.job.change(**look)
        self.job.change(words.answered(self.ask), [self.job, asked], [self.prompts, asked], **QUIET)
        self.draw.click(
            words.answered(self.start),
            [self.job, self.kept, self.alphas, self.prompts],
            self.grid,
            **QUIET,
        )
        seen = gr.State("")
        shown = [self.grid, self.picture, self.share.pictures, seen]
        gr.Timer(REFRESH).tick(self.watch, [self.job, seen], shown, **QUIET)
        self.chosen.change(words.answered(self.read), [self.chosen, told], about, **QUIET)
        self.finish.click(
            words.answered(self.write),
            [self.chosen, self.title, self.triggers, self.picture],
            self.said,
            **QUIET,
        )
        self.copy.click(
            words.answered(self.hand_on), [self.chosen, self.folder], self.said, **QUIET
        )
        self.share.connect()

    def jobs(self, chosen: int | None, newest: int | None) -> Any:
        """Return the jobs that have kept something, the last one first, and its id.

        The last one is chosen when it is new; then the choice is the user's.
        """
        found = [job for job in self.desk.store.all() if progress(job).checkpoints]
        found.sort(key=lambda job: -(job.started or 0))
        choices = [(f"{job.name} ({job.state})", job.id) for job in found]
        ids = [job.id for job in found]
        last = next(iter(ids), None)
        keeps = chosen in ids and last == newest
        return gr.update(choices=choices, value=chosen if keeps else last), last

    def look(self, id: int | None, told: str) -> Any:
        """Return what a job has kept, where it can be copied to, and what the last one says."""
        if id is None:
            none = gr.update(choices=[], value=None)
            return none, gr.skip(), none, *self.read(None, told)
        job = self.desk.store.get(id)
        files = [(f"{k.path.stem} (step {k.step})", str(k.path)) for k in progress(job).checkpoints]
        last = files[-1][1] if files else None
        hosts = places.host_folders(self.desk.roots)
        return (
            gr.update(choices=files, value=[path for _, path in files]),
            gr.update(choices=hosts, value=hosts[0][1] if hosts else None),
            gr.update(choices=files, value=last),
            *self.read(last, told),
        )

    def ask(self, id: int | None, asked: int | None) -> Any:
        """Return the prompts of a job; those of the job that was asked last stay as typed."""
        if id is None or id == asked:
            return gr.skip(), gr.skip()
        return "\n".join(settings_of(self.desk.store.get(id).toml).sample_prompts) or USUAL, id

    def start(self, id: int | None, files: list[str], alphas: str, prompts: str) -> str:
        """Draw the grid in a process of its own."""
        if id is None or not files:
            raise InvalidValue("no adapter is chosen: choose a job and some of its adapters")
        job = self.desk.store.get(id)
        lines = tuple(line.strip() for line in prompts.splitlines() if line.strip())
        numbers = _numbers(alphas)
        cells = len(lines) * len(numbers) * len(files)
        if not 0 < cells <= MOST_CELLS:
            raise InvalidValue(f"{cells} pictures: choose prompts and alphas for 1 to {MOST_CELLS}")
        paths = tuple(str(self.desk.roots.resolve(file)) for file in files)
        out = job.run_folder / GRID
        request = Request(str(job.config), paths, numbers, lines, str(out))
        self.studio.start(request, job, self.desk.store.all())
        return words.note(DRAWING)

    def watch(self, id: int | None, seen: str) -> Any:
        """Show a job's grid when it is there, also one that was drawn long ago."""
        job = next((job for job in self.desk.store.all() if job.id == id), None)
        if job is None:
            return [gr.skip()] * 4
        out = job.run_folder / GRID
        note = self.studio.note(out)
        address = images.address("picture", out) if out.is_file() else ""
        samples = progress(job).samples
        new = repr((id, note, address, len(samples)))
        if new == seen:
            return [gr.skip()] * 4
        request = drawing.read(out.with_suffix(".json"))
        cells = [(c.about, str(c.path)) for c in request.cells] if request and address else []
        more = [(f"samples of step {each.step}", str(each.path)) for each in samples]
        return (
            _shown(note, address),
            gr.update(choices=[("as it is", ""), *cells]),
            gr.update(choices=[*cells, *more]),
            new,
        )

    def read(self, file: str | None, told: str) -> Any:
        """Return what a file says now; what is typed about the file that was told last stays."""
        if not file:
            return "", "", ""
        if file == told:
            return [gr.skip()] * 3
        header = load(self.desk.roots.resolve(file)).header
        return header.title, ", ".join(header.triggers), file

    def write(self, file: str | None, title: str, triggers: str, picture: str) -> str:
        """Write title, trigger words and preview into a file."""
        path = self._chosen(file)
        words_ = tuple(word.strip() for word in triggers.split(",") if word.strip())
        preview = Image.open(self.desk.roots.resolve(picture)) if picture else None
        library.finish(path, words_, preview, title.strip())
        link = images.link(path)
        return words.note(f"{path.name} is written.", "good") + f"<p>{link}</p>"

    def hand_on(self, file: str | None, folder: str | None) -> str:
        """Copy a file into a host's folder."""
        if not folder:
            raise InvalidValue(
                "there is no folder of a host: start the trainer with --root and the host's "
                "models folder"
            )
        copied = library.copy(self._chosen(file), self.desk.roots.resolve(folder))
        return words.note(f"Copied: {self.desk.roots.shown(copied)}", "good")

    def _chosen(self, file: str | None) -> Path:
        if not file:
            raise InvalidValue("no adapter is chosen: choose one")
        return self.desk.roots.resolve(file)


def _shown(note: str, address: str) -> str:
    """Return a grid, or what is said instead."""
    if note or not address:
        return words.note(note, "" if note == DRAWING else "bad")
    return f'<img class="shira-grid" alt="compared pictures" src="{words.text(address)}">'


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise InvalidValue(f"alphas {text!r:.80}: write numbers, such as 0.5 1") from None
