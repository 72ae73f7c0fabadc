"""Does an adapter fit a checkpoint? Told to the page from headers, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import folder_paths

from shira_core.check import check_fit
from shira_core.container import read_header
from shira_core.errors import ShiraError
from shira_core.names import UNET, component, detect
from shira_core.translate import Source, translated

from .folder import LIBRARY

FOLDERS = ("checkpoints", "diffusion_models")
Shapes = dict[str, Sequence[int]]


def problem(name: str, folder: str, file: str) -> str:
    """Say why an adapter cannot be used on a file of a model folder; "" if it can.

    Also "" for files that do not tell: pickles, unknown architectures. Raises FileInvalid.
    """
    adapter = LIBRARY.load(name).adapter
    path = folder_paths.get_full_path(folder, file) if folder in FOLDERS else None
    if path is None or not path.endswith(".safetensors"):
        return ""
    shapes: Shapes = {key: info.shape for key, info in read_header(Path(path)).tensors.items()}
    if not any(key.startswith(UNET) for key in shapes):  # a denoiser alone has no prefix
        shapes = {UNET + key: shape for key, shape in shapes.items()}
    if detect(shapes) == "unknown":
        return ""
    own = [key for key in adapter.weights if component(key) == "unet"]
    apart = tuple(key for key in adapter.weights if component(key) != "unet")
    named = {(key if key.startswith(UNET) else UNET + key): Source(key) for key in own}
    try:
        check_fit(translated(adapter, named, apart=apart), shapes)
    except ShiraError as error:
        return str(error).replace(str(adapter.path), name)  # the page needs no path
    return ""
