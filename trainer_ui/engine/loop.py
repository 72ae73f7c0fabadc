"""One training run: from settings to a `.shira` file, stoppable and resumable at every step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from shira_core.errors import FileExists
from shira_core.atomic import atomic_write

from . import base as bases
from . import cache as caches
from . import checkpoint, data, device, objective, output, sample, tuning
from .config import Config, dump
from .errors import TrainingFailed
from .events import Display, Events, Pace, clock
from .stop import GracefulStop

Watch = Callable[[int, nn.Module], None]
EVENTS, SETTINGS = "events.jsonl", "config.toml"


def train(config: Config, watch: Watch | None = None) -> Path | None:
    """Train and return the adapter's path, or None if it was stopped and can be resumed.

    watch: called after each step with its number and the UNet as it is then.
    """
    _check_output(config)
    folder = config.run_folder
    folder.mkdir(parents=True, exist_ok=True)
    events = Events(folder / EVENTS, append=config.resume)
    try:
        with atomic_write(folder / SETTINGS, overwrite=True) as target:
            Path(target).write_text(dump(config), encoding="utf-8")
        with _threads(config.threads), _clear_errors(config):
            return _Run(config, events, watch).go()
    except BaseException as error:
        with suppress(OSError):  # a full disk must not hide the error itself
            events.emit("error", message=str(error) or type(error).__name__)
        raise
    finally:
        events.close()


@dataclass
class _Opened:
    """What a run works on, opened once."""

    base: bases.Base
    cache: caches.Cache
    prompts: list[str]
    settings: dict[str, Any]
    pictures: int
    resolution: int
    prediction: str
    device: torch.device


class _Run:
    """The steps of one run. Holds what changes: step, seconds, samples."""

    def __init__(self, config: Config, events: Events, watch: Watch | None) -> None:
        self.config, self.events, self.watch = config, events, watch
        self.step, self.seconds = 0, 0.0
        self.samples: list[Image.Image] = []
        self.before: list[Image.Image] = []

    def go(self) -> Path | None:
        """Open everything, train, write the adapter."""
        config = self.config
        opened = self.opened = self._open()
        signal = _signal(opened.base.scheduler).to(opened.device)
        with ExitStack() as stack:
            stop = stack.enter_context(GracefulStop())
            self.before = self._draw()
            run = stack.enter_context(tuning.start(
                    config, opened.base.unet, lambda number: self._loss(-1 - number, signal)
                ))
            optimizer = torch.optim.AdamW(
                run.parameters(), lr=config.lr, weight_decay=config.weight_decay
            )
            if config.resume:
                self._resume(run, optimizer)
            self._announce(run)
            with Display(config.steps, self.step) as display:
                self.display = display
                while self.step < config.steps and not stop.asked:
                    self._train_step(run, optimizer, signal)
                    self._after_step(run, optimizer, stop.asked)
            if self.step < config.steps:
                self._stopped()
                return None
            if not self.samples:
                self._sample()
            return self._finish(run)

    def _open(self) -> _Opened:
        config = self.config
        examples = data.find(config.images, config.trigger)
        place = device.choose(config)
        self._say(f"opening {config.base}")
        base = bases.open_base(config.base)
        for module in (base.unet, base.vae, base.text_encoder):
            module.requires_grad_(False).to(place)
        resolution = config.resolution or base.resolution
        settings = {
            **config.fingerprint(),
            "resolution": resolution,
            "contents of the pictures": data.digest(examples),
            "contents of the base": base.sha256,
        }
        if config.resume:
            checkpoint.check(checkpoint.load(config.run_folder)[0], settings)
        self._say(f"encoding {len(examples)} pictures at {resolution} px")
        cache = caches.build(base, examples, resolution, config.flip, self._warn, self._say)
        if config.gradient_checkpointing:
            base.unet.train()
            base.unet.enable_gradient_checkpointing()
        asked = config.prediction
        return _Opened(
            base=base,
            cache=cache,
            prompts=sample.prompts(config, [example.prompt for example in examples]),
            settings=settings,
            pictures=len(examples),
            resolution=resolution,
            prediction=base.prediction_type if asked == "auto" else asked,
            device=place,
        )

    def _train_step(self, run: Any, optimizer: torch.optim.Optimizer, signal: Tensor) -> None:
        config, started = self.config, time.perf_counter()
        rate = objective.learning_rate(
            self.step, config.steps, config.lr, config.warmup, config.schedule
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        total = 0.0
        for part in range(config.accumulate):
            loss = self._loss(self.step * config.accumulate + part, signal) / config.accumulate
            loss.backward()
            total += loss.item()
        if config.clip_norm:
            torch.nn.utils.clip_grad_norm_(run.parameters(), config.clip_norm)
        _check_finite(total, self.step, config)
        optimizer.step()
        optimizer.zero_grad()
        self.step += 1
        self._tell(total, rate, time.perf_counter() - started)

    def _loss(self, number: int, signal: Tensor) -> Tensor:
        """Return the loss of batch `number`, which alone decides pictures, noise and timesteps."""
        config, opened = self.config, self.opened
        source = objective.generator(config.seed, "batch", number)
        rows = objective.batch_indices(config.seed, number, config.batch_size, len(opened.cache))
        mean, std = opened.cache.mean[rows], opened.cache.std[rows]
        latents = mean + std * torch.randn(mean.shape, generator=source)
        noise = objective.noise_like(latents, source, config.noise_offset)
        times = objective.timesteps(len(rows), len(signal), source)
        dropped = torch.rand(len(rows), generator=source) < config.caption_dropout
        context = torch.where(dropped[:, None, None], opened.cache.empty, opened.cache.text[rows])
        latents, noise, times, context = (
            tensor.to(opened.device) for tensor in (latents, noise, times, context)
        )
        level = signal[times]
        with device.autocast(config, opened.device):
            noised = objective.add_noise(latents, noise, level)
            predicted = opened.base.unet(noised, times, context).sample
        return objective.weighted_loss(
            predicted,
            objective.target(latents, noise, level, opened.prediction),
            objective.loss_weights(level, config.min_snr_gamma, opened.prediction),
        )

    def _announce(self, run: Any) -> None:
        opened, config = self.opened, self.config
        entries = sum(parameter.numel() for parameter in run.parameters())
        self.pace = Pace(config.steps)
        self.events.emit(
            "start",
            step=self.step,
            steps=config.steps,
            pictures=opened.pictures,
            resolution=opened.resolution,
            entries=entries,
            base=opened.base.name,
            device=str(opened.device),
        )
        start = f" from step {self.step}" if self.step else ""
        self._say(
            f"training {entries:,} entries ({config.mask}) on {opened.pictures} pictures at "
            f"{opened.resolution} px, {config.steps} steps{start}, on {opened.device}"
        )

    def _tell(self, loss: float, rate: float, seconds: float) -> None:
        self.seconds += seconds
        left = self.pace.update(self.step, seconds, loss)
        self.events.emit("step", step=self.step, loss=loss, lr=rate, eta=round(left, 1))
        self.display.step(self.step, self.pace, left)

    def _after_step(self, run: Any, optimizer: torch.optim.Optimizer, stopping: bool) -> None:
        config = self.config
        if self.watch:
            self.watch(self.step, self.opened.base.unet)
        if config.sample_every and self.step % config.sample_every == 0:
            self._sample()
        due = config.checkpoint_every and self.step % config.checkpoint_every == 0
        if stopping or due or self.step == config.steps:
            progress = checkpoint.Progress(self.step, self.seconds, self.opened.settings)
            checkpoint.save(config.run_folder, progress, run.state_dict(), optimizer)
            self.events.emit("checkpoint", step=self.step)

    def _resume(self, run: Any, optimizer: torch.optim.Optimizer) -> None:
        progress, tensors = checkpoint.load(self.config.run_folder)
        run.load_state_dict(checkpoint.run_state(tensors))
        checkpoint.restore_optimizer(optimizer, tensors)
        self.step, self.seconds = progress.step, progress.seconds

    def _draw(self) -> list[Image.Image]:
        opened = self.opened
        if not opened.prompts:
            return []
        return sample.draw(opened.base, self.config, opened.prompts, opened.resolution)

    def _sample(self) -> None:
        """Draw the prompts and save them under the base's pictures."""
        if not self.opened.prompts:
            return
        self.samples = self._draw()
        path = self.config.run_folder / "samples" / f"step-{self.step:06}.png"
        path.parent.mkdir(exist_ok=True)
        rows = [("base", self.before), (f"step {self.step}, alpha 1", self.samples)]
        sample.save(sample.grid(rows, self.opened.prompts), path)
        self.events.emit("sample", step=self.step, path=str(path))

    def _stopped(self) -> None:
        self.events.emit("stopped", step=self.step)
        if checkpoint.exists(self.config.run_folder):
            self._say(f"stopped after step {self.step}; go on with the same command and --resume")

    def _finish(self, run: Any) -> Path:
        """Write the adapter; only then is the checkpoint of no more use."""
        config, opened = self.config, self.opened
        facts = output.Facts(
            base=opened.base,
            pictures=opened.pictures,
            resolution=opened.resolution,
            prediction=opened.prediction,
            preview=self.samples[0] if self.samples else None,
        )
        path = output.write(config, run, facts)
        (config.run_folder / checkpoint.NAME).unlink(missing_ok=True)
        self.events.emit("done", path=str(path), steps=self.step, seconds=round(self.seconds, 1))
        size = path.stat().st_size
        self._say(f"wrote {path} ({size / 1e6:.2f} MB) after {clock(self.seconds)} of training")
        return path

    def _say(self, line: str) -> None:
        print(line, flush=True)

    def _warn(self, line: str) -> None:
        self.events.emit("warning", message=line)
        self._say(f"warning: {line}")


