"""Gaussian against torch.distributions.Normal, and the probability of a pixel against 60-digit numbers."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ddpm.gaussian import Gaussian

PIXELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1.0


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


# -- densities and divergences -----------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", ["numbers", "tensors", "mixed", "mixed back"])
def test_divergence_and_density_equal_torch_s(kinds, device):
    mean, other, x, a, b = (draw((5, 2, 3), torch.float64, device, i) for i in range(5))
    ours, theirs = Gaussian(mean, 2.0 * a - 3.0), Gaussian(other, 2.0 * b - 3.0)
    if kinds in ("numbers", "mixed"):
        theirs = theirs._replace(logvar=-2.5)
    if kinds in ("numbers", "mixed back"):
        ours = ours._replace(logvar=-2.1)
    p, q = (Normal(g.mean, torch.as_tensor(g.std, dtype=torch.float64, device=device)) for g in (ours, theirs))
    torch.testing.assert_close(ours.kl(theirs), kl_divergence(p, q), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(ours.log_density(x), p.log_prob(x), rtol=1e-12, atol=1e-12)
    assert torch.all(ours.kl(theirs) > 0) and torch.equal(ours.kl(ours), torch.zeros_like(mean))


@pytest.mark.parametrize("ratio", [1e-1, 1e-3, -1e-5])
def test_divergence_of_nearly_the_same_keeps_its_digits(ratio):
    """½(eʳ − 1 − r), a ten-billionth of a nat, of which the formula as it stands would leave no digit."""
    with mpmath.workdps(60):
        exact = float((mpmath.exp(ratio) - 1 - mpmath.mpf(ratio)) / 2)
    mean = torch.zeros(1, 1, dtype=torch.float64)
    for logvar in (ratio, torch.full((1, 1), ratio, dtype=torch.float64)):
        assert Gaussian(mean, logvar).kl(Gaussian(mean, 0.0)).item() == pytest.approx(exact, rel=1e-10)


def test_a_step_into_a_point_leaves_no_wrong_gradient():
    """KL from a point is infinite; where it is not taken, its gradient must be nought and no NaN."""
    mean, logvar = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    divergence = Gaussian(torch.ones(2, 3), torch.tensor([[-math.inf], [-1.0]])).kl(Gaussian(mean, logvar))
    assert torch.all(divergence[0] == math.inf) and torch.all(divergence[1].isfinite())
    torch.where(torch.tensor([[True], [False]]), 0.0, divergence).sum().backward()
    for gradient in (mean.grad, logvar.grad):
        assert torch.all(gradient[0] == 0) and torch.all(gradient[1] != 0) and torch.all(gradient.isfinite())


# -- pixels ------------------------------------------------------------------------------------------------


def log_pixels(mean: float | Tensor, logvar: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """log P of all 256 values."""
    x = PIXELS.to(dtype).view(1, 256)
    means = mean if isinstance(mean, Tensor) else torch.full((1, 256), mean, dtype=dtype)
    return Gaussian(means, logvar).discretised_log_likelihood(x)[0]


MEANS = st.floats(-1.2, 1.2) | st.floats(-1e3, 1e3) | st.sampled_from([0.0, 1.0, -1.0, PIXELS[77].item()])


@given(MEANS, st.floats(-40.0, 14.0))
def test_the_256_probabilities_sum_to_one(mean, logvar):
    """From a deviation of 2e-9, where one value has it all, to 1,100, where the open ends have."""
    assert log_pixels(mean, logvar).exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    as_tensor = Gaussian(torch.full((1, 256), mean).double(), torch.full((1, 256), logvar).double())
    total = as_tensor.discretised_log_likelihood(PIXELS.view(1, 256)).exp().sum().item()
    assert total == pytest.approx(1.0, abs=1e-12)


@given(st.floats(-10.0, 10.0), st.floats(-40.0, 14.0))
def test_the_256_probabilities_sum_to_one_in_single_precision(mean, logvar):
    assert log_pixels(mean, logvar, torch.float32).double().exp().sum().item() == pytest.approx(1.0, abs=2e-5)


def exactly(mean: float, logvar: float, k: int) -> tuple[float, float]:
    """log P of pixel k and its derivative by the mean, in 60 digits, of the very numbers given."""
    with mpmath.workdps(60):
        m, std = mpmath.mpf(mean), mpmath.exp(mpmath.mpf(logvar) / 2)
        upper = mp.inf if k == 255 else (mpmath.mpf(2 * k + 1) / 255 - 1 - m) / std
        lower = -mp.inf if k == 0 else (mpmath.mpf(2 * k - 1) / 255 - 1 - m) / std
        if lower + upper > 0:  # the tail where erfc keeps its digits
            lower, upper = -upper, -lower
            sign = -1
        else:
            sign = 1
        mass = (mpmath.erfc(-upper / mpmath.sqrt(2)) - mpmath.erfc(-lower / mpmath.sqrt(2))) / 2
        slope = sign * (mpmath.npdf(lower) - mpmath.npdf(upper)) / (mass * std)
        return float(mpmath.log(mass)), float(slope)


@pytest.mark.parametrize("logvar", [-30.0, -18.0, -9.82, -9.0, -5.0, -2.0, 0.0, 4.0])
@pytest.mark.parametrize("mean", [-7.0, -1.0, -0.3, 0.001, 0.7, 1.05, 40.0])
def test_a_pixel_s_probability_and_its_gradient_equal_60_digits(mean, logvar):
    """Up to 10^8 deviations out, where the probability is e to the −10^15."""
    means = torch.full((1, 256), mean, dtype=torch.float64, requires_grad=True)
    ours = log_pixels(means, logvar)
    ours.sum().backward()
    for k in (0, 1, 2, 80, 127, 128, 200, 253, 254, 255):
        log_mass, slope = exactly(mean, logvar, k)
        # The distance to the mean is rounded at 1e-16 of its parts, deviations are up to 3e6 of a unit.
        off = abs(PIXELS[k].item() - mean) * math.exp(-0.5 * logvar)
        rounding = 1e-15 * (1 + abs(mean)) * math.exp(-0.5 * logvar) * (1 + off)
        assert ours[k].item() == pytest.approx(log_mass, rel=1e-12, abs=1e-11 + rounding)
        near = max(1e-9, 4e-15 * math.exp(-0.5 * logvar) * (1 + abs(mean)))
        least = 1e-9 * math.exp(-0.5 * logvar)
        assert means.grad[0, k].item() == pytest.approx(slope, rel=near, abs=least)


def test_where_scipy_can_compute_it():
    for mean, std in ((0.1, 0.05), (-0.9, 0.4), (0.3, 2.0)):
        edges = np.concatenate([[-np.inf], (2 * np.arange(255) + 1) / 255 - 1, [np.inf]])
        expected = np.diff(norm.cdf(edges, mean, std))
        ours = log_pixels(mean, 2 * math.log(std)).exp().numpy()
        np.testing.assert_allclose(ours, expected, rtol=1e-8, atol=1e-15)


def test_gradients_of_mean_and_log_variance_are_those_of_the_value():
    generator = torch.Generator().manual_seed(0)
    k = torch.randint(0, 256, (3, 8), generator=generator)
    k[0, :2], k[1, :2] = 0, 255
    x = k / 127.5 - 1.0
    mean = (x + 0.2 * torch.randn(x.shape, generator=generator)).double().requires_grad_()
    logvar = (-5.0 + 2.0 * torch.randn(x.shape, generator=generator)).double().requires_grad_()

    def value(mean: Tensor, logvar: Tensor) -> Tensor:
        return Gaussian(mean, logvar).discretised_log_likelihood(x.double())

    assert torch.autograd.gradcheck(value, (mean, logvar), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("logvar", [-40.0, -20.0, -9.82, 0.0, 8.0])
@pytest.mark.parametrize("mean", [-60.0, -1.0, 0.2, 1.0, 60.0])
def test_values_and_gradients_stay_finite_however_far_out(mean, logvar, kind):
    """And that of the mean points towards the pixel; at the open ends, outwards."""
    means = torch.full((1, 256), mean, dtype=kind, requires_grad=True)
    logvars = torch.full((1, 256), logvar, dtype=kind, requires_grad=True)
    ours = Gaussian(means, logvars).discretised_log_likelihood(PIXELS.to(kind).view(1, 256))
    ours.sum().backward()
    for values in (ours, means.grad, logvars.grad):
        assert torch.all(values.isfinite())
    assert torch.all(ours <= 0)
    off, slope = PIXELS[1:-1] - mean, means.grad[0, 1:-1]
    far = off.abs() > 1.5 / 127.5
    assert torch.all((slope.sign() == off.sign())[far])
    assert means.grad[0, 0] <= 0 <= means.grad[0, -1]


def test_pixels_of_single_precision_find_their_bin():
    """x is k/127.5 − 1 rounded to float32, in any of the ways that data reaches a net."""
    k = torch.arange(256)
    for x in (k.float() / 127.5 - 1.0, k.float() / 255.0 * 2.0 - 1.0, (k.double() / 127.5 - 1.0).float()):
        ours = Gaussian(torch.zeros(1, 256), -4.0).discretised_log_likelihood(x.view(1, 256))
        exact = log_pixels(0.0, -4.0)
        torch.testing.assert_close(ours[0].double(), exact, rtol=1e-4, atol=1e-5)


def test_openai_s_form_differs_by_what_its_distribution_function_does():
    """improved-diffusion's discretized_gaussian_log_likelihood: tanh in place of Φ, ends from |x| > .999."""

    def cdf(x: Tensor) -> Tensor:
        return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))

    line = torch.linspace(-6, 6, 100_001, dtype=torch.float64)
    assert (cdf(line) - torch.special.ndtr(line)).abs().max().item() == pytest.approx(1.8e-4, abs=2e-6)
    for mean, std in ((0.0, 0.3), (0.4, 0.02), (-0.9, 0.1), (0.2, 0.0074)):
        off = PIXELS - mean
        high, low = cdf((off + 1 / 255) / std), cdf((off - 1 / 255) / std)
        theirs = torch.where(PIXELS < -0.999, high, torch.where(PIXELS > 0.999, 1.0 - low, high - low))
        ours = log_pixels(mean, 2 * math.log(std)).exp()
        assert (theirs.clamp(min=1e-12) - ours).abs().max() < 2 * 1.8e-4
        assert not torch.allclose(theirs, ours, rtol=1e-6, atol=1e-7)
