"""The whole bound against analytic likelihoods.

For Gaussian data everything has a closed form. Given x_0 each term is a polynomial of degree two in the noise, so
three Gauss–Hermite nodes give its mean over the noise exactly.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.bound import prior, term
from ddpm.chain import Chain
from ddpm.denoiser import Denoiser
from ddpm.evaluate import likelihood
from ddpm.gaussian import Gaussian
from oracle import (
    ExactNet,
    Mixture,
    OracleNet,
    bars,
    cosine_betas,
    linear_betas,
    published_levels,
    reverse_variance,
)

SCALAR = Mixture.of([1.0], [[0.4]], [0.6])
DIAGONAL = Mixture.of([1.0], [[0.4, -0.2, 0.0]], [[0.3, 1.0, 1.7]])
HALF = Mixture.of([1.0], [[0.1]], [0.5])
NODES, MASSES = np.polynomial.hermite_e.hermegauss(3)
MASSES = MASSES / MASSES.sum()


def exact_model(
    data: Mixture, betas: np.ndarray, keep: list[int] | None = None, predicts: str = "eps"
) -> Denoiser:
    """The exact reverse process on the levels kept: its log-variance is learned for just these steps."""
    chain = Chain.from_betas(betas)
    chain = chain.respace(keep) if keep else chain
    return Denoiser(ExactNet(data, betas, keep, predicts), chain, predicts, "learned", clip=False, native=chain)


def expected_terms(model: Denoiser, x0: Tensor, decoder=Gaussian.log_density) -> Tensor:
    """The mean over the noise of every term, [B, T], by quadrature in float64."""
    columns, each = [], x0.repeat(len(NODES), 1)
    eps = torch.from_numpy(NODES).repeat_interleave(len(x0))[:, None].expand_as(each)
    for t in range(1, model.chain.T + 1):
        xt = model.chain.q(each, t).sample(eps)
        terms = term(model, each, xt, t, t - 1, model(xt, t), decoder)
        columns.append(torch.from_numpy(MASSES) @ terms.view(len(NODES), len(x0)))
    return torch.stack(columns, dim=1)


def surprise(data: Mixture, x0: Tensor) -> np.ndarray:
    """−log₂ of the density, a dimension."""
    return -data.log_density(x0.numpy()) / (x0.shape[1] * math.log(2.0))


def left_in_x_T(data: Mixture, bar: float, x0: np.ndarray) -> np.ndarray:
    """E over q(x_T|x_0) of log q(x_T) − log N(x_T; 0, 1), in bits/dim: what starting from N(0, 1) costs."""
    top = data.noised(math.sqrt(bar), math.sqrt(1.0 - bar))
    mean, variance = math.sqrt(bar) * x0, 1.0 - bar
    log_q = -0.5 * (((mean - top.means[0]) ** 2 + variance) / top.stds[0] ** 2 + 2 * np.log(top.stds[0]))
    return (log_q + 0.5 * (mean**2 + variance)).mean(1) / math.log(2.0)


# -- the exact reverse process -----------------------------------------------------------------------------

# A net that predicts the mean refers to the steps of the whole chain, so it is not among the respaced ones.
WHOLE = [(make, steps, None) for make, steps in ((cosine_betas, 50), (linear_betas, 30))]
SPACED = [(cosine_betas, 200, "12"), (linear_betas, 100, "30,5,1")]
MODELS = [("mean", *WHOLE[0])] + [(p, *how) for p in ("eps", "x0", "v") for how in WHOLE + SPACED]


@pytest.mark.parametrize(("predicts", "make", "steps", "spec"), MODELS)
@pytest.mark.parametrize("data", [SCALAR, DIAGONAL], ids=["scalar", "diagonal"])
def test_the_exact_reverse_process_has_the_exact_likelihood(data, predicts, make, steps, spec):
    """To 1e-9 at every single x_0: the bound is −log q(x_0), and what x_T keeps of the data."""
    betas, keep = make(steps), published_levels(spec or str(steps), steps)
    model = exact_model(data, betas, keep if spec else None, predicts)
    x0 = torch.from_numpy(data.sample(6, 0))
    bound = prior(model.chain, x0) + expected_terms(model, x0).sum(1)
    exact = surprise(data, x0) + left_in_x_T(data, bars(betas, keep)[-1], x0.numpy())
    np.testing.assert_allclose(bound.numpy(), exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("data", [SCALAR, DIAGONAL], ids=["scalar", "diagonal"])
def test_likelihood_equals_the_analytic_one_up_to_its_standard_error(data):
    """Measured as a user would, noise and all."""
    count = 4000
    model, x0 = exact_model(data, cosine_betas(50)), torch.from_numpy(data.sample(count, 1))
    measured = likelihood(model, x0, torch.arange(count), decoder=Gaussian.log_density)
    torch.testing.assert_close(measured.total, measured.prior + measured.terms.sum(1))
    error = measured.total.numpy() - surprise(data, x0)
    standard = error.std() / math.sqrt(count)
    assert standard < 0.03  # bits/dim, which is little enough to tell any wrong variance
    assert abs(error.mean()) < 4 * standard
    model = model.with_variance("small")
    wrong = likelihood(model, x0, torch.arange(count), decoder=Gaussian.log_density)
    error = wrong.total.numpy() - surprise(data, x0)
    assert error.mean() > 10 * error.std() / math.sqrt(count)


# -- fixed variances ---------------------------------------------------------------------------------------


def gap(betas: np.ndarray, data: Mixture, variance: str, own_first: bool = True) -> float:
    """Bits/dim that a fixed variance costs on average, by the formula: ½(r − 1 − log r), r = exact/fixed.

    own_first: the last step has its exact variance, and so costs nothing; else the second's, as the model's has.
    """
    bar = bars(betas, list(range(1, len(betas) + 1)))
    tilde = betas * (1.0 - bar[:-1]) / (1.0 - bar[1:])
    fixed = np.append(tilde[1], (tilde if variance == "small" else betas)[1:])
    ratio = reverse_variance(bar, data.stds[0]) / fixed[:, None]
    each = 0.5 * (ratio - 1.0 - np.log(ratio)).mean(1) / math.log(2.0)
    return float(each[1 if own_first else 0 :].sum())


def measured_gap(betas: np.ndarray, data: Mixture, variance: str, own_first: bool = True) -> float:
    """The same from the terms, averaged over x_0 (of which they are quadratic too)."""
    model = Denoiser(OracleNet(data, betas), Chain.from_betas(betas), variance=variance, clip=False)
    first = torch.from_numpy(np.log(reverse_variance(bars(betas, [1]), data.stds[0])))

    def own(p: Gaussian, x: Tensor) -> Tensor:
        return Gaussian(p.mean, first.expand_as(p.mean)).log_density(x)

    x0 = torch.from_numpy(data.means + data.stds * NODES[:, None])
    bound = prior(model.chain, x0) + expected_terms(model, x0, own if own_first else Gaussian.log_density).sum(1)
    rest = bound.numpy() - surprise(data, x0) - left_in_x_T(data, float(np.prod(1.0 - betas)), x0.numpy())
    return float(MASSES @ rest)


def even_log_snr_betas(steps: int) -> np.ndarray:
    """β whose log SNR falls evenly from 7 to −7."""
    bar = 1.0 / (1.0 + np.exp(np.linspace(-7.0, 7.0, steps)))
    return 1.0 - bar / np.append(1.0, bar[:-1])


@pytest.mark.parametrize("data", [SCALAR, DIAGONAL], ids=["scalar", "diagonal"])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_gap_of_a_fixed_variance_shrinks_as_the_steps_grow(variance, data):
    """As 1/T, where the levels' log SNR has a fixed range and the last step has the exact variance."""
    steps = np.array([10, 30, 100, 300])
    ours = np.array([measured_gap(even_log_snr_betas(T), data, variance) for T in steps])
    expected = [gap(even_log_snr_betas(T), data, variance) for T in steps]
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-9)
    assert np.all(ours > 0)
    order = -np.diff(np.log(ours)) / np.diff(np.log(steps))
    assert np.all(order > 0.8) and order[-1] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("make", [linear_betas, cosine_betas])
