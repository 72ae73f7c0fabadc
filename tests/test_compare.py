"""Interference figures against dense arithmetic."""

import json
import math
import subprocess
import sys

import pytest
import torch

from shira_core.adapter import Adapter, Header, MemoryWeights
from shira_core.errors import ShapeMismatch
from shira_core.interference import compare
from shira_core.mask import Mask, SparseDelta

SHAPES = [
    (8, 8),
    (40, 24),
    (24, 40),
    (130, 70),
    (16, 200),
    (12, 6, 3, 3),
    (6, 12, 3, 3),
    (20, 20, 1, 1),
    (9,),
    (1, 5),
]


def chosen(shape, density, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator) < density


def rows_and_diagonal(shape, density, seed):
    cells = torch.zeros(shape, dtype=torch.bool).view(shape[0], -1)
    cells[seed % shape[0] :: 7] = True
    cells[:, (3 * seed) % cells.shape[1]] = True
    diagonal = torch.arange(min(cells.shape))
    cells[diagonal, diagonal] = True
    return cells.view(shape)


def empty(shape, density, seed):
    return torch.zeros(shape, dtype=torch.bool)


def delta(cells, seed, dtype=torch.float16):
    positions = cells.flatten().nonzero().flatten()
    generator = torch.Generator().manual_seed(seed)
    values = (torch.rand(positions.numel(), generator=generator) + 0.1).to(dtype)
    return SparseDelta(Mask(tuple(cells.shape), positions), values)


def adapter(**weights):
    return Adapter(Header(), MemoryWeights(weights))


def dense_figures(a, b):
    """The three figures by dense float64 arithmetic, straight from the paper's definitions.

    All values are positive, so no sum cancels and zeros are exactly the structural ones.
    """
    first, second = (d.dense().double().reshape(d.shape[0], -1) for d in (a, b))
    product = first.T @ second
    common = int(((first != 0) & (second != 0)).sum())
    return (
        float(torch.linalg.norm(product)),
        float((product == 0).double().mean()),
        common / max(1, min(a.count, b.count)),
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("mask", "density"),
    [(chosen, 0.02), (chosen, 0.3), (rows_and_diagonal, 0.0), (empty, 0.0)],
    ids=["sparse", "dense", "struct", "empty"],
)
def test_figures_equal_dense_arithmetic(shape, mask, density, dtype):
    a, b = (delta(mask(shape, density, seed), seed, dtype) for seed in (1, 2))
    report = compare(adapter(w=a), adapter(w=b))
    awom, awor, overlap = dense_figures(a, b)
    for figures in (report, report.weights["w"]):
        assert figures.awom == pytest.approx(awom, rel=1e-9, abs=1e-12)
        assert figures.awor == pytest.approx(awor, abs=1e-12)
        assert figures.overlap == pytest.approx(overlap)


def test_symmetric_in_its_arguments():
    a, b = delta(chosen((30, 90), 0.1, 1), 1), delta(chosen((30, 90), 0.03, 2), 2)
    forth, back = (
        compare(adapter(w=a), adapter(w=b)),
        compare(adapter(w=b), adapter(w=a)),
    )
    assert forth.awom == pytest.approx(back.awom, rel=1e-12)
    assert (forth.awor, forth.overlap) == (back.awor, back.overlap)


def test_an_adapter_overlaps_itself_whole():
    a = adapter(w=delta(chosen((30, 40), 0.1, 1), 1))
    assert compare(a, a).overlap == 1.0


def test_disjoint_rows_are_orthogonal():
    upper, lower = torch.zeros(20, 30, dtype=torch.bool), torch.zeros(20, 30, dtype=torch.bool)
    upper[:10], lower[10:] = True, True
    report = compare(adapter(w=delta(upper, 1)), adapter(w=delta(lower, 2)))
    assert (report.awom, report.awor, report.overlap) == (0.0, 1.0, 0.0)
    assert "freely" in report.advice


def test_opposite_signs_cancel_in_awom_but_count_in_awor():
    cells = torch.ones(2, 1, dtype=torch.bool)
    a, b = delta(cells, 1), delta(cells, 1)
    b = SparseDelta(b.mask, torch.stack([a.values[1], -a.values[0]]))
    report = compare(adapter(w=a), adapter(w=b))
    assert report.awom == pytest.approx(0.0, abs=1e-3)
    assert report.awor == 0.0


