"""What a run refuses, through the command line: one line with the remedy, exit code 1."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from safetensors.torch import save_file
from trainer_runs import flags

from trainer_ui.engine.cli import train_command
from trainer_ui.engine.config import load
from trainer_ui.engine.loop import train

Settings = dict[str, object]
PRECIOUS = b"precious"


def existing(settings: Settings) -> None:
    Path(str(settings["out"])).write_bytes(PRECIOUS)


def unfinished(settings: Settings) -> None:
    """Leave the folder of a run that broke off after its second step."""
    with pytest.raises(InterruptedError):
        train(load(None, {**settings, "checkpoint_every": 1, "sample_count": 0}), _break)


def _break(step: int, unet: torch.nn.Module) -> None:
    if step == 2:
        raise InterruptedError


def other_settings(settings: Settings) -> None:
    unfinished(settings)
    settings |= {"dora": True}


def copied_pictures(settings: Settings) -> Path:
    """Let the run use a copy of the pictures, which a case may change."""
    copy = Path(str(settings["out"])).parent / "pictures"
    shutil.copytree(str(settings["images"]), copy)
    settings["images"] = str(copy)
    return copy


def other_pictures(settings: Settings) -> None:
    folder = copied_pictures(settings)
    unfinished(settings)
    (folder / "0.txt").write_text("another text")


def empty(settings: Settings) -> None:
    settings["images"] = str(Path(str(settings["out"])).parent)


def one_level_too_high(settings: Settings) -> None:
    settings["images"] = str(copied_pictures(settings).parent)


def latin_caption(settings: Settings) -> None:
    (copied_pictures(settings) / "3.txt").write_bytes("café".encode("latin-1"))


def checkpoint_of(name: str) -> Callable[[Settings], None]:
    def prepare(settings: Settings) -> None:
        path = Path(str(settings["out"])).parent / "model.safetensors"
        save_file({name: torch.zeros(4, 4)}, path)
        settings["base"] = str(path)

    return prepare


def pickled_base(settings: Settings) -> None:
    settings["base"] = str(Path(str(settings["out"])).with_suffix(".ckpt"))
    Path(str(settings["base"])).write_bytes(b"x")


def nothing(settings: Settings) -> None:
    """Leave everything as it is."""


REFUSED: dict[str, tuple[Callable[[Settings], None], list[str], str]] = {
    "output exists": (existing, [], "--overwrite"),
    "unfinished run": (unfinished, [], "--resume"),
    "changed settings": (other_settings, ["--resume"], "dora was False and is now True"),
    "changed pictures": (other_pictures, ["--resume"], "contents of the pictures have changed"),
    "nothing to resume": (nothing, ["--resume"], "nothing to resume"),
    "no pictures": (empty, [], "no pictures in"),
    "one level too high": (one_level_too_high, [], "pictures: give --images"),
    "latin caption": (latin_caption, [], "3.txt is not UTF-8"),
    "part of sdxl": (checkpoint_of("conditioner.embedders.1.x"), [], "not a whole SDXL model"),
    "lora": (checkpoint_of("lora_unet_x.lora_up.weight"), [], "a LoRA"),
    "adapter": (checkpoint_of("x.values"), [], "a SHiRA adapter"),
    "pickle": (pickled_base, [], "is a pickle"),
    "unknown device": (nothing, ["--device=warp"], "use auto or cpu"),
    "no values on the device": (nothing, ["--device=meta"], "use auto or cpu"),
    "wrong value": (nothing, ["--density=0"], "density = 0.0"),
    "config missing": (nothing, ["--config=none.toml"], "none.toml: cannot be read"),
    "axis of another mask": (nothing, ["--axis=rows"], "axis belongs to mask struct"),
}
if not torch.cuda.is_available():
    REFUSED["no GPU"] = (nothing, ["--device=cuda"], "use auto or cpu")


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_are_one_line_and_exit_code_1(
    settings: Settings, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, more, expected = REFUSED[kind]
    prepare(settings)
    capsys.readouterr()
    assert train_command([*flags(settings), *more]) == 1
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1
    out = Path(str(settings["out"]))
    assert not out.exists() or out.read_bytes() == PRECIOUS
    assert not [path.name for path in out.parent.rglob("*.tmp")]
