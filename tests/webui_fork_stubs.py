"""The stubs of Forge and reForge."""

from __future__ import annotations

import webui_stubs  # noqa: F401 - puts the stubs on the path
from backend.patcher import lora
from backend.patcher.base import ModelPatcher
from backend.patcher.clip import CLIP
from ldm_patched.modules.model_patcher import ModelPatcher as ReForgePatcher

__all__ = ["CLIP", "ModelPatcher", "ReForgePatcher", "lora"]
