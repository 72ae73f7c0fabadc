"""Add a stack to ComfyUI's models and text encoders; say in words how it is applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from shira_core.errors import InvalidValue
from shira_core.keymaps import comfy
from shira_core.names import component
from shira_core.plan import Entry
from shira_core.share import Share

from .inject import Record, Window, install, record_of, why_patches, without_ours
from .patch import ShiraPatch, last, shares

Names = Mapping[str, tuple[str, Sequence[Entry]]]


def to_model(model: Any, stack: Sequence[Entry]) -> Any:
    """Return a clone of a model with a stack; raises WeightMissing, ShapeMismatch, InvalidValue."""
    return _added(model, shares(model_names(model.model, stack)))


def to_clip(clip: Any, stack: Sequence[Entry]) -> Any:
    """Return a clone of a text encoder with a stack; raises as `to_model` does."""
    wanted = shares(clip_names(clip.patcher.model, stack))
    result = clip.clone()
    if wanted:
        _put(result.patcher, wanted)
    return result


def scheduled(model: Any, stack: Sequence[Entry], start: float, end: float) -> Any:
    """Return a clone of a model that has a stack from `start` to `end` (0..1) of each run."""
    _refuse_vae(stack)
    shapes = _shapes(model.model)
    windows = [Window(entry, comfy.denoiser(entry.adapter, shapes), start, end) for entry in stack]
    result = model.clone()
    known = record_of(result) or Record(without_ours(result), result.patches_uuid)
    install(result, replace(known, windows=(*known.windows, *windows)))
    return result


def model_names(module: Any, stack: Sequence[Entry]) -> Names:
    """Return, by the name in ComfyUI's model, the name in the adapters and those that have it."""
    _refuse_vae(stack)
    shapes = _shapes(module)
    found: dict[str, tuple[str, list[Entry]]] = {}
    for entry in stack:
        for key, name in comfy.denoiser(entry.adapter, shapes).items():
            found.setdefault(key, (name, []))[1].append(entry)
    return found


def clip_names(module: Any, stack: Sequence[Entry]) -> Names:
    """The same for a text encoder, whose entries have translated adapters."""
    _refuse_vae(stack)
    shapes = _shapes(module)
    found: dict[str, tuple[str, list[Entry]]] = {}
    for entry in stack:
        part = comfy.encoders(entry.adapter, shapes)
        for key in part.weights:
            found.setdefault(key, (key, []))[1].append(replace(entry, adapter=part))
    return found


def _shapes(module: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _refuse_vae(stack: Sequence[Entry]) -> None:
    for adapter in (entry.adapter for entry in stack):
        if any(component(name) == "vae" for name in adapter.weights):
            raise InvalidValue(
                f"{adapter.path or adapter.header.title} changes the VAE, which ComfyUI cannot "
                "patch: bake it into a checkpoint with SHiRA Bake"
            )


def way(model: Any, stack: Sequence[Entry], encoder: Any) -> str:
    """Say how a model's stack will be applied, and why.

    encoder: the text encoder, or None. Raises InvalidValue if nothing of the stack is applied.
    """
    reason = why_patches(model)
    text = f"by weight patches: {reason}" if reason else "in place, during sampling only"
    places = [{component(name) for name in entry.adapter.weights} for entry in stack]
    if encoder is not None or not any(place - {"unet"} for place in places):
        return text
    if not any("unet" in place for place in places):
        raise InvalidValue("the adapter changes the text encoder alone: connect clip")
    return f"{text}; not to the text encoder: clip is not connected"


def _added(model: Any, wanted: Mapping[str, Share]) -> Any:
    result = model.clone()
    if not wanted:
        return result
    known, before = record_of(result), without_ours(result)
    _put(result, wanted)
    windows = known.windows if known else ()
    install(result, Record(before, result.patches_uuid, windows))
    return result


def _put(patcher: Any, wanted: Mapping[str, Share]) -> None:
    """Add shares to a patcher; two of ours in a row are joined, so that they are rounded once."""
    joined = {key: _joined(patcher.patches.get(key, ()), share) for key, share in wanted.items()}
    for key in joined:
        if last(patcher.patches.get(key, ())):
            patcher.patches[key] = patcher.patches[key][:-1]
    changes = {key: ShiraPatch(set(joined), (share,)) for key, share in joined.items()}
    patcher.add_patches(changes)


def _joined(patches: Sequence[Any], share: Share) -> Share:
    before = last(patches)
    return Share(share.name, (*before.entries, *share.entries)) if before else share
