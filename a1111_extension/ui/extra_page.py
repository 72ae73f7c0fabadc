"""The tab of cards, as the WebUI's own networks have one: previews, search, notes, metadata."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from modules import sd_models, shared, ui_extra_networks
from modules.ui_extra_networks import quote_js
from modules.ui_extra_networks_user_metadata import UserMetadataEditor

from shira_core.atomic import atomic_write
from shira_core.errors import ShiraError
from shira_core.names import label

from ..paths import LIBRARY, find, folders
from . import cards
from .cards import Card

TITLE = "SHiRA"
# How the model's class marks its architecture, and Forge its cards.
_MARKS = {"sd15": ("is_sd1", "SD1"), "sd2": ("is_sd2", "SD2"), "sdxl": ("is_sdxl", "SDXL")}


class Page(ui_extra_networks.ExtraNetworksPage):
    """Cards of all files. The host puts names and paths into HTML as they are: we escape them."""

    def __init__(self) -> None:
        super().__init__(TITLE)

    def refresh(self) -> None:
        """Forget what the host remembers of the folders."""
        self.lister.reset()

    def allowed_directories_for_previews(self) -> list[str]:
        return [str(folder) for folder in folders()]

    def list_items(self) -> Iterator[dict[str, Any]]:
        for at, name in enumerate(LIBRARY.names()):
            item = self.create_item(name.removesuffix(".shira"), at)
            if item is not None:
                yield item

    def create_item(
        self, name: str, index: int | None = None, enable_filter: bool = True
    ) -> dict[str, Any] | None:
        """Return what the host draws a card from; None for files that have none here.

        name: as in tags, the suffix may be left out.
        """
        try:
            card = cards.card(LIBRARY, find(name))
        except ShiraError as error:
            return self._broken(name, index, str(error))
        if enable_filter and shared.opts.shira_hide_others and not _fits(card.architecture):
            return None
        item = self._item(name, index, card.path) | {
            "description": self.find_description(_stem(card.path)) or _shown(_description(card)),
            "metadata": dict(card.metadata),
            "sd_version_str": f"SdVersion.{_MARKS.get(card.architecture, ('', 'Unknown'))[1]}",
        }
        item["preview"] = item["preview"] or cards.thumbnail(LIBRARY, card.name)
        item["search_terms"] += [html.escape(each) for each in (card.title, *card.words)]
        self.read_user_metadata(item)
        return item | _prompts(name, card.words, item["user_metadata"])

    def create_user_metadata_editor(self, ui: Any, tabname: str) -> Editor:
        return Editor(ui, tabname, self)

    def create_item_html(self, tabname: str, item: dict[str, Any], template: Any = None) -> Any:
        shown = item | {"filename": html.escape(item["filename"])}
        return super().create_item_html(tabname, shown, template)

    def create_tree_file_item_html(self, tabname: str, file_path: str, item: dict[str, Any]) -> Any:
        shown = item | {"name": html.escape(item["name"])}
        return super().create_tree_file_item_html(tabname, html.escape(file_path), shown)

    def create_tree_dir_item_html(self, tabname: str, dir_path: str, content: Any = None) -> Any:
        return super().create_tree_dir_item_html(tabname, html.escape(dir_path), content)

    def _item(self, name: str, index: int | None, path: Path) -> dict[str, Any]:
        stem = _stem(path)
        return {
            "name": name,
            "filename": str(path),
            "shorthash": "",  # of a large file it takes a second: the editor shows it
            "preview": self.find_preview(stem),
            "search_terms": [html.escape(self.search_terms_from_path(str(path)))],
            "local_preview": f"{stem}.preview.{shared.opts.samples_format}",
            "sort_keys": {"default": index, **self.get_sort_keys(str(path))},
        }

    def _broken(self, name: str, index: int | None, error: str) -> dict[str, Any] | None:
        """Return a card that says what is wrong with a file; its tag does so, too.

        A safetensors file that is no adapter has no card.
        """
        try:
            path = LIBRARY.resolve(find(name))
        except ShiraError:
            return None
        if path.suffix != ".shira":
            return None
        said = {"description": _shown(error.removeprefix(f"{path}: ")), "user_metadata": {}}
        return self._item(name, index, path) | said | _prompts(name, (), {})


class Editor(UserMetadataEditor):
    """The host's editor of a card, with the text and alpha that a click on it adds."""

    def create_editor(self) -> None:
        self.create_default_editor_elems()
        text = gr.Textbox(
            label="Activation text",
            info="Added to the prompt after the tag; empty: the trigger words of the file",
        )
        alpha = gr.Slider(-2, 2, 0, step=0.05, label="Preferred weight", info="0: the usual alpha")
        negative = gr.Textbox(label="Negative prompt", info="Added to the negative prompt")
        self.edit_notes = gr.TextArea(label="Notes", lines=4)
        self.create_default_buttons()
        own = [text, alpha, negative]
        shown = [self.edit_name, self.edit_description, self.html_filedata, self.html_preview]
        self.button_edit.click(
            self.put_values_into_components,
            inputs=[self.edit_name_input],
            outputs=[*shown, self.edit_notes, *own],
        ).then(lambda: gr.update(visible=True), inputs=[], outputs=[self.box])
        self.setup_save_handler(
            self.button_save, self.save, [self.edit_description, self.edit_notes, *own]
        )

    def put_values_into_components(self, name: str) -> tuple[Any, ...]:
        values = super().put_values_into_components(name)
        noted = self.get_user_metadata(name)
        text, negative = (str(noted.get(key, "")) for key in ("activation text", "negative text"))
        return (*values, text, _weight(noted), negative)

    def get_metadata_table(self, name: str) -> list[tuple[str, str]]:
        rows = [*super().get_metadata_table(name), ("SHA-256: ", _digest(name))]
        return [(key, html.escape(str(value))) for key, value in rows if value]

    def save(
        self, name: str, description: str, notes: str, text: str, alpha: float, negative: str
    ) -> None:
        """Write the file beside the adapter, in the form of the host's own networks."""
        noted = {"description": description, "notes": notes, "activation text": text}
        more = {"preferred weight": alpha, "negative text": negative}
        self.write_user_metadata(name, {**self.get_user_metadata(name), **noted, **more})

    def write_user_metadata(self, name: str, metadata: dict[str, Any]) -> None:
        path = Path(self.page.items[name]["filename"]).with_suffix(".json")
        try:
            with atomic_write(path, overwrite=True) as temporary:
                text = json.dumps(metadata, indent=4, ensure_ascii=False)
                temporary.write_text(text, encoding="utf-8")
        except ShiraError as error:
            raise gr.Error(str(error)) from error
        self.page.lister.update_file_entry(str(path))


