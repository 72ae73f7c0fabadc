"""Every setting of the engine as a component of the page, made from the settings' own model."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

import gradio as gr
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..engine.config import Config

CALLS = ("resume", "overwrite")  # belong to a call, not to the settings of a run
NAMES = tuple(name for name in Config.model_fields if name not in CALLS)
SWITCH = (("yes", "true"), ("no", "false"))  # of settings that are yes, no, or the default


def component(name: str, **options: Any) -> Any:
    """Return the component of a setting; empty stands for the default, which it shows."""
    field = Config.model_fields[name]
    kind = plain(field.annotation)
    shared = {
        "label": name.replace("_", " "),
        "info": field.description,
        "elem_id": f"set-{name}",
        "interactive": True,
        **options,
    }
    if kind is bool and field.default is not None:
        return gr.Checkbox(field.default, **shared)
    if chosen := choices(name):
        return gr.Dropdown(chosen, value=field.default or "", **shared)
    if kind in (int, float):
        return gr.Number(field.default, placeholder=_default(field), **shared)
    lines = {"lines": 2} if name == "sample_prompts" else {}
    return gr.Textbox(
        form_value(name, field.get_default()), placeholder=_default(field), **lines, **shared
    )


def choices(name: str) -> list[tuple[str, str]]:
    """Return what a setting can be, as shown and as it is; nothing where it is typed."""
    field = Config.model_fields[name]
    kind = plain(field.annotation)
    default = [("default", "")] if field.default is None else []
    if typing.get_origin(kind) is Literal:
        return [*default, *((each, each) for each in typing.get_args(kind))]
    return [*default, *SWITCH] if kind is bool and default else []


def section(part: type[BaseModel], taken: Mapping[str, Any]) -> dict[str, Any]:
    """Draw the settings of a section that are not on the page yet."""
    names = [n for n in part.model_fields if n not in taken and n not in CALLS]
    with gr.Accordion(title(part), open=False), gr.Row():
        return {name: component(name, min_width=260) for name in names}


def title(part: type[BaseModel]) -> str:
    """Return the words of a section."""
    return str(part.__doc__).strip().splitlines()[0].rstrip(".")


def settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the engine reads of the components' values.

    Those left empty or at their defaults are left out, since others may replace these.
    """
    read = {name: _setting(name, value) for name, value in values.items()}
    fields = Config.model_fields
    return {n: v for n, v in read.items() if v is not None and v != fields[n].default}


def form_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of each component, settings that are not given at their defaults."""
    fields = Config.model_fields
    return {
        name: form_value(name, given[name] if name in given else _start(fields[name]))
        for name in NAMES
    }


def form_value(name: str, value: Any) -> Any:
    """Return a setting as its component holds it."""
    field = Config.model_fields[name]
    kind = plain(field.annotation)
    if typing.get_origin(kind) is tuple:
        return "\n".join(
            f"{each:g}" if isinstance(each, float) else str(each) for each in value or ()
        )
    if kind in (int, float) or (isinstance(value, bool) and field.default is not None):
        return value
    return "" if value is None else str(value).lower() if kind is bool else str(value)


def kept_values(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of components that were kept, without those that are none any more."""
    return {n: v for n, v in kept.items() if n in NAMES and _fits(n, v)}


def _fits(name: str, value: Any) -> bool:
    """Tell whether a component can hold a value: another version may have kept it."""
    field = Config.model_fields[name]
    kind = plain(field.annotation)
    if chosen := choices(name):
        return value in [each for _, each in chosen]
    if kind in (int, float):
        return value is None or type(value) in (int, float)
    return isinstance(value, bool if kind is bool else str)


def plain(annotation: Any) -> Any:
    """Return T for `T | None`."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    return annotation


def _setting(name: str, value: Any) -> Any:
    """Return a component's value as the engine reads it, None where it is empty."""
    kind = plain(Config.model_fields[name].annotation)
    if typing.get_origin(kind) is tuple:
        return _lines(str(value or ""), name == "sample_prompts") or None
    if isinstance(value, str):
        return value.strip() or None
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _lines(text: str, sentences: bool) -> tuple[str, ...]:
    """Return the lines of a text, or its words."""
    parts = text.splitlines() if sentences else text.replace(",", " ").split()
    return tuple(part.strip() for part in parts if part.strip())


def _start(field: FieldInfo) -> Any:
    return None if field.is_required() else field.default


def _default(field: FieldInfo) -> str:
    if field.is_required() or field.default in (None, "", ()):
        return ""
    return json.dumps(field.default)
