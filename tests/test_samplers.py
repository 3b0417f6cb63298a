"""Samplers by name, and what holds for every one of them."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.errors import UserError
from ddpm.noise import WalkNoise
from ddpm.respacing import GRIDS
from ddpm.samplers import (
    DDIM,
    SAMPLERS,
    Ancestral,
    DPMSolver,
    Heun,
    Inversion,
    PredictorCorrector,
    make_sampler,
    options_of,
    walk,
)
from oracle import Mixture, cosine_betas, linear_betas
from walking import TWO, model_of, no_noise, seeded

ALL = {
    "ddpm": Ancestral(),
    "ddim": DDIM(),
    "ddim 0.5": DDIM(0.5),
    "dpm++": DPMSolver(),
    "dpm++sde": DPMSolver(True),
    "heun": Heun(),
    "heun 5": Heun(5.0, (0.01, 100.0), 1.003),
    "pc": PredictorCorrector(),
    "pc reverse": PredictorCorrector("reverse", 2, 0.1),
}


def test_samplers_by_name():
    made = {
        "ddpm": Ancestral(),
        "ddim": DDIM(0.0),
        "dpm++": DPMSolver(False),
        "dpm++sde": DPMSolver(True),
        "heun": Heun(0.0, (0.0, math.inf), 1.0),
        "pc": PredictorCorrector("ancestral", 1, 0.16),
    }
    assert {name: make_sampler(name) for name in SAMPLERS} == made


def test_options_are_a_samplers_own():
    assert make_sampler("ddim", eta=0.3) == DDIM(0.3)
    assert make_sampler("heun", churn=2.0, churn_range=(0.1, 9.0)) == Heun(2.0, (0.1, 9.0))
    assert make_sampler("pc", predictor="reverse", corrections=3) == PredictorCorrector("reverse", 3)
    assert options_of("ddpm") == options_of("dpm++") == options_of("dpm++sde") == ()
    assert options_of("heun") == ("churn", "churn_range", "churn_noise") and options_of("ddim") == ("eta",)


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("euler", {}, r"--sampler euler: takes ddpm, ddim, dpm\+\+, dpm\+\+sde, heun or pc"),
        ("dpm++", {"eta": 0.5}, r"--eta 0\.5: belongs to the sampler ddim; dpm\+\+ has none, take --sampler ddim"),
        ("ddim", {"churn_range": (1.0, 2.0)}, r"--churn-range 1\.0 2\.0: belongs to the sampler heun; ddim has"),
        ("ddpm", {"corrector_snr": 0.1}, r"--corrector-snr 0\.1: belongs to the sampler pc; ddpm has none"),
        ("dpm++sde", {"stochastic": False}, "--stochastic False: no sampler has such an option"),
        ("heun", {"warp": 9}, "--warp 9: no sampler has such an option"),
        ("ddim", {"eta": 1.5}, "--eta 1.5: lies between 0"),
    ],
)
def test_what_is_said_of_names_and_options_there_are_not(name, options, said):
    with pytest.raises(UserError, match=said):
        make_sampler(name, **options)


@pytest.mark.parametrize("steps", [1, 2, 6])
@pytest.mark.parametrize("name", ALL)
def test_evaluations_are_as_many_as_are_made(name, steps):
    model = model_of(TWO, linear_betas(50), steps, "log-snr")
    noise = WalkNoise(0, torch.arange(3), (2,), torch.float64)
    list(walk(model, ALL[name], noise(0), noise))
    assert len(model.net.calls) == ALL[name].evaluations(steps)


@pytest.mark.parametrize("refinements", [0, 2])
def test_evaluations_of_an_inversion(refinements):
    model = model_of(TWO, linear_betas(50), 6)
    list(walk(model, Inversion(refinements), seeded((3, 2), 0), no_noise, 0, 6))
    assert len(model.net.calls) == Inversion(refinements).evaluations(6) == 6 * (1 + refinements)


@pytest.mark.parametrize("name", ALL)
def test_a_walk_that_is_deterministic_asks_for_no_noise(name):
    asked = set()

    def noise(t: int, draw: int = 0) -> Tensor:
        assert (t, draw) not in asked, "the same noise twice"
        asked.add((t, draw))
        return seeded((2, 2), 10 * t + draw)

    sampler, model = ALL[name], model_of(TWO, linear_betas(50), 5, "edm")
    steps = list(walk(model, sampler, seeded((2, 2), 0), noise))
    assert sampler.deterministic == (asked == set())
    at = {
        "ddpm": {(t, 0) for t in (2, 3, 4, 5)},
        "ddim 0.5": {(t, 0) for t in (2, 3, 4, 5)},
        "dpm++sde": {(t, 0) for t in (2, 3, 4, 5)},
        "pc": {(t, 0) for t in (2, 3, 4, 5)} | {(t, 1) for t in (1, 2, 3, 4, 5)},
        "pc reverse": {(t, 0) for t in (2, 3, 4, 5)} | {(t, k) for t in (1, 2, 3, 4, 5) for k in (1, 2)},
    }
    assert asked == at.get(name, asked)
    torch.testing.assert_close(steps[-1].x, steps[-1].prediction.x0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_a_picture_is_the_same_in_any_batch(name, device, dtype):
    """Of batches of any size, and beside any others: no sum goes over pictures."""
    model = model_of(TWO, linear_betas(100), 12, "edm")

    def pictures(samples: list[int]) -> Tensor:
        noise = WalkNoise(4, torch.tensor(samples, device=device), (2,), dtype)
        *_, last = walk(model, ALL[name], noise(0), noise)
        return last.x

    whole = pictures(list(range(8)))
    torch.testing.assert_close(pictures([5, 0]), whole[[5, 0]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pictures([3]), whole[[3]], rtol=1e-5, atol=1e-6)
    assert len(whole.unique(dim=0)) == 8


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ALL)
def test_a_walk_of_one_step_is_what_the_model_sees_at_the_top(name, grid):
    """But for pc, whose corrector moves x first, and churn where there is room above."""
    model = model_of(TWO, cosine_betas(60), 1, grid)
    x = seeded((4, 2), 0)
    *_, last = walk(model, ALL[name], x, lambda t, k=0: seeded((4, 2), 9 + k))
    expected = model_of(TWO, cosine_betas(60))(x, 60).x0
    if name.startswith("pc"):
        assert not torch.equal(last.x, expected)
        expected = expected.mean(0).expand(4, 2)  # next to nothing of x is left in it
        torch.testing.assert_close(last.x, expected, rtol=0, atol=0.05)
    else:
        torch.testing.assert_close(last.x, expected, rtol=1e-6, atol=1e-6)


WIDE = Mixture.of([0.3, 0.7], [[-0.4, 0.2] * 10, [0.5, 0.1] * 10], [0.2, 0.3])
# heun takes half of the slope at the top over a step to 1/1,000 of its σ/α: the error is beyond all use
PAIRS = [(name, grid) for name in ALL for grid in GRIDS if not (name.startswith("heun") and grid == "quadratic")]


@pytest.mark.parametrize("name, grid", PAIRS)
def test_a_mixture_is_drawn_from_the_top_of_a_cosine_chain(name, grid):
    """σ/α is 20,000 there, and next to nothing of the signal is left."""
    count, model = 200, model_of(WIDE, cosine_betas(1000), 60, grid)
    noise = WalkNoise(3, torch.arange(count), (20,), torch.float64)
    *_, last = walk(model, ALL[name], noise(0), noise)
    x = last.x.numpy()
    off = np.abs(x.mean(0) - WIDE.mean) / np.sqrt(np.diag(WIDE.cov) / count)
    spread = np.sqrt(np.diag(np.cov(x.T)) / np.diag(WIDE.cov))
    assert off.max() < 5 and abs(spread.mean() - 1.0) < 0.1, (off, spread)
    assert abs(np.mean(WIDE.component(x) == 0) - 0.3) < 0.13


@pytest.mark.parametrize("name", ALL)
def test_conditions_reach_the_net(name):
    class Labelled(torch.nn.Module):
        def forward(self, x: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
            return label.view(-1, 1).expand_as(x).to(x)

    model = model_of(TWO, linear_betas(30), predicts="x0")
    model.net = Labelled()
    noise = WalkNoise(0, torch.arange(2), (3,))
    *_, last = walk(model, ALL[name], noise(0), noise, label=torch.tensor([0.25, -0.5]))
    torch.testing.assert_close(last.x, torch.tensor([[0.25] * 3, [-0.5] * 3]))


def test_samplers_are_plain_values():
    assert len(set(ALL.values())) == len(ALL) and Heun(5.0) == Heun(churn=5.0) and DDIM() != DPMSolver()
