"""A trial run, and masks of the entries that it moves furthest, of all weights together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import batch, build, dense_gradients, loss_of, state_of
from torch import Tensor, nn

import shira_core as shira
from shira_core.errors import InvalidValue

explore, pooled = shira.training.explore, shira.masks.pooled
STEP = 0.01
Scores = dict[str, Tensor]


KINDS = pytest.mark.parametrize("kind", ["linear", "conv", "channels_last", "tied"])


@KINDS
def test_a_trial_run_counts_the_steps_of_sign_descent(kind: str) -> None:
    inputs = [batch(kind, number) for number in range(4)]
    module = build(kind)
    module.requires_grad_(False)
    before = state_of(module)
    found = explore(module, inputs, loss_of, step=STEP)
    assert state_of(module) == before
    assert {each.dtype for each in found.values()} == {torch.int8}
    moving, ends = (
        build(kind),
        {name: torch.zeros_like(each) for name, each in found.items()},
    )
    for x in inputs:
        signs = {name: grad.sign() for name, grad in dense_gradients(moving, x).items()}
        for name, weight in moving.named_parameters():
            if name in ends:
                weight.detach().sub_(signs[name], alpha=STEP)
                ends[name] += signs[name].to(torch.int8)
    assert found.keys() == ends.keys()
    assert all(torch.equal(found[name], ends[name].abs()) for name in found)
    assert max(int(each.max()) for each in found.values()) == 4


NARROW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@KINDS
def test_narrow_weights_are_given_back_and_random_numbers_left_alone(kind: str) -> None:
    inputs = [batch(kind, number, torch.bfloat16) for number in range(4)]
    module = build(kind, torch.bfloat16)
    before, drawn = state_of(module), torch.random.get_rng_state()
    found, again = (explore(module, inputs, loss_of, step=STEP) for _ in range(2))
    assert state_of(module) == before
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(found[name], again[name]) for name in found)
    assert max(int(each.max()) for each in found.values()) == 4


@NARROW
@pytest.mark.parametrize("start", [0.0, 3e-6, 0.03, -1.0, 100.0])
def test_steps_smaller_than_the_spacing_of_numbers_arrive_on_average(
    dtype: torch.dtype, start: float
) -> None:
    """A weight that is pulled to one side all the time gets as far as in float32, bar the dice."""
    count, side = 100, 300
    module = nn.Linear(side, side, bias=False, dtype=dtype)
    nn.init.constant_(module.weight, start)
    step = 0.1 * torch.finfo(dtype).eps * max(abs(start), 1e-3)  # a tenth of the spacing, or less
    places = list[Tensor]()

    def loss(module: nn.Module, x: Tensor) -> Tensor:
        places.append(module.weight.detach().double())
        return (module.weight * x).sum()

    found = explore(module, [torch.ones((), dtype=dtype)] * count, loss, step=step)
    assert found["weight"].tolist() == [[count] * side] * side
    ways = places[0] - places[-1]
    error = 4 * float(ways.std()) / side
    assert float(ways.mean()) == pytest.approx((count - 1) * step, rel=0.01, abs=error)


def test_an_error_gives_the_weights_back() -> None:
    module = build("linear")
    before = state_of(module)

    def loss(module: nn.Module, number: int) -> Tensor:
        if number == 2:
            raise KeyboardInterrupt
        return loss_of(module, batch("linear", number))

    with pytest.raises(KeyboardInterrupt):
        explore(module, range(3), loss, step=STEP)
    assert state_of(module) == before


@pytest.mark.parametrize(("count", "message"), [(0, "at least one"), (128, "at most 127")])
def test_batches_that_cannot_be_counted_are_refused(count: int, message: str) -> None:
    module = build("linear")
    before = state_of(module)
    with pytest.raises(InvalidValue, match=message):
        explore(module, [batch("linear", 0)] * count, loss_of, step=STEP)
    assert state_of(module) == before


def test_what_overflowed_moves_nothing() -> None:
    module = nn.Linear(2, 1, bias=False)
    found = explore(module, [torch.tensor([[torch.inf, 1.0]])], _sum_of_finite, step=STEP)
    assert found["weight"].tolist() == [[0, 1]]


def _sum_of_finite(module: nn.Module, x: Tensor) -> Tensor:
    """A loss whose gradient has a NaN at the first input."""
    return (module.weight * x * torch.tensor([0.0, 1.0])).nansum()


def flat(scores: Scores) -> Tensor:
    return torch.cat([score.flatten() for score in scores.values()])


def taken(masks: dict[str, shira.Mask], scores: Scores) -> Tensor:
    """Flags of the chosen entries of all weights."""
    parts = [
        masks[name].dense().flatten() if name in masks else torch.zeros(score.numel())
        for name, score in scores.items()
    ]
    return torch.cat([part.bool() for part in parts])


@st.composite
def tables(draw: Callable[..., int]) -> tuple[Scores, int, int]:
    """Scores of some weights, a count of entries that fits twice, a seed."""
    seed = draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    highest = draw(st.sampled_from([1, 3, 100]))
    scores = {
        f"w{number}": torch.randint(0, highest, (draw(st.integers(1, 9)), 7), generator=generator)
        for number in range(draw(st.integers(1, 4)))
    }
    small = {name: score.to(torch.int8) for name, score in scores.items()}
    return small, draw(st.integers(1, flat(small).numel() // 2)), seed


@given(tables())
def test_pooled_masks_hold_the_highest_scores(table: tuple[Scores, int, int]) -> None:
    scores, count, seed = table
    first, second = (pooled(scores, count, seed=seed, shard=shard) for shard in range(2))
    one, two, values = taken(first, scores), taken(second, scores), flat(scores)
    assert int(one.sum()) == int(two.sum()) == count
    assert not (one & two).any()
    assert values[one].min() >= values[~one].max()
    rest = values[~one & ~two]
    assert not len(rest) or values[one | two].min() >= rest.max()
    assert all(mask.count for mask in first.values())
    again = pooled({name: score.short() for name, score in scores.items()}, count, seed=seed)
    assert torch.equal(taken(again, scores), one)


def test_equal_scores_are_drawn_evenly() -> None:
    scores = {name: torch.ones(100, 100, dtype=torch.int8) for name in "ab"}
    masks = pooled(scores, 2000, seed=1)
    assert all(850 < mask.count < 1150 for mask in masks.values())
    assert not torch.equal(taken(masks, scores), taken(pooled(scores, 2000, seed=2), scores))
    assert taken(masks, scores).nonzero()[:5, 0].tolist() == FIRST_OF_SEED_1


FIRST_OF_SEED_1 = [32, 42, 44, 57, 70]  # on every platform
REFUSED: dict[str, tuple[Scores, int, int, str]] = {
    "too many": ({"w": torch.ones(3, 3, dtype=torch.int8)}, 10, 0, "10 entries.*among 9"),
    "too high a shard": ({"w": torch.ones(3, 3, dtype=torch.int8)}, 5, 1, "shard 1"),
    "none": ({"w": torch.ones(3, 3, dtype=torch.int8)}, 0, 0, "0 entries"),
    "below 0": ({"w": -torch.ones(3, 3, dtype=torch.int8)}, 1, 0, "scores of w"),
    "floats": ({"w": torch.ones(3, 3)}, 1, 0, "scores of w"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_bad_scores_are_refused(case: tuple[Scores, int, int, str]) -> None:
    scores, count, shard, message = case
    with pytest.raises(InvalidValue, match=message):
        pooled(scores, count, shard=shard)


def test_layers_that_matter_get_the_entries() -> None:
    """The second layer's output is thrown away by half of the batches, so its entries stay near."""
    torch.manual_seed(0)
    module = nn.ModuleDict({"loud": nn.Linear(16, 16), "quiet": nn.Linear(16, 16)})

    def loss(module: nn.Module, x: Tensor) -> Tensor:
        noise = torch.randn(16)
        return module["loud"](x).sum() + (module["quiet"](x) * noise).sum()

    counts = explore(module, [torch.ones(1, 16)] * 20, loss, step=STEP)
    masks = pooled(counts, 100)
    with shira.training.finetune(module, masks=masks) as run:
        assert list(run.masks) == ["loud.weight"]
        assert run.entries == 100
