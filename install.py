"""Set SHiRA up on a fresh machine: `python install.py demo`, `trainer` or `test`.

Standard library only. The commands make their own `.venv` beside this file and touch nothing
else. A WebUI runs this file without arguments at each start: then it installs nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
TORCH = "torch==2.13.0"
NEEDED_BYTES = 3_000_000_000
NO_SPACE = "the disk is full: free about 3 GB and run the same command again"
NO_NETWORK = "no network: connect this machine and run the same command again"
REMEDIES = {
    "No space left on device": NO_SPACE,
    "Disk quota exceeded": NO_SPACE,
    "File too large": NO_SPACE,
    "Temporary failure in name resolution": NO_NETWORK,
    "Failed to establish a new connection": NO_NETWORK,
    "Network is unreachable": NO_NETWORK,
    "No matching distribution": "a package has no build for this Python or the package index "
    "cannot be reached: check the network, use Python 3.10 to 3.13 and run again",
}


class SetupError(Exception):
    """Something the person at the keyboard has to put right; the message says what."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Set SHiRA up in its own .venv and run it.",
        epilog="example: python install.py demo",
    )
    commands = parser.add_subparsers(dest="command")
    demo = commands.add_parser("demo", help="train a style in minutes and show before and after")
    test = commands.add_parser("test", help="run the test suite (more arguments go to pytest)")
    trainer = commands.add_parser(
        "trainer", help="open the trainer's page (more arguments go to `shira trainer`)"
    )
    trainer.add_argument(
        "--only-install", action="store_true", help="make its environment, for a WebUI's tab"
    )
    for command in (demo, test, trainer):
        command.add_argument(
            "--torch-index-url", help="package index to take torch from, e.g. a CUDA build's"
        )
    options, rest = parser.parse_known_args(argv)
    if rest and options.command not in ("test", "trainer"):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if options.command is None:
        print("SHiRA needs no installation here. Try: python install.py demo | trainer | test")
        return 0
    try:
        return COMMANDS[options.command](options, rest)
    except SetupError as error:
        print(f"install.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("install.py: stopped; run the same command again to go on", file=sys.stderr)
        return 130


def run_demo(options: argparse.Namespace, rest: list[str]) -> int:
    """Train a style from the sample pictures and write a before/after picture."""
    python = prepare("trainer", options.torch_index_url)
    return run_program([python, "-m", "trainer_ui.demo"])


def run_trainer(options: argparse.Namespace, rest: list[str]) -> int:
    """Open the trainer's page, or only make its environment."""
    python = prepare("app", options.torch_index_url)
    if options.only_install:
        print("The trainer is ready.")
        return 0
    return run_program([python, "-m", "shira_core.cli", "trainer", *rest])


def run_tests(options: argparse.Namespace, pytest_arguments: list[str]) -> int:
    """Run the tests with everything that they need; all of them in two processes."""
    python = prepare("dev", options.torch_index_url)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # or they would wait for each other's threads
    command = [python, "-m", "pytest", "-c", "tests/pytest.ini", "--confcutdir=tests"]
    return run_program([*command, *(pytest_arguments or ALL_TESTS)])


def run_program(command: list[str]) -> int:
    """Return the program's exit code; it gets a terminal's Ctrl-C too, and ends in its own time."""
    with subprocess.Popen(command, cwd=ROOT) as program:
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return program.wait()


# A file's tests stay together; files in their order, which begins with those that take longest.
ALL_TESTS = ["tests", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
COMMANDS = {"demo": run_demo, "trainer": run_trainer, "test": run_tests}


def prepare(extra: str, torch_index_url: str | None) -> str:
    """Make `.venv` with SHiRA and the packages of `extra`; return its Python."""
    if sys.version_info < (3, 10):  # noqa: UP036 - the check exists for older Pythons
        raise SetupError(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}")
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    note = VENV / f"shira-{extra}.txt"
    if python.exists() and note.is_file() and note.read_text(encoding="utf-8") == wanted():
        return str(python)  # so that it starts at once, and without network
    if not python.exists():
        make_venv()
    if not has_torch(python):
        print(f"Installing {TORCH} (the largest part; minutes on a slow line)...", flush=True)
        index = ["--index-url", torch_index_url] if torch_index_url else []
        pip(python, [*index, TORCH])
    print(f"Installing SHiRA and its {extra} packages...", flush=True)
    pip(python, ["--editable", f"{ROOT}[{extra}]"])
    note.write_text(wanted(), encoding="utf-8")
    return str(python)


def wanted() -> str:
    """Return what changes when an environment has to be installed anew: packages, or the place."""
    packages = (ROOT / "pyproject.toml").read_bytes()
    return hashlib.sha256(packages + str(ROOT).encode()).hexdigest()


def make_venv() -> None:
    """Create `.venv`; it sees the running Python's packages if torch is one of them."""
    free = shutil.disk_usage(ROOT).free
    if free < NEEDED_BYTES:
        raise SetupError(
            f"{ROOT} has {free / 1e9:.1f} GB free and about {NEEDED_BYTES / 1e9:.0f} GB are "
            "needed: free some space and run again"
        )
    torch_is_here = find_spec("torch") is not None
    print(f"Creating {VENV}" + (" (using the installed torch)" if torch_is_here else ""))
    try:
        venv.create(VENV, with_pip=True, system_site_packages=torch_is_here)
    except (OSError, subprocess.CalledProcessError) as error:
        shutil.rmtree(VENV, ignore_errors=True)
        output = getattr(error, "output", None) or b""
        raise SetupError(
            remedy(f"{error} {output.decode(errors='replace')}")
            or f"cannot create {VENV}: {error}. On Debian and Ubuntu install python3-venv; "
            "check that the folder is writable"
        ) from error


def has_torch(python: Path) -> bool:
    """Tell whether `python` can import torch 2.1 or newer."""
    check = (
        "import torch; version = torch.__version__.split('.');"
        "assert (int(version[0]), int(version[1])) >= (2, 1)"
    )
    return subprocess.call([python, "-c", check], stderr=subprocess.DEVNULL) == 0


def pip(python: Path, arguments: list[str]) -> None:
    """Install with pip; turn its failure into one line that says what to do."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    result = subprocess.run(
        [*command, *arguments], stderr=subprocess.PIPE, text=True, errors="replace"
    )
    if result.returncode == 0:
        return
    last = (result.stderr.strip().splitlines() or ["no message"])[-1]
    raise SetupError(
        remedy(result.stderr)
        or f"pip failed ({last}): check the network and the free space, then run again"
    )


def remedy(output: str) -> str | None:
    """Return what to do about a failure that the output of a program shows, if we know it."""
    return next((what for sign, what in REMEDIES.items() if sign in output), None)


if __name__ == "__main__":
    sys.exit(main())
