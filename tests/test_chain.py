"""The chain against Ho et al.'s formulas in β notation, Bayes' rule, diffusers, and 50-digit decimals."""

import inspect
import math
import re
from decimal import Decimal, getcontext
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from torch.distributions import Normal

import ddpm.chain
from ddpm.chain import Chain, make_chain, sigmoid
from ddpm.errors import UserError
from oracle import bars, cosine_betas, ho_posterior, linear_betas, published_levels

INF = math.inf
DOUBLE = torch.zeros(1, dtype=torch.float64)
BETAS = {"linear": linear_betas, "cosine": cosine_betas}


def tables(chain: Chain) -> tuple[np.ndarray, np.ndarray]:
    """α and σ at t = 0 … T, float64, through the public surface."""
    t = torch.arange(chain.T + 1)
    return chain.alpha(t, DOUBLE).numpy(), chain.sigma(t, DOUBLE).numpy()


def alpha_bar(chain: Chain) -> np.ndarray:
    return tables(chain)[0] ** 2


# -- schedules ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "steps", "schedule"),
    [("linear", 1000, "linear"), ("cosine", 1000, "squaredcos_cap_v2"), ("cosine", 50, "squaredcos_cap_v2")],
)
def test_schedules_equal_diffusers(name, steps, schedule):
    theirs = DDPMScheduler(num_train_timesteps=steps, beta_schedule=schedule)
    ours = alpha_bar(make_chain(name, steps))
    # their β are float32: of relative error 6e-8, which 1 − β has too, but for a β of 0.999
    exact = np.cumprod(1.0 - theirs.betas.double().numpy())
    np.testing.assert_allclose(ours[1:-1], exact[:-1], rtol=3e-6)
    np.testing.assert_allclose(ours[-1], exact[-1], rtol=5e-5)
    np.testing.assert_allclose(ours[1:], theirs.alphas_cumprod.numpy(), rtol=2e-4)


def test_given_betas_equal_diffusers():
    geodiff = DDPMScheduler(num_train_timesteps=200, beta_schedule="sigmoid").betas
    theirs = DDPMScheduler(num_train_timesteps=200, trained_betas=geodiff.tolist())
    ours = make_chain("betas", 200, geodiff.tolist())
    np.testing.assert_allclose(alpha_bar(ours)[1:], np.cumprod(1.0 - geodiff.double().numpy()), rtol=1e-12)
    np.testing.assert_allclose(alpha_bar(ours)[1:], theirs.alphas_cumprod.numpy(), rtol=2e-5)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.9}, {"start": 0.0, "end": 2.0}])
def test_sigmoid_equals_its_formula(options):
    start, end, tau = options.get("start", -3.0), options.get("end", 3.0), options.get("temperature", 1.0)
    u = np.arange(201) / 200
    top = expit(end / tau)
    expected = (top - expit((u * (end - start) + start) / tau)) / (top - expit(start / tau))
    ours = alpha_bar(Chain.from_schedule(partial(sigmoid, **options), 200))
    np.testing.assert_allclose(ours[:-1], expected[:-1], rtol=1e-11, atol=0)
    assert ours[-1] == pytest.approx(0.001 * expected[-2], rel=1e-9)  # ᾱ_T = 0 is capped at β_T = .999
    if not options:
        np.testing.assert_array_equal(alpha_bar(make_chain("sigmoid", 200)), ours)


@pytest.mark.parametrize("steps", [21, 200, 4000])
def test_linear_is_scaled_with_the_number_of_steps(steps):
    np.testing.assert_allclose(
        alpha_bar(make_chain("linear", steps))[1:], np.cumprod(1.0 - linear_betas(steps)), rtol=1e-11
    )


def test_linear_needs_21_steps():
    assert make_chain("linear", 21).T == 21
    with pytest.raises(UserError, match="21"):
        make_chain("linear", 20)


