"""What is fetched from a hub: checked, in the right folder, whole or not at all."""

import hashlib
import json
import re
import subprocess
import sys

import pytest
import torch
from adapters import random_adapter
from hub_server import TOKEN, serving
from safetensors.torch import save
from test_publish import Q, command, names, process

import shira_core as shira
from shira_core.cli.pull import MODELS
from shira_core.errors import FileExists, FileInvalid, HubError, InvalidValue, WriteFailed
from shira_core.integrations.hub import About, build, push
from shira_core.integrations.hub import pull as fetch
from shira_core.integrations.hub.names import local

image = pytest.importorskip("PIL.Image")
pytest.importorskip("huggingface_hub")
NAME = "me/style"


def raw(seed=1, shape=(20, 30), **header):
    """Return the bytes of an adapter."""
    adapter = random_adapter({Q: shape}, seed, architecture="sd15", **header)
    return adapter.save(PLACE / f"{seed}.shira", overwrite=True).read_bytes()


@pytest.fixture(autouse=True)
def _place(tmp_path_factory):
    global PLACE
    PLACE = tmp_path_factory.mktemp("raw")


def pull(hub, folder, name=NAME, **options):
    return fetch(name, folder, endpoint=hub.address, **{"token": TOKEN, **options})


def sums(**files):
    return "".join(f"{hashlib.sha256(c).hexdigest()}  {n}\n" for n, c in files.items()).encode()


