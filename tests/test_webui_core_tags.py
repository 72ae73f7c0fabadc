"""Tags of prompts, files by their names in tags, and what is shown of errors."""

from __future__ import annotations

import argparse
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import webui_stubs  # noqa: F401 - makes `modules` importable
from adapters import random_adapter
from hypothesis import given
from hypothesis import strategies as st

from a1111_extension import paths, problems, tag
from a1111_extension.tag import Tag
from shira_core.errors import FileInvalid, InvalidValue
from shira_core.rows import Row

SHAPES = {"model.diffusion_model.input_blocks.1.1.proj_in.weight": (8, 8)}


def split(text: str) -> tuple[list[str], dict[str, str]]:
    """Split a tag as the WebUI does: at ":", then at the first two "="."""
    found = re.fullmatch(r"<(\w+):([^>]+)>", text)
    assert found, text
    assert found[1] == tag.KIND
    items, named = [], {}
    for item in found[2].split(":"):
        parts = item.split("=", 2)
        if len(parts) == 2:
            named[parts[0]] = parts[1]
        else:
            items.append(item)
    return items, named


READ = (
    ("<shira:style>", Tag(Row("style"))),
    ("<shira:style:0.8>", Tag(Row("style", alpha=0.8))),
    ("<shira: sub/my style :-1.5>", Tag(Row("sub/my style", alpha=-1.5))),
    ("<shira:style:0.8:te=0.5>", Tag(Row("style", alpha=0.8, alpha_te=0.5))),
    ("<shira:style:te=0>", Tag(Row("style", alpha_te=0.0))),
    ("<shira:style:1:lbw=mid=0;in4=0.5>", Tag(Row("style", blocks="mid=0, in4=0.5"))),
    ("<shira:style:1:lbw=mid=0>", Tag(Row("style", blocks="mid=0"))),
    ("<shira:style:1:lbw=0.5;out3=2>", Tag(Row("style", blocks="0.5, out3=2"))),
    ("<shira:style:1:start=0.2:stop=0.9>", Tag(Row("style"), 0.2, 0.9)),
    ("<shira:a%3Ab:1>", Tag(Row("a:b"))),
    ("<shira:100%:1>", Tag(Row("100%"))),
    ("<shira:Größe/\u732b:1e-1>", Tag(Row("Größe/\u732b", alpha=0.1))),
)
REFUSED = (
    "<shira: >",
    "<shira:x:abc>",
    "<shira:x:nan>",
    "<shira:x:inf>",
    "<shira:x:101>",
    "<shira:x:1:2>",
    "<shira:x:1:te=b>",
    "<shira:x:1:te=0.1:lbw=attic=1>",
    "<shira:x:1:lbw=mid=x>",
    "<shira:x:1:unet=1>",
    "<shira:x:1:start=0.5:stop=0.5>",
    "<shira:x:1:start=-0.1>",
    "<shira:x:1:stop=1.1>",
    "<shira:x:1:stop=nan>",
)


@pytest.mark.parametrize(("text", "wanted"), READ)
def test_a_tag_is_read(text: str, wanted: Tag) -> None:
    assert tag.read(*split(text)) == wanted
    assert tag.read(*split(tag.write(wanted))) == wanted


@pytest.mark.parametrize("text", REFUSED)
def test_a_malformed_tag_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        tag.read(*split(text))
    assert "\n" not in str(caught.value)


def test_a_tag_without_a_name_is_refused() -> None:
    with pytest.raises(InvalidValue, match="names no file"):
        tag.read([], {})


numbers = st.floats(-100, 100, allow_nan=False)
names = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1).filter(
    lambda name: name == name.strip() and not name.endswith(".shira")
)
factors = st.dictionaries(st.sampled_from(["mid", "in4", "out11", "te1.3"]), numbers, max_size=3)


@given(
    name=names,
    alpha=numbers,
    te=st.none() | numbers,
    blocks=factors,
    ends=st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True),
)
def test_what_is_written_is_read_again(
    name: str, alpha: float, te: float | None, blocks: dict[str, float], ends: list[float]
) -> None:
    text = ", ".join(f"{block}={factor}" for block, factor in blocks.items())
    wanted = Tag(Row(name, alpha=alpha, alpha_te=te, blocks=text), min(ends), max(ends))
    assert tag.read(*split(tag.write(wanted))) == wanted


def test_the_suffix_of_a_file_is_left_out() -> None:
    assert tag.write(Tag(Row("sub/style.shira", alpha=0.8))) == "<shira:sub/style:0.8>"
    assert tag.write(Tag(Row("style.safetensors"))) == "<shira:style.safetensors:1>"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """models/shira and a folder of --shira-dir, each with files."""
    home, other = tmp_path / "models" / "shira", tmp_path / "other"
    monkeypatch.setattr(paths, "HOME", home)
    monkeypatch.setattr(paths.shared.cmd_opts, "shira_dir", [str(other)], raising=False)
    for path in (home / "a.shira", home / "sub" / "v1.5.shira", other / "b.safetensors"):
        path.parent.mkdir(parents=True, exist_ok=True)
        random_adapter(SHAPES, 0).save(path)
    return home


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a", "a.shira"),
        ("a.shira", "a.shira"),
        ("sub/v1.5", "sub/v1.5.shira"),
        ("sub\\v1.5", "sub/v1.5.shira"),
        ("b", "b.safetensors"),
        ("b.safetensors", "b.safetensors"),
    ],
)
def test_a_file_is_found_by_its_name_in_a_tag(folders: Path, name: str, file: str) -> None:
    found = paths.find(name)
    assert paths.LIBRARY.resolve(found) == paths.LIBRARY.resolve(file)
    assert paths.LIBRARY.load(found).adapter.entries > 0


@pytest.mark.parametrize("name", ["none", "../other/b", "/etc/passwd", "link", "A.b.c", "x" * 5000])
def test_a_name_that_leads_nowhere_is_refused(folders: Path, name: str) -> None:
    outside = folders.parent / "outside.shira"
    random_adapter(SHAPES, 0).save(outside)
    (folders / "link.shira").symlink_to(outside)
    with pytest.raises(FileInvalid) as caught:
        paths.find(name)
    assert "\n" not in str(caught.value)


def test_the_flag_names_more_folders() -> None:
    spec = importlib.util.spec_from_file_location(
        "preload", Path(__file__).parent.parent / "preload.py"
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parser = argparse.ArgumentParser()
    module.preload(parser)
    assert parser.parse_args([]).shira_dir is None
    assert parser.parse_args(["--shira-dir", "a", "--shira-dir", "b"]).shira_dir == ["a", "b"]


class Processing(SimpleNamespace):
    def comment(self, text: str) -> None:
        self.comments[text] = 1


def processing() -> Any:
    return Processing(extra_generation_params={"Steps": 4}, comments={})


def test_an_error_is_shown_on_the_page_and_in_the_infotext_once() -> None:
    p = processing()
    problems.note(p, InvalidValue("first\n thing"))
    problems.note(p, KeyError("x"))
    problems.note(p, InvalidValue("first thing"))
    assert p.extra_generation_params[problems.KEY] == "first thing; KeyError: 'x'"
    assert list(p.comments) == ["SHiRA: first thing", "SHiRA: KeyError: 'x'"]
    problems.clear(p)
    assert p.extra_generation_params == {"Steps": 4}
