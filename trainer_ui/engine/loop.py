"""One training run: from settings to a `.shira` file, stoppable and resumable at every step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from shira_core.atomic import atomic_write
from shira_core.training import Run

from . import checkpoint, device, guard, objective, output, sample, tuning
from .config import Config, dump
from .errors import TrainingFailed
from .events import Display, Events, Pace, clock
from .opening import Opened, open_run
from .stop import GracefulStop

Watch = Callable[[int, nn.Module], None]
EVENTS, SETTINGS = "events.jsonl", "config.toml"


def train(config: Config, watch: Watch | None = None) -> Path | None:
    """Train and return the adapter's path, or None if it was stopped and can be resumed.

    watch: called after each step with its number and the UNet, whose `state_dict()` is as trained.
    """
    guard.check_output(config)
    folder = config.run_folder
    folder.mkdir(parents=True, exist_ok=True)
    events = Events(folder / EVENTS, append=config.resume)
    try:
        with atomic_write(folder / SETTINGS, overwrite=True) as target:
            Path(target).write_text(dump(config), encoding="utf-8")
        with guard.threads(config.threads), guard.clear_errors(config):
            return _train(config, events, watch)
    except KeyboardInterrupt:
        with suppress(OSError):
            events.emit("stopped")
        raise
    except BaseException as error:
        with suppress(OSError):  # a full disk must not hide the error itself
            events.emit("error", message=str(error) or type(error).__name__)
        raise
    finally:
        events.close()


def _train(config: Config, events: Events, watch: Watch | None) -> Path | None:
    def warn(line: str) -> None:
        events.emit("warning", message=line)
        print(f"warning: {line}", flush=True)

    opened = open_run(config, _say, warn)
    steps = _Steps(config, opened, events)
    before = steps.draw(lambda: False)
    with tuning.start(config, opened.base.unet, steps.calibration_loss) as run:
        steps.begin(run, before)
        with GracefulStop() as stop:
            with Display(config.steps, steps.done) as display:
                while steps.done < config.steps and not stop.asked:
                    steps.train(run, display)
                    if watch:
                        watch(steps.done, opened.base.unet)
                    steps.keep(run, lambda: stop.asked)
            if not stop.asked and steps.drawn != steps.done:
                steps.sample(lambda: stop.asked)
            if not stop.asked:
                return steps.finish(run)
            steps.tell_stop()
            return None


class _Steps:
    """The steps of one run. Holds what changes: steps done, seconds, pictures."""

    def __init__(self, config: Config, opened: Opened, events: Events) -> None:
        self.config, self.opened, self.events = config, opened, events
        self.done, self.seconds = 0, 0.0
        self.drawn = -1
        self._before: list[Image.Image] = []
        self._samples: list[Image.Image] = []

    def begin(self, run: Run, before: list[Image.Image]) -> None:
        """Make the optimizer, go on from the checkpoint where asked, tell the start."""
        config, opened = self.config, self.opened
        self._before, self._pace = before, Pace(config.steps)
        self._optimizer = torch.optim.AdamW(
            run.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        if config.resume:
            progress, tensors = checkpoint.load(config.run_folder)
            run.load_state_dict(checkpoint.run_state(tensors))
            checkpoint.restore_optimizer(self._optimizer, tensors)
            self.done, self.seconds = progress.step, progress.seconds
        self.events.emit(
            "start",
            step=self.done,
            steps=config.steps,
            pictures=opened.pictures,
            resolution=opened.resolution,
            entries=run.entries,
            base=opened.base.name,
            device=str(opened.device),
        )
        start = f" from step {self.done}" if self.done else ""
        _say(
            f"training {run.entries:,} entries ({config.mask}) on {opened.pictures} pictures at "
            f"{opened.resolution} px, {config.steps} steps{start}, on {opened.device}"
        )

    def train(self, run: Run, display: Display) -> None:
        """Do one step: forward and backward `accumulate` times, then move the entries."""
        config, started = self.config, time.perf_counter()
        rate = objective.learning_rate(
            self.done, config.steps, config.lr, config.warmup, config.schedule
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        total = 0.0
        for part in range(config.accumulate):
            loss = self._loss(self.done * config.accumulate + part) / config.accumulate
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(run.parameters(), config.clip_norm or math.inf)
        _check_finite(total + norm.item(), self.done, config)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.done += 1
        seconds = time.perf_counter() - started
        self.seconds += seconds
        left = self._pace.update(self.done, seconds, total)
        self.events.emit("step", step=self.done, loss=total, lr=rate, eta=round(left, 1))
        display.step(self.done, self._pace, left)

    def calibration_loss(self, number: int) -> Tensor:
        """Return the loss of a batch that only the masks grad and snip see."""
        return self._loss(-1 - number)

    def _loss(self, number: int) -> Tensor:
        """Return the loss of batch `number`, which alone decides pictures, noise and timesteps."""
        config, opened = self.config, self.opened
        batch = opened.cache.batch(number, config.seed)
        source = objective.generator(config.seed, "batch", number)
        noise = objective.noise_like(batch.latents, source, config.noise_offset)
        times = objective.timesteps(len(noise), len(opened.signal), source)
        latents, noise, times, sizes = (
            each.to(opened.device) for each in (batch.latents, noise, times, batch.sizes)
        )
        texts = batch.texts.map(lambda tensor: tensor.to(opened.device))
        level, prediction = opened.signal[times], opened.base.prediction_type
        with device.autocast(config, opened.device):
            noised = objective.add_noise(latents, noise, level)
            predicted = opened.base.denoise(noised, times, texts, sizes)
        return objective.weighted_loss(
            predicted,
            objective.target(latents, noise, level, prediction),
            objective.loss_weights(level, config.min_snr_gamma, prediction),
        )

    def keep(self, run: Run, stopped: Callable[[], bool]) -> None:
        """After a step: write the checkpoint, then the sample, where they are due."""
        config, last = self.config, self.done == self.config.steps
        due = config.checkpoint_every and self.done % config.checkpoint_every == 0
        if stopped() or due or last:
            progress = checkpoint.Progress(self.done, self.seconds, self.opened.settings)
            checkpoint.save(config.run_folder, progress, run.state_dict(), self._optimizer)
            self.events.emit("checkpoint", step=self.done)
        if config.sample_every and self.done % config.sample_every == 0:
            self.sample(stopped)

    def draw(self, stopped: Callable[[], bool]) -> list[Image.Image]:
        """Draw the scene as the UNet sees it now; nothing when `stopped` on the way."""
        opened = self.opened
        return sample.draw(opened.base, self.config, opened.scene, stopped) if opened.scene else []

    def sample(self, stopped: Callable[[], bool]) -> None:
        """Draw the prompts and save them under the base's pictures."""
        pictures = self.draw(stopped)
        if not pictures or not self.opened.scene:
            return
        self._samples, self.drawn = pictures, self.done
        path = self.config.run_folder / "samples" / f"step-{self.done:06}.png"
        path.parent.mkdir(exist_ok=True)
        rows = [("base", self._before), (f"step {self.done}, alpha 1", pictures)]
        sample.save(sample.grid(rows, self.opened.scene.prompts), path)
        self.events.emit("sample", step=self.done, path=str(path))

    def tell_stop(self) -> None:
        """Tell how to go on."""
        self.events.emit("stopped", step=self.done)
        if checkpoint.exists(self.config.run_folder):
            _say(f"stopped after step {self.done}; go on with the same command and --resume")
        else:
            _say("stopped before the first step; nothing was written")

    def finish(self, run: Run) -> Path:
        """Write the adapter; only then is the checkpoint of no more use."""
        config, opened = self.config, self.opened
        facts = output.Facts(
            base=opened.base,
            pictures=opened.pictures,
            resolution=opened.resolution,
            preview=self._samples[0] if self._samples else None,
        )
        path = output.write(config, run, facts)
        (config.run_folder / checkpoint.NAME).unlink(missing_ok=True)
        self.events.emit("done", path=str(path), steps=self.done, seconds=round(self.seconds, 1))
        size = path.stat().st_size
        _say(f"wrote {path} ({size / 1e6:.2f} MB) after {clock(self.seconds)} of training")
        return path


def _say(line: str) -> None:
    print(line, flush=True)


def _check_finite(value: float, step: int, config: Config) -> None:
    if not math.isfinite(value):
        raise TrainingFailed(
            f"the loss is no number any more at step {step + 1}: lower lr (now {config.lr}) or set "
            "precision to fp32, and start anew with --overwrite"
        )
