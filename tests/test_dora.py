"""The masked weight-decomposed delta: against autograd of its formula, and as a sparse delta."""

from __future__ import annotations

import pytest
import torch
from nets import batch, build, loss_of, weights_of
from torch import Tensor

from shira_core.mask import Mask
from shira_core.training import finetune

MASKS = ["wm", "rand", "struct"]


def by_definition(weight: Tensor, mask: Mask, values: Tensor, growth: Tensor) -> Tensor:
    """W'_p = m_i V_p / ||V_i|| in the mask, W_p elsewhere (DoRA, eq. 5, masked); dense."""
    moved = weight.flatten().index_add(0, mask.positions, values).view(weight.shape)
    magnitude = weight.flatten(1).norm(dim=1) + growth
    scale = (magnitude / moved.flatten(1).norm(dim=1)).view(-1, *[1] * (weight.dim() - 1))
    return torch.where(mask.dense(), scale * moved, weight)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", ["linear", "conv", "tied"])
def test_gradient_and_weights_equal_the_formula(kind: str, mask: str) -> None:
    module = build(kind, torch.float64)
    base = weights_of(module)
    x = batch(kind, 0, torch.float64)
    with finetune(module, mask, density=0.3, dora=True, values_dtype=torch.float32) as run:
        (vector,) = run.parameters()
        sizes = [each.count for each in run.masks.values()]
        sizes += [each.shape[0] for each in run.masks.values()]
        assert vector.numel() == sum(sizes)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            vector.copy_(torch.randn(vector.shape, generator=generator) * 0.1)
        parts = vector.detach().double().requires_grad_()
        pieces = parts.split(sizes)
        half = len(run.masks)
        wanted = {
            name: by_definition(base[name], each, pieces[number], pieces[half + number])
            for number, (name, each) in enumerate(run.masks.items())
        }
        loss_of(module, x).backward()
        for name, weight in wanted.items():
            torch.testing.assert_close(
                module.get_parameter(name).detach(), weight.detach(), rtol=0, atol=1e-6
            )
        (want,) = torch.autograd.grad(_loss(kind, wanted, x), parts)
        torch.testing.assert_close(vector.grad.double(), want, rtol=1e-4, atol=1e-6)
        assert (want != 0).double().mean() > 0.8  # all but channels without entries


def _loss(kind: str, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    module = build(kind, torch.float64)
    output = torch.func.functional_call(module, weights, (x,))
    return (output.float() - 1).square().mean()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_exported_delta_is_sparse_and_gives_the_weights_bit_for_bit(
    dtype: torch.dtype, mask: str
) -> None:
    module = build("conv", dtype)
    base = weights_of(module)
    with finetune(module, mask, density=0.1, dora=True) as run:
        optimizer = torch.optim.AdamW(run.parameters(), lr=0.05)
        for number in range(3):
            optimizer.zero_grad()
            loss_of(module, batch("conv", number, dtype)).backward()
            optimizer.step()
        run.update()
        trained, adapter, masks = weights_of(module), run.adapter(training={"steps": 3}), run.masks
    assert adapter.header.training == {"dora": True, "steps": 3}
    for name, each in masks.items():
        delta = adapter.weights[name]
        assert torch.equal(delta.positions, each.positions)
        assert torch.equal(trained[name], (base[name].float() + delta.dense()).to(dtype))
        assert (trained[name] != base[name]).any()
    assert all(torch.equal(now, base[name]) for name, now in weights_of(module).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_without_training_the_delta_is_zero(dtype: torch.dtype) -> None:
    module = build("linear", dtype)
    with torch.no_grad():
        module[0].weight[3] = 0  # a channel without magnitude
    with finetune(module, "rand", density=0.5, dora=True, values_dtype=torch.float32) as run:
        adapter = run.adapter()
        loss_of(module, batch("linear", 0, dtype)).backward()
        assert torch.isfinite(run.parameters()[0].grad).all()
    assert all(not adapter.weights[name].values.any() for name in adapter.weights)


def test_magnitudes_alone_scale_the_trained_entries() -> None:
    module = build("linear")
    base = weights_of(module)
    with finetune(module, "rand", 0.3, layers="0", dora=True, values_dtype=torch.float32) as run:
        norms = base["0.weight"].norm(dim=1)
        with torch.no_grad():
            run.parameters()[0][-20:] = norms  # twice the magnitude
        run.update()
        chosen = run.masks["0.weight"].dense()
        ratio = module[0].weight / base["0.weight"]
    assert torch.allclose(ratio[chosen], torch.tensor(2.0), rtol=1e-5)
    assert (ratio[~chosen] == 1).all()
