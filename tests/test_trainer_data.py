"""Which pictures are trained with which caption: layouts, texts, and every bad folder."""

import json
from pathlib import Path

import pytest

pytest.importorskip("PIL")
pytest.importorskip("pydantic")
from picture_files import dataset, noise, picture

from trainer_ui.engine import data
from trainer_ui.engine.errors import DataInvalid


def prompts(folder: Path, **settings: object) -> dict[str, str]:
    return {each.name: each.prompts[0] for each in dataset(folder, **settings).examples}


@pytest.mark.parametrize("kind", [".txt", ".caption"])
@pytest.mark.parametrize(
    ("text", "trigger", "expected"),
    [
        (b"a cat", "", "a cat"),
        (b"a cat", "ink style", "ink style, a cat"),
        (b"a cat in INK style", "ink style", "a cat in INK style"),
        (b"", "ink style", "ink style"),
        (b"\xef\xbb\xbfa cat\n on a mat\r\n", "", "a cat on a mat"),
        (None, "ink style", "ink style"),
        (b"pink styles", "ink style", "ink style, pink styles"),
    ],
)
def test_prompt(tmp_path: Path, text: bytes | None, trigger: str, expected: str, kind: str) -> None:
    path = picture(tmp_path / "my_cat-2.png")
    if text is not None:
        path.with_suffix(kind).write_bytes(text)
    assert prompts(tmp_path, trigger=trigger) == {"my_cat-2.png": expected}


def test_all_kinds_are_found_in_order_and_others_ignored(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.webp", "d.bmp", "e.jpeg", "a.mask.png"):
        picture(tmp_path / name)
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.md").write_bytes(b"")
    assert list(prompts(tmp_path)) == ["a.jpg", "b.PNG", "c.webp", "d.bmp", "e.jpeg"]


def test_folders_with_repeats(tmp_path: Path) -> None:
    picture(tmp_path / "10_ink_style cat" / "a.png")
    picture(tmp_path / "10_ink_style cat" / "b.png", text="a tabby")
    picture(tmp_path / "2_" / "a.png", text="a dog")
    picture(tmp_path / "0_off" / "a.png", text="never")
    picture(tmp_path / "c.png", text="a house")
    found = dataset(tmp_path, trigger="")
    assert [(each.name, each.prompts, each.repeats) for each in found.examples] == [
        ("c.png", ("a house",), 1),
        ("10_ink_style cat/a.png", ("ink style cat",), 10),
        ("10_ink_style cat/b.png", ("a tabby",), 10),
        ("2_/a.png", ("a dog",), 2),
    ]
    assert found.notes == ("pictures in subfolders are not trained: 1 in 0_off",)
    assert data.report(found).per_epoch == 23


def test_metadata_lists_pictures_and_texts(tmp_path: Path) -> None:
    entries: list[dict[str, object]] = [
        {"file_name": "b.png", "text": "a  cat"},
        {"file_name": "sub/a.png", "caption": "a dog", "more": 1},
        {"file_name": "c.png"},
        {"file_name": "gone.png", "text": "a ghost"},
    ]
    for name in ("a.png", "b.png", "c.png", "sub/a.png"):
        picture(tmp_path / name, text="from a file")
    lines = "\n\n".join(json.dumps(entry) for entry in entries)
    (tmp_path / "metadata.jsonl").write_text(lines + "\n", encoding="utf-8")
    expected = {"b.png": "a cat", "sub/a.png": "a dog", "c.png": "from a file"}
    assert prompts(tmp_path, trigger="") == expected
    found = dataset(tmp_path)
    assert [each.name for each in found.skipped] == ["gone.png"]
    assert found.notes == ("1 pictures are not in metadata.jsonl, a.png for one",)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{", "line 2: write"),
        ("[]", "line 2: write"),
        ('{"text": "a"}', "line 2: write"),
        ('{"file_name": "a.png", "text": 3}', "line 2: write"),
        ('{"file_name": "../a.png", "text": "a"}', "outside of its folder"),
        ('{"file_name": "/a.png", "text": "a"}', "outside of its folder"),
    ],
)
def test_bad_metadata(tmp_path: Path, line: str, part: str) -> None:
    picture(tmp_path / "set" / "a.png")
    good = '{"file_name": "a.png", "text": "a cat"}'
    (tmp_path / "set" / "metadata.jsonl").write_text(f"{good}\n{line}\n", encoding="utf-8")
    with pytest.raises(DataInvalid, match=part):
        dataset(tmp_path / "set")