def _check_output(config: Config) -> None:
    """Refuse before any work what would fail, or lose something, at its end."""
    unfinished = checkpoint.exists(config.run_folder)
    if config.out.exists() and not config.overwrite:
        raise FileExists(f"{config.out} exists: choose another --out or add --overwrite")
    if config.resume and not unfinished:
        raise FileExists(
            f"nothing to resume: {config.run_folder} holds no checkpoint: start without --resume"
        )
    if unfinished and not (config.resume or config.overwrite):
        raise FileExists(
            f"{config.run_folder} holds an unfinished run: add --resume to go on with it "
            "or --overwrite to start anew"
        )
    if unfinished and not config.resume:
        (config.run_folder / checkpoint.NAME).unlink()


def _signal(scheduler: Any) -> Tensor:
    """Return alpha-bar of every timestep, (1000,) float32, as the base was trained with."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(dict(scheduler)).alphas_cumprod.float()


def _check_finite(loss: float, step: int, config: Config) -> None:
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise TrainingFailed(
            f"the loss is no number any more at step {step + 1}: lower lr (now {config.lr}), "
            "or set precision to fp32, and resume from the last checkpoint or start anew"
        )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _clear_errors(config: Config) -> Iterator[None]:
    """Turn running out of memory into one line with remedies."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise TrainingFailed(
            f"the GPU is out of memory: lower batch_size (now {config.batch_size}; raise "
            "accumulate to make up for it), lower resolution, or turn gradient_checkpointing on"
        ) from None
    except MemoryError:
        raise TrainingFailed(
            "the computer is out of memory: close other programs, lower batch_size or resolution"
        ) from None