@pytest.mark.parametrize("steps", [1, 50, 1000])
def test_cosine_is_capped(steps):
    bar = alpha_bar(make_chain("cosine", steps))
    betas = 1.0 - bar[1:] / bar[:-1]
    assert betas[-1] == pytest.approx(0.999, rel=1e-12)
    assert np.all(betas[:-1] < 0.999)


def test_from_schedule_takes_the_cap():
    bar = alpha_bar(Chain.from_schedule(sigmoid, 20, max_beta=0.5))
    assert np.max(1.0 - bar[1:] / bar[:-1]) == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("steps", [1000, 4000])
def test_precision_at_both_ends(steps):
    """Linear in 50 digits; cosine by 1 − ᾱ = sin(a − a₀) sin(a + a₀)/cos² a₀, where nothing cancels."""
    getcontext().prec = 50
    alpha, sigma = tables(make_chain("linear", steps))
    bar = Decimal(1)
    for t, beta in enumerate(linear_betas(steps), start=1):
        bar *= 1 - Decimal(float(beta))
        if t in (1, 2, 3, steps // 2, steps - 1, steps):
            assert abs(Decimal(float(alpha[t])) / bar.sqrt() - 1) < Decimal("1e-13")
            assert abs(Decimal(float(sigma[t])) / (1 - bar).sqrt() - 1) < Decimal("1e-12")

    alpha, sigma = tables(make_chain("cosine", steps))
    a = (np.arange(steps) / steps + 0.008) / 1.008 * np.pi / 2
    np.testing.assert_allclose(alpha[:-1], np.cos(a) / np.cos(a[0]), rtol=2e-12)
    np.testing.assert_allclose(sigma[:-1], np.sqrt(np.sin(a - a[0]) * np.sin(a + a[0])) / np.cos(a[0]), rtol=1e-11)


# -- coefficients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
def test_signal_and_noise(name):
    chain = make_chain(name, 1000)
    alpha, sigma = tables(chain)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-15 * 4)
    assert alpha[0] == 1.0 and sigma[0] == 0.0
    assert np.all(np.diff(alpha) < 0) and np.all(np.diff(sigma) > 0)
    t = torch.arange(1, 1001)
    np.testing.assert_allclose(chain.snr(t), alpha[1:] ** 2 / sigma[1:] ** 2, rtol=1e-12)
    assert chain.snr(0) == math.inf


@pytest.mark.parametrize("shape", [(5,), (5, 2), (5, 3, 4), (5, 1, 2, 3)])
def test_a_number_and_a_tensor_of_levels_agree(shape, device, dtype):
    chain = make_chain("cosine", 100)
    t, s = torch.tensor([1, 2, 50, 99, 100]), torch.tensor([0, 1, 3, 98, 1])
    x = torch.arange(math.prod(shape), dtype=dtype, device=device).view(shape) / 10
    y = 1.0 - x
    q, posterior = chain.q(x, t), chain.posterior(x, y, t, s)
    assert chain.alpha(t, x).shape == (5, *[1] * (len(shape) - 1))
    told = chain.told(t, 5, device)
    assert told.dtype == torch.float32 and told.device.type == device.type
    for i in range(5):
        row = slice(i, i + 1)
        ti, si = int(t[i]), int(s[i])
        torch.testing.assert_close(chain.alpha(t, x)[row] * x[row], chain.alpha(ti, x) * x[row])
        torch.testing.assert_close(chain.sigma(t, x)[row] * x[row], chain.sigma(ti, x) * x[row])
        assert chain.snr(t)[i] == chain.snr(ti)
        one, many = chain.q(x[row], ti), q.sample(y)[row]
        torch.testing.assert_close(one.sample(y[row]), many)
        one = chain.posterior(x[row], y[row], ti, si)
        torch.testing.assert_close(one.mean, posterior.mean[row])
        torch.testing.assert_close(one.sample(x[row]), posterior.sample(x)[row])
        torch.testing.assert_close(chain.told(ti, 3, device), told[row].expand(3))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_coefficients_follow_the_type_of_the_tensor(kind):
    """They are rounded once, at the end; the first levels of a bfloat16 chain still have noise."""
    chain, t, like = make_chain("linear", 1000), torch.arange(1, 1001), torch.zeros(1, 1, dtype=kind)
    bar = np.cumprod(1.0 - linear_betas(1000))
    for ours, exact in ((chain.alpha(t, like), np.sqrt(bar)), (chain.sigma(t, like), np.sqrt(1.0 - bar))):
        assert ours.dtype == kind
        error = ours[:, 0].double().numpy() / exact - 1.0
        assert np.max(np.abs(error)) <= max(0.5 * torch.finfo(kind).eps * 1.01, 1e-12)
    x = torch.ones(2, 3, dtype=kind)
    for level in (7, torch.tensor([7, 8])):
        assert chain.q(x, level).sample(x).dtype == kind
        assert chain.posterior(x, x, level, level - 1).sample(x).dtype == kind
    assert torch.all(chain.sigma(t, like) > 0)


