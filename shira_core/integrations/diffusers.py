"""Apply adapters to a diffusers pipeline in place.

    from shira_core.integrations.diffusers import load_shira

    style = load_shira(pipe, "style.shira", alpha=0.8)
    style.set_alpha(0.5)
    style.remove()          # the pipeline's weights are the base's again, bit for bit

A file with checkpoint names fits pipelines of Stable Diffusion 1.x, 2.x and XL. A file with the
names of the pipeline's own modules fits any pipeline: those of its UNet or transformer are bare, as
`finetune(pipe.transformer)` gives them, those of text encoders follow `text_encoder.`.

Adapters that change the same weights cannot each keep originals of their own: removed in another
order than loaded, they would give wrong ones back. So all adapters of one set of modules share one
stack, which pipelines that share their modules (`from_pipe`) share too.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from .. import keymaps, names
from ..adapter import Adapter
from ..alpha import Alpha
from ..errors import ArchitectureMismatch, InvalidValue
from ..file import load
from ..stack import Stack
from ..translate import Source, translated

Modules = Mapping[str, nn.Module]
_DENOISERS = ("unet", "transformer")
_TEXT_ENCODERS = {"text_encoder": "te1", "text_encoder_2": "te2", "text_encoder_3": "te3"}


def load_shira(pipe: Any, adapter: str | Path | Adapter, alpha: Alpha | float = 1.0) -> Loaded:
    """Add an adapter to a pipeline's denoiser and text encoders, in place, all or nothing.

    pipe: any pipeline with a `unet` or `transformer`. Load adapters before
    `enable_sequential_cpu_offload()`; moving the pipeline later is fine.
    adapter: a `.shira` file or an open adapter. alpha: a number or an Alpha.
    Raises ArchitectureMismatch, WeightMissing, ShapeMismatch, FileInvalid and InvalidValue.
    """
    modules = _modules(pipe)
    opened = adapter if isinstance(adapter, Adapter) else load(adapter)
    weights = {part: _weights(module) for part, module in modules.items()}
    fitting = translated(opened, _sources(opened, weights))
    shared = _shared(modules, _joined(weights))
    loaded = Loaded(shared, fitting)
    shared.change({**shared.alphas, loaded: alpha})
    return loaded


class Loaded:
    """Handle of one adapter on a pipeline; also a context manager that removes it."""

    def __init__(self, shared: _Shared, adapter: Adapter) -> None:
        self._shared, self.adapter = shared, adapter

    def set_alpha(self, alpha: Alpha | float) -> None:
        """Change the strength; raises InvalidValue and then changes nothing."""
        if self not in self._shared.alphas:
            raise InvalidValue("the adapter was removed from the pipeline: load it again")
        self._shared.change({**self._shared.alphas, self: alpha})

    def remove(self) -> None:
        """Take the adapter out of the pipeline, bit for bit. A second call does nothing."""
        rest = {loaded: a for loaded, a in self._shared.alphas.items() if loaded is not self}
        if len(rest) < len(self._shared.alphas):
            self._shared.change(rest)

    def __enter__(self) -> Loaded:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


class _Shared:
    """The one stack of a set of modules, and what is loaded into it."""

    def __init__(self, modules: Modules, target: Mapping[str, Tensor]) -> None:
        self._modules = _references(modules)
        self._target, self._stack = target, Stack(target)
        self.alphas: dict[Loaded, Alpha | float] = {}

    def change(self, alphas: dict[Loaded, Alpha | float]) -> None:
        """Apply exactly these adapters; on any error everything is as before."""
        alive = {part: module for part, ref in self._modules.items() if (module := ref())}
        if not self._is_of(_joined({part: _weights(module) for part, module in alive.items()})):
            raise InvalidValue(
                "the pipeline's weights were replaced while an adapter was loaded (as "
                "load_state_dict(assign=True) does): load the base again, and remove adapters first"
            )
        self._stack.set([(loaded.adapter, alpha) for loaded, alpha in alphas.items()])
        self.alphas = alphas

    def serves(self, modules: Modules) -> bool:
        """Tell whether these are exactly its modules."""
        return self._modules == _references(modules)

    def _is_of(self, weights: Mapping[str, Tensor]) -> bool:
        return all(weights.get(name, own) is own for name, own in self._target.items())


_STACKS: weakref.WeakKeyDictionary[nn.Module, _Shared] = weakref.WeakKeyDictionary()


def _shared(modules: Modules, target: Mapping[str, Tensor]) -> _Shared:
    """Return the stack of these modules; raises InvalidValue when they are not all of one stack."""
    active = {s for module in modules.values() if (s := _STACKS.get(module)) and s.alphas}
    if not all(shared.serves(modules) for shared in active):
        raise InvalidValue(
            "the pipeline shares only some of its modules with the one that an adapter was loaded "
            "into: remove that adapter first"
        )
    if active:
        return active.pop()
    shared = _Shared(modules, target)
    _STACKS.update(dict.fromkeys(modules.values(), shared))
    return shared


def _references(modules: Modules) -> dict[str, weakref.ref[nn.Module]]:
    return {part: weakref.ref(module) for part, module in modules.items()}


def _modules(pipe: Any) -> dict[str, nn.Module]:
    """Return the pipeline's modules that an adapter can change, as they are without compilation."""
    found = {part: getattr(pipe, part, None) for part in (*_DENOISERS, *_TEXT_ENCODERS)}
    modules = {
        part: getattr(module, "_orig_mod", module)
        for part, module in found.items()
        if isinstance(module, nn.Module)
    }
    denoisers = [modules[part] for part in _DENOISERS if part in modules]
    if not denoisers:
        raise InvalidValue(
            f"{type(pipe).__name__} has no UNet and no transformer: load the adapter into a "
            "pipeline that has one"
        )
    processors = getattr(denoisers[0], "attn_processors", {})
    if any("Fused" in type(processor).__name__ for processor in processors.values()):
        raise InvalidValue(
            "the pipeline computes with fused copies of the weights that adapters change: call "
            "unfuse_qkv_projections() first"
        )
    return modules


