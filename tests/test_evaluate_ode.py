"""The probability-flow ODE's density against the analytic one of noised mixtures, at the method's order."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from ddpm.chain import Chain
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.evaluate.ode import Density, Flow, bits_per_dim, density, dequantised, summarise
from oracle import Mixture, cosine_betas, linear_betas

GAUSSIAN = Mixture.of([1.0], [[0.0, 0.0, 0.0]], [[0.5, 0.2, 0.9]])
# Means are 0, so that what is left of them at the end of a linear chain does not count: x_T is taken for N(0, 1).
MIXTURE = Mixture.of([0.5, 0.3, 0.2], [[0.4, 0.0, -0.2], [-0.6, 0.4, 0.2], [-0.1, -0.6, 0.2]], [0.3, 0.2, 0.25])
CHAINS = {"linear": linear_betas(1000), "cosine": cosine_betas(1000)}


class SmoothOracle(nn.Module):
    """The perfect net of a mixture in torch, so that it has derivatives, between levels too: log SNR is linear there.

    Written from the posterior of each component, as OracleNet is: E[x_0|x_t], and ε̂ or v̂ from it.
    """

    def __init__(self, mixture, betas, predicts="eps"):
        super().__init__()
        self.weights, self.means, self.stds = (torch.from_numpy(np.asarray(a)) for a in vars(mixture).values())
        bar = np.cumprod(1.0 - betas)
        self.log_snr, self.predicts, self.batches = np.log(bar / (1.0 - bar)), predicts, []

    def forward(self, x, timestep, label=None):
        assert torch.all(timestep == timestep[0])
        self.batches.append(len(x))
        log_snr = np.interp(float(timestep[0]), np.arange(len(self.log_snr)), self.log_snr)
        alpha, sigma = math.sqrt(1.0 / (1.0 + math.exp(-log_snr))), math.sqrt(1.0 / (1.0 + math.exp(log_snr)))
        flat = x.flatten(1).double()
        variance = (alpha * self.stds) ** 2 + sigma**2
        off = flat[:, None] - alpha * self.means
        parts = self.weights.log() - 0.5 * (off**2 / variance + variance.log()).sum(-1)
        if label is not None:  # component k is class k
            parts = parts.masked_fill(torch.arange(len(self.weights)) != label[:, None], -torch.inf)
        shares = parts.softmax(1)[..., None]
        x0 = (shares * (self.means + alpha * self.stds**2 / variance * off)).sum(1)
        eps = (shares * sigma * off / variance).sum(1)
        return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[self.predicts].view(x.shape).to(x)


def model(mixture, betas, predicts="eps", clip=False):
    return Denoiser(SmoothOracle(mixture, betas, predicts), Chain.from_betas(betas), predicts, "small", clip)


def analytic(mixture, betas, x0):
    """log p of x_0 under the law of x_1/α_1: the data with noise of deviation σ_1/α_1."""
    bar = 1.0 - betas[0]
    return mixture.noised(1.0, math.sqrt((1.0 - bar) / bar)).log_density(x0.flatten(1).numpy())


def drawn(mixture, count, seed=0):
    return torch.from_numpy(mixture.sample(count, seed))


def of(made):
    return made.log_p.numpy()


@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("mixture", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_it_is_the_analytic_density_of_the_noised_data(mixture, chain, predicts):
    betas, x0 = CHAINS[chain], drawn(mixture, 50)
    made = density(model(mixture, betas, predicts), x0, torch.arange(50), Flow(64, 0))
    off = of(made) - analytic(mixture, betas, x0)
    assert np.abs(off).max() < 1e-3


@pytest.mark.parametrize("chain", CHAINS)
def test_off_centre_it_is_the_law_that_the_flow_makes_of_noise(chain):
    """Of one Gaussian the flow is affine: z − m grows as √(d² + u²), and z_T is taken for N(0, 1/α_T²)."""
    betas, mean, std = CHAINS[chain], np.array([0.6, -0.4, 0.8]), np.array([0.5, 0.2, 0.9])
    data = Mixture.of([1.0], [mean], [std])
    x0, bar = drawn(data, 30), np.cumprod(1.0 - betas)[[0, -1]]
    u = np.sqrt((1.0 - bar) / bar)
    grown = np.sqrt((std**2 + u[1] ** 2) / (std**2 + u[0] ** 2)) * math.sqrt(bar[1])
    top = math.sqrt(bar[1]) * mean + grown * (x0.numpy() - mean)
    expected = (-0.5 * top**2 - 0.5 * math.log(2 * math.pi) + np.log(grown)).sum(1)
    made = density(model(data, betas), x0, torch.arange(30), Flow(64, 0))
    np.testing.assert_allclose(of(made), expected, atol=3e-4)
    np.testing.assert_allclose(made.prior, (-0.5 * top**2 - 0.5 * math.log(2 * math.pi)).sum(1), atol=3e-4)
    assert torch.equal(made.log_p, made.prior + made.volume)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("mixture", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_probes_are_right_in_the_mean(mixture, chain):
    """One picture under many numbers, so many probes: the mean to 1e-3 as far as its own spread allows."""
    betas, x0 = CHAINS[chain], drawn(mixture, 1, seed=3).expand(4000, -1)
    made = density(model(mixture, betas), x0, torch.arange(4000), Flow(32, 1))
    off = of(made) - of(density(model(mixture, betas), x0[:1], torch.arange(1), Flow(32, 0)))
    if mixture is GAUSSIAN:  # whose derivative is diagonal: signs square to 1, and nothing is left to chance
        assert np.abs(off).max() < 1e-4
    else:
        assert off.std() > 1e-2 and abs(off.mean()) < max(1e-3, 4 * off.std() / math.sqrt(len(off)))


@pytest.mark.parametrize("chain", CHAINS)
def test_the_error_falls_at_the_method_s_order_and_is_told(chain):
    betas, x0 = CHAINS[chain], drawn(MIXTURE, 60)
    runs = {K: density(model(MIXTURE, betas), x0, torch.arange(60), Flow(K, 0)) for K in (16, 32, 128)}
    errors = {K: np.abs(of(runs[K]) - of(runs[128])).mean() for K in (16, 32)}
    print(chain, errors, [runs[K].error.mean() for K in (16, 32)])
    assert errors[16] / errors[32] > 2**3.3
    for K in (16, 32):
        assert 0.4 < float(runs[K].error.mean()) / errors[K] < 2.5
    assert torch.allclose(runs[32].coarse, runs[16].log_p, atol=1e-6)
