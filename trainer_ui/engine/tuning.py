"""The one seam between the trainer and `shira_core.training`: which weights, which gradients."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from shira_core import Adapter, apply, keymaps, names
from shira_core.adapter import MemoryWeights
from shira_core.training import Run, finetune
from shira_core.translate import Source, to_checkpoint

from . import measured
from .base import Base
from .config import Config
from .config.adapter import density_of
from .errors import ConfigInvalid
from .measured import MEASURED, MOVED, DensityOf, Measuring
from .processes import ALONE, Processes

# The UNet's blocks; its ends (conv_in, time_embedding, conv_out) are small and change everything.
PARTS = {
    "unet": {"all": ("attentions", "resnets"), "attention": ("attentions",)},
    "text": {"all": ("self_attn", "mlp"), "attention": ("self_attn",)},
}


@dataclass(frozen=True)
class Tuning:
    """The trained modules: a run of `shira_core.training` for each component."""

    runs: Mapping[str, Run]
    modules: Mapping[str, nn.Module]
    sources: Mapping[str, Mapping[str, Source]]
    chosen: Mapping[str, Any]  # how the entries were chosen, fields of the header

    @property
    def entries(self) -> int:
        """Number of trained entries."""
        return sum(run.entries for run in self.runs.values())

    @property
    def vectors(self) -> dict[str, nn.Parameter]:
        """The flat float32 vector of each component."""
        return {component: run.parameters()[0] for component, run in self.runs.items()}

    def update(self) -> None:
        """Make every weight hold what its vector says now."""
        for run in self.runs.values():
            run.update()

    def reduce_gradients(self) -> None:
        """Average the gradients over all processes."""
        for run in self.runs.values():
            run.reduce_gradients()

    def state_dict(self) -> dict[str, Tensor]:
        """Return what an exact resume needs, as "component.name"."""
        return {
            f"{component}.{name}": tensor
            for component, run in self.runs.items()
            for name, tensor in run.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict()` of the same settings."""
        for component, run in self.runs.items():
            start = component + "."
            own = {n.removeprefix(start): t for n, t in state.items() if n.startswith(start)}
            run.load_state_dict(own)

    @contextmanager
    def at(self, alpha: float) -> Iterator[None]:
        """Let the modules be the base with the adapter at `alpha`, as hosts apply it, inside."""
        if alpha == 1:
            yield
            return
        vectors = [vector.detach() for vector in self.vectors.values()]
        trained = [vector.clone() for vector in vectors]
        adapters = {component: run.adapter() for component, run in self.runs.items()}
        try:
            self._hold(vectors, [torch.zeros_like(vector) for vector in vectors])
            with ExitStack() as stack:
                for component, adapter in adapters.items():
                    stack.enter_context(apply(self.modules[component], [(adapter, alpha)]))
                yield
        finally:
            self._hold(vectors, trained)

    def _hold(self, vectors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        for vector, value in zip(vectors, values, strict=True):
            vector.copy_(value)
        self.update()

    def adapter(self, **header: Any) -> Adapter:
        """Return the trained adapter under checkpoint names. header: see `Run.adapter`."""
        header = {**self.chosen, **header}
        parts = [
            to_checkpoint(run.adapter(**header), self.sources[component])
            for component, run in self.runs.items()
        ]
        weights = MemoryWeights()
        for part in parts:
            for name in part.weights:
                weights[name] = part.weights[name]
        return replace(parts[0], weights=weights)


@contextmanager
def start(
    config: Config,
    base: Base,
    loss: Callable[[int], Tensor],
    processes: Processes = ALONE,
    say: Callable[[str], None] = lambda line: None,
    told: Callable[[int, int, float], None] = lambda batch, batches, left: None,
) -> Iterator[Tuning]:
    """Train the chosen entries of the base's UNet and of the text encoders that it has, inside.

    loss: of calibration batch 0, 1, ...; asked only by the masks that are measured first. told: as
    in `Measuring`. A run that goes on has the entries that it had. All processes train the same
    entries.
    """
    modules = base.modules
    sources = {
        component: keymaps.sources(base.architecture, component, module.state_dict())
        for component, module in modules.items()
    }
    _check_blocks(
        config.block_density, [each.name for own in sources.values() for each in own.values()]
    )
    options = {
        component: _options(
            Measuring(config, module, _chosen(config, base, component), loss, processes, say, told),
            sources[component],
            component,
        )
        for component, module in modules.items()
    }
    with ExitStack() as stack:
        runs = {
            component: stack.enter_context(finetune(module, **options[component]))
            for component, module in modules.items()
        }
        if config.mask in MEASURED and processes.first:
            measured.keep(config.run_folder, {name: run.masks for name, run in runs.items()})
        yield Tuning(runs, modules, sources, _header(config))


def _options(measuring: Measuring, sources: Mapping[str, Source], component: str) -> dict[str, Any]:
    """Return the arguments of `finetune` for one component."""
    config = measuring.config
    common = {
        "layers": measuring.layers,
        "values_dtype": getattr(torch, config.dtype),
        "dora": config.dora,
    }
    ready = measuring.ready(component)
    density_of = by_block(config.block_density, sources) if config.block_density else None
    rate = config.lr if component == "unet" else config.text_lr
    if not ready and config.mask == MOVED:
        ready = measuring.moved(rate, density_of)
    if ready:
        return common | {"masks": ready}
    gradients = measuring.gradients() if config.mask in MEASURED else None
    return (
        common
        | struct_options(config)
        | {
            "mask": config.mask,
            "density": config.density,
            "rank": config.rank,
            "seed": config.seed,
            "shard": config.shard,
            "gradients": gradients,
            "density_of": density_of,
        }
    )


def _header(config: Config) -> dict[str, Any]:
    """Return what a run with ready masks cannot know of its entries."""
    if config.mask not in MEASURED:
        return {}
    known = {"mask": config.mask, "seed": config.seed}
    whole = config.density is not None and not config.block_density
    return known | ({"density": config.density} if whole else {})


def _chosen(config: Config, base: Base, component: str) -> list[str]:
    return layers(base.modules[component], config.layers, component, _unused(base, component))


def struct_options(config: Config) -> dict[str, Any]:
    """Return the mask's own options that are set."""
    own = {"axis": config.axis, "diagonal": config.diagonal}
    return {name: value for name, value in own.items() if value is not None}


def layers(module: nn.Module, which: str, component: str = "unet", unused: str = "") -> list[str]:
    """Return the names of the Linear and Conv modules to train.

    which: "all" or "attention". unused: a part of the module that no gradient reaches.
    """
    parts = set(PARTS["unet" if component == "unet" else "text"][which])
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
        and parts & set(name.split("."))
        and not (unused and unused in f"{name}.")
    ]


