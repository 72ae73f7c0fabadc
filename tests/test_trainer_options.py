"""What a run may be set to: each option does what it says, by a second way of computing it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from PIL import Image
from trainer_runs import events

import shira_core as shira
from shira_core import names
from trainer_ui.engine import device, loop, tuning
from trainer_ui.engine.average import Average
from trainer_ui.engine.base import Base, open_base
from trainer_ui.engine.config import load
from trainer_ui.engine.errors import ConfigInvalid
from trainer_ui.engine.loop import train
from trainer_ui.engine.scaling import GROWS_AFTER, LEAST, MOST, Scale

Settings = dict[str, object]
OPTIONAL = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt", "lion": "lion_pytorch"}


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Base:
    return open_base(tiny_base)


def missing(optimizer: str) -> bool:
    return optimizer in OPTIONAL and importlib.util.find_spec(OPTIONAL[optimizer]) is None


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "prodigy", "lion", "adafactor"])
def test_every_optimizer_trains_or_says_what_to_install(settings: Settings, optimizer: str) -> None:
    more = {"steps": 4, "sample_count": 0, "dtype": "float32"}
    rate = {"lr": 1.0} if optimizer == "prodigy" else {}
    config = load(None, {**settings, **more, **rate, "optimizer": optimizer})
    if missing(optimizer):
        with pytest.raises(ConfigInvalid, match="pip install"):
            train(config)
        return
    if optimizer == "adamw8bit" and not torch.cuda.is_available():
        pytest.skip("bitsandbytes' optimizers need a GPU")
    path = train(config)
    assert path is not None
    adapter = shira.load(path)
    assert adapter.header.training["optimizer"] == optimizer
    assert any(adapter.weights[name].values.any() for name in adapter.weights)


def test_prodigy_has_one_rate(settings: Settings) -> None:
    pytest.importorskip("prodigyopt")
    config = load(None, {**settings, "optimizer": "prodigy", "text_lr": 1e-4})
    with pytest.raises(ConfigInvalid, match="text_lr"):
        train(config)


def test_a_rate_that_stifles_prodigy_is_told(settings: Settings) -> None:
    pytest.importorskip("prodigyopt")
    path = train(load(None, {**settings, "optimizer": "prodigy", "steps": 1, "sample_count": 0}))
    assert path is not None
    told = [e for e in events(path.with_suffix(".run")) if e["event"] == "warning"]
    assert any("set lr to 1 (now 0.01)" in str(e["message"]) for e in told)


def test_blocks_have_their_own_densities(settings: Settings) -> None:
    """Counted in the file, weight by weight."""
    blocks = ["mid=0.1", "in*=0", "out11=0.05", "out*=0.01"]
    more = {"block_density": blocks, "mask": "rand", "steps": 1, "sample_count": 0}
    path = train(load(None, {**settings, **more}))
    assert path is not None
    adapter = shira.load(path)
    wanted = {"mid": 0.1, "out11": 0.05}
    seen = set()
    for name in adapter.weights:
        block, size = names.block(name), torch.Size(adapter.weights.shape(name)).numel()
        share = wanted.get(block, 0.01)
        assert adapter.weights.count(name) == pytest.approx(share * size, abs=1), name
        seen.add(block)
    assert {"mid", "out11", "out3"} <= seen
    assert not any(block.startswith("in") for block in seen)


def test_a_block_that_is_not_there_is_named(settings: Settings) -> None:
    with pytest.raises(ConfigInvalid, match=r"'out12=0.1' names no block.*did you mean out"):
        train(load(None, {**settings, "block_density": ["out12=0.1"]}))


@pytest.mark.parametrize("line", ["mid", "mid=x", "mid=2", "mid=-1", "mid=nan"])
def test_a_density_that_is_none_is_refused(settings: Settings, line: str) -> None:
    with pytest.raises(ConfigInvalid, match="block_density"):
        load(None, {**settings, "block_density": [line]})


def test_a_mask_of_all_layers_together_takes_no_density_of_a_block(
    settings: dict[str, object],
) -> None:
    with pytest.raises(ConfigInvalid, match=r"block_density.*moved.*block=0"):
        load(None, {**settings, "mask": "moved", "block_density": ["mid=0.1"]})


def test_the_mean_of_the_vectors_is_exact_and_given_back() -> None:
    vector = torch.nn.Parameter(torch.zeros(3))
    average, mean = Average({"a": vector}, 0.9), torch.zeros(3)
    for step in range(1, 30):
        with torch.no_grad():
            vector += torch.tensor([1.0, 0.0, -step])
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * vector.detach()
    trained = vector.detach().clone()
    with average.in_place():
        torch.testing.assert_close(vector.detach(), mean)
    assert torch.equal(vector.detach(), trained)


def test_the_file_holds_the_mean_where_one_is_kept(settings: Settings, base: Base) -> None:
    """Against the mean of the weights themselves, as they were after each step."""
    plain = {name: value.clone() for name, value in base.unet.state_dict().items()}
    mean = {name: value.clone() for name, value in plain.items()}

    def watch(step: int, unet: torch.nn.Module) -> None:
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in unet.state_dict().items():
            mean[name] = decay * mean[name] + (1 - decay) * value
        last.update({name: value.clone() for name, value in unet.state_dict().items()})

    last: dict[str, torch.Tensor] = {}
    more = {"ema": 0.9, "dtype": "float32", "steps": 5, "sample_count": 0}
    path = train(load(None, {**settings, **more}), watch)
    assert path is not None
    sources = tuning.keymaps.sources(base.architecture, "unet", plain)
    target = {sources[name].name: value for name, value in plain.items()}
    shira.apply(target, [(shira.load(path), 1.0)])
    for name, value in mean.items():
        torch.testing.assert_close(target[sources[name].name], value, rtol=0, atol=1e-6)
    assert max((last[name] - value).abs().max() for name, value in mean.items()) > 1e-3


def test_the_loss_scale_falls_after_an_overflow_and_grows_again() -> None:
    scale = Scale(1024.0)
    assert scale.after(True) == Scale(512.0)
    for _ in range(GROWS_AFTER):
        scale = scale.after(False)
    assert scale == Scale(2048.0)
    assert Scale(LEAST).after(True).value == LEAST
    assert Scale(MOST, GROWS_AFTER).after(False).value == MOST
    assert Scale(LEAST).exhausted
    assert not Scale(2.0).exhausted


@pytest.mark.parametrize("weights", ["fp32", "fp16"])
def test_float16_trains_what_float32_does(settings: Settings, weights: str) -> None:
    """Steps whose scaled gradient overflows are left out and told."""
    more = {"steps": 3, "sample_count": 0, "overwrite": True, "schedule": "constant"}
    losses = {}
    for precision in ("fp32", "fp16"):
        own = {"precision": precision, "weights": weights if precision == "fp16" else "fp32"}
        path = train(load(None, {**settings, **more, **own}))
        assert path is not None
        told = [e for e in events(path.with_suffix(".run")) if e["event"] == "step"]
        assert all(step["loss"] is not None for step in told)
        losses[precision] = told
    first = [losses[precision][0]["loss"] for precision in losses]
    assert first[0] == pytest.approx(first[1], rel=2e-2)
    assert any(step["norm"] is not None for step in losses["fp16"])


def test_precision_and_weights_must_agree(settings: Settings) -> None:
    with pytest.raises(ConfigInvalid, match="weights = 'fp16' does not go with precision"):
        train(load(None, {**settings, "weights": "fp16", "precision": "bf16"}))


def test_weights_are_narrow_by_default_only_for_sdxl_on_a_gpu(settings: Settings) -> None:
    config, cuda = load(None, {**settings, "precision": "bf16"}), torch.device("cuda")
    narrow = device.arithmetic(config, cuda, "sdxl")
    assert (narrow.held, narrow.computed) == (torch.bfloat16, torch.bfloat16)
    for place, architecture in ((cuda, "sd15"), (torch.device("cpu"), "sdxl")):
        found = device.arithmetic(config, place, architecture)
        assert (found.held, found.computed) == (torch.float32, torch.bfloat16)


def test_the_order_in_memory_changes_only_rounding(settings: Settings) -> None:
    found = []
    for last in (False, True):
        more = {"channels_last": last, "steps": 1, "sample_count": 0, "overwrite": True}
        path = train(load(None, {**settings, **more}))
        assert path is not None
        step = next(e for e in events(path.with_suffix(".run")) if e["event"] == "step")
        found.append(step)
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-5)
    # Norms over two values make rounding large where a gradient should be 0.
    assert found[0]["norm"] == pytest.approx(found[1]["norm"], rel=1e-2)


@pytest.mark.parametrize("dora", [False, True])
def test_a_strength_while_training_is_that_of_the_file(
    settings: Settings, base: Base, dora: bool
) -> None:
    """Against applying the written adapter to the base; afterwards the weights are as trained."""
    config = load(None, {**settings, "dora": dora})
    plain = {name: value.clone() for name, value in base.unet.state_dict().items()}
    alone = Base(base.unet, base.vae, (), base.scheduler, base.name, base.sha256)
    with tuning.start(config, alone, lambda number: torch.zeros(())) as tuned:
        vector = tuned.vectors["unet"]
        with torch.no_grad():
            vector += torch.randn(vector.shape, generator=torch.Generator().manual_seed(0)) / 10
        tuned.update()
        adapter = tuned.adapter()
        trained = {name: value.clone() for name, value in base.unet.state_dict().items()}
        sources = tuned.sources["unet"]
        with tuned.at(0.5), torch.no_grad():
            half = {name: value.clone() for name, value in base.unet.state_dict().items()}
        back = base.unet.state_dict()
        assert all(torch.equal(back[name], value) for name, value in trained.items())
    target = {sources[name].name: value for name, value in plain.items()}
    shira.apply(target, [(adapter, 0.5)])
    assert all(torch.equal(half[name], target[sources[name].name]) for name in half)
    assert any(not torch.equal(half[name], trained[name]) for name in half)


def test_samples_have_a_row_for_each_strength(settings: Settings) -> None:
    more = {"steps": 2, "sample_alphas": [0.5, 1.0], "sample_count": 1}
    path = train(load(None, {**settings, **more}))
    assert path is not None
    grid = path.with_suffix(".run") / "samples" / "step-000002.png"
    assert Image.open(grid).size == (8 + 136, 22 + 3 * 158)


def test_adapters_are_kept_on_the_way(settings: Settings) -> None:
    """Each is what a run of so many steps had; the last one is the output itself."""
    more = {"steps": 4, "save_every": 2, "sample_count": 0, "schedule": "constant"}
    path = train(load(None, {**settings, **more}))
    assert path is not None
    kept = sorted(path.with_suffix(".run").glob("*.shira"))
    assert [each.name for each in kept] == ["style-000002.shira"]
    saved = [e for e in events(path.with_suffix(".run")) if e["event"] == "saved"]
    assert [(e["step"], e["path"]) for e in saved] == [(2, str(kept[0]))]
    again = {**settings, **more, "steps": 4, "overwrite": True, "save_every": 0}

    def watch(step: int, unet: torch.nn.Module) -> None:
        if step == 2:
            halfway.update({name: value.clone() for name, value in unet.state_dict().items()})

    halfway: dict[str, torch.Tensor] = {}
    train(load(None, again), watch)
    base = open_base(Path(str(settings["base"])))
    shira_names = tuning.keymaps.sources(base.architecture, "unet", halfway)
    target = {shira_names[name].name: v.clone() for name, v in base.unet.state_dict().items()}
    shira.apply(target, [(shira.load(kept[0]), 1.0)])
    assert all(torch.equal(target[shira_names[name].name], v) for name, v in halfway.items())


def test_the_loss_of_pictures_held_out_is_always_of_the_same_noise(settings: Settings) -> None:
    """At a tiny rate it stays, while the loss of the steps jumps; what is held out is not seen."""
    more = {"validation": 0.34, "validation_every": 2, "lr": 1e-12, "steps": 6, "sample_count": 0}
    path = train(load(None, {**settings, **more}))
    assert path is not None
    told = events(path.with_suffix(".run"))
    held = [(e["step"], e["loss"]) for e in told if e["event"] == "validation"]
    assert [step for step, _ in held] == [2, 4, 6]
    losses = [loss for _, loss in held]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    steps = [float(str(e["loss"])) for e in told if e["event"] == "step"]
    assert max(steps) > 1.01 * min(steps)


def test_a_share_that_holds_out_nothing_is_refused(settings: Settings) -> None:
    from trainer_ui.engine.errors import DataInvalid

    with pytest.raises(DataInvalid, match="holds out 0 of 6 pictures"):
        train(load(None, {**settings, "validation": 0.01}))


def test_tensorboard_has_the_curves_of_the_events(settings: Settings) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    more = {"tensorboard": True, "steps": 3, "validation": 0.34, "validation_every": 3}
    path = train(load(None, {**settings, **more}))
    assert path is not None
    folder = path.with_suffix(".run")
    board = EventAccumulator(str(folder / loop.BOARD))
    board.Reload()
    losses = [(point.step, point.value) for point in board.Scalars("loss")]
    told = [(e["step"], e["loss"]) for e in events(folder) if e["event"] == "step"]
    assert [step for step, _ in losses] == [step for step, _ in told]
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in told])
    assert len(board.Scalars("validation")) == 1
    assert [image.step for image in board.Images("samples")] == [3]


def test_debiased_turns_min_snr_off_or_is_refused_beside_it(settings: Settings) -> None:
    assert load(None, {**settings, "debiased": True}).min_snr_gamma == 0
    with pytest.raises(ConfigInvalid, match="exclude each other"):
        load(None, {**settings, "debiased": True, "min_snr_gamma": 5.0})
