"""The patcher against dense arithmetic, beside the built-in Lora, in any order, bit for bit."""

from __future__ import annotations

import gc
from functools import cache

import pytest
import torch
from adapters import random_adapter
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from webui_model import (
    KINDS,
    TEXT,
    UNET,
    Kind,
    adapters,
    build,
    check_bits,
    check_equal,
    expected,
    held,
    random_lora,
)
from webui_stubs import networks

import shira_core as shira
from a1111_extension.patcher import Patcher
from a1111_extension.stack import Timed
from shira_core.errors import InvalidValue, ShapeMismatch, ShiraError, WeightMissing
from shira_core.plan import Entry


def worn(adapter: shira.Adapter, alpha: float, start: float = 0.0, stop: float = 1.0) -> Timed:
    return Timed(Entry(adapter, shira.Alpha(alpha)), start, stop)


@pytest.fixture(autouse=True)
def no_lora() -> None:
    networks.loaded_networks.clear()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_stack_is_worn_and_given_back(kind: Kind) -> None:
    model = build(kind)
    base, patcher = held(model), Patcher()
    first, second, third = adapters()
    for stack in (
        (worn(first, 0.75),),
        (worn(first, 0.25),),
        (worn(first, 0.25), worn(second, -1.5), worn(third, 0.5)),
        (worn(third, 0.5), worn(first, 0.25), worn(first, 0.25)),
    ):
        patcher.wear(model, stack)
        check_equal(held(model), expected(base, stack))
    patcher.take_off()
    check_bits(held(model), base)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("first", ["lora", "shira"])
@pytest.mark.parametrize("last", ["lora", "shira"])
def test_lora_and_a_stack_go_together_in_any_order(kind: Kind, first: str, last: str) -> None:
    model = build(kind)
    base, patcher, lora = held(model), Patcher(), random_lora(model, 0)
    stack = (worn(adapters()[0], 0.75),)

    def lora_on() -> None:
        networks.loaded_networks.append(lora)
        networks.forward(model)

    on = {"lora": lora_on, "shira": lambda: patcher.wear(model, stack)}
    off = {"lora": networks.loaded_networks.clear, "shira": patcher.take_off}
    others = {"lora": "shira", "shira": "lora"}
    for _ in range(2):
        on[first]()
        on[others[first]]()
        networks.forward(model)
        check_equal(held(model), expected(base, stack, [lora]))
        off[others[last]]()
        networks.forward(model)
        left = ((), [lora]) if last == "lora" else (stack, [])
        check_equal(held(model), expected(base, *left))
        off[last]()
        networks.forward(model)
        check_bits(held(model), base)


def test_lora_that_was_only_loaded_before_gets_the_base_back() -> None:
    """Its copies are made while a stack is worn, and must not keep the stack."""
    model = build(KINDS["fp16"])
    base, patcher = held(model), Patcher()
    patcher.wear(model, (worn(adapters()[0], 0.75),))
    networks.loaded_networks.append(random_lora(model, 1))
    networks.forward(model)
    patcher.take_off()
    networks.loaded_networks.clear()
    networks.forward(model)
    check_bits(held(model), base)


def test_a_bias_that_lora_adds_goes_with_it() -> None:
    model = build(KINDS["fp32"])
    base, patcher = held(model), Patcher()
    layer = UNET + "middle_block.1.to_k"
    lora = networks.Network("adds", 1.0, {(layer, "bias"): torch.ones(8)})
    networks.loaded_networks.append(lora)
    networks.forward(model)
    assert layer + ".bias" in held(model)
    patcher.wear(model, (worn(adapters()[0], 0.75),))
    networks.loaded_networks.clear()
    networks.forward(model)
    patcher.take_off()
    check_bits(held(model), base)


