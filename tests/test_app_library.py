"""Adapters below the roots: what they are, how they go together, what is made of them."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

pytest.importorskip("diffusers")
from trainer_runs import ROOT

import shira_core as shira
from shira_core.container import read_header
from shira_core.errors import FileExists, FileInvalid, InvalidValue
from trainer_ui import heatmap, library
from trainer_ui.roots import Roots

SHIPPED = ROOT / "assets" / "adapters"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "shira"
    folder.mkdir()
    for name in ("riso.shira", "blueprint.shira"):
        shutil.copy(SHIPPED / name, folder)
    return folder


def test_all_adapters_are_listed_and_files_that_are_none_explained(place: Path) -> None:
    (place / "sub").mkdir()
    shutil.copy(place / "riso.shira", place / "sub" / "twin.safetensors")
    (place / "cut.shira").write_bytes((place / "riso.shira").read_bytes()[:1000])
    save_file({"a": torch.zeros(2)}, place / "model.safetensors")
    cards = {card.path.name: card for card in library.adapters(Roots([place]))}
    assert set(cards) == {"riso.shira", "blueprint.shira", "twin.safetensors", "cut.shira"}
    riso = cards["riso.shira"]
    opened = shira.load(place / "riso.shira")
    assert (riso.title, riso.triggers, riso.mask) == ("Riso", ("riso style",), "wm")
    assert (riso.entries, riso.size) == (opened.entries, (place / "riso.shira").stat().st_size)
    assert not riso.problem
    assert cards["cut.shira"].problem.count("\n") == 0 < len(cards["cut.shira"].problem)
    assert library.details(place / "riso.shira")["entries"] == opened.entries


def test_a_comparison_is_the_cores(place: Path) -> None:
    paths = [place / "riso.shira", place / "blueprint.shira"]
    steps: list[tuple[int, int]] = []
    found = library.compare(paths, lambda done, total: steps.append((done, total)))
    report = shira.compare(*map(shira.load, paths))
    assert found.names == ("riso", "blueprint")
    assert f"overlap {report.overlap:.2%}, AWOR {report.awor:.2%}" in found.text
    assert steps == [(n, len(report.weights)) for n in range(1, len(report.weights) + 1)]
    pixels = np.asarray(found.picture)
    for row, column in ((0, 1), (1, 0)):
        corner = pixels[heatmap.TOP + row * heatmap.CELL + 2, (column + 1) * heatmap.CELL + 2]
        colour = heatmap.LOW + (heatmap.HIGH - heatmap.LOW) * report.overlap
        assert np.allclose(corner, colour, atol=1)
    with pytest.raises(InvalidValue, match="two"):
        library.compare(paths[:1])


def test_a_mix_is_what_its_preview_says(place: Path) -> None:
    stack = [(place / "riso.shira", 0.8), (place / "blueprint.shira", 0.5)]
    told = library.mix_preview(stack, "ties")
    out = library.mix(stack, place / "both.shira", "ties")
    mixed = shira.load(out)
    assert f"entries: {mixed.entries:,}" in told
    assert "trigger words: riso style, blueprint style" in told
    assert mixed.header.title == "both"
    with pytest.raises(FileExists):
        library.mix(stack, out)
    with pytest.raises(InvalidValue, match="mode"):
        library.mix_preview(stack, "nothing")


def test_baking_adds_the_deltas(place: Path, tmp_path: Path) -> None:
    path = place / "riso.shira"
    adapter = shira.load(path)
    base = {name: torch.zeros(adapter.weights.shape(name)) for name in adapter.weights}
    save_file(base, tmp_path / "base.safetensors")
    seen: list[int] = []
    out = library.bake(
        tmp_path / "base.safetensors",
        tmp_path / "baked.safetensors",
        [(path, 0.5)],
        lambda done, total: seen.append(total - done),
    )
    from safetensors.torch import load_file

    baked = load_file(out)
    assert all(torch.equal(baked[n], 0.5 * adapter.weights[n].dense()) for n in adapter.weights)
    assert seen[-1] == 0


def test_finishing_changes_what_a_file_says_and_nothing_else(place: Path) -> None:
    path = place / "riso.shira"
    before = shira.load(SHIPPED / "riso.shira")
    library.finish(path, ("two inks", "riso"), Image.new("RGB", (600, 300), "red"), "Inks")
    after = shira.load(path)
    assert (after.header.triggers, after.header.title) == (("two inks", "riso"), "Inks")
    hashes = {read_header(p).metadata["sshs_model_hash"] for p in (path, SHIPPED / path.name)}
    assert len(hashes) == 1
    assert after.header.training == before.header.training
    assert list(after.weights) == list(before.weights)
    for name in before.weights:
        mine, theirs = after.weights[name], before.weights[name]
        assert torch.equal(mine.positions, theirs.positions)
        assert torch.equal(mine.values, theirs.values)
    shown = Image.open(io.BytesIO(library.preview(path) or b""))
    assert shown.size == (256, 128)
    library.finish(path, ("riso",))
    assert shira.load(path).header.title == "Inks"
    assert library.preview(path) is not None


def test_a_copy_replaces_nothing(place: Path, tmp_path: Path) -> None:
    host = tmp_path / "models"
    host.mkdir()
    copied = library.copy(place / "riso.shira", host)
    assert copied.read_bytes() == (place / "riso.shira").read_bytes()
    with pytest.raises(FileExists):
        library.copy(place / "riso.shira", host)
    with pytest.raises(FileInvalid):
        library.details(place / "none.shira")
