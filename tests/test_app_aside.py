"""The process beside the page's: what it returns, and what happens when it or its parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gradio")
pytest.importorskip("psutil")

import psutil
from trainer_runs import ROOT

from shira_core.errors import InvalidValue, OutOfMemory
from trainer_ui.app.aside import Aside

PARENT = """
import os, sys, time
from trainer_ui.app.aside import Aside
if __name__ == "__main__":
    aside = Aside()
    pid = aside.call(os.getpid)
    aside.prepare(time.sleep, float(sys.argv[1]))
    try:
        print(pid, flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        aside.close()
"""


def refuse(text: str) -> None:
    raise InvalidValue(text)


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_it_returns_raises_and_is_started_again_when_it_was_ended() -> None:
    aside = Aside()
    try:
        first = aside.call(os.getpid)
        assert first != os.getpid()
        assert aside.call(os.getpid) == first
        with pytest.raises(InvalidValue, match="wrong"):
            aside.call(refuse, "wrong")
        with pytest.raises(OutOfMemory, match="try again"):
            aside.call(end)
        assert aside.call(os.getpid) != first
    finally:
        aside.close()


def start_parent(folder: Path, busy: int) -> tuple[subprocess.Popen[str], psutil.Process]:
    """A program in a terminal of its own, and its process, which computes for some seconds."""
    program = folder / "parent.py"
    program.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(program), str(busy)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert parent.stdout is not None
    return parent, psutil.Process(int(parent.stdout.readline()))


def assert_ended(child: psutil.Process) -> None:
    gone, _ = psutil.wait_procs([child], timeout=60)
    assert gone or child.status() == psutil.STATUS_ZOMBIE


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent, child = start_parent(tmp_path, busy=600)
    parent.kill()
    parent.communicate()
    assert_ended(child)


@pytest.mark.parametrize("busy", [0, 600])
def test_ctrl_c_ends_it_with_its_parent_and_without_a_word(tmp_path: Path, busy: int) -> None:
    parent, child = start_parent(tmp_path, busy)
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.communicate(timeout=60) == ("", "")
    assert parent.returncode == 0
    assert_ended(child)
