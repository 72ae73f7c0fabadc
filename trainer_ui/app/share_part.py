"""The part Share of the tab After training: a folder for a model hub, its card, the upload."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from shira_core.errors import InvalidValue, ShiraError
from shira_core.integrations import hub

from ..engine.config import read_toml
from ..engine.data import join
from . import drawing, widgets, words
from .desk import SHARED, Desk
from .drawing import GRID
from .form import QUIET
from .pushing import push

LICENCES = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "creativeml-openrail-m", "openrail++")
CARD = "README.md"


class SharePart:
    """Draws the part. chosen: the component with the adapter that is shared."""

    def __init__(self, desk: Desk, chosen: Any) -> None:
        self.desk, self.chosen = desk, chosen

    def build(self) -> None:
        """Draw the part."""
        gr.Markdown("### Share it")
        with gr.Row():
            self.licence = gr.Dropdown(
                [("as the file says", ""), *((name, name) for name in LICENCES)],
                value="",
                allow_custom_value=True,
                label="licence",
                elem_id="share-licence",
            )
            self.base = gr.Textbox(
                label="base model on the hub", placeholder="owner/name", elem_id="share-base"
            )
            self.repository = gr.Textbox(
                label="where it will be", placeholder="owner/name", elem_id="share-repository"
            )
        self.about = gr.Textbox(label="description", lines=2, elem_id="share-about")
        self.pictures = gr.Dropdown(
            [], multiselect=True, label="pictures for its page", elem_id="share-pictures"
        )
        self.make = gr.Button("Build the folder", elem_id="share-build")
        self.built = widgets.markup("share-built")
        self.command = gr.Textbox(
            label="command that uploads it",
            buttons=["copy"],
            visible=False,
            elem_id="share-command",
        )
        with gr.Row(visible=False, elem_id="share-push-row") as self.row:
            self.token = gr.Textbox(
                label="token of the hub",
                info="used for this upload alone, kept nowhere",
                type="password",
                html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
                elem_id="share-token",
            )
            self.private = gr.Checkbox(label="private", elem_id="share-private")
            self.push = gr.Button("Upload", elem_id="share-push")
        self.said = widgets.markup("share-said")

    def connect(self) -> None:
        """Connect the part."""
        self.make.click(
            words.answered(self.write),
            [self.chosen, self.licence, self.base, self.repository, self.about, self.pictures],
            [self.built, self.command, self.row],
            api_visibility="private",
        )
        self.push.click(
            words.answered(self.upload),
            [self.chosen, self.repository, self.token, self.private],
            self.said,
            api_visibility="private",
        ).then(lambda: "", None, self.token, **QUIET)

    def write(
        self,
        file: str | None,
        licence: str | None,
        base: str,
        repository: str,
        about: str,
        pictures: Sequence[str],
    ) -> Any:
        """Build the folder; show what is in it, its card, and how it is uploaded."""
        path, folder = self._places(file)
        paths = tuple(self.desk.roots.resolve(each) for each in pictures)
        told = hub.About(
            licence=(licence or "").strip(),
            base_model=base.strip(),
            description=about.strip(),
            pictures=paths,
            prompts=tuple(map(_prompt, paths)),
            repository=repository.strip(),
        )
        made = hub.build(path, folder, told, overwrite=True)
        card = (made.folder / CARD).read_text(encoding="utf-8")
        files = ", ".join(each.as_posix() for each in made.files)
        shown = [
            words.note(f"{self.desk.roots.shown(made.folder)} holds {files}.", "good"),
            *(words.note(f"left out: {line}") for line in made.left_out),
            f'<pre tabindex="0">{words.text(card)}</pre>',
        ]
        command = _command(made.folder, repository.strip() or "owner/name")
        return "".join(shown), gr.update(value=command, visible=True), gr.update(visible=True)

    def upload(
        self,
        file: str | None,
        repository: str,
        token: str,
        private: bool,
        bar: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> str:
        """Upload the folder that was built."""
        if not token.strip():
            raise InvalidValue("no token: type one that may write, or use the command")
        hub.check_repository(repository.strip())
        folder = self._places(file)[1]
        told = words.under_way(bar, "uploading", "bytes")
        address = push(folder, repository.strip(), token.strip(), private, told)
        return words.note(f"It is there: {address}", "good")

    def _places(self, file: str | None) -> tuple[Path, Path]:
        """Return the adapter, and the folder that is built of it."""
        if not file:
            raise InvalidValue("no adapter is chosen: choose one above")
        path = self.desk.roots.resolve(file)
        return path, self.desk.home / SHARED / path.stem


def _prompt(picture: Path) -> str:
    """Return what a picture was drawn of, with the run's trigger; "" where that is not known."""
    request = drawing.read(picture.with_name(GRID).with_suffix(".json"))
    if request is None:
        return ""
    prompt = next((each.prompt for each in request.cells if each.path == picture), "")
    try:
        trigger = str(read_toml(Path(request.config)).get("trigger", ""))
    except ShiraError:  # of a job that was deleted
        trigger = ""
    return join(trigger, prompt) if prompt else ""


def _command(folder: Path, repository: str) -> str:
    """Return the command that uploads a folder, with the login of this machine."""
    shira = ["shira"] if shutil.which("shira") else [sys.executable, "-m", "shira_core.cli"]
    parts = [*shira, "publish", str(folder), "--push", repository]
    return subprocess.list2cmdline(parts) if os.name == "nt" else shlex.join(parts)
