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

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from shira_core.atomic import atomic_write
from shira_core.errors import FileInvalid

from .errors import ConfigInvalid

NAME = "checkpoint.safetensors"
KEY, TREE, TENSOR = "shira.checkpoint", "shira.state", "tensor"


@dataclass(frozen=True)
class Progress:
    """Where a run stands. settings: the fields that the weights depend on, as JSON values."""

    step: int
    seconds: float
    settings: Mapping[str, Any]


def save(folder: Path, progress: Progress, state: Mapping[str, Any]) -> None:
    """Write the checkpoint; on failure the one before stays.

    state: nested dicts and lists of tensors and JSON values.
    """
    tensors: dict[str, Tensor] = {}
    tree = _taken_apart(state, "state", tensors)
    metadata = {KEY: json.dumps(asdict(progress)), TREE: json.dumps(tree)}
    with atomic_write(folder / NAME, overwrite=True) as target:
        Path(target).write_bytes(to_bytes(tensors, metadata))


def exists(folder: Path) -> bool:
    """Tell whether the folder holds an unfinished run."""
    return (folder / NAME).is_file()


def load(folder: Path) -> tuple[Progress, Any]:
    """Return the progress and the state; raises FileInvalid when the file is damaged."""
    path = folder / NAME
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            progress = Progress(**json.loads(metadata[KEY]))
            # copies: Windows replaces no file while its tensors are in use
            tensors = {name: file.get_tensor(name).clone() for name in list(file.keys())}
            return progress, _put_together(json.loads(metadata[TREE]), tensors)
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


def _taken_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON can hold it; its tensors are put into `tensors`, named by place.

    Dicts become lists of pairs, since JSON would turn the numbers that are keys into text.
    """
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {TENSOR: name}
    if isinstance(value, Mapping):
        pairs = [[key, _taken_apart(each, f"{name}.{key}", tensors)] for key, each in value.items()]
        return {"pairs": pairs}
    if isinstance(value, (list, tuple)):
        return [_taken_apart(each, f"{name}.{n}", tensors) for n, each in enumerate(value)]
    return value


def _put_together(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `_taken_apart`; tuples come back as lists."""
    if isinstance(value, list):
        return [_put_together(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    if TENSOR in value:
        return tensors[value[TENSOR]]
    return {key: _put_together(each, tensors) for key, each in value["pairs"]}
