"""Objects, splits and families; drawn styles; near twins; sources and sample pictures."""

from __future__ import annotations

import io
import json
from importlib import import_module
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

pytest.importorskip("diffusers")

from trainer_ui import demo

REFERENCE = Path(__file__).resolve().parent.parent / "benchmarks" / "reference"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(REFERENCE)
    drawn, pictures, samples, sources, twins = map(
        import_module, ("drawn", "pictures", "samples", "sources", "twins")
    )

LISTS = pictures.splits()
FAMILIES = json.loads((REFERENCE / "families.json").read_text(encoding="utf-8"))
SPLITS = ("style_train", "validation", "test")
BOX = (40, 30, 90, 100)  # left, top, right, bottom of the object below, inclusive
HOLE = (55, 50, 75, 70)


def page(*shapes: tuple[tuple[int, int, int, int], str], size: int = 128) -> torch.Tensor:
    """Return rectangles on white, uint8 (3, size, size)."""
    image = Image.new("RGB", (size, size), "white")
    for box, colour in shapes:
        ImageDraw.Draw(image).rectangle(box, fill=colour)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


OBJECT = page((BOX, "crimson"), (HOLE, "white"))


def several() -> torch.Tensor:
    """Return 67 different pictures: more than are drawn at once."""
    return torch.stack(
        [
            page(((20 + n // 2, 30, 70 + n // 2, 100), "teal"), ((30, 40, 40, 60), "gold"))
            for n in range(67)
        ]
    )


def test_lists_are_disjoint_where_they_must_be() -> None:
    for name, objects in LISTS.items():
        assert len(set(objects)) == len(objects), name
    for first, second in combinations(SPLITS, 2):
        assert not set(LISTS[first]) & set(LISTS[second])
    assert not set(LISTS["base"]) & set(LISTS["held_out"])
    assert set().union(*(LISTS[split] for split in SPLITS)) < set(LISTS["base"])
    assert LISTS["samples"] == LISTS["style_train"][: len(LISTS["samples"])]
    assert set(demo.OBJECTS) <= set(LISTS["test"])


def test_families_share_out_the_base_and_stay_in_one_split() -> None:
    members = [name for family in FAMILIES.values() for name in family]
    assert sorted(members) == sorted(LISTS["base"])
    family_of = {name: family for family, names in FAMILIES.items() for name in names}
    for split in SPLITS:
        families = {family_of[name] for name in LISTS[split]}
        whole = [name for family in families for name in FAMILIES[family]]
        assert sorted(whole) == sorted(LISTS[split])


@pytest.mark.parametrize("style", drawn.DRAWN)
def test_a_drawn_style_is_a_pure_function_of_each_picture(style: str) -> None:
    originals = several()
    kept = originals.clone()
    result = drawn.DRAWN[style](originals)
    assert result.shape == originals.shape
    assert result.dtype == torch.uint8
    assert torch.equal(originals, kept)
    assert torch.equal(result, drawn.DRAWN[style](originals))
    for number in (0, 33, 66):  # alone as in the batch
        alone = drawn.DRAWN[style](originals[number : number + 1])
        assert torch.equal(result[number], alone[0])
    assert not torch.equal(result[0], result[66])


def test_drawn_styles_differ_from_the_picture_and_from_each_other() -> None:
    made = [OBJECT, *(style(OBJECT[None])[0] for style in drawn.DRAWN.values())]
    for first, second in combinations(made, 2):
        assert (first.float() - second.float()).abs().mean() > 15


@pytest.mark.parametrize(
    ("style", "paper"),
    [
        ("blueprint", (0x1F, 0x4E, 0x9E)),
        ("riso", (0xF6, 0xEF, 0xD9)),
        ("neon", (0x12, 0x0A, 0x24)),
    ],
)
def test_an_empty_page_becomes_paper(style: str, paper: tuple[int, int, int]) -> None:
    empty = drawn.DRAWN[style](page()[None])[0]
    is_paper = (empty == torch.tensor(paper).view(3, 1, 1)).all(0)
    lines = 1 - (15 / 16) ** 2 if style == "blueprint" else 0  # of its grid, one px in sixteen
    assert is_paper.float().mean() == pytest.approx(1 - lines)


def flooded(white: np.ndarray) -> np.ndarray:
    """Return which pixels the border reaches over `white`, one step at a time."""
    reached, waiting = np.zeros_like(white), [(0, 0)]
    while waiting:
        y, x = waiting.pop()
        if 0 <= y < len(white) and 0 <= x < len(white) and white[y, x] and not reached[y, x]:
            reached[y, x] = True
            waiting += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return reached


def test_the_silhouette_is_what_the_border_cannot_reach() -> None:
    bay = (70, 20, 120, 45)
    shapes = page((BOX, "black"), (HOLE, "white"), ((60, 15, 125, 50), "navy"), (bay, "white"))
    shapes[:, 30:36, 120:128] = 255  # the bay is open to the right, the hole is not open
    inside = drawn.silhouette(shapes[None].float() / 255)[0, 0].numpy()
    assert (inside == ~flooded((shapes == 255).all(0).numpy())).all()
    assert inside[60, 65]
    assert not inside[32, 100]


def test_contours_follow_every_edge_and_nothing_else() -> None:
    thin, _ = drawn.contours(OBJECT[None].float() / 255)
    inked = np.argwhere(thin[0, 0].numpy())
    colour = (OBJECT != 255).any(0).numpy()
    near = np.pad(colour, 1)
    enclosed = near[1:-1, :-2] & near[1:-1, 2:] & near[:-2, 1:-1] & near[2:, 1:-1]
    edge = np.argwhere(colour & ~enclosed)
    apart = np.abs(inked[:, None] - edge[None]).max(-1)
    assert apart.min(0).max() <= 2  # each edge pixel has a contour beside it
    assert apart.min(1).max() <= 2  # and each contour pixel an edge
    assert len(inked) < 1.5 * len(edge)  # and it is thin


def test_differences_are_those_of_dense_arithmetic() -> None:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randint(0, 256, (3, 2, 3, 128, 128), generator=generator).byte()
    found = twins.differences(noise).numpy()
    ink = 1 - noise.numpy().astype(float) / 255
    small = ink.reshape(3, 2, 3, 32, 4, 32, 4).mean((4, 6))
    for a, b in combinations(range(3), 2):
        for style in range(2):
            x, y = small[a, style], small[b, style]
            wanted = np.sqrt(((x - y) ** 2).sum() / ((x**2).sum() + (y**2).sum()))
            assert found[style, a, b] == pytest.approx(wanted, abs=1e-4)
            assert found[style, b, a] == pytest.approx(wanted, abs=1e-4)


def test_twins_are_alike_in_three_styles_or_in_name() -> None:
    box, other = page((BOX, "teal")), page(((10, 60, 120, 75), "teal"))
    dotted = page((BOX, "teal"), ((60, 60, 64, 64), "white"))
    names = ["box", "dotted box", "half box", "man cook", "woman cook"]
    objects = torch.stack(
        [
            torch.stack(drawings)
            for drawings in (
                [box] * 4,
                [dotted, dotted, dotted, other],
                [dotted, dotted, other, other],
                [OBJECT] * 4,
                [page(((0, 0, 9, 9), "black"))] * 4,
            )
        ]
    )
    found = twins.near_twins(names, objects)
    pairs = [(pair.first, pair.second) for pair in found]
    assert pairs == [("box", "dotted box"), ("dotted box", "half box"), ("man cook", "woman cook")]
    assert twins.without_twins(names, found) == ["box", "half box", "man cook"]


def test_no_two_of_our_objects_are_twins_in_name() -> None:
    bare = [twins.bare(name) for name in LISTS["base"] + LISTS["held_out"]]
    assert len(set(bare)) == len(bare)
    assert twins.bare("five-thirty") == twins.bare("ten o\u2019clock") != twins.bare("alarm clock")


def test_only_free_licences_ship_and_evaluation_is_kept_apart() -> None:
    assert tuple(sources.SHIPPED) == pictures.STYLES
    assert tuple(sources.EVALUATION) == pictures.EVALUATION_STYLES
    assert {source.licence for source in sources.SHIPPED.values()} == {"Apache-2.0", "MIT"}
    assert pictures.PICTURES_FILE != pictures.EVALUATION_FILE


def test_a_package_that_says_otherwise_is_refused(tmp_path: Path) -> None:
    source = sources.SHIPPED["noto"]
    about = {"version": source.version, "license": source.licence}
    info = {"author": {"name": source.author}, "license": {"spdx": source.licence}}
    (tmp_path / "package.json").write_text(json.dumps(about), encoding="utf-8")
    (tmp_path / "info.json").write_text(json.dumps(info), encoding="utf-8")
    sources.check_source(source, tmp_path)
    info["license"] = {"spdx": "CC-BY-SA-4.0"}
    (tmp_path / "info.json").write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(ValueError, match=r"noto: licence is 'CC-BY-SA-4.0'.*'Apache-2.0'"):
        sources.check_source(source, tmp_path)


def test_packed_pictures_come_back(tmp_path: Path) -> None:
    originals = several()[:4]
    encoded = []
    for picture in originals:
        out = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(out, "WEBP", lossless=True)
        encoded.append(out.getvalue())
    blob = np.frombuffer(b"".join(encoded), np.uint8)
    ends = np.cumsum([len(part) for part in encoded])
    np.savez(tmp_path / pictures.EVALUATION_FILE, names=["a", "b"], ends=ends, blob=blob)
    names, back = pictures.load_evaluation(tmp_path)
    assert names == ["a", "b"]
    assert torch.equal(back, originals.view(2, 2, 3, 128, 128))
    with pytest.raises(FileNotFoundError):  # what trains cannot take one for the other
        pictures.load_pictures(tmp_path)


def test_samples_are_pictures_with_captions(tmp_path: Path) -> None:
    both = torch.stack([OBJECT, page((BOX, "black"))])
    samples.write_samples(tmp_path, ["red box", "box"], both)
    assert (tmp_path / "red-box.txt").read_text(encoding="utf-8") == "red box\n"
    for stem, mode, picture in (("red-box", "RGB", both[0]), ("box", "L", both[1])):
        with Image.open(tmp_path / f"{stem}.png") as image:
            assert image.mode == mode
            assert (np.asarray(image.convert("RGB")) == picture.permute(1, 2, 0).numpy()).all()


def test_a_sample_is_the_set_drawing_or_drawn_from_noto() -> None:
    objects = several()[:8].view(2, 4, 3, 128, 128)
    assert torch.equal(samples.in_style(objects, "contrast"), objects[:, 3])
    wanted = drawn.DRAWN["riso"](objects[:, 0])
    assert torch.equal(samples.in_style(objects, "riso"), wanted)


def test_an_emoji_that_a_set_does_not_draw_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("resvg_py")
    monkeypatch.syspath_prepend(REFERENCE)
    data = import_module("data")
    animals = {
        "\U0001f408": {"name": "cat", "group": "Animals & Nature"},
        "\U0001f415": {"name": "dog", "group": "Animals & Nature"},
    }
    chars = {f"{ord(emoji):x}": about["name"] for emoji, about in animals.items()}
    files: dict[str, dict] = {"names/package/data-by-emoji.json": animals}
    for short, icons in {"twemoji": ("cat", "dog"), "openmoji": ("cat",)}.items():
        files[f"{short}/package/chars.json"] = chars
        files[f"{short}/package/icons.json"] = {"icons": {icon: {} for icon in icons}}
    for file, content in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(json.dumps(content), encoding="utf-8")
    found = data.concepts(tmp_path, pictures.EVALUATION_STYLES)
    assert found == [("cat", {"twemoji": "cat", "openmoji": "cat"})]
