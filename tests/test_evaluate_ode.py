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

GAUSSIAN = Mixture.of([1.0], [[0.3, -0.2, 0.1]], [[0.5, 0.2, 0.9]])
# Its mean is 0, so that what is left of it at the end of a linear chain does not count: x_T is taken for N(0, 1).
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
    print(chain, predicts, np.abs(off).max(), off.mean())
    assert np.abs(off).max() < 1e-3
