"""What a run writes: the adapter, checkpoints, samples."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field


class OutputSettings(BaseModel):
    """What a run writes: the adapter, checkpoints, samples."""

    out: Path = Field(description="adapter to write, e.g. style.shira")
    checkpoint_every: int = Field(100, ge=0, description="steps between checkpoints; 0: never")
    save_every: int = Field(
        0, ge=0, description="steps between adapters that are kept, in the run's folder; 0: never"
    )
    validation_every: int = Field(
        100, ge=1, description="steps between measurements of the loss of held-out pictures"
    )
    sample_every: int = Field(0, ge=0, description="steps between samples; 0: only at the end")
    sample_count: int = Field(4, ge=0, description="pictures per sample; 0: draw none at all")
    sample_prompts: tuple[str, ...] = Field(
        (), description="prompts to draw; the trigger is put before each"
    )
    sample_alphas: tuple[float, ...] = Field(
        (1.0,), min_length=1, description="strengths to draw the adapter with, e.g. 0.5 1"
    )
    sample_negative: str = Field("", description="negative prompt of the samples")
    sample_seed: int = Field(1, ge=0, description="seed of the first sample; the next is one more")
    sample_steps: int = Field(20, ge=1, le=1000, description="denoising steps of a sample")
    sample_guidance: float = Field(5.0, ge=0, description="guidance scale of the samples")
    tensorboard: bool = Field(
        False, description="also write losses and samples for TensorBoard, which must be installed"
    )
    alpha: float = Field(1.0, description="recommended alpha, written in the file")
    title: str = Field("", description="title in the file; default: the file's name")
    author: str = Field("", description="author in the file")
    description: str = Field("", description="description in the file")
    license: str = Field("", description="licence in the file, e.g. Apache-2.0")
    overwrite: bool = Field(False, description="replace the output and an unfinished run")
    resume: bool = Field(False, description="go on from the last checkpoint")
