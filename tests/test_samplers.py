"""Samplers against diffusers' schedulers, the exact law of a walk on a Gaussian, and the ODE's solution."""

import math

import jaxtyping
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

from ddpm.chain import Chain, make_chain
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.noise import WalkNoise
from ddpm.samplers import DDIM, Ancestral, make_sampler, walk
from oracle import (
    Mixture,
    OracleNet,
    ancestral_law,
    bars,
    cosine_betas,
    ddim_law,
    linear_betas,
    published_levels,
)

CPU = torch.device("cpu")
TWO = Mixture.of([0.3, 0.7], [[-0.6, 0.2], [0.5, 0.4]], [0.2, 0.3])


class Wavy(nn.Module):
    """An ε-net that is wrong enough for x̂_0 to leave [−1, 1] at every level."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return 0.8 * x + 0.5 * torch.sin(3 * x + timestep.view(-1, 1, 1).to(x) / 90)


class Learned(nn.Module):
    """An ε-net with something to learn."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.scale * x


def no_noise(t: int) -> Tensor:
    raise AssertionError(f"noise was asked for at {t}")


def seeded(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def model_of(data: Mixture, betas: np.ndarray, spec: object = None, **options) -> Denoiser:
    predicts = options.get("predicts", "eps")
    model = Denoiser(OracleNet(data, betas, predicts), Chain.from_betas(betas), **{"clip": False, **options})
    return model if spec is None else model.respace(spec)


# -- diffusers ---------------------------------------------------------------------------------------------

LEADING = [1 + t for t in range(0, 1000, 20)]


def in_double(scheduler, betas: np.ndarray):
    """Their formulas on tables in float64: theirs are float32 and know 1 − ᾱ_1 to three digits."""
    scheduler.alphas_cumprod = torch.from_numpy(np.cumprod(1.0 - betas))
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(50)
    assert [int(t) + 1 for t in scheduler.timesteps] == LEADING[::-1]
    return scheduler


def compare(scheduler, sampler, clip: bool, variance: str, betas: np.ndarray, **options) -> None:
    model = Denoiser(Wavy(), Chain.from_betas(betas), "eps", variance, clip).respace(LEADING)
    theirs = x = seeded((2, 3, 4), 0)
    generator, asked = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)

    def noise(t: int) -> Tensor:
        return torch.randn((2, 3, 4), dtype=torch.float64, generator=asked)

    clipped = False
    for step, t in zip(walk(model, sampler, x, noise), scheduler.timesteps, strict=True):
        told = torch.full((2,), float(t), dtype=torch.float64)
        output = scheduler.step(Wavy()(theirs, told), int(t), theirs, generator=generator, **options)
        theirs = output.prev_sample
        scale = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(step.prediction.x0, output.pred_original_sample, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(step.x, theirs, rtol=0, atol=1e-8 * scale)
        clipped |= bool((step.prediction.x0.abs() == 1.0).any())
    assert clipped == clip


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("make", [linear_betas, cosine_betas])
def test_ancestral_equals_diffusers_step_by_step(make, variance, clip):
    scheduler = in_double(DDPMScheduler(variance_type=f"fixed_{variance}", clip_sample=clip), make(1000))
    compare(scheduler, Ancestral(), clip, variance, make(1000))


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("make", [linear_betas, cosine_betas])
def test_ddim_equals_diffusers_step_by_step(make, eta, clip):
    """ε̂ is always re-derived from a clipped x̂_0, which they do on demand."""
    scheduler = in_double(DDIMScheduler(clip_sample=clip, set_alpha_to_one=True), make(1000))
    compare(scheduler, DDIM(eta), clip, "large", make(1000), eta=eta, use_clipped_model_output=True)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("spec", [None, "10", "7,5"])
def test_ddim_at_eta_1_is_ancestral_with_the_small_variance(spec, clip):
    chain = make_chain("cosine", 60)
    model = Denoiser(Wavy(), chain if spec is None else chain.respace(spec), "eps", "small", clip)
    x = seeded((2, 3, 4), 3)
    noise = WalkNoise(1, torch.arange(2), (3, 4), torch.float64)
    for a, b in zip(walk(model, Ancestral(), x, noise), walk(model, DDIM(1.0), x, noise), strict=True):
        torch.testing.assert_close(a.x, b.x, rtol=1e-9, atol=1e-9 * max(1.0, a.x.abs().max().item()))


# -- exact laws --------------------------------------------------------------------------------------------

SAMPLERS = {
    "small": (Ancestral(), "small", lambda bar, m, d: ancestral_law(bar, m, d, "small")),
    "large": (Ancestral(), "large", lambda bar, m, d: ancestral_law(bar, m, d, "large")),
    "ddim": (DDIM(), "large", lambda bar, m, d: ddim_law(bar, m, d, 0.0)),
    "ddim 0.5": (DDIM(0.5), "small", lambda bar, m, d: ddim_law(bar, m, d, 0.5)),
    "ddim 1": (DDIM(1.0), "large", lambda bar, m, d: ancestral_law(bar, m, d, "small")),
}
MEAN, STD = np.array([0.7, -0.2]), np.array([0.3, 1.4])
ONE = Mixture.of([1.0], [MEAN], STD[None])


@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "mean"])
@pytest.mark.parametrize("spec", [None, "8", "1", [3, 4, 20, 39]])
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_law_of_a_walk_on_a_gaussian(name, spec, predicts):
    """The walk is affine in its start and its noise, so impulses give its mean and variance exactly."""
    sampler, variance, law = SAMPLERS[name]
    betas = linear_betas(40)
    keep = (
        {None: range(1, 41), "8": published_levels("8", 40), "1": [40]}[spec]
        if not isinstance(spec, list)
        else spec
    )
    model = model_of(ONE, betas, spec, predicts=predicts, variance=variance)
    T = len(keep)
    x = torch.zeros(T + 1, 2, dtype=torch.float64)
    x[1] = 1.0  # row 0 has no impulse, row 1 one at the start, row t one at the step down from t

    def noise(t: int) -> Tensor:
        z = torch.zeros(T + 1, 2, dtype=torch.float64)
        z[t] = 1.0
        return z

    *_, last = walk(model, sampler, x, noise)
    mean, variance = law(bars(betas, list(keep)), MEAN, STD)
    np.testing.assert_allclose(last.x[0], mean, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose((last.x[1:] - last.x[0]).square().sum(0), variance, rtol=1e-8)


@pytest.mark.parametrize("name", ["small", "large", "ddim 0.5"])
def test_samples_of_a_gaussian_have_that_law(name, dtype, device):
    sampler, variance, law = SAMPLERS[name]
    count, betas = 20_000, linear_betas(200)
    model = model_of(ONE, betas, "20", variance=variance)
    noise = WalkNoise(2, torch.arange(count, device=device), (2,), dtype)
    *_, last = walk(model, sampler, noise(0), noise)
    assert last.x.dtype == dtype and last.x.device.type == device.type
    x = last.x.cpu().double().numpy()
    mean, var = law(bars(betas, published_levels("20", 200)), MEAN, STD)
    assert np.all(np.abs(x.mean(0) - mean) < 4 * np.sqrt(var / count))
    assert np.all(np.abs(x.var(0) / var - 1) < 4 * math.sqrt(2 / count))
    assert abs(np.corrcoef(x.T)[0, 1]) < 4 / math.sqrt(count)


def test_ancestral_samples_of_a_mixture_are_the_data(dtype):
    """The whole chain of 1000, which keeps weights and means, and narrows each mode as it does a lone Gaussian."""
    count, betas = 3000, linear_betas(1000)
    means, stds = [[-0.7, -0.5], [0.6, -0.4], [0.1, 0.7]], [[0.1, 0.1], [0.15, 0.05], [0.08, 0.2]]
    data = Mixture.of([0.2, 0.5, 0.3], means, stds)
    generator = torch.Generator().manual_seed(0)

    def noise(t: int) -> Tensor:
        return torch.randn(count, 2, dtype=dtype, generator=generator)

    *_, last = walk(model_of(data, betas, variance="small"), Ancestral(), noise(1000), noise)
    x = last.x.double().numpy()
    mean, variance = ancestral_law(bars(betas, list(range(1, 1001))), data.means, data.stds, "small")
    np.testing.assert_allclose(mean, data.means, atol=1e-5)
    np.testing.assert_allclose(np.sqrt(variance), data.stds, rtol=0.08)  # β̃ is the least variance there is
    expected = Mixture.of(data.weights, mean, np.sqrt(variance))
    mode = expected.component(x)
    for k, weight in enumerate(expected.weights):
        ours = x[mode == k]
        assert abs(len(ours) / count - weight) < 4 * math.sqrt(weight * (1 - weight) / count)
        assert np.all(np.abs(ours.mean(0) - expected.means[k]) < 4 * expected.stds[k] / math.sqrt(len(ours)))
        assert np.all(np.abs(ours.std(0) / expected.stds[k] - 1) < 4 / math.sqrt(2 * len(ours)))
    assert np.all(np.abs(x.mean(0) - data.mean) < 4 * np.sqrt(np.diag(data.cov) / count))
    np.testing.assert_allclose(np.cov(x.T), expected.cov, atol=4 * np.diag(data.cov).max() * math.sqrt(2 / count))
    true = expected.log_density(expected.sample(count, 0))
    assert abs(expected.log_density(x).mean() - true.mean()) < 4 * true.std() * math.sqrt(2 / count)


# -- the probability-flow ODE ------------------------------------------------------------------------------


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


# -- the walk ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(), DDIM(0.3), DDIM(1.0)])
def test_noise_is_asked_for_once_a_step_and_not_at_the_last(sampler):
    asked = []

    def noise(t: int) -> Tensor:
        asked.append(t)
        return seeded((2, 2), t)

    steps = list(walk(model_of(TWO, linear_betas(50), "5"), sampler, seeded((2, 2), 0), noise))
    assert asked == ([] if sampler == DDIM() else [5, 4, 3, 2])
    assert [(step.t, step.s) for step in steps] == [(5, 4), (4, 3), (3, 2), (2, 1), (1, 0)]
    torch.testing.assert_close(steps[-1].x, steps[-1].prediction.x0, rtol=0, atol=1e-12)
    *_, single = walk(model_of(TWO, linear_betas(50), "1"), sampler, seeded((2, 2), 0), no_noise)
    assert (single.t, single.s) == (1, 0)


def test_the_net_sees_every_kept_level_once_from_the_top():
    model = model_of(TWO, linear_betas(50), "5")
    list(walk(model, DDIM(), seeded((3, 2), 0), no_noise))
    levels = [t - 1.0 for t in published_levels("5", 50)]
    assert [call.tolist() for call in model.net.calls] == [[t] * 3 for t in reversed(levels)]


@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(0.5)])
@pytest.mark.parametrize("start", [1, 3, 5])
def test_a_walk_goes_on_from_any_level(sampler, start):
    model, noise = model_of(TWO, linear_betas(50), "5"), WalkNoise(0, torch.arange(2), (2,), torch.float64)
    whole = list(walk(model, sampler, seeded((2, 2), 0), noise))
    x = seeded((2, 2), 0) if start == 5 else whole[4 - start].x
    rest = list(walk(model, sampler, x, noise, start))
    assert [(step.t, step.s) for step in rest] == [(t, t - 1) for t in range(start, 0, -1)]
    assert all(torch.equal(a.x, b.x) for a, b in zip(rest, whole[5 - start :], strict=True))


