"""`finetune`: turn a module's weights into a run, and give them back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .. import masks as mask_functions
from ..errors import InvalidValue, ShapeMismatch, WeightMissing
from ..mask import Mask
from . import dora as decomposition
from .. import entries
from .run import Choice, Names, Run
from .select import Chosen, Layers, choose
from .site import Site, wide

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
        chosen = _named(choose(module, layers), masks)
        built, choice = dict(masks), Choice("", None, None, dora)
    else:
        density = DEFAULT_DENSITY if density is None and rank is None else density
        maker = _Maker(mask, density, rank, seed, shard, gradients or {}, density_of, options)
        chosen, built = maker.build(choose(module, layers))
        choice = Choice(mask, None if density_of else density, seed, dora)
    sites, size = _sites(chosen, built, dora)
    run = Run(sites, size, values_dtype, names, choice)
    with ExitStack() as stack:
        _freeze(module, {id(site.weight) for site in sites}, stack)
        stack.callback(run._close, keep)
        _connect(module, run, chosen, sites, stack)
        yield run


class _Maker:
    """Builds the mask of each weight from one set of arguments."""

    def __init__(
        self,
        mask: str,
        density: float | None,
        rank: int | None,
        seed: int,
        shard: int,
        gradients: Mapping[str, Tensor],
        density_of: DensityOf | None,
        options: Mapping[str, Any],
    ) -> None:
        self.mask, self.density, self.rank = mask, density, rank
        self.common = {"seed": seed, "shard": shard, **options}
        self.gradients, self.density_of = gradients, density_of

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


def _named(chosen: Sequence[Chosen], masks: Mapping[str, Mask]) -> list[Chosen]:
    """Return the weights that have a ready mask, in the module's order."""
    by_name = {each.name: each for each in chosen}
    for name, mask in masks.items():
        if name not in by_name:
            raise WeightMissing(f"masks= names {name!r}, which is no Linear or Conv weight here")
        if tuple(by_name[name].weight.shape) != tuple(mask.shape):
            raise ShapeMismatch(
                f"the mask of {name} is for {tuple(mask.shape)} and the weight is "
                f"{tuple(by_name[name].weight.shape)}: it was built for another model"
            )
    if not masks:
        raise InvalidValue("masks= is empty: there is nothing to train")
    return [each for each in chosen if each.name in masks]


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
        base = entries.read(each.weight, mask.positions)
        site = Site(each.name, each.weight, mask, base, slice(start, start + mask.count))
        start += mask.count
        if dora:
            fixed = decomposition.decompose(each.weight, mask.positions, wide(base))
            part = slice(growth, growth + fixed.outputs)
            site = Site(each.name, each.weight, mask, base, site.values, part, fixed)
            growth += fixed.outputs
        sites.append(site)
    return sites, growth if dora else start


def _freeze(module: nn.Module, trained: set[int], stack: ExitStack) -> None:
    """Let only the trained weights have gradients; `stack` gives everything back."""
    before = [(each, each.requires_grad, each.grad) for each in module.parameters()]

    def give_back() -> None:
        for parameter, flag, grad in before:
            parameter.requires_grad_(flag)
            parameter.grad = grad

    stack.callback(give_back)
    for parameter, _, _ in before:
        parameter.grad = None
        parameter.requires_grad_(id(parameter) in trained)


def _connect(
    module: nn.Module,
    run: Run,
    chosen: Sequence[Chosen],
    sites: Sequence[Site],
    stack: ExitStack,
) -> None:
    """Hook the run to the gradients and forward passes; `stack` removes all hooks."""
    handles = [
        module.register_forward_pre_hook(lambda *_: run._follow_all(), prepend=True),
        module.register_state_dict_pre_hook(lambda *_: run._follow_all()),
    ]
    for handle in handles:
        stack.callback(handle.remove)
    for each, site in zip(chosen, sites):
        gather = each.weight.register_post_accumulate_grad_hook(_gatherer(run, site))
        stack.callback(gather.remove)
        for layer in each.users:
            follow = layer.register_forward_pre_hook(lambda *_: run._follow(), prepend=True)
            stack.callback(follow.remove)


def _gatherer(run: Run, site: Site) -> Callable[[Tensor], None]:
    """Return the hook that takes a dense gradient's entries and frees it at once."""

    def gather(weight: Tensor) -> None:
        grad, weight.grad = weight.grad, None
        if grad is not None:
            run._gather(site, entries.read(grad, site.mask.positions))

    return gather
