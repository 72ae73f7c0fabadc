"""The pictures and their captions."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field, model_validator


class DataSettings(BaseModel):
    """The pictures and their captions."""

    images: Path = Field(
        description="folder of pictures with .txt or .caption files beside them, or with "
        "folders such as 10_name in it"
    )
    trigger: str = Field("", description="words put before every caption, to call the style")
    resolution: int | None = Field(
        None, ge=32, le=4096, multiple_of=8, description="side in pixels; default: the base's own"
    )
    buckets: bool = Field(
        True, description="train pictures in about their own shape; false: cut all to squares"
    )
    bucket_min: int | None = Field(
        None, ge=32, le=8192, description="shortest side in pixels; default: half the resolution"
    )
    bucket_max: int | None = Field(
        None, ge=32, le=8192, description="longest side in pixels; default: twice the resolution"
    )
    enlarge: bool = Field(
        True, description="enlarge small pictures; false: train them in buckets of their own size"
    )
    flip: bool = Field(False, description="also train on mirrored pictures")
    random_crops: int = Field(
        0, ge=0, le=64, description="cuts per picture at random places; 0: one, at the centre"
    )
    masked_loss: bool = Field(
        False, description="learn only what name.mask.png or the picture's alpha shows, in white"
    )
    shuffle_captions: bool = Field(
        False, description="train captions with their tags (separated by commas) in other orders"
    )
    tag_dropout: float = Field(
        0, ge=0, lt=1, description="share of a caption's tags that is left out, e.g. 0.1"
    )
    keep_tokens: int = Field(
        0, ge=0, description="first tags of a caption that are neither moved nor left out"
    )
    caption_variants: int = Field(
        8, ge=1, le=1000, description="captions drawn per picture with shuffle or tag dropout"
    )
    caption_dropout: float = Field(
        0.05, ge=0, le=1, description="share of pictures trained with an empty prompt"
    )
    class_images: Path | None = Field(
        None, description="pictures of the same kind of thing, to keep what the base knows of it"
    )
    class_prompt: str = Field(
        "", description="caption of class images without a text, e.g. a photo of a dog"
    )
    class_weight: float = Field(
        1.0, ge=0, description="weight of a class image's loss (prior preservation)"
    )
    cache: Path | None = Field(
        None, description="folder for encoded pictures and texts, for later runs; default: memory"
    )

    @model_validator(mode="after")
    def _fit(self) -> DataSettings:
        """Refuse settings that do nothing, or the opposite of one another."""
        if not self.buckets and (self.bucket_min or self.bucket_max or not self.enlarge):
            raise ValueError("bucket_min, bucket_max and enlarge need buckets: leave them out")
        if self.bucket_min and self.bucket_max and self.bucket_min > self.bucket_max:
            raise ValueError(
                f"bucket_min {self.bucket_min} is more than bucket_max {self.bucket_max}: swap them"
            )
        if self.keep_tokens and not (self.shuffle_captions or self.tag_dropout):
            raise ValueError("keep_tokens needs shuffle_captions or tag_dropout: set one of them")
        if self.class_prompt and not self.class_images:
            raise ValueError("class_prompt needs class_images: give their folder")
        return self