def _unused(base: Base, component: str) -> str:
    """SDXL takes the last but one layer of its first text encoder, and nothing else of it."""
    if base.architecture != "sdxl" or component != "te1":
        return ""
    last = base.text_encoders[0].module.config.num_hidden_layers - 1
    return f"encoder.layers.{last}."


def by_block(lines: Sequence[str], sources: Mapping[str, Source]) -> DensityOf:
    """Return the own density of a weight's block, None where no line names it."""
    rules = [density_of(line) for line in lines]

    def density(name: str, weight: Tensor) -> float | None:
        block = names.block(sources[name].name)
        return next((value for pattern, value in rules if fnmatchcase(block, pattern)), None)

    return density


def check_unet_blocks(config: Config, weights: Sequence[str]) -> None:
    """Raise ConfigInvalid for a density of a block that is not trained, of the UNet alone.

    weights: those of the UNet by their names in a checkpoint; text encoders are not known yet.
    """
    lines = [n for n in config.block_density if not (config.text_lr and n.startswith("te"))]
    _check_blocks(lines, weights)


def _check_blocks(lines: Sequence[str], weights: Sequence[str]) -> None:
    """Refuse a density for a block that is not trained."""
    blocks = {block for name in weights if (block := names.block(name))}
    for line in lines:
        pattern, _ = density_of(line)
        if not any(fnmatchcase(block, pattern) for block in blocks):
            near = difflib.get_close_matches(pattern, sorted(blocks), n=1, cutoff=0.0)
            raise ConfigInvalid(
                f"block_density: {line!r} names no block that is trained: did you mean {near[0]}?"
            )
