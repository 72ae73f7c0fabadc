"""Masks that look at the pictures first; what they choose is kept with the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from shira_core import Mask
from shira_core.atomic import atomic_write
from shira_core.errors import InvalidValue
from shira_core.masks import pooled
from shira_core.masks.request import budget
from shira_core.training import calibrate, explore

from .config import Config
from .processes import Processes

MOVED = "moved"
MEASURED = {"grad": 8, "snip": 8, MOVED: 50}  # on so many batches
STEP = 0.1  # of a trial run, as a share of the learning rate
PRODIGY = 1e-4  # where the optimizer finds the rate, that of the presets
FILE = "entries.safetensors"
ASIDE = "cpu"  # sums and copies are as large as the module, so they are kept off the device
DensityOf = Callable[[str, Tensor], "float | None"]


@dataclass(frozen=True)
class Measuring:
    """What a mask is measured with, for one module.

    layers: names of its layers. loss: of calibration batch 0, 1, ... told: called after each batch
    with the number of it, of all, and the seconds left.
    """

    config: Config
    module: nn.Module
    layers: list[str]
    loss: Callable[[int], Tensor]
    processes: Processes
    say: Callable[[str], None]
    told: Callable[[int, int, float], None]

    def ready(self, component: str) -> dict[str, Mask] | None:
        """Return the masks that a run which goes on has, None for what is to be measured.

        On a GPU sums vary in their last bits, so measuring again might choose other entries. A
        file that is damaged is as if it were not there: the checkpoint is compared in any case.
        """
        if not self.config.resume or self.config.mask not in MEASURED:
            return None
        try:
            tensors = from_bytes((self.config.run_folder / FILE).read_bytes())
        except (OSError, SafetensorError):
            return None
        weights = dict(self.module.named_parameters())
        start = f"{component}."
        own = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
        return {
            name: Mask(tuple(weights[name].shape), positions.long())
            for name, positions in own.items()
            if name in weights
        }

    def gradients(self) -> dict[str, Tensor]:
        """Return the summed gradient of each weight, on the CPU."""
        sums = calibrate(self.module, self._batches(), self._loss, layers=self.layers, device=ASIDE)
        return self._common(sums)

    def moved(self, rate: float, density_of: DensityOf | None) -> dict[str, Mask]:
        """Return masks of the entries that a trial run moves furthest, of all layers together.

        rate: the learning rate. density_of: only asked which weights are left out.
        """
        config = self.config
        rate = PRODIGY if config.optimizer == "prodigy" else rate
        layers = [name for name in self.layers if not _left_out(self.module, name, density_of)]
        counts = explore(
            self.module,
            self._batches(),
            self._loss,
            step=STEP * rate,
            layers=layers,
            device=ASIDE,
        )
        shapes = [tuple(count.shape) for count in counts.values()]
        total = sum(budget(shape, config.density, config.rank) for shape in shapes)
        return pooled(self._common(counts), total, seed=config.seed, shard=config.shard)

    def _batches(self) -> Iterator[int]:
        count = self.config.calibration or MEASURED[self.config.mask]
        self.say(f"measuring on {count} batches which entries to train")
        began = time.monotonic()
        for number in range(count):
            yield number
            done = number + 1
            self.told(done, count, (time.monotonic() - began) / done * (count - done))

    def _loss(self, _: nn.Module, number: int) -> Tensor:
        loss = self.loss(number)
        if not torch.isfinite(loss.detach()):
            raise InvalidValue(
                f"the loss is {loss.item()} while the mask {self.config.mask} is measured: lower "
                "the learning rate, or use precision bf16 or fp32"
            )
        return loss

    def _common(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the first process found, where GPUs have added up in another order."""
        return {name: self.processes.of_first(each) for name, each in found.items()}


def _left_out(module: nn.Module, layer: str, density_of: DensityOf | None) -> bool:
    weight = module.get_submodule(layer).weight
    assert isinstance(weight, Tensor)
    return density_of is not None and density_of(f"{layer}.weight", weight) == 0


def keep(folder: Path, masks: Mapping[str, Mapping[str, Mask]]) -> None:
    """Write the masks of each component beside the checkpoint."""
    tensors = {
        f"{component}.{name}": mask.positions.to("cpu", torch.int32)
        for component, own in masks.items()
        for name, mask in own.items()
    }
    with atomic_write(folder / FILE, overwrite=True) as target:
        target.write_bytes(to_bytes(tensors))