def test_the_gap_on_the_published_chains(make):
    """β costs nothing in the end. β̃ costs ½ Σ (1/(t−1) − log(t/(t−1))) nats in the first steps, where σ² grows as
    t: half of Euler's constant, however many steps there are."""
    steps = (30, 100, 200)
    large = [measured_gap(make(T), HALF, "large") for T in steps]
    np.testing.assert_allclose(large, [gap(make(T), HALF, "large") for T in steps], rtol=1e-5, atol=1e-9)
    assert large[0] > 2 * large[1] > 3 * large[2] > 0
    small = [measured_gap(make(T), HALF, "small") for T in steps]
    np.testing.assert_allclose(small, [gap(make(T), HALF, "small") for T in steps], rtol=1e-6)
    assert small[0] > small[1] > small[2]
    limit = 0.5 * np.euler_gamma / math.log(2.0)
    far = [gap(make(T), HALF, "small") for T in (1000, 10_000, 100_000)]
    assert small[-1] > far[0] > far[1] > far[2] > limit
    assert far[-1] == pytest.approx(limit, rel=0.05)


def test_the_first_step_s_stand_in_variance_costs_a_constant():
    """β̃_2 for Var(x_0|x_1), which is twice as much where σ² grows as t: a density loses ½(1 − log 2) nats.

    With either fixed variance, and the more exactly the longer the chain. (Pixels are no densities: their bins are
    wider than that.)
    """
    for variance in ("small", "large"):
        for make in (linear_betas, cosine_betas):
            whole, part = (gap(make(100_000), HALF, variance, own_first=own) for own in (False, True))
            assert whole - part == pytest.approx(0.5 * (1.0 - math.log(2.0)) / math.log(2.0), rel=0.01)
            ours = measured_gap(make(60), HALF, variance, own_first=False)
            assert ours == pytest.approx(gap(make(60), HALF, variance, own_first=False), rel=1e-6)


# -- on pixels ---------------------------------------------------------------------------------------------


def test_the_bound_on_pixels_bounds_their_exact_probability():
    """One pixel of known probabilities: a perfect net's bound on −log P is above it, by little."""
    k = np.arange(256)
    p = np.exp(-0.5 * ((k - 90.0) / 25.0) ** 2) + 0.7 * np.exp(-0.5 * ((k - 200.0) / 9.0) ** 2)
    p /= p.sum()
    betas, count = linear_betas(60), 1000
    data = Mixture.of(p, (k / 127.5 - 1.0)[:, None], np.full(256, 1e-6))
    model = Denoiser(OracleNet(data, betas), Chain.from_betas(betas), variance="large", clip=False)
    drawn = np.random.default_rng(0).choice(256, count, p=p)
    measured = likelihood(model, torch.from_numpy(drawn / 127.5 - 1.0)[:, None], torch.arange(count))
    # against the surprise of the very pixels drawn, which takes the draw's own error out
    over = measured.total.numpy() + np.log2(p[drawn])
    standard = over.std() / math.sqrt(count)
    assert standard < 0.07
    assert -4 * standard < over.mean() < 0.5
