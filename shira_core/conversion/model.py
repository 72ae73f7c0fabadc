"""A model on disk, one file or a diffusers folder: checkpoint names, read weight by weight."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from .. import keymaps
from ..container import open_data, read_header
from ..dense import DTYPES, read_tensor
from ..entries import finite
from ..errors import FileInvalid, ShapeMismatch
from ..mask import Shape
from ..sound import digest
from ..translate import Source

_UNET = "unet"  # of a folder
_PARTS = {_UNET: "unet", "text_encoder": "te1", "text_encoder_2": "te2", "vae": "vae"}
_VAE = "first_stage_model."


class File:
    """The tensors of a safetensors file, by its own names; raises FileInvalid."""

    def __init__(self, path: Path) -> None:
        self.path, self.container = path, read_header(path)

    def read(self, name: str, dtypes: Mapping[str, torch.dtype] = DTYPES) -> Tensor:
        """Return a tensor in its own dtype; raises FileInvalid, for NaN too."""
        try:
            with open_data(self.path, self.container) as file:
                tensor = read_tensor(file, self.container, name, dtypes)
        except OSError as error:
            raise FileInvalid(f"{self.path} cannot be read: {error.strerror or error}") from error
        except FileInvalid as error:
            raise FileInvalid(f"{self.path}: {error}") from None
        if tensor.dtype.is_floating_point and not finite(tensor):
            raise FileInvalid(
                f"{self.path}: {name} has NaN or infinite values: get a file that is not broken"
            )
        return tensor


@dataclass(frozen=True)
class Piece:
    """Rows of a weight as they lie in a file: a whole tensor of it, perhaps transposed."""

    file: File
    name: str
    transposed: bool = False

    @property
    def shape(self) -> Shape:
        shape = self.file.container.tensors[self.name].shape
        return shape[::-1] if self.transposed else shape

    def read(self) -> Tensor:
        """Return the rows in the file's dtype; raises FileInvalid."""
        tensor = self.file.read(self.name)
        return tensor.t() if self.transposed else tensor


@dataclass(frozen=True)
class Model:
    """The weights of a model by checkpoint names.

    pieces: of each weight, in the order of its rows. metadata: of a file, else empty.
    """

    path: Path
    pieces: Mapping[str, list[Piece]]
    metadata: Mapping[str, str]

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The shape of each weight; raises ShapeMismatch where pieces do not fit together."""
        return {name: self._shape(name) for name in self.pieces}

    @property
    def prediction_type(self) -> str:
        """What the metadata or a mark say: "v_prediction", or "" where they say nothing."""
        said = self.metadata.get("modelspec.prediction_type", "")
        return "v_prediction" if said.startswith("v") or "v_pred" in self.pieces else ""

    def sha256(self) -> str:
        """Return the hash of a file, of a folder that of its UNet's files; reads all of them."""
        return digest(*(weight_files(self.path / _UNET) if self.path.is_dir() else [self.path]))

    def floating(self, name: str) -> bool:
        """Tell whether a weight holds floats, which can be read."""
        kinds = {piece.file.container.tensors[piece.name].dtype for piece in self.pieces[name]}
        return kinds <= DTYPES.keys()

    def read(self, name: str) -> Tensor:
        """Return a weight in its own dtype; raises FileInvalid."""
        parts = [piece.read() for piece in self.pieces[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _shape(self, name: str) -> Shape:
        first, *rest = [piece.shape for piece in self.pieces[name]]
        if any(shape != first for shape in rest):
            raise ShapeMismatch(f"{self.path}: the parts of {name} differ in shape: get it again")
        return (first[0] * (1 + len(rest)), *first[1:]) if rest else first


def open_model(path: Path) -> Model:
    """Open a checkpoint, or a diffusers folder of an architecture that `keymaps` knows.

    Raises FileInvalid, ArchitectureMismatch.
    """
    if path.is_dir():
        return Model(path, _folder(path), {})
    file = File(path)
    pieces = {name: [Piece(file, name)] for name in file.container.tensors}
    return Model(path, pieces, file.container.metadata)


def _folder(path: Path) -> dict[str, list[Piece]]:
    """Return the pieces of a diffusers folder's parts, under checkpoint names."""
    parts = {_PARTS[part]: _part(path / part) for part in _PARTS if (path / part).is_dir()}
    if "unet" not in parts:
        raise FileInvalid(
            f"{path} is no diffusers folder (it has no unet/): give the folder that holds "
            "model_index.json, or a .safetensors file"
        )
    shapes = {name: file.container.tensors[name].shape for name, file in parts["unet"].items()}
    kind = keymaps.architecture(shapes)
    found: dict[str, dict[int, Piece]] = defaultdict(dict)
    for component, files in parts.items():
        for name, source in _sources(kind, component, files).items():
            found[source.name][source.part] = Piece(files[name], name, source.transposed)
    return {name: [own[part] for part in sorted(own)] for name, own in found.items()}


def _sources(kind: str, component: str, files: Mapping[str, File]) -> dict[str, Source]:
    if component == "vae":
        return keymaps.vae(files, _VAE)
    return keymaps.sources(kind, component, files)


def _part(folder: Path) -> dict[str, File]:
    """Return the file of each weight of a part."""
    return dict(_named(weight_files(folder)))


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a diffusers folder's part: of full precision, or else the fp16 ones.

    Raises FileInvalid.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        has = "only a pickle" if any(folder.glob("*.bin")) else "no .safetensors file"
        raise FileInvalid(f"{folder} has {has}: get the model as .safetensors")
    plain = [file for file in files if ".fp16" not in file.name and ".non_ema" not in file.name]
    return plain or files


def _named(paths: list[Path]) -> Iterator[tuple[str, File]]:
    for path in paths:
        file = File(path)
        yield from ((name, file) for name in file.container.tensors)
