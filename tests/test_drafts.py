"""Drafts that are kept from one stack to the next."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapters import random_adapter

import shira_core as shira
from shira_core.drafts import Drafts
from shira_core.errors import FileInvalid
from shira_core.plan import as_stack, draft, read_all

SHAPES = {"model.diffusion_model.a.weight": (6, 5), "model.diffusion_model.b.weight": (4, 3)}
DEVICES = {name: torch.device("cpu") for name in SHAPES}


@pytest.fixture
def files(tmp_path: Path) -> list[shira.Adapter]:
    some = dict(list(SHAPES.items())[:1])
    made = [random_adapter(shapes, i) for i, shapes in enumerate((SHAPES, some, SHAPES))]
    return [shira.load(each.save(tmp_path / f"{i}.shira")) for i, each in enumerate(made)]


def fresh(adapters: list[shira.Adapter], name: str) -> torch.Tensor:
    """Return what a draft that is read anew adds with alphas 1, 2, 3..."""
    stack = as_stack([(each, 1.0) for each in adapters])
    return draft(name, read_all(stack, name)).total([1.0 + i for i in range(len(adapters))])


def test_each_stack_gets_the_drafts_that_reading_gives(files: list[shira.Adapter]) -> None:
    kept, (a, b, c) = Drafts(), files
    for stack in ([a], [a, b], [b, a], [c, a, b], [c], [a, a]):
        found = kept.of(stack, DEVICES)
        assert set(found) == set(SHAPES)
        for name, each in found.items():
            assert each.total([1.0 + i for i in range(len(stack))]).equal(fresh(stack, name))


def test_files_that_were_in_the_stack_before_are_not_read(files: list[shira.Adapter]) -> None:
    kept, (a, b, c) = Drafts(), files
    before = kept.of([a, c], DEVICES)
    for each in (a, c):
        assert each.path
        each.path.unlink()
    again = kept.of([a, c], DEVICES)
    assert all(again[name] is before[name] for name in SHAPES)
    assert set(kept.of([c, b, a], DEVICES)) == set(SHAPES)


def test_a_file_that_cannot_be_read_leaves_the_drafts(files: list[shira.Adapter]) -> None:
    kept, (a, b, _) = Drafts(), files
    before = kept.of([a], DEVICES)
    assert b.path
    b.path.unlink()
    with pytest.raises(FileInvalid):
        kept.of([a, b], DEVICES)
    assert a.path
    a.path.unlink()
    assert all(kept.of([a], DEVICES)[name] is before[name] for name in SHAPES)