def folder_above(root: Path) -> Path:
    for name in ("cat/a.png", "cat/b.png", "dog/a.png"):
        picture(root / "set" / name)
    return root / "set"


def latin_caption(root: Path) -> Path:
    picture(root / "a.png").with_suffix(".txt").write_bytes("caf\xe9".encode("latin-1"))
    return root


def only_damaged(root: Path) -> Path:
    (root / "a.png").write_bytes(b"no picture")
    return root


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda root: root, ("no pictures in", ".png")),
        (lambda root: root / "none", ("does not exist",)),
        (lambda root: picture(root / "a.png"), ("is a file, not a folder",)),
        (folder_above, ("no pictures directly in", "2 in", "cat", "--images")),
        (latin_caption, ("a.txt", "not UTF-8", "save it again")),
        (only_damaged, ("no picture of", "a.png: empty, or not a picture")),
    ],
)
def test_bad_folders(tmp_path: Path, make: object, parts: tuple[str, ...]) -> None:
    with pytest.raises(DataInvalid) as caught:
        dataset(make(tmp_path))  # type: ignore[operator]
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_neither_captions_nor_a_trigger(tmp_path: Path, text: str | None) -> None:
    picture(tmp_path / "a.png", text=text)
    with pytest.raises(DataInvalid, match=r"no trigger: give --trigger .* or write a\.txt"):
        dataset(tmp_path, trigger="")


def test_class_images_keep_their_own_words(tmp_path: Path) -> None:
    picture(tmp_path / "dog" / "a.png", text="in the snow")
    picture(tmp_path / "class" / "a.png", text="a puppy")
    picture(tmp_path / "class" / "b.png", color="blue")
    found = dataset(
        tmp_path / "dog",
        trigger="sks dog",
        class_images=tmp_path / "class",
        class_prompt="a photo of a dog",
    )
    assert [(each.prompts[0], each.is_class) for each in found.examples] == [
        ("sks dog, in the snow", False),
        ("a puppy", True),
        ("a photo of a dog", True),
    ]
    assert found.prompts == ["sks dog, in the snow"]
    report = data.report(found)
    assert (report.pictures, report.class_pictures, report.prompts) == (1, 2, 1)


def test_class_images_need_a_prompt(tmp_path: Path) -> None:
    picture(tmp_path / "dog" / "a.png")
    picture(tmp_path / "class" / "a.png")
    with pytest.raises(DataInvalid, match=r"a\.png has no caption: give --class-prompt"):
        dataset(tmp_path / "dog", class_images=tmp_path / "class")
    with pytest.raises(DataInvalid, match=r"class_images: .* does not exist"):
        dataset(tmp_path / "dog", class_images=tmp_path / "none", class_prompt="a dog")


def changes(root: Path) -> dict[str, dict[str, object]]:
    """Return settings, each with one thing that training would notice."""
    noise(root / "set" / "a.mask.png", seed=1)
    return {"": {}, "trigger": {"trigger": "oil"}, "mask": {"masked_loss": True}}


def test_the_digest_sees_all_that_is_trained(tmp_path: Path) -> None:
    path = picture(tmp_path / "set" / "a.png")
    every = changes(tmp_path)
    digests = [data.digest(dataset(tmp_path / "set", **more)) for more in every.values()]
    noise(tmp_path / "set" / "a.mask.png", seed=2)
    digests.append(data.digest(dataset(tmp_path / "set", masked_loss=True)))
    path.with_suffix(".txt").write_text("new")
    digests.append(data.digest(dataset(tmp_path / "set")))
    picture(path, color="blue")
    digests.append(data.digest(dataset(tmp_path / "set")))
    (tmp_path / "set" / "3_x").mkdir()
    path.rename(tmp_path / "set" / "3_x" / "a.png")
    path.with_suffix(".txt").rename(tmp_path / "set" / "3_x" / "a.txt")
    digests.append(data.digest(dataset(tmp_path / "set")))
    assert len(set(digests)) == len(digests) == 7
    (tmp_path / "set").rename(tmp_path / "moved")
    assert data.digest(dataset(tmp_path / "moved")) == digests[-1]
