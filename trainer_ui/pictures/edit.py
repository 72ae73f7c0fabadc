"""A change of many captions, to be looked at before it is made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """The caption of one picture. name: its path below the folder. before: None for no caption."""

    name: str
    before: str | None
    after: str


@dataclass(frozen=True)
class Edit:
    """A bulk edit. about: what it does, for a person."""

    about: str
    changes: tuple[Change, ...]