@given(st.sampled_from(["linear", "cosine"]), st.integers(1, 300), st.floats(-1, 1))
def test_q_equals_the_formula(name, t, x):
    bar = np.cumprod(1.0 - BETAS[name](300))[t - 1]
    q = make_chain(name, 300).q(torch.full((1, 2), x, dtype=torch.float64), t)
    np.testing.assert_allclose(q.mean.numpy(), math.sqrt(bar) * x, rtol=1e-9, atol=1e-300)
    assert q.std == pytest.approx(math.sqrt(1.0 - bar), rel=1e-9)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 1, 2, 2)])
def test_forward_between_two_levels_is_the_product_of_its_steps(name, shape):
    """x_k = √(1 − β_k) x_{k−1} + √β_k ε, one after the other (Ho et al. eq. 2)."""
    chain, betas = make_chain(name, 200), BETAS[name](200)
    s, t = torch.tensor([0, 3, 120, 0]), torch.tensor([1, 9, 200, 200])
    xs = torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64).view(shape)
    many = chain.forward(xs, t, s)
    for i, (low, high) in enumerate(zip(s.tolist(), t.tolist(), strict=True)):
        factor, variance = 1.0, 0.0
        for beta in betas[low:high]:
            factor, variance = math.sqrt(1.0 - beta) * factor, (1.0 - beta) * variance + beta
        row = slice(i, i + 1)
        one = chain.forward(xs[row], high, low)
        torch.testing.assert_close(one.mean, factor * xs[row], rtol=1e-9, atol=1e-14)
        assert one.std**2 == pytest.approx(variance, rel=1e-9)
        torch.testing.assert_close(many.mean[row], one.mean)
        torch.testing.assert_close(many.sample(xs)[row], one.sample(xs[row]))
        if low == 0:
            whole = chain.q(xs[row], high)
            torch.testing.assert_close(one.mean, whole.mean, rtol=1e-14, atol=0)
            assert one.logvar == pytest.approx(whole.logvar, abs=1e-14)


@given(st.sampled_from(["linear", "cosine"]), st.lists(st.integers(0, 200), min_size=3, max_size=3, unique=True))
def test_forward_composes(name, levels):
    """From r to s and on to t is from r to t; q(·|x_0) is r = 0."""
    chain, (r, s, t) = make_chain(name, 200), sorted(levels)
    one = number(1.0)
    first, second, both = chain.forward(one, s, r), chain.forward(one, t, s), chain.forward(one, t, r)
    assert (first.mean * second.mean).item() == pytest.approx(both.mean.item(), rel=1e-12)
    assert second.mean.item() ** 2 * first.std**2 + second.std**2 == pytest.approx(both.std**2, rel=1e-11)


# -- posterior ---------------------------------------------------------------------------------------------

