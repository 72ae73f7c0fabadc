"""`shira train --dry-run`: what a run would be, without opening a weight or writing a file."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch

from shira_core import keymaps

from . import data, device, estimate, tuning
from .config import Config
from .errors import TrainingFailed
from .estimate import Memory, Step
from .outline import Outline, outline

GB = 1e9
HEADER = 300  # bytes per weight: its name, shape and place
CUDA = torch.device("cuda")
LOW = 768  # pixels


@dataclass(frozen=True)
class Plan:
    """What a run would be. available: bytes of the GPU, None where there is none to ask."""

    report: data.Report
    resolution: int
    steps: int
    pictures_per_step: int
    weights: int
    memory: Memory
    bytes: int
    available: int | None

    @property
    def epochs(self) -> float:
        """How often each picture is seen."""
        return self.steps * self.pictures_per_step / max(1, self.report.per_epoch)

    def __str__(self) -> str:
        memory = self.memory
        peak, drawing, needed = (m / GB for m in (memory.peak, memory.drawing, memory.needed))
        lines = [
            ("entries", f"{self.memory.entries:,} in {self.weights} weights of the UNet"),
            ("steps", f"{self.steps}, {self.epochs:.1f} epochs of {self.report.per_epoch}"),
            ("file", f"about {self.bytes / 1e6:.1f} MB"),
            (
                "GPU memory",
                f"about {peak:.1f} GB in a step{_also(drawing)}; {needed:.1f} GB should be free",
            ),
        ]
        return "\n".join([str(self.report), *(f"{name:13} {text}" for name, text in lines)])


def _also(drawing: float) -> str:
    return f", {drawing:.1f} GB when a sample is decoded" if drawing else ""


def look(config: Config) -> Plan:
    """Return the plan of a run.

    Raises our errors for what `train` would refuse, and TrainingFailed, saying what to lower, when
    the run does not fit the GPU.
    """
    base = outline(config.base)
    resolution = config.resolution or base.resolution
    dataset = data.scan(config, resolution, data.STEP * base.factor, config.seed)
    step = step_of(config, base, max((e.bucket for e in dataset.examples), key=math.prod))
    memory = estimate.memory(step)
    weights = sum(density != 0 for density in step.layers.values())
    plan = Plan(
        report=data.report(dataset),
        resolution=resolution,
        steps=config.steps,
        pictures_per_step=config.batch_size * config.accumulate,
        weights=weights,
        memory=memory,
        bytes=file_bytes(config, weights, memory.trained, memory.entries),
        available=available(config),
    )
    refuse_too_large(config, plan)
    return plan


def check(config: Config) -> None:
    """Raise what `look` does, where there is a GPU to run out of memory: seconds, not minutes."""
    if available(config) is not None:
        look(config)


def refuse_too_large(config: Config, plan: Plan) -> None:
    """Raise TrainingFailed, saying what to lower, when a run does not fit the GPU."""
    if plan.available is not None and plan.memory.needed > plan.available:
        raise TrainingFailed(_advice(config, plan))


def step_of(config: Config, base: Outline, bucket: tuple[int, int]) -> Step:
    """Return the training step of the settings. bucket: width and height in pixels."""
    arithmetic = _arithmetic(config, base)
    unet = estimate.build(base.unet, arithmetic.held)
    names = tuning.layers(unet, config.layers)
    weights = unet.state_dict()
    kind = keymaps.architecture({name: tuple(each.shape) for name, each in weights.items()})
    sources = keymaps.sources(kind, "unet", weights)
    trained = [sources[key].name for name in names if (key := f"{name}.weight") in sources]
    tuning.check_unet_blocks(config, trained)
    own = tuning.by_block(config.block_density, sources)
    width, height = (side // base.factor for side in bucket)
    return Step(
        unet=base.unet,
        layers={name: own(key := f"{name}.weight", weights[key]) for name in names},
        mask=config.mask,
        density=config.density,
        rank=config.rank,
        options=tuning.struct_options(config) if config.mask == "struct" else {},
        batch=config.batch_size,
        size=(width, height),
        checkpointing=config.gradient_checkpointing,
        held=arithmetic.held,
        autocast=arithmetic.computed if arithmetic.computed != arithmetic.held else None,
        optimizer=config.optimizer,
        dora=config.dora,
        ema=bool(config.ema),
        channels_last=config.channels_last,
        vae=base.vae if config.sample_count else None,
    )


def _arithmetic(config: Config, base: Outline) -> device.Arithmetic:
    """Return the dtypes on the GPU of the settings; where there is none, on one with bfloat16."""
    if torch.cuda.is_available() and config.device != "cpu":
        return device.arithmetic(config, device.choose(config), base.architecture)
    wanted = config.model_copy(update={"precision": "bf16"})
    return device.arithmetic(
        wanted if config.precision == "auto" else config, CUDA, base.architecture
    )


def available(config: Config) -> int | None:
    """Return the free memory of the GPU that the run would take, None where it would take none.

    CUDA's own part, which this question takes at once, counts as free: `Memory.needed` has it.
    """
    if not torch.cuda.is_available() or (place := device.choose(config)).type != "cuda":
        return None
    if place.index is None:  # one of several processes has its own
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.cuda.mem_get_info(place)[0] + estimate.CONTEXT


def file_bytes(config: Config, weights: int, positions: int, entries: int) -> int:
    """Return the size of an adapter; unstructured masks store Rice-coded gaps (docs/format.md).

    positions: of all its weights, of which so many entries are trained.
    """
    each = float(getattr(torch, config.dtype).itemsize)
    if config.mask != "struct":
        each += _gap_bits(entries / max(1, positions)) / 8
    return round(entries * each) + HEADER * weights


def _gap_bits(density: float) -> float:
    """Return the mean length of a gap's code: k bits, and (gap >> k) + 1 for the rest."""
    if density >= 1:
        return 1.0

    def bits(k: int) -> float:
        rest = (1 - density) ** (1 << k)
        return k + 1 + rest / (1 - rest)

    return min(map(bits, range(20)))


def _advice(config: Config, plan: Plan) -> str:
    """Return why a run does not fit, and what to change, first what costs least."""
    remedies = [
        (not config.gradient_checkpointing, "--gradient-checkpointing"),
        (plan.memory.drawing > plan.memory.peak, "--sample-count 0"),
        (config.batch_size > 1, "--batch-size 1 (and more --accumulate)"),
        (config.weights == "fp32", "--weights bf16"),
        (config.mask != "struct", "--preset low-memory"),
        (plan.resolution > LOW, f"--resolution {LOW}"),
    ]
    lower = [text for wanted, text in remedies if wanted] or ["another GPU"]
    free = (plan.available or 0) / GB
    return (
        f"this does not fit: {plan.memory.needed / GB:.1f} GB are needed and the GPU has "
        f"{free:.1f} GB free: close other programs, or try {', '.join(lower)}"
    )