def _sources(adapter: Adapter, weights: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Source]:
    """Return where each weight of the pipeline lies in the adapter's file.

    Raises ArchitectureMismatch when its names are neither the pipeline's own nor those of a
    checkpoint of the pipeline's architecture.
    """
    own = {
        f"{part}.{name}": Source(name if part in _DENOISERS else f"{part}.{name}")
        for part, named in weights.items()
        for name in named
    }
    if any(source.name in adapter.weights for source in own.values()):
        return own
    unet = weights.get("unet", {})
    architecture = keymaps.architecture({name: tuple(w.shape) for name, w in unet.items()})
    _check_architecture(adapter, architecture)
    components = {**dict.fromkeys(_DENOISERS, "unet"), **_TEXT_ENCODERS}
    return _joined(
        {
            part: keymaps.sources(architecture, components[part], named)
            for part, named in weights.items()
        }
    )


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters by the names that they have without PEFT's wrappers."""
    named = dict(module.named_parameters())
    if any(weight.is_meta for weight in named.values()):
        raise InvalidValue(
            "the pipeline's weights are offloaded one by one: load and change adapters before "
            "enable_sequential_cpu_offload()"
        )
    return {name.replace(".base_layer.", "."): weight for name, weight in named.items()}


def _joined(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return one mapping of e.g. unet.conv_in.weight."""
    return {f"{part}.{name}": value for part, own in parts.items() for name, value in own.items()}


def _check_architecture(adapter: Adapter, architecture: str) -> None:
    said = adapter.header.architecture
    if said in names.LABELS and said != architecture:
        raise ArchitectureMismatch(
            f"{adapter.path or 'the adapter'} was trained for {names.label(said)} and the pipeline "
            f"is {names.label(architecture)}: load it into a pipeline of its own architecture"
        )
