"""The tab Model & mask: what is trained, and which of its entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from shira_core.errors import ShiraError

from .. import models
from ..engine.config import DEFAULT_DENSITY
from ..engine.config.adapter import AdapterSettings
from ..engine.config.model import ModelSettings
from . import measured, places, widgets, words
from .desk import Desk
from .form import QUIET, Form

LOWEST, HIGHEST = 0.1, 20.0  # percent of the slider; any share can be typed
# What the figures depend on.
PLANNED = (
    *("base", "mask", "density", "rank", "block_density", "axis", "diagonal", "layers", "dora"),
    *("steps", "batch_size", "accumulate", "resolution", "optimizer", "ema", "dtype"),
    *("weights", "precision", "gradient_checkpointing", "sample_count"),
)


class ModelTab:
    """Draws the tab."""

    def __init__(self, desk: Desk, form: Form) -> None:
        self.desk, self.form = desk, form

    def build(self) -> None:
        """Draw the tab."""
        with gr.Row():
            self.base = self.form.parts["base"] = places.dropdown("base", scale=4)
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
                self.picture = gr.Image(
                    show_label=False,
                    interactive=False,
                    buttons=[],
                    height=300,
                    elem_id="mask-picture",
                )
        self.plan = widgets.markup("plan")
        self.form.add_section(AdapterSettings)
        self.form.add_section(ModelSettings)

    def connect(self) -> None:
        """Connect the tab, when all settings are on the page."""
        seen = [self.base, self.layer, self.mask, self.density]
        draw = {"inputs": seen, "outputs": self.picture, "trigger_mode": "always_last", **QUIET}
        self.base.change(self.look, self.base, [self.found, self.layer], **QUIET).then(
            self.draw, **{k: v for k, v in draw.items() if k != "trigger_mode"}
        )
        self.mask.change(self.explain, self.mask, self.explained, **QUIET)
        self.slider.release(lambda percent: percent / 100, self.slider, self.density, **QUIET).then(
            words.answered(self.form.keep), self.form.inputs, self.form.said, **QUIET
        )
        self.density.change(_percent, self.density, self.slider, **QUIET)
        for part in (self.layer, self.mask, self.density):
            part.change(self.draw, **draw)
        self.again.click(
            lambda: gr.update(choices=places.bases(self.desk.roots)), None, self.base, **QUIET
        )

        gr.on(
            [self.form.parts[name].change for name in PLANNED],
            self.tell,
            self.form.inputs,
            self.plan,
            trigger_mode="always_last",
            **QUIET,
        )

    def look(self, base: str) -> tuple[str, Any]:
        """Say what a base is, and list its layers."""
        if not base:
            return words.note(
                "Choose a checkpoint or a diffusers folder, or type its path."
            ), gr.skip()
        try:
            path = self.desk.place("base", base)
            found = next((b for b in models.bases(self.desk.roots) if b.path == path), None)
            names = models.layers(path)
        except ShiraError as error:
            return words.note(error, "bad"), gr.update(choices=[], value=None)
        kind = f"{found.architecture}, {words.size(found.size)}" if found else "it can be trained"
        middle = next((name for name in names if "attn1.to_q" in name), names[0] if names else None)
        return words.note(f"{path.name}: {kind}", "good"), gr.update(choices=names, value=middle)

    def explain(self, mask: str) -> str:
        """Say in plain words how a mask chooses."""
        return words.note(models.MASKS.get(mask, ""))

    def draw(self, base: str, layer: str | None, mask: str, density: float | None) -> Any:
        """Draw the mask on a layer; no picture while something is missing."""
        if not base or not layer:
            return None
        try:
            path = self.desk.place("base", base)
            return models.mask_picture(path, layer, mask, density or DEFAULT_DENSITY)
        except ShiraError:
            return None

    def tell(self, *given: Any) -> str:
        """Return the run in figures, or nothing while it cannot be planned."""
        values = self.form.values(given)
        if not values["base"]:
            return ""
        try:
            config = self.desk.config({**values, **_stand_ins(values)})
            plan = models.plan(config, measured.seconds_per_step(self.desk.store, config))
        except ShiraError as error:
            return words.note(error, "bad")
        share = plan.entries / max(1, plan.positions)
        time = "after its first steps" if plan.seconds is None else words.duration(plan.seconds)
        return words.figures(
            [
                ("trained entries", f"{plan.entries:,}"),
                ("of their weights", f"{share:.2%}"),
                ("file", words.size(plan.file_bytes)),
                ("GPU memory to have free", words.size(plan.memory)),
                (f"time for {plan.steps} steps", time),
            ]
        )


def _percent(density: float | None) -> Any:
    """Return where the slider belongs; a share that it has not leaves it where it is."""
    percent = 100 * (density or DEFAULT_DENSITY)
    return percent if LOWEST <= percent <= HIGHEST else gr.skip()


def _stand_ins(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings that a plan does not look at, where they are still empty."""
    folder = str(Path(values["base"]).parent)
    empty = {"images": folder, "out": "adapter"}
    return {name: value for name, value in empty.items() if not values[name]}
