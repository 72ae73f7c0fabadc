"""The evaluation on the shipped base: its page, its figures, and what its methods train."""

from __future__ import annotations

import io
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import shira_core as shira

ROOT = Path(__file__).resolve().parent.parent
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "benchmarks" / "evaluation")
    fusion, methods, plan, report, results, tables, training, world = map(
        import_module,
        ("fusion", "methods", "plan", "report", "results", "tables", "training", "world"),
    )
RANK = 1


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The shipped base, with plain squares for drawings."""
    folder = tmp_path_factory.mktemp("data")
    names = [name for some in ("base", "held_out") for name in report_splits()[some]]
    pictures = []
    for number in range(4 * len(names)):
        file = io.BytesIO()
        Image.new("RGB", (128, 128), (number % 256, 90, 200)).save(file, "WEBP", lossless=True)
        pictures.append(file.getvalue())
    blob = np.frombuffer(b"".join(pictures), np.uint8)
    ends = np.cumsum([len(picture) for picture in pictures])
    np.savez(folder / "pictures.npz", names=names, ends=ends, blob=blob)
    return world.World(torch.device("cpu"), folder)


def report_splits() -> dict[str, list[str]]:
    return import_module("pictures").splits()


def test_the_page_says_what_the_results_say() -> None:
    page = report.PAGE.read_text(encoding="utf-8")
    assert report.written(page, report.RESULTS) == page


def test_a_row_has_adapters_of_one_kind_and_all_styles() -> None:
    known = results.records(report.RESULTS)
    rates = plan.best_rates(known)
    found = report.ordered(results.singles(known), rates)
    learned = [each for each in found if each.method not in (plan.NONE, plan.DRAWINGS)]
    assert all(each.rate == rates[each.method, each.rank, "style"] for each in learned)
    half = [each for each in results.singles(known) if (each.method, each.task) != ("wm", "riso")]
    methods_left = {each.method for each in report.ordered(half, rates)}
    assert methods_left == {each.method for each in found} - {"wm"}
    fusions = results.fused(known, tables.name)
    kinds = {(each.label, each.method, each.rank, each.mode) for each in fusions}
    assert len(kinds) == len({label for label, *_ in kinds})


def test_interference_equals_that_of_adapters(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    adapters = []
    for seed in range(2):
        weights = shira.MemoryWeights()
        for name, shape in {"one": (24, 40), "two": (16, 8, 3, 3)}.items():
            mask = shira.masks.build(
                "rand", torch.zeros(shape), density=0.05, seed=seed, layer=name
            )
            weights[name] = shira.SparseDelta(mask, torch.randn(mask.count, generator=generator))
        adapters.append(shira.Adapter(shira.Header(architecture="unknown"), weights))
    expected = shira.compare(*adapters)
    found = fusion.interference(*(methods.dense(each, torch.device("cpu")) for each in adapters))
    assert found["awom"] == pytest.approx(expected.awom, rel=1e-5)
    assert found["awor"] == pytest.approx(expected.awor)
    assert found["overlap"] == pytest.approx(expected.overlap)


@pytest.mark.parametrize("method", ["full", "lora", "struct", "wm-dora"])
def test_a_method_trains_its_share_and_leaves_the_base(base: Any, method: str) -> None:
    before = {name: weight.clone() for name, weight in base.unet.state_dict().items()}
    spec = methods.Spec(method, RANK, 1e-3, "riso", 0)
    (learned,) = training.train(base, [spec], 2)
    layers = methods.linears(base.unet)
    assert set(learned.deltas) == {f"{name}.weight" for name in layers}
    changed = sum(int(delta.count_nonzero()) for delta in learned.deltas.values())
    cells = sum(delta.numel() for delta in learned.deltas.values())
    if learned.adapter:
        budget = methods.budget(base.unet, layers, RANK)
        assert changed == pytest.approx(budget, rel=0.02)  # whole rows and columns in a Struct mask
    else:
        assert changed > 0.99 * cells
    assert all(torch.equal(before[name], now) for name, now in base.unet.state_dict().items())


def test_every_job_of_a_phase_is_another_one() -> None:
    rates = plan.best_rates(results.records(report.RESULTS))
    for jobs in (plan.search(), plan.tried(), plan.single(rates), plan.fusions(rates)):
        assert len({job.key for job in jobs}) == len(jobs) > 0


def test_ways_to_use_adapters_together(base: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = ({"w": scale * torch.randn(6, 5, generator=generator)} for scale in (1, 4))
    learned = [methods.Learned(first), methods.Learned(second)]
    a, b = first["w"], second["w"]
    size = (a.norm() * b.norm()) ** 0.5
    elected = (a + b).sign()
    agree = torch.stack([(x.sign() == elected) for x in (a, b)]).float()
    expected = {
        "sum": a + b,
        "alpha 0.7": 0.7 * (a + b),
        "balanced": size * (a / a.norm() + b / b.norm()),
        "ties": (agree[0] * a + agree[1] * b) / agree.sum(0),
        "mean": (a + b) / 2,
    }
    for mode, wanted in expected.items():
        together = fusion.fused(base, fusion.Fusion((), mode), learned)
        found = sum(alpha * deltas["w"] for deltas, alpha in together)
        assert torch.allclose(found, wanted, atol=1e-5), mode
