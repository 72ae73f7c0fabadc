"""Latents and texts: what a batch holds, and a folder that keeps them without anything stale."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("pydantic")
from picture_files import noise, picture
from PIL import Image

from shira_core.errors import FileInvalid, WriteFailed
from trainer_ui.engine import base as bases
from trainer_ui.engine import cache, data
from trainer_ui.engine.config import Config, load
from trainer_ui.engine.data import pictures
from trainer_ui.engine.errors import DataInvalid


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> bases.Base:
    return bases.open_base(tiny_base)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of two shapes, one with an alpha."""
    for number in range(3):
        path = noise(tmp_path / "set" / f"{number}.png", seed=number)
        path.with_suffix(".txt").write_text(f"{number}, tall, wide")
    clear = Image.new("RGBA", (300, 75), (9, 9, 9, 255))
    clear.paste((0, 0, 0, 0), (0, 0, 150, 75))
    clear.save(tmp_path / "set" / "wide.png")
    return tmp_path / "set"


def config(folder: Path, **settings: object) -> Config:
    out = folder.parent / "o.shira"
    given = {"base": folder, "images": folder, "out": out, "trigger": "x", "batch_size": 2}
    return load(None, {**given, **settings})


def build(
    base: bases.Base, settings: Config, told: list[str] | None = None, resolution: int = 128
) -> cache.Cache:
    lines = told if told is not None else []
    dataset = data.scan(settings, resolution, 64, settings.seed)
    return cache.build(base, settings, dataset, lines.append, lines.append)


def equal(first: cache.Batch, second: cache.Batch) -> bool:
    """Compare all tensors of two batches, bit for bit."""
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for field in fields(cache.Batch)
        if field.name != "texts"
        for a, b in [(getattr(first, field.name), getattr(second, field.name))]
    ) and torch.equal(first.texts.embeddings, second.texts.embeddings)


