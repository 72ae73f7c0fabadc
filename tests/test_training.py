"""Sparse fine-tuning of plain modules: against dense arithmetic, autograd and ordinary training."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from adapters import bits
from nets import (
    NETS,
    batch,
    build,
    dense_gradients,
    gathered,
    loss_by_definition,
    loss_of,
    state_of,
    weights_of,
)
from torch import Tensor, nn

import shira_core as shira

finetune = shira.training.finetune
WEIGHTS = [torch.float32, torch.bfloat16, torch.float16]
MASKS = ["wm", "rand", "struct"]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.05),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=0.05, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.05, fused=True),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=3),
}


def train(module: nn.Module, run: shira.training.Run, kind: str, steps: int = 3) -> None:
    dtype = next(module.parameters()).dtype
    optimizer = torch.optim.AdamW(run.parameters(), lr=0.05)
    for number in range(steps):
        loss_of(module, batch(kind, number, dtype)).backward()
        optimizer.step()
        optimizer.zero_grad()


def optimizer_of(name: str, parameters: list[Tensor]) -> torch.optim.Optimizer:
    try:
        return OPTIMIZERS[name](parameters)
    except RuntimeError as error:
        pytest.skip(str(error))


def closure(
    optimizer: torch.optim.Optimizer, loss_now: Callable[[], Tensor]
) -> Callable[[], Tensor]:
    def step() -> Tensor:
        optimizer.zero_grad()
        loss = loss_now()
        loss.backward()
        return loss

    return step


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("values", WEIGHTS, ids=str)
@pytest.mark.parametrize("dtype", WEIGHTS, ids=str)
@pytest.mark.parametrize("kind", ["linear", "channels_last", "tied"])
def test_the_adapter_gives_the_trained_weights_bit_for_bit(
    kind: str, dtype: torch.dtype, values: torch.dtype, mask: str
) -> None:
    """Two ways: W + delta in dense arithmetic, and `apply` on the module that was given back."""
    module = build(kind, dtype)
    base = weights_of(module)
    with finetune(module, mask, density=0.1, values_dtype=values) as run:
        train(module, run, kind)
        run.update()
        trained = weights_of(module)
        adapter = run.adapter()
    changed = 0
    for name, weight in base.items():
        if name in adapter.weights:
            delta = adapter.weights[name]
            assert delta.values.dtype == values
            weight = (weight.float() + delta.dense()).to(dtype)
            changed += int((weight != base[name]).sum())
        assert torch.equal(trained[name], weight)
    assert 0 < changed <= run.entries == adapter.entries
    with shira.apply(module, [(adapter, 1.0)]):
        assert all(torch.equal(trained[name], now) for name, now in weights_of(module).items())


def check_trained(module: nn.Module, inputs: Tensor, mask: str, density: float) -> None:
    """Train, and compare the weights with W + delta in dense arithmetic, then with the base."""
    base = weights_of(module)
    with finetune(module, mask, density=density) as run:
        optimizer = torch.optim.AdamW(run.parameters(), lr=0.05)
        for _ in range(2):
            module(inputs).float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        run.update()
        trained, adapter = weights_of(module), run.adapter()
    for name in adapter.weights:
        wide = base[name].double() if base[name].dtype == torch.float64 else base[name].float()
        delta = adapter.weights[name].dense().to(wide.dtype)
        assert torch.equal(trained[name], (wide + delta).to(base[name].dtype))
        assert not torch.equal(trained[name], base[name])
    assert all(torch.equal(now, base[name]) for name, now in weights_of(module).items())


class Widening(nn.Module):
    """Layers of several dtypes, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        dtypes = (torch.float32, torch.bfloat16, torch.bfloat16, torch.float64, torch.float32)
        self.layers = nn.ModuleList(nn.Linear(12, 12).to(dtype) for dtype in dtypes)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x.to(layer.weight.dtype)))
        return x


@pytest.mark.parametrize("mask", MASKS)
def test_weights_of_several_dtypes_are_written_each_in_its_own(mask: str) -> None:
    check_trained(Widening(), batch("linear", 0), mask, 0.2)


