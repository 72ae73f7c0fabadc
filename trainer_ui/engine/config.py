"""The settings of one run: one pydantic model behind the TOML file, the flags and the pages."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import ConfigInvalid

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_DENSITY = 0.02
PATHS = ("base", "images", "out")
# A resumed run may differ in these: they do not touch the trained weights. The contents of base and
# images are compared, not their places.
FREE_ON_RESUME = frozenset(
    (
        *("base", "images", "out", "overwrite", "resume", "checkpoint_every", "alpha", "threads"),
        *("sample_every", "sample_count", "sample_prompts", "sample_negative", "sample_seed"),
        *("sample_steps", "sample_guidance", "title", "author", "description", "license"),
    )
)


class Config(BaseModel):
    """All settings of a run; the descriptions are the help texts and the remedies of errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    base: Path = Field(description="checkpoint (.safetensors) or diffusers folder to train on")
    images: Path = Field(description="folder of pictures with .txt captions beside them")
    out: Path = Field(description="adapter to write, e.g. style.shira")
    trigger: str = Field("", description="words put before every caption, to call the style")

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

    steps: int = Field(1000, ge=1, description="optimizer steps, e.g. 300 for a small set")
    lr: float = Field(1e-4, gt=0, le=1, description="peak learning rate, e.g. 1e-4")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="how the learning rate falls after the warm-up"
    )
    warmup: int = Field(10, ge=0, description="steps in which the learning rate rises")
    batch_size: int = Field(4, ge=1, description="pictures per forward pass")
    accumulate: int = Field(1, ge=1, description="forward passes per optimizer step")
    resolution: int | None = Field(
        None, ge=32, le=4096, multiple_of=8, description="side in pixels; default: the base's own"
    )
    flip: bool = Field(False, description="also train on mirrored pictures")
    caption_dropout: float = Field(
        0.05, ge=0, le=1, description="share of pictures trained with an empty prompt"
    )
    min_snr_gamma: float = Field(5.0, ge=0, description="min-SNR loss weighting; 0 turns it off")
    noise_offset: float = Field(0.0, ge=0, le=1, description="e.g. 0.0357 for darker darks")
    prediction: Literal["auto", "epsilon", "v_prediction"] = Field(
        "auto", description="what the base predicts; auto asks the base"
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decay of the delta towards 0")
    clip_norm: float = Field(1.0, ge=0, description="largest gradient norm; 0 turns it off")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the mask, the order and the noise")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1...")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="arithmetic of the forward pass; auto: bf16 on CUDA that has it"
    )
    gradient_checkpointing: bool = Field(False, description="less memory, about 30 % slower")
    threads: int | None = Field(None, ge=1, description="CPU threads; default: all cores")

    checkpoint_every: int = Field(100, ge=0, description="steps between checkpoints; 0: never")
    sample_every: int = Field(0, ge=0, description="steps between samples; 0: only at the end")
    sample_count: int = Field(4, ge=0, description="pictures per sample; 0: draw none at all")
    sample_prompts: tuple[str, ...] = Field(
        (), description="prompts to draw; the trigger is put before each"
    )
    sample_negative: str = Field("", description="negative prompt of the samples")
    sample_seed: int = Field(1, ge=0, description="seed of the first sample; the next is one more")
    sample_steps: int = Field(20, ge=1, le=1000, description="denoising steps of a sample")
    sample_guidance: float = Field(5.0, ge=0, description="guidance scale of the samples")
    alpha: float = Field(1.0, description="recommended alpha, written in the file")

    title: str = Field("", description="title in the file; default: the file's name")
    author: str = Field("", description="author in the file")
    description: str = Field("", description="description in the file")
    license: str = Field("", description="licence in the file, e.g. Apache-2.0")

    overwrite: bool = Field(False, description="replace the output and an unfinished run")
    resume: bool = Field(False, description="go on from the last checkpoint")

    @model_validator(mode="before")
    @classmethod
    def _together(cls, data: Any) -> Any:
        """Refuse settings that exclude each other; one of density and rank is set afterwards."""
        if isinstance(data, Mapping):
            if data.get("axis") and data.get("mask") != "struct":
                raise ValueError("axis belongs to mask struct: set that or leave axis out")
            has_density, has_rank = (data.get(k) is not None for k in ("density", "rank"))
            if has_density and has_rank:
                raise ValueError("density and rank exclude each other: keep one of the two")
            if not has_density and not has_rank:
                return {**data, "density": DEFAULT_DENSITY}
        return data

    @property
    def run_folder(self) -> Path:
        """`style.run` beside `style.shira`: checkpoint, events, samples, effective config."""
        return self.out.with_suffix(".run")

    def fingerprint(self) -> dict[str, Any]:
        """Return the settings that the trained weights depend on, as JSON values."""
        return self.model_dump(mode="json", exclude=set(FREE_ON_RESUME))


def load(path: Path | None, flags: Mapping[str, Any]) -> Config:
    """Return the settings of a TOML file (or of none), overridden by `flags`.

    Relative paths in the file are relative to it, flags to the current folder.
    Raises ConfigInvalid: one line with the first wrong field and the remedy.
    """
    values = {**(_read(path) if path else {})}
    for field, other in (("density", "rank"), ("rank", "density")):
        if flags.get(field) is not None:
            values.pop(other, None)
    values.update(flags)
    try:
        config = Config(**values)
    except ValidationError as error:
        raise ConfigInvalid(_explain(error, values, path)) from None
    absolute = {name: Path(getattr(config, name)).expanduser().absolute() for name in PATHS}
    if absolute["out"].suffix.lower() not in (".shira", ".safetensors"):
        raise ConfigInvalid(f"out: {config.out} must end in .shira: write {config.out}.shira")
    config = config.model_copy(update=absolute)
    for line in dump(config).splitlines():
        if line.encode(errors="ignore").decode() != line:
            raise ConfigInvalid(f"{line!a} is no valid text: rename the file or write it anew")
    return config


def dump(config: Config) -> str:
    """Return the settings as TOML; `resume` and `overwrite` belong to a call, not to a run."""
    values = config.model_dump(mode="json", exclude={"resume", "overwrite"}, exclude_none=True)
    return "".join(f"{name} = {_toml(value)}\n" for name, value in values.items())


def _read(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigInvalid(f"{path}: cannot be read ({error.strerror}): check the path") from None
    except UnicodeDecodeError:
        raise ConfigInvalid(f"{path} is not UTF-8 text: save it again as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(f"{path} is not valid TOML: {error}: correct that line") from None
    for name in PATHS:
        if isinstance(values.get(name), str):
            values[name] = path.absolute().parent / Path(values[name]).expanduser()
    return values


def _explain(error: ValidationError, values: Mapping[str, Any], path: Path | None) -> str:
    """Return pydantic's first complaint as one line that names the field and the remedy."""
    first = error.errors()[0]
    where = f"{path}: " if path else ""
    if not first["loc"]:
        return where + first["msg"].removeprefix("Value error, ")
    field = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(field, Config.model_fields, n=1)
        hint = f"did you mean {close[0]}?" if close else "see `shira train --help`"
        return f"{where}there is no setting {field}: {hint}"
    what = Config.model_fields[field].description
    if first["type"] == "missing":
        return f"{where}{field} is missing: give --{field.replace('_', '-')} ({what})"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{where}{field} = {values.get(field)!r}: {message}. It is: {what}"


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)
