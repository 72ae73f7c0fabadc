"""The page: five tabs over one desk."""

from __future__ import annotations

from typing import Any

import gradio as gr

from . import places, widgets
from .after_tab import AfterTab
from .dataset_tab import DatasetTab
from .desk import Desk
from .form import QUIET, Form
from .library_tab import LibraryTab
from .model_tab import ModelTab
from .training_tab import TrainingTab

TITLE = "SHiRA trainer"
HOUR = 3600  # seconds; uploaded files are copied, their own copies go after a day


def build(desk: Desk) -> gr.Blocks:
    """Return the page of a desk."""
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(HOUR, 24 * HOUR)
    ) as page:
        with gr.Row(elem_id="top"):
            gr.Markdown(f"# {TITLE}")
            status = widgets.markup("status")
        said = widgets.markup("said")
        form = Form(desk, said)
        data, model = DatasetTab(desk, form), ModelTab(desk, form)
        training, after, files = TrainingTab(desk, form, status), AfterTab(desk), LibraryTab(desk)
        shown = dict[str, gr.Tab]()
        for name, tab in (
            ("Dataset", data),
            ("Model & mask", model),
            ("Training", training),
            ("After training", after),
            ("Library", files),
        ):
            with gr.Tab(name) as shown[name]:
                tab.build()
        for part in (form, data, model, training, after, files):
            part.connect()
        # What was trained meanwhile is there.
        shown["After training"].select(**after.listing)
        shown["Library"].select(files.look, None, [files.cards, files.base], **QUIET)
        _open(page, desk, form, data, model, after, files)
    return page


def _open(
    page: gr.Blocks, desk: Desk, form: Form, data: Any, model: Any, after: Any, files: Any
) -> None:
    """Fill the page when a browser opens it: nothing is lost when one is closed."""

    def choices() -> Any:
        found = places.bases(desk.roots)
        return gr.update(choices=found), gr.update(choices=places.picture_folders(desk.roots))

    page.load(form.opened, None, [*form.inputs, form.said], **QUIET)
    page.load(choices, None, [model.base, data.images], **QUIET)
    page.load(**after.listing)
    page.load(files.look, None, [files.cards, files.base], **QUIET)
    page.load(lambda mask: model.explain(mask or "wm"), model.mask, model.explained, **QUIET)
