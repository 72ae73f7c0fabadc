"""The steps: optimizer, schedule, loss, arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator


class TrainingSettings(BaseModel):
    """The steps: optimizer, schedule, loss, arithmetic."""

    steps: int = Field(1000, ge=1, description="optimizer steps, e.g. 300 for a small set")
    lr: float = Field(1e-4, gt=0, le=1, description="peak learning rate, e.g. 1e-4")
    text_lr: float = Field(
        0.0, ge=0, le=1, description="peak learning rate of the text encoders; 0: not trained"
    )
    optimizer: Literal["adamw", "adamw8bit", "prodigy", "lion", "adafactor"] = Field(
        "adamw",
        description="adamw8bit needs bitsandbytes, prodigy prodigyopt (with lr 1: it finds its "
        "own), lion lion-pytorch",
    )
    schedule: Literal["cosine", "constant", "linear", "restarts"] = Field(
        "cosine", description="how the learning rate falls after the warm-up"
    )
    restarts: int = Field(
        2, ge=1, le=1000, description="how often the schedule restarts falls from the peak"
    )
    warmup: int = Field(10, ge=0, description="steps in which the learning rate rises")
    batch_size: int = Field(4, ge=1, description="pictures per forward pass")
    accumulate: int = Field(1, ge=1, description="forward passes per optimizer step")
    min_snr_gamma: float = Field(5.0, ge=0, description="min-SNR loss weighting; 0 turns it off")
    debiased: bool = Field(
        False, description="weigh the loss by 1/sqrt(SNR) (debiased estimation), without min-SNR"
    )
    noise_offset: float = Field(0.0, ge=0, le=1, description="e.g. 0.0357 for darker darks")
    weight_decay: float = Field(0.01, ge=0, description="decay of the delta towards 0")
    clip_norm: float = Field(1.0, ge=0, description="largest gradient norm; 0 turns it off")
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of a running mean that is kept instead, e.g. 0.999"
    )
    validation: float = Field(
        0.0, ge=0, lt=1, description="share of the pictures held out to measure the loss on"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the mask, the order and the noise")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1...")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="arithmetic of the forward pass; auto: bf16 on CUDA that has it"
    )
    gradient_checkpointing: bool = Field(False, description="less memory, about 30 % slower")
    channels_last: bool = Field(
        False, description="another order in memory, faster convolutions on some GPUs"
    )
    capture: Literal["auto", "on", "off"] = Field(
        "auto",
        description="record a step once and replay it, which saves Python's time; auto: on CUDA",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; default: all cores")

    @model_validator(mode="before")
    @classmethod
    def _one_weighting(cls, data: Any) -> Any:
        """Refuse two loss weightings at once; debiased turns the other one off."""
        if not isinstance(data, Mapping) or not data.get("debiased"):
            return data
        if data.get("min_snr_gamma"):
            raise ValueError("debiased and min_snr_gamma exclude each other: keep one of the two")
        return {**data, "min_snr_gamma": 0.0}
