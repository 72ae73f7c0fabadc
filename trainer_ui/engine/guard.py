"""Around a run: refuse early what would fail late, and say in one line what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from shira_core.atomic import refuse_existing
from shira_core.errors import FileExists

from . import checkpoint
from .config import Config
from .errors import TrainingFailed
from .lock import locked


@contextmanager
def claimed(config: Config) -> Iterator[None]:
    """Hold the run's folder, after refusing what would fail, or lose something, at the end.

    With `overwrite` alone, an unfinished run is discarded here. A folder that stays empty goes.
    """
    refuse_existing(config.out, config.overwrite)
    folder = config.run_folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder):
            _check(config)
            yield
    finally:
        with suppress(OSError):
            folder.rmdir()


def _check(config: Config) -> None:
    folder, unfinished = config.run_folder, checkpoint.exists(config.run_folder)
    if config.resume and not unfinished:
        raise FileExists(f"nothing to resume: {folder} holds no checkpoint: start without --resume")
    if unfinished and not (config.resume or config.overwrite):
        raise FileExists(
            f"{folder} holds an unfinished run: add --resume to go on with it "
            "or --overwrite to start anew"
        )
    if unfinished and not config.resume:
        (folder / checkpoint.NAME).unlink()
    for remains in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
        remains.unlink()


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Use so many CPU threads, None for all; the number before is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def clear_errors(config: Config) -> Iterator[None]:
    """Turn running out of memory, anywhere in the run, into one line with remedies."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise _no_memory("GPU", config) from None
    except MemoryError:
        raise _no_memory("computer", config) from None
    except RuntimeError as error:
        if "out of memory" in str(error):  # other accelerators than CUDA
            raise _no_memory("GPU", config) from None
        if "can't allocate memory" in str(error):  # torch's allocator for the CPU
            raise _no_memory("computer", config) from None
        raise


def _no_memory(where: str, config: Config) -> TrainingFailed:
    """Return the error with all that would still lower the memory."""
    lines = [f"lower batch_size (now {config.batch_size}; raise accumulate to make up for it)"]
    if not config.gradient_checkpointing:
        lines.append("turn gradient_checkpointing on")
    if config.weights not in ("bf16", "fp16"):
        lines.append("set weights and precision to bf16")
    if config.text_lr:
        lines.append("leave text_lr out")
    advice = ", ".join(lines)
    return TrainingFailed(f"the {where} is out of memory: {advice}, or lower resolution")
