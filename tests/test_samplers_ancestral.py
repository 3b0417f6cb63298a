"""Ancestral sampling against diffusers and exact laws; predictor–corrector against its published formulas."""

import math

import jaxtyping
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from ddpm.chain import Chain
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.noise import WalkNoise
from ddpm.samplers import Ancestral, PredictorCorrector, walk
from oracle import Mixture, ancestral_law, bars, cosine_betas, linear_betas
from walking import (
    LEADING,
    SPECS,
    TWO,
    Wavy,
    check_law,
    check_moments,
    check_samples,
    compare,
    in_double,
    model_of,
    seeded,
)


def of(variance: str):
    return lambda bar, mean, std: ancestral_law(bar, mean, std, variance)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("make", [linear_betas, cosine_betas])
def test_equals_diffusers_step_by_step(make, variance, clip):
    scheduler = DDPMScheduler(variance_type=f"fixed_{variance}", clip_sample=clip)
    model = Denoiser(Wavy(), Chain.from_betas(make(1000)), "eps", variance, clip).respace(LEADING)
    compare(in_double(scheduler, make(1000), LEADING), Ancestral(), model, clip)


def test_equals_diffusers_on_the_trailing_grid():
    scheduler = DDPMScheduler(variance_type="fixed_small", timestep_spacing="trailing")
    model = Denoiser(Wavy(), Chain.from_betas(linear_betas(1000)), "eps", "small").respace(25, "trailing")
    compare(in_double(scheduler, linear_betas(1000), [*range(40, 1001, 40)]), Ancestral(), model, True)


@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "mean"])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_law_of_a_walk_on_a_gaussian(variance, spec, predicts):
    check_law(Ancestral(), variance, of(variance), spec, predicts)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_samples_of_a_gaussian_have_that_law(variance, dtype, device):
    check_samples(Ancestral(), variance, of(variance), dtype, device)


def test_ancestral_samples_of_a_mixture_are_the_data(dtype):
    """The whole chain of 1000, which keeps weights and means, and narrows each mode as it does a lone Gaussian."""
    count, betas = 3000, linear_betas(1000)
    means, stds = [[-0.7, -0.5], [0.6, -0.4], [0.1, 0.7]], [[0.1, 0.1], [0.15, 0.05], [0.08, 0.2]]
    data = Mixture.of([0.2, 0.5, 0.3], means, stds)
    generator = torch.Generator().manual_seed(0)

    def noise(t: int) -> Tensor:
        return torch.randn(count, 2, dtype=dtype, generator=generator)

    *_, last = walk(model_of(data, betas, variance="small"), Ancestral(), noise(1000), noise)
    x = last.x.double().numpy()
    mean, variance = ancestral_law(bars(betas, list(range(1, 1001))), data.means, data.stds, "small")
    np.testing.assert_allclose(mean, data.means, atol=1e-5)
    np.testing.assert_allclose(np.sqrt(variance), data.stds, rtol=0.08)  # β̃ is the least variance there is
    expected = Mixture.of(data.weights, mean, np.sqrt(variance))
    mode = expected.component(x)
    for k, weight in enumerate(expected.weights):
        ours = x[mode == k]
        assert abs(len(ours) / count - weight) < 4 * math.sqrt(weight * (1 - weight) / count)
        assert np.all(np.abs(ours.mean(0) - expected.means[k]) < 4 * expected.stds[k] / math.sqrt(len(ours)))
        assert np.all(np.abs(ours.std(0) / expected.stds[k] - 1) < 4 / math.sqrt(2 * len(ours)))
    assert np.all(np.abs(x.mean(0) - data.mean) < 4 * np.sqrt(np.diag(data.cov) / count))
    np.testing.assert_allclose(np.cov(x.T), expected.cov, atol=4 * np.diag(data.cov).max() * math.sqrt(2 / count))
    true = expected.log_density(expected.sample(count, 0))
    assert abs(expected.log_density(x).mean() - true.mean()) < 4 * true.std() * math.sqrt(2 / count)


# -- predictor and corrector -----------------------------------------------------------------------------------


