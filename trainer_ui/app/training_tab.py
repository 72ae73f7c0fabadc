"""The tab Training: presets, the rest of the settings, the queue, and how far a job is."""

from __future__ import annotations

from typing import Any

import gradio as gr

from shira_core.atomic import atomic_write, refuse_existing

from ..engine import checkpoint, presets
from ..engine.config import dump
from ..engine.config.output import OutputSettings
from ..engine.config.training import TrainingSettings
from ..engine.errors import ConfigInvalid
from . import images, queue, running, widgets, words
from .desk import STATE, Desk
from .form import QUIET, Form

REFRESH = 2  # seconds
SMOOTHING = 0.9


class TrainingTab:
    """Draws the tab. `status`: the line above all tabs that tells what trains."""

    def __init__(self, desk: Desk, form: Form, status: Any) -> None:
        self.desk, self.form, self.status = desk, form, status

    def build(self) -> None:
        """Draw the tab."""
        with gr.Row():
            names = [("—", ""), *((f"{n}: {presets.purpose(n)}", n) for n in presets.names())]
            self.preset = gr.Dropdown(
                names,
                value="",
                label="begin with a preset",
                scale=4,
                min_width=280,
                elem_id="preset",
            )
            self.load = gr.UploadButton(
                "Load settings",
                file_types=[".toml"],
                size="sm",
                scale=0,
                min_width=150,
                elem_id="load-toml",
            )
            self.save = gr.Button(
                "Save settings", size="sm", scale=0, min_width=150, elem_id="save-toml"
            )
        self.saved = widgets.markup("saved-toml-link")
        with gr.Row():
            self.form.add("out", scale=2)
            for name in ("steps", "lr", "batch_size"):
                self.form.add(name, scale=1, min_width=120)
        with gr.Row():
            self.form.add("sample_prompts", scale=3)
            self.form.add("sample_alphas", scale=1, min_width=120)
            self.form.add("sample_every", scale=1, min_width=120)
            self.form.add("save_every", scale=1, min_width=120)
        self.form.add_section(TrainingSettings)
        self.form.add_section(OutputSettings)
        self.start = gr.Button("Start", variant="primary", elem_id="start")
        gr.Markdown("### Queue")
        self.jobs = widgets.jobs("jobs")
        self._running()

    def _running(self) -> None:
        self.wanted = gr.State(None)
        self.seen = gr.State("")
        self.head = widgets.markup("job-head")
        self.chart = widgets.markup("chart")
        self.smoothing = gr.Slider(
            0, 0.99, SMOOTHING, step=0.01, label="smoothing", elem_id="smoothing"
        )
        self.samples = widgets.markup("samples")
        with gr.Accordion("Log", open=False):
            self.log = widgets.markup("log")

    def connect(self) -> None:
        """Connect the tab, when all settings are on the page."""
        form = self.form
        filled = form.inputs
        self.preset.input(
            words.answered(form.with_preset), [self.preset, *filled], filled, **QUIET
        ).then(**form.keeping)
        self.load.upload(
            words.answered(form.from_file), [self.load, *filled], filled, **QUIET
        ).then(**form.keeping)
        self.save.click(words.answered(self.write_toml), filled, self.saved, **QUIET)
        look = {"fn": self.look, "inputs": [self.wanted, self.seen, self.smoothing], **QUIET}
        look["outputs"] = [
            *(self.status, self.jobs, self.head, self.chart, self.samples, self.log, self.seen)
        ]
        self.start.click(
            words.answered(self.add), filled, [self.wanted, self.seen], **QUIET
        ).success(**look)
        self.jobs.submit(
            words.answered(self.act),
            None,
            [self.wanted, self.seen],
            trigger_mode="multiple",
            **QUIET,
        ).then(**look)
        self.jobs.select(self.choose, None, [self.wanted, self.seen], **QUIET).then(**look)
        self.smoothing.release(lambda: "", None, self.seen, **QUIET).then(**look)
        gr.Timer(REFRESH).tick(**look)

    def add(self, *given: Any) -> tuple[int, str]:
        """Put a job with the page's settings into the queue."""
        config = self.desk.config(self.form.values(given))
        refuse_existing(config.out, False)
        if checkpoint.exists(config.run_folder):
            raise ConfigInvalid(
                f"out: {config.run_folder} holds an unfinished run: resume its job, or choose "
                "another name"
            )
        config.out.parent.mkdir(parents=True, exist_ok=True)
        return self.desk.store.add(config.out.stem, dump(config)).id, ""

    def act(self, event: gr.EventData) -> tuple[Any, str]:
        """Do what a button of the queue says."""
        queue.act(self.desk, int(event.id), str(event.act), str(event.name))
        return gr.skip(), ""

    def choose(self, event: gr.EventData) -> tuple[int, str]:
        """Look at another job."""
        return int(event.id), ""

    def write_toml(self, *given: Any) -> str:
        """Write the page's settings into a file, and give a link to it."""
        config = self.desk.config(self.form.values(given))
        path = self.desk.home / STATE / f"{config.out.stem}.toml"
        with atomic_write(path, overwrite=True) as target:
            target.write_text(dump(config), encoding="utf-8")
        return images.link(path)

    def look(self, wanted: int | None, seen: str, smoothing: float) -> Any:
        """Return what is shown of the queue and a job; nothing where nothing is new."""
        jobs = self.desk.store.all()
        job = self.desk.current(wanted)
        rows = queue.rows(jobs, job)
        new = repr((rows, running.stamp(job)))
        if new == seen:
            return [gr.skip()] * 7
        shown = running.look(job, smoothing)
        status = running.status(jobs)
        return status, rows, shown.head, shown.chart, shown.samples, shown.log, new
