"""The tab Dataset: pictures and captions."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import gradio as gr

from shira_core.atomic import refuse_existing
from shira_core.errors import InvalidValue, ShiraError

from .. import pictures
from ..engine.config.data import DataSettings
from ..engine.errors import ConfigInvalid
from ..pictures import captioners
from . import images, places, widgets, words
from .desk import DATASETS, Desk
from .form import QUIET, Form

PAGE = 24
PROBLEMS = [
    ("all pictures", ""),
    ("unreadable", "unreadable"),
    ("too small", "tiny"),
    ("duplicates", "duplicate"),
    ("no caption", "no caption"),
    ("caption unreadable", "caption unreadable"),
]
CAPTIONS = (".txt", ".caption", ".jsonl")
SIZED = ("resolution", "buckets", "bucket_min", "bucket_max", "enlarge")  # what buckets depend on
SHOWN_CHANGES, SHOWN_TAGS = 20, 60
READING = "The captions are being read; pages, figures and problems follow."


class DatasetTab:
    """Draws the tab; `desk` and `form` are what its handlers work with."""

    def __init__(self, desk: Desk, form: Form) -> None:
        self.desk, self.form = desk, form

    def build(self) -> None:
        """Draw the tab."""
        with gr.Row():
            self.images = self.form.parts["images"] = places.dropdown(
                "images", scale=3, min_width=280
            )
            self.form.add("trigger", scale=2)
            self.form.add("resolution", scale=1, min_width=140)
        self._upload()
        self.facts = widgets.markup("facts")
        self.problem = gr.Radio(PROBLEMS, value="", label="show", elem_id="problem-filter")
        self.page = gr.State(("", "", 0))  # of which folder, of which problem
        self.stamp = gr.State("")
        self.gallery = widgets.gallery("gallery")
        self.saved = widgets.markup("caption-saved")
        self._bulk()
        with gr.Accordion("Sizes that are trained (buckets)", open=False):
            self.buckets = widgets.markup("buckets")
        self.form.add_section(DataSettings)

    def _upload(self) -> None:
        with gr.Accordion("Upload pictures into a new folder", open=False), gr.Row():
            self.name = gr.Textbox(label="name of the folder", elem_id="upload-name")
            self.upload = gr.UploadButton(
                "Choose pictures and captions",
                file_count="multiple",
                file_types=[*images.KINDS, *images.OTHERS, *CAPTIONS],
                elem_id="upload",
            )

    def _bulk(self) -> None:
        with gr.Accordion("Change many captions", open=False):
            with gr.Row():
                self.words = gr.Textbox(
                    label="words to put before every caption", elem_id="prepend-words"
                )
                self.show_before = gr.Button("Look at it", elem_id="prepend")
            with gr.Row():
                self.old = gr.Textbox(label="search", elem_id="search-old")
                self.new = gr.Textbox(label="replace with", elem_id="search-new")
                self.show_replace = gr.Button("Look at it", elem_id="replace")
            with gr.Row(visible=bool(captioners.names())):
                self.program = gr.Dropdown(
                    captioners.names(), label="caption those without by", elem_id="captioner"
                )
                self.show_captions = gr.Button("Look at it", elem_id="caption")
            self.edit = gr.State(None)
            self.preview = widgets.markup("edit-preview")
            with gr.Row():
                self.apply = gr.Button(
                    "Change them", variant="primary", interactive=False, elem_id="apply-edit"
                )
                self.undo = gr.Button("Undo the last change", elem_id="undo-edit")
            self.tags = widgets.markup("tags")

    def connect(self) -> None:
        """Connect the tab, when all settings are on the page."""
        images, parts = self.images, self.form.parts
        look: dict[str, Any] = {"fn": words.answered(self.look), **QUIET}
        look["inputs"] = [
            *(images, self.problem, self.page, self.stamp, parts["base"]),
            *(parts[name] for name in SIZED),
        ]
        look["outputs"] = self.shown
        self.problem.change(**look)
        glance = {**look, "fn": words.answered(self.glance)}
        images.change(**glance).then(words.answered(self.begin), images, **QUIET).then(**look)
        self.gallery.select(self.turn, [images, self.problem], self.page, **QUIET).then(**look)
        gr.Timer(2).tick(**look)
        self.gallery.submit(
            words.answered(self.write), images, self.saved, trigger_mode="multiple", **QUIET
        )
        edits = [self.edit, self.preview, self.apply]
        self.show_before.click(words.answered(self.prepend), [images, self.words], edits, **QUIET)
        self.show_replace.click(
            words.answered(self.replace), [images, self.old, self.new], edits, **QUIET
        )
        self.show_captions.click(
            words.answered(self.caption), [images, self.program], edits, api_visibility="private"
        )
        done = [*edits, self.stamp]
        seen = {"show_progress_on": self.preview, "api_visibility": "private"}
        self.apply.click(words.answered(self.make_edit), [images, self.edit], done, **seen)
        self.undo.click(words.answered(self.undo_edit), images, done, **seen)
        self.upload.upload(
            words.answered(self.take), [self.name, self.upload], self.images, **QUIET
        )

    def folder(self, path: str) -> pictures.Folder:
        """Return the folder of the page; raises InvalidValue where none is chosen."""
        if not path:
            raise InvalidValue("no folder of pictures is chosen: choose one")
        return self.desk.folders.open(self.desk.place("images", path), self.desk.roots)

    @property
    def shown(self) -> list[Any]:
        """The components that `look` fills."""
        return [self.gallery, self.facts, self.buckets, self.tags, self.stamp]

    def glance(self, path: str, *rest: Any) -> Any:
        """Return what can be shown at once, of a folder that is not open yet.

        rest: what else `look` takes.
        """
        with suppress(ShiraError):  # `look` says it
            if path and not self.desk.folders.has(self.desk.place("images", path)):
                base, *sized = rest[-len(SIZED) - 1 :]
                values = {"images": path, "base": base, **dict(zip(SIZED, sized, strict=True))}
                return first(self.desk, values), words.note(READING), "", "", ""
        return self.look(path, *rest)

    def begin(self, path: str) -> None:
        """List a folder that is shown anew, for what other programs have put there."""
        with suppress(ShiraError):  # `look` says it
            if path:
                known = self.desk.folders.has(self.desk.place("images", path))
                folder = self.folder(path)
                if known:
                    folder.again()

    def look(
        self,
        path: str,
        problem: str,
        turned: tuple[str, str, int],
        stamp: str,
        base: str,
        *sized: Any,
    ) -> Any:
        """Return what is shown of the folder; nothing where nothing is new."""
        if not path:
            return _nothing("")
        try:
            folder, wrong = self.folder(path), ""
        except ShiraError as error:
            return _nothing(words.note(error, "bad"))
        try:
            folder.rule = self.desk.rule(base, dict(zip(SIZED, sized, strict=True)))
        except ConfigInvalid as error:
            wrong = words.note(error, "bad")
        page = turned[2] if turned[:2] == (path, problem) else 0
        new = repr((path, page, problem, folder.stamp, wrong))
        if new == stamp:
            return [gr.skip()] * 5
        facts = folder.statistics()
        count = facts.problems.get(problem, 0) if problem else len(folder)
        shown = _page(folder, count, page, problem)
        sizes = wrong or _buckets(folder.buckets())
        return shown, _facts(facts), sizes, _tags(folder.tags()), new

    def turn(self, path: str, problem: str, event: gr.EventData) -> tuple[str, str, int]:
        """Go to another page of what is shown."""
        return path, problem, max(0, int(event.page))

    def write(self, path: str, event: gr.EventData) -> str:
        """Write the caption that was changed on the page."""
        self.folder(path).write(str(event.name), str(event.caption))
        return words.note(f"The caption of {event.name} is saved.", "good")

    def prepend(self, path: str, text: str) -> Any:
        """Show what putting words before all captions would change."""
        if not text.strip():
            raise InvalidValue("there are no words to put before the captions: type them")
        return _previewed(self.folder(path).prepend(text.strip()))

    def replace(self, path: str, old: str, new: str) -> Any:
        """Show what a replacement would change."""
        if not old:
            raise InvalidValue("there is nothing to search for: type it")
        return _previewed(self.folder(path).replace(old, new))

    def caption(
        self,
        path: str,
        program: str | None,
        bar: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Any:
        """Show the captions that an installed program would write."""
        write = captioners.captioner(program or "")
        told = words.under_way(bar, "captioning", "pictures")
        found = self.folder(path).captioned(write, told)
        return _previewed(found)

    def make_edit(
        self,
        path: str,
        edit: pictures.Edit | None,
        bar: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Any:
        """Make the change that is shown."""
        folder = self.folder(path)
        told = words.under_way(bar, "writing", "captions")
        count = folder.apply(edit, told) if edit else 0
        return _edited(f"{count} captions are changed.")

    def undo_edit(self, path: str, bar: gr.Progress = gr.Progress()) -> Any:  # noqa: B008
        """Take the last change back."""
        count = self.folder(path).undo(words.under_way(bar, "writing", "captions"))
        return _edited(f"{count} captions are as before.")

    def take(self, name: str, files: list[str]) -> Any:
        """Put uploaded files into a new folder."""
        folder = self.desk.place("images", self.desk.home / DATASETS / places.file_name(name))
        refuse_existing(folder, False)
        taken = [name for name, count in Counter(Path(f).name for f in files).items() if count > 1]
        if taken:
            raise InvalidValue(f"two of the files are called {taken[0]}: give one another name")
        unfinished = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)  # of an upload that broke off
        unfinished.mkdir(parents=True)
        for file in map(Path, files):
            shutil.copyfile(file, unfinished / file.name)
        unfinished.rename(folder)
        return gr.update(value=str(folder), choices=places.picture_folders(self.desk.roots))


def first(desk: Desk, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first pictures of a folder for the gallery, at once.

    values: of the page's settings. Raises DataInvalid, ConfigInvalid, InvalidValue.
    """
    path = desk.place("images", values["images"])
    rule = desk.rule(values["base"], {name: values[name] for name in SIZED})
    if desk.folders.has(path):
        folder = desk.folders.open(path, desk.roots)
        return _page(folder, len(folder))
    with closing(pictures.Folder(path, rule, desk.roots.resolve, most=PAGE)) as folder:
        return _page(folder, len(folder))


