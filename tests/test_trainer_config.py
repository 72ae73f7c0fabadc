"""Settings of a training run: the file, the flags over it, and one clear line for each mistake."""

from pathlib import Path

import pytest

config = pytest.importorskip("trainer_ui.engine.config")
from trainer_ui.engine import presets, settings_page  # noqa: E402
from trainer_ui.engine.errors import ConfigInvalid  # noqa: E402

FILE = 'base = "b.safetensors"\nimages = "pictures"\nout = "style.shira"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_in_the_file_are_relative_to_it_and_flags_override(tmp_path: Path) -> None:
    settings = config.load(write(tmp_path, FILE + "steps = 7\nlr = 1e-3\n"), {"steps": 9})
    assert (settings.steps, settings.lr) == (9, 1e-3)
    assert settings.images == tmp_path / "pictures"
    assert settings.run_folder == tmp_path / "style.run"


@pytest.mark.parametrize(
    ("text", "flags", "expected"),
    [
        ("", {}, (0.02, None)),
        ("density = 0.1\n", {}, (0.1, None)),
        ("density = 0.1\n", {"rank": 4}, (None, 4)),
        ("rank = 4\n", {"density": 0.3}, (0.3, None)),
    ],
)
def test_density_and_rank_replace_each_other(
    tmp_path: Path, text: str, flags: dict[str, object], expected: tuple[object, object]
) -> None:
    settings = config.load(write(tmp_path, FILE + text), flags)
    assert (settings.density, settings.rank) == expected


def test_the_effective_settings_survive_their_file(tmp_path: Path) -> None:
    flags = {"trigger": 'quote " and \\ and é\n\x7f', "sample_prompts": ("a", "b"), "rank": 2}
    settings = config.load(write(tmp_path, FILE), flags)
    again = config.load(write(tmp_path, config.dump(settings)), {})
    assert again == settings


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (FILE + "stepz = 3\n", ("stepz", "did you mean steps")),
        (FILE + "steps = 0\n", ("steps = 0", "greater than or equal to 1", "optimizer steps")),
        (FILE + 'mask = "foo"\n', ("mask", "'struct'", "'snip'")),
        (FILE + "density = 2\n", ("density = 2", "less than or equal to 1")),
        (FILE + "alpha = inf\n", ("alpha = inf", "finite")),
        (FILE + 'axis = "rows"\n', ("axis belongs to mask struct",)),
        (FILE + "diagonal = false\n", ("diagonal belongs to mask struct",)),
        (FILE + "rank = 2\ndensity = 0.1\n", ("density and rank", "keep one")),
        (FILE + "resolution = 100\n", ("resolution = 100", "multiple of 8")),
        (FILE + "steps = \n", ("not valid TOML", "line 4")),
        (FILE.replace("style.shira", "style"), ("out", ".shira")),
        ('base = "b"\nout = "o.shira"\n', ("images is missing", "--images")),
    ],
)
def test_a_mistake_is_one_line_with_field_and_remedy(
    tmp_path: Path, text: str, parts: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        config.load(write(tmp_path, text), {})
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"none\.toml: cannot be read"):
        config.load(tmp_path / "none.toml", {})
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigInvalid, match="not UTF-8"):
        config.load(tmp_path / "bad.toml", {})


def test_text_that_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    """A name of bytes that are no UTF-8, as the command line hands it on."""
    with pytest.raises(ConfigInvalid, match="no valid text"):
        config.load(write(tmp_path, FILE), {"title": "caf\udce9"})


def given(**more: object) -> dict[str, object]:
    return {"base": "b.safetensors", "images": "pictures", "out": "x.shira", **more}


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_a_run_without_more_than_files(name: str) -> None:
    settings = config.load(None, given(), presets.read(name))
    assert settings.steps == presets.read(name)["steps"]
    assert len(presets.purpose(name)) > 20


def test_a_file_is_over_a_preset_and_flags_over_both(tmp_path: Path) -> None:
    preset = presets.read("low-memory")
    path = write(tmp_path, FILE + "steps = 7\nlr = 1e-3\n")
    settings = config.load(path, {"lr": 2e-3}, preset)
    assert (settings.steps, settings.lr, settings.density) == (7, 2e-3, preset["density"])
    assert config.load(None, given(rank=4), preset).density is None
    other = config.load(None, given(mask="wm"), preset)
    assert (other.mask, other.axis, other.diagonal) == ("wm", None, None)
    assert config.load(None, given(mask="struct"), preset).diagonal is False


def test_an_unknown_preset_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigInvalid, match=r"'sdxl-stile': did you mean sdxl-style\?"):
        presets.read("sdxl-stile")


def test_the_page_of_settings_is_current() -> None:
    page = Path(__file__).parent.parent / "docs" / "settings.md"
    wanted = settings_page.markdown()
    assert page.read_text(encoding="utf-8") == wanted, (
        "run: python -m trainer_ui.engine.settings_page > docs/settings.md"
    )
    assert all(f"| `{name}` |" in wanted for name in config.Config.model_fields)
    assert set(settings_page.numeric()) == set(settings_page.UNITS)
