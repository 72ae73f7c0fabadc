"""`finetune`: turn a module's weights into a run, and give them back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import entries
from .. import masks as mask_functions
from ..errors import InvalidValue, ShapeMismatch, WeightMissing
from ..mask import Mask
from ..struct import positions_of
from . import dora as decomposition
from . import freeze, structured
from .run import Choice, Names, Run
from .select import Chosen, Layers, choose
from .site import Site
from .vector import Vector, wide

DEFAULT_DENSITY = 0.02
VALUE_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
DensityOf = Callable[[str, Tensor], "float | None"]


@contextmanager
def finetune(
    module: nn.Module,
    mask: str = "wm",
    density: float | None = None,
    *,
    rank: int | None = None,
    seed: int = 0,
    shard: int = 0,
    layers: Layers | None = None,
    names: Names = str,
    masks: Mapping[str, Mask] | None = None,
    gradients: Mapping[str, Tensor] | None = None,
    density_of: DensityOf | None = None,
    values_dtype: torch.dtype = torch.float16,
    dora: bool = False,
    keep: bool = False,
    **options: Any,
) -> Iterator[Run]:
    """Train a few entries of a module's weights in place (SHiRA, section 3).

    mask, density or rank, seed, shard, options: as in `masks.build`; 2 % unless said otherwise.
    layers: which Linear and Conv weights, see `select.choose`; all of them by default.
    names: the checkpoint's name (or names) of a weight, for the adapter.
    masks: ready masks by weight name; then exactly these weights are trained.
    gradients: by weight name, for "grad" and "snip": see `calibrate`.
    density_of: (weight name, weight) -> its own density, 0 to leave it out, None for the general.
    values_dtype: of the adapter. The weights hold round(W + round(delta)) at any time, so that the
    adapter gives the trained weights bit for bit.
    dora: train a magnitude per output channel, too, see `dora`.
    keep: leave the trained weights in the module at the end.

    Inside, everything else is frozen. At the end, also after an exception, weights (unless `keep`),
    `requires_grad`, `.grad` and hooks are as before. Move the module to its device and dtype first.
    Raises InvalidValue, ShapeMismatch, WeightMissing; then nothing was changed.
    """
    if values_dtype not in VALUE_DTYPES:
        raise InvalidValue(f"values_dtype {values_dtype} is not float16, bfloat16 or float32")
    if masks is not None:
        built, choice = dict(masks), Choice("", None, None, dora)
        chosen = _named(choose(module, layers), built, options)
    else:
        density = DEFAULT_DENSITY if density is None and rank is None else density
        common = {"seed": seed, "shard": shard, **options}
        maker = _Maker(mask, density, rank, common, gradients or {}, density_of)
        chosen, built = maker.build(choose(module, layers))
        choice = Choice(mask, None if density_of else density, seed, dora)
    vector = Vector(*_sites(chosen, built, dora), values_dtype)
    del built  # the sites have what they need, in half the memory
    with ExitStack() as stack:
        stack.enter_context(freeze.only(module, [site.weight for site in vector.sites]))
        stack.callback(vector.close, keep)
        _follow(module, vector, chosen, stack)
        _gather(vector, chosen, stack)
        yield Run(vector, names, choice)


@dataclass(frozen=True)
class _Maker:
    """Builds the mask of each weight from one set of arguments, as `finetune` names them."""

    mask: str
    density: float | None
    rank: int | None
    common: Mapping[str, Any]
    gradients: Mapping[str, Tensor]
    density_of: DensityOf | None

    def build(self, chosen: Sequence[Chosen]) -> tuple[list[Chosen], dict[str, Mask]]:
        """Return the weights that are trained, and their masks."""
        built = {each.name: mask for each in chosen if (mask := self._one(each)) is not None}
        if not built:
            raise InvalidValue("density_of= leaves no weight to train")
        return [each for each in chosen if each.name in built], built

    def _one(self, each: Chosen) -> Mask | None:
        own = self.density_of(each.name, each.weight) if self.density_of else None
        if own == 0:
            return None
        return mask_functions.build(
            self.mask,
            each.weight.detach(),
            density=self.density if own is None else own,
            rank=self.rank if own is None else None,
            layer=each.name,
            gradient=self.gradients.get(each.name),
            **self.common,
        )


def _named(
    chosen: Sequence[Chosen], masks: Mapping[str, Mask], options: Mapping[str, Any]
) -> list[Chosen]:
    """Return the weights that have a ready mask, in the module's order."""
    if options:
        raise InvalidValue(f"masks= are ready, so {min(options)!r} has no effect: leave it out")
    if not masks:
        raise InvalidValue("masks= is empty: there is nothing to train")
    by_name = {each.name: each.weight for each in chosen}
    for name, mask in masks.items():
        if name not in by_name:
            raise WeightMissing(f"masks= names {name!r}, which is no Linear or Conv weight here")
        _check_mask(name, mask, by_name[name])
    return [each for each in chosen if each.name in masks]


