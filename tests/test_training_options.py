"""What `finetune` is told: which weights, which entries, which names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nets import Unet, batch, build, dense_gradients, loss_of, state_of
from torch import Tensor, nn

import shira_core as shira
from shira_core.mask import Mask

finetune, calibrate = shira.training.finetune, shira.training.calibrate


Q0, Q1 = "blocks.0.to_q.weight", "blocks.1.to_q.weight"
K0, K1 = "blocks.0.to_k.weight", "blocks.1.to_k.weight"
F0, F1 = "blocks.0.ff.weight", "blocks.1.ff.weight"
LAYERS: dict[str, tuple[Any, list[str]]] = {
    "all": (None, ["conv_in.weight", Q0, K0, F0, Q1, K1, F1]),
    "one": ("conv_in", ["conv_in.weight"]),
    "names of layers": (["blocks.1.ff", "blocks.0.to_q"], [Q0, F1]),
    "names of weights": ([F1, "conv_in.weight"], ["conv_in.weight", F1]),
    "wildcard": (["*.to_?"], [Q0, K0, Q1, K1]),
    "generator": ((f"blocks.{n}.ff" for n in range(2)), [F0, F1]),
    "predicate": (
        lambda name, layer: layer.weight.dim() == 2 and "ff" not in name,
        [Q0, K0, Q1, K1],
    ),
}


@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)
def test_layers(case: tuple[Any, list[str]]) -> None:
    layers, names = case
    module = Unet()
    with finetune(module, layers=layers) as run:
        assert list(run.masks) == names
        trained = [name for name, each in module.named_parameters() if each.requires_grad]
        assert trained == names


def test_a_module_that_is_a_layer_has_a_weight_without_prefix() -> None:
    with finetune(nn.Linear(4, 4), density=0.5) as run:
        assert list(run.masks) == ["weight"]


def test_a_tied_weight_is_trained_for_all_its_layers() -> None:
    module = build("tied")
    with finetune(module, layers="second", density=0.5) as run:
        assert list(run.masks) == ["second.weight"]
        with torch.no_grad():
            run.parameters()[0].fill_(1.0)
        want = build("tied").first.weight + run.masks["second.weight"].dense()
        module.first(batch("tied", 0))
        assert torch.equal(module.first.weight, want)


@pytest.mark.parametrize("name", ["wm", "rand", "struct"])
def test_masks_are_those_of_masks_build(name: str) -> None:
    module = Unet()
    options = {"axis": "rows", "diagonal": False} if name == "struct" else {}
    with finetune(module, name, 0.1, seed=3, shard=1, **options) as run:
        for weight, mask in run.masks.items():
            wanted = shira.masks.build(
                name,
                module.get_parameter(weight),
                density=0.1,
                seed=3,
                layer=weight,
                shard=1,
                **options,
            )
            assert torch.equal(mask.positions, wanted.positions)
    with finetune(module) as run:
        assert run.entries == sum(max(1, each.numel() * 2 // 100) for each in _weights(module))
    with finetune(module, rank=1) as run:
        assert run.entries == 8 + 27 + 6 * 16


def _weights(module: nn.Module) -> list[Tensor]:
    return [each for each in module.parameters() if each.dim() > 1]


def test_density_of_each_weight() -> None:
    densities = {Q0: 0.5, K0: 0, F0: None, "conv_in.weight": 1.0}

    def density_of(name: str, weight: Tensor) -> float | None:
        assert weight.dim() in (2, 4)
        return densities.get(name, 0)

    with finetune(Unet(), "rand", 0.25, density_of=density_of) as run:
        counts = {name: mask.count for name, mask in run.masks.items()}
        header = run.adapter().header
    assert counts == {"conv_in.weight": 216, Q0: 32, F0: 16}
    assert header.density == pytest.approx((216 + 32 + 16) / (216 + 64 + 64))


def test_ready_masks() -> None:
    empty = Mask((8, 8), torch.empty(0, dtype=torch.int64))
    masks = {F1: shira.masks.build("struct", torch.empty(8, 8), density=0.3), K0: empty}
    module = Unet()
    with finetune(module, masks=masks) as run:
        assert list(run.masks) == [K0, F1]
        assert all(torch.equal(run.masks[name].positions, masks[name].positions) for name in masks)
        module.blocks[1]["ff"](torch.ones(2, 8)).sum().backward()
        adapter = run.adapter()
    assert (adapter.weights.count(K0), adapter.weights.count(F1)) == (0, masks[F1].count)
    assert adapter.weights[F1].mask.struct is not None
    header = adapter.header
    assert (header.mask, header.seed) == ("", None)
    assert header.density == masks[F1].count / 128


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["linear", "conv", "tied"])
def test_calibration_sums_the_gradients(kind: str, dtype: torch.dtype) -> None:
    inputs = [batch(kind, number, dtype) for number in range(3)]
    single = [dense_gradients(build(kind, dtype), x) for x in inputs]
    module = build(kind, dtype)
    before = state_of(module)
    for absolute in (False, True):
        sums = calibrate(module, inputs, loss_of, absolute=absolute, device="cpu")
        assert state_of(module) == before
        wanted = {name for name, each in module.named_parameters() if each.dim() > 1}
        assert set(sums) == wanted
        for name, total in sums.items():
            each = [dense[name].abs() if absolute else dense[name] for dense in single]
            assert total.dtype == torch.float32
            torch.testing.assert_close(total, sum(grad.float() for grad in each))


@pytest.mark.parametrize("name", ["grad", "snip"])
def test_masks_from_calibration(name: str) -> None:
    module = build("linear")
    gradients = calibrate(module, [batch("linear", 0)], loss_of, layers=["2", "4"])
    with finetune(module, name, 0.1, layers=["2", "4"], gradients=gradients) as run:
        for weight, mask in run.masks.items():
            score = gradients[weight].abs()
            if name == "snip":
                score = score * module.get_parameter(weight).abs()
            chosen = mask.dense()
            assert mask.count == score.numel() // 10
            assert score[chosen].min() >= score[~chosen].max()


def test_calibration_of_an_unused_layer_is_zero() -> None:
    module = Unet()
    x = torch.ones(1, 3, 4, 4)
    sums = calibrate(module, [x], lambda module, x: module.conv_in(x).sum())
    assert sums["conv_in.weight"].any()
    assert not sums[Q0].any()


def test_the_header_says_what_is_known() -> None:
    with finetune(Unet(), "rand", 0.25, seed=5) as run:
        adapter = run.adapter(
            "sd", "a, b", "sd15", title="T", training={"steps": 3}, extra={"ss_x": "1"}
        )
    header = adapter.header
    assert (header.base, header.triggers, header.architecture) == ("sd", ("a, b",), "sd15")
    assert (header.mask, header.density, header.seed) == ("rand", 0.25, 5)
    assert (header.title, header.training, header.extra) == ("T", {"steps": 3}, {"ss_x": "1"})


def test_the_adapter_has_tensors_of_its_own() -> None:
    module = build("linear")
    with finetune(module, density=0.5) as run:
        with torch.no_grad():
            run.parameters()[0].fill_(1.0)
        adapter = run.adapter()
        before = {name: adapter.weights[name].dense() for name in adapter.weights}
        for name in adapter.weights:
            adapter.weights[name].values.zero_()
            adapter.weights[name].positions.zero_()
        again = run.adapter()
        assert all(torch.equal(again.weights[name].dense(), before[name]) for name in before)
        with torch.no_grad():
            run.parameters()[0].fill_(2.0)
        run.update()
        assert all(torch.equal(again.weights[name].dense(), before[name]) for name in before)


NAMES: dict[str, tuple[Callable[[str], Any], list[str]]] = {
    "one": (lambda name: f"model.{name}", ["model.0.weight", "model.2.weight"]),
    "several": (lambda name: [f"a.{name}", f"b.{name}"], ["a.0.weight", "b.0.weight"]),
    "none": (lambda name: [] if name == "0.weight" else name, ["2.weight"]),
}


@pytest.mark.parametrize("case", NAMES.values(), ids=NAMES)
def test_names_of_the_checkpoint(case: tuple[Callable[[str], Any], list[str]]) -> None:
    names, wanted = case
    with finetune(build("linear"), names=names) as run:
        assert list(run.adapter().weights)[: len(wanted)] == wanted
