"""What the WebUI's page holds and shows, without a WebUI: rows, infotexts, presets, cards."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import webui_stubs  # noqa: F401 - makes `modules` importable
from adapters import random_adapter
from hypothesis import given
from hypothesis import strategies as st
from modules import scripts

from a1111_extension import paths, tag
from a1111_extension.tag import Tag
from a1111_extension.ui import cards, infotext, presets, readout, state, xyz
from shira_core import MemoryWeights, SparseDelta
from shira_core.adapter import Adapter, Header
from shira_core.errors import FileInvalid, InvalidValue, ShiraError, WriteFailed
from shira_core.library import Library
from shira_core.mask import Mask
from shira_core.rows import Row

WEIGHT = "model.diffusion_model.input_blocks.1.1.proj_in.weight"
SHAPES = {WEIGHT: (8, 8)}
NASTY = '<img src=x onerror="alert(1)">'
# What the WebUI reads an infotext's parameters with.
PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')

NUMBERS = st.floats(-100, 100, allow_nan=False)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(
    lambda text: text == text.strip() and "/" not in text and "\\" not in text
)
BLOCKS = st.sampled_from(("", "mid=0", "mid=0, in4=0.5", "0.5, te1.7=2"))
SPANS = st.tuples(st.floats(0, 0.5), st.floats(0.5, 1, exclude_min=True))
TAGS = st.builds(
    lambda name, alpha, te, blocks, span: Tag(
        Row(f"{name}.shira", alpha=alpha, alpha_te=te, blocks=blocks), *span
    ),
    NAMES,
    NUMBERS,
    st.none() | NUMBERS,
    BLOCKS,
    SPANS,
)
STACKS = st.lists(TAGS, max_size=4, unique_by=lambda each: each.row.name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def library(folder: Path) -> Library:
    return Library(lambda: [folder])


def write(path: Path, seed: int = 0, **header: Any) -> Path:
    return random_adapter(SHAPES, seed, **header).save(path, overwrite=True)


def find(library: Library) -> infotext.Find:
    """Return what finds files by their names in tags."""

    def found(name: str) -> str:
        whole = name if name.endswith(".shira") else f"{name}.shira"
        library.resolve(whole)
        return whole

    return found


# ---- rows ----
@pytest.mark.parametrize(
    "value",
    [
        [{"name": "a.shira", "alpha": 0.5}, {"name": "b"}],
        '[{"name": "a.shira", "alpha": 0.5}, {"name": "b"}]',
        '[{"name": "a.shira", "alpha": 0.5}, {"name": "c", "on": false}, {"name": "b"}]',
        "a.shira: 0.5\nb",
        ["a.shira: 0.5", "b: 1"],
    ],
)
def test_rows_of_page_and_programs(value: object) -> None:
    assert state.tags(value) == [Tag(Row("a.shira", alpha=0.5)), Tag(Row("b"))]


@pytest.mark.parametrize("value", [None, "", "[]", []])
def test_no_rows(value: object) -> None:
    assert state.tags(value) == []


@pytest.mark.parametrize(
    "value",
    [
        "[",
        "[1]",
        [{"alpha": 1}],
        [{"name": "a", "alpha": "much"}],
        [{"name": "a", "alpha": float("nan")}],
        [{"name": "a", "alpha": 1e9}],
        [{"name": "a", "alpha_te": True}],
        [{"name": "a", "blocks": "nowhere=1"}],
        [{"name": "a", "start": "0"}],
        [{"name": "a", "start": 0.5, "stop": 0.5}],
        [{"name": "a", "stop": 2}],
        [{"name": ""}],
        [{"name": "a"}, {"name": "a"}],
        {"name": "a"},
        "a: much",
        7,
    ],
)
def test_rows_that_are_refused(value: object) -> None:
    with pytest.raises(InvalidValue):
        state.tags(value)


@given(STACKS)
def test_rows_of_the_page_keep_everything(stack: list[Tag]) -> None:
    assert state.tags(state.write(stack, {})) == stack


# ---- infotext ----
def as_pasted(said: dict[str, str]) -> dict[str, str]:
    """Return what a WebUI reads of the parameters that it has written."""
    plain = {"Steps": "4", **said}
    line = ", ".join(f"{key}: {quoted(value)}" for key, value in plain.items())
    return {
        key: json.loads(value) if value.startswith('"') else value
        for key, value in PARAMETER.findall(line)
    }


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if set(text) & set(",:\n") else text


@given(STACKS)
def test_an_infotext_gives_the_same_rows(stack: list[Tag]) -> None:
    nothing = Library(lambda: [Path("nowhere")])
    params = as_pasted(infotext.written(nothing, stack, []))
    rows = infotext.pasted(nothing, find(nothing), params)
    assert rows is not None
    assert state.tags(rows) == stack


@pytest.mark.parametrize("name", ["riso", "sub/my style", "a, b: 100%2C", "\u96f2"])
def test_hashes_go_with_names(library: Library, folder: Path, name: str) -> None:
    (folder / "sub").mkdir()
    write(folder / f"{name}.shira")
    digest = library.load(f"{name}.shira").digest
    row = Tag(Row(f"{name}.shira", alpha=0.5))
    params = as_pasted(infotext.written(library, [row], [row.row.name]))
    rows = infotext.pasted(library, find(library), params)
    assert state.hashes(rows or "") == {f"{name}.shira": digest[:10]}
    assert "shira-error" not in readout.show(library, rows or "")


def test_pasting_notices_another_file_and_finds_a_renamed_one(
    library: Library, folder: Path
) -> None:
    write(folder / "old.shira", 1)
    row = Tag(Row("old.shira"))
    params = as_pasted(infotext.written(library, [row], ["old.shira", "ghost.shira"]))
    (folder / "old.shira").rename(folder / "new.shira")
    rows = infotext.pasted(library, find(library), params) or ""
    assert state.tags(rows) == [Tag(Row("new.shira"))]
    assert "shira-error" not in readout.show(library, rows)
    write(folder / "old.shira", 2)
    rows = infotext.pasted(library, find(library), params) or ""
    assert state.tags(rows) == [row]
    assert "old.shira is not the file of that picture" in readout.show(library, rows)
    prompt = {"Prompt": "a <shira:old:1> b <lora:x:1>", "Hires prompt": "<shira:none:1>"}
    other, missing = infotext.warnings(library, find(library), {**params, **prompt})
    assert "is not the file of that picture" in other
    assert "'none.shira' is not in" in missing


def test_pasting_a_picture_without_rows_clears_them(library: Library) -> None:
    assert infotext.pasted(library, find(library), {"Prompt": "cat"}) is None
    assert infotext.pasted(library, find(library), {"Steps": "4"}) == "[]"
    assert infotext.written(library, [], []) == {}
    with pytest.raises(InvalidValue):
        infotext.pasted(library, find(library), {"SHiRA": "<shira:a:much>"})


# ---- presets ----
def test_presets(folder: Path) -> None:
    rows = state.write([Tag(Row("a.shira", alpha=0.3))], {})
    assert presets.names(folder) == []
    assert presets.save(folder, " Größe \u732b v1.5 ", rows) == "Größe \u732b v1.5"
    presets.save(folder, "b", rows)
    assert presets.names(folder) == ["b", "Größe \u732b v1.5"]
    assert presets.load(folder, "Größe \u732b v1.5") == rows
    changed = state.write([Tag(Row("a.shira", alpha=0.4))], {})
    presets.save(folder, "b", changed)
    assert presets.load(folder, "b") == changed
    presets.delete(folder, "b")
    assert presets.names(folder) == ["Größe \u732b v1.5"]


@pytest.mark.parametrize(
    "name", [None, "", " ", ".", "..", "../x", "a/b", "a\\b", "/x", "a:b", "x" * 101, "a\0b", "<b>"]
)
def test_names_of_presets_that_are_refused(folder: Path, name: Any) -> None:
    rows = state.write([Tag(Row("a"))], {})
    for act in (lambda: presets.save(folder, name, rows), lambda: presets.load(folder, name)):
        with pytest.raises(InvalidValue):
            act()
    with pytest.raises(InvalidValue):
        presets.delete(folder, name)
    assert list(folder.iterdir()) == []


def test_presets_that_cannot_be_used(folder: Path) -> None:
    for rows in ("[]", "[1]", '[{"name": "a", "on": false}]'):
        with pytest.raises(InvalidValue):
            presets.save(folder, "empty", rows)
    place = folder / presets.FOLDER
    place.mkdir()
    (place / "broken.json").write_text("[{", "utf-8")
    (place / "bytes.json").write_bytes(b"\xff\xfe\x00")
    (place / "large.json").write_text("[" + " " * (1 << 20) + "]", "utf-8")
    for name in ("broken", "bytes", "large", "none"):
        with pytest.raises(FileInvalid):
            presets.load(folder, name)
    with pytest.raises(FileInvalid):
        presets.delete(folder, "none")
    (folder / "file").write_text("")
    with pytest.raises(WriteFailed):
        presets.save(folder / "file", "x", state.write([Tag(Row("a"))], {}))


# ---- files ----
def test_a_card_says_what_the_header_says(library: Library, folder: Path) -> None:
    header = {"title": "Riso", "architecture": "sd15", "triggers": ("riso style", "ink")}
    write(folder / "riso.shira", **header, description=NASTY)
    card = cards.card(library, "riso.shira")
    assert (card.title, card.architecture, card.words) == ("Riso", "sd15", ("riso style", "ink"))
    assert card.metadata["description"] == NASTY
    json.dumps(dict(card.metadata))


@pytest.mark.parametrize(
    ("noted", "words"),
    [
        ('{"activation text": "ink, two inks "}', ("ink", "two inks")),
        ('{"activation text": ""}', ("own",)),
        ('{"activation text": 7}', ("own",)),
        ("[1]", ("own",)),
        ("{", ("own",)),
    ],
)
def test_words_noted_beside_a_file_come_first(
    folder: Path, noted: str, words: tuple[str, ...]
) -> None:
    (folder / "a.json").write_text(noted, "utf-8")
    assert cards.words(folder / "a.shira", ("own",)) == words


def test_the_list_has_errors_by_file(library: Library, folder: Path) -> None:
    write(folder / "good.shira", triggers=("one", "two"))
    (folder / "bad.shira").write_bytes(b"bad")
    (folder / "other.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    bad, good = cards.listing(library)
    assert set(bad) == {"name", "error"}
    assert (good["name"], good["tag"], good["words"]) == (
        "good.shira",
        "<shira:good:1>",
        ["one", "two"],
    )


# ---- the read-out ----
class Text(HTMLParser):
    """The text of HTML, and its elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.kinds, self.attributes = "", set[str](), dict[str, str | None]()
        self.feed(html)

    def handle_starttag(self, kind: str, attributes: list[tuple[str, str | None]]) -> None:
        self.kinds.add(kind)
        self.attributes.update(attributes)

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


