"""A CUDA graph can hold our whole step: it asks no tensor for its values and is always the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nets import Checkpointed, channels_last_net, conv_net, linear_net
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import shira_core as shira

ASKING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "choose"}
INPUTS = {linear_net: (6, 12), conv_net: (2, 3, 8, 8), channels_last_net: (2, 3, 8, 8)}
MASKS: dict[str, dict[str, Any]] = {
    "wm": {"mask": "wm"},
    "rand": {"mask": "rand"},
    "both": {"mask": "struct", "axis": "both", "diagonal": True},
    "rows": {"mask": "struct", "axis": "rows", "diagonal": False},
    "columns": {"mask": "struct", "axis": "columns", "diagonal": False},
    "dora": {"mask": "wm", "dora": True},
}
Operations = list[tuple[str, list[tuple[int, ...]]]]


class _Listed(TorchDispatchMode):
    """Lists the operations that reach a device, with the shapes of their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Operations = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [each for each in tree_leaves((args, kwargs or {})) if isinstance(each, Tensor)]
        name = func.name().removeprefix("aten::").split(".")[0]
        if name.startswith("index") and any(each.dtype == torch.bool for each in tensors):
            name = "choose"
        self.operations.append((name, [tuple(each.shape) for each in tensors]))
        return func(*args, **(kwargs or {}))


def _checkpointed() -> nn.Module:
    return Checkpointed(reentrant=False)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("net", [*INPUTS, _checkpointed], ids=lambda net: net.__name__)
def test_a_step_is_fixed(net: Callable[[], nn.Module], mask: str) -> None:
    torch.manual_seed(0)
    module, x = net(), torch.randn(INPUTS.get(net, (6, 12)))
    with shira.training.finetune(module, density=0.2, **MASKS[mask]) as run:
        (vector,) = run.parameters()

        def step() -> tuple[Operations, Tensor]:
            with _Listed() as listed:
                run.update()
                module(x).square().mean().backward()
                with torch.no_grad():
                    vector.sub_(vector.grad, alpha=0.01)
                vector.grad = None
            return listed.operations, vector.detach().clone()

        step()  # as before a capture, where everything has its memory
        (first, before), (second, after) = step(), step()
        assert first == second
        assert not before.equal(after)
        assert not ASKING & {name for name, _ in first}
        assert len(first) > 10


def test_a_question_is_seen() -> None:
    """The list that the test above trusts does show what would stop a capture."""
    with _Listed() as listed:
        values = torch.arange(4.0)
        assert values.sum().item() == 6
        assert values[values > 1].tolist() == [2, 3]
        values.unique(), values.nonzero()
    assert {"_local_scalar_dense", "choose", "_unique2", "nonzero"} <= {
        name for name, _ in listed.operations
    }
