"""Struct masks: gradients of their lines against the dense gradient, and what is not computed."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from shira_core.mask import Mask, Struct
from shira_core.struct import positions_of
from shira_core.training import Run, finetune
from shira_core.training.structured import installed, lines_of

ROWS, COLUMNS = [[], [0, 3]], [[], [1, 4, 5]]
STRUCTS = [case for case in itertools.product(ROWS, COLUMNS, [False, True]) if any(case)]
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(8, 12), (5, 8)),
    "linear, narrower": (lambda: nn.Linear(12, 7, bias=False), (2, 3, 12)),
    "conv 1x1": (lambda: nn.Conv2d(6, 9, 1), (2, 6, 4, 5)),
    "conv 3x3": (lambda: nn.Conv2d(9, 6, 3, padding=1, bias=False), (2, 9, 5, 4)),
    "conv, stride": (lambda: nn.Conv2d(6, 7, 3, stride=2, padding=1), (2, 6, 7, 6)),
    "conv 1x1, stride": (lambda: nn.Conv2d(6, 7, 1, stride=2, padding=1), (2, 6, 5, 4)),
    "conv, dilation": (lambda: nn.Conv2d(7, 6, (3, 2), padding=(2, 0), dilation=2), (2, 7, 5, 6)),
}
OTHERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "groups": (lambda: nn.Conv2d(12, 6, 3, groups=2), (2, 12, 5, 5)),
    "padding mode": (lambda: nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular"), (2, 6, 5, 5)),
    "same": (lambda: nn.Conv2d(6, 6, 3, padding="same"), (2, 6, 5, 5)),
    "conv1d": (lambda: nn.Conv1d(6, 6, 3), (2, 6, 5)),
    "subclass": (lambda: Doubled(6, 6), (3, 6)),
    "no batch, linear": (lambda: nn.Linear(6, 6), (6,)),
    "no batch, conv": (lambda: nn.Conv2d(6, 6, 3), (6, 5, 5)),
}


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def drawn(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def mask_of(weight: Tensor, rows: list[int], columns: list[int], diagonal: bool) -> Mask:
    lines = (torch.tensor(each, dtype=torch.int64) for each in (rows, columns))
    struct, shape = Struct(*lines, diagonal), tuple(weight.shape)
    return Mask(shape, positions_of(shape, struct), struct)


def masks_of(module: nn.Module, case: tuple[list[int], list[int], bool]) -> dict[str, Mask]:
    return {
        name: mask_of(each, *case) for name, each in module.named_parameters() if each.dim() > 1
    }


def unstructured(masks: dict[str, Mask]) -> dict[str, Mask]:
    return {name: Mask(mask.shape, mask.positions) for name, mask in masks.items()}


@contextmanager
def both(module: nn.Module, masks: dict[str, Mask]) -> Iterator[list[tuple[nn.Module, Run]]]:
    """The module with Struct masks, and a copy with the same entries as unstructured masks."""
    twin = copy.deepcopy(module)
    with finetune(module, masks=masks) as ours, finetune(twin, masks=unstructured(masks)) as theirs:
        yield [(module, ours), (twin, theirs)]


def gradient(run: Run) -> Tensor:
    (vector,) = run.parameters()
    return vector.grad


@pytest.mark.parametrize("case", STRUCTS, ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_equal_the_dense_ones(
    layer: str, case: tuple[list[int], list[int], bool]
) -> None:
    make, shape = LAYERS[layer]
    module, results = seeded(make), []
    with both(module, masks_of(module, case)) as pairs:
        for each, run in pairs:
            x = drawn(shape).requires_grad_()
            y = each(x)
            y.backward(drawn(y.shape, seed=2))
            results.append((y.detach(), x.grad, gradient(run)))
            assert each.weight.grad is None
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1:], results[1][1:])


@pytest.mark.parametrize("case", STRUCTS, ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_equal_finite_differences(
    layer: str, case: tuple[list[int], list[int], bool]
) -> None:
    make, shape = LAYERS[layer]
    module = seeded(make).double()
    mask = mask_of(module.weight, *case)
    lines = lines_of(mask, mask.struct)
    bias = [] if module.bias is None else [module.bias.detach().clone().requires_grad_()]

    def layer_of(x: Tensor, entries: Tensor, *bias: Tensor) -> Tensor:
        layer = copy.deepcopy(module)
        layer.weight.data.view(-1)[mask.positions] = entries.detach()
        layer._parameters["bias"] = bias[0] if bias else None
        with installed(layer, entries, lines):
            return layer(x)

    x = drawn(shape, torch.float64).requires_grad_()
    entries = drawn((mask.count,), torch.float64, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(layer_of, (x, entries, *bias), fast_mode=True)


@pytest.mark.parametrize("case", STRUCTS, ids=str)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, "autocast"], ids=str)
def test_sixteen_bits(
    dtype: torch.dtype | str, layer: str, case: tuple[list[int], list[int], bool]
) -> None:
    make, shape = LAYERS[layer]
    autocast, results = dtype == "autocast", []
    own = torch.float32 if isinstance(dtype, str) else dtype
    module = seeded(make).to(own)
    with both(module, masks_of(module, case)) as pairs:
        for each, run in pairs:
            x = drawn(shape, own).requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                y = each(x)
            y.backward(drawn(y.shape, y.dtype, seed=2))
            assert y.dtype == (torch.bfloat16 if autocast else own)
            assert x.grad.dtype == own
            results.append((y.detach(), x.grad, gradient(run)))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1:], results[1][1:], rtol=2e-2, atol=5e-2)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("case", STRUCTS, ids=str)
def test_channels_last_and_checkpointing(
    case: tuple[list[int], list[int], bool], autocast: bool
) -> None:
    """Both at once, as a UNet is trained; accuracy is that of float32 against float64."""
    module = seeded(lambda: nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 6, 1)))
    exact = copy.deepcopy(module).double()
    module.to(memory_format=torch.channels_last)
    x, results = drawn((2, 6, 5, 4)), []
    for each, dtype, on in ((module, torch.float32, autocast), (exact, torch.float64, False)):
        with finetune(each, masks=masks_of(each, case)) as run:
            start = x.to(dtype, copy=True).requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=on):
                y = checkpoint(each, start, use_reentrant=False)
            y.square().sum().backward()
            results.append((start.grad.double(), gradient(run).double()))
    tolerance = {"rtol": 5e-2, "atol": 0.5} if autocast else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(*results, **tolerance)


@pytest.mark.parametrize("layer", OTHERS)
def test_other_layers_have_their_dense_gradient_gathered(layer: str) -> None:
    make, shape = OTHERS[layer]
    module, results = seeded(make), []
    with both(module, masks_of(module, ([0, 2], [1], True))) as pairs:
        for each, run in pairs:
            each(drawn(shape)).square().sum().backward()
            results.append(gradient(run))
    assert torch.equal(*results)
    assert results[0].abs().min() > 0
    assert "forward" not in vars(module)


class Attention(nn.MultiheadAttention):
    """Uses the weight of its `out_proj` without calling that layer."""

    def __init__(self) -> None:
        super().__init__(8, 2, batch_first=True)
        self.out_proj.__class__ = nn.Linear

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x, need_weights=False)[0] + self.out_proj(x)


class Block(nn.Module):
    """One layer used three times, an embedding tied to it, inputs without gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.table = nn.Linear(8, 8), nn.Embedding(8, 8)
        self.table.weight = self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.table(x[..., 0].gt(0).long()) + self.layer(x)
        return checkpoint(self.layer, self.layer(input=x), use_reentrant=False)


