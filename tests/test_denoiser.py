"""The denoiser against Ho et al.'s formulas and tables in β notation, written out here."""

import math

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddpm.chain import Chain, make_chain
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from oracle import Mixture, OracleNet, bars, cosine_betas, linear_betas, published_levels

PREDICTS = ["eps", "x0", "v", "mean"]


class Recorded(nn.Module):
    """A net that gives what it was told to, and keeps what it was asked."""

    def __init__(self, output: Tensor | None = None):
        super().__init__()
        self.output, self.asked = output, []

    def forward(self, x: Tensor, timestep: Tensor, **cond) -> Tensor:
        self.asked.append((x, timestep, cond))
        return x if self.output is None else self.output


def batch(dtype: torch.dtype, device: torch.device, size: int = 6) -> tuple[Tensor, Tensor]:
    """x_0 in [−0.9, 0.9] and normal ε, [size, 2, 3, 4]."""
    generator = torch.Generator().manual_seed(3)
    x0 = torch.rand(size, 2, 3, 4, dtype=torch.float64, generator=generator) * 1.8 - 0.9
    eps = torch.randn(size, 2, 3, 4, dtype=torch.float64, generator=generator)
    return x0.to(device, dtype), eps.to(device, dtype)


def close(ours: Tensor, exact: Tensor, amplified: float) -> None:
    """Equal but for rounding of x_t and the output, `amplified` by the formula that undoes the prediction."""
    unit = torch.finfo(ours.dtype).eps
    torch.testing.assert_close(ours, exact, rtol=0, atol=20 * unit * amplified + 1e-12)


# -- parameterisations -------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("level", [1, 2, 500, 1000, None])
def test_the_perfect_output_gives_back_picture_and_noise(predicts, level, clip, dtype, device):
    x0, eps = batch(dtype, device)
    chain = make_chain("linear", 1000)
    t = torch.tensor([1, 2, 10, 400, 999, 1000]) if level is None else level
    xt = chain.q(x0, t).sample(eps)
    model = Denoiser(nn.Identity(), chain, predicts, clip=clip)
    output = model.target(x0, eps, t)
    prediction = model.read(output, xt, t)
    # α_T is 0.0064, σ_1 0.01; the mean at T gives x_0 the weight 1.3e-4
    amplified = {"eps": 160.0, "x0": 1.0, "v": 1.0, "mean": 8e3}[predicts]
    close(prediction.x0, x0, amplified)
    close(prediction.eps, eps, 400.0)  # 4/σ_1, where ε is derived from x_0
    alpha, sigma = chain.alpha(t, x0), chain.sigma(t, x0)
    close(alpha * prediction.x0 + sigma * prediction.eps, xt, 1.0)


def test_targets_are_the_published_ones():
    """v: Salimans & Ho 2022, section 4; mean: Ho et al. eq. 7."""
    x0, eps = batch(torch.float64, torch.device("cpu"))
    betas = cosine_betas(100)
    bar = np.concatenate([[1.0], np.cumprod(1.0 - betas)])
    chain = Chain.from_betas(betas)
    for t in (1, 2, 50, 99):
        a, s = math.sqrt(bar[t]), math.sqrt(1.0 - bar[t])
        tight = {"rtol": 1e-9, "atol": 1e-11}
        assert torch.equal(Denoiser(nn.Identity(), chain, "eps").target(x0, eps, t), eps)
        assert torch.equal(Denoiser(nn.Identity(), chain, "x0").target(x0, eps, t), x0)
        v = Denoiser(nn.Identity(), chain, "v").target(x0, eps, t)
        torch.testing.assert_close(v, a * eps - s * x0, **tight)
        of_x0 = math.sqrt(bar[t - 1]) * betas[t - 1] / (1.0 - bar[t])
        of_xt = math.sqrt(1.0 - betas[t - 1]) * (1.0 - bar[t - 1]) / (1.0 - bar[t])
        mean = Denoiser(nn.Identity(), chain, "mean").target(x0, eps, t)
        torch.testing.assert_close(mean, of_x0 * x0 + of_xt * (a * x0 + s * eps), **tight)


