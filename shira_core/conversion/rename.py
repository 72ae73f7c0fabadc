"""An adapter under the names that another file of the same architecture gives its weights.

Three ways to name a denoiser are known: that of original checkpoints, the same without
`model.diffusion_model.` (files of a denoiser alone), and diffusers'. All else must have the names
of the original checkpoint, or those of the adapter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from .. import keymaps
from ..adapter import Adapter
from ..check import check_fit
from ..mask import Shape
from ..names import UNET, block, component, detect
from ..translate import Source, to_checkpoint, translated
from .provenance import converted

_DIFFUSERS = ("down_blocks.", "mid_block.", "up_blocks.")


def rename(adapter: Adapter, shapes: Mapping[str, Shape], target: str) -> Adapter:
    """Return the adapter under the names of a model, in whose weights it fits.

    shapes: of the model's weights by its names. target: what the model is called.
    The base that the header names stays: it is what the adapter was trained on.
    Raises WeightMissing, ShapeMismatch.
    """
    known = {name: tuple(shape) for name, shape in shapes.items()}
    found = adapter
    if not set(adapter.weights) <= set(known):
        found = translated(original(adapter), originals(known))
    check_fit(found, known)
    changed = found is not adapter
    kind = adapter.header.architecture
    if kind == "unknown":
        kind = detect({source.name: known[name] for name, source in originals(known).items()})
    if not changed and kind == adapter.header.architecture:
        return adapter
    line = f"names of {target}" if changed else f"architecture of {target}"
    return replace(found, header=converted(adapter.header, line, architecture=kind))


def original(adapter: Adapter) -> Adapter:
    """Return the adapter under the names of the original checkpoint."""
    sources = originals(list(adapter.weights))
    if all(name == source.name for name, source in sources.items()):
        return adapter
    return to_checkpoint(adapter, sources)


def originals(names: Collection[str]) -> dict[str, Source]:
    """Return where the weights of a model lie in the original checkpoint, as names tell it."""
    if any(name.startswith(_DIFFUSERS) for name in names):
        return keymaps.unet(names, UNET)
    whole = any(name.startswith(UNET) or component(name) != "unet" for name in names)
    bare = not whole and any(map(block, names))
    return {name: Source(UNET + name if bare else name) for name in names}
