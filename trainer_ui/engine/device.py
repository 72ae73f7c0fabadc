"""Where and how precisely the forward pass runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from .config import Config
from .errors import ConfigInvalid

BFLOAT16_SINCE = (8, 0)  # compute capability: Ampere


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


def autocast(config: Config, device: torch.device) -> AbstractContextManager[object]:
    """Return the context of the forward pass: bfloat16 on CUDA that has it, else float32.

    torch emulates bfloat16 on older GPUs, slowly, and CPUs are slower with it than without
    (measured 1.4 times on one with AVX-512 bf16); both are left at float32.
    """
    wanted = config.precision == "bf16"
    if config.precision == "auto" and device.type == "cuda":
        wanted = torch.cuda.get_device_capability(device) >= BFLOAT16_SINCE
    return torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()
