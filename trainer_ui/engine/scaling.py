"""The loss scale of float16: small gradients would vanish, so losses are multiplied first.

Mixed Precision Training, section 3.2. The scale is two numbers, so that a resumed run has it.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST, LEAST, MOST = 2.0**16, 1.0, 2.0**24
GROWS_AFTER = 500  # steps without an overflow


@dataclass(frozen=True)
class Scale:
    """What the loss is multiplied by. good: steps since the last overflow or growth."""

    value: float = 1.0
    good: int = 0

    def after(self, overflowed: bool) -> Scale:
        """Return the scale of the next step."""
        if overflowed:
            return Scale(max(LEAST, self.value / 2))
        if self.good + 1 < GROWS_AFTER:
            return Scale(self.value, self.good + 1)
        return Scale(min(MOST, 2 * self.value))

    @property
    def exhausted(self) -> bool:
        """Whether an overflow cannot be the scale's fault."""
        return self.value <= LEAST
