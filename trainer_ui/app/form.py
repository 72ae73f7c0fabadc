"""All settings on the page: kept as they are typed, checked, filled from presets and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ..engine import presets
from ..engine.config import REPLACES, read_toml
from . import fields, words
from .desk import Desk

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
READY = "Everything is set: Start is in the tab Training."


class Form:
    """The components of all settings; every tab draws some. `values` are theirs, by name.

    said: the component that tells what is wrong with them.
    """

    def __init__(self, desk: Desk, said: Any) -> None:
        self.desk, self.said = desk, said
        self.parts: dict[str, Any] = {}

    def add(self, name: str, **options: Any) -> Any:
        """Draw a setting here."""
        self.parts[name] = fields.component(name, **options)
        return self.parts[name]

    def add_section(self, section: type[Any]) -> None:
        """Draw what is left of a section here, folded up."""
        self.parts |= fields.section(section, self.parts)

    @property
    def inputs(self) -> list[Any]:
        """The components in the order of `values`."""
        return [self.parts[name] for name in fields.NAMES]

    def values(self, given: Sequence[Any]) -> dict[str, Any]:
        """Return the components' values by name."""
        return dict(zip(fields.NAMES, given, strict=True))

    def filled(self, values: Mapping[str, Any]) -> list[Any]:
        """Return the update of every component."""
        return [gr.update(value=values[name]) for name in fields.NAMES]

    def opened(self) -> list[Any]:
        """Return the updates of a page that was opened, and what is wrong with its settings.

        Only of components that hold something else at first: each update takes a browser time. An
        empty number is one of them: until it is told so, a browser takes it for 0.
        """
        kept = self.desk.kept()
        first = {name: self.parts[name].value for name in fields.NAMES}
        updates = [
            gr.update(value=kept[name])
            if kept[name] is None or kept[name] != first[name]
            else gr.skip()
            for name in fields.NAMES
        ]
        return [*updates, self.judged(kept)]

    def keep(self, *given: Any) -> str:
        """Keep the values and say what is wrong with them."""
        values = self.values(given)
        self.desk.draft.write(values)
        return self.judged(values)

    def judged(self, values: Mapping[str, Any]) -> str:
        """Say what is wrong with the settings, or that nothing is."""
        problem = self.desk.problem(values)
        return words.note(problem, "bad") if problem else words.note(READY, "good")

    def with_preset(self, name: str, *given: Any) -> list[Any]:
        """Return the updates for a preset over what is there."""
        return self._over(presets.read(name) if name else {}, self.values(given))

    def from_file(self, path: str, *given: Any) -> list[Any]:
        """Return the updates for a TOML file; raises ConfigInvalid."""
        found = read_toml(Path(path))
        return self._over(found, fields.form_values({"density": None}))

    def _over(self, found: Mapping[str, Any], below: Mapping[str, Any]) -> list[Any]:
        gone = {other: None for name in found for other in REPLACES.get(name, ())}
        known = {name: value for name, value in found.items() if name in fields.NAMES}
        shown = {name: fields.form_value(name, value) for name, value in {**gone, **known}.items()}
        return self.filled({**below, **shown})

    @property
    def keeping(self) -> dict[str, Any]:
        """What an event is given that changes settings: one after another, the last one counts."""
        told = {"inputs": self.inputs, "outputs": self.said, "concurrency_id": "settings"}
        return {"fn": words.answered(self.keep), **told, **QUIET}

    def connect(self) -> None:
        """Keep and check whenever a person changes a setting."""
        changed = [part.input for part in self.inputs]
        gr.on(changed, trigger_mode="always_last", **self.keeping)
