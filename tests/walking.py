"""What the tests of samplers share: nets that are exact or plainly wrong, models on them, noise to walk with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ddpm.chain import Chain
from ddpm.denoiser import Denoiser
from ddpm.noise import WalkNoise
from ddpm.samplers import walk
from oracle import Mixture, OracleNet, bars, linear_betas, published_levels

TWO = Mixture.of([0.3, 0.7], [[-0.6, 0.2], [0.5, 0.4]], [0.2, 0.3])
MEAN, STD = np.array([0.7, -0.2]), np.array([0.3, 1.4])
ONE = Mixture.of([1.0], [MEAN], STD[None])


class Wavy(nn.Module):
    """An ε-net that is wrong enough for x̂_0 to leave [−1, 1] at every level."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return 0.8 * x + 0.5 * torch.sin(3 * x + timestep.view(-1, *[1] * (x.ndim - 1)).to(x) / 90)


def no_noise(t: int, draw: int = 0) -> Tensor:
    raise AssertionError(f"noise was asked for at {t}")


def seeded(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def model_of(data: Mixture, betas: np.ndarray, spec: object = None, grid: str = "uniform", **options) -> Denoiser:
    """The exact model of a mixture, its chain that of the betas or respaced from it."""
    predicts = options.get("predicts", "eps")
    model = Denoiser(OracleNet(data, betas, predicts), Chain.from_betas(betas), **{"clip": False, **options})
    return model if spec is None else model.respace(spec, grid)


def impulses(data: Mixture, model: Denoiser):
    """A start, and noise, that give the law of a walk on a lone Gaussian, which is affine in both.

    Row 0 has no impulse, row 1 one at the start (of the exact law of x_T), row t + 1 one at the step down from t.
    """
    chain, T = model.chain, model.chain.T
    alpha, sigma = (float(of(T, torch.zeros(1))) for of in (chain.alpha, chain.sigma))
    top = data.noised(alpha, sigma)
    x = torch.from_numpy(np.repeat(top.means, T + 2, axis=0))
    x[1] += torch.from_numpy(top.stds[0])

    def noise(t: int) -> Tensor:
        z = torch.zeros_like(x)
        z[t + 1] = 1.0
        return z

    return x, noise


def law(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of what impulses became."""
    return x[0].numpy(), (x[1:] - x[0]).square().sum(0).numpy()


# -- diffusers' schedulers -----------------------------------------------------------------------------------

LEADING = [1 + t for t in range(0, 1000, 20)]


def in_double(scheduler, betas: np.ndarray, levels: list[int]):
    """Their formulas on tables in float64: theirs are float32 and know 1 − ᾱ_1 to three digits."""
    scheduler.alphas_cumprod = torch.from_numpy(np.cumprod(1.0 - betas))
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(len(levels))
    assert [int(t) + 1 for t in scheduler.timesteps] == levels[::-1]
    return scheduler


def compare(scheduler, sampler, model: Denoiser, clip: bool, **options) -> None:
    """A walk of Wavy beside a scheduler's, step by step, to rounding."""
    theirs = x = seeded((2, 3, 4), 0)
    generator, asked = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)

    def noise(t: int) -> Tensor:
        return torch.randn((2, 3, 4), dtype=torch.float64, generator=asked)

    clipped = False
    for step, t in zip(walk(model, sampler, x, noise), scheduler.timesteps, strict=True):
        told = torch.full((2,), float(t), dtype=torch.float64)
        output = scheduler.step(Wavy()(theirs, told), int(t), theirs, generator=generator, **options)
        theirs = output.prev_sample
        scale = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(step.prediction.x0, output.pred_original_sample, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(step.x, theirs, rtol=0, atol=1e-8 * scale)
        clipped |= bool((step.prediction.x0.abs() == 1.0).any())
    assert clipped == clip


# -- the exact law of a walk ---------------------------------------------------------------------------------

SPECS = {"all": None, "8": "8", "1": "1", "listed": [3, 4, 20, 39]}
KEPT = {"all": [*range(1, 41)], "8": published_levels("8", 40), "1": [40], "listed": [3, 4, 20, 39]}


def check_law(sampler, variance: str, expected, spec: str, predicts: str) -> None:
    """Mean and variance of a whole walk from N(0, 1) on a Gaussian; expected(ᾱ, mean, std) gives them."""
    betas = linear_betas(40)
    model = model_of(ONE, betas, SPECS[spec], predicts=predicts, variance=variance)
    x = torch.zeros(len(KEPT[spec]) + 1, 2, dtype=torch.float64)
    x[1] = 1.0  # row 0 has no impulse, row 1 one at the start, row t one at the step down from t

    def noise(t: int) -> Tensor:
        z = torch.zeros_like(x)
        z[t] = 1.0
        return z

    *_, last = walk(model, sampler, x, noise)
    mean, variance = expected(bars(betas, KEPT[spec]), MEAN, STD)
    np.testing.assert_allclose(last.x[0], mean, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(law(last.x)[1], variance, rtol=1e-8)


def check_samples(sampler, variance: str, expected, dtype: torch.dtype, device: torch.device) -> None:
    """The same of samples, 20 steps of 200, within four deviations of what chance gives."""
    count, betas = 20_000, linear_betas(200)
    model = model_of(ONE, betas, "20", variance=variance)
    noise = WalkNoise(2, torch.arange(count, device=device), (2,), dtype)
    *_, last = walk(model, sampler, noise(0), noise)
    assert last.x.dtype == dtype and last.x.device.type == device.type
    check_moments(last.x, *expected(bars(betas, published_levels("20", 200)), MEAN, STD))


def check_moments(x: Tensor, mean: np.ndarray, variance: np.ndarray) -> None:
    """Samples [N, D] have this mean and a diagonal covariance, within four deviations of what chance gives."""
    of = x.cpu().double().numpy()
    assert np.all(np.abs(of.mean(0) - mean) < 4 * np.sqrt(variance / len(of)))
    assert np.all(np.abs(of.var(0) / variance - 1) < 4 * np.sqrt(2 / len(of)))
    apart = np.corrcoef(of.T)[np.triu_indices(of.shape[1], 1)]
    assert np.all(np.abs(apart) < 5 / np.sqrt(len(of)))
