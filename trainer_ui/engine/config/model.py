"""What is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field


class ModelSettings(BaseModel):
    """What is trained on."""

    base: Path = Field(description="checkpoint (.safetensors) or diffusers folder to train on")
    prediction: Literal["auto", "epsilon", "v_prediction"] = Field(
        "auto", description="what the base predicts; auto asks the base"
    )
    weights: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="how the base's weights are held, fp32 or like precision, which halves their "
        "memory; auto: like precision for SDXL on a GPU, else fp32",
    )
