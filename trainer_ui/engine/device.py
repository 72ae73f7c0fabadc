"""Where and how precisely the forward pass runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import Config
from .errors import ConfigInvalid

BFLOAT16_SINCE = (8, 0)  # compute capability: Ampere
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose(config: Config) -> torch.device:
    """Return the device of the settings; auto is CUDA where there is one.

    Raises ConfigInvalid for a device that this machine lacks.
    """
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(config.device)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError):
        raise ConfigInvalid(
            f"device = {config.device!r} is not on this machine or this torch: use auto or cpu"
        ) from None
    return device


def taken(device: torch.device) -> int | None:
    """Return the most bytes of a GPU that this process has taken, None for a CPU."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None


@dataclass(frozen=True)
class Arithmetic:
    """The dtypes of a run. held: of the base's weights. computed: of its products."""

    held: torch.dtype
    computed: torch.dtype

    def inputs(self, tensor: Tensor) -> Tensor:
        """Return a tensor as the modules want it."""
        return tensor.to(self.held)

    def context(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context of a forward pass: autocast where weights are held wider."""
        if self.held == self.computed:
            return nullcontext()
        return torch.autocast(device.type, self.computed)


def arithmetic(config: Config, device: torch.device, architecture: str) -> Arithmetic:
    """Return the dtypes of the settings; raises ConfigInvalid when they contradict each other."""
    computed = _computed(config, device)
    if config.weights == "auto":
        narrow = architecture == "sdxl" and device.type != "cpu"
        return Arithmetic(computed if narrow else torch.float32, computed)
    held = DTYPES[config.weights]
    if held not in (torch.float32, computed):
        name = next(name for name, dtype in DTYPES.items() if dtype == computed)
        raise ConfigInvalid(
            f"weights = {config.weights!r} does not go with precision = {name!r}: set both to "
            f"{config.weights!r}, or weights to fp32"
        )
    return Arithmetic(held, computed)


def _computed(config: Config, device: torch.device) -> torch.dtype:
    """torch emulates bfloat16 on older GPUs, slowly, and CPUs are slower with it than without
    (measured 1.4 times on one with AVX-512 bf16); auto leaves both at float32.
    """
    if config.precision != "auto":
        return DTYPES[config.precision]
    wanted = device.type == "cuda" and (torch.cuda.get_device_capability(device) >= BFLOAT16_SINCE)
    return torch.bfloat16 if wanted else torch.float32
