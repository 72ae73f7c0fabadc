"""One adapter in a prompt: `<shira:sub/style:0.8:te=0.5:lbw=mid=0;in4=0.5:start=0.2:stop=0.9>`.

The name is that of the file, without ".shira". The alpha may be left out and is 1 then. `te` is the
alpha of the text encoders, `lbw` are factors by block, and the adapter is on from `start` to `stop`
(0..1) of a sampling run. The alphas of two tags of one name add up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from shira_core.errors import InvalidValue
from shira_core.rows import Row

KIND = "shira"
_OPTIONS = ("te", "lbw", "start", "stop")
_EXAMPLE = f"write <{KIND}:style:0.8>"
# What a WebUI or its scripts split prompts at; "%" only where it would be read as an escape.
_SPECIAL = re.compile(r"[:<>,=|\x00-\x1f]|%(?=[0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class Tag:
    """A row of a stack, and the part of a sampling run in which it is on."""

    row: Row
    start: float = 0.0
    stop: float = 1.0


def read(items: Sequence[str], named: Mapping[str, str]) -> Tag:
    """Return the tag that a WebUI has split at ":"; raises InvalidValue.

    items: the parts that it takes for values, among them those with two "=". named: the others.
    """
    parts = [*items, *(f"{key}={value}" for key, value in named.items())]
    if not parts or not parts[0].strip():
        raise InvalidValue(f"a <{KIND}> tag names no file: {_EXAMPLE}")
    name = unquote(parts[0].strip())
    plain = [part for part in parts[1:] if "=" not in part]
    if len(plain) > 1:
        raise InvalidValue(f"<{KIND}:{name}> has two alphas ({', '.join(plain)}): {_EXAMPLE}")
    options = _options(name, [part for part in parts[1:] if "=" in part])
    alpha = _number(name, "alpha", plain[0] if plain else "1")
    te = _number(name, "te", options["te"]) if "te" in options else None
    row = Row(name, alpha=alpha, alpha_te=te, blocks=options.get("lbw", "").replace(";", ", "))
    row.strength()
    start, stop = (_number(name, key, options.get(key, end)) for key, end in _WHOLE)
    if not 0 <= start < stop <= 1:
        raise InvalidValue(
            f"<{KIND}:{name}> is on from {start:g} to {stop:g}: start and stop lie between 0 and "
            "1, and start comes first"
        )
    return Tag(row, start, stop)


_WHOLE = (("start", "0"), ("stop", "1"))


def write(tag: Tag) -> str:
    """Return a tag as text that `read` gives back, whatever its name."""
    row = tag.row
    name = _SPECIAL.sub(lambda found: f"%{ord(found[0]):02X}", row.name.removesuffix(".shira"))
    parts = [KIND, name, _text(row.alpha)]
    if row.alpha_te is not None:
        parts.append(f"te={_text(row.alpha_te)}")
    if row.blocks.strip():
        parts.append("lbw=" + ";".join(part.strip() for part in row.blocks.split(",")))
    if tag.start != 0:
        parts.append(f"start={_text(tag.start)}")
    if tag.stop != 1:
        parts.append(f"stop={_text(tag.stop)}")
    return f"<{':'.join(parts)}>"


def _options(name: str, parts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in parts:
        key, _, value = part.partition("=")
        key = key.strip()
        if key not in _OPTIONS or key in found:
            known = ", ".join(f"{each}=" for each in _OPTIONS)
            raise InvalidValue(f"<{KIND}:{name}>: {part!r:.80} is not one of {known}, each once")
        found[key] = value.strip()
    return found


def _number(name: str, what: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidValue(f"<{KIND}:{name}>: {what} {text!r:.80} is no number: {_EXAMPLE}")
    return number


def _text(number: float) -> str:
    """Return the shortest text that is read as this number."""
    return repr(float(number)).removesuffix(".0")
