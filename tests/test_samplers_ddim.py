"""DDIM against diffusers, exact laws and the ODE's own solution; its inversion against it."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from ddpm.chain import Chain, make_chain
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.noise import WalkNoise
from ddpm.samplers import DDIM, Ancestral, Inversion, walk
from oracle import ancestral_law, cosine_betas, ddim_law, linear_betas, probability_flow
from walking import (
    LEADING,
    MEAN,
    ONE,
    SPECS,
    STD,
    TWO,
    Wavy,
    check_law,
    check_samples,
    compare,
    in_double,
    model_of,
    no_noise,
    seeded,
)


def of(eta: float):
    return lambda bar, mean, std: ddim_law(bar, mean, std, eta)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("make", [linear_betas, cosine_betas])
def test_equals_diffusers_step_by_step(make, eta, clip):
    """ε̂ is always re-derived from a clipped x̂_0, which they do on demand."""
    scheduler = in_double(DDIMScheduler(clip_sample=clip, set_alpha_to_one=True), make(1000), LEADING)
    model = Denoiser(Wavy(), Chain.from_betas(make(1000)), "eps", "large", clip).respace(LEADING)
    compare(scheduler, DDIM(eta), model, clip, eta=eta, use_clipped_model_output=True)


@pytest.mark.parametrize("steps", [10, 40])
def test_equals_diffusers_on_the_trailing_grid(steps):
    scheduler = DDIMScheduler(clip_sample=True, set_alpha_to_one=True, timestep_spacing="trailing")
    in_double(scheduler, linear_betas(1000), [*range(1000 // steps, 1001, 1000 // steps)])
    model = Denoiser(Wavy(), Chain.from_betas(linear_betas(1000))).respace(steps, "trailing")
    compare(scheduler, DDIM(), model, True, use_clipped_model_output=True)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("spec", [None, "10", "7,5"])
def test_ddim_at_eta_1_is_ancestral_with_the_small_variance(spec, clip):
    chain = make_chain("cosine", 60)
    model = Denoiser(Wavy(), chain if spec is None else chain.respace(spec), "eps", "small", clip)
    x = seeded((2, 3, 4), 3)
    noise = WalkNoise(1, torch.arange(2), (3, 4), torch.float64)
    for a, b in zip(walk(model, Ancestral(), x, noise), walk(model, DDIM(1.0), x, noise), strict=True):
        torch.testing.assert_close(a.x, b.x, rtol=1e-9, atol=1e-9 * max(1.0, a.x.abs().max().item()))


@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "mean"])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_law_of_a_walk_on_a_gaussian(eta, spec, predicts):
    check_law(DDIM(eta), "small", of(eta), spec, predicts)
    if eta == 1.0:
        check_law(
            DDIM(eta), "large", lambda bar, mean, std: ancestral_law(bar, mean, std, "small"), spec, predicts
        )


def test_samples_of_a_gaussian_have_that_law(dtype, device):
    check_samples(DDIM(0.5), "small", of(0.5), dtype, device)


# -- the probability-flow ODE ----------------------------------------------------------------------------------


def flow(bar: float, top: float, x: np.ndarray) -> np.ndarray:
    """Where the ODE takes x_T on N(MEAN, STD²): to the same quantile of x_t's own normal."""
    spread = np.sqrt((bar * STD**2 + 1 - bar) / (top * STD**2 + 1 - top))
    return np.sqrt(bar) * MEAN + spread * (x - np.sqrt(top) * MEAN)


def test_ddim_converges_to_the_flow_with_order_one():
    betas, x = linear_betas(4000), seeded((8, 2), 0)
    full = np.cumprod(1.0 - betas)
    error = []
    for steps in (25, 50, 100, 200):
        *_, before_last, _ = walk(model_of(ONE, betas, str(steps)), DDIM(), x, no_noise)
        error.append(np.abs(before_last.x.numpy() - flow(full[0], full[-1], x.numpy())).max())
    order = np.log2(np.array(error[:-1]) / error[1:])
    assert np.all((order > 0.85) & (order < 1.25)), order


