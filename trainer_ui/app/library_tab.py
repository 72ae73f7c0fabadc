"""The tab Library: all adapters, how they go together, mixing and baking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from shira_core.atomic import refuse_existing
from shira_core.errors import InvalidValue

from .. import library
from . import images, places, widgets, words
from .desk import ADAPTERS, Desk
from .form import QUIET

MODES = [
    ("sum: what a stack does", "sum"),
    ("ties: drop small and contrary changes", "ties"),
    ("mean", "mean"),
]
TWO = "choose two or more adapters: click their cards"


class LibraryTab:
    """Draws the tab."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def build(self) -> None:
        """Draw the tab."""
        with gr.Row():
            gr.Markdown("Click adapters to look at them. Several can be compared, mixed and baked.")
            self.again = gr.Button(
                "Look again", size="sm", scale=0, min_width=150, elem_id="library-again"
            )
        self.cards = widgets.cards("cards")
        self.names = gr.State([])
        self.details = widgets.markup("details")
        with gr.Accordion("Compare", open=False):
            self.compare = gr.Button("Compare the chosen ones", elem_id="compare")
            self.figures = widgets.markup("compared")
        with gr.Accordion("Mix and bake", open=False):
            with gr.Row():
                self.alphas = gr.Textbox(
                    label="alphas of the chosen ones, in their order", elem_id="mix-alphas"
                )
                self.mode = gr.Dropdown(
                    MODES, value="sum", label="mode of a mix", elem_id="mix-mode"
                )
                self.name = gr.Textbox(label="name of the new file", elem_id="mix-name")
            with gr.Row():
                self.preview = gr.Button("What would it be?", elem_id="mix-preview")
                self.mix = gr.Button("Mix", variant="primary", elem_id="mix")
            with gr.Row():
                self.base = gr.Dropdown(
                    [],
                    label="checkpoint to bake them into",
                    info="a .safetensors file; the new one is written beside it",
                    allow_custom_value=True,
                    elem_id="bake-base",
                )
                self.bake = gr.Button("Bake", elem_id="bake")
            self.said = widgets.markup("mixed")

    def connect(self) -> None:
        """Connect the tab."""
        self.again.click(self.look, None, [self.cards, self.base], **QUIET)
        self.cards.select(
            words.answered(self.choose), None, [self.names, self.details, self.alphas], **QUIET
        )
        self.compare.click(
            words.answered(self.measure),
            self.names,
            self.figures,
            api_visibility="private",
        )
        stack = [self.names, self.alphas]
        told = {"outputs": self.said, "api_visibility": "private"}
        self.preview.click(words.answered(self.tell), [*stack, self.mode], **told)
        self.mix.click(words.answered(self.write), [*stack, self.mode, self.name], **told).then(
            self.look, None, [self.cards, self.base], **QUIET
        )
        self.bake.click(words.answered(self.burn), [*stack, self.base, self.name], **told).then(
            self.look, None, [self.cards, self.base], **QUIET
        )

    def look(self) -> Any:
        """Return all adapters, and the checkpoints that they can be baked into."""
        found = library.adapters(self.desk.roots)
        files = [
            (label, path) for label, path in places.bases(self.desk.roots) if Path(path).is_file()
        ]
        return [self._card(card) for card in found], gr.update(choices=files)

    def _card(self, card: library.Card) -> dict[str, Any]:
        facts = (card.architecture, ", ".join(card.triggers), card.mask, words.size(card.size))
        preview = library.preview(card.path) is not None if not card.problem else False
        return {
            "name": self.desk.roots.shown(card.path),
            "title": card.title or card.path.stem,
            "lines": [self.desk.roots.shown(card.path), *facts],
            "src": images.address("preview", card.path) if preview else "",
            "problem": card.problem,
        }

    def choose(self, event: gr.EventData) -> Any:
        """Show the one that was chosen last."""
        names = [str(name) for name in event.names]
        shown = ""
        if names:
            path = self.desk.roots.resolve(names[-1])
            rows = ((key, _flat(value)) for key, value in library.details(path).items())
            shown = f"<h3>{words.text(path.name)}</h3>{images.link(path)}{words.table(rows)}"
        return names, shown, " ".join(["1"] * len(names))

    def measure(self, names: Sequence[str], bar: gr.Progress = gr.Progress()) -> str:  # noqa: B008
        """Compare the chosen adapters."""
        if len(names) < 2:
            raise InvalidValue(TWO)
        paths = [self.desk.roots.resolve(name) for name in names]
        found = library.compare(paths, words.under_way(bar, "comparing", "weights"))
        table = images.inline(found.picture, "interference of each pair")
        return f"<pre>{words.text(found.text)}</pre>{table}"

    def tell(self, names: Sequence[str], alphas: str, mode: str) -> str:
        """Say what a mix would be."""
        told = library.mix_preview(self._stack(names, alphas), mode)
        return f"<pre>{words.text(told)}</pre>"

    def write(self, names: Sequence[str], alphas: str, mode: str, name: str) -> str:
        """Mix the chosen adapters into a new file."""
        stack = self._stack(names, alphas)
        if len(stack) < 2:
            raise InvalidValue(TWO)
        out = self.desk.home / ADAPTERS / f"{places.file_name(name)}.shira"
        refuse_existing(out, False)
        made = library.mix(stack, out, mode, name.strip())
        return words.note(f"Mixed: {self.desk.roots.shown(made)}", "good")

    def burn(
        self,
        names: Sequence[str],
        alphas: str,
        base: str | None,
        name: str,
        bar: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> str:
        """Write a checkpoint with the chosen adapters in it, beside the base."""
        stack = self._stack(names, alphas)
        if not stack or not base:
            raise InvalidValue("choose one adapter or more, and a checkpoint to bake them into")
        checkpoint = self.desk.roots.resolve(base)
        out = checkpoint.with_name(f"{places.file_name(name)}.safetensors")
        made = library.bake(checkpoint, out, stack, words.under_way(bar, "baking", "bytes"))
        return words.note(f"Baked: {self.desk.roots.shown(made)}", "good")

    def _stack(self, names: Sequence[str], alphas: str) -> list[tuple[Path, float]]:
        try:
            numbers = [float(part) for part in alphas.replace(",", " ").split()]
        except ValueError:
            raise InvalidValue(f"alphas {alphas!r:.80}: write numbers, such as 0.8 0.5") from None
        if len(numbers) != len(names):
            raise InvalidValue(f"{len(names)} adapters and {len(numbers)} alphas: one for each")
        return [(self.desk.roots.resolve(name), a) for name, a in zip(names, numbers, strict=True)]


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
