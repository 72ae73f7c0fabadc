"""What is published: the folder, that nothing private or hostile is in it, and the upload."""

import hashlib
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from adapters import random_adapter
from hub_server import TOKEN, serving
from hypothesis import given
from hypothesis import strategies as st

import shira_core as shira
from shira_core import facts
from shira_core.cli import main
from shira_core.errors import (
    FileExists,
    FileInvalid,
    HubError,
    InvalidValue,
    ShiraError,
)
from shira_core.integrations.hub import About, build, contents, push
from shira_core.integrations.hub import text as markup
from shira_core.integrations.hub.private import cleaned
from shira_core.library import Library

image = pytest.importorskip("PIL.Image")
yaml = pytest.importorskip("yaml")
hub_library = pytest.importorskip("huggingface_hub")
markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")

ASSETS = Path(__file__).parents[1] / "assets"
RISO = ASSETS / "adapters" / "riso.shira"
Q = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"


@pytest.fixture
def style(tmp_path):
    """A small adapter of SD1.5."""
    header = {"architecture": "sd15", "mask": "rand", "density": 0.1, "triggers": ("ink style",)}
    return random_adapter({Q: (20, 30)}, 1, **header).save(tmp_path / "style.shira")


@pytest.fixture
def pictures(tmp_path):
    """Two pictures; the second has its prompt beside it."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    image.new("RGB", (40, 30), "red").save(folder / "a.png")
    image.new("RGB", (20, 50), "blue").save(folder / "b.jpg")
    (folder / "b.txt").write_text("ink style,\na *boat*", encoding="utf-8")
    return folder / "a.png", folder / "b.jpg"


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def card_of(folder):
    """Return the metadata of a card as huggingface_hub reads it, and its Markdown."""
    read = hub_library.ModelCard.load(folder / "README.md")
    return read.data.to_dict(), read.text


def command(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def process(*arguments, hub=None, **options):
    """Run the command in a process of its own, which may know a hub."""
    known = {"HF_ENDPOINT": hub.address, "SECRET": TOKEN} if hub else {}
    line = [sys.executable, "-m", "shira_core.cli", *map(str, arguments)]
    settings = {"capture_output": True, "check": False, "encoding": "utf-8"} | options
    return subprocess.run(line, env={**os.environ, "HF_HUB_DISABLE_XET": "1", **known}, **settings)


# ---- the folder ----
def test_a_shipped_adapter_as_a_folder(tmp_path):
    bundle = build(RISO, tmp_path / "out", About(base_model="some/base"), twin=True)
    assert names(bundle.folder) == [each.as_posix() for each in bundle.files]
    assert names(bundle.folder) == [
        *("README.md", "SHA256SUMS", "images/01.png", "riso.json", "riso.preview.png"),
        *("riso.safetensors", "riso.shira"),
    ]
    for name in ("riso.shira", "riso.safetensors"):
        assert (bundle.folder / name).read_bytes() == RISO.read_bytes()
    metadata, text = card_of(bundle.folder)
    assert metadata == {
        "license": "apache-2.0",
        "base_model": "some/base",
        "base_model_relation": "adapter",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "shira", "sparse-high-rank-adapter"],
        "instance_prompt": "riso style",
        "widget": [{"text": "riso style", "output": {"url": "images/01.png"}}],
    }
    for told in ("# Riso", "<shira:riso:1>", "Two-ink print", "| steps | 2000 |", "alpha*"):
        assert told in text
    assert hashlib.sha256(RISO.read_bytes()).hexdigest() in text


def test_checksums_are_those_of_the_files(tmp_path, style, pictures):
    folder = build(style, tmp_path / "out", About(pictures=pictures)).folder
    lines = (folder / "SHA256SUMS").read_text("utf-8").splitlines()
    listed = {name: sha for sha, name in (line.split("  ") for line in lines)}
    assert sorted([*listed, "README.md", "SHA256SUMS"]) == names(folder)
    for name, sha in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha


def test_pictures_prompts_and_notes(tmp_path, style, pictures):
    about = About(pictures=pictures, prompts=("ink style, <b>tower</b>",), tags=("ink",))
    folder = build(style, tmp_path / "out", about).folder
    metadata, text = card_of(folder)
    assert metadata["widget"] == [
        {"text": "ink style, <b>tower</b>", "output": {"url": "images/01.png"}},
        {"text": "ink style, a *boat*", "output": {"url": "images/02.jpg"}},
    ]
    assert metadata["tags"][-2:] == ["stable-diffusion", "ink"]
    shown = markdown.render(text)
    assert "<b>" not in shown
    assert '<img src="images/02.jpg" alt="ink style, a *boat*" />' in shown
    assert json.loads((folder / "style.json").read_text("utf-8")) == {
        "description": "",
        "sd version": "SD1",
        "activation text": "ink style",
        "preferred weight": 1.0,
        "negative text": "",
        "notes": "",
    }
    data, kind = facts.preview(Library(lambda: [folder]), "style.shira")
    assert (kind, image.open(io.BytesIO(data)).size) == ("image/png", (40, 30))


def test_what_a_person_says_is_in_the_file_too(tmp_path, style):
    about = About(licence="MIT", author="me", description="Lines.\n\nOf ink.", tags=("a", "a"))
    folder = build(style, tmp_path / "out", about).folder
    before, after = shira.load(style), shira.load(folder / "style.shira")
    said = after.header
    assert (said.license, said.author, said.description) == ("MIT", "me", "Lines.\n\nOf ink.")
    assert (said.title, said.tags, said.triggers) == ("style", ("a",), ("ink style",))
    assert after.weights[Q].values.equal(before.weights[Q].values)
    assert "<p>Lines.</p>\n<p>Of ink.</p>" in markdown.render(card_of(folder)[1])


@pytest.mark.parametrize(
    ("licence", "fields"),
    [
        ("apache-2.0", {"license": "apache-2.0"}),
        ("CC0-1.0", {"license": "cc0-1.0"}),
        ("My own: terms", {"license": "other", "license_name": "my-own-terms"}),
        ("???", {"license": "other", "license_name": "other"}),
        ("", {}),
    ],
)
def test_licences(tmp_path, style, licence, fields):
    metadata, text = card_of(build(style, tmp_path / "out", About(licence=licence)).folder)
    assert {k: v for k, v in metadata.items() if k.startswith("license")} == fields
    assert (licence or "has named no licence") in html.unescape(markdown.render(text))


@pytest.mark.parametrize(
    "name", ["my style (v2)", "-x", "...", "con", "CON.v1", "ü" * 120, "a\nb`|"]
)
def test_any_file_name_becomes_a_safe_one(tmp_path, style, name):
    odd = style.with_name(f"{name}.shira")
    style.rename(odd)
    folder = build(odd, tmp_path / "out", About()).folder
    (made,) = (each for each in names(folder) if each.endswith(".shira"))
    assert re.fullmatch(r"\w[\w.-]*\.shira", made)
    assert len(made.encode()) < 120
    assert not re.match(r"(?i)con\.", made)


# ---- nothing hostile ----
EVIL = "x\n---\nbase_model: evil\n# h1 <script>alert(1)</script> [a](javascript:b) `c` | d & \u202e"


def test_hostile_texts_stay_texts(tmp_path):
    fields = dict.fromkeys(("title", "author", "description", "license", "base"), EVIL)
    lists = {"triggers": (EVIL, "```"), "tags": (EVIL,), "training": {EVIL: EVIL}}
    path = random_adapter({Q: (20, 30)}, 1, **fields, **lists).save(tmp_path / "a.shira")
    folder = build(path, tmp_path / "out", About()).folder
    seen = markup.one_line(EVIL)
    metadata, text = card_of(folder)
    assert set(metadata) == {"license", "license_name", "pipeline_tag", "tags", "instance_prompt"}
    assert metadata["instance_prompt"] == markup.one_line(f"{EVIL}, ```")
    assert seen in metadata["tags"]
    shown = markdown.render(text)
    assert not re.search(r"<script|<a href=.javascript|\u202e", shown)
    assert shown.count("<h1>") == 1
    assert f"<h1>{html.escape(seen, quote=False)}</h1>" in shown
    assert f"<td>{html.escape(seen, quote=False)}</td>" in shown
    assert shown.count("<pre>") == 1  # the code that follows the trigger words is code still


@given(st.text())
def test_markdown_shows_the_very_text(text):
    shown = re.sub("<[^>]*>", "", markdown.render(markup.plain(text)))
    assert html.unescape(shown).strip() == markup.one_line(text)
    cell = markdown.render(markup.table([(text, text)]))
    assert cell.count("<td") == 2
    span = markdown.render(f"a {markup.code(text)} b")
    if markup.one_line(text):
        assert html.unescape(re.search("<code>(.*)</code>", span)[1]) == markup.one_line(text)


@given(st.text(), st.lists(st.text()))
def test_yaml_reads_the_very_text(text, several):
    values = {"a": markup.one_line(text), "b": list(map(markup.one_line, several))}
    lines = markup.front_matter(values).splitlines()
    assert (lines[0], lines[-1]) == ("---", "---")
    read = yaml.safe_load("\n".join(lines[1:-1]))
    assert (read or {}) == {key: value for key, value in values.items() if value}


# ---- nothing private ----
@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/home/anna/models/sd15.safetensors", "sd15.safetensors"),
        ("/Users/Anna Lee/my pics/", "my pics"),
        ("/home/anna", "(local path)"),
        ("/home/anna maria", "(local path)"),
        (r"C:\Users\Anna Lee", "(local path)"),
        (r"C:\Users\anna\pics\a.png", "a.png"),
        (r"D:/data/x", "x"),
        (r"\\server\share\anna\x", "x"),
        ("~/pics/a", "a"),
        ("~anna/pics", "pics"),
        ("file:///home/anna/pics", "pics"),
        ("from /home/anna/pics, then /data/b.", "from pics, then b."),
        ('{"dirs": {"/home/anna/10_ink": 3}}', '{"dirs": {"10_ink": 3}}'),
        (r'{"dir": "C:\\Users\\anna\\x"}', '{"dir": "x"}'),
        ("https://example.org/a/b and 1/2, and/or", None),
        ("pictures/of/anna", None),
        ("../a/b", None),
        ("a: b / c", None),
        ("data:image/png;base64,/9j/4AAQ/a", None),
    ],
)
def test_absolute_paths_keep_their_last_name(text, kept):
    header, found = cleaned(shira.Header(base=text, training={"x": [text], text: 1}))
    wanted = text if kept is None else kept
    assert (header.base, header.training) == (wanted, {"x": [wanted], wanted: 1})
    assert bool(found) == (kept is not None)


def test_no_local_path_is_published(tmp_path, capsys, pictures):
    place = "/home/anna/secret"
    adapter = random_adapter(
        {Q: (20, 30)},
        1,
        base=f"{place}/base.safetensors",
        description=f"Made from {place}/pics.",
        training={
            "images": f"{place}/pics",
            "more": [{"log": rf"C:\secret\anna\{n}"} for n in "ab"],
        },
        extra={"ss_dataset_dirs": json.dumps({f"{place}/10_ink": {"n_repeats": 1}})},
    )
    path = adapter.save(tmp_path / "a.shira")
    out = tmp_path / "out"
    code, printed, _ = command(capsys, "publish", path, "--out", out, "--pictures", *pictures)
    assert code == 0
    assert printed.count("left out: ") == 6
    for name in names(out):
        content = (out / name).read_bytes()
        assert not re.search(rb"anna|secret|" + str(tmp_path).encode(), content), name
    header = shira.load(out / "a.shira").header
    assert header.base == "base.safetensors"
    assert json.loads(header.extra["ss_dataset_dirs"]) == {"10_ink": {"n_repeats": 1}}


def test_pictures_keep_their_pixels_alone(tmp_path, style):
    from PIL.PngImagePlugin import PngInfo

    secret, info, exif = "a secret place", PngInfo(), image.Exif()
    info.add_text("workflow", secret)
    info.add_itxt("parameters", secret)
    exif[0x010E], exif[0x0112] = secret, 6  # description; turned by 90 degrees
    noise = image.effect_noise((24, 16), 80).convert("RGB")
    options = {
        "a.png": {"pnginfo": info, "exif": exif},
        "b.jpg": {"exif": exif, "comment": secret},
        "c.webp": {"exif": exif, "xmp": secret.encode()},
    }
    for name, each in options.items():
        noise.save(tmp_path / name, **each)
        assert secret.encode() in (tmp_path / name).read_bytes()
    sources = tuple(tmp_path / name for name in options)
    folder = build(style, tmp_path / "out", About(pictures=sources)).folder
    found = [*sorted((folder / "images").iterdir()), folder / "style.preview.png"]
    assert [each.suffix for each in found] == [".png", ".jpg", ".webp", ".png"]
    for each in found:
        assert b"secret" not in each.read_bytes()
        assert image.open(each).size == (16, 24)
    turned = noise.transpose(image.Transpose.ROTATE_270)
    assert image.open(found[0]).tobytes() == turned.tobytes()


# ---- whole or not at all ----
def test_bad_input_leaves_nothing(tmp_path, style, pictures):
    (tmp_path / "not.png").write_bytes(b"<svg/>")
    cut = tmp_path / "cut.shira"
    cut.write_bytes(style.read_bytes()[:-1])
    cases = [
        (cut, About(), FileInvalid, "cut short"),
        (tmp_path / "none.shira", About(), FileInvalid, "does not exist"),
        (style, About(pictures=(tmp_path / "not.png",)), FileInvalid, "is no picture"),
        (style, About(pictures=(tmp_path / "no.png",)), FileInvalid, "is no picture"),
        (style, About(base_model="https://evil/x"), InvalidValue, "write owner/name"),
        (style, About(description="x" * (1 << 20)), InvalidValue, "shorten the description"),
        (style, About(prompts=("a", "b")), InvalidValue, "2 prompts for 1 pictures"),
    ]
    before = names(tmp_path)
    for file, about, error, message in cases:
        with pytest.raises(error, match=message):
            build(file, tmp_path / "out", about)
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == before


def test_folders_that_exist(tmp_path, style):
    out = tmp_path / "out"
    out.mkdir()
    build(style, out, About())
    with pytest.raises(FileExists, match="publish that folder, or add --overwrite"):
        build(style, out, About())
    assert build(style, out, About(author="new"), overwrite=True).folder == out
    assert shira.load(out / "style.shira").header.author == "new"
    (out / "mine.txt").write_text("mine", encoding="utf-8")
    before = names(tmp_path)
    with pytest.raises(FileExists, match="holds other files"):
        build(style, out, About(), overwrite=True)
    with pytest.raises(FileExists, match="holds other files"):
        build(style, tmp_path, About(), overwrite=True)
    with pytest.raises(FileExists):
        build(style, style, About(), overwrite=True)
    assert names(tmp_path) == before


def test_a_changed_folder_is_not_uploaded(tmp_path, style):
    out = build(style, tmp_path / "out", About()).folder
    (out / "README.md").write_text("edited by hand", encoding="utf-8")
    (out / "mine.txt").write_text("mine", encoding="utf-8")
    assert Path("mine.txt") not in contents(out)
    (out / "style.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FileInvalid, match=r"style\.json is missing or was changed"):
        push(out, "me/style", token=TOKEN, endpoint="http://127.0.0.1:9")
    with pytest.raises(FileInvalid, match="build one first"):
        contents(tmp_path)


FULL_DISK = """
import resource, sys
from shira_core.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (600000, 600000))
sys.exit(main(["publish", sys.argv[1], "--out", sys.argv[2]]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_a_full_disk_leaves_nothing(tmp_path):
    line = [sys.executable, "-c", FULL_DISK, RISO, tmp_path / "out"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"shira: no space left for .+; nothing changed\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


# ---- what other programs read ----
@pytest.mark.parametrize(
    ("architecture", "version"),
    [("sd15", "SD1"), ("sd2", "SD2"), ("sdxl", "SDXL")],
)
def test_the_twin_as_hosts_read_it(tmp_path, architecture, version):
    """ComfyUI and WebUIs read JSON of at most 1 MiB that starts with '{"', each in its way."""
    fields = {"architecture": architecture, "triggers": ("ink", "pen"), "license": "mit"}
    path = random_adapter({Q: (20, 30)}, 1, base="b", **fields).save(tmp_path / "a.shira")
    raw = (build(path, tmp_path / "out", About(), twin=True).folder / "a.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert length <= 1 << 20
    assert raw[8:10] == b'{"'
    metadata = json.loads(raw[8 : 8 + length])["__metadata__"]
    assert metadata["sshs_model_hash"] == hashlib.sha256(raw[8 + length :]).hexdigest()
    assert metadata["modelspec.sai_model_spec"] == "1.0.1"
    assert metadata["modelspec.title"] == "a"
    assert metadata["modelspec.trigger_phrase"] == "ink, pen"
    assert metadata["modelspec.license"] == "mit"
    assert metadata["ss_sd_model_name"] == "b"
    if metadata["ss_base_model_version"].startswith("sdxl_"):
        seen = "SDXL"
    else:
        seen = "SD2" if metadata.get("ss_v2") == "True" else "SD1"
    assert seen == version
    assert metadata["modelspec.architecture"].endswith("/shira")


def test_the_code_of_the_card_runs(tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    folder = build(RISO, tmp_path / "out", About(base_model="some/base")).folder
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "base").symlink_to(ASSETS / "base", target_is_directory=True)
    shutil.copy(folder / "riso.shira", tmp_path)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.+?)```", card_of(folder)[1], re.DOTALL)
    quick = code.replace("pipe('riso style')", "pipe('riso style', num_inference_steps=2)")
    assert quick != code
    names: dict[str, object] = {}
    exec(quick, names)
    assert names["picture"].size == (128, 128)


# ---- the command ----
def test_a_folder_with_one_adapter(tmp_path, capsys, monkeypatch, style):
    monkeypatch.chdir(tmp_path)
    code, out, _ = command(capsys, "publish", tmp_path, "--dry-run", "--json", "--push", "me/style")
    told = json.loads(out)
    assert code == 0
    assert told["files"] == {
        n: (Path("style-hub") / n).stat().st_size for n in names(tmp_path / "style-hub")
    }
    assert (told["url"], told["left_out"]) == ("", [])
    code, out, _ = command(capsys, "publish", "style-hub")
    assert "upload it with --push OWNER/NAME" in out
    code, _, err = command(capsys, "publish", "style-hub", "--licence", "mit")
    assert code == 1
    assert "style-hub is built already" in err
    shutil.copy(style, tmp_path / "other.shira")
    assert command(capsys, "publish", tmp_path)[2] == (
        f"shira: {tmp_path} holds 2 .shira files: name the one to publish\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--push", "nobody"), "write owner/name"),
        (("--push", "me/a..b"), "write owner/name"),
        (("--token", "NOT_SET_HERE"), "names no environment variable"),
        (("--pictures", "empty"), "holds no pictures"),
    ],
)
def test_bad_arguments_stop_before_anything(
    tmp_path, capsys, monkeypatch, style, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    code, out, err = command(capsys, "publish", style, *arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert message in err
    assert not (tmp_path / "style-hub").exists()


# ---- uploads ----
def test_push_in_a_process_is_one_commit_of_the_folder(tmp_path):
    with serving() as hub:
        hub.fail("PUT", "/objects/", cut=-1)
        hub.fail("POST", "preupload", status=429, headers={"Retry-After": "0"})
        arguments = ("--out", tmp_path / "out", "--push", "me/riso", "--token", "SECRET")
        done = process("publish", RISO, *arguments, hub=hub)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(f"to {hub.address}/me/riso\n")
        there = hub.repositories["me/riso"]
        folder = {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")}
        assert there.files == folder
        assert there.commits == [sorted(folder)]
        again = process("publish", tmp_path / "out", "--push", "me/riso", hub=hub)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.count("\n") == 1
    assert "cannot push to me/riso: the hub does not know you: log in" in again.stderr
    assert again.stderr.endswith(f"go on with: shira publish {tmp_path / 'out'} --push me/riso\n")


def test_progress_ends_with_everything(tmp_path, hub, style):
    told = []
    folder = build(style, tmp_path / "out", About()).folder
    address = push(
        folder,
        "me/style",
        token=TOKEN,
        private=True,
        endpoint=hub.address,
        progress=lambda done, total: told.append((done, total)),
    )
    assert address == f"{hub.address}/me/style"
    total = sum((folder / name).stat().st_size for name in names(folder))
    assert told == sorted(told)
    assert told[-1] == (total, total)
    assert hub.repositories["me/style"].private


def test_a_person_stops_an_upload(tmp_path, hub, style):
    def stop(done: int, total: int) -> None:
        raise KeyError("stop")

    folder = build(style, tmp_path / "out", About()).folder
    with pytest.raises(KeyError):
        push(folder, "me/style", token=TOKEN, endpoint=hub.address, progress=stop)
    assert hub.repositories["me/style"].files == {}


CREATE, COMMIT = ("POST", "repos/create"), ("POST", "/commit/")


@pytest.mark.parametrize(
    ("where", "answer", "message"),
    [
        (CREATE, {"status": 401}, r"does not know you: log in with `hf auth login`"),
        (CREATE, {"status": 403, "body": b'{"error": "no rights"}'}, r"may write \(403: no rights"),
        (CREATE, {"status": 429, "headers": {"Retry-After": "7"}}, r"too often: try again in 7 s"),
        (CREATE, {"status": 429}, r"too often: try again in some minutes"),
        (CREATE, {"status": 500, "body": b"<html>"}, r"problem of its own: try again later \(500"),
        (CREATE, {"cut": -1}, r"cannot be reached"),
        (("POST", "preupload"), {"status": 404}, r"is not there, or is private"),
        (("PUT", "objects"), {"status": 413}, r"too large for the hub"),
        (("PUT", "objects"), {"cut": -1}, r"cannot be reached"),
        (COMMIT, {"status": 409}, r"changed at the same time"),
        (COMMIT, {"status": 402, "body": b'{"error": "pay"}'}, r"refused it \(402: pay"),
        (COMMIT, {"status": 400, "body": b'{"error": "bad\\u001b[31m card"}'}, r"refused it"),
    ],
)
def test_failures_of_the_hub(tmp_path, hub, style, where, answer, message):
    folder = build(style, tmp_path / "out", About()).folder
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    hub.fail(*where, times=99, **answer)
    with pytest.raises(HubError, match=message) as caught:
        push(folder, "me/style", token=TOKEN, endpoint=hub.address)
    assert str(caught.value).startswith("cannot push to me/style: ")
    assert "\n" not in str(caught.value)
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before
    assert not getattr(hub.repositories.get("me/style"), "files", None)
    hub.failures.clear()
    push(folder, "me/style", token=TOKEN, endpoint=hub.address)
    assert hub.repositories["me/style"].files == before


def test_private_is_never_public(tmp_path, hub, style):
    hub.add("me/style", {})
    folder = build(style, tmp_path / "out", About()).folder
    with pytest.raises(HubError, match="is public: push to another name"):
        push(folder, "me/style", token=TOKEN, private=True, endpoint=hub.address)
    assert hub.repositories["me/style"].files == {}


WITHOUT = """
import sys
sys.modules["huggingface_hub"] = sys.modules["PIL"] = None
from shira_core.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_building_needs_no_other_package(tmp_path, style):
    line = [sys.executable, "-c", WITHOUT, "publish", style, "--out", tmp_path / "out"]
    done = subprocess.run([*line, "--push", "a/b"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'shira: this needs huggingface_hub: pip install "shira[share]"\n'
    assert len(contents(tmp_path / "out")) == 4


def test_errors_are_ours():
    assert issubclass(HubError, ShiraError)