@pytest.mark.parametrize("predicts", PREDICTS)
def test_any_output_gives_a_picture_and_noise_that_make_up_xt(predicts):
    """Also for an output that is no perfect one, clipped or not."""
    xt, output = batch(torch.float64, torch.device("cpu"))
    output = 3.0 * output
    t = torch.tensor([1, 2, 10, 400, 999, 1000])
    chain = make_chain("linear", 1000)
    alpha, sigma = chain.alpha(t, xt), chain.sigma(t, xt)
    free = Denoiser(nn.Identity(), chain, predicts, clip=False).read(output, xt, t)
    kept = Denoiser(nn.Identity(), chain, predicts, clip=True).read(output, xt, t)
    for prediction in (free, kept):
        torch.testing.assert_close(alpha * prediction.x0 + sigma * prediction.eps, xt, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(kept.x0, free.x0.clamp(-1.0, 1.0), rtol=0, atol=0)
    outside = free.x0.abs() > 1.0
    assert outside.any() and not outside.all()
    assert ((kept.eps - free.eps).abs()[outside] > 1e-9).all()
    torch.testing.assert_close(kept.eps[~outside], free.eps[~outside], rtol=1e-9, atol=1e-9)


def test_mean_after_respacing_refers_to_the_steps_it_was_trained_on():
    """The net still predicts μ̃ of its own step τ → τ − 1 of 1000, not of the long step that is taken."""
    x0, eps = batch(torch.float64, torch.device("cpu"), 3)
    betas = linear_betas(1000)
    bar = np.concatenate([[1.0], np.cumprod(1.0 - betas)])
    model = Denoiser(nn.Identity(), make_chain("linear", 1000), "mean", clip=False)
    short, levels = model.respace("50").respace("10"), published_levels("50", 1000)
    for t, level in ((1, 1), (10, 1000), (4, levels[published_levels("10", 50)[3] - 1])):
        xt = math.sqrt(bar[level]) * x0 + math.sqrt(1.0 - bar[level]) * eps
        of_x0 = math.sqrt(bar[level - 1]) * betas[level - 1] / (1.0 - bar[level])
        of_xt = math.sqrt(1.0 - betas[level - 1]) * (1.0 - bar[level - 1]) / (1.0 - bar[level])
        output = of_x0 * x0 + of_xt * xt
        for at in (t, torch.full((3,), t)):
            torch.testing.assert_close(short.read(output, xt, at).x0, x0, rtol=1e-7, atol=1e-7)
            torch.testing.assert_close(short.target(x0, eps, at), output, rtol=1e-10, atol=1e-10)


# -- what the net is asked ---------------------------------------------------------------------------------


def test_the_net_is_told_the_original_timestep(device):
    x, _ = batch(torch.float32, device, 3)
    net = Recorded()
    model = Denoiser(net, make_chain("linear", 1000))
    short = model.respace("50")
    model(x, 1000)
    model(x, torch.tensor([1, 7, 1000]))
    short(x, 50, label=torch.tensor([1, 2, 3]))
    short(x, torch.tensor([1, 2, 50]))
    told = [timestep.tolist() for _, timestep, _ in net.asked]
    assert told == [[999.0] * 3, [0.0, 6.0, 999.0], [999.0] * 3, [0.0, 20.0, 999.0]]
    assert all(t.dtype == torch.float32 and t.device.type == device.type for _, t, _ in net.asked)
    assert net.asked[2][2]["label"].tolist() == [1, 2, 3] and net.asked[3][2] == {}
    assert all(torch.equal(asked, x) for asked, _, _ in net.asked)


# -- p(x_s|x_t) --------------------------------------------------------------------------------------------


def ho_log_variance(betas: np.ndarray, variance: str) -> np.ndarray:
    """Ho et al.'s tables as their code has them: the first entry of either is that of the second β̃."""
    bar = np.cumprod(1.0 - betas)
    before = np.concatenate([[1.0], bar[:-1]])
    tilde = betas * (1.0 - before) / (1.0 - bar)
    return np.log(np.concatenate([[tilde[1]], (tilde if variance == "small" else betas)[1:]]))


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("make", [linear_betas, cosine_betas])
def test_log_variance_equals_the_published_tables(variance, make):
    betas = make(1000)
    model = Denoiser(nn.Identity(), Chain.from_betas(betas), variance=variance)
    t = torch.arange(1, 1001)
    expected = ho_log_variance(betas, variance)
    np.testing.assert_allclose(model.log_variance(t, t - 1), expected, rtol=1e-10, atol=1e-10)
    for level in (1, 2, 3, 1000):
        assert model.log_variance(level, level - 1) == pytest.approx(expected[level - 1], rel=1e-10)
        assert model.log_variance(torch.tensor([level]), level - 1) == pytest.approx(
            expected[level - 1], rel=1e-10
        )

    short = model.respace("50")
    bar = bars(betas, published_levels("50", 1000))
    t = torch.arange(1, 51)
    expected = ho_log_variance(1.0 - bar[1:] / bar[:-1], variance)
    np.testing.assert_allclose(short.log_variance(t, t - 1), expected, rtol=1e-9, atol=1e-9)


def test_the_published_first_log_variance():
    """−9.82 for the linear schedule of 1000 steps: β̃_2, 5.45e-5."""
    b1, b2 = linear_betas(1000)[:2]
    expected = math.log(b2 * b1 / (1.0 - (1.0 - b1) * (1.0 - b2)))
    assert expected == pytest.approx(-9.82, abs=5e-3)
    for variance in ("small", "large"):
        model = Denoiser(nn.Identity(), make_chain("linear", 1000), variance=variance)
        assert model.log_variance(1, 0) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_a_chain_of_one_step_uses_its_beta(variance):
    model = Denoiser(nn.Identity(), Chain.from_betas([0.3]), variance=variance)
    assert model.log_variance(1, 0) == pytest.approx(math.log(0.3), rel=1e-12)
    assert model.log_variance(torch.tensor([1, 1]), torch.tensor([0, 0])) == pytest.approx(
        math.log(0.3), rel=1e-12
    )


@pytest.mark.parametrize("variance", ["small", "large"])
def test_log_variance_between_any_two_levels(variance):
    """A step over several levels is one β of 1 − ᾱ_t/ᾱ_s."""
    bar = np.concatenate([[1.0], np.cumprod(1.0 - linear_betas(100))])
    model = Denoiser(nn.Identity(), make_chain("linear", 100), variance=variance)
    for t, s in ((100, 1), (50, 49), (80, 20)):
        beta = 1.0 - bar[t] / bar[s]
        expected = math.log(beta * (1.0 - bar[s]) / (1.0 - bar[t]) if variance == "small" else beta)
        assert model.log_variance(t, s) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_reverse_is_the_posterior_at_the_predicted_picture(variance, tensor, dtype, device):
    betas = linear_betas(200)
    model = Denoiser(nn.Identity(), Chain.from_betas(betas), "x0", variance, clip=False)
    x0, xt = batch(dtype, device, 4)
    bar = np.concatenate([[1.0], np.cumprod(1.0 - betas)])
    levels = [1, 2, 77, 200]
    for t in levels:
        at, before = (torch.full((4,), t), torch.full((4,), t - 1)) if tensor else (t, t - 1)
        p = model.reverse(xt, at, before, model.read(x0, xt, at))
        of_x0 = math.sqrt(bar[t - 1]) * betas[t - 1] / (1.0 - bar[t])
        of_xt = math.sqrt(1.0 - betas[t - 1]) * (1.0 - bar[t - 1]) / (1.0 - bar[t])
        close(p.mean, of_x0 * x0 + of_xt * xt, 1.0)
        std = math.exp(0.5 * ho_log_variance(betas, variance)[t - 1])
        torch.testing.assert_close(p.sample(xt), p.mean + std * xt, rtol=1e-6, atol=1e-6)


# -- a classifier's score ----------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("make", [linear_betas, cosine_betas])
@pytest.mark.parametrize("level", [1, 2, 500, 999, 1000, None])
def test_a_score_moves_noise_and_picture_alike(make, level, clip, dtype, device):
    """ε̂ − σ s and the x̂_0 that goes with it, clipped as the model's own; also at the top, where α is 5e-5."""
    chain = Chain.from_betas(make(1000))
    xt, output = batch(dtype, device)
    t = torch.tensor([1, 2, 10, 400, 999, 1000]) if level is None else level
    log_bar = np.cumsum(np.log1p(-make(1000)))[np.atleast_1d(np.asarray(t)) - 1].reshape(-1, 1, 1, 1)
    alpha, sigma = (torch.from_numpy(np.sqrt(part)).to(device) for part in (np.exp(log_bar), -np.expm1(log_bar)))
    score = (alpha * torch.sin(3.0 * xt.double())).to(dtype)  # ∇ log p(y|x_t) of what knows x_0 goes as α
    model = Denoiser(nn.Identity(), chain, "x0", clip=clip)
    plain = model.read(output, xt, t)
    moved = model.shifted(xt, t, plain.scored(score))
    x0 = plain.x0.double() + sigma**2 / alpha * score.double()
    eps = plain.eps.double() - sigma * score.double()
    if clip:
        assert (x0.abs() > 1.0).any() or np.all(log_bar > -0.01)
        x0 = x0.clamp(-1.0, 1.0)
        eps = (xt.double() - alpha * x0) / sigma
    close(moved.x0, x0.to(dtype), 4.0)
    close(moved.eps, eps.to(dtype), 400.0)  # 4/σ_1, where ε is derived from x_0
    assert moved.score is None and model.shifted(xt, t, plain) is plain
    nothing = model.shifted(xt, t, plain.scored(torch.zeros_like(xt)))
    assert torch.equal(nothing.x0, plain.x0) and torch.equal(nothing.eps, plain.eps)


def test_guidance_stays_with_a_model_that_is_changed():
    """Through respacing and another variance, until it is taken away."""

    def guidance(model, xt, t, **cond):
        return model.plain(xt, t, **cond).scored(torch.ones_like(xt))

    x, _ = batch(torch.float64, torch.device("cpu"), 2)
    model = Denoiser(Recorded(), make_chain("linear", 100)).guided(guidance)
    for other in (model, model.respace("5"), model.with_variance("small"), model.respace("9").on(model.chain)):
        assert other.guidance is guidance and other(x, 3, label=torch.tensor([0, 1])).score is not None
        assert other.plain(x, 3).score is None and other.guided(None)(x, 3).score is None
    assert model.net.asked[0][2]["label"].tolist() == [0, 1]


# -- errors ------------------------------------------------------------------------------------------------


def test_unknown_options_are_refused():
    chain = make_chain("linear", 100)
    for options in ({"predicts": "score"}, {"variance": "free"}):
        with pytest.raises((UserError, jaxtyping.TypeCheckError), match=r"eps.*mean|small.*large"):
            Denoiser(nn.Identity(), chain, **options)


def test_annotations_are_checked_under_pytest():
    """conftest.py's import hook fires: a wrong rank, a size that does not match, and a wrong type."""
    model, x = Denoiser(nn.Identity(), make_chain("linear", 100)), torch.zeros(2, 3)
    for call in (
        lambda: model.chain.q(torch.tensor(0.0), 1),
        lambda: model.target(x, torch.zeros(2, 4), 1),
        lambda: model.chain.posterior(x, x[0], 2, 1),
        lambda: model.chain.q(x.long(), 1),
        lambda: model(x, 1.5),
    ):
        with pytest.raises(jaxtyping.TypeCheckError):
            call()


# -- levels between levels ---------------------------------------------------------------------------------


DATA = Mixture.of([0.4, 0.6], [[-0.5, 0.1], [0.6, 0.3]], [0.2, 0.3])


def exact(gamma: float, x: Tensor) -> Tensor:
    """E[x_0|x_t] where −log SNR is γ, by Tweedie's formula."""
    alpha, sigma = math.sqrt(1.0 / (1.0 + math.exp(gamma))), math.sqrt(1.0 / (1.0 + math.exp(-gamma)))
    return (x + sigma**2 * torch.from_numpy(DATA.noised(alpha, sigma).score(x.numpy()))) / alpha


@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("make", [linear_betas, cosine_betas])
def test_the_same_net_at_a_level_between_two(make, predicts):
    """Whatever it predicts; "mean" by what lies between the weights of both native steps."""
    betas = make(100)
    model = Denoiser(OracleNet(DATA, betas, predicts), Chain.from_betas(betas), predicts, clip=False)
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gamma = model.chain.gamma
    for t, share in ((1, 0.0), (1, 0.3), (40, 0.5), (98, 0.9), (99, 1.0)):
        between = (1.0 - share) * gamma[t] + share * gamma[t + 1]
        one = model.between(between)
        assert one.chain.T == 1 and one.net is model.net and one.native is model.native
        assert one.native_level(1) == pytest.approx(t + share, abs=1e-9)
        assert one.chain.timestep[1] == pytest.approx(t + share - 1.0, abs=1e-9)
        torch.testing.assert_close(one(x, 1).x0, exact(between, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("predicts", ["eps", "mean"])
def test_levels_between_two_of_a_batch_and_of_each_picture(predicts):
    betas = linear_betas(100)
    model = Denoiser(OracleNet(DATA, betas, predicts), Chain.from_betas(betas), predicts, clip=False)
    model = model.respace(8, "edm")
    x = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.arange(1, 9)
    at = model.native_level(t)
    assert at[0] == 1.0 and np.all(at[1:-1] % 1.0 > 0.0)
    together = model(x, t).x0
    for k in range(8):
        torch.testing.assert_close(model(x[k : k + 1], k + 1).x0, together[k : k + 1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            together[k : k + 1], exact(model.chain.gamma[k + 1], x[k : k + 1]), rtol=1e-3, atol=1e-4
        )


def test_between_keeps_what_guides_the_model():
    seen = []

    def guidance(model, xt, t, **cond):
        seen.append((model.chain.timestep[t], cond))
        return model.plain(xt, t)

    model = Denoiser(Recorded(), make_chain("linear", 50), guidance=guidance)
    gamma = model.chain.gamma
    model.between(0.5 * (gamma[7] + gamma[8]))(torch.zeros(1, 2), 1, label=torch.tensor([3]))
    assert seen[0][0] == pytest.approx(6.5) and list(seen[0][1]) == ["label"]
    with pytest.raises(ValueError, match="the chain's levels reach from"):
        model.between(gamma[-1] + 1.0)
