"""Progress for a person: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

PLAIN_SECONDS = 10.0


class Pace:
    """Smoothed seconds per step and loss, and from them the time left."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.seconds = 0.0
        self.loss = math.nan

    def update(self, step: int, seconds: float, loss: float) -> float:
        """Take in one step; return the seconds left after `step` steps are done."""
        first = self.seconds == 0
        self.seconds = seconds if first else 0.9 * self.seconds + 0.1 * seconds
        self.loss = loss if math.isnan(self.loss) else 0.95 * self.loss + 0.05 * loss
        return (self.steps - step) * self.seconds


class Display:
    """A progress bar on a terminal, a plain line now and then elsewhere; quiet: nothing."""

    def __init__(self, steps: int, start: int, quiet: bool = False) -> None:
        self._steps, self._last = steps, 0.0
        self._console = Console(file=sys.stdout, quiet=quiet)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                console=self._console,
            )
            self._task = self._bar.add_task("", total=steps, completed=start, status="")

    def __enter__(self) -> Display:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def step(self, step: int, pace: Pace, left: float) -> None:
        """Show that `step` steps are done."""
        rate = 1 / pace.seconds if pace.seconds else 0.0
        status = f"{clock(left)} left, loss {pace.loss:.4f}, {rate:.2f} it/s"
        if self._bar:
            self._bar.update(self._task, completed=step, status=status)
        elif step == self._steps or time.monotonic() - self._last > PLAIN_SECONDS:
            self._last = time.monotonic()
            self.say(f"step {step}/{self._steps}, {status}")

    def say(self, line: str) -> None:
        """Print one line without tearing the bar."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """Return 75 as 1:15 and 3700 as 1:01:40."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def quiet() -> None:
    """Keep the libraries' notes about themselves out of the progress."""
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
