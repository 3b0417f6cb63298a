"""What a report asks of a model: against formulas."""

import numpy as np
import pytest
import torch
from torch import nn

from ddpm.chain import make_chain
from ddpm.denoiser import Denoiser
from ddpm.loading import load as load_model
from ddpm.report import looks
from tiny import run

# -- denoising -----------------------------------------------------------------------------------------------


class Constant(nn.Module):
    """A net that says the same of everything, and keeps what it was asked."""

    def __init__(self, value):
        super().__init__()
        self.value, self.asked = nn.Parameter(torch.tensor(value)), []

    def forward(self, x, timestep, **cond):
        self.asked.append((x, timestep, cond))
        return self.value.expand_as(x)


def grey(x):
    return np.clip(np.round((x + 1) * 127.5), 0, 255)


def test_denoising_shows_what_the_formulas_say():
    """x_t = α x_0 + σ ε, ε̂ = (x_t − α x̂_0)/σ, and the posterior's mean by Ho et al.'s equation 7."""
    chain = make_chain("linear", 100)
    net = Constant(0.25)
    x0 = torch.linspace(-0.9, 0.9, 12).view(1, 3, 4)
    seen = looks.denoise(Denoiser(net, chain, "x0"), x0, label=1, count=5)
    assert seen.levels == (100, 75, 50, 26, 1)
    (xt, timestep, cond), alpha_bar = (
        net.asked[0],
        np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-3, 0.2, 100))]),
    )
    assert timestep.tolist() == [99, 74, 49, 25, 0] and cond["label"].tolist() == [1] * 5
    noise = None
    for i, t in enumerate(seen.levels):
        s = (*seen.levels, 0)[i + 1]
        x = xt[i].numpy().astype(float)
        at, as_ = alpha_bar[t], alpha_bar[s]
        np.testing.assert_allclose(seen.log_snr[i], np.log(at / (1 - at)), rtol=1e-6)
        eps = (x - np.sqrt(at) * x0.numpy()) / np.sqrt(1 - at)
        noise = eps if noise is None else noise
        np.testing.assert_allclose(eps, noise, atol=2e-3)  # the same noise at every level
        beta = 1 - at / as_
        mean = np.sqrt(as_) * beta / (1 - at) * 0.25 + np.sqrt(at / as_) * (1 - as_) / (1 - at) * x
        told = (x - np.sqrt(at) * 0.25) / np.sqrt(1 - at)
        for shown, exact in (
            (seen.xt, x),
            (seen.eps, told / 3),
            (seen.mean, mean),
            (seen.predicted, 0 * x + 0.25),
        ):
            assert np.abs(shown[i] - grey(exact)).max() <= 1
    np.testing.assert_array_equal(seen.x0, grey(x0.numpy()))
    assert 0.5 < noise.std() < 1.5


@pytest.mark.parametrize("steps, levels", [(1, 1), (2, 2), (5, 5), (40, 12)])
def test_a_short_chain_shows_all_of_its_levels(steps, levels):
    net = Denoiser(Constant(0.0), make_chain("cosine", steps), "v")
    seen = looks.denoise(net, torch.zeros(1, 4, 4), None)
    assert len(seen.levels) == levels and seen.levels[0] == steps and seen.levels[-1] == 1
    assert net.net.asked[0][2] == {}


# -- samples -------------------------------------------------------------------------------------------------


def test_samples_are_those_of_their_class(tmp_path):
    model = load_model(run(tmp_path / "run").folder, "cpu")
    drawn = looks.draw(model, 12, 3)
    assert drawn.labels == (0, 1, 2) and drawn.samples.labels == (0,) * 4 + (1,) * 4 + (2,) * 4
    again = model.sample(12, steps=3, label=[0] * 4 + [1] * 4 + [2] * 4)
    np.testing.assert_array_equal(drawn.of(1), again.pixels[4:8])
    assert drawn.seconds > 0
    assert looks.how_drawn(model.sample(1, sampler="dpm++", steps=3)) == "3 steps of DPM-Solver++"
    assert looks.how_drawn(model.sample(1, sampler="ddim", steps=1)) == "1 step of DDIM"


@pytest.mark.parametrize("count, each", [(1, 2), (6, 2), (300, 8)])
def test_every_class_has_some_and_not_too_many(tmp_path, count, each):
    model = load_model(run(tmp_path / "run").folder, "cpu")
    assert len(looks.draw(model, count, 1).of(2)) == each


def test_the_most_frequent_classes_are_shown():
    shares = (0.1, 0.0, 0.5, 0.4)
    assert looks.most_frequent(shares, 4, 2) == (2, 3)
    assert looks.most_frequent(shares, 4) == (0, 1, 2, 3)
    assert looks.most_frequent((), 120) == tuple(range(100))
    assert looks.most_frequent((), 0) == ()


def test_noise_in_the_transparency_is_not_shown():
    """Of pictures with transparency only what is meant as one, x_0 and its estimate, lets the page through."""
    net = Denoiser(Constant(-1.0), make_chain("cosine", 40), "x0")
    seen = looks.denoise(net, torch.full((4, 6, 6), -1.0), None)
    for shown in (seen.xt, seen.eps, seen.mean):
        assert (shown[:, 3] == 255).all()
    assert (seen.predicted[:, 3] == 0).all() and (seen.x0[3] == 0).all()
    assert seen.xt[:, :3].std() > 10
