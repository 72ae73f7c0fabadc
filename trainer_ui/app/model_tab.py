"""The tab Model & mask: what is trained, and which of its entries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from shira_core.errors import ShiraError

from .. import models
from ..engine import dry_run
from ..engine.config import DEFAULT_DENSITY, Config
from ..engine.config.adapter import AdapterSettings
from ..engine.config.model import ModelSettings
from . import fields, images, measured, places, widgets, words
from .desk import Desk
from .form import QUIET, Form

LOWEST, HIGHEST = 0.1, 20.0  # percent of the slider; any share can be typed
# What the counts depend on, what the mask's picture does, and what memory and time do.
COUNTED = (
    *("base", "mask", "density", "rank", "block_density", "axis", "diagonal", "layers", "dtype"),
    *("shard", "text_lr"),
)
DRAWN = ("mask", "density", "rank", "block_density", "axis", "diagonal", "shard", "seed")
PLANNED = (
    *(*COUNTED, "images", "trigger", "resolution", "buckets", "bucket_min", "bucket_max"),
    *("enlarge", "class_images", "class_prompt", "steps", "batch_size", "accumulate"),
    *("optimizer", "ema", "dora", "weights", "precision", "gradient_checkpointing"),
    *("channels_last", "sample_count", "device"),
)
COUNTS = "counts"  # one after another, or an older answer might come last
NO_BASE = (
    "Choose a checkpoint or a diffusers folder. It has to lie in a folder that this page may use: "
    "the one of a WebUI or ComfyUI is added with --root when the trainer is started."
)
WAITING = words.note("Memory and time are being computed...")
TIMING = words.note(
    "Some steps are trained on noise, and nothing of them is kept. It takes as long as loading the "
    "base and up to a minute; without a GPU it may take longer."
)


class ModelTab:
    """Draws the tab."""

    def __init__(self, desk: Desk, form: Form) -> None:
        self.desk, self.form = desk, form

    def build(self) -> None:
        """Draw the tab."""
        with gr.Row():
            self.base = self.form.parts["base"] = places.dropdown("base", scale=4, min_width=280)
            self.again = gr.Button(
                "Look again", size="sm", scale=0, min_width=150, elem_id="bases-again"
            )
        self.found = widgets.markup("base-found")
        with gr.Row():
            with gr.Column(min_width=300):
                self.mask = self.form.add("mask")
                self.explained = widgets.markup("mask-explained")
                self.slider = gr.Slider(
                    LOWEST, HIGHEST, value=2.0, step=0.1, label="density in %", elem_id="density"
                )
                self.density = self.form.add("density")
            with gr.Column(min_width=300):
                self.layer = gr.Dropdown(
                    [],
                    label="look at a layer",
                    info="its mask: rows are outputs, columns inputs, dark entries are trained",
                    allow_custom_value=True,
                    elem_id="layer",
                )
                self.picture = widgets.markup("mask-picture")
        with gr.Row():
            with gr.Column(min_width=300):
                self.counts = widgets.markup("counts")
            with gr.Column(min_width=300):
                self.plan = widgets.markup("plan")
                self.time = gr.Button("Time some steps", size="sm", elem_id="time-steps")
                self.timing = widgets.markup("timing")
        self.form.add_section(AdapterSettings)
        self.form.add_section(ModelSettings)

    def connect(self) -> None:
        """Connect the tab, when all settings are on the page."""
        form = self.form
        draw = {"fn": self.draw, "inputs": [self.layer, *form.inputs], "outputs": self.picture}
        draw = {**draw, "trigger_mode": "always_last", **QUIET}
        self.base.change(self.look, self.base, [self.found, self.layer], **QUIET)
        self.mask.change(self.explain, self.mask, self.explained, **QUIET)
        self.slider.input(
            self.count_at,
            [self.slider, *form.inputs],
            self.counts,
            trigger_mode="always_last",
            concurrency_id=COUNTS,
            **QUIET,
        )
        self.slider.release(lambda percent: percent / 100, self.slider, self.density, **QUIET).then(
            **form.keeping
        )
        self.density.change(_percent, self.density, self.slider, **QUIET)
        gr.on([self.layer.change, *(form.parts[name].change for name in DRAWN)], **draw)
        self.again.click(
            lambda: gr.update(choices=places.bases(self.desk.roots)), None, self.base, **QUIET
        )
        self.time.click(
            self.time_steps, form.inputs, self.timing, concurrency_limit=None, **QUIET
        ).then(self.tell, form.inputs, self.plan, **QUIET)
        for names, tell, shown, line in (
            (COUNTED, self.count, self.counts, COUNTS),
            (PLANNED, self.tell, self.plan, None),
        ):
            gr.on(
                [form.parts[name].change for name in names],
                tell,
                form.inputs,
                shown,
                trigger_mode="always_last",
                concurrency_id=line,
                **QUIET,
            )

    def look(self, base: str) -> Iterator[tuple[str, Any]]:
        """Say what a base is, and list its layers."""
        if not base:
            yield words.note(NO_BASE), gr.skip()
            return
        try:
            path = self.desk.place("base", base)
            if found := models.base(path):
                told = f"{path.name}: {found.architecture}, {words.size(found.size)}"
                yield words.note(told, "good"), gr.skip()
            names = [weight.shown for weight in self.desk.weights(path)]
        except ShiraError as error:
            yield words.note(error, "bad"), gr.update(choices=[], value="")
            return
        middle = next((name for name in names if "attn1.to_q" in name), names[0] if names else None)
        yield gr.skip(), gr.update(choices=names, value=middle)

    def explain(self, mask: str) -> str:
        """Say in plain words how a mask chooses."""
        return words.note(models.MASKS.get(mask, ""))

    def draw(self, layer: str | None, *given: Any) -> str:
        """Draw the mask on a layer; no picture while something is missing."""
        try:
            config = self._config(given)
            named = {weight.shown: weight for weight in self.desk.weights(config.base)}
            if layer not in named:
                return ""
            drawn = models.mask_picture(config, named[layer])
            return images.inline(drawn, f"the mask {config.mask} on {layer}")
        except ShiraError:
            return ""

    def count(self, *given: Any) -> str:
        """Return what would be trained in figures, or why it cannot be told."""
        if not self.form.values(given)["base"]:
            return ""
        try:
            config = self._config(given)
            found = models.trainable(config, self.desk.weights(config.base, config.layers))
        except ShiraError as error:
            return words.note(error, "bad")
        return words.figures(
            [
                ("trained entries", f"{found.entries:,}"),
                ("of their weights", f"{found.entries / max(1, found.positions):.2%}"),
                ("file", words.size(found.file_bytes)),
            ]
        )

    def count_at(self, percent: float, *given: Any) -> str:
        """Return the same for the slider, while it is moved."""
        values = {**self.form.values(given), "density": percent / 100}
        return self.count(*(values[name] for name in fields.NAMES))

    def tell(self, *given: Any) -> Iterator[str]:
        """Return what a run takes, as `shira train --dry-run` tells it; takes seconds."""
        values = self.form.values(given)
        try:
            config = self._config(given)
        except ShiraError:  # `count` says it
            yield ""
            return
        yield WAITING
        try:
            yield self._needs(config, bool(values["images"]))
        except ShiraError as error:
            yield words.note(words.problem(error), "bad")

    def time_steps(self, *given: Any) -> Iterator[str]:
        """Train some steps on noise for their time, which `tell` tells then."""
        try:
            config = self._config(given)
            yield TIMING
            measured.time(self.desk, config)
            yield ""
        except ShiraError as error:
            yield words.note(words.problem(error), "bad")

    def _needs(self, config: Config, pictures: bool) -> str:
        each = measured.seconds_per_step(self.desk, config)
        time = "not timed yet" if each is None else words.duration(each * config.steps)
        figures = [(f"time for {config.steps:,} steps", time)]
        if pictures:
            plan = self.desk.aside.call(dry_run.look, config)
            needed = plan.memory.needed
            figures.append(("each picture is seen", f"{plan.epochs:.1f} times"))
        else:
            needed = self.desk.aside.call(models.memory, config)
        return words.figures([("GPU memory to have free", words.size(needed)), *figures])

    def _config(self, given: Sequence[Any]) -> Config:
        """Return the page's settings, with stand-ins for those that its figures do not need."""
        values = self.form.values(given)
        stand_ins = {"images": values["base"] or ".", "out": "adapter"}
        missing = {name: each for name, each in stand_ins.items() if not values[name]}
        return self.desk.config({**values, **missing})


def _percent(density: float | None) -> Any:
    """Return where the slider belongs; a share that it has not leaves it where it is."""
    percent = 100 * (density or DEFAULT_DENSITY)
    return percent if LOWEST <= percent <= HIGHEST else gr.skip()
