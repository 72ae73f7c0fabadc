"""Parts of the page that Gradio has no component for, drawn by scripts of our own.

Values from files reach the page as JSON and become text nodes, or are escaped by `words`: Gradio's
own templates would run what is in a file's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

WEB = Path(__file__).parent / "web"
NO_PICTURES: dict[str, Any] = {"items": [], "page": 0, "pages": 0}
FIRST_PICTURES = "first-pictures"  # route of the same, in `web/gallery.js`


def markup(elem_id: str, value: str = "", **options: Any) -> gr.HTML:
    """Return a component for HTML that we have made."""
    return _component("markup", elem_id, value, **options)


def gallery(elem_id: str) -> gr.HTML:
    """Return a page of pictures with captions to edit; it asks for the first one itself.

    Value: {"items": [{name, src, caption, size, problems}], "page", "pages"}.
    Events: submit with name and caption, select with page.
    """
    return _component("gallery", elem_id, NO_PICTURES)


def jobs(elem_id: str) -> gr.HTML:
    """Return the queue. Value: [{id, name, state, detail, share, acts, shown}].

    Events: submit with id, act and, for "rename", the name; select with id.
    """
    return _component("jobs", elem_id, [])


def cards(elem_id: str) -> gr.HTML:
    """Return files to choose from. Value: [{name, title, lines, src, problem}].

    Events: select with names, in the order in which they were chosen.
    """
    return _component("cards", elem_id, [])


def _component(script: str, elem_id: str, value: Any, **options: Any) -> gr.HTML:
    parts = [(WEB / f"{name}.js").read_text(encoding="utf-8") for name in ("common", script)]
    return gr.HTML(
        value,
        html_template=f'<div class="shira-{script}"></div>',
        js_on_load="\n".join(parts),
        elem_id=elem_id,
        elem_classes=["shira"],
        apply_default_css=False,
        **options,
    )