@given(NAMES)
def test_names_are_never_html(name: str) -> None:
    nothing = Library(lambda: [Path("nowhere")])
    rows = json.dumps([{"name": f"{NASTY}{name}.shira"}])
    shown = Text(readout.show(nothing, rows))
    assert shown.kinds == {"div", "p"}
    assert shown.attributes["data-rows"] == rows


def test_the_readout_says_what_pairs_share(library: Library, folder: Path) -> None:
    places = {"few": range(0, 40), "same": range(0, 40), "half": range(30, 70), "apart": (99,)}
    for name, chosen in places.items():
        entries = torch.tensor(list(chosen))
        delta = SparseDelta(Mask((10, 10), entries), torch.ones(len(entries)))
        Adapter(Header(), MemoryWeights({WEIGHT: delta})).save(folder / f"{name}.shira")
    rows = json.dumps([{"name": f"{name}.shira"} for name in places])
    text = Text(readout.show(library, rows)).text
    assert "few and same have 100% of their entries in common: lower the alphas" in text
    assert "few and half have 25% of their entries in common: mix with lower" in text
    assert "half and apart have almost none of their entries in common: mix freely" in text
    assert "3 more pairs" in text
    assert "in common" not in readout.show(library, rows, interference=False)


def test_large_adapters_are_compared_by_a_part(library: Library, folder: Path) -> None:
    names = [f"model.diffusion_model.input_blocks.{at}.0.weight" for at in range(200)]
    for file, seed in (("a", 0), ("b", 1), ("c", 0)):
        shapes = dict.fromkeys(names, (20, 20))
        random_adapter(shapes, seed, density=0.5).save(folder / f"{file}.shira")
    rows = json.dumps([{"name": f"{file}.shira"} for file in "abc"])
    text = Text(readout.show(library, rows)).text
    assert "a and c have 100% of their entries in common" in text
    share = re.search(r"a and b have (\d+)%", text)
    assert share
    assert abs(int(share[1]) - 50) <= 5


