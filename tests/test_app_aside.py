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
import os, time
from trainer_ui.app.aside import Aside
if __name__ == "__main__":
    print(Aside().call(os.getpid), flush=True)
    time.sleep(600)
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


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    gone, _ = psutil.wait_procs([child], timeout=60)
    assert gone or child.status() == psutil.STATUS_ZOMBIE
