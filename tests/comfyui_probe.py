"""Nodes for the tests in a real ComfyUI: they tell what a model is and holds."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import torch


class Probe:
    """What the nodes have in common: they end a graph and say something of a model."""

    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
    FUNCTION = "tell"
    OUTPUT_NODE = True
    CATEGORY = "tests"


class ModelClass(Probe):
    """Says the name of the model's configuration class, "SD15" for Stable Diffusion 1.5."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        return {"required": {"model": ("MODEL",)}}

    def tell(self, model: Any) -> dict[str, Any]:
        return {"ui": {"model_class": [type(model.model.model_config).__name__]}}


class Weights(Probe):
    """Says the hash of a model's weights as they are in memory; `after` waits for a picture."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"model": ("MODEL",), "after": ("IMAGE",)}}

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:  # noqa: N802
        return float("nan")

    def tell(self, model: Any, after: Any) -> dict[str, Any]:
        found = hashlib.sha256()
        for _, tensor in sorted(model.model.state_dict().items()):
            found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return {"ui": {"digest": [found.hexdigest()]}}


NODE_CLASS_MAPPINGS = {"TestModelClass": ModelClass, "TestWeights": Weights}
