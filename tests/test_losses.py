"""Losses against the formulas written out in plain torch, and their expectation against its closed form."""

import math

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

from ddpm.chain import Chain, make_chain
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.losses import Simple
from oracle import Mixture, OracleNet, cosine_betas, linear_betas

LEVELS = torch.tensor([1, 2, 100, 250, 500, 750, 999, 1000])
BAR = np.cumprod(1.0 - linear_betas(1000))
SNR = (BAR / (1.0 - BAR))[LEVELS.numpy() - 1]


class Affine(nn.Module):
    """A net that is wrong in a known way."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(-0.2))

    def forward(self, x, timestep, bias=0.0):
        return self.scale * x + self.shift * timestep.view(-1, 1, 1) / 1000 + bias


def published_weight(weight: str, predicts: str, snr: np.ndarray) -> np.ndarray:
    """Hang et al. 2023, section 3.4, and Choi et al. 2022, eq. 8, as factors of the net's own error."""
    if weight == "simple":
        return np.ones_like(snr)
    if weight == "min-snr":
        least = np.minimum(snr, 5.0)
        return {"eps": least / snr, "x0": least, "v": least / (snr + 1.0)}[predicts]
    eps = 1.0 / (1.0 + snr) ** 1.0
    return {"eps": eps, "x0": eps * snr, "v": eps * snr / (snr + 1.0)}[predicts]


@pytest.mark.parametrize("weight", ["simple", "min-snr", "p2"])
@pytest.mark.parametrize("error", ["l2", "l1", "huber"])
@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "mean"])
def test_terms_equal_the_formulas(predicts, error, weight):
    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand(8, 3, 5, generator=generator) * 2 - 1
    eps = torch.randn(8, 3, 5, generator=generator)
    net = Affine()
    loss = Simple(error, weight, huber_delta=0.7)
    model = Denoiser(net, make_chain("linear", 1000), predicts)
    if predicts == "mean" and weight != "simple":
        with pytest.raises(UserError, match="simple"):
            loss(model, x0, LEVELS, eps)
        return
    terms = loss(model, x0, LEVELS, eps, {"bias": 0.1})

    bar = torch.from_numpy(BAR)[LEVELS - 1].view(-1, 1, 1)
    before = torch.from_numpy(np.concatenate([[1.0], BAR]))[LEVELS - 1].view(-1, 1, 1)
    x, e = x0.double(), eps.double()
    xt = bar.sqrt() * x + (1 - bar).sqrt() * e
    beta = 1 - bar / before
    mean = before.sqrt() * beta / (1 - bar) * x + (1 - beta).sqrt() * (1 - before) / (1 - bar) * xt
    target = {"eps": e, "x0": x, "v": bar.sqrt() * e - (1 - bar).sqrt() * x, "mean": mean}[predicts]
    off = 0.5 * xt - 0.2 * (LEVELS - 1).view(-1, 1, 1) / 1000 + 0.1 - target
    small = off.abs() <= 0.7
    assert small.any() and not small.all()
    each = {"l2": off**2, "l1": off.abs(), "huber": torch.where(small, off**2 / 2, 0.7 * (off.abs() - 0.35))}[
        error
    ]
    expected = torch.from_numpy(published_weight(weight, predicts, SNR)) * each.mean((1, 2))
    torch.testing.assert_close(terms.loss.double(), expected, rtol=2e-4, atol=1e-7)
    torch.testing.assert_close(terms.error.double(), off.square().mean((1, 2)), rtol=2e-4, atol=1e-7)
    assert not terms.error.requires_grad

    terms.loss.sum().backward()
    assert net.scale.grad.abs() > 1e-4 and net.shift.grad.abs() > 1e-4


@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
def test_weight_tables(predicts):
    model = Denoiser(nn.Identity(), make_chain("linear", 1000), predicts)
    ours = Simple(weight="min-snr").weights(model, LEVELS).numpy()
    np.testing.assert_allclose(ours, published_weight("min-snr", predicts, SNR), rtol=1e-6)
    least = np.minimum(SNR, 2.0)
    ours = Simple(weight="min-snr", min_snr=2.0).weights(model, LEVELS).numpy()
    np.testing.assert_allclose(
        ours, {"eps": least / SNR, "x0": least, "v": least / (SNR + 1)}[predicts], rtol=1e-6
    )
    ours = Simple(weight="p2", p2_k=0.5, p2_gamma=1.5).weights(model, LEVELS).numpy()
    factor = {"eps": 1.0, "x0": SNR, "v": SNR / (SNR + 1)}[predicts]
    np.testing.assert_allclose(ours, factor / (0.5 + SNR) ** 1.5, rtol=1e-6)
    assert Simple().weights(model, LEVELS).tolist() == [1.0] * 8


