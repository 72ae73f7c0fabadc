"""Pixels: turned, transparent and cut pictures, masks, and pictures that cannot be trained."""

import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("pydantic")
from picture_files import dataset, noise, picture
from PIL import Image

from trainer_ui.engine import data
from trainer_ui.engine.data import pictures
from trainer_ui.engine.errors import ConfigInvalid, DataInvalid


def decoded(path: Path) -> Image.Image:
    return pictures.decode(path.read_bytes())


def header_only(path: Path, width: int, height: int, color: int = 2) -> Path:
    """Write a PNG that ends where its pixels should start."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9999) + b"IDAT")
    return path


def test_wide_pictures_are_cut_where_asked(tmp_path: Path) -> None:
    image = Image.new("RGB", (96, 32), "black")
    image.paste((255, 0, 0), (32, 0, 64, 32))
    pixels = pictures.pixels(image, (32, 32))
    assert pixels.shape == (3, 32, 32)
    assert pixels[0].min() == 1
    assert pixels[1].max() == -1
    assert pictures.pixels(image, (32, 32), (0.0, 0.5)).max() == -1
    assert pictures.pixels(image, (96, 32))[0].mean() == pytest.approx(-1 / 3, abs=0.01)


@pytest.mark.parametrize("place", [(0.0, 0.0), (0.5, 0.5), (1.0, 0.3), (0.25, 1.0)])
def test_the_corner_is_where_the_cut_starts(place: tuple[float, float]) -> None:
    """Pixels whose colour is their place tell where a cut lies."""
    rows, columns = np.mgrid[0:120, 0:200]
    image = Image.fromarray(np.stack([columns, rows, rows], -1).astype(np.uint8))
    for bucket in ((64, 64), (192, 64), (64, 128)):
        larger = pictures.scale(image.size, bucket)
        top, left = pictures.corner(image.size, bucket, place)
        pixels = (pictures.pixels(image, bucket, place) + 1) * 127.5
        seen = (pixels[0].mean() + 0.5) * larger - bucket[0] / 2
        assert seen == pytest.approx(left, abs=1.5)
        assert (pixels[1].mean() + 0.5) * larger - bucket[1] / 2 == pytest.approx(top, abs=1.5)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, kind: str) -> None:
    """The stored picture is made so that it is white at its upper left when turned."""
    upright = np.zeros((32, 64), np.uint8)
    upright[:16, :32] = 255
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{kind}"
    Image.fromarray(np.ascontiguousarray(stored)).convert("RGB").save(path, exif=exif)
    assert pictures.header(path).size == (64, 32) == decoded(path).size
    pixels = pictures.pixels(decoded(path), (64, 32))
    assert pixels[:, 2:14, 2:30].mean() > 0.9
    assert pixels[:, 18:].mean() < -0.9


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("more", [{}, {"exif": Image.Exif(), "icc_profile": b"abc"}])
@pytest.mark.parametrize("size", [(1, 9), (300, 75), (16383, 2)])
def test_webp_headers_say_what_pillow_finds(
    tmp_path: Path, size: tuple[int, int], more: dict[str, object], lossless: bool, alpha: bool
) -> None:
    image = Image.new("RGBA" if alpha else "RGB", size, (9, 99, 200, 99) if alpha else "red")
    image.save(tmp_path / "a.webp", lossless=lossless, **more)
    assert pictures.header(tmp_path / "a.webp") == pictures.Header(size, alpha)
    assert decoded(tmp_path / "a.webp").size == size


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
    assert pictures.pixels(decoded(path), (32, 32)).min() > 0.98
    assert pictures.header(path).alpha == (mode in ("RGBA", "LA", "P"))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "1"])
def test_painted_masks_are_what_is_white_and_opaque(mode: str) -> None:
    shown = Image.new("L", (64, 32), 0)
    shown.paste(255, (0, 0, 32, 32))
    if mode == "LA":  # all white, seen at the left only
        painted = Image.merge("LA", (Image.new("L", (64, 32), 255), shown))
    else:
        painted = shown.convert(mode)
    weights = pictures.mask(pictures.grey(painted), (64, 32), (8, 4))
    assert weights.shape == (1, 4, 8)
    assert weights[..., :4].min() == 1
    assert weights[..., 4:].max() == 0


def test_masks_are_cut_as_their_picture() -> None:
    """A mask of a quarter of the size, and the picture that it was made from, agree anywhere."""
    pixels = np.random.default_rng(0).integers(0, 2, (6, 10), np.uint8) * 255
    grey = Image.fromarray(pixels.repeat(32, 0).repeat(32, 1))
    small = Image.fromarray(pixels.repeat(8, 0).repeat(8, 1))
    for place in ((0.5, 0.5), (0.0, 0.2), (0.9, 1.0)):
        weights = pictures.mask(small, grey.size, (8, 16), place)[0]
        expected = (pictures.pixels(grey, (64, 128), place)[0] + 1) / 2
        expected = expected.unflatten(0, (16, 8)).unflatten(2, (8, 8)).mean((1, 3))
        assert (weights - expected).abs().mean() < 0.03


def test_which_mask_a_picture_has(tmp_path: Path) -> None:
    for name in ("alpha", "both"):
        Image.new("RGBA", (64, 64), (1, 2, 3, 99)).save(tmp_path / f"{name}.png")
    picture(tmp_path / "none.png")
    picture(tmp_path / "both.mask.png")
    masked = dataset(tmp_path, masked_loss=True)
    masks = [each.mask.name if each.mask else None for each in masked.examples]
    assert masks == ["alpha.png", "both.mask.png", None]
    assert masked.notes == ("1 of 3 pictures have no mask, none.png for one",)
    plain = dataset(tmp_path)
    assert {each.mask for each in plain.examples} == {None}
    assert plain.notes == ("1 masks are not used, both.mask.png for one: turn masked_loss on",)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b""), "empty, or not a picture"),
        (lambda path: path.write_bytes(b"GIF"), "empty, or not a picture"),
        (lambda path: picture(path, (1, 1)), "it would be enlarged 64 times"),
        (lambda path: picture(path, (4000, 4)), r"too small \(4000x4\)"),
        (lambda path: header_only(path, 10_000, 10_000), r"too large \(10000x10000\)"),
        (lambda path: header_only(path, 60_000, 60_000), "too large"),
        (lambda path: path.write_bytes(noise(path).read_bytes()[:20]), "damaged|not a picture"),
    ],
)
def test_bad_pictures_are_skipped_and_named(tmp_path: Path, make: object, reason: str) -> None:
    picture(tmp_path / "good.png")
    make(tmp_path / "bad.png")  # type: ignore[operator]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = dataset(tmp_path)
    assert [each.name for each in found.examples] == ["good.png"]
    assert [each.name for each in found.skipped] == ["bad.png"]
    assert re.search(reason, found.skipped[0].reason)
    told = f"1 pictures are skipped: bad.png: {found.skipped[0].reason}"
    assert told in data.report(found).problems


def test_small_pictures_without_enlarging(tmp_path: Path) -> None:
    for name, size in {"a": (300, 200), "b": (900, 600), "c": (150, 900), "d": (40, 40)}.items():
        picture(tmp_path / f"{name}.png", size)
    found = dataset(tmp_path, resolution=512, enlarge=False)
    sizes = {each.name: each.bucket for each in found.examples}
    assert sizes == {"a.png": (256, 192), "b.png": (640, 384), "c.png": (128, 896)}
    assert [each.name for each in found.skipped] == ["d.png"]
    assert data.report(found).enlarged == ()
    found = dataset(tmp_path, resolution=512)
    assert data.report(found).enlarged == ("a.png", "c.png")


def test_squares_only(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (300, 200))
    assert [e.bucket for e in dataset(tmp_path, buckets=False).examples] == [(64, 64)]


def test_buckets_must_include_the_resolution(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(ConfigInvalid, match="bucket_max 256 leave no room"):
        dataset(tmp_path, resolution=512, bucket_max=256)


def test_the_report(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (128, 128), text="cat, red hat,cat")
    picture(tmp_path / "b.png", (128, 128), "blue", text="dog,  red   hat, on a mat")
    picture(tmp_path / "c.png", (256, 64), "blue")
    (tmp_path / "d.png").write_bytes((tmp_path / "b.png").read_bytes())
    (tmp_path / "e.png").write_bytes(b"")
    (tmp_path / "f.txt").write_text("lonely")
    (tmp_path / "g.gif").write_bytes(b"")
    picture(tmp_path / "more" / "h.png")
    report = data.report(dataset(tmp_path, resolution=128))
    assert report.buckets == (((128, 128), 3), ((256, 64), 1))
    assert report.tags == (("cat", 2), ("red hat", 2), ("dog", 1), ("on a mat", 1))
    assert report.duplicates == (("b.png", "d.png"),)
    assert report.longest == "dog, red hat, on a mat"
    assert report.problems == (
        "1 text files have no picture of their name, f.txt for one",
        "1 pictures are not trained, save them as PNG: g.gif for one",
        "pictures in subfolders are not trained: 1 in more",
        "1 pictures are skipped: e.png: empty, or not a picture",
        "2 of 4 pictures have no caption, c.png for one",
        "1 pictures are there more than once: b.png = d.png",
    )
    lines = str(report).splitlines()
    assert lines[:3] == [
        "pictures      4, 4 per epoch with repeats",
        "captions      2 of 4, 3 prompts",
        "longest       dog, red hat, on a mat",
    ]
    assert lines[3] == "tags          cat 2, red hat 2, dog 1, on a mat 1"
    assert lines[4] == "buckets       128x128: 3, 256x64: 1"
    assert [line.removeprefix("problem").strip() for line in lines[5:]] == list(report.problems)


def test_a_tidy_folder_has_no_problems(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    assert data.report(dataset(tmp_path)).problems == ()


def test_many_large_pictures_are_looked_at_without_their_pixels(tmp_path: Path) -> None:
    """They have none: whoever decoded one would find it damaged."""
    for number in range(300):
        header_only(tmp_path / f"{number:03}.png", 8000 + number, 9000, color=6)
    cut = noise(tmp_path / "a.webp", (600, 500)).read_bytes()[:50]
    (tmp_path / "a.webp").write_bytes(cut)
    report = data.report(dataset(tmp_path, resolution=512))
    assert (report.pictures, report.skipped) == (301, ())
    for name in ("000.png", "a.webp"):
        with pytest.raises(DataInvalid, match=r"damaged or cut off|not a picture"):
            decoded(tmp_path / name)
