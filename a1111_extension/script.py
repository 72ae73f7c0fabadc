"""The script that the WebUI runs: rows of the accordion become tags of the prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from modules import extra_networks, script_callbacks, scripts

from shira_core.errors import ShiraError

from . import job, network, paths, problems, tag, ui
from .tag import Tag
from .ui import accordion, infotext, xyz


class Script(scripts.Script):
    """Always on; its arguments are the values of the accordion."""

    def title(self) -> str:
        return "SHiRA"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        components = accordion.build(is_img2img)
        self.infotext_fields = accordion.paste_fields(components)
        # Rows go along with a picture that is sent to another tab.
        self.paste_field_names = [name for _, name in self.infotext_fields]
        return components

    def before_process_batch(self, p: Any, *values: Any, **_: Any) -> None:
        """Put tags into the prompts of this batch alone, so that no infotext has them twice."""
        text = "".join(map(tag.write, _rows(p, values)))
        p.prompts[:] = [prompt + text for prompt in p.prompts]

    def process_batch(self, p: Any, *values: Any, **_: Any) -> None:
        """Put the rows into the tags of the second pass; write all files into the infotext."""
        rows = _rows(p, values)
        second = getattr(p, "hr_extra_network_data", None)
        if second is not None and rows:
            second.setdefault(tag.KIND, []).extend(map(_parameters, rows))
        names = _names(p.extra_network_data, second or {})
        for key in (infotext.ROWS, infotext.HASHES):  # jobs of one grid share their infotext
            p.extra_generation_params.pop(key, None)
        p.extra_generation_params.update(infotext.written(paths.LIBRARY, rows, names))


def register() -> None:
    """Add the extension to the WebUI; called each time that it loads its scripts."""
    paths.make_home()
    job.install()
    ui.register()
    script_callbacks.on_before_ui(network.register)


def _rows(p: Any, values: Sequence[Any]) -> list[Tag]:
    """Return the accordion's rows; none, and a note, if they cannot be read."""
    try:
        return xyz.changed(p, accordion.tags(values))
    except ShiraError as error:
        problems.note(p, error)
        return []


def _parameters(row: Tag) -> Any:
    """Return a tag as the WebUI splits those of prompts."""
    inner = tag.write(row).removeprefix(f"<{tag.KIND}:").removesuffix(">")
    return extra_networks.ExtraNetworkParams(items=inner.split(":"))


def _names(*prompts: Any) -> Iterable[str]:
    """Return the names of files in the tags of both passes, those that can be read."""
    found: dict[str, None] = {}
    for parameters in prompts:
        for each in parameters.get(tag.KIND, ()):
            try:
                found[paths.find(tag.read(each.positional, each.named).row.name)] = None
            except ShiraError:
                continue  # the job has noted it
    return found
