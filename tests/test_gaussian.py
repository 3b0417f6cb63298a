"""Gaussian against torch.distributions.Normal."""

import math

import pytest
import torch
from torch.distributions import Normal

from ddpm.gaussian import Gaussian


def draw(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)


@pytest.mark.parametrize("logvar", [-9.82, 0.0, 1.5])
def test_one_log_variance_for_all(logvar, dtype, device):
    mean, noise = draw((3, 2, 4), dtype, device), draw((3, 2, 4), dtype, device, 1)
    gaussian = Gaussian(mean, logvar)
    assert isinstance(gaussian.std, float)
    assert gaussian.std == pytest.approx(math.sqrt(math.exp(logvar)), rel=1e-14)
    # the value at a quantile of the noise is the same quantile of the distribution
    standard = Normal(torch.zeros((), dtype=dtype, device=device), 1.0)
    u = standard.cdf(noise.clamp(-3, 3))
    expected = Normal(mean, math.exp(0.5 * logvar)).icdf(u)
    sample = gaussian.sample(noise.clamp(-3, 3))
    torch.testing.assert_close(sample, expected, atol=1e-4 if dtype == torch.float32 else 1e-11, rtol=0)
    assert sample.dtype == dtype


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 2, 4)])
def test_tensor_of_log_variances(shape, dtype, device):
    mean, noise, logvar = (draw(s, dtype, device, i) for i, s in enumerate([(3, 2, 4), (3, 2, 4), shape]))
    gaussian = Gaussian(mean, logvar)
    tight = {"atol": 1e-6, "rtol": 1e-6} if dtype == torch.float32 else {"atol": 1e-14, "rtol": 1e-14}
    torch.testing.assert_close(gaussian.std**2, logvar.exp(), **tight)
    expected = Normal(mean, logvar.exp().sqrt().expand(mean.shape))
    # (x − mean)/std is the noise again
    torch.testing.assert_close((gaussian.sample(noise) - expected.mean) / expected.stddev, noise, **tight)
    assert gaussian.sample(noise).shape == mean.shape


def test_moments_of_samples():
    mean = torch.tensor([[-2.0, 0.5]]).expand(40_000, 2)
    logvar = torch.tensor([[math.log(4.0), math.log(0.09)]]).expand(40_000, 2)
    x = Gaussian(mean, logvar).sample(draw((40_000, 2), torch.float32, torch.device("cpu")))
    sd = torch.tensor([2.0, 0.3])
    assert torch.all((x.mean(0) - mean[0]).abs() < 4.5 * sd / 200)
    assert torch.all((x.var(0) / sd**2 - 1).abs() < 4.5 * math.sqrt(2 / 40_000))


def test_a_point_has_no_spread():
    """The posterior at s = 0 has log-variance −∞."""
    mean, noise = torch.tensor([[0.25, -1.0]]), torch.tensor([[3.0, -2.0]])
    assert torch.equal(Gaussian(mean, -math.inf).sample(noise), mean)
    assert torch.equal(Gaussian(mean, torch.full((1, 1), -math.inf)).sample(noise), mean)


def test_gradient_reaches_mean_and_log_variance():
    mean, logvar = torch.zeros(1, 3, requires_grad=True), torch.full((1, 3), -0.4, requires_grad=True)
    noise = torch.tensor([[1.0, -2.0, 0.5]])
    Gaussian(mean, logvar).sample(noise).sum().backward()
    torch.testing.assert_close(mean.grad, torch.ones(1, 3))
    torch.testing.assert_close(logvar.grad, 0.5 * math.exp(-0.2) * noise)
