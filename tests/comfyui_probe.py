"""A node for the tests in a real ComfyUI: tells what ComfyUI takes a model for."""

from __future__ import annotations

from typing import Any, ClassVar


class ModelClass:
    """Says the name of the model's configuration class, "SD15" for Stable Diffusion 1.5."""

    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
    FUNCTION = "tell"
    OUTPUT_NODE = True
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        return {"required": {"model": ("MODEL",)}}

    def tell(self, model: Any) -> dict[str, Any]:
        return {"ui": {"model_class": [type(model.model.model_config).__name__]}}


NODE_CLASS_MAPPINGS = {"TestModelClass": ModelClass}
