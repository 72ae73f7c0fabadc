"""The steps: optimizer, schedule, loss, arithmetic."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class TrainingSettings(BaseModel):
    """The steps: optimizer, schedule, loss, arithmetic."""

    steps: int = Field(1000, ge=1, description="optimizer steps, e.g. 300 for a small set")
    lr: float = Field(1e-4, gt=0, le=1, description="peak learning rate, e.g. 1e-4")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="how the learning rate falls after the warm-up"
    )
    warmup: int = Field(10, ge=0, description="steps in which the learning rate rises")
    batch_size: int = Field(4, ge=1, description="pictures per forward pass")
    accumulate: int = Field(1, ge=1, description="forward passes per optimizer step")
    min_snr_gamma: float = Field(5.0, ge=0, description="min-SNR loss weighting; 0 turns it off")
    noise_offset: float = Field(0.0, ge=0, le=1, description="e.g. 0.0357 for darker darks")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decay of the delta towards 0")
    clip_norm: float = Field(1.0, ge=0, description="largest gradient norm; 0 turns it off")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the mask, the order and the noise")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1...")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="arithmetic of the forward pass; auto: bf16 on CUDA that has it"
    )
    gradient_checkpointing: bool = Field(False, description="less memory, about 30 % slower")
    threads: int | None = Field(None, ge=1, description="CPU threads; default: all cores")