def test_weights_that_are_moved_and_models_that_are_thrown_away() -> None:
    model = build(KINDS["fp16"])
    base, patcher = held(model), Patcher()
    stack = (worn(adapters()[0], 0.75),)
    patcher.wear(model, stack)
    for weight in model.parameters():
        weight.data = weight.data.clone()  # what moving it does to its storage
    patcher.take_off()
    check_bits(held(model), base)
    patcher.wear(model, stack)
    model.to("meta")
    patcher.take_off()
    other = build(KINDS["fp16"], seed=1)
    patcher.wear(other, stack)
    del other
    gc.collect()
    patcher.take_off()
    assert patcher.stack == ()


def test_a_model_in_use_before_is_given_back_when_another_one_wears_a_stack() -> None:
    first, second = build(KINDS["fp16"]), build(KINDS["fp16"], seed=1)
    bases, patcher = (held(first), held(second)), Patcher()
    stack = (worn(adapters()[0], 0.75),)
    patcher.wear(first, stack)
    patcher.wear(second, stack)
    check_bits(held(first), bases[0])
    check_equal(held(second), expected(bases[1], stack))


@pytest.mark.parametrize("kind", ["fp32", "fp8 cached"])
def test_entries_are_on_for_a_part_of_the_run(kind: str) -> None:
    model = build(KINDS[kind])
    base, patcher, lora = held(model), Patcher(), random_lora(model, 0)
    first, second, _ = adapters()
    stack = (worn(first, 0.75, 0.25, 0.75), worn(second, 0.5))
    patcher.wear(model, stack)
    networks.loaded_networks.append(lora)
    for share in (0.0, 0.2, 0.25, 0.5, 0.75, 0.9, 0.3):
        patcher.at(share)
        networks.forward(model)
        check_equal(held(model), expected(base, stack, [lora], share))
    patcher.wear(model, stack)  # the second pass begins anew
    networks.forward(model)
    check_equal(held(model), expected(base, stack, [lora], 0.0))


def too_large() -> shira.Adapter:
    """Return an adapter whose last weight leaves the range of any dtype."""
    fitting = adapters()[0]
    name = list(fitting.weights)[-1]
    values = fitting.weights[name].values.float() * 0 + 3e38
    weights = shira.MemoryWeights({each: fitting.weights[each] for each in fitting.weights})
    weights[name] = shira.SparseDelta(fitting.weights[name].mask, values)
    return shira.Adapter(fitting.header, weights)


@cache
def unfit() -> list[tuple[shira.Adapter, type[ShiraError]]]:
    proj, unknown = UNET + "input_blocks.1.1.proj_in.weight", UNET + "attic.weight"
    return [
        (too_large(), InvalidValue),
        (random_adapter({proj: (8, 99)}, 0), ShapeMismatch),
        (random_adapter({unknown: (8, 8)}, 0), WeightMissing),
    ]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp8", "fp8 cached"])
def test_what_cannot_be_worn_changes_nothing(kind: str, number: int) -> None:
    model = build(KINDS[kind])
    base, patcher = held(model), Patcher()
    fitting = worn(adapters()[0], 0.75)
    bad, error = unfit()[number]
    patcher.wear(model, (fitting,))
    with pytest.raises(error):
        patcher.wear(model, (fitting, worn(bad, 10.0)))
    check_bits(held(model), base)
    assert patcher.stack == ()


def test_another_alpha_reads_no_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = build(KINDS["fp16"])
    base, patcher = held(model), Patcher()
    path = adapters()[0].save(tmp_path_factory.mktemp("style") / "style.shira")
    adapter = shira.load(path)
    patcher.wear(model, (worn(adapter, 0.75),))
    patcher.take_off()
    path.unlink()
    second = worn(adapters()[1], 0.5)
    patcher.wear(model, (worn(adapter, 0.25), second))
    check_equal(held(model), expected(base, (worn(adapters()[0], 0.25), second)))


def test_the_alpha_of_text_encoders_is_their_own() -> None:
    model = build(KINDS["fp32"])
    base, patcher = held(model), Patcher()
    alpha = shira.Alpha(0.0, {"te": 0.75})
    patcher.wear(model, (Timed(Entry(adapters()[0], alpha)),))
    changed = {name for name, weight in held(model).items() if not weight.equal(base[name])}
    assert changed
    assert all(name.startswith("conditioner.") for name in changed)
    assert TEXT + "attn.in_proj_weight" in changed
    assert "conditioner.embedders.1.model.token_embedding.weight" in changed


