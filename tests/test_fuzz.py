"""Tens of thousands of spoilt files: valid numbers or FileInvalid, little memory, nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COUNT = 30_000


@pytest.mark.skipif(sys.platform == "win32", reason="memory is limited by POSIX")
def test_spoilt_files_are_refused_or_sound(tmp_path):
    """See fuzzing.py for the property; both outcomes must occur often for it to mean something."""
    done = subprocess.run(
        [sys.executable, HERE / "fuzzing.py", str(COUNT), tmp_path],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert sum(found.values()) >= COUNT
    assert found["refused"] > COUNT / 4
    assert found["valid"] > COUNT / 50
