"""The pictures and their captions."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field


class DataSettings(BaseModel):
    """The pictures and their captions."""

    images: Path = Field(description="folder of pictures with .txt captions beside them")
    trigger: str = Field("", description="words put before every caption, to call the style")
    resolution: int | None = Field(
        None, ge=32, le=4096, multiple_of=8, description="side in pixels; default: the base's own"
    )
    flip: bool = Field(False, description="also train on mirrored pictures")
    caption_dropout: float = Field(
        0.05, ge=0, le=1, description="share of pictures trained with an empty prompt"
    )