def published(data: Mixture, betas: np.ndarray, x: np.ndarray, noise, predictor: str, corrections: int, r: float):
    """Song et al. 2021, algorithms 3 and 5 on all levels, with norms of each x its own.

    The score is exact; the last step is the mean, x̂_0.
    """
    bar = np.cumprod(1.0 - betas)
    for t in range(len(betas), 0, -1):
        beta, law = betas[t - 1], data.noised(np.sqrt(bar[t - 1]), np.sqrt(1.0 - bar[t - 1]))
        for k in range(1, corrections + 1):
            z, score = noise(t, k), law.score(x)
            size = [
                2.0 * (1.0 - beta) * (r * np.linalg.norm(a) / np.linalg.norm(b)) ** 2
                for a, b in zip(z, score, strict=True)
            ]
            x = np.stack([a + e * s + np.sqrt(2.0 * e) * b for a, e, s, b in zip(x, size, score, z, strict=True)])
        score = law.score(x)
        if t == 1:
            return (x + beta * score) / np.sqrt(1.0 - beta)
        if predictor == "ancestral":
            x = (x + beta * score) / np.sqrt(1.0 - beta) + np.sqrt(beta) * noise(t, 0)
        else:
            x = (2.0 - np.sqrt(1.0 - beta)) * x + beta * score + np.sqrt(beta) * noise(t, 0)
    raise AssertionError("a chain has a level")


@pytest.mark.parametrize("corrections, r", [(1, 0.16), (3, 0.05)])
@pytest.mark.parametrize("predictor", ["ancestral", "reverse"])
@pytest.mark.parametrize("T", [1, 2, 50])
def test_pc_is_as_published(T, predictor, corrections, r):
    betas = linear_betas(50)[-T:]
    draws = {(t, k): seeded((6, 2), 100 * t + k) for t in range(T + 1) for k in range(corrections + 1)}
    x = draws[0, 0]
    sampler = PredictorCorrector(predictor, corrections, r)
    *_, last = walk(model_of(TWO, betas), sampler, x, lambda t, k=0: draws[t, k])
    expected = published(TWO, betas, x.numpy(), lambda t, k: draws[t, k].numpy(), predictor, corrections, r)
    np.testing.assert_allclose(last.x, expected, rtol=1e-8, atol=1e-9)


MANY = Mixture.of([1.0], np.linspace(-1.0, 1.0, 24)[None], np.full((1, 24), 0.5))


def drawn(count: int, steps: str | None, sampler) -> Tensor:
    model = model_of(MANY, linear_betas(200), steps, variance="small")
    noise = WalkNoise(5, torch.arange(count), (24,), torch.float64)
    *_, last = walk(model, sampler, noise(0), noise)
    return last.x


@pytest.mark.parametrize("predictor", ["ancestral", "reverse"])
def test_pc_with_small_corrections_at_all_levels_draws_the_data(predictor):
    """Large ones add to the variance what Langevin steps of a finite size do."""
    x = drawn(600, None, PredictorCorrector(predictor, 1, 0.03))
    check_moments(x, MANY.means[0], MANY.stds[0] ** 2)


def test_corrections_mend_what_few_steps_get_wrong():
    """Ancestral sampling in few steps narrows the law; Langevin steps lead back to it."""
    error = [
        abs(drawn(400, "10", sampler).std(0).mean().item() / 0.5 - 1.0)
        for sampler in (Ancestral(), PredictorCorrector(), PredictorCorrector(corrections=8))
    ]
    assert error[0] > 0.05 and error[2] < 0.4 * error[0] and error[2] < error[1] < error[0], error


def test_a_picture_without_a_score_is_left_alone():
    """Where the score is zero, its norm sets no step; the walk stays finite."""
    model = model_of(MANY, linear_betas(40), "2", variance="small")
    chain = model.chain
    still = float(chain.alpha(2, torch.zeros(1))) * torch.from_numpy(MANY.means)
    xs, _, _ = PredictorCorrector().step(model, still, 2, 1, None, lambda t, k=0: torch.zeros_like(still))
    torch.testing.assert_close(xs, float(chain.alpha(1, still)) * torch.from_numpy(MANY.means))


@pytest.mark.parametrize(
    "options, said",
    [
        ({"corrections": 0}, "--corrections 0: is at least 1; without any take --sampler ddpm"),
        ({"corrections": 256}, "--corrections 256: is at most 255"),
        ({"corrector_snr": 0.0}, "--corrector-snr 0: is positive"),
        ({"corrector_snr": math.inf}, "--corrector-snr inf: is positive"),
        ({"corrector_snr": math.nan}, "--corrector-snr nan: is positive"),
    ],
)
def test_options_that_are_none(options, said):
    with pytest.raises(UserError, match=said):
        PredictorCorrector(**options)


def test_a_predictor_there_is_not(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in use: the tests alone check types
    with pytest.raises(UserError, match="--predictor euler: takes ancestral or reverse"):
        PredictorCorrector("euler")
