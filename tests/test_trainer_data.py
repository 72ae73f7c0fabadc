"""Training pictures: captions, sizes, turned and transparent pictures, and every bad folder."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")
from PIL import Image

from trainer_ui.engine import data
from trainer_ui.engine.errors import DataInvalid


def picture(path: Path, size: tuple[int, int] = (32, 32), color: object = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


@pytest.mark.parametrize(
    ("text", "trigger", "expected"),
    [
        (b"a cat", "", "a cat"),
        (b"a cat", "ink style", "ink style, a cat"),
        (b"a cat in INK style", "ink style", "a cat in INK style"),
        (b"", "ink style", "ink style"),
        (b"\xef\xbb\xbfa cat\n on a mat\r\n", "", "a cat on a mat"),
        (None, "ink style", "ink style"),
        (None, "", "my cat 2"),
        (b"pink styles", "ink style", "ink style, pink styles"),
    ],
)
def test_prompt(tmp_path: Path, text: bytes | None, trigger: str, expected: str) -> None:
    path = picture(tmp_path / "my_cat-2.png")
    if text is not None:
        path.with_suffix(".txt").write_bytes(text)
    assert [example.prompt for example in data.find(tmp_path, trigger)] == [expected]


def test_all_kinds_are_found_in_order_and_others_ignored(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.webp", "d.bmp", "e.jpeg"):
        picture(tmp_path / name)
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.md").write_bytes(b"")
    names = [example.path.name for example in data.find(tmp_path)]
    assert names == ["a.jpg", "b.PNG", "c.webp", "d.bmp", "e.jpeg"]


def test_wide_pictures_are_cut_at_the_centre(tmp_path: Path) -> None:
    image = Image.new("RGB", (96, 32), "black")
    image.paste((255, 0, 0), (32, 0, 64, 32))
    image.save(tmp_path / "a.png")
    pixels, small = data.read(tmp_path / "a.png", 32)
    assert pixels.shape == (3, 32, 32)
    assert not small
    assert pixels[0].min() == 1
    assert pixels[1].max() == -1


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 32), "black")
    image.paste((255, 255, 255), (0, 0, 32, 16))  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    image.save(tmp_path / "a.png", exif=exif)
    pixels, _ = data.read(tmp_path / "a.png", 32)
    assert pixels[0, :, -1].min() == 1  # white at the right
    assert pixels[0, :, 0].max() == -1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "I;16", "CMYK", "1"])
def test_every_mode_becomes_rgb_on_white(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(np.full((32, 32), 65535, np.uint16)).save(path)
    elif mode == "P":
        Image.new("P", (32, 32), 0).save(path, transparency=0)
    else:
        clear = {"RGBA": (9, 9, 9, 0), "LA": (9, 0), "L": 255, "CMYK": (0, 0, 0, 0), "1": 1}
        Image.new(mode, (32, 32), clear[mode]).save(path)
    pixels, _ = data.read(path, 32)
    assert pixels.min() > 0.98


def test_small_pictures_are_told(tmp_path: Path) -> None:
    assert data.read(picture(tmp_path / "a.png", (16, 64)), 32)[1]


def folder_above(root: Path) -> Path:
    picture(root / "set" / "10_cat" / "a.png")
    picture(root / "set" / "10_cat" / "b.png")
    picture(root / "set" / "5_dog" / "a.png")
    return root / "set"


def latin_caption(root: Path) -> Path:
    picture(root / "a.png").with_suffix(".txt").write_bytes("caf\xe9".encode("latin-1"))
    return root


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda root: root, ("no pictures in", ".png")),
        (lambda root: root / "none", ("does not exist",)),
        (lambda root: picture(root / "a.png"), ("is a file, not a folder",)),
        (folder_above, ("no pictures directly in", "2 in", "10_cat", "--images")),
        (latin_caption, ("a.txt", "not UTF-8", "save it again")),
    ],
)
def test_bad_folders(tmp_path: Path, make: object, parts: tuple[str, ...]) -> None:
    with pytest.raises(DataInvalid) as caught:
        data.find(make(tmp_path))  # type: ignore[operator]
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["text", "empty", "cut png", "cut jpg"])
def test_bad_pictures_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("a.jpg" if kind == "cut jpg" else "a.png")
    if kind.startswith("cut"):
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:1500])
    else:
        path.write_bytes(b"not a picture" if kind == "text" else b"")
    with pytest.raises(DataInvalid, match=rf"{path.name}.*(replace or remove it)"):
        data.read(path, 32)


def test_the_digest_sees_pixels_and_captions(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    first = data.digest(data.find(tmp_path))
    path.with_suffix(".txt").write_text("new")
    second = data.digest(data.find(tmp_path))
    picture(path, color="blue")
    third = data.digest(data.find(tmp_path))
    assert len({first, second, third}) == 3


def test_what_is_not_trained_is_told(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "more/c.png"):
        picture(tmp_path / name)
    (tmp_path / "a.txt").write_text("a cat")
    (tmp_path / "d.txt").write_text("a dog")
    (tmp_path / "e.gif").write_bytes(b"")
    lines = data.notes(tmp_path, data.find(tmp_path))
    expected = (
        "1 of 2 pictures have no .txt, b.png for one",
        "1 .txt files have no picture of their name, d.txt for one",
        "pictures in subfolders are not trained: 1 in more",
        "1 pictures are not trained, save them as PNG: e.gif for one",
    )
    assert tuple(lines) == expected


def test_a_tidy_folder_needs_no_notes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    assert data.notes(tmp_path, data.find(tmp_path)) == []
