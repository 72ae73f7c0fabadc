"""The card: README.md of the folder, with what hubs and people read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...header import Header, summary
from ...names import label
from .about import About
from .text import code, front_matter, one_line, paragraphs, plain, table

PAPER = "https://arxiv.org/abs/2406.13175"
HUB = "https://huggingface.co"
# Identifiers that hubs know and people use for adapters and their bases; others are "other".
LICENCES = (
    *("apache-2.0", "mit", "openrail", "openrail++", "creativeml-openrail-m", "cc0-1.0"),
    *("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-sa-4.0"),
    *("cc-by-nc-nd-4.0", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0"),
    *("mpl-2.0", "unlicense", "wtfpl"),
)
STRENGTH = (
    "The strength is called *alpha*. Alpha 1 is what was trained: on its own base it gives the "
    "trained weights bit for bit. Lower values weaken the style (try 0.7 where it is too much, or "
    "on another base), values above 1 exaggerate it. With several adapters, lower each of them."
)
_FAMILIES = {"sd15": "stable-diffusion", "sd2": "stable-diffusion", "sdxl": "stable-diffusion-xl"}


@dataclass(frozen=True)
class Picture:
    """A picture of the card. path: relative to the folder."""

    path: Path
    prompt: str


@dataclass(frozen=True)
class Size:
    """share: of the weights that the adapter touches. sha256: of its file."""

    entries: int
    share: float
    sha256: str


def card(file: str, header: Header, size: Size, about: About, pictures: Sequence[Picture]) -> str:
    """Return the text of README.md. file: the adapter's name in the folder."""
    rows = _training(header)
    parts = [
        front_matter(_metadata(header, about, pictures)),
        f"# {plain(header.title)}",
        paragraphs(header.description),
        *map(_shown, pictures),
        "## What it is",
        _what(header, size),
        _bullets(_facts(file, header, size, about)),
        "## How to use it",
        _bullets(_use(file, header, about)),
        "Name the trigger words in the prompt." if header.triggers else "",
        "In diffusers:",
        _diffusers(file, header, about),
        "## Strength",
        STRENGTH,
        "## Training" if rows else "",
        table(rows),
        "## Licence",
        _licence(header.license),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(header: Header, about: About, pictures: Sequence[Picture]) -> dict[str, Any]:
    family = _FAMILIES.get(header.architecture, "")
    tags = ["text-to-image", "shira", "sparse-high-rank-adapter", family, *header.tags]
    return {
        **_licence_fields(header.license),
        "base_model": about.base_model,
        "base_model_relation": "adapter" if about.base_model else "",
        "pipeline_tag": "text-to-image",
        "tags": [tag for tag in dict.fromkeys(map(one_line, tags)) if tag],
        "instance_prompt": one_line(", ".join(header.triggers)),
        "widget": [
            {"text": one_line(p.prompt), "output": {"url": p.path.as_posix()}} for p in pictures
        ],
    }


def _licence_fields(licence: str) -> dict[str, str]:
    """Return a hub's fields for a licence; it refuses names that it does not know."""
    name = one_line(licence).lower()
    if not name or name in LICENCES:
        return {"license": name}
    slug = re.sub(r"[^a-z0-9.+-]+", "-", name).strip("-")
    return {"license": "other", "license_name": slug or "other"}


def _shown(picture: Picture) -> str:
    prompt = plain(picture.prompt)
    return f"![{prompt}]({picture.path.as_posix()})" + (f"\n\n*{prompt}*" if prompt else "")


def _bullets(items: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- {name}: {text}" for name, text in items if text)


def _what(header: Header, size: Size) -> str:
    kind = plain(label(header.architecture))
    return (
        f"A [sparse high rank adapter (SHiRA)]({PAPER}) for {kind}: it changes {size.entries:,} "
        f"entries of the base's own weights, {size.share:.2%} of the weights that it touches, and "
        "adds no layer."
    )


def _facts(file: str, header: Header, size: Size, about: About) -> list[tuple[str, str]]:
    base, there = plain(header.base), about.base_model
    return [
        ("Trigger words", ", ".join(map(code, header.triggers))),
        ("Base", f"[{plain(there)}]({HUB}/{there})" if there else base),
        ("SHA-256 of the base", code(header.base_sha256) if header.base_sha256 else ""),
        ("Prediction", plain(header.prediction_type)),
        ("Author", plain(header.author)),
        (f"SHA-256 of {code(file)}", code(size.sha256)),
    ]


def _use(file: str, header: Header, about: About) -> list[tuple[str, str]]:
    kind, tag = plain(label(header.architecture)), code(f"<shira:{Path(file).stem}:1>")
    pull = f"{code(f'shira pull {about.repository}')} fetches and checks it."
    return [
        (
            "**ComfyUI** with the SHiRA nodes",
            f"put {code(file)} into `ComfyUI/models/shira` and add the node *Load SHiRA* behind "
            f"the loader of a model for {kind}.",
        ),
        (
            "**AUTOMATIC1111, Forge, reForge** with the SHiRA extension",
            f"put it into `models/shira` and write {tag} into the prompt. The picture and the "
            "JSON file of the same name go beside it.",
        ),
        ("**Command line**", pull if about.repository else ""),
    ]


def _diffusers(file: str, header: Header, about: About) -> str:
    """Return code that runs as it stands where base and file are on a hub."""
    base = about.base_model or "path/to/the/base"
    prompt = one_line(", ".join(header.triggers)) or "a lighthouse"
    hub = "from huggingface_hub import hf_hub_download"
    fetched = f"hf_hub_download({about.repository!r}, {file!r})"
    lines = [
        "import torch",
        "from diffusers import DiffusionPipeline",
        *([hub] if about.repository else []),
        "from shira_core.integrations.diffusers import load_shira",
        "",
        f"pipe = DiffusionPipeline.from_pretrained({base!r})",
        "pipe.to(torch.float32)  # on a GPU: pipe.to('cuda', torch.float16)",
        f"file = {fetched if about.repository else repr(file)}",
        "style = load_shira(pipe, file, alpha=1.0)",
        f"picture = pipe({prompt!r}).images[0]",
        "style.set_alpha(0.7)  # milliseconds",
        "style.remove()  # the base again, bit for bit",
    ]
    return "\n".join(["```python", *lines, "```"])


def _training(header: Header) -> list[tuple[str, object]]:
    told = {"mask": header.mask, "density": header.density, "seed": header.seed}
    values = {**told, **header.training}
    return [(name, summary(value)) for name, value in values.items() if value not in (None, "")]


def _licence(licence: str) -> str:
    if not licence:
        return "The author has named no licence: ask before you use it for more than a trial."
    return f"{plain(licence)}. The licence of the base holds, too."