def test_a_walk_from_clean_data_has_no_steps():
    assert list(walk(model_of(TWO, linear_betas(50)), DDIM(), seeded((2, 2), 0), no_noise, 0)) == []
    for start in (-1, 51):
        with pytest.raises(ValueError, match=f"start {start}, end 0: both are levels of the chain, from 0 to 50"):
            list(walk(model_of(TWO, linear_betas(50)), DDIM(), seeded((2, 2), 0), no_noise, start))


def test_a_walk_is_lazy_and_leaves_the_start_alone():
    model, x = model_of(TWO, linear_betas(50)), seeded((2, 2), 0)
    start = x.clone()
    steps = walk(model, DDIM(), x, no_noise)
    assert iter(steps) is steps and model.net.calls == []
    for done in (1, 2):
        next(steps)
        assert len(model.net.calls) == done
    list(steps)
    assert torch.equal(x, start)


@pytest.mark.parametrize("mode", [True, False])
def test_a_walk_needs_no_gradient_and_leaves_the_mode_of_its_consumer(mode):
    model = Denoiser(Learned(), Chain.from_betas(linear_betas(30)))
    with torch.set_grad_enabled(mode):
        for step in walk(model, Ancestral(), seeded((2, 2), 0), lambda t: seeded((2, 2), t)):
            assert torch.is_grad_enabled() is mode
            assert not step.x.requires_grad and not step.prediction.eps.requires_grad
        assert torch.is_grad_enabled() is mode
        for _ in walk(model, DDIM(), seeded((2, 2), 0), no_noise):
            break  # an abandoned walk too
        assert torch.is_grad_enabled() is mode