LEVELS = st.lists(st.integers(0, 200), min_size=2, max_size=2, unique=True).map(sorted)
VALUES = st.floats(-2, 2)


@given(st.sampled_from(["linear", "cosine"]), LEVELS, VALUES, VALUES)
def test_posterior_by_conditioning_the_joint_gaussian(name, levels, x0, xt):
    """(x_s, x_t) given x_0 is one Gaussian, since x_t = √(ᾱ_t/ᾱ_s) x_s + noise; condition it on x_t."""
    s, t = levels
    bar_s, bar_t = np.concatenate([[1.0], np.cumprod(1.0 - BETAS[name](200))])[[s, t]]
    mean = np.sqrt([bar_s, bar_t]) * x0
    cross = math.sqrt(bar_t / bar_s) * (1.0 - bar_s)
    expected = mean[0] + cross / (1.0 - bar_t) * (xt - mean[1])
    variance = (1.0 - bar_s) - cross**2 / (1.0 - bar_t)

    posterior = make_chain(name, 200).posterior(number(x0), number(xt), t, s)
    assert posterior.mean.item() == pytest.approx(expected, rel=1e-9, abs=1e-10)
    assert posterior.std**2 == pytest.approx(variance, rel=1e-7, abs=1e-15)


@given(st.sampled_from(["linear", "cosine"]), LEVELS.filter(lambda pair: pair[0] > 0), VALUES, VALUES)
def test_posterior_by_bayes_rule(name, levels, x0, z):
    """log q(x_s|x_t,x_0) = log q(x_t|x_s) + log q(x_s|x_0) − log q(x_t|x_0), as densities at several x_s."""
    s, t = levels
    bar_s, bar_t = np.concatenate([[1.0], np.cumprod(1.0 - BETAS[name](200))])[[s, t]]
    xt = math.sqrt(bar_t) * x0 + math.sqrt(1.0 - bar_t) * z
    posterior = make_chain(name, 200).posterior(number(x0), number(xt), t, s)
    for shift in (-2.0, -0.5, 0.0, 1.5):
        xs = posterior.mean + shift * posterior.std
        bayes = (
            log_normal(number(xt), math.sqrt(bar_t / bar_s) * xs, 1.0 - bar_t / bar_s)
            + log_normal(xs, math.sqrt(bar_s) * number(x0), 1.0 - bar_s)
            - log_normal(number(xt), math.sqrt(bar_t) * number(x0), 1.0 - bar_t)
        )
        assert log_normal(xs, posterior.mean, posterior.std**2) == pytest.approx(bayes, rel=1e-8, abs=1e-8)


@given(st.sampled_from(["linear", "cosine"]), LEVELS.filter(lambda pair: pair[0] > 0), VALUES, VALUES)
def test_forward_by_bayes_rule(name, levels, x0, z):
    """log q(x_t|x_s) = log q(x_s|x_t,x_0) + log q(x_t|x_0) − log q(x_s|x_0)."""
    s, t = levels
    chain, x0 = make_chain(name, 200), number(x0)
    xs = chain.q(x0, s).sample(number(z))
    forward = chain.forward(xs, t, s)
    for shift in (-2.0, 0.0, 1.5):
        xt = forward.mean + shift * forward.std
        terms = (
            chain.posterior(x0, xt, t, s).log_density(xs),
            chain.q(x0, t).log_density(xt),
            -chain.q(x0, s).log_density(xs),
        )
        assert log_normal(xt, forward.mean, forward.std**2) == pytest.approx(sum(terms).item(), rel=1e-8, abs=1e-8)


def number(x: float) -> torch.Tensor:
    return torch.full((1, 1), x, dtype=torch.float64)


