"""One training run: from settings to a `.shira` file, stoppable and resumable at every step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from torch import nn

from shira_core.atomic import atomic_write

from . import checkpoint, events, guard, optimizers, tuning
from .board import Board
from .config import Config, dump
from .display import PLAIN_SECONDS, Display, clock
from .events import Events
from .opening import open_run
from .processes import Processes, join
from .steps import Steps
from .stop import GracefulStop

Watch = Callable[[int, nn.Module], None]
SETTINGS, BOARD = "config.toml", "tensorboard"


def train(config: Config, watch: Watch | None = None) -> Path | None:
    """Train and return the adapter's path, or None if it was stopped and can be resumed.

    watch: called after each step with its number and the UNet, whose `state_dict()` is as trained.
    """
    processes, folder = join(config), config.run_folder
    with ExitStack() as stack:
        if processes.first:
            stack.enter_context(guard.claimed(config))
        processes.wait()
        tell = Events(folder / events.NAME if processes.first else None, append=config.resume)
        stack.callback(tell.close)
        stack.enter_context(_told(tell))
        if processes.first:
            with atomic_write(folder / SETTINGS, overwrite=True) as target:
                Path(target).write_text(dump(config), encoding="utf-8")
        board = Board(folder / BOARD if config.tensorboard and processes.first else None)
        stack.callback(board.close)
        stack.enter_context(guard.threads(config.threads))
        stack.enter_context(guard.clear_errors(config))
        return _train(config, tell, board, processes, watch)


@contextmanager
def _told(tell: Events) -> Iterator[None]:
    """Tell how a run that raises has ended."""
    try:
        yield
    except KeyboardInterrupt:
        with suppress(OSError):
            tell.emit(events.Stopped())
        raise
    except BaseException as error:
        with suppress(OSError):  # a full disk must not hide the error itself
            tell.emit(events.Failed(message=str(error) or type(error).__name__))
        raise


def _train(
    config: Config, tell: Events, board: Board, processes: Processes, watch: Watch | None
) -> Path | None:
    def say(line: str) -> None:
        if processes.first:
            print(line, flush=True)

    def warn(line: str) -> None:
        tell.emit(events.Warned(message=line))
        say(f"warning: {line}")

    for line in optimizers.notes(config):
        warn(line)
    opened = open_run(config, say, warn, processes)
    steps = Steps(config, opened, tell, board, processes)
    steps.look()
    told = _measuring(tell, say)
    with tuning.start(config, opened.base, steps.losses.calibration, processes, say, told) as tuned:
        steps.begin(tuned, say, warn)
        with GracefulStop(config.run_folder) as stop:
            stopped = False
            if steps.draws:
                steps.sample(lambda: stop.asked)
                stopped = processes.any(stop.asked)
            with Display(config.steps, steps.state.done, quiet=not processes.first) as display:
                while not steps.over and not stopped:
                    steps.train(display)
                    if watch:
                        watch(steps.state.done, opened.base.unet)
                    stopped = processes.any(stop.asked)
                    steps.keep(stopped)
                    if steps.draws and not stopped:
                        steps.sample(lambda: stop.asked)
                        if stopped := processes.any(stop.asked):
                            steps.keep_rest()
            if not stopped:
                return steps.finish(say)
            tell.emit(events.Stopped(step=steps.state.done))
            say(_how_to_go_on(config, steps.state.done))
            return None


def _measuring(tell: Events, say: Callable[[str], None]) -> Callable[[int, int, float], None]:
    """Return what tells how many batches are measured, in words now and then."""
    last = time.monotonic()

    def told(batch: int, batches: int, left: float) -> None:
        nonlocal last
        tell.emit(events.Measured(batch=batch, batches=batches, eta=round(left, 1)))
        if time.monotonic() - last > PLAIN_SECONDS:
            last = time.monotonic()
            say(f"measured {batch} of {batches} batches, {clock(left)} left")

    return told


def _how_to_go_on(config: Config, step: int) -> str:
    if checkpoint.exists(config.run_folder):
        return f"stopped after step {step}; go on with the same command and --resume"
    return "stopped before the first step; nothing was written"
