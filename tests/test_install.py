"""install.py as a person runs it: what it says when the machine will not play along."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

INSTALL = Path(__file__).resolve().parent.parent / "install.py"
Limit = Callable[[], None] | None


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that holds only install.py, so that nothing of ours can be touched."""
    shutil.copy(INSTALL, tmp_path)
    return tmp_path


def run(
    checkout: Path, *arguments: str, limit: Limit = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "install.py", *arguments],
        cwd=checkout,
        env={**os.environ, "PIP_CONFIG_FILE": os.devnull, **environment},
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )


def test_a_host_that_runs_it_gets_nothing_installed(checkout: Path) -> None:
    done = run(checkout)
    assert done.returncode == 0
    assert "install.py demo" in done.stdout
    assert [path.name for path in checkout.iterdir()] == ["install.py"]


def test_unknown_arguments_are_a_usage_error(checkout: Path) -> None:
    done = run(checkout, "demo", "--fast")
    assert done.returncode == 2
    assert "--fast" in done.stderr


def test_help_shows_an_example(checkout: Path) -> None:
    assert "example: python install.py demo" in run(checkout, "--help").stdout


def test_no_package_index_is_one_line_with_a_remedy(checkout: Path) -> None:
    done = run(checkout, "demo", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(checkout))
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("install.py: ")
    assert "check the network" in line


@pytest.mark.skipif(sys.platform == "win32", reason="file sizes are limited with setrlimit")
def test_a_full_disk_is_one_line_and_leaves_no_half_environment(checkout: Path) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = run(checkout, "test", limit=limit)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("install.py: ")
    assert "free" in line
    assert not (checkout / ".venv").exists()


@pytest.fixture
def installed(checkout: Path) -> Path:
    """With an environment of this Python, and the note that install.py leaves in it."""
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (checkout / "trainer_ui").mkdir()
    (checkout / "pyproject.toml").write_text("one")
    code = (
        f"import runpy; print(runpy.run_path({str(checkout / 'install.py')!r})['wanted'](), end='')"
    )
    note = subprocess.check_output([sys.executable, "-c", code], text=True)
    (checkout / ".venv" / "shira-trainer.txt").write_text(note)
    return checkout


@pytest.mark.skipif(sys.platform == "win32", reason="its Python is a script here")
def test_what_is_installed_starts_without_network_until_the_packages_change(
    installed: Path,
) -> None:
    (installed / "trainer_ui" / "demo.py").write_text("print('it runs')")
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(installed)}
    done = run(installed, "demo", **offline)
    assert (done.returncode, done.stdout.strip()) == (0, "it runs")
    (installed / "pyproject.toml").write_text("two")
    done = run(installed, "demo", **offline)
    assert done.returncode == 1
    assert "Installing" in done.stdout


SLOW_TO_END = """
import sys, time
try:
    print("it runs", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    time.sleep(1)
    print("all is kept")
    sys.exit(130)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="its Python is a script here")
def test_ctrl_c_lets_the_program_end_in_its_own_time(installed: Path) -> None:
    (installed / "trainer_ui" / "demo.py").write_text(SLOW_TO_END)
    process = subprocess.Popen(
        [sys.executable, "-I", "install.py", "demo"],
        cwd=installed,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "it runs\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.communicate(timeout=60) == ("all is kept\n", "")
    assert process.returncode == 130