# ---- what is right ----
def test_published_and_pulled_in_processes(tmp_path):
    source = PLACE / "1.shira"
    raw(triggers=("ink style",))
    image.new("RGB", (40, 30), "red").save(PLACE / "1.png")
    host = tmp_path / "ComfyUI"
    (host / "models").mkdir(parents=True)
    with serving() as there:
        out = ("--out", tmp_path / "out", "--push", NAME, "--private", "--token", "SECRET")
        assert process("publish", source, *out, hub=there).returncode == 0
        where = (f"{NAME}@main", "--comfyui", host, "--token", "SECRET")
        there.fail("GET", "resolve/.+shira", cut=100)
        first = process("pull", *where, hub=there)
        with pytest.raises(HubError, match="it is not there, or is private"):
            pull(there, tmp_path / "to", token="of a stranger")
    folder = host / MODELS
    assert first.returncode == 0, first.stderr
    assert first.stdout == "".join(
        f"wrote {folder / name}\n" for name in ("1.preview.png", "1.json", "1.shira")
    )
    assert names(host) == [f"models/shira/1{end}" for end in (".json", ".preview.png", ".shira")]
    for name in names(folder):
        assert (folder / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_cut_line_is_resumed(tmp_path, hub):
    """The library writes blocks of 10 MB, and asks for the rest from there."""
    content = raw(shape=(1650, 1650), density=1.0, mask="struct", dtype=torch.float32)
    assert len(content) > 10_500_000
    hub.add(NAME, {"style.shira": content})
    hub.fail("GET", "resolve/", cut=len(content) - 1)
    path = pull(hub, tmp_path / "to").adapter
    assert path.read_bytes() == content
    ranges = [
        next((h[k] for k in h if k.lower() == "range"), "") for h in hub.asked("GET", "shira$")
    ]
    assert ranges == ["", "bytes=10485760-"]


def test_too_many_requests_are_waited_for(tmp_path, hub):
    hub.add(NAME, {"style.shira": raw()})
    hub.fail("HEAD", "resolve/", status=429, headers={"Retry-After": "3"})
    hub.fail("GET", "resolve/", status=429, headers={"Retry-After": "3"})
    assert pull(hub, tmp_path).adapter.read_bytes() == raw()


@pytest.mark.parametrize(
    ("files", "options", "path"),
    [
        (["a.shira", "README.md"], {}, "a.shira"),
        (["a.shira", "a.safetensors"], {}, "a.shira"),
        (["a.safetensors", "other.safetensors"], {}, "a.safetensors"),
        (["deep/er/a.shira"], {}, "a.shira"),
        (["a.shira", "b.shira"], {"file": "b.shira"}, "b.shira"),
        (["x/a.shira", "y/a.shira"], {"file": "y/a.shira"}, "a.shira"),
        (["a.shira", "a.safetensors"], {"file": "a.safetensors"}, "a.safetensors"),
        (["my style (v2) é.shira"], {}, "my style (v2) é.shira"),
        (["a.shira"], {"revision": "main"}, "a.shira"),
    ],
)
def test_which_file(tmp_path, hub, files, options, path):
    other = save({"model.diffusion_model.x": torch.zeros(2)})
    hub.add(NAME, {name: other if "other" in name else raw() for name in files})
    assert pull(hub, tmp_path / "to", **options).adapter == tmp_path / "to" / path
    assert names(tmp_path / "to") == [path]
    assert not hub.asked("GET", "other.*") or hub.asked("GET", "other.*")[0].get("range")


def test_what_lies_beside_comes_along(tmp_path, hub):
    told = {"activation text": "ink", "evil": "<script>", "notes": 5, "preferred weight": 0.7}
    files = {
        "v/a.shira": raw(),
        "v/a.json": json.dumps(told).encode(),
        "v/a.preview.png": b"picture",
        "v/ab.png": b"of another",
        "a.png": b"elsewhere",
        "v/a.webp": b"x" * (21 << 20),
    }
    hub.add(NAME, files)
    pulled = pull(hub, tmp_path)
    assert names(tmp_path) == ["a.json", "a.preview.png", "a.shira"]
    assert sorted(pulled.written) == [tmp_path / name for name in names(tmp_path)]
    noted = json.loads((tmp_path / "a.json").read_bytes())
    assert noted == {"activation text": "ink", "preferred weight": 0.7}


@pytest.mark.parametrize("content", [b"\xff", b"[]", b'{"a": NaN}', b"{}", b"[" * 9999])
def test_notes_that_are_none_stay_away(tmp_path, hub, content):
    hub.add(NAME, {"a.shira": raw(), "a.json": content})
    pull(hub, tmp_path)
    assert names(tmp_path) == ["a.shira"]


def test_files_that_are_there(tmp_path, hub):
    hub.add(NAME, {"a.shira": raw(), "a.json": b'{"notes": "theirs"}', "a.png": b"theirs"})
    pull(hub, tmp_path)
    hub.requests.clear()
    pulled = pull(hub, tmp_path)
    assert (pulled.written, pulled.kept) == ((), ())
    assert not hub.asked("GET", r"\.shira$")
    (tmp_path / "a.json").write_bytes(b'{"notes": "mine"}')
    (tmp_path / "a.png").write_bytes(b"mine")
    pulled = pull(hub, tmp_path)
    assert (pulled.written, pulled.kept) == ((), (tmp_path / "a.png", tmp_path / "a.json"))
    assert (tmp_path / "a.json").read_bytes() == b'{"notes": "mine"}'
    (tmp_path / "a.shira").write_bytes(b"mine")
    with pytest.raises(FileExists, match="exists and differs: add --overwrite to replace"):
        pull(hub, tmp_path)
    assert (tmp_path / "a.shira").read_bytes() == b"mine"
    assert len(pull(hub, tmp_path, overwrite=True).written) == 3
    assert (tmp_path / "a.shira").read_bytes() == raw()
    assert (tmp_path / "a.png").read_bytes() == b"theirs"


# ---- what is wrong leaves nothing ----
GATED = {"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}


@pytest.mark.parametrize(
    ("where", "answer", "message"),
    [
        ("api/models", {"status": 401}, "does not know you: log in"),
        ("api/models", {"status": 403}, "ask for rights"),
        ("api/models", GATED, "its authors ask for consent: accept their terms"),
        ("api/models", {"status": 404}, "is not there, or is private"),
        ("api/models", {"status": 429, "headers": {"Retry-After": "9"}}, "try again in 9 s"),
        ("api/models", {"status": 502, "body": b"<html>bad"}, "problem of its own: try again"),
        ("api/models", {"cut": -1}, "cannot be reached"),
        ("api/models", {"body": b"<html>a login page"}, "cannot read me/style: "),
        ("resolve", {"status": 401}, "does not know you: log in"),
        ("resolve", GATED, "its authors ask for consent"),
        ("resolve", {"status": 404, "headers": {"X-Error-Code": "EntryNotFound"}}, "is not there"),
        ("resolve", {"status": 429, "headers": {"Retry-After": "9"}}, "try again in 9 s"),
        ("resolve", {"status": 500}, "problem of its own"),
        ("resolve", {"cut": -1}, "cannot be reached"),
        ("resolve", {"cut": 300}, "cannot be reached"),
    ],
)
def test_failures_of_the_hub(tmp_path, hub, where, answer, message):
    hub.add(NAME, {"a.png": b"p", "style.shira": raw()})
    for method in ("GET", *(["HEAD"] if answer.get("cut") is None else [])):
        hub.fail(method, where, times=99, **answer)
    with pytest.raises(HubError, match=message) as caught:
        pull(hub, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    hub.failures.clear()
    assert pull(hub, tmp_path).adapter.read_bytes() == raw()


def other(content, at=-1):
    """Return content with another bit."""
    changed = bytearray(content)
    changed[at] ^= 1
    return bytes(changed)


def test_wrong_hashes(tmp_path, hub):
    good, picture = raw(), b"picture"
    hub.add(NAME, {"a.shira": good, "a.png": picture})
    for name, content in (("shira", good), ("png", picture)):
        hub.fail("GET", rf"resolve/.*{name}", status=200, body=other(content))
        with pytest.raises(FileInvalid, match=f"a.{name} came with another hash than the hub's"):
            pull(hub, tmp_path)
        assert list(tmp_path.iterdir()) == []
    listed = sums(**{"a.shira": good, "a.png": b"another"})
    hub.add(NAME, {"a.shira": good, "a.png": picture, "SHA256SUMS": listed})
    with pytest.raises(FileInvalid, match=r"a\.png has another hash than SHA256SUMS of me/style"):
        pull(hub, tmp_path)
    hub.add(NAME, {"a.shira": good, "SHA256SUMS": b"no list"})
    with pytest.raises(FileInvalid, match="SHA256SUMS of me/style is no list"):
        pull(hub, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_adapters(tmp_path, hub):
    good = raw()
    cases = {
        "cut short": good[:-3],
        "does not match its hash": other(
            good, good.index(b"{") + int.from_bytes(good[:8], "little")
        ),
        "it is a LoRA": save({"x.lora_down.weight": torch.zeros(2)}),
        "PyTorch pickle": b"PK\x03\x04" + bytes(100),
        "format version 9": good.replace(rb"\"version\":1", rb"\"version\":9"),
    }
    for message, content in cases.items():
        hub.add(NAME, {"a.shira": content, "a.png": b"p"})
        with pytest.raises(FileInvalid, match=rf"^a\.shira: .*{message}"):
            pull(hub, tmp_path)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("files", "options", "error", "message"),
    [
        (["README.md"], {}, FileInvalid, "me/style holds no .shira file"),
        (["x.safetensors"], {}, FileInvalid, "me/style holds no .shira file"),
        (["a.shira"], {"file": "b.shira"}, FileInvalid, "holds no adapter 'b.shira'"),
        (["a.shira", "README.md"], {"file": "README.md"}, FileInvalid, "holds no adapter"),
        (["a.shira", "A.shira"], {}, InvalidValue, "2 adapters: name one with --file: 'a.shira', "),
        (["a.shira"], {"limit": 10}, FileInvalid, "raise --limit"),
        (["a.shira"], {"revision": "v9"}, HubError, "it has no such revision"),
        (["a.shira"], {"name": "me/other"}, HubError, "cannot read me/other: it is not there"),
        (["a.shira"], {"name": "../x"}, InvalidValue, "write owner/name"),
    ],
)
def test_what_cannot_be_chosen(tmp_path, hub, files, options, error, message):
    model = save({"model.diffusion_model.x": torch.zeros(2)})
    hub.add(NAME, {name: raw() if name.endswith(".shira") else model for name in files})
    with pytest.raises(error, match=re.escape(message)):
        pull(hub, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


HOSTILE = [
    *("../a.shira", "x/../../a.shira", "/etc/a.shira", "a\\..\\b.shira", "C:a.shira", ".a.shira"),
    *("con.shira", "x/NUL.shira", "a\n.shira", "a\u202e.shira", "a /b.shira", "x//a.shira"),
    *("a:b.shira", "x./a.shira", "é" * 120 + ".shira", "a*.shira"),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(tmp_path, hub, name):
    hub.add(NAME, {name: raw()})
    (tmp_path / "to").mkdir()
    with pytest.raises(FileInvalid, match="in the repository is") as caught:
        pull(hub, tmp_path / "to")
    assert str(caught.value).isprintable()
    assert names(tmp_path) == []
    with pytest.raises(FileInvalid):
        local(name)


FULL_DISK = """
import resource, sys
from shira_core.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
sys.exit(main(["pull", sys.argv[1], "--to", sys.argv[2]]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    with serving() as there:
        there.add(NAME, {"a.png": b"small", "a.shira": raw(shape=(200, 200))})
        monkeypatch.setenv("HF_ENDPOINT", there.address)
        line = [sys.executable, "-c", FULL_DISK, NAME, tmp_path / "to"]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"shira: no space left for {tmp_path / 'to'}: free some" in done.stderr
    assert names(tmp_path) == []


def test_folders_that_cannot_be(tmp_path, hub):
    hub.add(NAME, {"a.shira": raw()})
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteFailed):
        pull(hub, tmp_path / "file")
    (tmp_path / "a.shira").mkdir()
    with pytest.raises(FileExists):
        pull(hub, tmp_path, overwrite=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.shira", "file"]


# ---- the command ----
def test_where_files_go(tmp_path, capsys, monkeypatch):
    for arguments, message in [
        (("--comfyui", tmp_path), "has no folder models: name the folder of the host itself"),
        (("--webui", tmp_path / "none"), "has no folder models"),
        (("--token", "NOT_SET_HERE"), "names no environment variable"),
    ]:
        code, out, err = command(capsys, "pull", NAME, *arguments)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert message in err
    with pytest.raises(SystemExit):
        command(capsys, "pull", NAME, "--to", "a", "--webui", "b")


def test_what_is_pulled_loads_where_it_was_made(tmp_path, hub):
    raw(title="Ink", triggers=("ink",))
    push(
        build(PLACE / "1.shira", tmp_path / "out", About()).folder,
        NAME,
        token=TOKEN,
        endpoint=hub.address,
    )
    mine, theirs = shira.load(PLACE / "1.shira"), shira.load(pull(hub, tmp_path / "to").adapter)
    assert theirs.header == mine.header
    assert theirs.weights[Q].values.equal(mine.weights[Q].values)
