"""Whatever else is given as an adapter ends in one clear line, exit code 1, and costs nothing."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from adapters import random_adapter
from deltas import mixed_adapter, put_together, take_apart

from shira_core.cli import main

UNET = "model.diffusion_model."
Q = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
IN = f"{UNET}input_blocks.0.0.weight"


def valid(folder):
    return mixed_adapter(architecture="sd15", title="t").save(folder / "good.shira")


# ---- files that are something else: (folder) -> path ----
def empty(folder):
    return write(folder, b"")


def one_byte(folder):
    return write(folder, b"\x80")


def nine_bytes(folder):
    return write(folder, (1).to_bytes(8, "little") + b"{")


def missing(folder):
    return folder / "none.shira"


def a_folder(folder):
    return folder


def web_page(folder):
    return write(folder, b"<!DOCTYPE html><html>log in</html>")


def large_file_pointer(folder):
    return write(folder, b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5\n")


def pickle_zip(folder):
    torch.save({"a": torch.ones(3)}, folder / "a.shira")
    return folder / "a.shira"


def pickle_raw(folder):
    torch.save({"a": 1}, folder / "a.shira", _use_new_zipfile_serialization=False)
    return folder / "a.shira"


def pickle_new(folder):
    return write(folder, pickle.dumps({"a": list(range(99))}, protocol=5))


def lora(folder):
    names = ("lora_unet_down.lora_up.weight", "lora_unet_down.lora_down.weight")
    return tensors(folder, {name: torch.ones(2, 2) for name in names})


def peft_lora(folder):
    return tensors(folder, {"base_model.model.q.lora_A.weight": torch.ones(2, 2)})


def checkpoint(folder):
    return tensors(folder, {IN: torch.ones(2, 2), "first_stage_model.x": torch.ones(2)})


def other_tensors(folder):
    return tensors(folder, {"emb_params": torch.ones(2, 2)})


def truncated_data(folder):
    return write(folder, valid(folder).read_bytes()[:-1])


def truncated_header(folder):
    return write(folder, valid(folder).read_bytes()[:500])


def bytes_behind(folder):
    return write(folder, valid(folder).read_bytes() + b"\0")


def header_longer_than_file(folder):
    raw = valid(folder).read_bytes()
    return write(folder, len(raw).to_bytes(8, "little") + raw[8:])


def header_of_all_memory(folder):
    return write(folder, b"\xff" * 7 + b"\x7f" + valid(folder).read_bytes()[8:])


def header_beyond_the_limit(folder):
    header, about, data = take_apart(valid(folder))
    header["__metadata__"]["x"] = "x" * (9 << 20)
    return put_together(folder / "a.shira", header, about, data)


def write(folder, raw):
    (folder / "a.shira").write_bytes(raw)
    return folder / "a.shira"


def tensors(folder, content):
    safetensors.torch.save_file(content, folder / "a.shira")
    return folder / "a.shira"


FILES = [
    (empty, "no safetensors file or is cut short"),
    (one_byte, "no safetensors file or is cut short"),
    (nine_bytes, "no safetensors file or is cut short"),
    (missing, "does not exist: check the name"),
    (a_folder, "is a folder: name the file inside it"),
    (web_page, "no safetensors file or is cut short"),
    (large_file_pointer, "no safetensors file or is cut short"),
    (pickle_zip, "PyTorch pickle, which can run code .*: get or convert it as .safetensors"),
    (pickle_raw, "PyTorch pickle, which can run code .*: get or convert it as .safetensors"),
    (pickle_new, "PyTorch pickle, which can run code .*: get or convert it as .safetensors"),
    (lora, "is a LoRA, not a SHiRA adapter: load it with your LoRA loader"),
    (peft_lora, "is a LoRA, not a SHiRA adapter: load it with your LoRA loader"),
    (checkpoint, "is a whole model, not a SHiRA adapter: name a .shira file"),
    (other_tensors, "is no SHiRA adapter .*: name a .shira file"),
    (truncated_data, "cut short or damaged, get it again"),
    (truncated_header, "cut short .*: get it again"),
    (bytes_behind, "damaged, get it again"),
    (header_longer_than_file, "cut short .*: get it again"),
    (header_of_all_memory, "cut short .*: get it again"),
    (header_beyond_the_limit, "more than 8388608: get another file"),
]


# ---- headers that are wrong: (header, about) -> None, in place ----
def version(value):
    def edit(header, about):
        about["version"] = value

    return edit


def about_field(name, value):
    def edit(header, about):
        about[name] = value

    return edit


def shape(value, name="a.weight"):
    def edit(header, about):
        about["weights"][name]["shape"] = value

    return edit


def tensor(name, **fields):
    def edit(header, about):
        header[name] |= fields

    return edit


def renamed(old, new):
    def edit(header, about):
        header[new] = header.pop(old)

    return edit


def weight_named(name):
    def edit(header, about):
        about["weights"][name] = about["weights"].pop("a.weight")
        for part in ("values", "gaps"):
            header[f"{name}.{part}"] = header.pop(f"a.weight.{part}")

    return edit


def as_half(name):
    """Declare a float32 tensor as twice as many float16 values."""

    def edit(header, about):
        header[name] |= {"dtype": "F16", "shape": [2 * header[name]["shape"][0]]}

    return edit


def no_weights(header, about):
    about["weights"] = {}


def no_diagonal_flag(header, about):
    del about["weights"]["d.weight"]["diagonal"]


def text_for_diagonal(header, about):
    about["weights"]["d.weight"]["diagonal"] = "yes"


def both_kinds(header, about):
    about["weights"]["a.weight"]["diagonal"] = True


def overlapping(header, about):
    header["b.weight.values"]["data_offsets"] = header["a.weight.values"]["data_offsets"]


def nested(header, about):
    value = []
    for _ in range(900):
        value = [value]
    about["training"] = {"x": value}


HUGE = (1 << 40) - 1
HEADERS = [
    (version(2), "has format version 2 and this SHiRA reads up to 1: update SHiRA"),
    (version(10**18), "update SHiRA"),
    (version(0), "no format version"),
    (version("1"), "no format version"),
    (version(True), "no format version"),
    (version(1.0), "no format version"),
    (about_field("weights", []), "lists no weights"),
    (about_field("density", "2 %"), "'density'"),
    (about_field("density", float("nan")), "not finite"),
    (about_field("density", -0.5), "'density'"),
    (about_field("seed", 10**4000), "too many digits"),
    (about_field("seed", True), "'seed'"),
    (about_field("triggers", "ink"), "'triggers'"),
    (about_field("triggers", [1]), "'triggers'"),
    (about_field("title", ["t"]), "'title'"),
    (about_field("title", "\ud800"), "surrogates"),
    (about_field("training", [1]), "'training'"),
    (nested, "nested too deeply"),
    (no_weights, "lists no weights"),
    (shape([]), "shape"),
    (shape([0, 5]), "shape"),
    (shape([-30, -40]), "shape"),
    (shape([30.0, 40]), "shape"),
    (shape([True, 1200]), "shape"),
    (shape("30x40"), "shape"),
    (shape(None), "shape"),
    (shape([1] * 9), "shape"),
    (shape([1 << 25]), "shape"),
    (shape([1 << 24, 1 << 24]), "shape"),
    (shape([7, 8]), "entries in a weight of 56"),
    (shape([20, 40]), "a position outside of its 800 entries"),
    (shape([12], "d.weight"), "rows and columns"),
    (shape([1 << 21, 9], "d.weight"), "rows and columns of a sane size"),
    (shape([3, 90], "d.weight"), "rows or columns that are"),
    (shape([12, 10], "d.weight"), "rows and columns that do not match"),
    (weight_named(""), "no name of a weight"),
    (weight_named("a\nb\x1b[31m"), "no name of a weight"),
    (weight_named("x" * 501), "no name of a weight"),
    (tensor("b.weight.values", dtype="I32"), "no values in F16, BF16, F32"),
    (tensor("b.weight.values", dtype="F99"), "no values in F16, BF16, F32"),
    (tensor("b.weight.values", dtype=5), "wrongly"),
    (tensor("b.weight.values", dtype="F16"), "wrongly"),
    (tensor("b.weight.values", shape=[HUGE]), "wrongly"),
    (tensor("b.weight.values", shape=[HUGE], data_offsets=[0, 4 * HUGE]), "overlapping or missing"),
    (tensor("b.weight.values", shape=[1 << 30] * 40), "wrongly"),
    (tensor("b.weight.values", shape=[10**18]), "wrongly"),
    (tensor("b.weight.values", shape=[57.0]), "wrongly"),
    (tensor("b.weight.values", shape={}), "wrongly"),
    (tensor("b.weight.values", data_offsets=[0]), "wrongly"),
    (tensor("b.weight.values", data_offsets=[-4, 4]), "wrongly"),
    (tensor("b.weight.values", data_offsets="ab"), "wrongly"),
    (overlapping, "wrongly|overlapping"),
    (as_half("b.weight.values"), "b.weight has (NaN|positions|.* entries)"),
    (tensor("d.weight.rows", dtype="F32"), "no I32 list"),
    (tensor("d.weight.rows", shape=[1, 1]), "no I32 list"),
    (tensor("a.weight.gaps", dtype="I8"), "no U8 list"),
    (renamed("a.weight.gaps", "a.weight.places"), "no positions"),
    (renamed("a.weight.gaps", "z.gaps"), "no positions"),
    (renamed("a.weight.values", "z.values"), "no values"),
    (both_kinds, "two kinds"),
    (no_diagonal_flag, "do not match its values"),
    (text_for_diagonal, "shape"),
]

# ---- header texts that no JSON writer makes ----
TEXTS = [
    ("[]", "is no safetensors file"),
    ("{}", "should hold 0 bytes"),
    ("{" * 100_000, "damaged"),
    ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
    ('{"__metadata__":5}', "not text"),
    ('{"__metadata__":{"shira":5}}', "not text"),
    ('{"__metadata__":{"a":"1","a":"2"}}', "occurs twice"),
    ('{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,1]}}', "not finite"),
    ('{"a":{"dtype":"U8","shape":[1e999],"data_offsets":[0,1]}}', "not finite"),
    ('{"a":{"dtype":"U8","shape":[' + "9" * 10**6 + '],"data_offsets":[0,1]}}', "too many digits"),
    ('{"\\ud800":1}', "surrogates"),
    ('{"\udc80":1}', "damaged"),
    ('{"' + "x" * 10**6 + '":1}', "wrongly"),
    ('{"a\\u001b[31m\\n":1}', "wrongly"),
]


# ---- data that is wrong: tensor -> bytes ----
def data_of(tensor_name, raw):
    def make(folder):
        header, about, data = take_apart(valid(folder))
        begin, end = header[tensor_name]["data_offsets"]
        new = raw(data[begin:end]) if callable(raw) else raw
        assert len(new) == end - begin
        return put_together(folder / "a.shira", header, about, data[:begin] + new + data[end:])

    return make


def half(number):
    return lambda old: torch.tensor([number]).half().numpy().tobytes() + old[2:]


def lines_of(*numbers):
    return torch.tensor(numbers).int().numpy().tobytes()


DATA = [
    (data_of("a.weight.values", half(float("nan"))), "a.weight has NaN or infinite values"),
    (data_of("a.weight.values", half(float("-inf"))), "a.weight has NaN or infinite values"),
    (data_of("a.weight.gaps", lambda old: b"\x1f" + old[1:]), "positions that do not match"),
    (data_of("a.weight.gaps", lambda old: b"\xff" + old[1:]), "positions that do not match"),
    (data_of("a.weight.gaps", lambda old: old[:1] + b"\xff" * (len(old) - 1)), "a.weight has"),
    (data_of("a.weight.gaps", lambda old: old[:1] + b"\x00" * (len(old) - 1)), "a.weight has"),
    (data_of("d.weight.columns", lines_of(4, 1)), "unsorted, repeated or out of range"),
    (data_of("d.weight.columns", lines_of(4, 4)), "unsorted, repeated or out of range"),
    (data_of("d.weight.columns", lines_of(-1, 4)), "unsorted, repeated or out of range"),
    (data_of("d.weight.columns", lines_of(1, 9)), "unsorted, repeated or out of range"),
    (data_of("d.weight.rows", lines_of(2**31 - 1)), "unsorted, repeated or out of range"),
]


def one_line(capsys, *arguments):
    """Run a command that must fail; return its one line on stderr."""
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert code == 1
    assert printed.out == ""
    assert printed.err.startswith("shira: ")
    assert printed.err.endswith("\n")
    (line,) = printed.err.splitlines()
    assert len(line) < 600
    assert line.isprintable()
    return line


@pytest.mark.parametrize(("make", "reason"), FILES, ids=lambda case: getattr(case, "__name__", ""))
def test_files_that_are_something_else(tmp_path, capsys, make, reason):
    path = make(tmp_path)
    for command in ("info", "verify"):
        line = one_line(capsys, command, path)
        assert str(path) in line
        assert re.search(reason, line)


@pytest.mark.parametrize("case", range(len(HEADERS)))
def test_headers_that_are_wrong(tmp_path, capsys, case):
    edit, reason = HEADERS[case]
    header, about, data = take_apart(valid(tmp_path))
    edit(header, about)
    path = put_together(tmp_path / "a.shira", header, about, data)
    line = one_line(capsys, "verify", path)
    assert str(path) in line
    assert re.search(reason, line)
    assert re.search("get it again|update SHiRA", line)


@pytest.mark.parametrize("case", range(len(TEXTS)))
def test_header_texts_that_are_wrong(tmp_path, capsys, case):
    text, reason = TEXTS[case]
    path = put_together(tmp_path / "a.shira", text, "", b"\0")
    for command in ("info", "verify"):
        line = one_line(capsys, command, path)
        assert re.search(reason, line)
        assert "get it again" in line


@pytest.mark.parametrize("text", ["", "5", "[]", '{"version":1,"version":1}', "{" * 5000, "\0"])
def test_metadata_that_is_wrong(tmp_path, capsys, text):
    header, _, data = take_apart(valid(tmp_path))
    path = put_together(tmp_path / "a.shira", header, text, data)
    assert re.search("metadata 'shira' is .*: get it again", one_line(capsys, "info", path))


@pytest.mark.parametrize("case", range(len(DATA)))
def test_data_that_is_wrong(tmp_path, capsys, case):
    make, reason = DATA[case]
    line = one_line(capsys, "verify", make(tmp_path))
    assert re.search(reason, line)
    assert "get it again" in line


def test_a_changed_value_is_found_by_its_hash(tmp_path, capsys):
    path = data_of("a.weight.values", half(0.5))(tmp_path)
    assert re.search("does not match its hash: get it again", one_line(capsys, "verify", path))


# ---- bases ----
def base(folder, **shapes):
    content = {name: torch.ones(shape, dtype=torch.float16) for name, shape in shapes.items()}
    safetensors.torch.save_file(content, folder / "base.safetensors")
    return folder / "base.safetensors"


def test_a_base_of_another_architecture(tmp_path, capsys):
    adapter = random_adapter({Q: (320, 768)}, 0, architecture="sd15")
    path = adapter.save(tmp_path / "a.shira")
    sd2 = base(tmp_path, **{Q: (320, 1024), IN: (320, 4, 3, 3)})
    line = one_line(capsys, "verify", path, "--base", sd2)
    assert f"{Q} is 320x768 in the adapter and 320x1024 in the model" in line
    assert "trained for SD1.5 and the model is SD2.x" in line
    sdxl = base(tmp_path, **{"conditioner.embedders.1.x": (2,)})
    line = one_line(capsys, "verify", path, "--base", sdxl)
    assert f"the model has no weight {Q}" in line
    assert "trained for SD1.5 and the model is SDXL" in line


@pytest.mark.parametrize("make", [empty, missing, a_folder, pickle_zip])
def test_a_base_that_is_none(tmp_path, capsys, make):
    path = valid(tmp_path)
    for arguments in (
        ("verify", path, "--base", make(tmp_path)),
        ("bake", make(tmp_path), tmp_path / "o", path),
    ):
        line = one_line(capsys, *arguments)
        assert str(make(tmp_path)) in line


# ---- the real command, and what it may cost ----
LIMITED = """
import resource, sys
import torch
import shira_core.file
from shira_core.cli import main
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
for path in sys.argv[1:]:
    main(["verify", path])
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="address space is limited by Linux"
)
def test_no_size_in_a_file_is_believed(tmp_path):
    """256 MB are enough to refuse files that declare exabytes."""
    paths = []
    header, about, data = take_apart(valid(tmp_path))
    for number, edit in enumerate(
        [
            tensor("b.weight.values", shape=[HUGE]),
            tensor("b.weight.values", shape=[HUGE], data_offsets=[0, 4 * HUGE]),
            tensor("a.weight.gaps", shape=[HUGE], data_offsets=[0, HUGE]),
            shape([1 << 24, 1 << 8]),
            shape([1 << 20, 9], "d.weight"),
            shape([12, 1 << 24], "d.weight"),
            shape([1 << 20, 1 << 12, 1], "e.weight"),
        ]
    ):
        broken, told = json.loads(json.dumps((header, about)))
        edit(broken, told)
        paths.append(str(put_together(tmp_path / f"{number}.shira", broken, told, data)))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *paths], capture_output=True, text=True, check=False
    )
    lines = done.stderr.splitlines()
    assert len(lines) == len(paths) - 1, (
        done.stderr
    )  # a weight may be large: only the entries count
    assert all(line.startswith("shira: ") for line in lines)


def test_the_real_command(tmp_path):
    path = lora(tmp_path)
    command = Path(sys.executable).with_name("shira")
    start = [str(command)] if command.exists() else [sys.executable, "-m", "shira_core.cli"]
    done = subprocess.run([*start, "info", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"shira: {path}: it is a LoRA, not a SHiRA adapter: load it with your LoRA loader, "
        "or make an adapter of it (shira convert)\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("mix", "{good}", "-o", "{taken}"),
        ("bake", "{base}", "{taken}", "{good}"),
        ("compare", "{good}", "{good}", "--plot", "{taken}"),
    ],
)
def test_outputs_that_exist_stay(tmp_path, capsys, arguments):
    taken = tmp_path / "taken"
    taken.write_bytes(b"old")
    places = {"good": valid(tmp_path), "taken": taken, "base": base(tmp_path, x=(2, 2))}
    line = one_line(capsys, *(argument.format(**places) for argument in arguments))
    assert line == f"shira: {taken} exists: choose another name or add --overwrite (overwrite=True)"
    assert taken.read_bytes() == b"old"
