"""The `shira` command: what it prints, its exit codes, and that reading a header is instant."""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from adapters import random_adapter
from deltas import mixed_adapter, random_delta
from safetensors.torch import save_file

import shira_core as shira
from shira_core.cli import COMMANDS, main

GUIDE = Path(__file__).parents[1] / "docs" / "quickstart" / "command-line.md"
OWN = ("info", "verify", "bake", "mix", "compare", "reference")
Q = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
TEXT = "cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc1.weight"
FIELDS = {
    "architecture": "sd15",
    "base": "my base",
    "base_sha256": "ab" * 32,
    "prediction_type": "epsilon",
    "mask": "rand",
    "density": 0.1,
    "seed": 0,
    "triggers": ("ink", "\u58a8 style"),
    "title": "Tüsche",
    "author": "me",
    "description": "first line\nsecond \x1b[31mred",
    "license": "CC0",
    "tags": ("x", "y"),
    "training": {"steps": 300, "rate": 1e-4},
    "extra": {"ss_own": "kept"},
}


@pytest.fixture
def style(tmp_path):
    deltas = {Q: random_delta((20, 30), 0.1, 1), TEXT: random_delta((10, 10), 0.1, 2)}
    adapter = shira.Adapter(shira.Header(**FIELDS), shira.MemoryWeights(deltas))
    return adapter.save(tmp_path / "style.shira")


def command(capsys, *arguments):
    """Run a command in this process; return exit code, stdout and stderr."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def process(*arguments, **options):
    """Run the command in a process of its own."""
    line = [sys.executable, "-m", "shira_core.cli", *map(str, arguments)]
    settings = {"capture_output": True, "check": False, "encoding": "utf-8"} | options
    return subprocess.run(line, **settings)


# ---- info ----
def test_info_shows_everything(capsys, style):
    code, out, err = command(capsys, "info", style)
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in out.splitlines())
    assert (code, err) == (0, "")
    assert rows == {
        "file": f"{style} ({style.stat().st_size / 1e3:.1f} kB, format version 1)",
        "title": "Tüsche",
        "author": "me",
        "architecture": "SD1.5",
        "base": "my base",
        "base SHA-256": "ab" * 32,
        "prediction": "epsilon",
        "trigger words": "ink, \u58a8 style",
        "mask": "rand",
        "seed": "0",
        "density": "10.000% asked for, 10.00% of the changed weights",
        "layers": "2 (1 in te1, 1 in unet)",
        "entries": "70 as F16",
        "size": f"{style.stat().st_size / 70:.2f} bytes per entry",
        "data SHA-256": data_hash(style),
        "training": "steps 300, rate 0.0001",
        "description": "first line second \\x1b[31mred",
        "license": "CC0",
        "tags": "x, y",
    }


def data_hash(path):
    raw = path.read_bytes()
    return hashlib.sha256(raw[8 + int.from_bytes(raw[:8], "little") :]).hexdigest()


def test_info_of_a_bare_file_has_no_empty_rows(capsys, tmp_path):
    path = mixed_adapter().save(tmp_path / "bare.shira")
    code, out, _ = command(capsys, "info", path)
    assert code == 0
    assert [line.split("  ")[0] for line in out.splitlines()] == [
        *("file", "architecture", "density", "layers", "entries", "size", "data SHA-256")
    ]
    assert "as BF16, F16, F32" in out


def test_info_as_json_agrees_with_the_library(capsys, style):
    code, out, err = command(capsys, "info", style, "--json")
    facts, adapter = json.loads(out), shira.load(style)
    assert (code, err) == (0, "")
    assert out.isascii()
    for field, value in FIELDS.items():
        if field != "extra":
            assert facts[field] == (list(value) if isinstance(value, tuple) else value)
    assert facts["entries"] == adapter.entries
    assert facts["layers"] == len(adapter.weights)
    assert facts["components"] == {"te1": 1, "unet": 1}
    assert facts["bytes"] == style.stat().st_size
    assert facts["share_of_changed_weights"] == adapter.entries / (20 * 30 + 100)
    assert facts["data_sha256"] == data_hash(style)
    assert facts["metadata"]["ss_own"] == "kept"
    assert facts["metadata"]["modelspec.title"] == "Tüsche"


NO_TORCH = """
import sys
from shira_core.cli import main
codes = [main(["info", sys.argv[1]]), main(["info", sys.argv[1], "--json"])]
try:
    main(["--help"])
except SystemExit as stop:
    codes.append(stop.code)
