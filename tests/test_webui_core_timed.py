"""Adapters for a part of the run, in stubs of Forge and reForge: what the denoiser holds when."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from adapters import bits
from torch import Tensor
from webui_forks import DENOISER, STEPS, Setting, forks_setting, worn  # noqa: F401 - a fixture
from webui_stubs import shared

from a1111_extension import problems
from shira_core.errors import InvalidValue

TIMED = (worn(1, 0.5, start=0.25), worn(2, -1.5, stop=0.5), worn(3, 1.0))


def without_denoiser(setting: Setting, lora: Mapping[str, Tensor] | None = None) -> None:
    """Check that the denoiser is as its host has left it; text encoders may wear a stack."""
    now, wanted = setting.weights(), setting.expected((), lora or {}, 0.0)
    assert [name for name in DENOISER if bits(now[name]) != bits(wanted[name])] == []


@pytest.mark.parametrize("with_lora", [False, True])
def test_a_part_of_the_run(setting: Setting, with_lora: bool) -> None:
    change = torch.randn(12, 8, generator=torch.Generator().manual_seed(1)).mul(16).round() / 64
    lora = {"diffusion_model.input_blocks.1.1.proj_in.weight": change} if with_lora else {}
    for _ in range(2):
        setting.draw(TIMED, lora)
        without_denoiser(setting, lora)
        p = setting.run(lambda step: setting.check(TIMED, lora, share=step / STEPS))
        assert problems.KEY not in p.extra_generation_params
        without_denoiser(setting, lora)
    whole = (worn(2, 0.5),)
    setting.draw(whole, lora)
    setting.run(lambda step: setting.check(whole, lora))
    setting.check(whole, lora)
    setting.draw((), {})
    setting.check()


def test_a_run_that_fails_gives_the_denoiser_back(setting: Setting) -> None:
    def fail(step: int) -> None:
        if step == 2:
            raise RuntimeError("stopped")

    setting.draw(TIMED)
    with pytest.raises(RuntimeError, match="stopped"):
        setting.run(fail)
    without_denoiser(setting)


def test_a_host_may_exchange_weights_in_the_middle_of_a_run(setting: Setting) -> None:
    """As it does when it needs memory: with its own copies, which must not be touched."""

    def exchange(step: int) -> None:
        if step == 1:
            for name, weight in setting.unet.named_parameters():
                weight.data = setting.base[name].clone()
        if step == 2:
            setting.check(TIMED, share=step / STEPS)
        if step == 3:
            for name, weight in setting.unet.named_parameters():
                weight.data = setting.base[name].clone()

    setting.draw(TIMED)
    setting.run(exchange)
    without_denoiser(setting)


def test_a_refiner_is_written_into_from_then_on(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    refiner = Setting(setting.host)

    def refine(step: int) -> None:
        if step == 1:
            monkeypatch.setattr(shared, "sd_model", refiner.model)
            setting.host.wear(None, TIMED)
            refiner.load()
        elif step:
            refiner.check(TIMED, share=step / STEPS)

    setting.draw(TIMED)
    setting.run(refine)
    without_denoiser(setting)
    without_denoiser(refiner)


def test_what_leaves_the_range_in_a_run_is_noted(setting: Setting) -> None:
    setting.draw((worn(1, 0.5, start=0.5), worn(2, 1e6, start=0.75, stop=0.9)))
    p = setting.run(lambda step: None)
    assert "lower the alphas" in p.extra_generation_params[problems.KEY]
    without_denoiser(setting)


def test_scaled_weights_are_refused_for_a_part_of_the_run(setting: Setting) -> None:
    layer = setting.unet.get_submodule("diffusion_model.input_blocks.1.1.proj_in")
    layer.scale_weight = torch.ones(())
    with pytest.raises(InvalidValue, match="leave start and stop out"):
        setting.host.wear(None, TIMED)
    setting.load()
    setting.check()
