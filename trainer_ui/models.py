"""Bases that can be trained, what a run of them would be, and pictures of masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .engine.config import Config
from .roots import Roots

MASKS: Mapping[str, str] = {}  # a plain explanation of each mask


@dataclass(frozen=True)
class Found:
    """A base. architecture: as people call it. size: bytes of its weights."""

    path: Path
    architecture: str
    size: int


@dataclass(frozen=True)
class Plan:
    """What a run would be. memory: bytes that a GPU must have free. seconds: None: not measured."""

    entries: int
    positions: int
    file_bytes: int
    memory: int
    steps: int
    seconds: float | None


def bases(roots: Roots) -> list[Found]:
    """Return the checkpoints and diffusers folders below the roots that can be trained."""
    raise NotImplementedError


def plan(config: Config, seconds_per_step: float | None = None) -> Plan:
    """Return what a run would be, without looking at its pictures."""
    raise NotImplementedError


def layers(base: Path) -> list[str]:
    """Return the names of the weights of a base's UNet that can be trained."""
    raise NotImplementedError


def mask_picture(base: Path, layer: str, mask: str, density: float) -> Image.Image:
    """Return a picture of a mask on one weight: rows are outputs, columns inputs."""
    raise NotImplementedError
