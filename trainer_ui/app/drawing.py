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
from shira_core.errors import ShiraError

if TYPE_CHECKING:
    from PIL import Image

    from ..engine.base import Base

PARTS = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class Request:
    """What is drawn. config: TOML of the run. out: a PNG of all; `first`: of the first prompt's.

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


def cell(out: Path, adapter: int, alpha: int, prompt: int) -> Path:
    """Return where one picture is kept beside the grid."""
    return out.with_name(f"{out.stem}-{adapter}-{alpha}-{prompt}.png")


def main(arguments: Sequence[str]) -> int:
    """Draw a request; errors are one line on stderr."""
    from ..engine.cli import ENVIRONMENT

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        draw(Request(**json.loads(Path(arguments[0]).read_text(encoding="utf-8"))))
    except (ShiraError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def draw(request: Request) -> None:
    """Draw the grid: a row for each adapter and alpha, a column for each prompt."""
    from ..engine import sample

    out = Path(request.out)
    rows, texts = [], list[str]()
    for (adapter, alpha), prompts, pictures in _rows(request):
        texts = prompts
        label = "base"
        if adapter is not None:
            label = f"{Path(request.adapters[adapter]).stem}, alpha {request.alphas[alpha]:g}"
            for number, picture in enumerate(pictures):
                sample.save(picture, cell(out, adapter, alpha, number))
        rows.append((label, pictures))
    sample.save(sample.grid(rows, texts), out)


def _rows(
    request: Request,
) -> Iterator[tuple[tuple[int | None, int], list[str], list[Image.Image]]]:
    """Yield the pictures of the base, then those of each adapter with each alpha."""
    import torch

    from shira_core.integrations.diffusers import load_shira

    from ..engine import base as bases
    from ..engine import device, sample
    from ..engine.config import load, read_toml

    config = load(None, read_toml(Path(request.config))).model_copy(
        update={"sample_prompts": tuple(request.prompts), "sample_count": len(request.prompts)}
    )
    place = device.choose(config)
    arithmetic = device.arithmetic(config, place, bases.peek(config.base))
    base = bases.open_base(config.base, arithmetic.held)
    resolution = config.resolution or base.resolution
    modules = [base.unet, base.vae, *(each.module for each in base.text_encoders)]
    for module in modules:
        module.requires_grad_(False).to(place)

    def drawn() -> tuple[list[str], list[Image.Image]]:
        scene = sample.scene(base, config, [], resolution)
        assert scene is not None
        told = replace(base, text_encoders=())  # the scene holds what they say
        return scene.prompts, sample.draw(told, arithmetic, config, scene, lambda: False)

    with torch.no_grad():
        yield (None, 0), *drawn()
        for number, path in enumerate(request.adapters):
            with load_shira(_pipeline(base), path, 0.0) as loaded:
                for at, alpha in enumerate(request.alphas):
                    loaded.set_alpha(alpha)
                    yield (number, at), *drawn()


def _pipeline(base: Base) -> Any:
    """Return the base under the names of diffusers' pipelines."""
    encoders = dict(zip(PARTS, (each.module for each in base.text_encoders), strict=False))
    return SimpleNamespace(unet=base.unet, **encoders)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
