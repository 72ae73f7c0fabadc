"""Which entries are trained, and how they are stored."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, Field, field_validator


class AdapterSettings(BaseModel):
    """Which entries are trained, and how they are stored."""

    mask: Literal["struct", "rand", "wm", "grad", "snip", "moved"] = Field(
        "wm", description="how the trained entries are chosen"
    )
    density: float | None = Field(
        None, gt=0, le=1, description="trained share of each weight, e.g. 0.02 (the default)"
    )
    rank: int | None = Field(
        None, ge=1, description="as many entries as a LoRA of this rank, instead of density"
    )
    block_density: tuple[str, ...] = Field(
        (),
        description="own density of blocks, the first that fits: mid=0.05 out*=0.03 in1=0 "
        "(untrained) te1*=0.01",
    )
    shard: int = Field(
        0,
        ge=0,
        description="0, 1, 2...: each number trains other entries; give each adapter that you want "
        "to mix its own",
    )
    axis: Literal["columns", "rows", "both"] | None = Field(
        None, description="lines of the mask struct besides the diagonal; default: columns"
    )
    diagonal: bool | None = Field(
        None,
        description="whether the mask struct has the diagonal; default: true. Without it and with "
        "axis columns a step needs the least memory",
    )
    dora: bool = Field(False, description="also train the magnitude of each output channel (DoRA)")
    layers: Literal["all", "attention"] = Field(
        "all", description="weights of the UNet to train: all blocks, or only their attention"
    )
    calibration: int | None = Field(
        None,
        ge=1,
        le=127,
        description="batches that a mask is measured on; default: 8 (grad, snip) or 50 (moved)",
    )
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "float16", description="dtype of the values in the file"
    )

    @field_validator("block_density")
    @classmethod
    def _densities(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for line in lines:
            if not 0 <= density_of(line)[1] <= 1:
                raise ValueError(f"{line!r} is not of the form block=density, such as mid=0.05")
        return lines


def density_of(line: str) -> tuple[str, float]:
    """Return the pattern and the density of "mid=0.05"; NaN for what is no number."""
    pattern, _, number = line.partition("=")
    try:
        return pattern.strip(), float(number)
    except ValueError:
        return pattern, math.nan
