"""Forge and reForge in stubs: what their loaders make of the patches, against dense arithmetic."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from adapters import bits
from webui_fork_stubs import lora
from webui_forks import SHAPES, TEXT, UNET, Setting, forks_setting, worn  # noqa: F401 - a fixture
from webui_model import exact
from webui_stubs import shared

import shira_core as shira
from a1111_extension.hosts import forge
from a1111_extension.stack import Timed
from shira_core.errors import ShapeMismatch, WeightMissing
from shira_core.plan import Entry


def test_a_stack_is_merged_once_and_gone_with_the_next_picture(setting: Setting) -> None:
    first, second = worn(1, 0.5), worn(2, -1.5)
    for stack in ((first,), (first, second), (second,), (first,), (), (first,)):
        setting.draw(stack)
        setting.check(stack)
    setting.host.take_off()
    setting.draw(())
    now = setting.weights()
    assert [name for name in now if bits(now[name]) != bits(setting.base[name])] == []


def test_an_adapter_of_the_denoiser_alone_leaves_the_text_encoder(setting: Setting) -> None:
    shapes = {name: shape for name, shape in SHAPES.items() if name.startswith(UNET)}
    before = setting.model.forge_objects.clip
    stack = (Timed(Entry(exact(shapes, 1, 0.3), shira.Alpha(0.5))),)
    setting.draw(stack)
    assert setting.model.forge_objects.clip is before
    setting.check(stack)


def test_lora_goes_together_with_a_stack_in_any_order(setting: Setting) -> None:
    generator = torch.Generator().manual_seed(1)
    shape = (12, 8)
    change = torch.randn(shape, generator=generator).mul(16).round() / 64
    lora = {"diffusion_model.input_blocks.1.1.proj_in.weight": change}
    stack = (worn(1, 0.5),)
    setting.draw((), lora)
    setting.check((), lora)
    setting.draw(stack)  # the host does not start afresh: the same networks are wanted
    setting.check(stack, lora)
    setting.draw(stack, lora)
    setting.check(stack, lora)
    setting.draw(())
    setting.check((), lora)
    setting.draw(stack, {})
    setting.check(stack)
    setting.draw((), {})
    setting.check()


def test_the_same_stack_is_not_merged_again(setting: Setting) -> None:
    stack = (worn(1, 0.5),)
    setting.draw(stack)
    setting.host.take_off()
    before = [weight.data_ptr() for weight in setting.unet.parameters()]
    again = (Timed(Entry(stack[0].entry.adapter, shira.Alpha(0.5, {"te": 0.25}))),)
    setting.draw(again)
    assert [weight.data_ptr() for weight in setting.unet.parameters()] == before
    setting.check(stack)


def test_a_clone_of_others_that_wears_a_stack_is_cleaned(setting: Setting) -> None:
    stack = (worn(1, 0.5),)
    setting.draw(stack)
    for objects in (setting.model.forge_objects, setting.model.forge_objects_after_applying_lora):
        objects.unet, objects.clip = objects.unet.clone(), objects.clip.clone()
    other = (worn(2, 0.5),)
    setting.host.wear(None, other)
    setting.load()
    setting.check(other)


BAD = (
    ({UNET + "attic.weight": (4, 4)}, WeightMissing),
    ({UNET + "input_blocks.1.1.proj_in.weight": (12, 9)}, ShapeMismatch),
    ({TEXT + "token_embedding.weight": (7, 8)}, ShapeMismatch),
)


@pytest.mark.parametrize(("shapes", "error"), BAD)
def test_what_does_not_fit_is_refused_and_nothing_is_worn(
    setting: Setting, shapes: dict[str, tuple[int, ...]], error: type[Exception]
) -> None:
    bad = Timed(Entry(exact(shapes, 3, 0.3), shira.Alpha(1.0)))
    with pytest.raises(error):
        setting.host.wear(None, (worn(1, 0.5), bad))
    setting.load()
    setting.check()


def test_two_adapters_may_name_one_weight_differently(setting: Setting) -> None:
    bare = {name.removeprefix(UNET): shape for name, shape in SHAPES.items() if UNET in name}
    second = Timed(Entry(exact(bare, 2, 0.3), shira.Alpha(0.5)))
    stack = (worn(1, 0.5), second)
    setting.draw(stack)
    setting.check((stack[0], Timed(Entry(renamed(second.entry.adapter), shira.Alpha(0.5)))))


def renamed(adapter: shira.Adapter) -> shira.Adapter:
    weights = shira.MemoryWeights()
    for name, delta in adapter.weights.items():  # type: ignore[attr-defined]
        weights[UNET + name] = delta
    return shira.Adapter(adapter.header, weights)


def test_a_model_that_is_gone_is_not_kept(setting: Setting) -> None:
    setting.draw((worn(1, 0.5),))
    seen = weakref.ref(setting.model)
    shared.sd_model = None
    del setting.model
    gc.collect()
    assert seen() is None
    setting.host.take_off()


def test_forge_knows_our_kind_of_patch() -> None:
    forge.HOST.install()
    assert forge.KIND in lora.extra_weight_calculators
