"""Checkpoints and the model in use."""

from __future__ import annotations

from typing import Any

from modules import shared


class CheckpointInfo:
    def __init__(self, filename: str) -> None:
        self.filename = filename


files: dict[str, dict[str, Any]] = {}
"""The weights of each checkpoint file, by their names in the model."""


def load_model_weights(
    model: Any, checkpoint_info: CheckpointInfo, state_dict: Any, timer: Any
) -> None:
    """Copy a checkpoint's weights into a model; the built-in Lora learns of it by module."""
    for name, module in model.named_modules():
        module.load_state_dict(
            {
                key.removeprefix(f"{name}."): value
                for key, value in (state_dict or files[checkpoint_info.filename]).items()
                if key.rpartition(".")[0] == name
            },
            strict=False,
        )
    model.sd_checkpoint_info = checkpoint_info


def reload_model_weights(
    sd_model: Any = None, info: Any = None, forced_reload: bool = False
) -> Any:
    model = sd_model or shared.sd_model
    if info is not None and info is not model.sd_checkpoint_info:
        load_model_weights(model, info, None, None)
    return model