def test_more_entries_than_are_written_at_a_time() -> None:
    large, small = nn.Linear(1500, 3000), nn.Linear(3000, 5)
    check_trained(nn.Sequential(large, small), torch.ones(2, 1500), "wm", 0.99)


def test_another_memory_format_inside_a_run() -> None:
    module, twin = build("conv"), build("conv")
    with finetune(module, density=0.2) as run, finetune(twin, density=0.2) as other:
        module.to(memory_format=torch.channels_last)
        for each, own in ((module, run), (twin, other)):
            train(each, own, "conv")
            own.update()
        torch.testing.assert_close(weights_of(module), weights_of(twin), rtol=1e-3, atol=1e-4)
    base = weights_of(build("conv"))
    assert all(torch.equal(now, base[name]) for name, now in weights_of(module).items())


@pytest.mark.parametrize("raising", [False, True])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", NETS)
def test_everything_is_given_back(kind: str, mask: str, raising: bool) -> None:
    module = build(kind)
    parameters = list(module.parameters())
    parameters[0].grad = torch.ones_like(parameters[0])
    parameters[-1].requires_grad_(False)
    before = state_of(module)

    def inside() -> None:
        with finetune(module, mask, density=0.1) as run:
            train(module, run, kind, steps=1)
            loss_of(module, batch(kind, 1)).backward()
            assert state_of(module) != before
            if raising:
                raise KeyError("of the loop")

    if raising:
        with pytest.raises(KeyError):
            inside()
    else:
        inside()
    assert state_of(module) == before


def test_keep_leaves_the_trained_weights() -> None:
    module = build("linear")
    base = weights_of(module)
    with finetune(module, density=0.1, keep=True) as run:
        train(module, run, "linear")
        adapter = run.adapter()
    for name, weight in weights_of(module).items():
        delta = adapter.weights[name].dense() if name in adapter.weights else 0
        assert torch.equal(weight, base[name] + delta)
    assert module[0].weight.requires_grad
    assert module[0].weight.grad is None


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", NETS)
def test_the_gradient_is_the_dense_one_gathered_also_when_accumulated(kind: str, mask: str) -> None:
    inputs = [batch(kind, number) for number in range(2)]
    dense = dense_gradients(build(kind), *inputs)
    module = build(kind)
    with finetune(module, mask, density=0.1) as run:
        for x in inputs:
            loss_of(module, x).backward()
        assert all(parameter.grad is None for parameter in module.parameters())
        gradient = run.parameters()[0].grad
    torch.testing.assert_close(gradient, gathered(dense, run.masks))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_training_equals_autograd_through_the_definition(kind: str, name: str) -> None:
    """Another way: the same optimizer on D in W + D, with autograd through the addition."""
    module, twin = build(kind), build(kind)
    with finetune(module, density=0.1, values_dtype=torch.float32) as run:
        values = nn.Parameter(torch.zeros(run.entries))
        ours, theirs = optimizer_of(name, run.parameters()), optimizer_of(name, [values])
        for number in range(3):
            x = batch(kind, number)
            loss = ours.step(closure(ours, partial(loss_of, module, x)))
            other = theirs.step(
                closure(theirs, partial(loss_by_definition, twin, run.masks, values, x))
            )
            assert loss.item() == pytest.approx(other.item(), rel=1e-4)
        torch.testing.assert_close(run.parameters()[0], values, rtol=1e-3, atol=1e-4)
        assert values.abs().max() > 1e-2


def test_clipping_and_schedulers_see_one_vector() -> None:
    module = build("linear")
    with finetune(module, density=0.2) as run:
        (vector,) = run.parameters()
        (100 * loss_of(module, batch("linear", 0))).backward()
        dense = gathered(dense_gradients(build("linear"), batch("linear", 0)), run.masks)
        norm = torch.nn.utils.clip_grad_norm_(run.parameters(), 1.0)
        assert float(norm) == pytest.approx(100 * float(dense.norm()), rel=1e-5)
        assert float(vector.grad.norm()) == pytest.approx(1, rel=1e-4)


