"""Learned variances against the published tables, diffusers, and the exact reverse process of Gaussian data."""

import math
import re

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from ddpm.chain import Chain, make_chain
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.samplers import DDIM, Ancestral, walk
from oracle import ExactNet, Mixture, bars, cosine_betas, linear_betas, published_levels

LEARNED = ["learned", "learned_range"]
BETAS = {"linear": linear_betas, "cosine": cosine_betas}


def normal(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def ends(betas: np.ndarray, keep: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """log β̃, whose first is the second's, and log β of the levels kept (improved-diffusion's clipped tables)."""
    bar = bars(betas, keep)
    beta = 1.0 - bar[1:] / bar[:-1]
    tilde = beta * (1.0 - bar[:-1]) / (1.0 - bar[1:])
    return np.log(np.append(tilde[1] if len(keep) > 1 else beta[0], tilde[1:])), np.log(beta)


def log_variance(model: Denoiser, t: int, v: Tensor, tensor: bool) -> Tensor:
    """What p(x_s|x_t) has for a net's second output v, by a number or by a tensor of levels."""
    xt = torch.zeros_like(v)
    at, before = (torch.full((len(v),), t), torch.full((len(v),), t - 1)) if tensor else (t, t - 1)
    return model.reverse(xt, at, before, model.read(torch.cat([xt, v], dim=1), xt, at)).logvar


class Halves(nn.Module):
    """A net of two outputs that depend on x and t."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        t = timestep.view(-1, *[1] * (x.ndim - 1)).to(x) / 1000.0
        return torch.cat([torch.tanh(x + t), torch.sin(3.0 * x - t)], dim=1)


class FirstHalf(nn.Module):
    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return Halves()(x, timestep).chunk(2, dim=1)[0]


# -- between the two ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("spec", [None, "50", "25,5", "1", [1, 2, 999], [7]])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_learned_range_lies_between_the_chain_s_own_ends(name, spec, tensor):
    betas = BETAS[name](1000)
    keep = published_levels(str(spec or 1000), 1000) if not isinstance(spec, list) else spec
    keep = [1000] if spec == "1" else keep  # a walk of one step starts from pure noise
    model = Denoiser(nn.Identity(), Chain.from_betas(betas), variance="learned_range")
    model = model if spec is None else model.respace(spec)
    lower, upper = ends(betas, keep)
    v = torch.tensor([[[-1.0, 0.0, 1.0, -2.0, 0.5]]], dtype=torch.float64).repeat(2, 1, 1)
    for t in sorted({1, 2, len(keep) // 2, len(keep)} & set(range(1, len(keep) + 1))):
        low, high = lower[t - 1], upper[t - 1]
        expected = [low, (low + high) / 2, high, low - (high - low) / 2, low + 0.75 * (high - low)]
        ours = log_variance(model, t, v, tensor)
        np.testing.assert_allclose(ours.numpy(), np.broadcast_to(expected, v.shape), rtol=1e-9, atol=1e-9)
        small, large = (model.with_variance(kind).log_variance(t, t - 1) for kind in ("small", "large"))
        assert ours[0, 0, 0].item() == pytest.approx(small, rel=1e-9)
        if t > 1:  # the fixed large variance has β̃_2 there too
            assert ours[0, 0, 2].item() == pytest.approx(large, rel=1e-9)


def test_the_first_step_reaches_up_to_its_beta():
    """From −9.82 to log β_1 = −9.21 for Ho et al.'s chain."""
    model = Denoiser(nn.Identity(), make_chain("linear", 1000), variance="learned_range")
    v = torch.tensor([[[-1.0, 1.0]]], dtype=torch.float64)
    np.testing.assert_allclose(log_variance(model, 1, v, False)[0, 0], [-9.82, math.log(1e-4)], atol=5e-3)


def test_a_learned_range_equals_diffusers():
    theirs = DDPMScheduler(variance_type="learned_range", clip_sample=False, prediction_type="epsilon")
    betas = torch.from_numpy(linear_betas(1000))
    theirs.betas, theirs.alphas_cumprod = betas, torch.cumprod(1.0 - betas, 0)
    theirs.one = torch.tensor(1.0, dtype=torch.float64)
    model = Denoiser(Halves(), Chain.from_betas(betas.numpy()), "eps", "learned_range", clip=False)
    xt = normal((1, 3, 4), 0)
    for t in (2, 3, 100, 500, 1000):
        output = Halves()(xt, torch.tensor([t - 1.0]))
        expected = theirs.step(output, t - 1, xt, generator=torch.Generator().manual_seed(t)).prev_sample
        x, prediction, _ = Ancestral().step(model, xt, t, t - 1, None, lambda t: normal((1, 3, 4), t))
        torch.testing.assert_close(x, expected, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(prediction.variance_output, output[:, 3:], rtol=0, atol=0)


# -- the log-variance itself -------------------------------------------------------------------------------


@pytest.mark.parametrize("tensor", [False, True])
def test_a_learned_log_variance_is_itself_on_its_own_chain(tensor):
    v = torch.tensor([[[-40.0, -9.0, 0.0, 3.0]]], dtype=torch.float64)
    for chain in (make_chain("linear", 50), Chain.from_betas([0.3])):
        model = Denoiser(nn.Identity(), chain, variance="learned")
        for t in {1, 2, chain.T} & set(range(1, chain.T + 1)):
            assert torch.equal(log_variance(model, t, v, tensor), v)


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("specs", [["50"], ["50", "10"], [[3, 4, 700]], ["1"]])
def test_a_learned_log_variance_keeps_its_place_in_longer_steps(specs, rescale, tensor):
    """A quarter of the way from log β̃ to log β of the native step is a quarter of the way in the long step's."""
    model = Denoiser(nn.Identity(), make_chain("linear", 1000, rescale=rescale), variance="learned")
    keep = list(range(1, 1001))
    for spec in specs:
        model = model.respace(spec)
        chosen = spec if isinstance(spec, list) else published_levels(spec, len(keep))
        keep = [keep[t - 1] for t in ([len(keep)] if spec == "1" else chosen)]
    native, own = ends(linear_betas(1000), list(range(1, 1001))), ends(linear_betas(1000), keep)
    for t in sorted({1, 2, 3, len(keep)} & set(range(1, len(keep) + 1))):
        low, high = (end[keep[t - 1] - 1] for end in native)
        v = low + torch.tensor([[[0.0, 0.25, 1.0, -3.0, 1.5]]], dtype=torch.float64) * (high - low)
        places = np.array([0.0, 0.25, 1.0, 0.0, 1.0])  # not outside of the two
        expected = own[0][t - 1] + places * (own[1][t - 1] - own[0][t - 1])
        # at the top the native two are 1e-6 apart, and rounding is a larger part of that
        np.testing.assert_allclose(log_variance(model, t, v, tensor)[0, 0], expected, rtol=0, atol=1e-6)


def test_keeping_every_level_changes_nothing():
    """`--steps` of as many as there are is the chain itself, where a log-variance has no limits."""
    model = Denoiser(Halves(), make_chain("linear", 50), "mean", "learned")
    v = torch.tensor([[[-40.0, -9.0, 0.0, 3.0]]], dtype=torch.float64)
    for same in (model.respace("50"), model.respace(range(1, 51)), model.respace("50").respace(50)):
        for t in (1, 2, 50):
            assert torch.equal(log_variance(same, t, v, False), v)
    assert not torch.equal(log_variance(model.respace("49"), 2, v, False), v)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("tensor", [False, True])
def test_a_native_chain_of_one_step_leaves_no_room_and_no_nan(tensor, kind):
    once, again = Chain.from_betas([0.25]), Chain.from_betas([0.25])
    model = Denoiser(nn.Identity(), once, variance="learned", native=again)
    only = math.log(0.25)
    v = torch.tensor([[[only, -5.0, 5.0]]], dtype=kind)
    torch.testing.assert_close(log_variance(model, 1, v, tensor), torch.full_like(v, only))


def test_on_a_respaced_chain_it_must_know_the_native_one():
    short = make_chain("linear", 100).respace("10")
    for options in ({"predicts": "mean"}, {"variance": "learned"}):
        with pytest.raises(ValueError, match="needs `native`"):
            Denoiser(nn.Identity(), short, **options)
        Denoiser(nn.Identity(), short, **options, native=make_chain("linear", 100))
        Denoiser(nn.Identity(), make_chain("linear", 100, rescale=True), **options)
    Denoiser(nn.Identity(), short, variance="learned_range")


# -- the two halves of the output --------------------------------------------------------------------------


@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "mean"])
@pytest.mark.parametrize("clip", [False, True])
def test_a_fixed_variance_leaves_the_second_half_out(predicts, clip):
    chain, x, t = make_chain("cosine", 20), normal((4, 2, 3), 0), torch.tensor([1, 2, 10, 20])
    both = Denoiser(Halves(), chain, predicts, "small", clip)
    one = Denoiser(FirstHalf(), chain, predicts, "small", clip)
    ours, expected = both(x, t), one(x, t)
    assert torch.equal(ours.x0, expected.x0) and torch.equal(ours.eps, expected.eps)
    assert torch.equal(ours.variance_output, Halves()(x, t - 1.0)[:, 2:]) and expected.variance_output is None
    for a, b in zip(both.reverse(x, t, t - 1, ours), one.reverse(x, t, t - 1, expected), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("variance", LEARNED)
def test_the_mean_does_not_depend_on_how_the_variance_is_learned(variance):
    chain, x, t = make_chain("cosine", 20), normal((4, 2, 3), 0), torch.tensor([1, 2, 10, 20])
    learned, fixed = (Denoiser(Halves(), chain, "v", kind) for kind in (variance, "large"))
    assert torch.equal(learned(x, t).x0, fixed(x, t).x0)
    p = learned.reverse(x, t, t - 1, learned(x, t))
    assert p.logvar.shape == x.shape  # each pixel has its own
    torch.testing.assert_close(p.mean, fixed.reverse(x, t, t - 1, fixed(x, t)).mean)


@pytest.mark.parametrize("variance", LEARNED)
def test_a_net_without_a_variance_is_refused(variance):
    model = Denoiser(FirstHalf(), make_chain("cosine", 20), variance=variance)
    with pytest.raises(
        UserError, match=re.escape(f"--denoiser.variance {variance}: this net gives no variance; take")
    ):
        model(normal((1, 2, 3), 0), 5)


def test_changing_the_variance_keeps_all_else():
    model = Denoiser(Halves(), make_chain("cosine", 20), "mean", "learned", clip=False).respace("5")
    other = model.with_variance("small")
    assert (other.variance, other.predicts, other.clip) == ("small", "mean", False)
    assert other.net is model.net and other.chain is model.chain and other.native is model.native
    with pytest.raises(UserError, match="this net gives no variance"):
        Denoiser(FirstHalf(), make_chain("cosine", 20)).with_variance("learned_range")(normal((1, 2, 3), 0), 5)


# -- walks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [None, "7", "1"])
@pytest.mark.parametrize("variance", LEARNED)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_an_ancestral_walk_draws_with_the_learned_variance(variance, spec, kind):
    model = Denoiser(Halves(), make_chain("linear", 30), "v", variance)
    model = model if spec is None else model.respace(spec)
    x = normal((2, 3, 4), 0, kind)
    for step in walk(model, Ancestral(), x, lambda t: normal((2, 3, 4), t, kind)):
        p = model.reverse(x, step.t, step.s, model(x, step.t))
        drawn = p.mean + (0.5 * p.logvar).exp() * normal((2, 3, 4), step.t, kind)
        torch.testing.assert_close(step.x, drawn if step.s else p.mean)
        x = step.x
        assert x.dtype == kind and torch.all(x.isfinite())


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("variance", LEARNED)
def test_ddim_does_not_look_at_the_variance(variance, eta):
    chain, x = make_chain("linear", 30).respace("7"), normal((2, 3, 4), 0)
    with_it = Denoiser(Halves(), chain, "v", variance, native=make_chain("linear", 30))
    without = Denoiser(FirstHalf(), chain, "v")
    for a, b in zip(
        *(walk(model, DDIM(eta), x, lambda t: normal((2, 3, 4), t)) for model in (with_it, without)), strict=True
    ):
        assert torch.equal(a.x, b.x)


def test_the_exact_reverse_process_draws_the_data():
    """The walk is affine in its start and its noise: impulses give its law, which at level 1 is q(x_1) exactly.

    With the exact variance that holds for the longest steps, where small and large are far too narrow and wide.
    """
    data = Mixture.of([1.0], [[0.7, -0.2]], [[0.3, 1.4]])
    betas, keep = cosine_betas(100), published_levels("6", 100)
    chain = Chain.from_betas(betas).respace(keep)
    model = Denoiser(ExactNet(data, betas, keep), chain, "eps", "learned", clip=False, native=chain)
    T = len(keep)
    x = torch.zeros(T + 1, 2, dtype=torch.float64)
    x[1] = 1.0

    def noise(t: int) -> Tensor:
        z = torch.zeros(T + 1, 2, dtype=torch.float64)
        z[t] = 1.0
        return z

    *_, first, last = walk(model, Ancestral(), x, noise)
    bar = bars(betas, keep)[1]
    np.testing.assert_allclose(first.x[0], math.sqrt(bar) * data.means[0], atol=1e-3)
    total = (first.x[1:] - first.x[0]).square().sum(0)
    np.testing.assert_allclose(total, bar * data.stds[0] ** 2 + 1.0 - bar, rtol=1e-3)
    assert torch.all((last.x[1:] - last.x[0]).square().sum(0) < total)  # its mean alone
    for variance in ("small", "large"):
        *_, first, _ = walk(model.with_variance(variance), Ancestral(), x, noise)
        other = (first.x[1:] - first.x[0]).square().sum(0)
        assert torch.all((other / total).log().abs() > 0.05)


def test_a_net_of_another_number_of_channels_is_refused():
    model = Denoiser(nn.Identity(), make_chain("cosine", 10))
    with pytest.raises(ValueError, match="the net gives 3 channels for pictures of 1"):
        model.parts(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("grid", ["edm", "log-snr"])
@pytest.mark.parametrize("make", BETAS.values())
def test_a_log_variance_keeps_its_share_at_levels_between_two(make, grid, share):
    """Its ends are taken to lie between those of the native levels, as what the net is told does."""
    betas = make(100)
    lower, upper = ends(betas, list(range(1, 101)))

    class Shared(nn.Module):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            table = (1.0 - share) * lower + share * upper
            between = np.interp(timestep.double().numpy(), np.arange(100), table)
            return torch.cat([x, torch.from_numpy(between).to(x).view(-1, 1).expand_as(x)], dim=1)

    model = Denoiser(Shared(), Chain.from_betas(betas), "eps", "learned", clip=False).respace(7, grid)
    x = normal((7, 3), 0)
    chain = model.chain
    bar = 1.0 / (1.0 + np.exp(chain.gamma))
    for t in range(2, 8):
        beta = 1.0 - bar[t] / bar[t - 1]
        tilde = beta * (1.0 - bar[t - 1]) / (1.0 - bar[t])
        expected = (1.0 - share) * math.log(tilde) + share * math.log(beta)
        logvar = model.reverse(x, t, t - 1, model(x, t)).logvar
        np.testing.assert_allclose(logvar, np.full((7, 3), expected), rtol=0, atol=2e-3)
    t = torch.arange(1, 8)
    each = model.reverse(x, t, t - 1, model(x, t)).logvar
    for k in range(2, 8):
        torch.testing.assert_close(each[k - 1 : k], model.reverse(x, k, k - 1, model(x, k)).logvar[:1])