@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(0.5)])
def test_a_picture_is_the_same_in_any_batch(sampler, device, dtype):
    model = model_of(TWO, linear_betas(100), "20")

    def pictures(samples: list[int]) -> Tensor:
        noise = WalkNoise(4, torch.tensor(samples, device=device), (2,), dtype)
        *_, last = walk(model, sampler, noise(0), noise)
        return last.x

    torch.testing.assert_close(pictures([5, 0]), pictures(list(range(8)))[[5, 0]], rtol=1e-5, atol=1e-6)
    assert len(pictures(list(range(8))).unique(dim=0)) == 8


def test_conditions_reach_the_net():
    class Labelled(nn.Module):
        def forward(self, x: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
            return label.view(-1, 1).expand_as(x).to(x)

    model = Denoiser(Labelled(), Chain.from_betas(linear_betas(30)), "x0")
    for sampler in (Ancestral(), DDIM()):
        noise = WalkNoise(0, torch.arange(2), (3,))
        *_, last = walk(model, sampler, noise(0), noise, label=torch.tensor([0.25, -0.5]))
        torch.testing.assert_close(last.x, torch.tensor([[0.25] * 3, [-0.5] * 3]))


def test_samplers_by_name():
    assert make_sampler("ddpm") == Ancestral() and make_sampler("ddim", 0.3) == DDIM(0.3)
    with pytest.raises(UserError, match="ddpm or ddim"):
        make_sampler("euler")


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan, math.inf])
def test_eta_outside_0_to_1_is_refused(eta):
    with pytest.raises(UserError, match="--eta"):
        DDIM(eta)


def test_annotations_are_checked_under_pytest():
    with pytest.raises(jaxtyping.TypeCheckError):
        list(walk(model_of(TWO, linear_betas(30)), DDIM(), torch.tensor(0.0), no_noise))
