"""The pure functions of a step: repeatable, right in distribution, equal to diffusers' formulas."""

import pytest
import torch

from trainer_ui.engine import objective


def test_a_generator_depends_on_its_arguments_only() -> None:
    def draw(*key: object) -> float:
        return torch.rand(1, generator=objective.generator(*key)).item()  # type: ignore[arg-type]

    state = torch.get_rng_state()
    assert draw(1, "a", 2) == draw(1, "a", 2)
    assert len({draw(1, "a", 2), draw(2, "a", 2), draw(1, "b", 2), draw(1, "a", 3)}) == 4
    assert torch.equal(state, torch.get_rng_state())


def test_timesteps_are_uniform_and_spread() -> None:
    rows = torch.stack(
        [objective.timesteps(4, 1000, objective.generator(0, "t", n)) for n in range(2000)]
    )
    assert rows.min() >= 0
    assert rows.max() <= 999
    assert (rows // 250 == torch.arange(4)).all()
    assert rows.float().mean() == pytest.approx(499.5, abs=5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noising_and_targets_agree_with_diffusers(prediction: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_end=0.012)
    source = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 2, 2, generator=source) for _ in range(2))
    times = torch.tensor([0, 500, 999])
    level = scheduler.alphas_cumprod[times]
    wanted = noise if prediction == "epsilon" else scheduler.get_velocity(latents, noise, times)
    torch.testing.assert_close(objective.target(latents, noise, level, prediction), wanted)
    torch.testing.assert_close(
        objective.add_noise(latents, noise, level), scheduler.add_noise(latents, noise, times)
    )


@pytest.mark.parametrize(
    ("prediction", "snr", "expected"),
    [("epsilon", 1.0, 1.0), ("epsilon", 50.0, 0.1), ("v_prediction", 1.0, 0.5)],
)
def test_min_snr(prediction: str, snr: float, expected: float) -> None:
    signal = torch.tensor([snr / (1 + snr)])
    weights = objective.loss_weights(signal, 5.0, prediction)
    assert weights.item() == pytest.approx(expected, rel=1e-5)
    assert objective.loss_weights(signal, 0.0, prediction).item() == 1


def test_learning_rate_rises_and_falls() -> None:
    rates = [objective.learning_rate(n, 100, 1.0, 10, "cosine") for n in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01
    assert objective.learning_rate(99, 100, 1.0, 10, "constant") == 1.0
    assert objective.learning_rate(0, 1, 1.0, 10, "cosine") == 1.0