def test_a_batch_holds_what_the_pictures_and_texts_give(base: bases.Base, folder: Path) -> None:
    built = build(base, config(folder, caption_dropout=0, batch_size=1, flip=True))
    seen = set()
    for number in range(8):
        batch = built.batch(number, 0)
        height, width = batch.sizes[0, 4:].int().tolist()
        assert batch.latents.shape == (1, 4, height // 8, width // 8)
        name = batch.prompts[0].split(", ")[1] if ", " in batch.prompts[0] else "wide"
        assert batch.sizes[0, :2].tolist() == ([75, 300] if name == "wide" else [64, 64])
        with torch.no_grad():
            image = pictures.decode((folder / f"{name}.png").read_bytes())
            pixels = pictures.pixels(image, (width, height))
            both = torch.stack([pixels, pixels.flip(-1)])
            posterior = base.vae.encode(both).latent_dist
            told = base.encode_text([batch.prompts[0]]).embeddings
        scale = base.vae.config.scaling_factor
        off = (batch.latents - posterior.mean * scale).abs() / (posterior.std * scale)
        spread = off.mean((1, 2, 3))
        assert spread.min() == pytest.approx(0.8, abs=0.1)  # of a normal distribution
        torch.testing.assert_close(batch.texts.embeddings, told)
        seen.add((name, int(spread.argmin())))
    assert seen == {(name, side) for name in ("0", "1", "2", "wide") for side in (0, 1)}


def test_batches_depend_on_seed_and_number_only(base: bases.Base, folder: Path) -> None:
    settings = config(folder, caption_dropout=0.5, shuffle_captions=True, random_crops=3)
    first, second = build(base, settings), build(base, settings)
    for number in (5, 0, -2):
        assert equal(first.batch(number, 1), second.batch(number, 1))
    assert not torch.equal(first.batch(0, 1).latents, first.batch(0, 2).latents)


def test_captions_vary_and_drop_out(base: bases.Base, folder: Path) -> None:
    built = build(base, config(folder, caption_dropout=0.5, shuffle_captions=True, batch_size=4))
    drawn = [prompt for number in range(60) for prompt in built.batch(number, 0).prompts]
    assert drawn.count("") / len(drawn) == pytest.approx(0.5, abs=0.1)
    of_first = {prompt for prompt in drawn if "0" in prompt}
    assert len(of_first) > 3
    assert all(sorted(prompt.split(", ")) == ["0", "tall", "wide", "x"] for prompt in of_first)


def test_masks(base: bases.Base, folder: Path) -> None:
    built = build(base, config(folder, masked_loss=True, batch_size=1, flip=True))
    found = set()
    for number in range(8):
        batch = built.batch(number, 0)
        if batch.mask is None:
            continue
        left, right = (half.mean().item() for half in batch.mask.chunk(2, dim=-1))
        found.add((left, right))
        assert batch.mask.shape == (1, 1, 8, 32)
    assert found == {(0.0, 1.0), (1.0, 0.0)}


def test_a_picture_without_a_mask_is_learned_whole(base: bases.Base, tmp_path: Path) -> None:
    picture(tmp_path / "set" / "a.png")
    picture(tmp_path / "set" / "b.png")
    picture(tmp_path / "set" / "b.mask.png", color=(51, 51, 51))
    mask = build(base, config(tmp_path / "set", masked_loss=True)).batch(0, 0).mask
    assert mask is not None
    assert sorted(mask.flatten(1).mean(1).tolist()) == pytest.approx([0.2, 1.0])


def test_class_images_have_their_weight(base: bases.Base, folder: Path, tmp_path: Path) -> None:
    picture(tmp_path / "class" / "a.png")
    more = {"class_images": tmp_path / "class", "class_prompt": "a thing", "class_weight": 0.3}
    built = build(base, config(folder, caption_dropout=0, batch_size=8, **more))
    weights = {}
    for number in range(16):
        batch = built.batch(number, 0)
        weights.update(zip(batch.prompts, batch.weights.tolist(), strict=True))
    assert weights.pop("a thing") == pytest.approx(0.3)
    assert set(weights.values()) == {1.0}
    assert len(weights) == 4


def test_random_crops_lie_where_their_numbers_say(base: bases.Base, tmp_path: Path) -> None:
    noise(tmp_path / "set" / "a.png", (256, 128))
    settings = config(tmp_path / "set", buckets=False, random_crops=4, flip=True, batch_size=1)
    built = build(base, settings)
    image = pictures.decode((tmp_path / "set" / "a.png").read_bytes())
    whole = pictures.pixels(image, (256, 128))
    scale, lefts = base.vae.config.scaling_factor, set()
    for number in range(8):
        batch = built.batch(number, 0)
        assert batch.sizes[0, [0, 1, 2, 4, 5]].tolist() == [128, 256, 0, 128, 128]
        left = int(batch.sizes[0, 3])
        lefts.add(left)
        sides = [whole[..., left : left + 128], whole.flip(-1)[..., left : left + 128]]
        with torch.no_grad():
            posterior = base.vae.encode(torch.stack(sides)).latent_dist
        off = (batch.latents - posterior.mean * scale).abs() / (posterior.std * scale)
        assert off.mean((1, 2, 3)).min() == pytest.approx(0.8, abs=0.15)
    assert len(lefts) == 8


def test_a_folder_gives_the_same_batches_and_is_used_again(
    base: bases.Base, folder: Path, tmp_path: Path
) -> None:
    more: dict[str, object] = {"masked_loss": True, "flip": True, "shuffle_captions": True}
    kept = config(folder, cache=tmp_path / "deep" / "kept", **more)
    in_memory, on_disk = build(base, config(folder, **more)), build(base, kept)
    files = sorted((tmp_path / "deep").rglob("*.safetensors"))
    times = [file.stat().st_mtime_ns for file in files]
    again = build(base, kept)
    assert [file.stat().st_mtime_ns for file in files] == times
    assert sorted((tmp_path / "deep").rglob("*.*")) == files
    for number in range(6):
        assert equal(in_memory.batch(number, 0), on_disk.batch(number, 0))
        assert equal(in_memory.batch(number, 0), again.batch(number, 0))


def new_pixels(folder: Path) -> dict[str, object]:
    noise(folder / "0.png", seed=99)
    return {}


def new_mask(folder: Path) -> dict[str, object]:
    noise(folder / "0.mask.png", seed=99)
    return {}


@pytest.mark.parametrize(
    ("change", "encoded"),
    [
        (new_pixels, 1),
        (new_mask, 1),
        (lambda folder: {"flip": True}, 4),
        (lambda folder: {"masked_loss": False}, 1),
        (lambda folder: {"buckets": False}, 1),
        (lambda folder: {"random_crops": 2}, 8),
        (lambda folder: {"caption_dropout": 0.5, "batch_size": 1}, 0),
    ],
)
def test_only_what_changed_is_encoded_again(
    base: bases.Base,
    folder: Path,
    tmp_path: Path,
    change: Callable[[Path], dict[str, object]],
    encoded: int,
) -> None:
    settings: dict[str, object] = {"cache": tmp_path / "kept", "masked_loss": True}
    build(base, config(folder, **settings))
    latents = tmp_path / "kept" / "pictures"
    before = set(latents.iterdir())
    settings |= change(folder)
    built = build(base, config(folder, **settings))
    assert len(set(latents.iterdir()) - before) == encoded
    fresh = build(base, config(folder, **{**settings, "cache": None}))
    assert all(equal(built.batch(number, 0), fresh.batch(number, 0)) for number in range(6))


@pytest.mark.parametrize(
    ("part", "kind"), [("vae", "pictures"), ("text_encoder", "texts"), ("unet", None)]
)
def test_another_base_uses_nothing_of_the_first(
    tiny_base: Path, folder: Path, tmp_path: Path, part: str, kind: str | None
) -> None:
    """One weight differs, by the least amount."""
    base = bases.open_base(tiny_base)
    settings = config(folder, cache=tmp_path / "kept")
    build(base, settings)
    before = {
        name: len(list((tmp_path / "kept" / name).iterdir())) for name in ("pictures", "texts")
    }
    module = base.text_encoders[0].module if part == "text_encoder" else getattr(base, part)
    weight = list(module.parameters())[-1]
    weight.data.view(-1)[0] = torch.nextafter(weight.data.view(-1)[0], torch.tensor(9.0))
    build(base, settings)
    after = {
        name: len(list((tmp_path / "kept" / name).iterdir())) for name in ("pictures", "texts")
    }
    assert after == {n: count * (2 if n == kind else 1) for n, count in before.items()}


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "gone"])
def test_damaged_records_are_made_anew(
    base: bases.Base, folder: Path, tmp_path: Path, damage: str
) -> None:
    settings = config(folder, cache=tmp_path / "kept")
    whole = build(base, settings).batch(0, 0)
    for kind in ("pictures", "texts"):
        for first, second in zip(
            *[iter(sorted((tmp_path / "kept" / kind).iterdir()))] * 2, strict=False
        ):
            content = first.read_bytes()
            if damage == "gone":
                first.unlink()
            else:
                new = {"cut": content[:-4], "empty": b"", "other": second.read_bytes()}
                first.write_bytes(new[damage])
    assert equal(build(base, settings).batch(0, 0), whole)


