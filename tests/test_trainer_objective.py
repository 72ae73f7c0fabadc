"""The pure functions of a step: repeatable, right in distribution, equal to diffusers' formulas."""

import math

import pytest
import torch

from trainer_ui.engine import objective
from trainer_ui.engine.config import Config


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


def rates(**more: object) -> list[float]:
    """The shares of the peak rate in a run of 100 steps, 10 of them warm-up."""
    values = {"base": "b", "images": "i", "out": "o.shira", "steps": 100, "warmup": 10, **more}
    return [objective.learning_rate(n, Config(**values)) for n in range(100)]


def test_every_schedule_rises_first() -> None:
    for schedule in objective.SCHEDULES:
        assert rates(schedule=schedule)[:11] == pytest.approx([n / 10 for n in range(1, 11)] + [1])
    assert objective.learning_rate(0, Config(base="b", images="i", out="o", steps=1)) == 1.0


def test_schedules_fall_as_they_say() -> None:
    cosine, linear = rates(), rates(schedule="linear")
    assert cosine[10:] == sorted(cosine[10:], reverse=True)
    assert 0 < cosine[-1] < 0.01
    assert cosine[55] == pytest.approx(linear[55]) == pytest.approx(0.5)
    assert linear[10:] == pytest.approx([1 - n / 90 for n in range(90)])
    assert set(rates(schedule="constant")[10:]) == {1.0}


def test_restarts_are_as_many_cosines() -> None:
    found = rates(schedule="restarts", restarts=3)[10:]
    assert [n for n in range(1, 90) if found[n] > found[n - 1]] == [30, 60]
    assert found[:30] == pytest.approx(found[30:60])
    assert found[:30] == pytest.approx(found[60:])
    assert found[0] == 1.0
    assert rates(schedule="restarts", restarts=1) == pytest.approx(rates())


@pytest.mark.parametrize("schedule", ["cosine", "linear", "restarts", "constant"])
def test_schedules_agree_with_diffusers(schedule: str) -> None:
    """Without warm-up, where theirs begins with a step of rate 0."""
    from diffusers.optimization import get_scheduler

    names = {"restarts": "cosine_with_restarts"}
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = get_scheduler(
        names.get(schedule, schedule),
        optimizer,
        num_warmup_steps=0,
        num_training_steps=100,
        num_cycles=2,
    )
    found = []
    for _ in range(100):
        found.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    if schedule == "cosine":  # where num_cycles counts half waves otherwise
        found = [0.5 * (1 + math.cos(math.pi * n / 100)) for n in range(100)]
    assert rates(schedule=schedule, warmup=0) == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_debiased_estimation_weighs_the_noise_loss_by_one_over_root_snr(prediction: str) -> None:
    """The loss of v is SNR + 1 times that of the noise divided by SNR: its weight makes up."""
    snr = torch.tensor([0.01, 0.5, 30.0])
    found = objective.loss_weights(snr / (1 + snr), 0.0, prediction, debiased=True)
    share = torch.ones(3) if prediction == "epsilon" else snr / (snr + 1)
    torch.testing.assert_close(found, share / snr.sqrt(), rtol=1e-4, atol=0)


def test_no_weight_is_infinite_without_signal_or_noise() -> None:
    ends = torch.tensor([0.0, 1.0])
    for prediction in ("epsilon", "v_prediction"):
        for gamma, debiased in ((5.0, False), (0.0, True), (0.0, False)):
            found = objective.loss_weights(ends, gamma, prediction, debiased)
            assert torch.isfinite(found).all()


def test_a_mask_makes_the_loss_the_mean_of_what_it_shows() -> None:
    source = torch.Generator().manual_seed(0)
    output, wanted = (torch.randn(2, 4, 3, 3, generator=source) for _ in range(2))
    mask = torch.zeros(2, 1, 3, 3)
    mask[0, :, 0, :2], mask[1] = 1, 1
    weights = torch.tensor([2.0, 0.5])
    squares = (output - wanted) ** 2
    expected = (2 * squares[0, :, 0, :2].mean() + 0.5 * squares[1].mean()) / 2
    torch.testing.assert_close(objective.weighted_loss(output, wanted, weights, mask), expected)
    whole = objective.weighted_loss(output, wanted, weights, torch.ones_like(mask))
    torch.testing.assert_close(whole, objective.weighted_loss(output, wanted, weights))
