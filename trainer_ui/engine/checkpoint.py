"""The state of a run on disk: one safetensors file, no pickle, replaced atomically.

The learning rate, the noise and the order of the pictures follow from the step (see `objective`),
so the state is the deltas, the optimizer's moments, the step and the settings they belong to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from shira_core.atomic import atomic_write
from shira_core.errors import FileInvalid

from .errors import ConfigInvalid

NAME = "checkpoint.safetensors"
KEY = "shira.checkpoint"


@dataclass(frozen=True)
class Progress:
    """Where a run stands. settings: the fields that the weights depend on, as JSON values."""

    step: int
    seconds: float
    settings: Mapping[str, Any]


def save(folder: Path, progress: Progress, run: Mapping[str, Tensor], optimizer: Any) -> None:
    """Write the checkpoint; on failure the one before stays."""
    tensors = {f"run.{name}": tensor for name, tensor in run.items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(folder / NAME, overwrite=True) as target:
        Path(target).write_bytes(to_bytes(tensors, {KEY: json.dumps(asdict(progress))}))


def exists(folder: Path) -> bool:
    """Tell whether the folder holds an unfinished run."""
    return (folder / NAME).is_file()


def load(folder: Path) -> tuple[Progress, dict[str, Tensor]]:
    """Return the progress and all tensors; raises FileInvalid when the file is damaged."""
    path = folder / NAME
    try:
        with safe_open(path, framework="pt") as file:
            progress = Progress(**json.loads(file.metadata()[KEY]))
            return progress, {name: file.get_tensor(name) for name in list(file.keys())}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise FileInvalid(
            f"checkpoint {path} cannot be read ({error}): start anew with --overwrite"
        ) from None


def check(progress: Progress, settings: Mapping[str, Any]) -> None:
    """Raise ConfigInvalid, naming the field, when a resumed run would differ from its start."""
    for name in {**progress.settings, **settings}:
        before, now = progress.settings.get(name), settings.get(name)
        if before != now:
            what = f"{name} was {before!r} and is now {now!r}: set it back"
            if name.startswith("contents of "):  # a hash tells a person nothing
                what = f"the {name} have changed since: put them back"
            raise ConfigInvalid(f"cannot resume: {what}, or start anew with --overwrite")


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer of the same parameters the saved moments back."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, field = rest.split(".", 1)
            state.setdefault(int(index), {})[field] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def run_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of the tensors that belongs to the fine-tuning run."""
    prefix = "run."
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