def _prompts(name: str, words: Sequence[str], noted: dict[str, Any]) -> dict[str, str]:
    """Return JavaScript for what a click adds to the prompts."""
    start = cards.tag_of(name).rpartition(":")[0]
    weight = _weight(noted)
    alpha = quote_js(f"{weight:g}") if weight else "opts.extra_networks_default_multiplier"
    prompt = f"{quote_js(start + ':')} + {alpha} + {quote_js('>')}"
    if words and shared.opts.shira_card_words:
        prompt += " + " + quote_js(" " + ", ".join(words))
    negative = str(noted.get("negative text", ""))
    return {
        "prompt": prompt,
        "negative_prompt": quote_js(f"({negative}:1)" if negative else ""),
    }


def _weight(noted: dict[str, Any]) -> float:
    """Return the alpha that a person prefers; 0 for none."""
    value = noted.get("preferred weight", 0)
    return float(value) if isinstance(value, (int, float)) else 0.0


def _description(card: Card) -> str:
    return str(card.metadata.get("description", "") or label(card.architecture))


def _shown(description: str) -> str:
    """Return what comes from a file as text where the host shows descriptions as HTML."""
    as_html = shared.opts.extra_networks_card_description_is_html
    return html.escape(description) if as_html else description


def _fits(architecture: str) -> bool:
    """Say whether an adapter may fit the loaded model, as far as the host knows."""
    model = sd_models.model_data.sd_model  # shared.sd_model would load one
    known = {name: getattr(model, mark, False) for name, (mark, _) in _MARKS.items()}
    return architecture not in known or known[architecture] or not any(known.values())


def _digest(name: str) -> str:
    try:
        return LIBRARY.load(find(name)).digest[: cards.SHORT]
    except ShiraError:
        return ""


def _stem(path: Path) -> str:
    return os.path.splitext(path)[0]