@pytest.mark.parametrize("case", STRUCTS, ids=str)
@pytest.mark.parametrize("make", [Attention, Block])
def test_all_uses_of_a_weight_add_up(
    make: Callable[[], nn.Module], case: tuple[list[int], list[int], bool]
) -> None:
    module, results = seeded(make), []
    names = {"Attention": "out_proj.weight", "Block": "layer.weight"}
    name = names[make.__name__]
    masks = {name: mask_of(module.get_parameter(name), *case)}
    with both(module, masks) as pairs:
        for each, run in pairs:
            for seed in (1, 2):  # accumulated
                each(drawn((2, 5, 8), seed=seed)).square().sum().backward()
            results.append(gradient(run))
    torch.testing.assert_close(*results)


def test_a_layer_of_other_parameters_or_a_copy_is_an_ordinary_one() -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(8, 8)))
    x = drawn((3, 8))
    with finetune(module, "struct", density=0.2) as run:
        other = {name: each.detach() + 1 for name, each in module.named_parameters()}
        other["0.weight"].requires_grad_()
        functional_call(module, other, (x,)).sum().backward()
        torch.testing.assert_close(other["0.weight"].grad, x.sum(0).expand(8, 8))
        twin = copy.deepcopy(module)
        with torch.no_grad():
            twin[0].weight.zero_()
            assert torch.equal(twin(x), twin[0].bias.expand(3, 8))
        twin(x).sum().backward()
        torch.testing.assert_close(twin[0].weight.grad, x.sum(0).expand(8, 8))
        assert gradient(run) is None
        with torch.no_grad():
            run.parameters()[0].add_(1.0)
    twin(x)  # its hooks look at a run that is over
    assert "forward" not in vars(module[0])
    assert torch.equal(module[0].weight, seeded(lambda: nn.Linear(8, 8)).weight)


class Largest(TorchDispatchMode):
    """Notes the largest floating-point result of any operation."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(each, Tensor) and each.is_floating_point():
                self.numel = max(self.numel, each.numel())
        return result


def saved(module: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    """Return the output, and how many values autograd keeps besides parameters."""
    own = {each.data_ptr() for each in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return module(x), sum(kept.values())


@pytest.mark.parametrize(
    ("make", "shape", "taps"),
    [(lambda: nn.Linear(64, 48), (2, 64), 1), (lambda: nn.Conv2d(64, 48, 3), (1, 64, 3, 3), 9)],
    ids=["linear", "conv"],
)
@pytest.mark.parametrize(
    ("case", "channels"),
    [
        (([], [3, 60], False), 2),
        (([], [3, 60], True), 49),  # the 48 that the diagonal needs, and 60
        (([1, 2], [], False), 64),
        (([1, 2], [3], True), 64),
    ],
    ids=["columns", "columns and diagonal", "rows", "all"],
)
def test_no_dense_gradient_is_formed_and_only_needed_channels_are_kept(
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    taps: int,
    case: tuple[list[int], list[int], bool],
    channels: int,
) -> None:
    module = seeded(make)
    with finetune(module, masks=masks_of(module, case)) as run:
        y, kept = saved(module, drawn(shape))
        assert kept == channels * math.prod(shape) // shape[1]
        with Largest() as largest:
            y.sum().backward()
        assert gradient(run).abs().sum() > 0
        assert largest.numel <= max(run.entries, 3 * 48 * taps * 9) < module.weight.numel()
