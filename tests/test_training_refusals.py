"""Every refusal of `finetune`: one line that says where and what to do, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nets import Unet, build, loss_of, weights_of
from torch import nn

from shira_core.errors import InvalidValue, ShapeMismatch, WeightMissing
from shira_core.mask import Mask, Struct
from shira_core.training import calibrate, finetune

Q0 = "blocks.0.to_q.weight"


def on_meta() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8, device="meta"))


def quantised() -> nn.Module:
    module = nn.Sequential(nn.Linear(8, 8))
    module[0].weight = nn.Parameter(torch.ones(8, 8, dtype=torch.int8), requires_grad=False)
    return module


def strided() -> nn.Module:
    module = nn.Sequential(nn.Linear(8, 8))
    module[0].weight = nn.Parameter(torch.ones(8, 16)[:, ::2])
    return module


def inference() -> nn.Module:
    with torch.inference_mode():
        return nn.Sequential(nn.Linear(8, 8))


def ready(
    positions: list[int], shape: tuple[int, ...] = (8, 8), struct: Any = None
) -> dict[str, Any]:
    return {"masks": {Q0: Mask(shape, torch.tensor(positions), struct)}}


COLUMN_1 = Struct(torch.empty(0, dtype=torch.int64), torch.tensor([1]), False)
REFUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], type[Exception], str]] = {
    "meta": (on_meta, {}, InvalidValue, r"0\.weight is on the meta device: load"),
    "int8": (quantised, {}, InvalidValue, r"0\.weight is torch\.int8.* cannot be trained"),
    "strided": (strided, {}, InvalidValue, r"0\.weight is a strided view"),
    "inference": (inference, {}, InvalidValue, "made under torch.inference_mode"),
    "no layer": (nn.ReLU, {}, InvalidValue, "no Linear or Conv weight is chosen"),
    "no layer of the predicate": (
        Unet,
        {"layers": lambda name, layer: False},
        InvalidValue,
        "no Linear or Conv weight is chosen: check layers=",
    ),
    "no match": (
        Unet,
        {"layers": ["*.ff", "blocks.0.to_qq"]},
        InvalidValue,
        r"'blocks\.0\.to_qq' names no Linear or Conv layer \(the nearest is 'blocks\.0\.to_q'\)",
    ),
    "nothing to train": (
        Unet,
        {"density_of": lambda name, weight: 0},
        InvalidValue,
        "density_of= leaves no weight",
    ),
    "no masks": (Unet, {"masks": {}}, InvalidValue, "masks= is empty"),
    "mask of no weight": (
        Unet,
        {"masks": {"x.weight": Mask((8, 8), torch.tensor([1]))}},
        WeightMissing,
        r"masks= names 'x\.weight'",
    ),
    "mask of another shape": (
        Unet,
        ready([1], (8, 4)),
        ShapeMismatch,
        r"mask of blocks\.0\.to_q\.weight is for \(8, 4\)",
    ),
    "mask beyond": (Unet, ready([1, 64]), InvalidValue, "not made of positions"),
    "mask before": (Unet, ready([-1, 3]), InvalidValue, "not made of positions"),
    "mask unsorted": (Unet, ready([5, 3]), InvalidValue, "strictly increasing"),
    "mask of floats": (Unet, ready([1.0]), InvalidValue, "int64"),  # type: ignore[list-item]
    "mask beside its lines": (
        Unet,
        ready([1], struct=COLUMN_1),
        InvalidValue,
        "other positions than its rows and columns",
    ),
    "options of ready masks": (
        Unet,
        {**ready([1]), "axis": "rows"},
        InvalidValue,
        "'axis' has no effect",
    ),
    "unknown mask": (Unet, {"mask": "best"}, InvalidValue, "choose one of"),
    "unknown option": (Unet, {"densty": 1}, InvalidValue, "no option 'densty'"),
    "no gradients": (Unet, {"mask": "grad"}, InvalidValue, r"conv_in\.weight 8x3x3x3.*calibrate"),
    "values": (Unet, {"values_dtype": torch.float64}, InvalidValue, "float64 is not float16"),
    "two budgets": (Unet, {"density": 0.1, "rank": 2}, InvalidValue, "density= .* or rank="),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refusals_change_nothing(
    case: tuple[Callable[[], nn.Module], dict[str, Any], type[Exception], str],
) -> None:
    make, options, error, message = case
    module = make()
    flags = [(each, each.requires_grad) for each in module.parameters()]
    with pytest.raises(error, match=message) as raised, finetune(module, **options):
        pass
    assert "\n" not in str(raised.value)
    assert [(each, each.requires_grad) for each in module.parameters()] == flags


def test_calibration_needs_a_batch() -> None:
    with pytest.raises(InvalidValue, match="at least one batch"):
        calibrate(Unet(), [], loss_of)


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), torch.float32), (1e5, torch.float16)])
def test_a_diverged_run_gives_no_adapter(value: float, dtype: torch.dtype) -> None:
    module = build("linear")
    base = weights_of(module)
    with finetune(module, values_dtype=dtype) as run:
        with torch.no_grad():
            run.parameters()[0][-1] = value
        with pytest.raises(InvalidValue, match=r"delta of 4\.weight .* lower the learning rate"):
            run.adapter()
    assert all(torch.equal(now, base[name]) for name, now in weights_of(module).items())


def test_adapter_refuses_unknown_fields_and_names_given_twice() -> None:
    with finetune(build("linear"), names=lambda name: "w") as run:
        with pytest.raises(InvalidValue, match="'w' to two weights"):
            run.adapter()
        with pytest.raises(InvalidValue, match="'titel' is no field"):
            run.adapter(titel="x")


def test_a_state_of_other_masks_is_refused() -> None:
    module = build("linear")
    with finetune(module, "rand", 0.1) as run:
        state = run.state_dict()
    others: list[dict[str, Any]] = [{"seed": 1}, {"layers": ["0"]}, {"dora": True}]
    for more in others:
        with (
            finetune(module, "rand", 0.1, **more) as run,
            pytest.raises(InvalidValue, match="other masks"),
        ):
            run.load_state_dict(state)
    with finetune(module, "rand", 0.1) as run:
        with pytest.raises(InvalidValue, match="has no 'digest'"):
            run.load_state_dict({"values": state["values"]})
        with pytest.raises(ShapeMismatch, match="another length"):
            run.load_state_dict({**state, "values": state["values"][:3]})
        run.load_state_dict(state)
