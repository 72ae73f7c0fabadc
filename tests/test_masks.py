"""Masks against dense arithmetic: which entries, how many, the same ones again."""

import math

import numpy as np
import pytest
import torch
from mask_cases import BUDGETS, SHAPES, budget_of, check

from shira_core import masks
from shira_core.errors import InvalidValue, ShapeMismatch
from shira_core.mask import Mask

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def drawn(shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


RAND_OF_SEED_7 = [153, 211, 272, 359, 387, 466, 468, 473, 483, 527, 538, 586]
SCORES = {
    "wm": lambda weight, gradient: weight.double().abs(),
    "grad": lambda weight, gradient: gradient.double().abs(),
    "snip": lambda weight, gradient: (weight.double() * gradient.double()).abs(),
}


def ranked(scores):
    """All positions from the highest score down, equal scores by position."""
    flat = scores.flatten().numpy()
    return torch.from_numpy(np.lexsort((np.arange(flat.size), -flat)))


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SCORES)
def test_ranked_masks_take_the_highest_scores(name, shape, budget, dtype):
    weight, gradient = drawn(shape, 1, dtype), drawn(shape, 2)
    count = budget_of(shape, **budget)
    mask = masks.build(name, weight, gradient=gradient, **budget)
    check(mask, shape)
    wanted = ranked(SCORES[name](weight, gradient))[:count].sort().values
    assert torch.equal(mask.positions, wanted)


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_rand_draws_exactly_the_budget_and_repeats_itself(shape, budget):
    def draw(**key):
        return masks.build("rand", drawn(shape, 1), **budget, **key)

    mask = draw(seed=3, layer="mid.to_q")
    check(mask, shape)
    assert mask.count == budget_of(shape, **budget)
    assert torch.equal(mask.positions, draw(seed=3, layer="mid.to_q").positions)
    if mask.count < math.prod(shape) // 2:
        for other in ({"seed": 4, "layer": "mid.to_q"}, {"seed": 3, "layer": "mid.to_k"}):
            assert not torch.equal(mask.positions, draw(**other).positions)


def test_rand_never_changes_between_versions_and_machines():
    mask = masks.build("rand", torch.empty(20, 30), density=0.02, seed=7, layer="mid.to_q")
    assert mask.positions.tolist() == RAND_OF_SEED_7


def test_rand_is_uniform():
    """Row and column sums of many masks, within five standard deviations of a binomial."""
    total = torch.zeros(20, 50)
    for seed in range(200):
        total += masks.build("rand", total, density=0.1, seed=seed).dense()
    for sums, draws in ((total, 200), (total.sum(0), 4000), (total.sum(1), 10000)):
        deviation = (sums - 0.1 * draws).abs() / math.sqrt(draws * 0.1 * 0.9)
        assert deviation.max() < 5


def test_rand_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    masks.build("rand", torch.empty(20, 30), density=0.1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["rand", *SCORES])
@pytest.mark.parametrize(("density", "shards"), [(0.1, 10), (0.25, 4), (0.3, 3), (1.0, 1)])
def test_shards_are_disjoint_and_exhaustive(name, density, shards):
    weight, gradient = drawn((20, 30), 1), drawn((20, 30), 2)

    def shard(number):
        return masks.build(name, weight, density=density, gradient=gradient, shard=number)

    parts = [shard(number).positions for number in range(shards)]
    joined = torch.cat(parts)
    assert len(joined.unique()) == len(joined) == shards * int(density * 600)
    if name in SCORES:
        order = ranked(SCORES[name](weight, gradient))
        for number, part in enumerate(parts):
            wanted = order[number * len(part) : (number + 1) * len(part)]
            assert torch.equal(part, wanted.sort().values)
    with pytest.raises(InvalidValue, match=f"there are {shards}"):
        shard(shards)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("shard", [0, 1])
def test_equal_scores_rank_by_position(name, shard):
    ones = torch.ones(6, 5)
    mask = masks.build(name, ones, density=0.2, gradient=-ones, shard=shard)
    assert mask.positions.tolist() == list(range(6 * shard, 6 * shard + 6))


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("name", "where"), [("wm", 0), ("grad", 1), ("snip", 0), ("snip", 1)])
def test_values_that_are_no_numbers_are_refused(name, where, broken):
    tensors = [torch.ones(4, 4), torch.ones(4, 4)]
    tensors[where][2, 1] = broken
    with pytest.raises(InvalidValue, match=r"mid\.to_q 4x4 has NaN or infinite"):
        masks.build(name, tensors[0], gradient=tensors[1], density=0.2, layer="mid.to_q")


