"""The shipped base, the sample pictures and the demo's sheet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

from trainer_ui import demo

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "assets"
LISTS = json.loads((ROOT / "benchmarks/reference/objects.json").read_text(encoding="utf-8"))
TILE = 40


def solid(colour: str) -> Image.Image:
    return Image.new("RGB", (16, 16), colour)


def inside(picture: Image.Image, row_top: int, column: int) -> np.ndarray:
    """Return the pixels of one tile without its rim, where resizing may mix colours."""
    left = demo.SIDE + column * (TILE + demo.MARGIN)
    box = (left + 2, row_top + 2, left + TILE - 2, row_top + TILE - 2)
    return np.asarray(picture.crop(box))


def test_sheet_puts_every_picture_in_its_place() -> None:
    rows = [
        demo.Row("first", [solid("red"), solid("lime")], ("a", "b")),
        demo.Row("second\nline", [solid("blue"), solid("black")]),
    ]
    drawn = demo.sheet(rows, TILE)
    assert drawn.size == (
        demo.SIDE + 2 * (TILE + demo.MARGIN),
        demo.LABEL + 2 * (TILE + demo.MARGIN),
    )
    tops = (demo.LABEL, demo.LABEL + TILE + demo.MARGIN)
    for top, colours in zip(
        tops, [((255, 0, 0), (0, 255, 0)), ((0, 0, 255), (0, 0, 0))], strict=True
    ):
        for column, colour in enumerate(colours):
            assert (inside(drawn, top, column) == colour).all()


def test_sheet_writes_labels_beside_and_names_above() -> None:
    def ink(row: demo.Row) -> tuple[int, int]:
        dark = np.asarray(demo.sheet([row], TILE).convert("L")) < 128
        above = demo.LABEL if row.names else 0
        return dark[above:, : demo.SIDE].sum(), dark[:above, demo.SIDE :].sum()

    white = [solid("white")]
    assert ink(demo.Row("", white)) == (0, 0)
    label, nothing = ink(demo.Row("label", white))
    assert label > 20
    assert nothing == 0
    nothing, name = ink(demo.Row("", white, ("name",)))
    assert nothing == 0
    assert name > 20


def test_every_label_of_the_demo_fits_beside_its_row() -> None:
    labels = [row.label for row in demo.rows([], [], [], [])]
    for label in labels:
        drawn = np.asarray(demo.sheet([demo.Row(label, [solid("white")])], TILE).convert("L"))
        assert (drawn[:, : demo.SIDE] < 128).any()
        assert (drawn[:, demo.SIDE - 2 :] == 255).all(), label


def test_the_shipped_base_opens_offline_and_draws() -> None:
    pipeline = demo.open_base()
    assert next(pipeline.text_encoder.parameters()).dtype == torch.float32
    before = torch.random.get_rng_state()
    (first,) = demo.draw(pipeline, ["cat, noto style"], steps=2)
    (again,) = demo.draw(pipeline, ["cat, noto style"], steps=2)
    (other,) = demo.draw(pipeline, ["house, noto style"], steps=2)
    assert first.size == (128, 128)
    pixels = np.asarray(first, dtype=int)
    assert (pixels == np.asarray(again)).all()
    assert np.abs(pixels - np.asarray(other)).mean() > 3  # the prompt decides
    assert pixels[:4].mean() > 240  # a white border
    assert pixels[40:90, 40:90].std() > 20  # and something on it
    assert torch.equal(before, torch.random.get_rng_state())


def test_sample_pictures_have_captions_and_a_licence() -> None:
    pictures = sorted(demo.IMAGES.glob("*.png"))
    captions = [path.with_suffix(".txt").read_text(encoding="utf-8").strip() for path in pictures]
    assert sorted(captions) == sorted(LISTS["samples"])
    for path in pictures:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"), dtype=int)
        assert pixels.shape == (128, 128, 3)
        assert np.ptp(pixels, axis=2).max() < 16, path  # black on white, no colour
    assert "MIT License" in (demo.IMAGES / "LICENSE").read_text(encoding="utf-8")
    assert set(demo.EXAMPLES) <= {path.stem for path in pictures}


def test_lists_of_objects_are_disjoint_where_they_must_be() -> None:
    base, held_out, trained = (set(LISTS[k]) for k in ("base", "held_out", "style_train"))
    assert [len(set(names)) for names in LISTS.values()] == [len(n) for n in LISTS.values()]
    assert not base & held_out
    assert trained <= base
    assert set(demo.OBJECTS) <= base - trained  # drawn in a style whose drawings were never seen


def test_the_base_names_its_licences_and_the_assets_stay_small() -> None:
    card = (demo.BASE / "README.md").read_text(encoding="utf-8")
    for name in ("LICENSE-APACHE", "LICENSE-MIT"):
        assert name in card
        assert (demo.BASE / name).stat().st_size > 1000
    sizes = [path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()]
    assert sum(sizes) < 45_000_000
    assert max(sizes) < 20_000_000
