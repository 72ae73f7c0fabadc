"""The pictures of a data set: problems, captions, bulk edits and taking them back."""

from __future__ import annotations

import io
import itertools
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from picture_files import noise, picture
from PIL import Image

from shira_core.errors import FileInvalid, InvalidValue, WriteFailed
from trainer_ui.engine.data import folder as files
from trainer_ui.engine.data import join
from trainer_ui.engine.data.buckets import Rule
from trainer_ui.engine.errors import DataInvalid
from trainer_ui.pictures import Folder, Item, captioners
from trainer_ui.roots import Roots

LONG = 60.0


@contextmanager
def opened(path: Path, **more: object) -> Iterator[Folder]:
    """A folder that has been looked at."""
    folder = Folder(path, **more)
    try:
        assert folder.wait(LONG)
        yield folder
    finally:
        folder.close()


def captions(path: Path) -> dict[str, str | None]:
    """The captions as the trainer finds them."""
    return {each.path.relative_to(path).as_posix(): each.caption for each in files.find(path).found}


def contents(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.rglob("*") if each.is_file()}


_LISTENING: list[set[Path]] = []


@cache
def _listen() -> None:
    """Hear of every file that is opened, from now on: nothing takes such a hook away."""

    def note(event: str, values: tuple[object, ...]) -> None:
        if event == "open":
            for names in _LISTENING:
                names.add(Path(str(values[0])))

    sys.addaudithook(note)


@contextmanager
def opened_files() -> Iterator[set[Path]]:
    """The files that any thread opens meanwhile."""
    _listen()
    names = set[Path]()
    _LISTENING.append(names)
    yield names
    _LISTENING.remove(names)


def by_name(folder: Folder) -> dict[str, Item]:
    return {item.name: item for item in folder.items(0, 1000)}


def blotches(path: Path, seed: int) -> None:
    """Write a picture of soft random colours, as far from others as two photos are."""
    Image.open(noise(path, (6, 6), seed)).resize((512, 512)).save(path)


def test_pictures_look_alike_after_saving_and_not_by_chance(tmp_path: Path) -> None:
    for seed in range(24):
        blotches(tmp_path / f"{seed:02}.png", seed)
        copy = Image.open(tmp_path / f"{seed:02}.png").resize((300 + seed, 310)).convert("L")
        if seed % 2:
            copy = Image.open(tmp_path / f"{seed:02}.png").resize((200, 190 + seed))
        copy.save(tmp_path / f"z{seed:02}.jpg", quality=50)
    with opened(tmp_path) as folder:
        found = {name: item.problems for name, item in by_name(folder).items()}
    for seed in range(24):
        alike = [f"duplicate: looks like {seed:02}.png"] if seed % 2 else []
        assert [p for p in found[f"z{seed:02}.jpg"] if p.startswith("dup")] == alike  # grey: not
        assert not [p for p in found[f"{seed:02}.png"] if p.startswith("dup")]


def test_every_problem_is_shown_with_its_picture(tmp_path: Path) -> None:
    blotches(tmp_path / "a.png", seed=1)
    (tmp_path / "a.txt").write_text("a cat, blue")
    Image.open(tmp_path / "a.png").resize((600, 600)).save(tmp_path / "b.jpg", quality=70)
    blotches(tmp_path / "c.png", seed=2)
    noise(tmp_path / "d.png", (100, 100), seed=3)
    (tmp_path / "e.png").write_bytes((tmp_path / "a.png").read_bytes()[:900])
    (tmp_path / "f.png").write_bytes(b"no picture")
    for name, color in (("g", "red"), ("h", "blue"), ("i", "red")):
        picture(tmp_path / f"{name}.png", (512, 512), color, "one colour")
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    with opened(tmp_path) as folder:
        found = {
            name: [line.partition(":")[0] for line in item.problems]
            for name, item in by_name(folder).items()
        }
        assert found == {
            "a.png": [],
            "b.jpg": ["duplicate", "no caption"],
            "c.png": ["caption unreadable"],
            "d.png": ["tiny", "no caption"],
            "e.png": ["unreadable", "no caption"],
            "f.png": ["unreadable", "no caption"],
            "g.png": [],
            "h.png": [],
            "i.png": ["duplicate"],
        }
        assert "a.png" in by_name(folder)["b.jpg"].problems[0]
        told = folder.statistics()
        assert (told.pictures, told.looked, told.captioned, told.tags) == (9, 9, 4, 3)
        assert told.problems == Counter(kind for kinds in found.values() for kind in kinds)
        assert [item.name for item in folder.items(0, 2, "no caption")] == ["b.jpg", "d.png"]
        assert [item.name for item in folder.items(1, 2, "no caption")] == ["e.png", "f.png"]
        assert [item.name for item in folder.items(2, 4)] == ["i.png"]
        assert folder.items(0, 1)[0].size == (512, 512)
        assert folder.items(4, 1)[0].size == (512, 512)  # its header is sound
        assert folder.items(5, 1)[0].size is None
        assert folder.tags()[0] == ("one colour", 3)
        assert folder.buckets() == {(512, 512): 8}


