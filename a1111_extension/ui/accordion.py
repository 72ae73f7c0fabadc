"""The accordion of a tab: rows of adapters, what they do to each other, and saved stacks.

javascript/shira.js draws the rows. Their state is one text box, so that the WebUI's defaults,
pasted infotexts and the API treat it as any other value.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from modules import shared

from shira_core.errors import ShiraError

from ..paths import LIBRARY, find
from ..tag import Tag
from . import cards, infotext, presets, readout, state

HIDDEN = ["shira-state"]  # by style.css: the page's script reads and writes it
QUIET = {"show_progress": "hidden"}


def build(is_img2img: bool) -> list[Any]:
    """Draw the accordion; return the one component whose value the script gets: the rows."""
    tab = "img2img" if is_img2img else "txt2img"
    with gr.Accordion("SHiRA", open=False, elem_id=f"shira_{tab}"):
        rows = gr.Textbox(
            state.EMPTY, label="SHiRA rows", elem_id=f"shira_{tab}_rows", elem_classes=HIDDEN
        )
        known = gr.Textbox(
            _known, label="SHiRA files", elem_id=f"shira_{tab}_known", elem_classes=HIDDEN
        )
        refresh = gr.Button("Refresh", elem_id=f"shira_{tab}_refresh", elem_classes=HIDDEN)
        gr.HTML('<div class="shira-editor"></div>', elem_id=f"shira_{tab}_editor")
        shown = gr.HTML("", elem_id=f"shira_{tab}_readout")
        _presets(tab, rows)
    for component in (known, refresh):
        component.do_not_save_to_config = True
    rows.change(_readout, inputs=[rows], outputs=[shown], **QUIET)
    refresh.click(_refreshed, inputs=[rows], outputs=[known, shown], **QUIET)
    return [rows]


def tags(values: Sequence[object]) -> list[Tag]:
    """Return the tags of the script's arguments; raises InvalidValue."""
    return state.tags(values[0] if values else None)


def paste_fields(components: Sequence[Any]) -> list[tuple[Any, Callable[[dict[str, Any]], Any]]]:
    """Return what fills the components from a pasted infotext."""
    return [(components[0], _pasted)]


def warn(_: str, params: dict[str, Any]) -> None:
    """Warn when a file of a pasted prompt is not the one that the picture was made with."""
    try:
        lines = infotext.warnings(LIBRARY, find, params)
    except ShiraError as error:
        lines = [str(error)]
    for line in lines:
        gr.Warning(f"SHiRA: {html.escape(line)}")


def _pasted(params: dict[str, Any]) -> str | None:
    try:
        return infotext.pasted(LIBRARY, find, params)
    except ShiraError as error:
        gr.Warning(f"SHiRA: {html.escape(str(error))}")
        return None


def _known() -> str:
    return json.dumps(cards.listing(LIBRARY))


def _readout(rows: str) -> str:
    return readout.show(LIBRARY, rows, shared.opts.shira_interference)


def _refreshed(rows: str) -> tuple[str, str]:
    return _known(), _readout(rows)


# ---- saved stacks ----
def _presets(tab: str, rows: Any) -> None:
    with gr.Row(elem_classes=["shira-presets"]):
        name = gr.Dropdown(
            presets.names(LIBRARY.home),
            label="Saved stack",
            allow_custom_value=True,
            elem_id=f"shira_{tab}_preset",
        )
        buttons = [
            gr.Button(text, size="sm", elem_id=f"shira_{tab}_{text.lower()}")
            for text in ("Load", "Save", "Delete")
        ]
    said = gr.HTML("", elem_id=f"shira_{tab}_said")
    for component in (name, *buttons):
        component.do_not_save_to_config = True
    for button, act in zip(buttons, (_load, _save, _delete), strict=True):
        button.click(_answered(act), inputs=[name, rows], outputs=[name, rows, said], **QUIET)


def _answered(act: Callable[[str, str], tuple[Any, Any, str]]) -> Callable[[str, str], Any]:
    """Return what a button does, with an error in the place of its answer."""

    def answer(name: str, rows: str) -> tuple[Any, Any, str]:
        try:
            chosen, changed, said = act(name, rows)
        except ShiraError as error:
            text = f'<p class="shira-error">{html.escape(str(error))}</p>'
            return gr.update(), gr.update(), text
        choice = gr.update(choices=presets.names(LIBRARY.home), value=chosen)
        return choice, changed, f"<p>{html.escape(said)}</p>"

    return answer


def _load(name: str, rows: str) -> tuple[Any, Any, str]:
    return name, presets.load(LIBRARY.home, name), f"{name} is loaded."


def _save(name: str, rows: str) -> tuple[Any, Any, str]:
    saved = presets.save(LIBRARY.home, name, rows)
    return saved, gr.update(), f"{saved} is saved."


def _delete(name: str, rows: str) -> tuple[Any, Any, str]:
    presets.delete(LIBRARY.home, name)
    return None, gr.update(), f"{name} is deleted."