print(codes, sorted({"torch", "numpy", "safetensors"} & set(sys.modules)), file=sys.stderr)
"""


def test_info_and_help_import_no_torch(style):
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH, style], capture_output=True, text=True, check=True
    )
    assert done.stderr == "[0, 0, 0] []\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_output_fits_any_terminal(style, encoding):
    done = process(
        "info", style, env=os.environ | {"PYTHONIOENCODING": encoding}, encoding=encoding
    )
    assert (done.returncode, done.stderr) == (0, "")
    wanted = "\u58a8" if encoding == "utf-8" else "\\u58a8"
    assert f"ink, {wanted} style" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="file names of bytes")
def test_file_names_that_are_no_text(style):
    odd = style.with_name(os.fsdecode(b"\xff\n.shira"))
    style.rename(odd)
    for arguments in (("info", odd), ("info", odd, "--json"), ("verify", odd)):
        done = process(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
    done = process("info", odd.with_name(os.fsdecode(b"\xfe\n.shira")))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


# ---- verify ----
def checkpoint(folder, name="base.safetensors"):
    weights = {Q: torch.zeros(20, 30), TEXT: torch.zeros(10, 10), "other": torch.zeros(3)}
    save_file(weights, folder / name)
    return folder / name


def test_verify_says_that_a_file_is_sound(capsys, style):
    code, out, err = command(capsys, "verify", style)
    assert (code, err) == (0, "")
    assert out == f"{style} is sound: 70 entries in 2 weights, hash matches\n"


def test_verify_of_a_file_without_hash(capsys, style, tmp_path):
    raw = style.read_bytes().replace(b"sshs_model_hash", b"some_other_hash")
    (tmp_path / "a.shira").write_bytes(raw)
    code, out, _ = command(capsys, "verify", tmp_path / "a.shira", "--json")
    assert code == 0
    assert json.loads(out) == {"weights": 2, "entries": 70, "hash": "none in the file"}


def test_verify_compares_with_the_base(capsys, tmp_path):
    base = checkpoint(tmp_path)
    known = hashlib.sha256(base.read_bytes()).hexdigest()
    answers = {
        "": "fits",
        known: "is the model it was trained on",
        "00" * 32: "fits, but is not the one it was trained on",
    }
    for number, (sha, answer) in enumerate(answers.items()):
        adapter = random_adapter({Q: (20, 30)}, 1, base_sha256=sha)
        path = adapter.save(tmp_path / f"{number}.shira")
        code, out, _ = command(capsys, "verify", path, "--base", base)
        assert code == 0
        assert out.splitlines()[1] == f"the base {answer}"
        assert (
            json.loads(command(capsys, "verify", path, "--base", base, "--json")[1])["base"]
            == answer
        )


# ---- every command ----
@pytest.mark.parametrize("name", OWN)
def test_help_shows_an_example_that_parses(capsys, name):
    code, out, err = command(capsys, name, "--help")
    assert (code, err) == (0, "")
    example = re.search(rf"example:\n  shira ({name} .+)", out)[1]
    assert parses(shlex.split(example))


def test_help_names_every_command(capsys):
    code, out, _ = command(capsys, "--help")
    assert code == 0
    assert "example: shira info style.shira" in out
    for name in COMMANDS:
        assert re.search(rf"^    {name}\s+\w", out, re.MULTILINE)


def test_the_readme_shows_commands_that_parse():
    shown = re.findall(r"`shira ((\w+)[^`]*)`", GUIDE.read_text("utf-8"))
    assert {name for _, name in shown} >= set(OWN)
    for line, name in shown:
        if name in OWN:
            assert parses(shlex.split(line)), line


def parses(arguments):
    """Tell whether a command line is understood, without running it."""
    from shira_core.cli import _parser

    return callable(_parser(arguments).parse_args(arguments).run)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("info",),
        ("info", "a", "b"),
        ("info", "a", "--nonsense"),
        ("mix", "a.shira"),
        ("bake", "a", "b"),
        ("verify",),
        ("compare",),
    ],
)
def test_usage_errors_exit_with_2(capsys, arguments):
    code, out, err = command(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert "usage: shira" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "none.shira"),
        ("verify", "none.shira"),
        ("mix", "none.shira", "-o", "out.shira"),
        ("bake", "none.safetensors", "out.safetensors", "none.shira"),
        ("compare", "none.shira", "none.shira"),
    ],
)
def test_our_errors_exit_with_1(tmp_path, arguments):
    done = process(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"shira: none\.\w+ does not exist: check the name\n", done.stderr)
    assert not list(tmp_path.iterdir())


def test_a_file_whose_name_looks_like_an_alpha_is_a_file(capsys, style, tmp_path):
    odd = tmp_path / "style.shira:0.5"
    style.rename(odd)
    assert command(capsys, "mix", odd, "-o", tmp_path / "out.shira")[0] == 0
    found, wanted = shira.load(tmp_path / "out.shira"), shira.load(odd)
    assert torch.equal(found.weights[Q].values, wanted.weights[Q].values)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("arguments", ["info {}", "info {} --json", "verify {}", "--help"])
def test_a_reader_that_goes_away_is_no_error(style, arguments):
    """As `shira info style.shira | head -0` does: no traceback."""
    line = f"{sys.executable} -m shira_core.cli {arguments.format(style)}"
    done = subprocess.run(
        ["bash", "-c", f"(sleep 0.1; {line}; echo $? >&2) | true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr in ("0\n", "1\n")
