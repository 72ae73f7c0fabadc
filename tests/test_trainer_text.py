"""Text encoders trained beside the UNet: SDXL's two and SD1.5's one, under checkpoint names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import tiny_xl

import shira_core as shira
from shira_core import names
from trainer_ui.engine import tuning
from trainer_ui.engine.base import open_base
from trainer_ui.engine.config import load
from trainer_ui.engine.loop import train

Settings = dict[str, object]
SHORT: Settings = {
    "steps": 3,
    "resolution": 64,
    "sample_count": 1,
    "text_lr": 1e-2,
    "dtype": "float32",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tiny_xl.write_folder(tmp_path_factory.mktemp("xl") / "tiny-xl")
    return tiny_xl.checkpoint_weights(folder)


@pytest.fixture
def xl(settings: Settings, weights: dict[str, torch.Tensor], tmp_path: Path) -> Settings:
    path = tiny_xl.write_file(tmp_path / "xl.safetensors", weights)
    return {**settings, **SHORT, "base": str(path)}


def components(adapter: shira.Adapter) -> dict[str, int]:
    """Entries whose value is not zero, by component."""
    found: dict[str, int] = {}
    for name in adapter.weights:
        moved = int(adapter.weights[name].values.count_nonzero())
        found[names.component(name)] = found.get(names.component(name), 0) + moved
    return found


def test_sdxl_with_both_text_encoders_trains_and_fits_the_checkpoint(
    xl: Settings, weights: dict[str, torch.Tensor]
) -> None:
    """Names, shapes and values, also of what the checkpoint has fused or turned."""
    path = train(load(None, xl))
    assert path is not None
    adapter = shira.load(path)
    assert adapter.header.architecture == "sdxl"
    assert adapter.header.training["text_lr"] == 1e-2
    assert set(components(adapter)) == {"unet", "te1", "te2"}
    assert min(components(adapter).values()) > 100
    for name in adapter.weights:
        assert tuple(adapter.weights.shape(name)) == tuple(weights[name].shape), name
    fused = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"
    rows = adapter.weights[fused].positions // weights[fused].shape[1]
    assert {int(row) // 128 for row in rows} == {0, 1, 2}  # of q, k and v


def test_the_applied_adapter_is_what_was_trained(
    xl: Settings, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """The checkpoint with the adapter, opened anew, computes what the trained modules did."""
    kept: dict[str, torch.Tensor] = {}

    def watch(step: int, unet: torch.nn.Module) -> None:
        kept.update({name: value.clone() for name, value in unet.state_dict().items()})

    path = train(load(None, xl), watch)
    assert path is not None
    target = {name: value.clone() for name, value in weights.items()}
    shira.apply(target, [(shira.load(path), 1.0)])
    baked = open_base(tiny_xl.write_file(tmp_path / "baked.safetensors", target))
    found = baked.unet.state_dict()
    assert all(torch.equal(found[name], value) for name, value in kept.items())
    plain = open_base(Path(str(xl["base"])))
    texts = [base.encode_text(["a box"]) for base in (plain, baked)]
    assert not torch.allclose(texts[0].embeddings[..., :48], texts[1].embeddings[..., :48])
    assert not torch.allclose(texts[0].embeddings[..., 48:], texts[1].embeddings[..., 48:])


def test_the_text_gradients_are_those_of_autograd(xl: Settings) -> None:
    """The first step's direction, against a dense backward pass through UNet and encoders."""
    from trainer_ui.engine.loss import Losses
    from trainer_ui.engine.opening import open_run

    config = load(None, xl)
    opened = open_run(config, lambda line: None, lambda line: None)
    losses = Losses(config, opened)
    with tuning.start(config, opened.base, losses.calibration) as tuned:
        losses.training(0).backward()
        found = {name: vector.grad.clone() for name, vector in tuned.vectors.items()}
        masks = {name: run.masks for name, run in tuned.runs.items()}
    for component, module in opened.base.modules.items():
        chosen = [dict(module.named_parameters())[name] for name in masks[component]]
        for weight in chosen:
            weight.requires_grad_(True)
        dense = torch.autograd.grad(losses.training(0), chosen)
        entries = [
            grad.flatten()[mask.positions]
            for grad, mask in zip(dense, masks[component].values(), strict=True)
        ]
        torch.testing.assert_close(found[component], torch.cat(entries))
        assert found[component].abs().max() > 0
        for weight in chosen:
            weight.requires_grad_(False)


def test_sd15_has_one_text_encoder(settings: Settings) -> None:
    path = train(load(None, {**settings, **SHORT}))
    assert path is not None
    assert set(components(shira.load(path))) == {"unet", "te1"}


def test_without_text_lr_the_texts_stay(xl: Settings) -> None:
    path = train(load(None, {**xl, "text_lr": 0.0, "gradient_checkpointing": True}))
    assert path is not None
    assert set(components(shira.load(path))) == {"unet"}


def test_sdxl_masks_that_measure_gradients(xl: Settings) -> None:
    path = train(load(None, {**xl, "mask": "grad", "calibration": 1, "sample_count": 0}))
    assert path is not None
    assert min(components(shira.load(path)).values()) > 100


def test_the_result_loads_into_diffusers_pipeline(xl: Settings) -> None:
    """The diffusers helper finds a place for every weight."""
    import sd_modules

    from shira_core.integrations.diffusers import load_shira

    path = train(load(None, xl))
    assert path is not None
    base = open_base(Path(str(xl["base"])))
    pipe = sd_modules.pipeline("sdxl", base.modules)
    before = sd_modules.snapshot(pipe)
    loaded = load_shira(pipe, path)
    after = sd_modules.snapshot(pipe)
    changed = {n.split(".")[0] for n in after if not torch.equal(before[n], after[n])}
    assert changed == {"unet", "te1", "te2"}
    loaded.remove()
    assert all(torch.equal(before[n], v) for n, v in sd_modules.snapshot(pipe).items())


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_narrow_weights_train_all_components(xl: Settings, kind: str) -> None:
    """The deltas stay in float32: they are finer than the weights' own steps."""
    more = {"weights": kind, "precision": kind, "lr": 1e-5, "text_lr": 1e-5}
    path = train(load(None, {**xl, **more}))
    assert path is not None
    adapter = shira.load(path)
    assert min(components(adapter).values()) > 100
    values = torch.cat([adapter.weights[name].values for name in adapter.weights])
    assert torch.isfinite(values).all()
    assert values.abs().max() < 1e-3
