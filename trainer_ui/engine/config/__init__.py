"""The settings of one run: one pydantic model behind the TOML file, the flags and the pages."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError, model_validator

from ..errors import ConfigInvalid
from .adapter import AdapterSettings, density_of
from .data import DataSettings
from .model import ModelSettings
from .output import OutputSettings
from .training import TrainingSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_DENSITY = 0.02
# A setting over others, in a file over a preset or a flag over a file, takes these with it.
REPLACES = {
    "density": ("rank",),
    "rank": ("density",),
    "mask": ("axis", "diagonal"),
    "debiased": ("min_snr_gamma",),
}
PATHS = ("base", "images", "class_images", "cache", "out")
SECTIONS = (ModelSettings, DataSettings, AdapterSettings, TrainingSettings, OutputSettings)
# A resumed run may differ in these: they do not touch the trained weights. The contents of base and
# images are compared, not their places.
FREE_ON_RESUME = frozenset(
    ("base", "images", "class_images", "cache", "capture", "threads", *OutputSettings.model_fields)
)


class Config(OutputSettings, TrainingSettings, AdapterSettings, DataSettings, ModelSettings):
    """All settings of a run; the descriptions are the help texts and the remedies of errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _together(cls, data: Any) -> Any:
        """Refuse settings that exclude each other; one of density and rank is set afterwards."""
        if isinstance(data, Mapping):
            for name in ("axis", "diagonal"):
                if data.get(name) is not None and data.get("mask") != "struct":
                    raise ValueError(f"{name} belongs to mask struct: set that or leave {name} out")
            blocks = data.get("block_density") or ()
            if data.get("mask") == "moved" and any(density_of(str(line))[1] for line in blocks):
                raise ValueError(
                    "block_density: the mask moved shares the entries out itself: only block=0 "
                    "(untrained) goes with it, or another mask"
                )
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


def load(
    path: Path | None, flags: Mapping[str, Any], preset: Mapping[str, Any] | None = None
) -> Config:
    """Return the settings of a TOML file over those of a preset, and `flags` over both.

    Relative paths in the file are relative to it, flags to the current folder.
    Raises ConfigInvalid: one line with the first wrong field and the remedy.
    """
    values = _over(preset or {}, read_toml(path) if path else {})
    values = _over(values, flags)
    try:
        config = Config(**values)
    except ValidationError as error:
        raise ConfigInvalid(_explain(error, values, path)) from None
    given = {name: getattr(config, name) for name in PATHS}
    absolute = {name: path.expanduser().absolute() for name, path in given.items() if path}
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


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings above over those below, without what they take the place of."""
    gone = {
        other
        for name, others in REPLACES.items()
        if above.get(name) is not None and above[name] != below.get(name)
        for other in others
    }
    return {**{name: value for name, value in below.items() if name not in gone}, **above}


def read_toml(path: Path) -> dict[str, Any]:
    """Return the settings in a file, relative paths made relative to it; raises ConfigInvalid."""
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