def log_normal(x: torch.Tensor, mean: torch.Tensor, variance: float) -> float:
    return Normal(mean, number(math.sqrt(variance))).log_prob(x).item()


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [1000, 4000])
@pytest.mark.parametrize("spec", [None, "250", "50"])
def test_posterior_of_the_respaced_chain_is_that_of_new_betas(name, steps, spec):
    """1 − ᾱ_t/ᾱ_s for the levels kept (Nichol & Dhariwal 2021, section 4), then Ho's formulas: to 2e-12."""
    getcontext().prec = 50
    betas = BETAS[name](steps)
    chain, keep = Chain.from_betas(betas), list(range(1, steps + 1))
    if spec:
        chain, keep = chain.respace(spec), [0, *published_levels(spec, steps)][1:]
    bar = [Decimal(1)]
    for beta in betas:
        bar.append(bar[-1] * (1 - Decimal(float(beta))))
    expected = ho_posterior([bar[t] for t in [0, *keep]])
    t = torch.arange(2, chain.T + 1)
    one, zero = torch.ones(len(t), 1, dtype=torch.float64), torch.zeros(len(t), 1, dtype=torch.float64)
    of_x0, of_xt = chain.posterior(one, zero, t, t - 1), chain.posterior(zero, one, t, t - 1)
    ours = torch.cat([of_x0.mean, of_xt.mean, of_x0.std**2], dim=1).numpy()
    np.testing.assert_allclose(ours, np.array(expected), rtol=2e-12)


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_posterior_equals_diffusers(schedule, variance_type):
    """Their step, given x_0 and their noise, with their tables redone in float64."""
    theirs = DDPMScheduler(
        beta_schedule=schedule, variance_type=variance_type, prediction_type="sample", clip_sample=False
    )
    betas = linear_betas(1000) if schedule == "linear" else cosine_betas(1000)
    theirs.alphas_cumprod = torch.from_numpy(np.cumprod(1.0 - betas))
    theirs.one = torch.tensor(1.0, dtype=torch.float64)
    chain = Chain.from_betas(betas)
    x0, xt = torch.randn(2, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind(0)
    for t in (2, 3, 100, 500, 999, 1000):
        z = torch.randn(1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(t))
        expected = theirs.step(x0, t - 1, xt, generator=torch.Generator().manual_seed(t)).prev_sample
        posterior = chain.posterior(x0, xt, t, t - 1)
        if variance_type == "fixed_large":
            posterior = posterior._replace(logvar=float(chain.log_large(t, t - 1)))
        torch.testing.assert_close(posterior.sample(z), expected, rtol=1e-9, atol=1e-10)
    # to clean data: x_0 itself, whatever x_t
    last = chain.posterior(x0, xt, 1, 0)
    torch.testing.assert_close(last.mean, theirs.step(x0, 0, xt).prev_sample, rtol=1e-12, atol=0)
    assert last.std == 0.0


# -- respacing ---------------------------------------------------------------------------------------------


def kept(spec, T: int) -> list[int]:
    """The levels a respacing keeps, read off what the net is told."""
    return (Chain.from_betas(np.full(T, 0.01)).respace(spec).timestep[1:] + 1).astype(int).tolist()


@pytest.mark.parametrize(
    ("T", "spec"),
    [
        *((1000, spec) for spec in ("2", "21", "50", "250", "1000", "ddim25", "ddim50", "ddim2", "ddim1000")),
        *((1000, spec) for spec in ("10,15,20", "90,60,60,20,20", "1,1,1", "10,1", "334,333,1")),
        (300, "10,15,20"),
        (1001, "50,50,50"),
        (4000, "100"),
        (4000, "ddim250"),
        (7, "3,2"),
    ],
)
def test_respacing_follows_the_published_rule(T, spec):
    assert kept(spec, T) == published_levels(spec, T)


@given(st.integers(2, 1200), st.data())
def test_respacing_follows_the_published_rule_everywhere(T, data):
    counts = data.draw(st.lists(st.integers(1, T), min_size=1, max_size=4).filter(lambda c: c != [1]))
    counts = [min(count, T // len(counts)) for count in counts]
    if 0 in counts or counts == [1]:
        return
    spec = ",".join(map(str, counts))
    assert kept(spec, T) == published_levels(spec, T)


def test_respacing_by_other_means():
    assert kept(50, 1000) == kept("50", 1000) == kept(" 50 ", 1000)
    assert kept([1, 7, 20], 20) == kept((20, 1, 7), 20) == [1, 7, 20]
    assert kept(range(1, 21, 5), 20) == [1, 6, 11, 16]
    assert kept("1", 1000) == [1000]  # one step starts from pure noise, not from the first level


def test_respacing_keeps_levels_and_timesteps():
    chain = make_chain("linear", 1000)
    short = chain.respace("50")
    bar = bars(linear_betas(1000), published_levels("50", 1000))
    np.testing.assert_allclose(alpha_bar(short), bar, rtol=1e-12)
    assert short.T == 50
    assert short.told(50, 2, torch.device("cpu")).tolist() == [999.0, 999.0]
    assert short.told(torch.tensor([1, 2, 50]), 3, torch.device("cpu")).tolist() == [0.0, 20.0, 999.0]
    assert chain.told(1000, 1, torch.device("cpu")).tolist() == [999.0]


def test_respacing_twice():
    chain = make_chain("cosine", 1000)
    first, second = published_levels("100", 1000), published_levels("10,5", 100)
    twice, direct = chain.respace("100").respace("10,5"), chain.respace([first[t - 1] for t in second])
    np.testing.assert_array_equal(twice.gamma, direct.gamma)
    np.testing.assert_array_equal(twice.timestep, direct.timestep)
    assert twice.timestep[-1] == 999.0


# -- what the net is told -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [30, 300, 1000, 3000, 4000])
def test_rescaled_timesteps_are_those_of_a_chain_of_1000(steps):
    """(t − 1)·1000/T at level t; improved-diffusion's rescale_timesteps: t.float() * (1000.0 / num_timesteps)."""
    chain, plain, cpu = make_chain("cosine", steps, rescale=True), make_chain("cosine", steps), torch.device("cpu")
    t = torch.arange(1, steps + 1)
    expected = torch.arange(steps).float() * (1000.0 / steps)
    torch.testing.assert_close(chain.told(t, steps, cpu), expected, rtol=1e-6, atol=1e-6)
    assert chain.told(steps, 2, cpu).tolist() == pytest.approx([(steps - 1) * 1000.0 / steps] * 2, rel=1e-6)
    np.testing.assert_array_equal(chain.gamma, plain.gamma)  # nothing else changes
    assert plain.told(steps, 1, cpu).item() == steps - 1
    short, levels = chain.respace("20"), published_levels("20", steps)
    expected = [(level - 1) * 1000.0 / steps for level in levels]
    assert short.told(torch.arange(1, 21), 20, cpu).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("steps", [1, 7, 30, 1000, 3000, 4000])
def test_a_chain_knows_whether_it_was_respaced(steps, rescale):
    chain = make_chain("cosine", steps, rescale=rescale)
    assert chain.whole and chain.respace(list(range(1, steps + 1))).whole
    assert chain.respace(
        list(range(1, steps // 2 + 2)) if steps > 1 else [1]
    ).whole  # its first steps are the same
    for spec in ("5", "ddim5", [2], [1, 3], [steps]):
        if steps >= 30:
            assert not chain.respace(spec).whole


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("steps", [30, 3000])
def test_places_find_the_levels_again(steps, rescale):
    chain = make_chain("cosine", steps, rescale=rescale)
    assert chain.places(chain).tolist() == list(range(steps + 1))
    for spec in ("7", "5,3", "ddim5", [1], [steps], [2, 11, 29]):
        keep = spec if isinstance(spec, list) else published_levels(spec, steps)
        short = chain.respace(spec)
        assert chain.places(short).tolist() == [0, *keep]
        again = short.respace([1, short.T] if short.T > 1 else [1])
        assert chain.places(again).tolist() == [0, *sorted({keep[0], keep[-1]})]
        np.testing.assert_array_equal(chain.gamma[chain.places(short).astype(int)], short.gamma)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("spec", [None, "50", "10,5", [3, 1000]])
def test_the_lower_log_variance_is_the_clipped_table(name, spec):
    """improved-diffusion: log of posterior_variance, with its second entry in place of the first."""
    keep = spec if isinstance(spec, list) else published_levels(spec or "1000", 1000)
    betas = BETAS[name](1000)
    bar = bars(betas, keep)
    beta = 1.0 - bar[1:] / bar[:-1]
    tilde = beta * (1.0 - bar[:-1]) / (1.0 - bar[1:])
    expected = np.log(np.append(tilde[1], tilde[1:]))
    chain = Chain.from_betas(betas)
    chain = chain if spec is None else chain.respace(spec)
    t = torch.arange(1, chain.T + 1)
    np.testing.assert_allclose(chain.log_lower(t, t - 1), expected, rtol=1e-9, atol=1e-9)
    for level in {1, 2, chain.T}:
        assert chain.log_lower(level, level - 1) == pytest.approx(expected[level - 1], rel=1e-9)
        assert chain.log_lower(torch.tensor([level]), torch.tensor([level - 1])) == pytest.approx(
            expected[level - 1], rel=1e-9
        )
    # never above the step's own β, also where the next step is a long one
    assert np.all(chain.log_lower(t, t - 1) < chain.log_large(t, t - 1))


def test_the_lower_log_variance_of_one_step_is_its_beta():
    for chain, beta in ((Chain.from_betas([0.3]), 0.3), (make_chain("linear", 1000).respace([1]), 1e-4)):
        assert chain.log_lower(1, 0) == pytest.approx(math.log(beta), rel=1e-12)
        one = torch.ones(2, dtype=torch.int64)
        np.testing.assert_allclose(chain.log_lower(one, one - 1), math.log(beta), rtol=1e-12)


BAD = ["51", "0", 0, "-3", "30,30", "25,0", "fifty", "", "5,", "2.5"]
BAD += ["ddim40", "ddim0", "ddim1", "ddim", "ddim-5", "ddim2.5"]
BAD_LISTS = [[0, 1], [1, 51], [3, 3], [1.5, 2.0], [], [-1, 4]]


@pytest.mark.parametrize("spec", BAD)
def test_respacing_refuses(spec):
    with pytest.raises(UserError, match=re.escape(f'"{spec}"')):
        make_chain("cosine", 50).respace(spec)


@pytest.mark.parametrize("levels", BAD_LISTS)
def test_respacing_refuses_levels_that_are_not_there(levels):
    unchecked = inspect.unwrap(ddpm.chain.levels)  # the type check refuses 1.5 by itself
    with pytest.raises(UserError, match="distinct whole numbers from 1 to 50"):
        unchecked(levels, 50)


@pytest.mark.parametrize("betas", [[], [0.1, 0.0], [1.0], [-0.1], [0.1, math.nan], [0.5, 1.5]])
def test_betas_must_lie_between_0_and_1(betas):
    with pytest.raises(UserError, match="between 0 and 1"):
        make_chain("betas", len(betas), betas)


@pytest.mark.parametrize(
    "gamma",
    [[-1.0, 0.0], [-INF, 1.0, 1.0], [-INF, 2.0, 1.0], [-INF, INF], [-INF, math.nan], [-INF]],
)
def test_a_chain_starts_clean_and_gets_noisier(gamma):
    with pytest.raises(ValueError, match="gamma"):
        Chain(np.array(gamma), np.arange(len(gamma)) - 1.0)


def test_unknown_schedule_is_refused():
    with pytest.raises(UserError, match="linear, cosine, sigmoid or betas"):
        make_chain("quadratic", 100)
