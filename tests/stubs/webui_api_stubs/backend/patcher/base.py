"""Forge: a model and the patches that it wears when it is loaded."""

from __future__ import annotations

from typing import Any

import torch

from backend.patcher.lora import LoraLoader


class ModelPatcher:
    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.lora_patches: dict[Any, Any] = {}
        if not hasattr(model, "lora_loader"):
            model.lora_loader = LoraLoader(model)  # type: ignore[assignment]

    def clone(self) -> ModelPatcher:
        made = ModelPatcher(self.model)
        made.lora_patches = self.lora_patches.copy()
        return made

    def add_patches(
        self,
        *,
        filename: str,
        patches: Any,
        strength_patch: float = 1.0,
        strength_model: float = 1.0,
        online_mode: bool = False,
    ) -> set[str]:
        known = {name for name, _ in self.model.named_parameters()}
        entry = {
            key: [[strength_patch, patch, strength_model, None, None]]
            for key, patch in patches.items()
            if key in known
        }
        self.lora_patches[(filename, strength_patch, strength_model, online_mode)] = entry
        return set(entry)

    def refresh_loras(self) -> None:
        self.model.lora_loader.refresh(self.lora_patches)  # type: ignore[operator, union-attr]