def _check_mask(name: str, mask: Mask, weight: Tensor) -> None:
    if tuple(weight.shape) != tuple(mask.shape):
        raise ShapeMismatch(
            f"the mask of {name} is for {tuple(mask.shape)} and the weight is "
            f"{tuple(weight.shape)}: it was built for another model"
        )
    places = mask.positions
    inside = not len(places) or (int(places[0]) >= 0 and int(places[-1]) < weight.numel())
    if places.dtype != torch.int64 or not inside or not (places.diff() > 0).all():
        raise InvalidValue(
            f"the mask of {name} is not made of positions in the weight, int64, strictly "
            "increasing: use masks.build"
        )
    if mask.struct and not places.cpu().equal(positions_of(mask.shape, mask.struct)):
        raise InvalidValue(f"the mask of {name} has other positions than its rows and columns")


def _sites(
    chosen: Sequence[Chosen], masks: Mapping[str, Mask], dora: bool
) -> tuple[list[Site], int]:
    """Lay out the flat vector: all deltas, then all magnitudes; return its length too."""
    start, sites = 0, []
    growth = sum(masks[each.name].count for each in chosen)
    for each in chosen:
        entries.check_layout(each.name, each.weight)
        mask = masks[each.name]
        mask = Mask(mask.shape, mask.positions.to(each.weight.device), mask.struct)
        site = _site(each, mask, slice(start, start + mask.count))
        start += mask.count
        if dora:
            fixed = decomposition.decompose(each.weight, mask.positions, wide(site.base))
            part = slice(growth, growth + fixed.outputs)
            site = replace(site, growth=part, fixed=fixed)
            growth += fixed.outputs
        sites.append(site)
    return sites, growth if dora else start


def _site(each: Chosen, mask: Mask, values: slice) -> Site:
    weight = each.weight
    positions = places = entries.compact(mask.positions, weight.numel())
    if not weight.is_contiguous():
        places = entries.compact(entries.places(weight, mask.positions), weight.numel())
    base = entries.read_places(weight, places)
    return Site(each.name, weight, mask.struct, positions, weight.stride(), places, base, values)


def _follow(module: nn.Module, vector: Vector, chosen: Sequence[Chosen], stack: ExitStack) -> None:
    """Let the weights follow the vector until `stack` ends."""
    handles = [
        module.register_forward_pre_hook(lambda *_: vector.follow_all(), prepend=True),
        module.register_state_dict_pre_hook(lambda *_: vector.follow_all()),
    ]
    for each in chosen:
        for layer in each.users:
            hook = layer.register_forward_pre_hook(lambda *_: vector.follow(), prepend=True)
            handles.append(hook)
    for handle in handles:
        stack.callback(handle.remove)


def _gather(vector: Vector, chosen: Sequence[Chosen], stack: ExitStack) -> None:
    """Lead the gradients of the entries to the vector until `stack` ends.

    A dense gradient is gathered from; a layer with a Struct mask forms those of its entries alone.
    """
    for each, site in zip(chosen, vector.sites, strict=True):
        _hook(each.weight, stack, _taking(vector, site, site.read))
        if site.struct is None or not site.count:
            continue
        stand_in = site.base.detach().requires_grad_()
        _hook(stand_in, stack, _taking(vector, site))
        lines = structured.lines_of(site.mask, site.struct)
        for layer in each.users:
            stack.enter_context(structured.installed(layer, stand_in, lines))


def _hook(leaf: Tensor, stack: ExitStack, hook: Callable[[Tensor], None]) -> None:
    stack.callback(leaf.register_post_accumulate_grad_hook(hook).remove)


def _taking(
    vector: Vector, site: Site, read: Callable[[Tensor], Tensor] = lambda grad: grad
) -> Callable[[Tensor], None]:
    """Return the hook that takes the entries of a leaf's gradient, and frees it at once."""

    def take(leaf: Tensor) -> None:
        grad, leaf.grad = leaf.grad, None
        if grad is not None:
            vector.gather(site, read(grad))

    return take
