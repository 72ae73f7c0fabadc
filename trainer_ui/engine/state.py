"""What changes while a run trains: all of it, so that an exact resume needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from . import checkpoint, objective, optimizers
from .average import Average
from .config import Config
from .device import Arithmetic
from .scaling import FIRST, Scale
from .tuning import Tuning

OF_THE_DEVICE = ("fused",)  # settings of optimizers that a run on another device has otherwise


class State:
    """The trained vectors, their running means, the optimizer, the loss scale, the step.

    done: optimizer steps. seconds: of training.
    """

    def __init__(self, config: Config, tuning: Tuning, arithmetic: Arithmetic) -> None:
        self.tuning = tuning
        self.average = Average(tuning.vectors, config.ema)
        self.scale = Scale(FIRST) if arithmetic.computed == torch.float16 else None
        self.done, self.seconds = 0, 0.0
        self._config = config
        self._peaks = [
            config.lr if component == "unet" else config.text_lr for component in tuning.vectors
        ]
        groups = [
            {"params": [vector], "lr": peak}
            for vector, peak in zip(tuning.vectors.values(), self._peaks, strict=True)
        ]
        self._optimizer = optimizers.make(groups, config)

    def set_rate(self) -> float:
        """Set the learning rates of the step to come; return the UNet's."""
        share = objective.learning_rate(self.done, self._config)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * share
        return self._peaks[0] * share

    def gradient_norm(self) -> float:
        """Undo the loss scale and clip; return the norm before, nan or inf after an overflow."""
        vectors = list(self.tuning.vectors.values())
        if self.scale:
            for vector in vectors:
                if vector.grad is not None:
                    vector.grad.div_(self.scale.value)
        limit = self._config.clip_norm or float("inf")
        return torch.nn.utils.clip_grad_norm_(vectors, limit).item()

    def hopeless(self, overflowed: bool) -> bool:
        """Tell whether an overflow cannot be mended by a smaller loss scale."""
        return overflowed and self.scale is not None and self.scale.exhausted

    def step(self, overflowed: bool) -> None:
        """Move the vectors, unless float16 overflowed; the step counts either way.

        Gradients stay where they are, since recorded passes add to them there.
        """
        if not overflowed:
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=False)
        self.done += 1
        if not overflowed:
            self.average.update(self.done)
        if self.scale:
            self.scale = self.scale.after(overflowed)

    def save(self, folder: Path, settings: dict[str, Any]) -> None:
        """Write the checkpoint."""
        scale = [self.scale.value, self.scale.good] if self.scale else None
        parts = {
            "tuning": self.tuning.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scale": scale,
        }
        checkpoint.save(folder, checkpoint.Progress(self.done, self.seconds, settings), parts)

    def load(self, folder: Path) -> None:
        """Go on from the checkpoint of the same settings."""
        progress, parts = checkpoint.load(folder)
        self.tuning.load_state_dict(parts["tuning"])
        self.average.load_state_dict(parts["average"])
        for group, own in zip(
            parts["optimizer"]["param_groups"], self._optimizer.param_groups, strict=True
        ):
            group.update({name: own[name] for name in OF_THE_DEVICE if name in own})
        self._optimizer.load_state_dict(parts["optimizer"])
        if parts["scale"]:
            self.scale = Scale(*parts["scale"])
        self.done, self.seconds = progress.step, progress.seconds