def test_the_readout_notices_a_broken_and_a_changed_file(library: Library, folder: Path) -> None:
    rows = json.dumps([{"name": "a.shira"}, {"name": "b.shira"}])
    write(folder / "a.shira", 0)
    write(folder / "b.shira", 0)
    assert "100%" in readout.show(library, rows)
    write(folder / "b.shira", 1)
    assert "100%" not in readout.show(library, rows)
    content = bytearray((folder / "b.shira").read_bytes())
    content[-16:] = b"\xff" * 16  # no finite values
    (folder / "b.shira").write_bytes(content)
    assert "shira-error" in readout.show(library, rows)


# ---- axes ----
class AxisOption:
    def __init__(self, label: str, type: Any, apply: Any, **more: Any) -> None:
        self.label, self.type, self.apply, self.more = label, type, apply, more


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> list[AxisOption]:
    """The axes that the X/Y/Z script has after ours were added twice."""
    module = SimpleNamespace(axis_options=[], AxisOption=AxisOption)
    found = scripts.ScriptClassData(None, "scripts/xyz_grid.py", "", module)
    monkeypatch.setattr(scripts, "scripts_data", [found])
    xyz.add()
    xyz.add()
    return module.axis_options


A, B = Tag(Row("a", alpha=0.5), stop=0.5), Tag(Row("b"))
CELLS = (
    ([A, B], {}, [A, B]),
    ([A, B], {0: "c"}, [Tag(Row("c", alpha=0.5), stop=0.5), B]),
    ([A, B], {1: 0.25}, [Tag(Row("a", alpha=0.25), stop=0.5), B]),
    ([A, B], {1: 0.25, 0: "c"}, [Tag(Row("c", alpha=0.25), stop=0.5), B]),
    ([A, B], {0: "None", 1: 0.25}, [B]),
    ([], {0: "c", 1: 0.25}, [Tag(Row("c", alpha=0.25))]),
    ([], {1: 0.25}, []),
)