# ---- random walks ----
class Walk(RuleBasedStateMachine):
    """Anything in any order; what the model draws with is always base + stack + Lora."""

    kind = KINDS["fp32"]

    def __init__(self) -> None:
        super().__init__()
        networks.loaded_networks.clear()
        self.model, self.other = build(self.kind), build(self.kind, seed=9)
        self.base = held(self.model)
        self.adapters, self.bad = adapters(), unfit()
        self.loras = [random_lora(self.model, seed) for seed in (0, 1)]
        self.patcher = Patcher()
        self.stack: tuple[Timed, ...] = ()
        self.share = 0.0

    @rule(
        picks=st.lists(
            st.tuples(
                st.integers(0, 2),
                st.sampled_from([-0.5, 0.0, 0.25, 1.0]),
                st.sampled_from([(0.0, 1.0), (0.0, 0.5), (0.5, 1.0)]),
            ),
            max_size=3,
        )
    )
    def wear(self, picks: list[tuple[int, float, tuple[float, float]]]) -> None:
        self.stack = tuple(worn(self.adapters[i], alpha, *span) for i, alpha, span in picks)
        self.share = 0.0
        self.patcher.wear(self.model, self.stack)

    @rule(alpha=st.sampled_from([0.25, 0.75, 2.0]))
    def change_alpha(self, alpha: float) -> None:
        self.stack = tuple(worn(e.entry.adapter, alpha, e.start, e.stop) for e in self.stack)
        self.share = 0.0
        self.patcher.wear(self.model, self.stack)

    @rule(number=st.integers(0, 2))
    def fail(self, number: int) -> None:
        with pytest.raises(ShiraError):
            self.patcher.wear(self.model, (*self.stack, worn(self.bad[number][0], 10.0)))
        self.stack = ()

    @rule()
    def take_off(self) -> None:
        self.stack = ()
        self.patcher.take_off()

    @rule(share=st.sampled_from([0.0, 0.4, 0.5, 0.9]))
    def step(self, share: float) -> None:
        if self.stack:
            self.share = share
        self.patcher.at(share)

    @rule(number=st.integers(0, 1))
    def lora(self, number: int) -> None:
        if self.loras[number] not in networks.loaded_networks:
            networks.loaded_networks.append(self.loras[number])

    @rule()
    def no_lora(self) -> None:
        networks.loaded_networks.clear()

    @rule()
    def move(self) -> None:
        for weight in self.model.parameters():
            weight.data = weight.data.clone()

    @rule(seed=st.integers(0, 3))
    def load_checkpoint(self, seed: int) -> None:
        """The WebUI loads a file into the modules; the host class has the patcher leave first."""
        self.patcher.leave(self.model)
        for module, fresh in zip(
            self.model.modules(), build(self.kind, seed).modules(), strict=True
        ):
            networks.forget(module)
            module._parameters.update(fresh._parameters)
            for attribute in ("fp16_weight", "fp16_bias"):
                if getattr(fresh, attribute, None) is not None:
                    setattr(module, attribute, getattr(fresh, attribute))
        self.base, self.stack = held(self.model), ()

    @rule()
    def use_the_other_model(self) -> None:
        networks.forward(self.model)
        self.patcher.take_off()
        self.model, self.other = self.other, self.model
        networks.loaded_networks.clear()
        networks.forward(self.model)
        self.base, self.stack = held(self.model), ()

    @rule()
    def draw(self) -> None:
        networks.forward(self.model)
        wanted = expected(self.base, self.stack, networks.loaded_networks, self.share)
        check_equal(held(self.model), wanted)

    def teardown(self) -> None:
        self.patcher.take_off()
        networks.loaded_networks.clear()
        networks.forward(self.model)
        check_bits(held(self.model), self.base)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_random_walk(kind: Kind) -> None:
    machine = type("Walk", (Walk,), {"kind": kind})
    limits = settings(max_examples=40, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(machine, settings=limits)
