"""A process that draws prompts with several adapters and alphas, for one to be chosen.

python -m trainer_ui.app.drawing REQUEST.json
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from shira_core.atomic import atomic_write
from shira_core.errors import FileInvalid, ShiraError

if TYPE_CHECKING:
    from PIL import Image

    from ..engine.base import Base
    from ..engine.config import Config
    from ..engine.device import Arithmetic

GRID = "compare.png"  # in the folder of a run, its request and pictures beside it
PARTS = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class Cell:
    """One picture of a grid. about: what it shows, for a person."""

    about: str
    prompt: str
    path: Path


@dataclass(frozen=True)
class Request:
    """What is drawn. config: TOML of the run. out: a PNG of all.

    adapters: files, each drawn with each of the alphas.
    """

    config: str
    adapters: tuple[str, ...]
    alphas: tuple[float, ...]
    prompts: tuple[str, ...]
    out: str

    def save(self, path: Path) -> None:
        """Write it for the process."""
        with atomic_write(path, overwrite=True) as target:
            target.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @property
    def cells(self) -> list[Cell]:
        """The pictures that lie beside the grid."""
        out = Path(self.out)
        return [
            Cell(f"{Path(file).stem}, alpha {alpha:g}: {prompt}", prompt, cell(out, i, j, k))
            for i, file in enumerate(self.adapters)
            for j, alpha in enumerate(self.alphas)
            for k, prompt in enumerate(self.prompts)
        ]


def cell(out: Path, adapter: int, alpha: int, prompt: int) -> Path:
    """Return where one picture is kept beside the grid."""
    return out.with_name(f"{out.stem}-{adapter}-{alpha}-{prompt}.png")


def read(path: Path) -> Request | None:
    """Return what was saved, None where there is nothing or something else."""
    try:
        read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        values: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in read.items()}
        return Request(**values)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def main(arguments: Sequence[str]) -> int:
    """Draw a request; errors are one line on stderr."""
    from ..engine.cli import ENVIRONMENT

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        request = read(Path(arguments[0]))
        if request is None:
            raise FileInvalid(f"{arguments[0]} says nothing that can be drawn: draw again")
        draw(request)
    except (ShiraError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def draw(request: Request) -> None:
    """Draw the grid: a row for the base and each adapter, columns for each prompt and alpha."""
    from ..engine import sample

    out = Path(request.out)
    rows, texts = [], list[str]()
    for adapter, prompts, by_alpha in _rows(request):
        texts = [f"{alpha:g}: {text}" for text in prompts for alpha in request.alphas]
        pictures = [drawn[k] for k in range(len(prompts)) for drawn in by_alpha]
        rows.append(("base" if adapter is None else Path(request.adapters[adapter]).stem, pictures))
        for at, drawn in enumerate(by_alpha if adapter is not None else ()):
            for number, picture in enumerate(drawn):
                sample.save(picture, cell(out, adapter or 0, at, number))
    sample.save(sample.grid(rows, texts), out)


def _rows(request: Request) -> Iterator[tuple[int | None, list[str], list[list[Image.Image]]]]:
    """Yield the prompts and, for each alpha, their pictures: the base's, then each adapter's."""
    import torch

    from shira_core.integrations.diffusers import load_shira

    from ..engine import sample

    opened = _open(request)
    scene = sample.scene(opened.base, opened.config, [], opened.resolution)
    assert scene is not None
    # The scene holds what the text encoders say, and an adapter may change them.
    drawer = replace(opened.base, text_encoders=())

    def drawn() -> list[Image.Image]:
        told = replace(scene, towards=opened.base.encode_text(scene.prompts)) if changed else scene
        return sample.draw(drawer, opened.arithmetic, opened.config, told, lambda: False)

    changed = False
    with torch.no_grad():
        yield None, scene.prompts, [drawn()] * len(request.alphas)
        changed = True
        for number, path in enumerate(request.adapters):
            with load_shira(_pipeline(opened.base), path, 0.0) as loaded:
                by_alpha = []
                for alpha in request.alphas:
                    loaded.set_alpha(alpha)
                    by_alpha.append(drawn())
                yield number, scene.prompts, by_alpha


@dataclass(frozen=True)
class _Opened:
    """A base on its device, and how it draws."""

    base: Base
    arithmetic: Arithmetic
    config: Config
    resolution: int


def _open(request: Request) -> _Opened:
    from ..engine import base as bases
    from ..engine import device
    from ..engine.config import load, read_toml

    config = load(None, read_toml(Path(request.config))).model_copy(
        update={"sample_prompts": request.prompts, "sample_count": len(request.prompts)}
    )
    place = device.choose(config)
    arithmetic = device.arithmetic(config, place, bases.peek(config.base))
    base = bases.open_base(config.base, arithmetic.held)
    for module in (base.unet, base.vae, *(each.module for each in base.text_encoders)):
        module.requires_grad_(False).to(place)
    return _Opened(base, arithmetic, config, config.resolution or base.resolution)


def _pipeline(base: Base) -> Any:
    """Return the base under the names of diffusers' pipelines."""
    encoders = dict(zip(PARTS, (each.module for each in base.text_encoders), strict=False))
    return SimpleNamespace(unet=base.unet, **encoders)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
