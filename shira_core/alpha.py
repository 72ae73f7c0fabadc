"""How strongly an adapter is applied: one number, or one per component and block."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import InvalidValue
from .names import COMPONENTS, block, component

_BLOCK = re.compile(r"(?:in|out|double|single|joint|block|te[123]\.)\d+|mid")


@dataclass(frozen=True)
class Alpha:
    """The alpha of one adapter in a stack. Any finite number: negative and above 1, too.

    value: for every component that `components` does not name.
    components: own alphas, by "unet", "te1", "te2", "te3", "vae", or "te" for all text encoders.
    blocks: factors, by names that `names.block` gives ("in4", "mid", "out11", "te1.7"); 0 leaves a
        block out.
    Raises InvalidValue for other names or numbers that are not finite.
    """

    value: float = 1.0
    components: Mapping[str, float] = field(default_factory=dict)
    blocks: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.components:
            if name not in (*COMPONENTS, "te"):
                raise InvalidValue(
                    f"component {name!r} is unknown: choose one of {', '.join(COMPONENTS)}, te"
                )
        for name in self.blocks:
            if not _BLOCK.fullmatch(name):
                raise InvalidValue(
                    f"block {name!r} is unknown: blocks are named in0, mid, out11, double3, te1.7"
                )
        for number in (self.value, *self.components.values(), *self.blocks.values()):
            if not isinstance(number, (int, float)) or not math.isfinite(number):
                raise InvalidValue(f"alpha {number!r} is not a finite number: 0.8, say")

    def at(self, name: str) -> float:
        """Return the alpha of the weight with this checkpoint name."""
        if not self.components and not self.blocks:
            return float(self.value)
        place = component(name)
        value = self.components.get(place)
        if value is None and place.startswith("te"):
            value = self.components.get("te")
        return float(self.value if value is None else value) * self.blocks.get(block(name), 1.0)


def as_alpha(value: Alpha | float) -> Alpha:
    """Return a number as an Alpha; an Alpha as it is."""
    return value if isinstance(value, Alpha) else Alpha(value)


def parse(text: str) -> Alpha:
    """Read "0.8" or "0.8,te=0.5,mid=0"; raises InvalidValue.

    A part without a name is the general alpha; components replace it, blocks multiply.
    """
    value, components, blocks = 1.0, {}, {}
    for part in text.split(","):
        name, equals, number = part.strip().rpartition("=")
        amount = _number(number, text)
        if not equals:
            value = amount
        elif name in (*COMPONENTS, "te"):
            components[name] = amount
        else:
            blocks[name] = amount
    return Alpha(value, components, blocks)


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidValue(
            f"alpha {whole!r} is not understood: write 0.8 or 0.8,te=0.5,mid=0"
        ) from None
