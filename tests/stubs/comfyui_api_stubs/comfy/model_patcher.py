"""A module, and what is changed in it while it is loaded; clones share the module."""

from __future__ import annotations

import copy
import uuid
from typing import Any

import torch

import comfy.lora
import comfy.utils


def get_key_weight(model: Any, key: str) -> tuple[torch.Tensor, Any, Any]:
    owner, _, name = key.rpartition(".")
    module = comfy.utils.get_attr(model, owner) if owner else model
    found = [getattr(module, f"{verb}_{name}", None) for verb in ("set", "convert")]
    return getattr(module, name), *found


class ModelPatcher:
    def __init__(
        self,
        model: Any,
        load_device: Any,
        offload_device: Any,
        size: int = 0,
        weight_inplace_update: bool = False,
    ) -> None:
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.patches: dict[str, list[Any]] = {}
        self.backup: dict[str, torch.Tensor] = {}
        self.weight_wrapper_patches: dict[str, Any] = {}
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self.patches_uuid = uuid.uuid4()
        self.attachments: dict[str, Any] = {}
        self.wrappers: dict[str, dict[Any, list[Any]]] = {}
        self.hook_patches: dict[Any, Any] = {}
        for name, value in (
            ("model_lowvram", False),
            ("current_weight_patches_uuid", None),
            ("model_loaded_weight_memory", 0),
        ):
            if not hasattr(model, name):
                setattr(model, name, value)

    def clone(self) -> ModelPatcher:
        made = self.__class__(self.model, self.load_device, self.offload_device)
        made.patches = {key: list(found) for key, found in self.patches.items()}
        made.patches_uuid, made.backup = self.patches_uuid, self.backup
        made.model_options = copy.deepcopy(self.model_options)
        made.attachments = dict(self.attachments)
        made.wrappers = {
            kind: {key: list(found) for key, found in by_key.items()}
            for kind, by_key in self.wrappers.items()
        }
        made.hook_patches = {ref: dict(found) for ref, found in self.hook_patches.items()}
        return made

    def is_clone(self, other: Any) -> bool:
        return self.model is other.model

    def get_model_object(self, name: str) -> Any:
        return comfy.utils.get_attr(self.model, name)

    def add_patches(
        self, patches: dict[Any, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]:
        known = self.model.state_dict()
        added = []
        for key, what in patches.items():
            if key in known:
                patch = (strength_patch, what, strength_model, None, None)
                self.patches[key] = [*self.patches.get(key, []), patch]
                added.append(key)
        self.patches_uuid = uuid.uuid4()
        return added

    def add_hook_patches(
        self, hook: Any, patches: Any, strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]:
        mine = self.hook_patches.setdefault(hook.hook_ref, {})
        for key, what in patches.items():
            mine.setdefault(key, []).append((strength_patch, what, strength_model, None, None))
        self.patches_uuid = uuid.uuid4()
        return list(patches)

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, list[Any]]:
        found = {}
        for key in self.model.state_dict():
            if filter_prefix is None or key.startswith(filter_prefix):
                weight, _, convert = get_key_weight(self.model, key)
                convert = convert or (lambda given, **_: given)
                first = (self.backup.get(key, weight), convert)
                found[key] = [first, *self.patches.get(key, [])]
        return found

    def partially_load(
        self, device_to: Any, extra_memory: float = 0, force_patch_weights: bool = False
    ) -> int:
        if self.model.current_weight_patches_uuid not in (None, self.patches_uuid):
            self.unpatch_model(self.offload_device)
        if self.model.current_weight_patches_uuid is None:
            for key, patches in self.patches.items():
                weight, _, _ = get_key_weight(self.model, key)
                self.backup[key] = weight
                made = comfy.lora.calculate_weight(
                    patches, weight.to(torch.float32, copy=True), key
                )
                comfy.utils.set_attr_param(self.model, key, made.to(weight.dtype))
            self.model.current_weight_patches_uuid = self.patches_uuid
        return 0

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
        for key, weight in self.backup.items():
            comfy.utils.set_attr_param(self.model, key, weight)
        self.backup.clear()
        self.model.current_weight_patches_uuid = None

    def detach(self, unpatch_all: bool = True) -> Any:
        if unpatch_all:
            self.unpatch_model(self.offload_device)
        return self.model

    def add_wrapper_with_key(self, wrapper_type: str, key: str | None, wrapper: Any) -> None:
        self.wrappers.setdefault(wrapper_type, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, wrapper_type: str, key: str | None) -> None:
        self.wrappers.get(wrapper_type, {}).pop(key, None)

    def set_attachments(self, key: str, attachment: Any) -> None:
        self.attachments[key] = attachment

    def get_attachment(self, key: str) -> Any:
        return self.attachments.get(key)