def kept(desk: Desk) -> dict[str, Any]:
    """Return the first pictures of what was on the page last, for the gallery.

    It asks for them itself: so they are there before the settings are.
    """
    values = desk.kept()
    with suppress(ShiraError):  # `look` says it
        if values["images"]:
            return first(desk, values)
    return widgets.NO_PICTURES


def _page(folder: pictures.Folder, count: int, page: int = 0, problem: str = "") -> dict[str, Any]:
    """Return a page of pictures for the gallery. count: how many there are on all pages."""
    pages = -(-count // PAGE)
    page = min(page, max(0, pages - 1))  # captions may have been written since
    items = [_item(item) for item in folder.items(page, PAGE, problem)]
    return {"items": items, "page": page, "pages": pages}


def _nothing(said: str) -> Any:
    """Return what is shown where there are no pictures."""
    return widgets.NO_PICTURES, said, "", "", ""


def _item(item: pictures.Item) -> dict[str, Any]:
    size = f"{item.size[0]}x{item.size[1]}" if item.size else ""
    readable = not any(line.startswith("unreadable") for line in item.problems)
    return {
        "name": item.name,
        "src": images.address("picture", item.path, small=1) if readable else "",
        "caption": item.caption or "",
        "size": size,
        "problems": list(item.problems),
    }


def _facts(facts: pictures.Statistics) -> str:
    tiles: list[tuple[str, object]] = [
        ("pictures", facts.pictures),
        ("with caption", facts.captioned),
        ("tags", facts.tags),
        *((name, count) for name, count in facts.problems.items() if count),
    ]
    if facts.looked < facts.pictures:
        tiles.append(("looked at so far", facts.looked))
    return words.figures(tiles) + "".join(map(words.note, facts.notes))


def _buckets(found: dict[tuple[int, int] | None, int]) -> str:
    return words.table(
        (f"{size[0]}x{size[1]}" if size else "too small, not trained", f"{n} pictures")
        for size, n in found.items()
    )


def _tags(found: list[tuple[str, int]]) -> str:
    shown = "".join(
        f"<li>{words.text(tag)} <b>{count}</b></li>" for tag, count in found[:SHOWN_TAGS]
    )
    return f'<ul class="shira-tags">{shown}</ul>'


def _previewed(edit: pictures.Edit) -> Any:
    rows = "".join(
        f"<tr><th>{words.text(c.name)}</th><td>{words.text(c.before or '')}</td>"
        f"<td>{words.text(c.after)}</td></tr>"
        for c in edit.changes[:SHOWN_CHANGES]
    )
    more = len(edit.changes) - SHOWN_CHANGES
    last = words.note(f"and {more} more") if more > 0 else ""
    head = words.note(f"{edit.about}: {len(edit.changes)} captions would change")
    body = f'{head}<table class="shira-table">{rows}</table>{last}'
    return edit, body, gr.update(interactive=bool(edit.changes))


def _edited(said: str) -> Any:
    return None, words.note(said, "good"), gr.update(interactive=False), ""
