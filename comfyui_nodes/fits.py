"""Does an adapter fit a checkpoint? Told to the page from headers, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from shira_core.container import read_header
from shira_core.errors import ShiraError
from shira_core.keymaps import comfy
from shira_core.names import UNET, detect

from .folder import LIBRARY

FOLDERS = ("checkpoints", "diffusion_models")


def problem(name: str, folder: str, file: str) -> str:
    """Say why an adapter cannot be used on a file of a model folder; "" if it can.

    Also "" for files that do not tell: pickles, unknown architectures. Raises FileInvalid.
    """
    adapter = LIBRARY.load(name).adapter
    path = folder_paths.get_full_path(folder, file) if folder in FOLDERS else None
    if path is None or not path.endswith(".safetensors"):
        return ""
    found = {key: tuple(info.shape) for key, info in read_header(Path(path)).tensors.items()}
    whole = any(key.startswith(UNET) for key in found)  # a denoiser alone has no prefix
    shapes = {(key if whole else UNET + key): shape for key, shape in found.items()}
    if detect(shapes) == "unknown":
        return ""
    try:
        comfy.denoiser(adapter, {key.removeprefix("model."): v for key, v in shapes.items()})
    except ShiraError as error:
        return str(error).replace(str(adapter.path), name)  # the page needs no path
    return ""
