"""Applying stacks: against dense arithmetic, and back to the base bit for bit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapters import bits, random_adapter
from torch import Tensor, nn

import shira_core as shira
from shira_core import errors

SHAPES = {
    "model.diffusion_model.input_blocks.4.1.proj.weight": (24, 40),
    "model.diffusion_model.middle_block.0.in_layers.2.weight": (8, 12, 3, 3),
    "model.diffusion_model.out.0.bias": (50,),
    "cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc1.weight": (30, 10),
}
LINEAR, CONV, BIAS, TEXT = SHAPES
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
Weights = dict[str, Tensor]


def plain(weights: Weights) -> Weights:
    return weights


def channels_last(weights: Weights) -> Weights:
    return weights | {CONV: weights[CONV].to(memory_format=torch.channels_last)}


def transposed(weights: Weights) -> Weights:
    return weights | {LINEAR: weights[LINEAR].T.contiguous().T}


def inside_a_buffer(weights: Weights) -> Weights:
    """Views into one block of memory, as loaders make them."""
    pieces = {}
    for name, weight in weights.items():
        block = torch.zeros(weight.numel() + 6, dtype=weight.dtype, device=weight.device)
        block[3:-3] = weight.view(-1)
        pieces[name] = block[3:-3].view(weight.shape)
    return pieces


def inference_tensors(weights: Weights) -> Weights:
    with torch.inference_mode():
        return {name: weight.clone() for name, weight in weights.items()}


LAYOUTS: list[Callable[[Weights], Weights]] = [
    *(plain, channels_last, transposed, inside_a_buffer, inference_tensors)
]


def base(dtype: torch.dtype = torch.float32, device: str = "cpu") -> Weights:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(device).to(dtype)
        for name, shape in SHAPES.items()
    }


def dense(weight: Tensor, *parts: tuple[shira.Adapter, str, float]) -> Tensor:
    """W + sum(alpha * delta) in dense float64, rounded once to float32 and to the dtype."""
    total = sum(alpha * adapter.weights[name].dense().double() for adapter, name, alpha in parts)
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    return (weight.double() + total).to(wide).to(weight.dtype)


def copies(weights: Weights) -> Weights:
    return {name: weight.clone() for name, weight in weights.items()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_stack_is_dense_arithmetic_and_comes_off_exactly(
    dtype: torch.dtype, layout: Callable[[Weights], Weights], device: str
) -> None:
    weights = layout(base(dtype, device))
    before, storage = copies(weights), {n: (w.data_ptr(), w.stride()) for n, w in weights.items()}
    a = random_adapter(SHAPES, 1)
    b = random_adapter(SHAPES, 2, mask="struct", dtype=torch.float32)
    stack = shira.apply(weights, [(a, 0.5), (b, -1.25)])
    for name, weight in weights.items():
        wanted = dense(before[name].cpu(), (a, name, 0.5), (b, name, -1.25)).float()
        step = torch.finfo(dtype).eps if dtype != torch.float64 else 1e-12
        torch.testing.assert_close(weight.cpu().float(), wanted, rtol=step, atol=1e-6)
        untouched = ~(a.weights[name].mask.dense() | b.weights[name].mask.dense())
        assert bits(weight.double().cpu()[untouched]) == bits(
            before[name].double().cpu()[untouched]
        )
    stack.remove()
    assert all(bits(weights[name]) == bits(before[name]) for name in weights)
    assert storage == {n: (w.data_ptr(), w.stride()) for n, w in weights.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_alpha_one_gives_the_rounded_sum_bit_for_bit(dtype: torch.dtype) -> None:
    """What training promises: round(W + delta)."""
    weights = base(dtype)
    before, a = copies(weights), random_adapter(SHAPES, 1)
    with shira.apply(weights, [(a, 1.0)]):
        for name, weight in weights.items():
            wanted = dense(before[name], (a, name, 1.0))
            assert torch.equal(weight.double(), wanted.double())  # -0.0 and 0.0 are one value


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("mask", ["rand", "wm"])
def test_the_order_of_adapters_never_changes_a_bit(dtype: torch.dtype, mask: str) -> None:
    """Dense masks, so that up to four addends meet in one entry."""
    pairs = [
        (random_adapter(SHAPES, seed, density=0.6, mask=mask, dtype=torch.float32), alpha)
        for seed, alpha in ((1, 0.3), (2, 0.7), (3, -1.1), (3, 0.7))
    ]
    results = set()
    for order in itertools.permutations(pairs):
        weights = base(dtype)
        shira.apply(weights, order)
        results.add(b"".join(map(bits, weights.values())))
    assert len(results) == 1


def test_alphas_and_adapters_can_be_changed_while_applied() -> None:
    weights = base(torch.float16)
    before = copies(weights)
    a, b, c = (random_adapter(SHAPES, seed) for seed in (1, 2, 3))

    def expect(*parts: tuple[shira.Adapter, float]) -> None:
        fresh = copies(before)
        shira.apply(fresh, parts)
        assert all(bits(weights[name]) == bits(fresh[name]) for name in weights)

    stack = shira.apply(weights, [(a, 1.0), (b, 0.5)])
    expect((a, 1.0), (b, 0.5))
    stack.set_alpha(0, 0.3)
    expect((a, 0.3), (b, 0.5))
    stack.set_alpha(1, 0)
    expect((a, 0.3))
    stack.set([(b, 2.0), (c, -1.0)])
    expect((b, 2.0), (c, -1.0))
    stack.set([(c, 1.0)])
    expect((c, 1.0))
    stack.set([])
    expect()
    stack.set([(a, 1.0)])
    stack.remove()
    stack.remove()
    assert all(bits(weights[name]) == bits(before[name]) for name in weights)


def test_adapters_may_change_different_weights() -> None:
    weights = base()
    before = copies(weights)
    one = random_adapter({LINEAR: SHAPES[LINEAR]}, 1)
    other = random_adapter({CONV: SHAPES[CONV], LINEAR: SHAPES[LINEAR]}, 2)
    stack = shira.apply(weights, [(one, 1.0)])
    stack.set([(other, 1.0)])
    assert bits(weights[CONV]) == bits(dense(before[CONV], (other, CONV, 1.0)))
    stack.set([(one, 1.0)])
    assert bits(weights[CONV]) == bits(before[CONV])
    assert bits(weights[TEXT]) == bits(before[TEXT])


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (shira.Alpha(0.5), (0.5, 0.5, 0.5)),
        (shira.Alpha(0.5, {"te1": 2.0}), (0.5, 0.5, 2.0)),
        (shira.Alpha(0.5, {"te": -1.0}), (0.5, 0.5, -1.0)),
        (shira.Alpha(1.0, {"unet": 0.0}), (0.0, 0.0, 1.0)),
        (shira.Alpha(0.5, {}, {"in4": 0.5}), (0.25, 0.5, 0.5)),
        (shira.Alpha(0.5, {"unet": 3.0}, {"mid": 0.0, "te1.3": 2.0}), (3.0, 0.0, 1.0)),
    ],
    ids=str,
)
def test_alpha_per_component_and_block(
    alpha: shira.Alpha, expected: tuple[float, float, float]
) -> None:
    weights = base()
    before, a = copies(weights), random_adapter(SHAPES, 1)
    with shira.apply(weights, [(a, alpha)]):
        for name, value in zip((LINEAR, CONV, TEXT), expected, strict=True):
            assert bits(weights[name]) == bits(dense(before[name], (a, name, value)))


def test_a_module_is_edited_under_its_own_names() -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.Conv2d(3, 4, 3), nn.BatchNorm1d(4))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    shapes = {name: tuple(before[name].shape) for name in ("0.weight", "1.weight", "1.bias")}
    adapter = random_adapter(shapes, 1, density=0.3)
    parameter = module[0].weight
    with shira.apply(module, [(adapter, 0.7)]):
        assert module[0].weight is parameter
        for name, value in module.state_dict().items():
            part = [(adapter, name, 0.7)] if name in shapes else []
            wanted = dense(before[name], *part) if part else before[name]
            torch.testing.assert_close(value, wanted)
    assert all(bits(value) == bits(before[name]) for name, value in module.state_dict().items())
    assert all(p.requires_grad for p in module.parameters())


def test_files_apply_as_adapters_in_memory_do(tmp_path: Path) -> None:
    a = random_adapter(SHAPES, 1, mask="struct")
    loaded = shira.load(a.save(tmp_path / "a.shira"))
    one, other = base(torch.bfloat16), base(torch.bfloat16)
    shira.apply(one, [(a, 0.8)])
    shira.apply(other, [(loaded, 0.8)])
    assert all(bits(one[name]) == bits(other[name]) for name in one)


def test_two_adapters_of_one_mask_are_exchanged() -> None:
    weights, a = base(torch.bfloat16), random_adapter(SHAPES, 1)
    before = copies(weights)
    doubled = shira.MemoryWeights(
        {n: shira.SparseDelta(d.mask, d.values * 2) for n, d in a.weights.items()}
    )
    stack = shira.apply(weights, [(a, 1.0)])
    stack.set([(shira.Adapter(a.header, doubled), 0.5)])
    for name in weights:
        wanted = dense(before[name], (a, name, 1.0))
        assert torch.equal(weights[name], wanted)
    stack.remove()
    assert all(bits(weights[name]) == bits(before[name]) for name in weights)


def test_adapters_that_stay_need_their_files_no_more(tmp_path: Path) -> None:
    weights, paths = base(), [tmp_path / f"{seed}.shira" for seed in (1, 2, 3)]
    a, b, c = (
        shira.load(random_adapter(SHAPES, seed).save(path)) for seed, path in enumerate(paths)
    )
    stack = shira.apply(weights, [(a, 1.0), (b, 0.5)])
    paths[0].unlink()
    paths[1].unlink()
    stack.set([(c, 0.2), (b, 0.5), (a, 0.7)])
    stack.set([(b, 0.5)])
    fresh = base()
    shira.apply(fresh, [(random_adapter(SHAPES, 1), 0.5)])
    assert all(bits(weights[name]) == bits(fresh[name]) for name in weights)


def lacks_a_weight(weights: Weights, good: shira.Adapter) -> shira.Adapter:
    return random_adapter({**SHAPES, "nothing.weight": (3, 3)}, 5)


def other_shape(weights: Weights, good: shira.Adapter) -> shira.Adapter:
    return random_adapter({**SHAPES, TEXT: (30, 11)}, 5)


def too_large(weights: Weights, good: shira.Adapter) -> shira.Adapter:
    return random_adapter(SHAPES, 5, scale=1e30, dtype=torch.float32)


def quantised(weights: Weights, good: shira.Adapter) -> shira.Adapter:
    weights[TEXT] = torch.zeros(SHAPES[TEXT], dtype=torch.int8)
    return random_adapter(SHAPES, 5)


def on_meta(weights: Weights, good: shira.Adapter) -> shira.Adapter:
    weights[TEXT] = torch.empty(SHAPES[TEXT], device="meta")
    return random_adapter(SHAPES, 5)


def strided(weights: Weights, good: shira.Adapter) -> shira.Adapter:
    weights[TEXT] = torch.zeros(60, 20)[::2, ::2]
    return random_adapter(SHAPES, 5)


def tied(weights: Weights, good: shira.Adapter) -> shira.Adapter:
    weights["twin"] = weights[LINEAR]
    return random_adapter({**SHAPES, "twin": SHAPES[LINEAR]}, 5)


class Broken(shira.MemoryWeights):
    """Weights whose last one cannot be read."""

    def read(self, name: str, device: object = "cpu") -> shira.SparseDelta:
        if name == TEXT:
            raise errors.FileInvalid("cut short")
        return super().read(name)


def unreadable(weights: Weights, good: shira.Adapter) -> shira.Adapter:
    return shira.Adapter(shira.Header(), Broken(random_adapter(SHAPES, 5).weights))


FAILURES: dict[Callable[[Weights, shira.Adapter], shira.Adapter], tuple[type[Exception], str]] = {
    lacks_a_weight: (errors.WeightMissing, "no weight nothing.weight"),
    other_shape: (errors.ShapeMismatch, "30x11 in the adapter and 30x10 in the model"),
    too_large: (errors.InvalidValue, "lower the alphas"),
    quantised: (errors.InvalidValue, "quantised"),
    on_meta: (errors.InvalidValue, "meta device"),
    strided: (errors.InvalidValue, "strided view"),
    tied: (errors.InvalidValue, "one tensor"),
    unreadable: (errors.FileInvalid, "cut short"),
}


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
@pytest.mark.parametrize("applied", [False, True], ids=["fresh", "over another stack"])
def test_a_failure_changes_nothing(
    failure: Callable[[Weights, shira.Adapter], shira.Adapter], applied: bool
) -> None:
    weights, good = base(torch.float16), random_adapter(SHAPES, 1)
    bad = failure(weights, good)
    part = {LINEAR: weights[LINEAR], CONV: weights[CONV]}
    small = random_adapter({name: tuple(w.shape) for name, w in part.items()}, 9)
    stack = shira.apply(weights, [(small, 0.5)] if applied else [])
    seen = {n: w.clone() for n, w in weights.items()}
    kind, message = FAILURES[failure]
    with pytest.raises(kind, match=message) as caught:
        stack.set([(small, 0.4), (bad, 1.0)])
    assert "\n" not in str(caught.value)
    for name, weight in weights.items():
        if not weight.is_meta:
            assert bits(weight) == bits(seen[name])
    assert [entry.alpha.value for entry in stack.entries] == ([0.5] if applied else [])
    stack.set([(small, 1.0)])
    stack.remove()


def test_ctrl_c_in_the_middle_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from shira_core import entries

    weights = base()
    a, b = random_adapter(SHAPES, 1), random_adapter(SHAPES, 2)
    stack = shira.apply(weights, [(a, 1.0)])
    seen = copies(weights)
    write, calls = entries.write, iter(())

    def interrupted(*args: object, **kwargs: object) -> None:
        if next(calls, 1) == 0:
            raise KeyboardInterrupt
        write(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(entries, "write", interrupted)
    for number in range(2 * len(SHAPES)):
        calls = iter(range(number, -1, -1))
        with pytest.raises(KeyboardInterrupt):
            stack.set([(b, 0.5)])
        assert all(bits(weights[name]) == bits(seen[name]) for name in weights)
    stack.set([(b, 0.5)])
    stack.remove()
    assert all(bits(weights[name]) == bits(value) for name, value in base().items())


@pytest.mark.parametrize("alpha", [math.nan, math.inf, "0.5"], ids=str)
def test_alphas_that_are_no_number(alpha: object) -> None:
    weights = base()
    with pytest.raises(errors.InvalidValue, match="finite"):
        shira.apply(weights, [(random_adapter(SHAPES, 1), alpha)])  # type: ignore[list-item]
    assert all(bits(weights[name]) == bits(value) for name, value in base().items())


def test_a_cast_under_a_stack_is_refused_with_the_remedy() -> None:
    module = nn.Linear(4, 4)
    stack = shira.apply(module, [(random_adapter({"weight": (4, 4)}, 1), 1.0)])
    module.half()
    with pytest.raises(errors.InvalidValue, match=r"was cast to torch.float16.*remove\(\)"):
        stack.remove()


def test_architectures_are_named_where_they_differ() -> None:
    context = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    stem = "model.diffusion_model.input_blocks.0.0.weight"
    sd2 = {stem: torch.zeros(320, 4, 3, 3), context: torch.zeros(320, 1024)}
    adapter = random_adapter({context: (320, 768)}, 1, density=0.001, architecture="sd15")
    with pytest.raises(
        errors.ShapeMismatch,
        match=r"320x768 in the adapter and 320x1024 in the model: "
        r"it was trained for SD1\.5 and the model is SD2",
    ):
        shira.apply(sd2, [(adapter, 1.0)])


def test_an_index_beyond_the_stack() -> None:
    stack = shira.apply(base(), [])
    with pytest.raises(errors.InvalidValue, match="no adapter 0"):
        stack.set_alpha(0, 1.0)


def test_gradients_learn_of_the_change() -> None:
    """A graph that still needs the old weights must not silently use the new ones."""
    module = nn.Linear(4, 4)
    inputs = torch.randn(2, 4, requires_grad=True)
    loss = module(inputs).square().sum()
    shira.apply(module, [(random_adapter({"weight": (4, 4)}, 1), 1.0)])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
