"""reForge: a model and the patches that it wears when it is loaded."""

from __future__ import annotations

import uuid
from typing import Any

import torch

from ldm_patched.modules.weight_adapter.base import WeightAdapterBase


class ModelPatcher:
    def __init__(self, model: Any, backup: Any = None) -> None:
        self.model = model
        self.patches: dict[str, list[Any]] = {}
        self.patches_uuid = uuid.uuid4()
        self.backup: dict[str, Any] = {} if backup is None else backup

    def clone(self) -> ModelPatcher:
        made = ModelPatcher(self.model, self.backup)
        made.patches = {key: found[:] for key, found in self.patches.items()}
        made.patches_uuid = self.patches_uuid
        return made

    def add_patches(
        self, patches: Any, strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[str]:
        known = self.model.state_dict()
        for key, patch in patches.items():
            if key in known:
                added = (strength_patch, patch, strength_model, None, None)
                self.patches.setdefault(key, []).append(added)
        self.patches_uuid = uuid.uuid4()
        return [key for key in patches if key in known]

    def patch_model(self) -> None:
        """Load the model with the patches of this clone, whatever another one has left in it."""
        if getattr(self.model, "loaded", None) == self.patches_uuid:
            return
        for key, weight in self.backup.items():
            self.model.get_parameter(key).data = weight
        self.backup.clear()
        for key, found in self.patches.items():
            weight = self.model.get_parameter(key)
            self.backup[key] = weight.data
            merged = weight.data.to(torch.float32, copy=True)
            for strength, patch, strength_model, offset, function in found:
                if isinstance(patch, WeightAdapterBase):
                    merged = patch.calculate_weight(
                        merged, key, strength, strength_model, offset, function
                    )
                else:
                    merged += strength * patch[1][0].to(merged.dtype)
            weight.data = merged.to(weight.dtype)
        self.model.loaded = self.patches_uuid