@pytest.mark.parametrize(("rows", "values", "result"), CELLS)
def test_axes_change_the_first_row(
    axes: list[AxisOption], rows: list[Tag], values: dict[int, Any], result: list[Tag]
) -> None:
    assert [axis.label for axis in axes] == list(xyz.LABELS)
    job = SimpleNamespace()
    for at, value in values.items():
        axes[at].apply(job, value, [])
    assert xyz.changed(job, rows) == result


def test_axes_of_one_cell_leave_the_others(axes: list[AxisOption]) -> None:
    first = SimpleNamespace()
    axes[0].apply(first, "c", [])
    second = SimpleNamespace(**vars(first))
    axes[1].apply(second, 0.25, [])
    assert xyz.changed(first, [A]) == [Tag(Row("c", alpha=0.5), stop=0.5)]


def test_axes_refuse_before_the_first_picture(
    axes: list[AxisOption], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "HOME", folder)
    write(folder / "good.shira")
    adapter, alpha = axes
    adapter.more["confirm"](None, ["good", "None"])
    alpha.more["confirm"](None, [-1.0, 100.0])
    assert adapter.more["choices"]() == ["None", "good"]
    for axis, value in ((adapter, "bad"), (alpha, float("nan")), (alpha, 101.0)):
        with pytest.raises(ShiraError):
            axis.more["confirm"](None, [value])


def test_all_tags_of_a_text_are_found() -> None:
    text = f"a {tag.write(A)}, <lora:x:1> <shira> {tag.write(B)}"
    assert state.parse(text) == [A, B]