def test_ddim_of_the_full_chain_ends_at_the_flow():
    betas, x = linear_betas(1000), seeded((16, 2), 0)
    *_, last = walk(model_of(ONE, betas), DDIM(), x, no_noise)
    np.testing.assert_allclose(last.x.numpy(), flow(1.0, np.prod(1.0 - betas), x.numpy()), atol=0.03)


@pytest.mark.parametrize("grid", ["log-snr", "edm"])
def test_ddim_is_of_first_order_on_a_mixture(grid):
    x, error = seeded((6, 2), 0), []
    for steps in (20, 40, 80):
        model = model_of(TWO, linear_betas(1000), steps, grid)
        *_, before_last, _ = walk(model, DDIM(), x, no_noise)
        expected = probability_flow(TWO, x.numpy(), model.chain.gamma[-1], model.chain.gamma[1], 400)
        error.append(np.abs(before_last.x.numpy() - expected).max())
    order = np.log2(np.array(error[:-1]) / error[1:])
    assert np.all((order > 0.9) & (order < 1.2)) and error[-1] < 0.05, (order, error)


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan, math.inf])
def test_eta_outside_0_to_1_is_refused(eta):
    with pytest.raises(UserError, match="--eta"):
        DDIM(eta)


# -- and back --------------------------------------------------------------------------------------------------


def inverted(model, x, refinements=0):
    *_, last = walk(model, Inversion(refinements), x, no_noise, 0, model.chain.T)
    return last.x


@pytest.mark.parametrize("grid", ["uniform", "log-snr"])
@pytest.mark.parametrize("predicts", ["eps", "v"])
def test_inversion_refined_is_the_inverse_of_ddim(predicts, grid):
    """The fixed point is the x_T from which DDIM's own steps lead to x_0."""
    model = model_of(TWO, linear_betas(200), 40, grid, predicts=predicts)
    x0 = torch.from_numpy(TWO.sample(8, 0))
    top = inverted(model, x0, 40)
    *_, last = walk(model, DDIM(), top, no_noise)
    torch.testing.assert_close(last.x, x0, rtol=0, atol=1e-6)
    *_, last = walk(model, DDIM(), inverted(model, x0), no_noise)
    assert 1e-4 < (last.x - x0).abs().max() < 0.3


def test_inversion_has_the_noise_of_the_flow_with_order_one():
    """On a Gaussian the ODE takes x_0 to the same quantile of x_T's own normal."""
    x0 = torch.from_numpy(ONE.sample(16, 0))
    betas, error = linear_betas(4000), []
    bar = np.prod(1.0 - betas)
    expected = np.sqrt(bar) * MEAN + np.sqrt(bar + (1.0 - bar) / STD**2) * (x0.numpy() - MEAN)
    for steps in (50, 100, 200):
        error.append(np.abs(inverted(model_of(ONE, betas, steps), x0).numpy() - expected).max())
    order = np.log2(np.array(error[:-1]) / error[1:])
    assert np.all((order > 0.85) & (order < 1.25)), (order, error)


def test_inversion_asks_no_net_at_clean_data():
    model = model_of(TWO, linear_betas(50), "5")
    steps = list(walk(model, Inversion(), seeded((2, 2), 0), no_noise, 0, 5))
    assert [(step.t, step.s) for step in steps] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    told = [call[0].item() for call in model.net.calls]
    assert told == [model.chain.timestep[t] for t in (1, 1, 2, 3, 4)]


def test_inversion_goes_up_and_is_refined_not_less_than_never():
    model = model_of(TWO, linear_betas(50), "5")
    with pytest.raises(ValueError, match="from 5 to 4: inversion goes up"):
        list(walk(model, Inversion(), seeded((2, 2), 0), no_noise))
    with pytest.raises(UserError, match="--refinements -1: is not negative"):
        Inversion(-1)
