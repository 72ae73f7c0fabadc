"""Ways to mix: against dense arithmetic, numbers by hand, exact fractions, and one another."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from fractions import Fraction

import pytest
import torch
from adapters import bits, random_adapter
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import shira_core as shira
from shira_core import errors
from shira_core.cli import main
from shira_core.mask import Mask, SparseDelta
from shira_core.mixing import Mixer
from shira_core.modes import MODES

LINEAR = "model.diffusion_model.input_blocks.4.1.proj.weight"
CONV = "model.diffusion_model.middle_block.0.in_layers.2.weight"
BIAS = "model.diffusion_model.out.0.bias"
TEXT = "cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc1.weight"
SHAPES = {LINEAR: (24, 40), CONV: (8, 12, 3, 3), BIAS: (50,), TEXT: (30, 10)}
DTYPES = [torch.float16, torch.bfloat16, torch.float32]
SIZE = 12  # of the weight "w" in tests of single entries


# ---- the same from dense float64 tensors (adapters, *shape); held: where there are entries ----
def dense_sum(scaled: Tensor, held: Tensor) -> Tensor:
    return scaled.sum(0)


def dense_mean(scaled: Tensor, held: Tensor) -> Tensor:
    return scaled.sum(0) / held.sum(0).clamp(min=1)


def dense_ties(scaled: Tensor, held: Tensor) -> Tensor:
    """Weigh both sides against each other; the mean of the heavier one."""
    up, down = scaled.clamp(min=0).sum(0), scaled.clamp(max=0).sum(0)
    ups, downs = (scaled > 0).sum(0).clamp(min=1), (scaled < 0).sum(0).clamp(min=1)
    none = torch.zeros_like(up)
    return torch.where(up > -down, up / ups, torch.where(-down > up, down / downs, none))


DENSE = {"sum": dense_sum, "ties": dense_ties, "mean": dense_mean}
assert list(DENSE) == list(MODES)


def alpha_of(alpha: shira.Alpha | float, name: str) -> float:
    """What an alpha means for a weight, spelled out for the only Alpha below."""
    if isinstance(alpha, float):
        return alpha
    return {TEXT: 2.0, CONV: 0.15}.get(name, 0.3)


ALPHAS = [0.8, -0.5, shira.Alpha(0.3, {"te": 2.0}, {"mid": 0.5}), 1.5]


def dense(mode: str, stack: list, name: str) -> Tensor:
    scaled, held = [], []
    for adapter, alpha in stack:
        if name in adapter.weights and alpha_of(alpha, name):
            scaled.append(adapter.weights[name].dense().double() * alpha_of(alpha, name))
            held.append(adapter.weights[name].mask.dense())
    return DENSE[mode](torch.stack(scaled), torch.stack(held))


def no_overlap(index: int, dtype: torch.dtype) -> shira.Adapter:
    weights = shira.MemoryWeights()
    for name, shape in SHAPES.items():
        generator = torch.Generator().manual_seed(index)
        cells = torch.arange(index, torch.Size(shape).numel(), 5)
        values = torch.randn(len(cells), generator=generator).to(dtype)
        weights[name] = SparseDelta(Mask(shape, cells), values)
    return shira.Adapter(shira.Header(), weights)


def partial_overlap(index: int, dtype: torch.dtype) -> shira.Adapter:
    mask = "struct" if index == 1 else "rand"
    chosen = {name: shape for place, (name, shape) in enumerate(SHAPES.items()) if place != index}
    return random_adapter(chosen, index, density=0.4, mask=mask, dtype=dtype)


def full_overlap(index: int, dtype: torch.dtype) -> shira.Adapter:
    first = random_adapter(SHAPES, 0, density=0.3, dtype=dtype)
    weights = shira.MemoryWeights()
    for name in SHAPES:
        generator = torch.Generator().manual_seed(index)
        mask = Mask(SHAPES[name], first.weights[name].positions.clone())
        weights[name] = SparseDelta(mask, torch.randn(mask.count, generator=generator).to(dtype))
    return shira.Adapter(shira.Header(), weights)


OVERLAPS = {"none": no_overlap, "partial": partial_overlap, "full": full_overlap}


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_equals_dense_arithmetic(mode, dtype, overlap, count):
    stack = [(OVERLAPS[overlap](i, dtype), ALPHAS[i]) for i in range(count)]
    mixed = shira.mix(stack, mode)
    assert set(mixed.weights) == {name for adapter, _ in stack for name in adapter.weights}
    for name in mixed.weights:
        found, wanted = mixed.weights[name], dense(mode, stack, name)
        assert found.values.dtype == dtype
        tolerance = torch.finfo(dtype).eps
        assert torch.allclose(found.dense().double(), wanted, rtol=tolerance, atol=1e-6)
        held = [a.weights[name].mask.dense() for a, _ in stack if name in a.weights]
        assert torch.equal(found.mask.dense(), torch.stack(held).any(0))


@pytest.mark.parametrize("mode", MODES)
def test_where_nothing_overlaps_all_modes_are_the_sum(mode):
    stack = [(no_overlap(i, torch.float16), ALPHAS[i]) for i in range(4)]
    mixed, plain = shira.mix(stack, mode), shira.mix(stack)
    assert all(torch.equal(mixed.weights[n].values, plain.weights[n].values) for n in SHAPES)


# ---- single entries ----
def adapter_of(entries: dict[int, float], dtype: torch.dtype = torch.float32) -> shira.Adapter:
    """Return an adapter of the weight "w" with these values at these positions."""
    places = sorted(entries)
    positions = torch.tensor(places, dtype=torch.int64)
    values = torch.tensor([entries[place] for place in places], dtype=torch.float64).to(dtype)
    weights = {"w": SparseDelta(Mask((SIZE,), positions), values)}
    return shira.Adapter(shira.Header(), shira.MemoryWeights(weights))


def mixed_entry(mode: str, deltas: list, alphas: list, dtype: torch.dtype) -> float:
    """Mix adapters that hold entry 5, or not (None), and each an entry of its own."""
    own = [{6 + i: 1.0} for i in range(len(deltas))]
    held = [{} if delta is None else {5: delta} for delta in deltas]
    adapters = [adapter_of(a | b, dtype) for a, b in zip(own, held, strict=True)]
    found = shira.mix(list(zip(adapters, alphas, strict=True)), mode).weights["w"].dense()
    assert found[6 : 6 + len(alphas)].tolist() == alphas  # alone: alpha * delta, in every mode
    return found[5].item()


# deltas of one entry by adapter, alphas, what sum, ties and mean give
BY_HAND = {
    "one holder": ([2, None], [0.5, 1], (1, 1, 1)),
    "agree": ([2, 4], [1, 1], (6, 3, 3)),
    "agree below zero": ([-2, -4], [1, 1], (-6, -3, -3)),
    "alphas scale": ([2, 4], [0.5, 0.25], (2, 1, 1)),
    "opposite, up wins": ([4, -2], [1, 1], (2, 4, 1)),
    "opposite, down wins": ([2, -4], [1, 1], (-2, -4, -1)),
    "alpha decides": ([-4, 2], [1, 3], (2, 6, 1)),
    "negative alpha turns the sign": ([2, 4], [-1, 1], (2, 4, 1)),
    "exact cancellation": ([2, -2], [1, 1], (0, 0, 0)),
    "cancelled by alpha": ([2, 4], [1, -0.5], (0, 0, 0)),
    "tie of mass": ([1, 2, -3], [1, 1, 1], (0, 0, 0)),
    "two against one, lighter": ([-1, -1, 4], [1, 1, 1], (2, 4, 0.6666667)),
    "two against one, heavier": ([3, 1, -2], [1, 1, 1], (2, 2, 0.6666667)),
    "holders only are counted": ([2, 4, None], [1, 1, 1], (6, 3, 3)),
    "a zero holds but has no sign": ([3, 0], [1, 1], (3, 3, 1.5)),
    "zeros": ([0, 0], [1, 1], (0, 0, 0)),
    "alpha 0 does not vote": ([-8, 4], [0, 1], (4, 4, 4)),
    "alpha 0 holds alone": ([2, None], [0, 1], (0, 0, 0)),
    "nobody takes part": ([2, 4], [0, 0], (0, 0, 0)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", BY_HAND)
@pytest.mark.parametrize("mode", MODES)
def test_entries_by_hand(mode, case, dtype):
    deltas, alphas, results = BY_HAND[case]
    wanted = results[list(MODES).index(mode)]
    found = mixed_entry(mode, deltas, alphas, dtype)
    assert found == pytest.approx(wanted, rel=torch.finfo(dtype).eps)


# Eighths times quarters: every sum is exact in float32, so only divisions are rounded.
EIGHTHS = st.integers(-64, 64).map(lambda n: n / 8)
ENTRIES = st.dictionaries(st.integers(0, SIZE - 1), EIGHTHS, min_size=1)
QUARTERS = st.integers(-8, 8).map(lambda n: n / 4)
STACKS = st.lists(st.tuples(ENTRIES, QUARTERS), min_size=1, max_size=5)


def exact(mode: str, addends: list[Fraction]) -> Fraction:
    """What a mode gives for one entry, from alpha * delta of those that hold it and take part."""
    total = sum(addends, Fraction(0))
    if mode == "ties":
        addends = [addend for addend in addends if addend * total > 0]
    count = 1 if mode == "sum" else max(1, len(addends))
    return sum(addends, Fraction(0)) / count


@given(STACKS)
@settings(max_examples=60, deadline=None)
def test_equals_exact_fractions(stack):
    pairs = [(adapter_of(entries), alpha) for entries, alpha in stack]
    for mode in MODES:
        found = shira.mix(pairs, mode).weights["w"]
        assert found.positions.tolist() == sorted(
            {place for entries, _ in stack for place in entries}
        )
        for place, value in zip(found.positions.tolist(), found.values.tolist(), strict=True):
            addends = [
                Fraction(entries[place]) * Fraction(alpha)
                for entries, alpha in stack
                if place in entries and alpha
            ]
            assert value == torch.tensor(float(exact(mode, addends))).item()
            if mode != "sum":  # never beyond the largest
                assert abs(value) <= max(map(abs, addends), default=0)


FLOATS = st.floats(-8, 8, width=16)
ANY_ENTRIES = st.dictionaries(st.integers(0, SIZE - 1), FLOATS, min_size=1)
ANY_ALPHA = st.sampled_from([0.0, 0.1, 0.7, 0.7, 1.3, -0.9])
ANY_STACK = st.lists(st.tuples(ANY_ENTRIES, ANY_ALPHA, st.sampled_from(DTYPES)), max_size=4)


@given(ANY_STACK.filter(bool), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_adapters_never_changes_a_bit(stack, random):
    pairs = [(adapter_of(entries, dtype), alpha) for entries, alpha, dtype in stack]
    other = random.sample(pairs, len(pairs))
    for mode in MODES:
        first, second = (shira.mix(order, mode).weights["w"] for order in (pairs, other))
        assert torch.equal(first.positions, second.positions)
        assert bits(first.values) == bits(second.values)


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("mode", MODES)
def test_every_order_gives_the_same_bits(mode, overlap):
    stack = [(OVERLAPS[overlap](i, torch.float16), ALPHAS[i]) for i in range(4)]
    wanted = shira.mix(stack, mode)
    for order in itertools.permutations(stack):
        found = shira.mix(list(order), mode)
        assert all(bits(found.weights[n].values) == bits(wanted.weights[n].values) for n in SHAPES)


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("mode", MODES)
def test_alpha_0_leaves_an_adapter_out(mode, overlap):
    stack = [(OVERLAPS[overlap](i, torch.float16), ALPHAS[i]) for i in range(2)]
    third = (OVERLAPS[overlap](2, torch.float16), 0.0)
    without, found = shira.mix(stack, mode), shira.mix([*stack, third], mode)
    for name in without.weights:
        assert torch.equal(found.weights[name].dense(), without.weights[name].dense())


@pytest.mark.parametrize("factor", [2.0, -1.0, 0.25])
@pytest.mark.parametrize("mode", MODES)
def test_scaling_all_alphas_scales_the_result(mode, factor):
    made = [partial_overlap(i, torch.float32) for i in range(3)]
    alphas = [0.8, -0.5, 0.3]
    one = shira.mix(list(zip(made, alphas, strict=True)), mode)
    other = shira.mix([(a, alpha * factor) for a, alpha in zip(made, alphas, strict=True)], mode)
    for name in one.weights:
        wanted, found = one.weights[name].values * factor, other.weights[name].values
        assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-7)


# ---- on a model ----
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_applied_it_is_base_plus_dense_result_rounded_once(mode, dtype):
    stack = [(partial_overlap(i, torch.float16), ALPHAS[i]) for i in range(3)]
    generator = torch.Generator().manual_seed(0)
    base = {n: torch.randn(s, generator=generator).to(dtype) for n, s in SHAPES.items()}
    model = {name: weight.clone() for name, weight in base.items()}
    with shira.apply(model, [(shira.mix(stack, mode, dtype=torch.float32), 1.0)]):
        for name, weight in model.items():
            wanted = base[name].double() + dense(mode, stack, name)
            close = torch.finfo(dtype).eps * (0.5 if dtype != torch.float32 else 2)
            assert torch.allclose(weight.double(), wanted, rtol=close, atol=1e-6)
            assert not torch.equal(weight, base[name])
    assert all(bits(model[name]) == bits(base[name]) for name in base)


# ---- mixing again and again ----
def test_a_mixer_gives_what_mix_gives_without_the_files(tmp_path):
    saved = [partial_overlap(i, torch.float16).save(tmp_path / f"{i}.shira") for i in range(3)]
    made = [shira.load(path) for path in saved]
    choices = list(itertools.product(MODES, ([1.0, 1.0, 1.0], ALPHAS[:3], [0.0, 0.7, -2.0])))
    wanted = [shira.mix(list(zip(made, alphas, strict=True)), mode) for mode, alphas in choices]
    mixer = Mixer(made)
    for path in saved:
        path.unlink()
    for (mode, alphas), other in zip(choices, wanted, strict=True):
        found = mixer.mix(alphas, mode)
        assert found.header == other.header
        for name in other.weights:
            assert torch.equal(found.weights[name].positions, other.weights[name].positions)
            assert bits(found.weights[name].values) == bits(other.weights[name].values)


def test_a_stack_goes_from_one_mix_to_the_next():
    made = [partial_overlap(i, torch.float16) for i in range(3)]
    mixer, rest = Mixer(made), random_adapter(SHAPES, 9, density=0.2)
    base = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    model = {name: weight.clone() for name, weight in base.items()}
    stack = shira.apply(model, [])
    for mode, alpha in itertools.product(MODES, (0.2, 0.9)):
        pairs = [(mixer.mix([alpha, 1.0, -0.4], mode), 1.0), (rest, 0.5)]
        stack.set(pairs)
        fresh = {name: weight.clone() for name, weight in base.items()}
        shira.apply(fresh, pairs)
        assert all(bits(model[name]) == bits(fresh[name]) for name in base)
    stack.remove()
    assert all(bits(model[name]) == bits(base[name]) for name in base)


@pytest.mark.parametrize(
    ("alphas", "mode", "reason"),
    [
        ([1.0], "sum", "1 alphas for 2 adapters: give one for each"),
        ([1.0, 1.0, 1.0], "ties", "3 alphas for 2 adapters"),
        ([1.0, float("nan")], "ties", "not a finite number"),
        ([1.0, 1.0], "max", "mode 'max' is unknown: choose one of sum, ties, mean"),
    ],
)
def test_a_mixer_refuses_what_makes_no_sense(alphas, mode, reason):
    mixer = Mixer([no_overlap(0, torch.float16), no_overlap(1, torch.float16)])
    with pytest.raises(errors.InvalidValue, match=reason):
        mixer.mix(alphas, mode)


def test_a_mixer_refuses_adapters_that_do_not_fit():
    with pytest.raises(errors.InvalidValue, match="nothing to mix"):
        Mixer([])
    with pytest.raises(errors.ShapeMismatch):
        Mixer([random_adapter({LINEAR: shape}, 0) for shape in ((3, 4), (3, 5))])


# ---- the edges of a dtype ----
@pytest.mark.parametrize("mode", MODES)
def test_numbers_beyond_float32_are_refused(mode):
    one = adapter_of({5: 1.0})
    for alphas in ((1e300, 1.0), (1e300, -1e300), (3e38, 3e38) if mode == "sum" else (1e39, 0)):
        with pytest.raises(errors.InvalidValue, match=r"w leaves the range of torch\.float32"):
            shira.mix([(one, float(alpha)) for alpha in alphas], mode)


def test_a_mean_stays_in_the_range_of_its_parts():
    big = adapter_of({5: 60000.0}, torch.float16)
    for mode in ("ties", "mean"):
        assert shira.mix([(big, 1.0), (big, 1.0)], mode).weights["w"].values.tolist() == [60000.0]


# ---- header and command ----
@pytest.mark.parametrize("mode", MODES)
def test_the_header_and_the_command_know_the_mode(mode, tmp_path, capsys):
    made = [partial_overlap(i, torch.float16) for i in range(2)]
    paths = [adapter.save(tmp_path / f"{i}.shira") for i, adapter in enumerate(made)]
    out = tmp_path / "mixed.shira"
    given = [f"{paths[0]}:0.8", f"{paths[1]}:-0.5"]
    assert main(["mix", *given, "--mode", mode, "-o", str(out)]) == 0
    found, wanted = shira.load(out), shira.mix(list(zip(made, [0.8, -0.5], strict=True)), mode)
    assert found.header.training["mode"] == wanted.header.training["mode"] == mode
    assert [part["alpha"] for part in found.header.training["mixed"]] == [0.8, -0.5]
    for name in wanted.weights:
        assert torch.equal(found.weights[name].positions, wanted.weights[name].positions)
        assert bits(found.weights[name].values) == bits(wanted.weights[name].values)
    capsys.readouterr()
    assert main(["info", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["mode"] == mode


def test_the_command_refuses_another_mode(tmp_path, capsys):
    path = adapter_of({1: 1.0}).save(tmp_path / "a.shira")
    assert main(["mix", str(path), "--mode", "best", "-o", str(tmp_path / "b.shira")]) == 1
    error = capsys.readouterr().err
    assert error == "shira: mode 'best' is unknown: choose one of sum, ties, mean\n"
    assert not (tmp_path / "b.shira").exists()


def test_the_help_explains_every_mode_without_loading_torch():
    code = (
        "import sys; from shira_core.cli import main\n"
        "try: main(['mix', '--help'])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text = " ".join(done.stdout.split())
    for name, mode in MODES.items():
        assert f"{name}: {mode.about}" in text
