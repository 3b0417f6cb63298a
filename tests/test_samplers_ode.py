"""Solvers of the probability-flow ODE: their measured order, their published formulas, diffusers, exact laws."""

import math

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import nn

from ddpm.chain import Chain
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.nets import UNet
from ddpm.noise import WalkNoise
from ddpm.samplers import DDIM, DPMSolver, Heun, walk
from oracle import Mixture, cosine_betas, linear_betas, probability_flow
from walking import MEAN, ONE, STD, TWO, check_moments, impulses, law, model_of, no_noise, seeded

BETAS = linear_betas(1000)


# -- order -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", ["log-snr", "edm"])
@pytest.mark.parametrize("sampler", [DPMSolver(), Heun()])
def test_of_second_order_on_a_mixture(sampler, grid):
    """To the lowest level: the last step, to clean data, is of first order and no longer the ODE's."""
    x, error = seeded((6, 2), 0), []
    for steps in (20, 40, 80):
        model = model_of(TWO, BETAS, steps, grid)
        *_, before_last, _ = walk(model, sampler, x, no_noise)
        expected = probability_flow(TWO, x.numpy(), model.chain.gamma[-1], model.chain.gamma[1], 400)
        error.append(np.abs(before_last.x.numpy() - expected).max())
    order = np.log2(np.array(error[:-1]) / error[1:])
    assert np.all((order > 1.85) & (order < 2.4)) and error[-1] < 3e-3, (order, error)


@pytest.mark.parametrize("sampler", [DPMSolver(), Heun()])
def test_of_second_order_on_a_gaussian_where_the_flow_has_a_formula(sampler):
    """The ODE takes x_T to the same quantile of x_t's own normal."""
    x, error = seeded((8, 2), 1), []
    for steps in (40, 80, 160):
        model = model_of(ONE, BETAS, steps, "log-snr")
        *_, before_last, _ = walk(model, sampler, x, no_noise)
        high, low = (
            (math.sqrt(bar) * MEAN, np.sqrt(bar * STD**2 + 1.0 - bar))
            for bar in 1.0 / (1.0 + np.exp(model.chain.gamma[[-1, 1]]))
        )
        expected = low[0] + low[1] * (x.numpy() - high[0]) / high[1]
        error.append(np.abs(before_last.x.numpy() - expected).max())
    order = np.log2(np.array(error[:-1]) / error[1:])
    assert np.all((order > 1.85) & (order < 2.3)), (order, error)


# -- diffusers -------------------------------------------------------------------------------------------------


def net_of(kind: str) -> nn.Module:
    """A net with weights that are not zero, or the exact one."""
    if kind == "oracle":
        return model_of(TWO, BETAS).net
    net = UNet(1, 8, multipliers=(1, 2), blocks=1, attention=(), groups=4, dropout=0.0).eval()
    generator = torch.Generator().manual_seed(0)
    for one in net.parameters():
        one.data += 0.2 * torch.randn(one.shape, generator=generator)
    return net


