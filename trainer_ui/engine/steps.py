"""The steps of a run, and what is due after each: checkpoints, adapters, measurements, samples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from PIL import Image

from . import checkpoint, device, events, graphs, measured, output, sample
from .board import Board
from .captured import Passes
from .config import Config
from .display import Display, Pace, clock
from .encoding import Say
from .errors import TrainingFailed
from .events import Events
from .loss import Losses
from .opening import Opened
from .processes import Processes
from .state import State
from .tuning import Tuning

Stopped = Callable[[], bool]


class Steps:
    """The steps of one run. Only the first of several processes writes and draws."""

    def __init__(
        self, config: Config, opened: Opened, tell: Events, board: Board, processes: Processes
    ) -> None:
        self.losses = Losses(config, opened)
        self._config, self._opened, self._tell = config, opened, tell
        self._board, self._processes = board, processes
        self._pace = Pace(config.steps)
        self._before: list[Image.Image] = []
        self._samples: list[Image.Image] = []

    @property
    def over(self) -> bool:
        return self.state.done >= self._config.steps

    def look(self) -> None:
        """Draw the base, before anything is trained."""
        if self._processes.first:
            self._before = self._draw(lambda: False)

    def begin(self, tuning: Tuning, say: Say, warn: Say) -> None:
        """Make the state, go on from the checkpoint where asked, tell the start."""
        config, opened = self._config, self._opened
        recorder = graphs.recorder(config, opened, warn)
        self._passes = Passes(self.losses, tuning, recorder, warn)
        self.state = State(config, tuning, opened.arithmetic)
        if config.resume:
            self.state.load(config.run_folder)
        self._tell.emit(
            events.Start(
                step=self.state.done,
                steps=config.steps,
                pictures=opened.pictures,
                resolution=opened.resolution,
                entries=tuning.entries,
                base=opened.base.name,
                architecture=opened.base.architecture,
                prediction=opened.base.prediction_type,
                device=str(opened.device),
                processes=self._processes.count,
            )
        )
        start = f" from step {self.state.done}" if self.state.done else ""
        say(
            f"training {tuning.entries:,} entries ({config.mask}) on {opened.pictures} pictures at "
            f"{opened.resolution} px, {config.steps} steps{start}, on {opened.device}"
        )

    def train(self, display: Display) -> None:
        """Do one step: forward and backward for each of its batches, then move the entries."""
        state, started = self.state, time.perf_counter()
        rate, batches = state.set_rate(), self._batches()
        loss = self._backward(batches[self._processes.rank :: self._processes.count])
        norm = state.gradient_norm()
        overflowed = state.scale is not None and not math.isfinite(norm)
        if not math.isfinite(loss if overflowed else loss + norm) or state.hopeless(overflowed):
            raise self._no_number(batches)
        state.step(overflowed)
        self._passes.update()
        seconds = time.perf_counter() - started
        state.seconds += seconds
        left = self._pace.update(state.done, seconds, loss)
        memory = device.taken(self._opened.device)
        self._tell.emit(
            events.Step(
                step=state.done, loss=loss, norm=norm, lr=rate, eta=round(left, 1), memory=memory
            )
        )
        self._board.scalars(state.done, loss=loss, norm=norm, lr=rate)
        display.step(state.done, self._pace, left)

    def _batches(self) -> range:
        """Return the batches of the step to come: `accumulate` for each process.

        They are dealt out one by one, so that two processes train what one does with twice the
        accumulation.
        """
        count = self._config.accumulate * self._processes.count
        return range(self.state.done * count, (self.state.done + 1) * count)

    def _backward(self, batches: range) -> float:
        """Gather the mean gradient of the batches over all processes; return the mean loss."""
        scale = self.state.scale.value if self.state.scale else 1.0
        losses = [self._passes(number, scale) for number in batches]
        total = sum(loss.item() for loss in losses)
        if self._processes.count == 1:
            return total
        self.state.tuning.reduce_gradients()
        return self._processes.mean(total)

    def _no_number(self, batches: range) -> TrainingFailed:
        names = dict.fromkeys(name for number in batches for name in self.losses.names(number))
        return TrainingFailed(
            f"the loss is no number any more at step {self.state.done + 1}, with the pictures "
            f"{', '.join(names)}: lower lr (now {self._config.lr}), set precision to fp32, or "
            "look at these pictures; checkpoint and adapters of the steps before are kept"
        )

    def keep(self, last: bool) -> None:
        """After a step: write what is due, and measure. last: the run stops here."""
        if not self._processes.first:
            return
        if last or self._state_is_due:
            self._keep_state()
        if last or self._adapter_is_due:
            self._keep_adapter()
        if self._opened.held_out and (self.over or self._due(self._config.validation_every)):
            self._validate()

    def keep_rest(self) -> None:
        """The run stops after all, while it draws: write what was not due."""
        if not self._processes.first:
            return
        if not self._state_is_due:
            self._keep_state()
        if not self._adapter_is_due:
            self._keep_adapter()

    @property
    def _state_is_due(self) -> bool:
        return self.over or self._due(self._config.checkpoint_every)

    @property
    def _adapter_is_due(self) -> bool:
        return not self.over and self._due(self._config.save_every)

    def _keep_state(self) -> None:
        self.state.save(self._config.run_folder, self._opened.settings)
        self._tell.emit(events.Checkpoint(step=self.state.done))

    def _keep_adapter(self) -> None:
        out, done = self._config.out, self.state.done
        path = self._config.run_folder / f"{out.stem}-{done:06}{out.suffix}"
        self._write(path)
        self._tell.emit(events.Saved(step=done, path=str(path)))

    @property
    def draws(self) -> bool:
        """Whether samples are due now, as at the end.

        Stopping leaves them out; a run that goes on begins with them.
        """
        return self.over or (self.state.done > 0 and self._due(self._config.sample_every))

    def _due(self, every: int) -> bool:
        return every > 0 and self.state.done % every == 0

    def _validate(self) -> None:
        self._passes.release()
        with self.state.average.in_place():
            loss = self.losses.validation()
        self._tell.emit(events.Validation(step=self.state.done, loss=loss))
        self._board.scalars(self.state.done, validation=loss)

    def _draw(self, stopped: Stopped) -> list[Image.Image]:
        """Draw the scene as the modules are now; nothing when `stopped` on the way."""
        opened = self._opened
        if not opened.scene:
            return []
        return sample.draw(opened.base, opened.arithmetic, self._config, opened.scene, stopped)

    def sample(self, stopped: Stopped) -> None:
        """Draw the prompts at each alpha and save them under the base's pictures.

        stopped: asked while drawing, which is then left out.
        """
        scene, done = self._opened.scene, self.state.done
        if not scene or not self._processes.first:
            return
        self._passes.release()
        rows = [("base", self._before)]
        for alpha in self._config.sample_alphas:
            with ExitStack() as stack:
                stack.enter_context(self.state.average.in_place())
                stack.enter_context(self.state.tuning.at(alpha))
                rows.append((f"step {done}, alpha {alpha:g}", self._draw(stopped)))
            if not rows[-1][1]:
                return
        self._samples = rows[-1][1]
        path = self._config.run_folder / "samples" / f"step-{done:06}.png"
        path.parent.mkdir(exist_ok=True)
        picture = sample.grid(rows, scene.prompts)
        sample.save(picture, path)
        self._board.picture(done, "samples", picture)
        self._tell.emit(events.Sample(step=done, path=str(path)))

    def finish(self, say: Say) -> Path:
        """Write the adapter; only then is the checkpoint of no more use."""
        config, state = self._config, self.state
        if self._processes.first:
            self._write(config.out)
            for name in (checkpoint.NAME, measured.FILE):
                (config.run_folder / name).unlink(missing_ok=True)
            self._tell.emit(
                events.Done(path=str(config.out), steps=state.done, seconds=round(state.seconds, 1))
            )
            size = config.out.stat().st_size
            say(
                f"wrote {config.out} ({size / 1e6:.2f} MB) after {clock(state.seconds)} of training"
            )
        return config.out

    def _write(self, path: Path) -> None:
        facts = output.Facts(
            base=self._opened.base,
            pictures=self._opened.pictures,
            resolution=self._opened.resolution,
            preview=self._samples[0] if self._samples else None,
        )
        with self.state.average.in_place():
            output.write(self._config, self.state.tuning, facts, path)