def test_a_record_that_vanishes_on_the_way_is_told(
    base: bases.Base, folder: Path, tmp_path: Path
) -> None:
    built = build(base, config(folder, cache=tmp_path / "kept"))
    for file in (tmp_path / "kept" / "pictures").iterdir():
        file.unlink()
    with pytest.raises(FileInvalid, match="--resume"):
        built.batch(0, 0)


def test_a_cache_that_cannot_be_made(base: bases.Base, folder: Path) -> None:
    with pytest.raises(WriteFailed, match="choose another place"):
        build(base, config(folder, cache=folder / "0.png"))


def test_damaged_pictures_are_left_out_and_told(base: bases.Base, folder: Path) -> None:
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:2000])
    picture(folder / "2.mask.png", color="black")
    told: list[str] = []
    built = build(base, config(folder, masked_loss=True), told)
    assert [example.name for example in built.examples] == ["0.png", "wide.png"]
    assert "2 pictures are skipped: 1.png: damaged or cut off" in told[0]
    assert "2.png: its mask is all black" in told[0]
    assert {prompt for n in range(9) for prompt in built.batch(n, 0).prompts} <= {
        "x, 0, tall, wide",
        "x",
        "",
    }


def test_nothing_but_damaged_pictures(base: bases.Base, tmp_path: Path) -> None:
    path = noise(tmp_path / "set" / "a.png")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataInvalid, match=r"no picture can be trained: .*a\.png: damaged"):
        build(base, config(tmp_path / "set"))


def test_captions_that_are_cut_are_told(base: bases.Base, tmp_path: Path) -> None:
    picture(tmp_path / "set" / "a.png", text="word " * 80)
    told: list[str] = []
    build(base, config(tmp_path / "set"), told)
    assert told == ["1 captions are longer than 75 tokens; their ends are not seen"]


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"buckets": False, "enlarge": False}, "need buckets"),
        ({"bucket_min": 512, "bucket_max": 256}, "swap them"),
        ({"keep_tokens": 1}, "keep_tokens needs shuffle_captions or tag_dropout"),
        ({"class_prompt": "a dog"}, "class_prompt needs class_images"),
    ],
)
def test_settings_that_do_not_fit(folder: Path, settings: dict[str, object], part: str) -> None:
    from trainer_ui.engine.errors import ConfigInvalid

    with pytest.raises(ConfigInvalid, match=part):
        config(folder, **settings)