@pytest.mark.parametrize("name", ["rand", "struct"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_masks_that_do_not_look_at_the_weight_need_none(name, shape):
    real, meta = torch.empty(shape), torch.empty(shape, device="meta")
    wanted = masks.build(name, real, density=0.1, layer="a")
    mask = masks.build(name, meta, density=0.1, layer="a")
    assert mask.positions.device.type == "cpu"
    assert torch.equal(mask.positions, wanted.positions)


@pytest.mark.parametrize("name", masks.names())
def test_a_weight_in_another_memory_order_has_the_same_mask(name):
    weight, gradient = drawn((16, 12, 3, 3), 1), drawn((16, 12, 3, 3), 2)
    plain = masks.build(name, weight, density=0.1, gradient=gradient)
    last = weight.to(memory_format=torch.channels_last)
    other = masks.build(name, last, density=0.1, gradient=gradient)
    assert torch.equal(plain.positions, other.positions)


@pytest.mark.parametrize("name", masks.names())
def test_a_small_weight_has_at_least_one_entry(name):
    mask = masks.build(name, torch.ones(3, 2), density=1e-6, gradient=torch.ones(3, 2))
    assert mask.count == (3 if name == "struct" else 1)


def first(request):
    return Mask(request.shape, torch.arange(*request.slice()))


def test_a_new_mask_is_a_function_and_a_line(monkeypatch):
    monkeypatch.setitem(masks.REGISTRY, "first", first)
    assert "first" in masks.names()
    mask = masks.build("first", torch.empty(5, 8), density=0.1, shard=2)
    assert mask.positions.tolist() == [8, 9, 10, 11]


WEIGHT = torch.ones(6, 5)
REFUSED = {
    "unknown mask": ("best", WEIGHT, {"density": 0.1}, "choose one of struct, rand, wm"),
    "unknown option": ("wm", WEIGHT, {"density": 0.1, "axis": "rows"}, "no option 'axis'"),
    "no budget": ("wm", WEIGHT, {}, "either density= .* or rank="),
    "two budgets": ("wm", WEIGHT, {"density": 0.1, "rank": 1}, "either density= .* or rank="),
    "no density": ("wm", WEIGHT, {"density": 0.0}, r"not a share in \(0, 1\]"),
    "per cent": ("wm", WEIGHT, {"density": 2}, "2 % is 0.02"),
    "density NaN": ("wm", WEIGHT, {"density": math.nan}, "not a share"),
    "no rank": ("wm", WEIGHT, {"rank": 0}, "whole number from 1 up"),
    "rank 1.5": ("wm", WEIGHT, {"rank": 1.5}, "whole number from 1 up"),
    "negative shard": ("rand", WEIGHT, {"density": 0.1, "shard": -1}, "whole number from 0 up"),
    "empty weight": ("wm", torch.ones(0, 5), {"density": 0.1}, "has no entries"),
    "no gradient": ("grad", WEIGHT, {"density": 0.1}, "needs the gradient of weight 6x5"),
    "meta": ("wm", WEIGHT.to("meta"), {"density": 0.1}, "meta device"),
    "axis": ("struct", WEIGHT, {"density": 0.1, "axis": "x"}, "columns, rows, both"),
    "vector": ("struct", torch.ones(8), {"density": 0.5}, "no rows and columns"),
    "shards of both": (
        "struct",
        WEIGHT,
        {"density": 0.1, "axis": "both", "shard": 1},
        "rows cross columns",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refusals(case):
    name, weight, options, message = case
    with pytest.raises(InvalidValue, match=message):
        masks.build(name, weight, **options)


def test_a_gradient_of_another_shape_is_refused():
    with pytest.raises(ShapeMismatch, match="gradient of weight 6x5 is 5x6"):
        masks.build("snip", WEIGHT, density=0.1, gradient=torch.ones(5, 6))


def test_an_unstructured_mask_takes_a_vector():
    mask = masks.build("wm", torch.tensor([1.0, -3.0, 2.0, 0.0]), density=0.5)
    assert mask.positions.tolist() == [1, 2]
