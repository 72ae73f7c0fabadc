"""Which entries are trained, and how they are stored."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class AdapterSettings(BaseModel):
    """Which entries are trained, and how they are stored."""

    mask: Literal["struct", "rand", "wm", "grad", "snip"] = Field(
        "wm", description="how the trained entries are chosen"
    )
    density: float | None = Field(
        None, gt=0, le=1, description="trained share of each weight, e.g. 0.02 (the default)"
    )
    rank: int | None = Field(
        None, ge=1, description="as many entries as a LoRA of this rank, instead of density"
    )
    shard: int = Field(
        0, ge=0, description="0, 1, 2...: another shard trains other entries, for mixing"
    )
    axis: Literal["columns", "rows", "both"] | None = Field(
        None, description="lines of the mask struct besides the diagonal; default: columns"
    )
    dora: bool = Field(False, description="also train the magnitude of each output channel (DoRA)")
    layers: Literal["all", "attention"] = Field(
        "all", description="weights of the UNet to train: all blocks, or only their attention"
    )
    calibration: int = Field(
        8, ge=1, description="batches that the masks grad and snip measure gradients on"
    )
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "float16", description="dtype of the values in the file"
    )
