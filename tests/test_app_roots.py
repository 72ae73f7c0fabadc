"""Paths that a page gives: nothing outside of the roots can be named."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer_ui.roots import PathRefused, Roots

ODD = [
    "..",
    ".",
    "",
    "~",
    "a",
    "b",
    "pictures",
    "loop",
    "out",
    "back",
    "a\0b",
    "x" * 300,
    "é",
    "CON",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two roots of one name with links in them, and a secret beside."""
    base = tmp_path_factory.mktemp("roots")
    first, second = base / "one" / "pictures", base / "two" / "pictures"
    for folder in (first / "a" / "b", second / "a", base / "secret"):
        folder.mkdir(parents=True)
    (base / "secret" / "key.txt").write_text("secret")
    (first / "a" / "cat.png").write_bytes(b"cat")
    (first / "out").symlink_to(base / "secret")
    (first / "key.png").symlink_to(base / "secret" / "key.txt")
    (first / "back").symlink_to(second / "a")
    (first / "loop").symlink_to(first / "loop")
    return base


@pytest.fixture(scope="module")
def roots(place: Path) -> Roots:
    return Roots([place / "one" / "pictures", place / "two" / "pictures"])


def test_what_is_shown_is_understood(place: Path, roots: Roots) -> None:
    cat = place / "one" / "pictures" / "a" / "cat.png"
    assert roots.shown(cat) == "pictures/a/cat.png"
    assert roots.resolve("pictures/a/cat.png").read_bytes() == b"cat"
    assert roots.resolve(str(cat)) == cat.resolve()
    new = roots.resolve("pictures (2)/new/style.shira")
    assert new == (place / "two" / "pictures" / "new" / "style.shira").resolve()
    assert roots.shown(place / "two" / "pictures") == "pictures (2)"


def test_a_link_may_lead_from_one_root_into_another(place: Path, roots: Roots) -> None:
    assert roots.resolve("pictures/back") == (place / "two" / "pictures" / "a").resolve()


@pytest.mark.parametrize(
    "text",
    [
        *("", "   ", "/", "/etc/passwd", "etc/passwd", "..", "pictures/..", "pictures/../two"),
        *("pictures/a/../../..", "pictures/out", "pictures/out/key.txt", "pictures/key.png"),
        *("pictures/loop", "pictures/loop/x", "pictures/a\0b", "pictures/" + "x" * 5000),
        *("~", "~/x", "pictures (3)/a", "{first}x", "{base}", "{base}/secret/key.txt"),
        *("{first}/../../secret/key.txt", "//etc/passwd", "file:///etc/passwd"),
    ],
)
def test_ways_out_are_refused_in_one_line(place: Path, roots: Roots, text: str) -> None:
    wanted = text.format(first=place / "one" / "pictures", base=place)
    with pytest.raises(PathRefused) as error:
        roots.resolve(wanted)
    assert "\n" not in str(error.value)
    assert ": " in str(error.value)


def test_no_roots_allow_nothing(tmp_path: Path) -> None:
    with pytest.raises(PathRefused, match="no folder"):
        Roots([]).resolve(tmp_path)


parts = st.lists(st.sampled_from(ODD) | st.text(max_size=8), max_size=6)


@given(
    start=st.sampled_from(["pictures", "pictures (2)", "{first}", "{base}", "/", ""]), more=parts
)
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_resolved_lies_in_a_root(
    place: Path, roots: Roots, start: str, more: list[str]
) -> None:
    """Judged by the parts of the real path, and by what can be reached with it."""
    begin = start.replace("{first}", str(place / "one" / "pictures")).replace("{base}", str(place))
    text = "/".join([begin, *more])
    try:
        found = roots.resolve(text)
    except PathRefused:
        return
    real = os.path.realpath(found)
    assert str(found) == real
    allowed = [os.path.realpath(place / name / "pictures") for name in ("one", "two")]
    assert any(os.path.commonpath([real, folder]) == folder for folder in allowed)
    assert ".." not in PurePosixPath(text).parts
    assert roots.resolve(roots.shown(found)) == found
