"""What `shira reference` refuses: one clear line, and nothing is left behind."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapters import random_adapter
from safetensors.torch import load_file, save_file

from shira_core.cli import main
from shira_core.names import UNET
from trainer_ui.reference.compact import CLIP_ROWS, FOLDER

QUERY = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


def linked(root: Path) -> Path:
    """Return a copy of the base whose files are links."""
    return Path(shutil.copytree(FOLDER, root / "copy", copy_function=os.symlink))


def replaced(root: Path, file: str, content: bytes) -> Path:
    path = linked(root) / file
    path.unlink()
    path.write_bytes(content)
    return root / "copy"


def without(root: Path, file: str) -> Path:
    (linked(root) / file).unlink()
    return root / "copy"


def configured(root: Path, part: str, **changes: object) -> Path:
    file = f"{part}/config.json"
    config = json.loads((FOLDER / file).read_text("utf-8"))
    return replaced(root, file, json.dumps({**config, **changes}).encode())


def reweighted(root: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    file = "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(FOLDER / file)
    change(weights)
    (linked(root) / file).unlink()
    save_file(weights, root / "copy" / file)
    return root / "copy"


BAD_BASES = {
    "absent": (lambda root: root / "none", "there is no folder"),
    "empty": (lambda root: root, "has no unet/diffusion_pytorch_model.safetensors"),
    "no vae": (
        lambda root: without(root, "vae/diffusion_pytorch_model.safetensors"),
        "has no vae/diffusion_pytorch_model.safetensors",
    ),
    "cut": (
        lambda root: replaced(root, "vae/diffusion_pytorch_model.safetensors", b"x" * 99),
        "cut short",
    ),
    "no config": (lambda root: without(root, "vae/config.json"), "cannot be read"),
    "other heads": (
        lambda root: configured(root, "unet", attention_head_dim=4),
        "attention_head_dim 4 and SD1.5 has 8",
    ),
    "missing weight": (
        lambda root: reweighted(root, lambda w: w.pop("conv_out.bias")),
        f"no weight {UNET}out.2.bias",
    ),
    "one more weight": (
        lambda root: reweighted(
            root, lambda w: w.update({"conv_out.more": w["conv_out.bias"].clone()})
        ),
        "has one weight too many",
    ),
    "unknown weight": (
        lambda root: reweighted(root, lambda w: w.update(more=torch.zeros(4))),
        "has more, which SD1.5 lacks",
    ),
    "wrong shape": (
        lambda root: reweighted(root, lambda w: w.update({"conv_out.bias": torch.zeros(5)})),
        f"{UNET}out.2.bias is 5 and 4 fits",
    ),
    "wrong width": (
        lambda root: reweighted(
            root, lambda w: w.update({"down_blocks.0.resnets.0.conv1.weight": torch.zeros(48, 1)})
        ),
        "48 channels do not go evenly into SD1.5's 320",
    ),
    "not a number": (
        lambda root: reweighted(root, lambda w: w["conv_out.bias"].fill_(math.nan)),
        "no finite float16",
    ),
    "no tokens": (lambda root: without(root, str(CLIP_ROWS)), "clip_rows.npy cannot be read"),
    "other tokens": (
        lambda root: replaced(root, str(CLIP_ROWS), (FOLDER / CLIP_ROWS).read_bytes()[:-2]),
        "clip_rows.npy",
    ),
}


@pytest.mark.parametrize("kind", BAD_BASES)
def test_a_wrong_base_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    make, expected = BAD_BASES[kind]
    out = tmp_path / "out.safetensors"
    assert main(["reference", str(out), "--base", str(make(tmp_path))]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not out.exists()


def test_a_base_whose_levels_are_no_one_share_is_refused(
    tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    assert main(["reference", str(out), "--base", str(tiny_base)]) == 1
    assert "must be one share of SD1.5's 320, 640, 1280, 1280" in capsys.readouterr().err


def of_full_size(path: Path) -> Path:
    adapter = random_adapter({QUERY: (320, 320)}, 0, architecture="sd15")
    return adapter.save(path / "full.shira")


def kept(path: Path) -> Path:
    (path / "kept.safetensors").write_bytes(b"mine")
    return path / "kept.safetensors"


REFUSED = {
    "existing": (lambda root: [kept(root)], "add --overwrite"),
    "existing, adapter": (
        lambda root: [kept(root), "--adapter", of_full_size(root)],
        "add --overwrite",
    ),
    "a folder": (lambda root: [root / "x.safetensors"], "is a folder"),
    "no folder": (lambda root: [root / "none" / "a.safetensors"], "make its folder first"),
    "suffix": (lambda root: [root / "a.ckpt"], "name that ends in .safetensors"),
    "adapter of SD1.5": (
        lambda root: [root / "a.shira", "--adapter", of_full_size(root)],
        "trained for SD1.5 and the model is compact SD1.5",
    ),
    "no adapter": (
        lambda root: [root / "a.shira", "--adapter", root / "none.shira"],
        "does not exist",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_are_one_line_and_leave_everything_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    make, expected = REFUSED[kind]
    (tmp_path / "x.safetensors").mkdir()
    arguments = list(map(str, make(tmp_path)))
    before = sorted(tmp_path.iterdir())
    assert main(["reference", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert sorted(tmp_path.iterdir()) == before
    if (tmp_path / "kept.safetensors").exists():
        assert (tmp_path / "kept.safetensors").read_bytes() == b"mine"


def test_a_disk_without_room_is_noticed_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert main(["reference", str(tmp_path / "a.safetensors")]) == 1
    assert "needs 2.13 GB and its disk has 2.00 GB free" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