@pytest.mark.parametrize("betas", [BETAS, cosine_betas(1000, 0.98)], ids=["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 10, 20])
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("kind", ["oracle", "unet"])
def test_equals_diffusers(kind, stochastic, steps, betas):
    """Both ask one net, at timesteps on which they agree, with the same start and noise; theirs is in float32."""
    shape, predicts, said = ((3, 2), "eps", "epsilon") if kind == "oracle" else ((2, 1, 8, 8), "v", "v_prediction")
    scheduler = DPMSolverMultistepScheduler(
        trained_betas=betas,
        prediction_type=said,
        algorithm_type="sde-dpmsolver++" if stochastic else "dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(steps)
    net = model_of(TWO, betas).net if kind == "oracle" else net_of(kind)
    model = Denoiser(net, Chain.from_betas(betas), predicts, clip=False).respace(steps, "trailing")
    assert [int(t) for t in scheduler.timesteps] == model.chain.timestep[:0:-1].tolist()
    theirs = x = seeded(shape, 0).float()
    noise = {t: seeded(shape, 7 + t).float() for t in range(1, steps + 1)}
    for step, t in zip(walk(model, DPMSolver(stochastic), x, noise.__getitem__), scheduler.timesteps, strict=True):
        with torch.no_grad():
            output = net(theirs, torch.full((len(x),), float(t)))
        theirs = scheduler.step(output, t, theirs, variance_noise=noise[step.t]).prev_sample
        scale = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(step.x, theirs, rtol=0, atol=1e-4 * scale)


# -- the SDE forms ---------------------------------------------------------------------------------------------


def test_a_first_step_of_dpm_sde_is_ddim_at_eta_1():
    model, x = model_of(TWO, BETAS, "12"), seeded((4, 2), 0)
    for t in range(12, 0, -1):
        z = seeded((4, 2), t)
        ours, _, _ = DPMSolver(True).step(model, x, t, t - 1, None, lambda t, z=z: z)
        ddim, _, _ = DDIM(1.0).step(model, x, t, t - 1, None, lambda t, z=z: z)
        torch.testing.assert_close(ours, ddim, rtol=1e-9, atol=1e-9)
        x = ours


def test_a_first_step_of_dpm_is_ddim():
    model, x = model_of(TWO, BETAS, "12"), seeded((4, 2), 0)
    ours, _, _ = DPMSolver().step(model, x, 12, 7, None, no_noise)
    ddim, _, _ = DDIM().step(model, x, 12, 7, None, no_noise)
    torch.testing.assert_close(ours, ddim, rtol=1e-9, atol=1e-9)


SDE = {"dpm++sde": DPMSolver(True), "heun": Heun(), "churn": Heun(20.0), "much churn": Heun(60.0)}


@pytest.mark.parametrize("name", SDE)
def test_the_law_converges_to_the_gaussian(name):
    """From the exact law of x_T; to x̂_0 of the lowest level, which has all but 1e-4 of the variance."""
    off = []
    for steps in (25, 50, 200):
        model = model_of(ONE, BETAS, steps, "log-snr")
        *_, last = walk(model, SDE[name], *impulses(ONE, model))
        mean, variance = law(last.x)
        off.append(max(np.abs(mean - MEAN).max(), np.abs(np.sqrt(variance) / STD - 1.0).max()))
    assert off[2] < 0.003 and off[2] < 0.5 * off[1] < 0.5 * off[0], off


@pytest.mark.parametrize("name", ["dpm++sde", "churn"])
def test_samples_have_the_mean_and_covariance_of_the_data(name):
    count, model = 3000, model_of(ONE, BETAS, 100, "edm")
    noise = WalkNoise(1, torch.arange(count), (2,), torch.float64)
    *_, last = walk(model, SDE[name], noise(0), noise)
    check_moments(last.x, MEAN, STD**2)


# -- Karras et al., algorithm 2 --------------------------------------------------------------------------------


def published(data: Mixture, sigmas, x, noise, churn: float, span=(0.0, math.inf), s_noise=1.0, top=math.inf):
    """Their algorithm 2, in their own variables: x = x_0 + σ ε, D(x; σ) the posterior mean; sigmas descending.

    top: no level is noisier.
    """
    n = len(sigmas)
    sigmas = [*sigmas, 0.0]

    def denoised(x: np.ndarray, sigma: float) -> np.ndarray:
        return x + sigma**2 * data.noised(1.0, sigma).score(x)

    for i in range(n):
        gain = min(churn / n, math.sqrt(2.0) - 1.0) if span[0] <= sigmas[i] <= span[1] else 0.0
        hat = max(sigmas[i], min(sigmas[i] * (1.0 + gain), top))
        if hat > sigmas[i]:
            x = x + math.sqrt(hat**2 - sigmas[i] ** 2) * s_noise * noise(n - i)
        d = (x - denoised(x, hat)) / hat
        euler = x + (sigmas[i + 1] - hat) * d
        if sigmas[i + 1] > 0.0:
            after = (euler - denoised(euler, sigmas[i + 1])) / sigmas[i + 1]
            euler = x + (sigmas[i + 1] - hat) * 0.5 * (d + after)
        x = euler
    return x


CHURNS = [
    {"churn": 0.0},
    {"churn": 3.0},
    {"churn": 100.0, "churn_noise": 1.007},
    {"churn": 8.0, "churn_range": (0.05, 50.0), "churn_noise": 1.003},
    {"churn": 8.0, "churn_range": (200.0, 300.0)},
]


@pytest.mark.parametrize("grid", ["edm", "uniform", "log-snr"])
@pytest.mark.parametrize("options", CHURNS, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 15])
def test_heun_is_as_published(steps, options, grid):
    model = model_of(TWO, BETAS, steps, grid)
    sigmas = np.exp(0.5 * model.chain.gamma[:0:-1])
    top = math.exp(0.5 * model.native.gamma[-1])
    draws = [seeded((5, 2), 20 + t) for t in range(steps + 1)]
    *_, last = walk(model, Heun(**options), draws[0], lambda t: draws[t])
    x = draws[0].numpy() * math.sqrt(1.0 + sigmas[0] ** 2)
    span, s_noise = options.get("churn_range", (0.0, math.inf)), options.get("churn_noise", 1.0)
    expected = published(TWO, sigmas, x, lambda t: draws[t].numpy(), options["churn"], span, s_noise, top)
    np.testing.assert_allclose(last.x, expected, atol=3e-5)  # the net is told its timestep in float32


@pytest.mark.parametrize("make", [linear_betas, cosine_betas])
@pytest.mark.parametrize("grid", ["uniform", "edm"])
def test_churn_goes_to_levels_between_levels_and_never_above_the_top(grid, make):
    """Where the grid ends at the chain's top there is nowhere to go, and no noise is asked for."""
    asked = []

    def noise(t):
        asked.append(t)
        return seeded((3, 2), t)

    model = model_of(TWO, make(1000), 6, grid)
    list(walk(model, Heun(2.0), seeded((3, 2), 0), noise))
    gain = 2.0 * math.log(1.0 + 2.0 / 6.0)
    native, chain = model.native, model.chain
    told = [float(call[0]) for call in model.net.calls]
    assert max(told) <= native.timestep[-1] and all(np.ptp(call.numpy()) == 0 for call in model.net.calls)
    began = told[0:1] + told[2::2] if len(told) % 2 == 0 else told[0::2]
    expected = np.interp(
        np.minimum(chain.gamma[:0:-1] + gain, native.gamma[-1]), native.gamma[1:], native.timestep[1:]
    )
    np.testing.assert_allclose(began, expected, rtol=1e-6)
    assert not np.allclose(expected[1:], np.round(expected[1:]))
    assert asked == ([5, 4, 3, 2, 1] if grid == "uniform" else [6, 5, 4, 3, 2, 1])


@pytest.mark.parametrize("predicts, variance", [("mean", "large"), ("v", "learned")])
def test_churn_with_nets_that_refer_to_native_levels(predicts, variance):
    """A "mean" net means what is interpolated between its levels; a learned log-variance stays out of it."""
    net = model_of(TWO, linear_betas(100), predicts=predicts).net
    if variance == "learned":
        of_mean, net = net, nn.Module()
        net.forward = lambda x, t: of_mean(x, t).repeat(1, 2)
    model = Denoiser(net, Chain.from_betas(linear_betas(100)), predicts, variance, clip=False)
    plain = model_of(TWO, linear_betas(100))
    draws = [seeded((5, 2), t) for t in range(13)]
    *_, ours = walk(model.respace(12, "edm"), Heun(10.0), draws[0], lambda t: draws[t])
    *_, expected = walk(plain.respace(12, "edm"), Heun(10.0), draws[0], lambda t: draws[t])
    torch.testing.assert_close(ours.x, expected.x, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"churn": -1.0}, "--churn -1: is not negative"),
        ({"churn": math.inf}, "--churn inf: is not negative"),
        ({"churn": math.nan}, "--churn nan: is not negative"),
        ({"churn_range": (2.0, 1.0)}, "--churn-range 2 1: takes two values of σ/α, the smaller first"),
        ({"churn_range": (-1.0, 1.0)}, "--churn-range -1 1: takes two values"),
        ({"churn_noise": -0.5}, "--churn-noise -0.5: is not negative"),
    ],
)
def test_options_that_are_none(options, said):
    with pytest.raises(UserError, match=said):
        Heun(**options)


def test_a_level_next_to_another_magnifies_no_rounding():
    """As where a level asked for is put into a grid that all but has it."""
    model = model_of(TWO, BETAS, 12, "log-snr")
    gamma = model.chain.gamma[1:]
    crowded = model.on(model.native.between(np.sort(np.append(gamma, gamma[7] - 1e-7))))
    x = 4.0 * seeded((64, 2), 0).float()
    *_, expected = walk(model, DPMSolver(), x, no_noise, 8)
    *_, last = walk(crowded, DPMSolver(), x, no_noise, 9)
    torch.testing.assert_close(last.x, expected.x, rtol=0, atol=1e-3)