def test_total_joins_the_weights():
    a = adapter(x=delta(chosen((20, 30), 0.1, 1), 1), y=delta(chosen((30, 8), 0.2, 3), 3))
    b = adapter(
        x=delta(chosen((20, 30), 0.1, 2), 2),
        y=delta(chosen((30, 8), 0.2, 4), 4),
        z=delta(chosen((5, 6), 0.5, 5), 5),
    )
    report = compare(a, b)
    x, y = report.weights["x"], report.weights["y"]
    assert set(report.weights) == {"x", "y"}
    assert report.awom == pytest.approx(math.hypot(x.awom, y.awom))
    touched = (1 - x.awor) * 30**2 + (1 - y.awor) * 8**2
    assert report.awor == pytest.approx(1 - touched / (30**2 + 8**2 + 6**2))
    shared = x.shared + y.shared
    assert report.overlap == pytest.approx(shared / min(a.entries, b.entries))


def test_no_common_weight():
    report = compare(
        adapter(x=delta(chosen((4, 4), 0.5, 1), 1)), adapter(y=delta(chosen((4, 4), 0.5, 1), 1))
    )
    assert (report.awom, report.awor, report.overlap) == (0.0, 1.0, 0.0)
    assert not report.weights


def test_shapes_that_differ_are_named():
    a, b = adapter(w=delta(chosen((4, 6), 0.5, 1), 1)), adapter(w=delta(chosen((4, 8), 0.5, 1), 1))
    with pytest.raises(ShapeMismatch, match="w is 4x6 in the first adapter and 4x8"):
        compare(a, b)


MEMORY_OF_THE_WIDEST_SDXL_WEIGHT = """
import resource, torch
from shira_core.interference import compare_deltas
from shira_core.mask import Mask, SparseDelta
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
def delta(seed):
    shape, generator = (1280, 2560, 3, 3), torch.Generator().manual_seed(seed)
    positions = torch.randint(1280 * 23040, (590_000,), generator=generator).unique()
    return SparseDelta(Mask(shape, positions), torch.ones(positions.numel(), dtype=torch.float16))
a, b = delta(1), delta(2)
before = peak()
report = compare_deltas(a, b)
assert report.cells == 23040**2 and 0.5 < report.awor < 0.7, report
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is read from getrusage")
def test_memory_stays_far_below_the_product():
    """The dense product of the widest SDXL convolution would take 2.1 GB as float32."""
    code = [sys.executable, "-c", MEMORY_OF_THE_WIDEST_SDXL_WEIGHT]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    unit = 2**10 if sys.platform == "darwin" else 1
    assert float(done.stdout) / unit < 400


@pytest.fixture
def files(tmp_path):
    paths = []
    for seed in range(3):
        path = tmp_path / f"style{seed}.shira"
        adapter(w=delta(chosen((30, 40), 0.1, seed), seed)).save(path)
        paths.append(str(path))
    return paths


def command(capsys, *arguments):
    from shira_core.cli import main

    try:
        code = main(["compare", *arguments])
    except SystemExit as stop:
        code = stop.code
    return code or 0, capsys.readouterr()


def test_command_prints_every_pair(files, capsys):
    code, printed = command(capsys, *files)
    lines = printed.out.splitlines()
    assert code == 0
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "style0 + style1",
        "style0 + style2",
        "style1 + style2",
    ]


def test_command_prints_json_that_agrees_with_the_library(files, capsys):
    code, printed = command(capsys, *files[:2], "--json")
    from shira_core.file import load

    (record,) = json.loads(printed.out)
    report = compare(load(files[0]), load(files[1]))
    assert code == 0
    for figures, want in ((record, report), (record["weights"]["w"], report.weights["w"])):
        assert figures["awom"] == want.awom
        assert figures["awor"] == want.awor
        assert figures["overlap"] == want.overlap


def test_command_plots_and_keeps_existing_files(files, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "heat.png"
    assert command(capsys, *files, "--plot", str(picture))[0] == 0
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG")
    code, printed = command(capsys, *files, "--plot", str(picture))
    assert code == 1
    assert "--overwrite" in printed.err
    assert picture.read_bytes() == content


def test_command_needs_two_adapters(files, capsys):
    code, printed = command(capsys, files[0])
    assert code != 0
    assert "two or more" in printed.err
