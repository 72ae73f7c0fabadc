"""Files are written whole or not at all: full disks, Ctrl-C, rights, names, races."""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from deltas import mixed_adapter

from shira_core.atomic import atomic_write
from shira_core.errors import FileExists, InvalidValue, WriteFailed

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits and signals")


@pytest.fixture
def target(tmp_path):
    """Return a path in an empty folder of its own."""
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "a.shira"


def names(path):
    return sorted(entry.name for entry in path.parent.iterdir())


# ---- in one process ----
def test_success_leaves_the_file_only(target):
    with atomic_write(target) as temporary:
        temporary.write_bytes(b"new")
        assert not target.exists()
        assert temporary.parent == target.parent
    assert target.read_bytes() == b"new"
    assert names(target) == ["a.shira"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit, InvalidValue])
@pytest.mark.parametrize("existing", [None, b"old"])
def test_any_exception_leaves_all_as_it_was(target, error, existing):
    if existing:
        target.write_bytes(existing)
    with pytest.raises(error), atomic_write(target, overwrite=True) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise error("stop")
    assert names(target) == (["a.shira"] if existing else [])
    assert not existing or target.read_bytes() == existing


def test_existing_files_stay(target):
    target.write_bytes(b"old")
    with pytest.raises(FileExists, match="exists: choose another name or add --overwrite"):
        mixed_adapter().save(target)
    assert target.read_bytes() == b"old"
    assert mixed_adapter().save(target, overwrite=True).stat().st_size > 100
    assert names(target) == ["a.shira"]


def test_a_file_that_appears_meanwhile_stays(target):
    with pytest.raises(FileExists), atomic_write(target) as temporary:  # noqa: PT012
        temporary.write_bytes(b"mine")
        target.write_bytes(b"theirs")
    assert target.read_bytes() == b"theirs"
    assert names(target) == ["a.shira"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["folder", "."])
def test_a_folder_is_never_replaced(target, overwrite, name):
    (target.parent / "folder").mkdir()
    with pytest.raises(FileExists, match="is a folder: name a file inside it"):
        mixed_adapter().save(target.parent / name, overwrite=overwrite)
    assert names(target) == ["folder"]


def test_a_missing_folder_is_named(target):
    with pytest.raises(WriteFailed, match="make its folder first"):
        mixed_adapter().save(target.parent / "none" / "a.shira")


def test_a_folder_that_is_a_file_is_refused(target):
    target.write_bytes(b"")
    with pytest.raises(WriteFailed, match=r"Not a directory|No such file|make its folder"):
        mixed_adapter().save(target / "b.shira")


@pytest.mark.parametrize("name", ["x" * 249 + ".shira", "\u6a21" * 83 + ".a", "\U0001f58b" * 62])
def test_the_longest_names_can_be_written(target, name):
    assert len(name.encode()) > 245
    mixed_adapter().save(target.parent / name)
    assert names(target) == [name]


class OpenElsewhere(PermissionError):
    """What Windows raises for a file that another program reads."""

    winerror = 32


@pytest.mark.parametrize(("refusals", "written"), [(0, True), (3, True), (99, False)])
def test_a_file_that_is_read_elsewhere_is_waited_for(target, monkeypatch, refusals, written):
    left, real = iter(range(refusals)), os.replace

    def replace(new, path):
        if next(left, None) is not None:
            raise OpenElsewhere(13, "in use")
        real(new, path)

    monkeypatch.setattr(os, "replace", replace)
    target.write_text("old")
    told = nullcontext() if written else pytest.raises(WriteFailed, match="in use")
    with told, atomic_write(target, overwrite=True) as temporary:
        temporary.write_text("new")
    assert target.read_text() == ("new" if written else "old")
    assert names(target) == ["a.shira"]


def test_names_that_are_too_long_are_refused(target):
    with pytest.raises(WriteFailed, match="choose another place"):
        mixed_adapter().save(target.parent / ("x" * 300))
    assert names(target) == []


# ---- in a process of its own ----
def run(code, *arguments, **options):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    here = {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | here, **options
    )


FULL_DISK = """
import resource, sys
from deltas import mixed_adapter
from shira_core.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
sys.exit(main(["mix", sys.argv[1], "-o", sys.argv[2], "--overwrite"]))
"""


@POSIX
@pytest.mark.parametrize("existing", [None, b"old"])
def test_a_full_disk_leaves_all_as_it_was(target, tmp_path, existing):
    """The process may write no file above 600 bytes, as if the disk were full."""
    source = mixed_adapter().save(tmp_path / "source.shira")
    if existing:
        target.write_bytes(existing)
    done = run(FULL_DISK, source, target)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"shira: no space left for {target}: free some and try again; nothing changed"
    ]
    assert names(target) == (["a.shira"] if existing else [])
    assert not existing or target.read_bytes() == existing


READ_ONLY = """
import os, sys
from deltas import mixed_adapter
from shira_core.errors import WriteFailed
mixed_adapter().save(sys.argv[1])
os.chdir(sys.argv[2])
os.chmod(".", 0o555)
if not os.geteuid():  # root may write everywhere
    os.seteuid(65534)
try:
    mixed_adapter().save("a.shira")
except WriteFailed as error:
    print(error)
"""


@POSIX
def test_a_read_only_folder_is_named(target, tmp_path):
    try:
        done = run(READ_ONLY, tmp_path / "elsewhere.shira", target.parent)
    finally:
        target.parent.chmod(0o755)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "cannot write a.shira: Permission denied: choose another place; nothing changed"
    ]
    assert names(target) == []


SAVES_UNTIL_STOPPED = """
import sys
import torch
from shira_core import Adapter, Header, MemoryWeights
from shira_core.mask import Mask, SparseDelta
mask = Mask((1024, 512), torch.arange(1024 * 512))
delta = SparseDelta(mask, torch.ones(mask.count).half())
adapter = Adapter(Header(), MemoryWeights({f"w{i}": delta for i in range(16)}))
adapter.save(sys.argv[1])
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    try:
        while True:
            adapter.save(sys.argv[2], overwrite=True)
    except KeyboardInterrupt:
        print("stopped", flush=True)
"""


def saving(target, reference, rounds):
    """Start a process that saves 16 MB again and again; wait until it begins."""
    command = [sys.executable, "-c", SAVES_UNTIL_STOPPED, reference, target, str(rounds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def wait_for_half_a_file(target):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in target.parent.glob(".*.tmp"):
            try:
                if path.stat().st_size > 1 << 20:
                    return
            except FileNotFoundError:
                pass  # it was finished meanwhile
        time.sleep(0.002)
    raise AssertionError("nothing was written in a minute")


@POSIX
@pytest.mark.parametrize("existing", [None, b"old"])
def test_ctrl_c_leaves_a_whole_file_or_none(target, tmp_path, existing):
    reference = tmp_path / "reference.shira"
    if existing:
        target.write_bytes(existing)
    process = saving(target, reference, rounds=3)
    for _ in range(3):
        wait_for_half_a_file(target)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopped\n"
        if target.exists():
            assert target.read_bytes() in (existing, reference.read_bytes())
    assert process.wait(60) == 0
    process.stdout.close()
    assert names(target) in ([], ["a.shira"])


@POSIX
def test_even_a_killed_process_leaves_no_half_file(target, tmp_path):
    target.write_bytes(b"old")
    reference = tmp_path / "reference.shira"
    process = saving(target, reference, rounds=1)
    wait_for_half_a_file(target)
    process.kill()
    process.wait(60)
    process.stdout.close()
    assert target.read_bytes() in (b"old", reference.read_bytes())
