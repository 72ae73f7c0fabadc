"""Forge: weight patches on clones of its model patchers, which it merges when it loads a model."""

from __future__ import annotations

from typing import Any

HOST: Any = None