def test_weights_stay_finite_at_the_end_of_the_cosine_chain():
    model = Denoiser(nn.Identity(), make_chain("cosine", 1000), "eps")
    for weight in ("min-snr", "p2"):
        values = Simple(weight=weight).weights(model, torch.arange(1, 1001))
        assert torch.all(values > 0) and torch.all(values <= 1) and values[-1] > 0.999


@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "mean"])
def test_the_expected_loss_of_a_perfect_net_has_a_closed_form(predicts):
    """What x_t leaves unknown, Var(x_0|x_t) = d²σ²/(α²d² + σ²) for N(m, d²), times the target's slope²."""
    std, mean, count = 0.6, 0.3, 40_000
    betas = cosine_betas(200)
    bar = np.concatenate([[1.0], np.cumprod(1.0 - betas)])
    data = Mixture.of([1.0], [[mean, mean]], [std])
    model = Denoiser(OracleNet(data, betas, predicts), Chain.from_betas(betas), predicts)
    x0 = torch.from_numpy(data.sample(count, 1))
    eps = torch.from_numpy(Mixture.of([1.0], [[0.0, 0.0]], [1.0]).sample(count, 2))
    for t in (1, 60, 199):
        terms = Simple()(model, x0, torch.full((count,), t), eps)
        unknown = std**2 * (1 - bar[t]) / (bar[t] * std**2 + 1 - bar[t])
        of_x0 = math.sqrt(bar[t - 1]) * betas[t - 1] / (1 - bar[t])
        slope = {
            "eps": math.sqrt(bar[t] / (1 - bar[t])),
            "x0": 1.0,
            "v": 1 / math.sqrt(1 - bar[t]),
            "mean": of_x0,
        }[predicts]
        # the error is normal, so its square has a standard deviation of √2 times its mean
        expected, spread = slope**2 * unknown, math.sqrt(2 / (2 * count))
        assert terms.loss.mean().item() == pytest.approx(expected, rel=4.5 * spread)
        torch.testing.assert_close(terms.loss, terms.error)


def test_no_other_net_does_better_than_the_perfect_one():
    betas = linear_betas(100)
    data = Mixture.of([0.3, 0.7], [[-0.5], [0.6]], [0.1, 0.2])
    x0, eps = (
        torch.from_numpy(data.sample(20_000, 1)),
        torch.from_numpy(Mixture.of([1.0], [[0.0]], [1.0]).sample(20_000, 2)),
    )
    t = torch.full((20_000,), 20)

    def loss(mixture: Mixture) -> float:
        return (
            Simple()(Denoiser(OracleNet(mixture, betas), Chain.from_betas(betas)), x0, t, eps).loss.mean().item()
        )

    best = loss(data)
    assert best < 0.98 * loss(Mixture.of([1.0], [data.mean], [math.sqrt(data.cov[0, 0])]))
    assert best < loss(Mixture.of([0.5, 0.5], [[-0.5], [0.6]], [0.1, 0.2]))


def test_a_loss_never_clips():
    """x̂_0 is clipped when sampling; the loss is of the net's own output."""
    x0, eps = torch.full((8, 1, 2), 0.9), torch.full((8, 1, 2), 3.0)
    chain, loss = make_chain("linear", 1000), Simple()
    a = loss(Denoiser(Affine(), chain, clip=True), x0, LEVELS, eps)
    b = loss(Denoiser(Affine(), chain, clip=False), x0, LEVELS, eps)
    assert torch.equal(a.loss, b.loss)


def test_unknown_options_are_refused():
    for options in ({"error": "l3"}, {"weight": "snr"}):
        with pytest.raises((UserError, jaxtyping.TypeCheckError), match=r"l2.*huber|min-snr"):
            Simple(**options)
    with pytest.raises(jaxtyping.TypeCheckError):
        Simple().weights(Denoiser(nn.Identity(), make_chain("linear", 100)), LEVELS.view(2, 4))
