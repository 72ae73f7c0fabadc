"""Several processes that train one adapter: each takes its part of a step's batches."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import Config


@dataclass(frozen=True)
class Processes:
    """Which of how many this process is; the first one tells and writes.

    device: the one that the launcher gave, None for the settings' own.
    """

    rank: int = 0
    count: int = 1
    device: torch.device | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set in any process; all must ask together."""
        return self.mean(float(flag)) > 0

    def mean(self, value: float) -> float:
        """Return the mean of the value over all processes; all must ask together."""
        if self.count == 1:
            return value
        total = torch.tensor(value, device=self.device)
        torch.distributed.all_reduce(total)
        return total.item() / self.count

    def of_first(self, value: Tensor) -> Tensor:
        """Return the first process's tensor, where GPUs may have added up in another order."""
        if self.count == 1:
            return value
        common = value.to(self.device)
        torch.distributed.broadcast(common, 0)
        return common.to(value.device)

    def wait(self) -> None:
        """Go on when all processes are here."""
        self.mean(0.0)


ALONE = Processes()


def join(config: Config) -> Processes:
    """Join the processes that `accelerate launch` or `torchrun` started; alone without them."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    from accelerate import PartialState

    state = PartialState(cpu=config.device == "cpu" or not torch.cuda.is_available())
    return Processes(state.process_index, state.num_processes, state.device)
