"""Single entries of dense tensors in any dtype and memory order, against dense indexing."""

import pytest
import torch

from shira_core import entries
from shira_core.errors import InvalidValue

DTYPES = [
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]
LAYOUTS = {
    "contiguous": lambda: torch.arange(120.0).view(5, 4, 3, 2),
    "channels_last": lambda: (
        torch.arange(120.0).view(5, 4, 3, 2).to(memory_format=torch.channels_last)
    ),
    "transposed": lambda: torch.arange(120.0).view(12, 10).T,
    "permuted": lambda: torch.arange(120.0).view(4, 5, 6).permute(2, 0, 1),
    "part of a block": lambda: torch.arange(240.0)[100:220].view(12, 10),
    "one row": lambda: torch.arange(120.0).view(1, 120),
}
POSITIONS = torch.tensor([0, 1, 7, 60, 61, 119])


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_read_and_write(layout, dtype):
    def cast(tensor):
        return torch.empty_like(tensor, dtype=dtype).copy_(tensor)

    tensor = cast(layout())
    dense = tensor.float()
    assert torch.equal(entries.read(tensor, POSITIONS).float(), dense.reshape(-1)[POSITIONS])
    strides = tensor.stride()
    values = cast(-torch.arange(1.0, 7.0))
    entries.write(tensor, POSITIONS, values)
    wanted = dense.reshape(-1)
    wanted[POSITIONS] = values.float()
    assert torch.equal(tensor.float().reshape(-1), wanted)
    assert tensor.stride() == strides


def test_an_inference_tensor_is_written_from_outside():
    with torch.inference_mode():
        tensor = torch.zeros(4, 5)
    entries.write(tensor, torch.tensor([3]), torch.ones(1))
    assert tensor.flatten().tolist() == [0, 0, 0, 1, *[0] * 16]


def test_a_counted_change_is_seen_by_autograd():
    weight = torch.ones(3, requires_grad=True)
    for counted in (False, True):
        loss = (weight * weight).sum()
        entries.write(weight, torch.tensor([1]), torch.ones(1), counted=counted)
        if counted:
            with pytest.raises(RuntimeError, match="inplace"):
                loss.backward()
        else:
            loss.backward()


VIEWS = {
    "every second column": torch.arange(120.0).view(10, 12)[:, ::2],
    "repeated row": torch.ones(4).expand(3, 4),
    "repeated and strided": torch.arange(6.0)[::5].expand(3, 2),
    "overlapping": torch.arange(8.0).as_strided((2, 2, 2), (1, 1, 5)),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_views_with_gaps_or_overlaps_can_be_read_but_not_written(view):
    assert not entries.is_dense(view)
    positions = torch.arange(0, view.numel(), 3)
    assert torch.equal(entries.read(view, positions), view.reshape(-1)[positions])
    with pytest.raises(InvalidValue, match="mid is a strided view"):
        entries.check_layout("mid", view)


def test_check_layout_refuses_what_has_no_values_to_edit():
    with pytest.raises(InvalidValue, match="meta device"):
        entries.check_layout("mid", torch.empty(3, device="meta"))
    with pytest.raises(InvalidValue, match="quantised"):
        entries.check_layout("mid", torch.ones(3, dtype=torch.int8))