def test_damage_behind_a_sound_header_is_found(tmp_path: Path) -> None:
    noise(tmp_path / "a.png", (512, 512))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:9000])
    with opened(tmp_path) as folder:
        assert folder.items(0, 1)[0].problems[0].startswith("unreadable: damaged")


def test_the_first_page_needs_no_pixels(tmp_path: Path) -> None:
    """It is there before a thread could have looked at all, with sizes and captions."""
    for number in range(300):
        picture(tmp_path / f"{number:03}.png", (64 + number, 64), text=f"tag{number % 3}")
    folder = Folder(tmp_path)
    page = folder.items(2, 100)
    assert [item.size for item in page] == [(64 + number, 64) for number in range(200, 300)]
    assert [item.caption for item in page] == [f"tag{number % 3}" for number in range(200, 300)]
    assert folder.wait(LONG)
    folder.close()


def _beside(path: Path, count: int) -> None:
    for number in range(count):
        picture(path / f"{number:03}.png", (64 + number, 64), text=f"tag{number % 3}")


def _in_folders(path: Path, count: int) -> None:
    _beside(path, 2)
    _beside(path / "3_ink style", count)
    (path / "3_ink style" / "003.txt").unlink()


def _in_a_list(path: Path, count: int) -> None:
    _beside(path, count)
    lines = [json.dumps({"file_name": f"{n:03}.png"}) for n in reversed(range(count))]
    (path / "metadata.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize("layout", [_beside, _in_folders, _in_a_list])
def test_the_first_pictures_are_told_without_the_others(
    layout: Callable[[Path, int], None], tmp_path: Path
) -> None:
    """The same is told of them, and the files that are opened for it are those of their own."""
    counts = []
    for count in (20, 200):
        place = tmp_path / str(count)
        layout(place, count)
        with opened_files() as names:
            few = Folder(place, most=12)
            found = few.items(0, 12)
            assert few.wait(LONG)
            few.close()
        counts.append(Counter(name.suffix for name in names if place in name.parents))
        with opened(place) as folder:
            told = [(item.name, item.size, item.caption) for item in folder.items(0, 12)]
        assert told == [(item.name, item.size, item.caption) for item in found]
    assert counts[0] == counts[1]
    assert counts[0][".png"] == len(found) == 12


def test_captions_are_written_where_they_are_read(tmp_path: Path) -> None:
    """Beside the picture, in a folder with repeats, and in a list."""
    picture(tmp_path / "a.png", text="old")
    picture(tmp_path / "b.png")
    (tmp_path / "b.caption").write_text("old")
    picture(tmp_path / "3_my cat" / "c.d.png")
    with opened(tmp_path) as folder:
        assert by_name(folder)["3_my cat/c.d.png"].caption == "my cat"
        for name in by_name(folder):
            assert folder.write(name, f" new\n {name}\0 ").caption == f"new {name}"
        assert folder.statistics().per_epoch == 5
    wanted = {name: f"new {name}" for name in ("3_my cat/c.d.png", "a.png", "b.png")}
    assert captions(tmp_path) == wanted
    assert not (tmp_path / "b.txt").exists()
    assert (tmp_path / "3_my cat" / "c.d.txt").is_file()


def test_a_list_of_captions_keeps_the_rest_of_its_lines(tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.png", "c.png"):
        picture(tmp_path / name)
    lines = [
        '{"file_name": "a.png", "text": "old", "score": 0.50}',
        '{"file_name": "./sub/b.png", "prompt":"old é", "n": [1]}',
        "",
        '{"file_name": "c.png", "text": null}',
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with opened(tmp_path) as folder:
        folder.write("sub/b.png", "new ü")
        folder.write("c.png", "beside")
        written = (tmp_path / "metadata.jsonl").read_text(encoding="utf-8").split("\n")
        assert written[0] == lines[0]
        assert json.loads(written[1]) == {"file_name": "./sub/b.png", "prompt": "new ü", "n": [1]}
        assert written[2:] == lines[2:]
        assert folder.apply(folder.prepend("ink")) == 3
    assert captions(tmp_path) == {
        "a.png": "ink, old",
        "sub/b.png": "ink, new ü",
        "c.png": "ink, beside",
    }


words = st.lists(st.sampled_from(["cat", "ink", "a", ",", "é", "ink style", "\t"]), max_size=6)
texts = st.dictionaries(st.sampled_from("abcdef"), words.map(" ".join) | st.none(), min_size=1)
raws = st.sampled_from([b"", b"\xef\xbb\xbf", b"\r\n"])


@given(texts=texts, raw=raws, trigger=words.map(" ".join), new=words.map(" ".join))
@example(texts={"a": "ink"}, raw=b"\xef\xbb\xbf", trigger="", new="")
@settings(max_examples=40, deadline=None)
def test_bulk_edits_do_what_they_show_and_are_taken_back_byte_for_byte(
    texts: dict[str, str | None], raw: bytes, trigger: str, new: str
) -> None:
    """Judged by the trainer's own reading, and by the bytes of all files before and after."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        for stem, text in texts.items():
            picture(path / f"{stem}.png", (8, 8))
            if text is not None:
                (path / f"{stem}.txt").write_bytes(raw * (raw != b"\r\n") + text.encode() + raw)
        texts_before, before = captions(path), contents(path)
        clean = " ".join(trigger.split())
        with opened(path, rule=Rule(64, 64)) as folder:
            edits = [(folder.prepend(trigger), lambda text: join(clean, text or ""))]
            edits.append(
                (
                    folder.replace("ink", new),
                    lambda text: " ".join((text or "").replace("ink", new).split()),
                )
            )
            for edit, expected in edits:
                shown = {change.name: (change.before, change.after) for change in edit.changes}
                after = {name: expected(text) for name, text in texts_before.items()}
                assert folder.apply(edit) == len(shown)
                now = captions(path)
                assert {name: text or "" for name, text in now.items()} == after
                assert shown == {
                    name: (text, now[name])
                    for name, text in texts_before.items()
                    if (text or "") != after[name]
                }
                assert folder.undoable == bool(shown)
                assert folder.undo() == len(shown)
                assert contents(path) == before
                assert folder.undo() == 0


def test_an_edit_touches_nothing_that_changed_meanwhile(tmp_path: Path) -> None:
    """Neither the edit nor its undo, which works after a restart, too."""
    for name in "abc":
        picture(tmp_path / f"{name}.png", text="cat")
    with opened(tmp_path) as folder:
        edit = folder.replace("cat", "dog")
        (tmp_path / "a.txt").write_text("by hand")
        assert folder.apply(edit) == 2
    (tmp_path / "b.txt").write_text("by hand, later")
    with opened(tmp_path) as folder:
        assert folder.undo() == 1
    assert list(captions(tmp_path).values()) == ["by hand", "by hand, later", "cat"]


@pytest.mark.parametrize(
    ("call", "fails_at", "changed"), [("open", 3, {0}), ("replace", 0, {0, 1, 2, 3})]
)
def test_an_edit_that_breaks_off_can_be_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, fails_at: int, changed: set[int]
) -> None:
    """The disk is full while new files are written, or refuses to replace one of several."""
    for name in "abcd":
        picture(tmp_path / f"{name}.png", text="cat")
    before = contents(tmp_path)
    owner = io if call == "open" else os
    real, calls = getattr(owner, call), itertools.count()

    def full(*given: object, **more: object) -> object:
        names = [str(each) for each in given]
        if any(".txt" in name and ".tmp" in name for name in names) and next(calls) == fails_at:
            raise OSError(28, "No space left on device", *given[:1])
        return real(*given, **more)

    with opened(tmp_path) as folder:
        edit = folder.replace("cat", "dog")
        with monkeypatch.context() as patched:
            patched.setattr(owner, call, full)
            with pytest.raises(WriteFailed, match="no space"):
                folder.apply(edit)
        count = list(captions(tmp_path).values()).count("dog")
        assert count in changed
        assert folder.undo() == count
    assert contents(tmp_path) == before


def test_a_caption_that_cannot_be_read_is_not_destroyed(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", text="cat")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with opened(tmp_path) as folder:
        assert folder.apply(folder.prepend("ink")) == 1
        assert (tmp_path / "a.txt").read_bytes() == b"caf\xe9"
        assert folder.write("a.png", "coffee").problems == (
            "tiny: 64x64, enlarged 8.0 times for 512",
        )


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "b.png", "", "a.txt", "<b>.png"])
def test_only_pictures_of_the_folder_can_be_written(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "a.png")
    before = contents(tmp_path)
    with opened(tmp_path / "in") as folder, pytest.raises(DataInvalid, match="no picture"):
        folder.write(name, "text")
    assert contents(tmp_path) == before


def test_what_is_no_text_and_an_empty_search_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", text="cat")
    with opened(tmp_path) as folder:
        with pytest.raises(InvalidValue, match="type it anew"):
            folder.write("a.png", "\ud800")
        with pytest.raises(InvalidValue, match="search"):
            folder.replace("", "x")
        (tmp_path / ".shira-undo.json").write_text('{"before": {"../x": null}, "after": {}}')
        with pytest.raises(FileInvalid, match="outside"):
            folder.undo()
    assert captions(tmp_path) == {"a.png": "cat"}


def test_links_out_of_the_roots_are_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "secret" / "s.png", text="secret")
    picture(tmp_path / "in" / "a.png", text="cat")
    picture(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "s.png").symlink_to(tmp_path / "secret" / "s.png")
    (tmp_path / "in" / "5_more").symlink_to(tmp_path / "secret")
    (tmp_path / "in" / "b.txt").symlink_to(tmp_path / "secret" / "s.txt")
    with opened(tmp_path / "in", allowed=Roots([tmp_path / "in"]).resolve) as folder:
        assert list(by_name(folder)) == ["a.png", "b.png"]
        assert "links" in folder.statistics().notes[-1]
        assert "secret" not in (folder.items(1, 1)[0].caption or "")
        folder.apply(folder.prepend("ink"))
    assert (tmp_path / "secret" / "s.txt").read_text() == "secret"


def test_a_folder_that_other_programs_changed_is_listed_again(tmp_path: Path) -> None:
    blotches(tmp_path / "b.png", seed=1)
    with opened(tmp_path) as folder:
        stamp = folder.stamp
        assert folder.stamp == stamp
        (tmp_path / "b.txt").write_text("a cat")
        blotches(tmp_path / "a.png", seed=1)
        folder.again()
        assert folder.wait(LONG)
        assert folder.stamp != stamp
        assert {
            name: (item.caption, item.problems[:1]) for name, item in by_name(folder).items()
        } == {
            "a.png": (None, ("no caption",)),
            "b.png": ("a cat", ("duplicate: looks like a.png",)),
        }
        stamp = folder.stamp
        folder.write("a.png", "a dog")
        assert folder.stamp != stamp


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match="no pictures"):
        Folder(tmp_path)


PLUGIN = """
def caption(path):
    if path.stem == "bad":
        raise RuntimeError("too dark")
    return None if path.stem == "none" else f" a  picture of {path.stem} "
"""


def test_captions_are_written_by_installed_programs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package in a folder of its own, with the entry point that one needs."""
    site = tmp_path / "site"
    (site / "dark-1.dist-info").mkdir(parents=True)
    (site / "dark_plugin.py").write_text(PLUGIN)
    (site / "dark-1.dist-info" / "METADATA").write_text("Name: dark\nVersion: 1\n")
    points = "[shira.captioners]\ndark = dark_plugin:caption\nbroken = dark_plugin:nothing\n"
    (site / "dark-1.dist-info" / "entry_points.txt").write_text(points)
    with pytest.raises(InvalidValue, match="none"):
        captioners.captioner("dark")
    monkeypatch.syspath_prepend(site)
    assert captioners.names() == ["broken", "dark"]
    dark = captioners.captioner("dark")
    folder = tmp_path / "in"
    picture(folder / "a.png", text="by hand")
    picture(folder / "b.png")
    (folder / "damaged.png").write_bytes(b"nothing")
    with opened(folder) as pictures:
        assert pictures.apply(pictures.captioned(dark)) == 1
        picture(folder / "bad.png")
    assert captions(folder)["b.png"] == "a picture of b"
    with opened(folder) as pictures, pytest.raises(InvalidValue, match=r"bad\.png: too dark"):
        pictures.captioned(dark)
    picture(folder / "c.png")
    with opened(folder) as pictures:
        made = pictures.captioned(dark)
        assert [change.name for change in made.changes] == ["c.png"]
        assert "bad.png: too dark" in made.about
    with pytest.raises(InvalidValue, match="no text"):
        dark(Path("none.png"))
    with pytest.raises(InvalidValue, match="cannot be loaded"):
        captioners.captioner("broken")
