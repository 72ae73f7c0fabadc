"""Pictures and prompts as the UNet sees them, put into a store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .base import Base
from .data import Dataset, Example, Skipped, pictures
from .data.pictures import CENTRE, Place
from .errors import DataInvalid
from .objective import generator
from .store import Memory, Store, fingerprint, key
from .text import Texts
from .tokenizer import LENGTH

Say = Callable[[str], None]
GROUP = 32  # prompts that are encoded together


@dataclass(frozen=True)
class Cut:
    """One cut of a picture. place: where. keys: of its records, as it is and mirrored."""

    place: Place
    keys: tuple[str, str]


@dataclass(frozen=True)
class Encoded:
    """The pictures that could be read, with the cuts of each, and those that could not."""

    examples: tuple[Example, ...]
    cuts: tuple[tuple[Cut, ...], ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class _File:
    """A picture's file and its mask's, read once: what is hashed is what is decoded."""

    example: Example
    picture: bytes
    mask: bytes

    @property
    def hashes(self) -> list[str]:
        return [hashlib.sha256(raw).hexdigest() for raw in (self.picture, self.mask)]


def encode_pictures(
    base: Base, dataset: Dataset, crops: int, flip: bool, seed: int, store: Store, say: Say
) -> Encoded:
    """Put the latents of all pictures into the store, those that it does not hold.

    crops: random cuts per picture, 0 for one at the centre. A picture that cannot be decoded is
    left out. A record holds `mean` and `std` (4, h, w) of the VAE's posterior, scaled, float32, and
    with a mask `mask` (1, h, w).
    """
    vae = "" if isinstance(store, Memory) else fingerprint(base.vae)
    examples, cuts, skipped = [], [], []
    for number, example in enumerate(dataset.examples, 1):
        places = _places(example, crops, seed)
        try:
            cuts.append(_encode_picture(base, _open(example), places, flip, vae, store))
            examples.append(example)
        except DataInvalid as error:
            skipped.append(Skipped(example.name, str(error)))
        if number % 100 == 0:
            say(f"encoded {number} of {len(dataset.examples)} pictures")
    return Encoded(tuple(examples), tuple(cuts), tuple(skipped))


def encode_texts(base: Base, prompts: Sequence[str], store: Store, warn: Say) -> dict[str, str]:
    """Put the texts of all prompts into the store; return the key of each prompt.

    Warns of those that CLIP's 77 tokens cut. A record holds the tensors of `Texts`, float32.
    """
    full = [prompt for prompt in prompts if base.tokenizer.count(prompt) > LENGTH - 2]
    if full:
        warn(f"{len(full)} captions are longer than {LENGTH - 2} tokens; their ends are not seen")
    modules = [encoder.module for encoder in base.text_encoders]
    encoders = "" if isinstance(store, Memory) else fingerprint(*modules)
    keys = {prompt: _text_key(base, prompt, encoders) for prompt in prompts}
    missing = [prompt for prompt in prompts if keys[prompt] not in store]
    for start in range(0, len(missing), GROUP):
        group = missing[start : start + GROUP]
        texts = base.encode_text(group).map(lambda tensor: tensor.float().cpu())
        for row, prompt in enumerate(group):
            store.put(keys[prompt], _record(texts[row : row + 1]))
    return keys


def _places(example: Example, crops: int, seed: int) -> list[Place]:
    if not crops:
        return [CENTRE]
    sources = (generator(seed, f"crop {example.name}", number) for number in range(crops))
    drawn = [torch.rand(2, generator=source).tolist() for source in sources]
    return [(left, top) for left, top in drawn]


def _open(example: Example) -> _File:
    """Read a picture's files; raises DataInvalid with the reason to leave it out."""
    painted = example.mask if example.mask != example.path else None
    return _File(example, _bytes(example.path), _bytes(painted) if painted else b"")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataInvalid(f"{path.name} cannot be read ({error.strerror})") from None


def _encode_picture(
    base: Base, file: _File, places: list[Place], flip: bool, vae: str, store: Store
) -> tuple[Cut, ...]:
    """Encode the cuts of one picture that the store lacks; its file is decoded only for those."""
    example, picture = file.example, None
    facts = (vae, *file.hashes, example.mask is not None, example.bucket)
    cuts = []
    for place in places:
        cut = Cut(place, (key(*facts, place, False), key(*facts, place, True)))
        cuts.append(cut)
        wanted = cut.keys[: 1 + flip]
        if all(each in store for each in wanted):
            continue
        picture = picture or pictures.decode(file.picture)
        shown = _mask(file, picture)
        for name, record in zip(
            wanted, _views(base, example, picture, shown, place, flip), strict=True
        ):
            store.put(name, record)
    return tuple(cuts)


def _mask(file: _File, picture: Image.Image) -> Image.Image | None:
    """Return the mask of a picture in grey; raises DataInvalid when nothing would be learned."""
    if file.example.mask is None:
        return None
    own = file.example.mask == file.example.path
    shown = pictures.alpha(picture) if own else pictures.grey(pictures.decode(file.mask))
    if shown.getextrema()[1] == 0:
        raise DataInvalid("its mask is all black: nothing of it would be learned")
    return shown


@torch.no_grad()
def _views(
    base: Base,
    example: Example,
    picture: Image.Image,
    shown: Image.Image | None,
    place: Place,
    flip: bool,
) -> list[dict[str, Tensor]]:
    """Return the records of one cut: as it is and, with `flip`, mirrored."""
    pixels = pictures.pixels(picture, example.bucket, place)
    views = torch.stack([pixels, pixels.flip(-1)] if flip else [pixels])
    posterior = base.vae.encode(views.to(next(base.vae.parameters()).device)).latent_dist
    scale = float(base.vae.config.scaling_factor)
    mean, std = (tensor.float().cpu() * scale for tensor in (posterior.mean, posterior.std))
    if not mean.isfinite().all():
        raise DataInvalid("the base's VAE gives no numbers for it")
    records = [{"mean": mean[row], "std": std[row]} for row in range(len(views))]
    if shown:
        size = (mean.shape[-1], mean.shape[-2])
        mask = pictures.mask(shown, picture.size, size, place)
        for record, turned in zip(records, (mask, mask.flip(-1)), strict=False):
            record["mask"] = turned
    return records


def _text_key(base: Base, prompt: str, encoders: str) -> str:
    tokens = [encoder.tokenizer([prompt]).tolist() for encoder in base.text_encoders]
    return key(encoders, prompt, tokens)


def _record(texts: Texts) -> dict[str, Tensor]:
    every = {field.name: getattr(texts, field.name) for field in fields(texts)}
    return {name: tensor for name, tensor in every.items() if tensor is not None}
