"""A node for the tests in a real ComfyUI: the hash of a model's weights as they are in memory."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import torch


class Weights:
    """Says the hash; `after` makes it wait for a picture."""

    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
    FUNCTION = "tell"
    OUTPUT_NODE = True
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        return {"required": {"model": ("MODEL",), "after": ("IMAGE",)}}

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:  # noqa: N802
        return float("nan")

    def tell(self, model: Any, after: Any) -> dict[str, Any]:
        found = hashlib.sha256()
        for _, tensor in sorted(model.model.state_dict().items()):
            found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return {"ui": {"digest": [found.hexdigest()]}}


NODE_CLASS_MAPPINGS = {"TestWeights": Weights}
