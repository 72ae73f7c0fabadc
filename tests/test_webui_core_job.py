"""Jobs from their prompts to the end, in the stubs of AUTOMATIC1111: what the model holds when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from webui_jobs import FIRST, KIND, SECOND, STEPS, Setting, jobs_setting  # noqa: F401 - a fixture
from webui_model import (
    adapters,
    build,
    check_bits,
    check_equal,
    expected,
    held,
    random_lora,
)
from webui_stubs import networks, processing, sd_models

from a1111_extension import problems
from a1111_extension.hosts import HOST


def test_tags_are_worn_during_the_job_alone(setting: Setting) -> None:
    prompt = f"cat, {FIRST}{SECOND}"
    p = setting.draw(prompt)
    assert p.prompts == ["cat, "]
    assert len(setting.seen) == STEPS
    for seen in setting.seen:
        check_equal(seen, expected(setting.base, setting.stack(prompt)))
    assert problems.KEY not in p.extra_generation_params
    check_bits(held(setting.model), setting.base)
    setting.draw("cat")
    check_bits(setting.seen[-1], setting.base)


def test_the_alphas_of_tags_of_one_file_add_up(setting: Setting) -> None:
    setting.draw("<shira:first:0.5><shira:first:0.25>")
    check_equal(setting.seen[0], expected(setting.base, setting.stack(FIRST)))


def test_a_tag_in_the_second_pass_only_and_in_the_first_only(setting: Setting) -> None:
    setting.draw("cat", hr_prompt=f"cat {FIRST}")
    check_bits(setting.seen[0], setting.base)
    check_equal(setting.seen[-1], expected(setting.base, setting.stack(FIRST)))
    setting.draw(f"cat {SECOND}", hr_prompt="cat")
    check_equal(setting.seen[0], expected(setting.base, setting.stack(SECOND)))
    check_bits(setting.seen[-1], setting.base)


@pytest.mark.parametrize("step", [0, STEPS - 1, STEPS + 1])
def test_a_job_that_fails_gives_the_model_back(setting: Setting, step: int) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        setting.draw(FIRST, fail=step, hr_prompt=SECOND)
    check_bits(held(setting.model), setting.base)


def test_lora_comes_and_goes_between_jobs(setting: Setting) -> None:
    lora = random_lora(setting.model, 0)
    for loras in ([], [lora], [lora], []):
        networks.loaded_networks[:] = loras
        setting.draw(FIRST)
        check_equal(setting.seen[-1], expected(setting.base, setting.stack(FIRST), loras))
        setting.draw("cat")
        check_equal(setting.seen[-1], expected(setting.base, (), loras))


def test_entries_are_on_from_start_to_stop(setting: Setting) -> None:
    prompt = "<shira:first:0.75:start=0.25:stop=0.75><shira:sub/second:1:stop=0.5>"
    setting.draw(prompt, hr_prompt=prompt)
    stack = setting.stack(prompt)
    for step, seen in enumerate(setting.seen):
        check_equal(seen, expected(setting.base, stack, share=step % STEPS / STEPS))


def test_another_checkpoint_in_the_middle_of_a_run_wears_the_stack_too(setting: Setting) -> None:
    refined = held(build(KIND, seed=5))
    setting.draw(FIRST, refiner_checkpoint_info=setting.refiner)
    stack = setting.stack(FIRST)
    check_equal(setting.seen[0], expected(setting.base, stack))
    check_equal(setting.seen[-1], expected(refined, stack))
    check_bits(held(setting.model), refined)
    sd_models.reload_model_weights(info=setting.plain)
    check_bits(held(setting.model), setting.base)


def test_a_refiner_that_an_adapter_does_not_fit_draws_without_it(setting: Setting) -> None:
    middle = setting.model.model.diffusion_model.middle_block
    taken = []

    def refine(load: Any) -> Any:
        def load_another(model: Any, info: Any, *rest: Any) -> None:
            load(model, info, *rest)
            taken.append(middle._modules.pop("1"))  # the refiner has no such layer

        return load_another

    kept = sd_models.load_model_weights
    sd_models.load_model_weights = refine(kept)
    p = setting.draw(FIRST, refiner_checkpoint_info=setting.refiner)
    sd_models.load_model_weights = kept
    assert "middle_block.1.to_k.weight" in p.extra_generation_params[problems.KEY]
    refined = held(build(KIND, seed=5))
    for seen in setting.seen[STEPS // 2 :]:
        check_bits(seen, {name: refined[name] for name in seen})
    middle._modules["1"] = taken[0]
    sd_models.reload_model_weights(info=setting.plain)


BAD = (
    ("<shira:none:1>", "is not in"),
    ("<shira:../first:1>", "is no name of a file"),
    ("<shira:first:abc>", "is no number"),
    ("<shira:first:nan>", "is no number"),
    ("<shira:other:1>", "the model has no weight"),
    ("<shira:first:1:lbw=attic=2>", "attic"),
    ("<shira:broken:1>", "broken.shira"),
)


@pytest.mark.parametrize(("tag", "text"), BAD)
def test_what_is_wrong_is_shown_and_nothing_is_worn(setting: Setting, tag: str, text: str) -> None:
    (setting.folder / "broken.shira").write_bytes(b"no adapter")
    p = setting.draw(f"cat {FIRST}{tag}", hr_prompt=f"cat {tag}")
    shown = p.extra_generation_params[problems.KEY]
    assert text in shown
    assert "\n" not in shown
    assert list(p.comments) == [f"SHiRA: {shown}"]
    for seen in setting.seen:
        check_bits(seen, setting.base)
    p = setting.draw(FIRST)
    assert problems.KEY not in p.extra_generation_params
    check_equal(setting.seen[0], expected(setting.base, setting.stack(FIRST)))


def test_a_file_that_is_replaced_is_read_again_and_texts_are_encoded_anew(
    setting: Setting,
) -> None:
    data = [setting.draw(FIRST).extra_network_data for _ in range(2)]
    assert data[0] == data[1]
    adapters()[2].save(setting.folder / "first.shira", overwrite=True)
    p = setting.draw(FIRST)
    check_equal(setting.seen[0], expected(setting.base, setting.stack(FIRST)))
    assert p.extra_network_data != data[0]
    (setting.folder / "first.shira").unlink()
    assert setting.draw(FIRST).extra_network_data != p.extra_network_data


def test_fifty_adapters_at_once(setting: Setting) -> None:
    for number in range(50):
        adapters()[number % 3].save(setting.folder / f"Größe {number}.shira")
    prompt = "".join(f"<shira:Größe {number}:0.25>" for number in range(50))
    setting.draw(prompt)
    check_equal(setting.seen[0], expected(setting.base, setting.stack(prompt)))


def test_a_job_inside_of_a_job_leaves_nothing_behind(setting: Setting) -> None:
    """As extensions do that draw a detail again after the picture."""
    inner: list[Callable[[], Any]] = [lambda: setting.draw(SECOND)]
    outer = processing.StableDiffusionProcessing(FIRST, lambda p, step: step == 3 and inner.pop()())
    processing.process_images_inner(outer)
    check_equal(setting.seen[0], expected(setting.base, setting.stack(SECOND)))
    check_bits(held(setting.model), setting.base)


def test_the_host_is_found() -> None:
    assert type(HOST).__name__ == "A1111"
