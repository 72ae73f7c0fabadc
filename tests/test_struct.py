"""Struct masks against masks that are written into dense tensors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_cases import BUDGETS, SHAPES, budget_of, check

from shira_core import masks
from shira_core.errors import InvalidValue
from shira_core.mask import Mask, Struct
from shira_core.struct import count_of, described, positions_of


def naive(shape, struct):
    """The mask by writing it into a dense tensor."""
    cells = torch.zeros(shape, dtype=torch.bool)
    cells[struct.rows] = True
    cells[:, struct.columns] = True
    if struct.diagonal:
        for number in range(min(shape[:2])):
            cells[number, number] = True
    return cells


@st.composite
def structs(draw):
    outputs, inputs = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    taps = draw(st.sampled_from([(), (1,), (3,), (1, 1), (2, 3), (3, 3)]))
    rows, columns = (draw(st.sets(st.integers(0, size - 1))) for size in (outputs, inputs))
    lines = (torch.tensor(sorted(each), dtype=torch.int64) for each in (rows, columns))
    return (outputs, inputs, *taps), Struct(*lines, draw(st.booleans()))


@settings(deadline=None)
@given(structs(), st.data())
def test_a_mask_is_described_exactly_when_whole_lines_give_it(case, data):
    shape, struct = case
    positions = positions_of(shape, struct)
    found = described(Mask(shape, positions)).struct
    assert found is not None
    assert torch.equal(positions_of(shape, found), positions)
    some = data.draw(st.sets(st.integers(0, math.prod(shape) - 1)))
    mask = described(Mask(shape, torch.tensor(sorted(some), dtype=torch.int64)))
    if mask.struct is not None:
        assert positions_of(shape, mask.struct).tolist() == sorted(some)


@settings(deadline=None)
@given(structs())
def test_positions_and_count_of_a_struct_equal_the_naive_ones(case):
    shape, struct = case
    wanted = naive(shape, struct).flatten().nonzero().flatten()
    positions = positions_of(shape, struct)
    assert positions.dtype == torch.int64
    assert torch.equal(positions, wanted)
    assert count_of(shape, struct) == len(wanted)


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("axis", ["columns", "rows", "both"])
@pytest.mark.parametrize("diagonal", [True, False])
def test_struct_takes_lines_and_diagonal_near_the_budget(shape, budget, axis, diagonal):
    weight = torch.empty(shape)
    mask = masks.build("struct", weight, axis=axis, diagonal=diagonal, **budget)
    check(mask, shape)
    assert torch.equal(mask.dense(), naive(shape, mask.struct))
    outputs, inputs, taps = shape[0], shape[1], math.prod(shape[2:])
    if axis == "rows":
        assert not len(mask.struct.columns)
    if axis == "columns":
        assert not len(mask.struct.rows)
    wanted = budget_of(shape, **budget)
    across = min(outputs, inputs) * taps
    assert mask.struct.diagonal == (diagonal and across <= wanted)
    line = {"rows": inputs, "columns": outputs, "both": max(inputs, outputs)}[axis] * taps
    least = across if mask.struct.diagonal else line
    assert mask.count <= max(least, wanted + line / 2)
    assert mask.count > wanted - line
    again = masks.build("struct", weight + 1, axis=axis, diagonal=diagonal, seed=9, **budget)
    assert torch.equal(again.positions, mask.positions)


@pytest.mark.parametrize(
    ("shape", "options", "rows", "columns", "diagonal", "count"),
    [
        ((10, 10), {"density": 0.2}, [], [0], True, 10 + 9),
        ((10, 10), {"density": 0.4}, [], [0, 2, 5], True, 10 + 3 * 9),
        ((10, 10), {"density": 0.4, "axis": "rows"}, [0, 2, 5], [], True, 10 + 3 * 9),
        ((10, 10), {"density": 0.4, "diagonal": False}, [], [0, 2, 5, 7], False, 4 * 10),
        ((10, 20), {"rank": 2, "axis": "both", "diagonal": False}, [0, 5], [0, 6, 13], False, 64),
        ((10, 10, 3, 3), {"density": 0.2}, [], [0], True, 9 * 19),
        ((100, 10), {"density": 0.02}, [], [], True, 10),
        ((10, 10), {"density": 0.02}, [], [0], False, 10),
        ((5, 9), {"density": 0.02, "axis": "rows"}, [0], [], False, 9),
    ],
    ids=str,
)
def test_struct_by_hand(shape, options, rows, columns, diagonal, count):
    mask = masks.build("struct", torch.empty(shape), **options)
    struct = mask.struct
    assert (struct.rows.tolist(), struct.columns.tolist()) == (rows, columns)
    assert (struct.diagonal, mask.count) == (diagonal, count)


@pytest.mark.parametrize("axis", ["columns", "rows"])
@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_shards_of_struct_are_disjoint(axis, diagonal, shape):
    def shard(number, diagonal=diagonal):
        options = {"axis": axis, "diagonal": diagonal, "shard": number}
        return masks.build("struct", torch.empty(shape), density=0.3, **options)

    lines = getattr(shard(0, diagonal=False).struct, axis)
    available = shape[axis == "columns"] // len(lines)
    parts = [shard(number) for number in range(available)]
    assert available >= 2
    joined = torch.cat([part.positions for part in parts])
    assert len(joined.unique()) == len(joined)
    for part in parts:
        check(part, shape)
        assert part.struct is None or torch.equal(part.dense(), naive(shape, part.struct))
    with pytest.raises(InvalidValue, match=f"there are {available}"):
        shard(available)