def test_whoever_looks_at_the_weights_sees_the_vector_as_it_is() -> None:
    module = build("linear")
    x = batch("linear", 0)
    with finetune(module, density=0.5, values_dtype=torch.float32) as run:
        (vector,) = run.parameters()

        def expected(value: float) -> nn.Module:
            twin = build("linear")
            for name, mask in run.masks.items():
                twin.get_parameter(name).data += value * mask.dense()
            return twin

        def set_vector(value: float) -> None:
            with torch.no_grad():
                vector.fill_(value)

        set_vector(0.1)
        assert torch.equal(module(x), expected(0.1)(x))
        set_vector(0.2)
        with torch.no_grad():
            assert torch.equal(module[0](x), expected(0.2)[0](x))
        set_vector(0.3)
        with torch.inference_mode():
            assert torch.equal(module(x), expected(0.3)(x))
        set_vector(0.4)
        wanted = expected(0.4).state_dict()
        assert all(torch.equal(value, wanted[name]) for name, value in module.state_dict().items())
        loss_of(module, x).backward()
        vector.data.fill_(0.5)  # as an optimizer on raw memory does, unseen by autograd
        assert torch.equal(module(x), expected(0.5)(x))
        vector.data.fill_(0.6)
        run.update()
        assert torch.equal(module[0].weight, expected(0.6)[0].weight)


def test_an_old_graph_raises_when_its_weights_have_moved() -> None:
    module = build("linear")
    with finetune(module, density=0.5) as run:
        loss = loss_of(module, batch("linear", 0))
        with torch.no_grad():
            run.parameters()[0].add_(0.1)
        module(batch("linear", 1))
        with pytest.raises(RuntimeError, match="inplace"):
            loss.backward()


def steps(module: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    for number in numbers:
        optimizer.step(closure(optimizer, partial(loss_of, module, batch("linear", number))))


def stored(state: object) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def same(a: shira.Adapter, b: shira.Adapter) -> bool:
    return list(a.weights) == list(b.weights) and all(
        bits(a.weights[name].values) == bits(b.weights[name].values) for name in a.weights
    )


@pytest.mark.parametrize("mask", [*MASKS, "dora"])
def test_a_resumed_run_goes_on_bit_for_bit(mask: str) -> None:
    options = {"mask": "wm", "dora": True} if mask == "dora" else {"mask": mask}
    module = build("linear")
    with finetune(module, density=0.1, **options) as run:
        optimizer = torch.optim.AdamW(run.parameters(), lr=0.05)
        steps(module, optimizer, range(3))
        file, then = stored([run.state_dict(), optimizer.state_dict()]), run.adapter()
        steps(module, optimizer, range(3, 6))
        wanted = run.adapter()
    saved, saved_optimizer = torch.load(file, weights_only=True)
    with finetune(module, density=0.1, **options) as run:
        optimizer = torch.optim.AdamW(run.parameters(), lr=0.05)
        run.load_state_dict(saved)
        optimizer.load_state_dict(saved_optimizer)
        assert same(run.adapter(), then)
        steps(module, optimizer, range(3, 6))
        assert same(run.adapter(), wanted)
    assert not same(wanted, then)


def test_the_loop_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = Path(__file__).parent.parent / "docs" / "quickstart" / "diffusers.md"
    text = guide.read_text(encoding="utf-8")
    (snippet,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        if "training.finetune" in block
    ]
    monkeypatch.chdir(tmp_path)
    module = build("linear")
    base = weights_of(module)
    batches = [(batch("linear", number), torch.ones(4, 5)) for number in range(3)]
    given = {"shira": shira, "torch": torch, "model": module, "batches": batches}
    exec(compile(snippet, guide.name, "exec"), given)
    adapter = shira.load(tmp_path / "style.shira")
    assert (adapter.header.base, adapter.header.triggers) == ("my-model", ("my style",))
    assert any(adapter.weights[name].values.any() for name in adapter.weights)
    assert all(torch.equal(now, base[name]) for name, now in weights_of(module).items())
