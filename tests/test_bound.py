"""The bound's terms against Ho et al.'s formulas in β notation, torch.distributions and 60-digit numbers."""

import math

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from ddpm.bound import bits, prior, term
from ddpm.chain import Chain, make_chain
from ddpm.denoiser import Denoiser
from oracle import bars, cosine_betas, linear_betas, published_levels

PREDICTS = ["eps", "x0", "v", "mean"]
VARIANCES = ["small", "large", "learned", "learned_range"]
STEPS = 40
CHAINS = {
    "linear": (linear_betas(STEPS), None),
    "cosine": (cosine_betas(STEPS), None),
    "linear, 7": (linear_betas(STEPS), "7"),
    "cosine, 3,2,2": (cosine_betas(STEPS), "3,2,2"),
    "linear, a list": (linear_betas(STEPS), [2, 3, 11, 40]),
    "one step": (np.array([0.3]), None),
    "one step of forty": (cosine_betas(STEPS), [17]),
}


# -- one term ----------------------------------------------------------------------------------------------


def kept(spec, steps: int) -> list[int]:
    if spec is None:
        return list(range(1, steps + 1))
    return spec if isinstance(spec, list) else published_levels(spec, steps)


class Ho:
    """improved-diffusion's tables for the levels kept, from betas alone; step i is from level keep[i]."""

    def __init__(self, betas: np.ndarray, keep: list[int]):
        self.alphas_cumprod = bars(betas, keep)[1:]
        self.alphas_cumprod_prev = np.append(1.0, self.alphas_cumprod[:-1])
        self.betas = 1.0 - self.alphas_cumprod / self.alphas_cumprod_prev
        self.posterior_variance = self.betas * (1.0 - self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)
        first = self.posterior_variance[1] if len(keep) > 1 else self.betas[0]
        self.lower = np.log(np.append(first, self.posterior_variance[1:]))
        self.upper = np.log(self.betas)
        self.posterior_mean_coef1 = self.betas * np.sqrt(self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)
        self.posterior_mean_coef2 = (
            (1.0 - self.alphas_cumprod_prev) * np.sqrt(1.0 - self.betas) / (1.0 - self.alphas_cumprod)
        )

    def x0(self, predicts: str, i: int, output: Tensor, xt: Tensor, native: "Ho", n: int) -> Tensor:
        """x̂_0 of the output at step i, which is step n of the chain the net was trained on."""
        bar = self.alphas_cumprod[i]
        if predicts == "eps":
            return (xt - math.sqrt(1 - bar) * output) / math.sqrt(bar)
        if predicts == "x0":
            return output
        if predicts == "v":
            return math.sqrt(bar) * xt - math.sqrt(1 - bar) * output
        return (output - native.posterior_mean_coef2[n] * xt) / native.posterior_mean_coef1[n]

    def log_variance(self, variance: str, i: int, v: Tensor, native: "Ho", n: int) -> Tensor:
        if variance in ("small", "large"):
            fixed = self.lower[i] if variance == "small" or i == 0 else self.upper[i]
            return torch.full_like(v, fixed)
        if variance == "learned_range":
            share = (v + 1.0) / 2.0
        elif self is native:
            return v
        elif native.upper[n] > native.lower[n]:
            share = ((v - native.lower[n]) / (native.upper[n] - native.lower[n])).clamp(0.0, 1.0)
        else:
            share = torch.zeros_like(v)
        return share * self.upper[i] + (1.0 - share) * self.lower[i]

    def term(self, i: int, x0: Tensor, xt: Tensor, seen: Tensor, log_variance: Tensor) -> Tensor:
        """Bits/dim; the pixels' probabilities in 60 digits."""
        mean = self.posterior_mean_coef1[i] * seen + self.posterior_mean_coef2[i] * xt
        std = (0.5 * log_variance).exp()
        if i > 0:
            q_mean = self.posterior_mean_coef1[i] * x0 + self.posterior_mean_coef2[i] * xt
            q = Normal(q_mean, math.sqrt(self.posterior_variance[i]))
            nats = kl_divergence(q, Normal(mean, std))
        else:
            parts = [x0.flatten().tolist(), mean.flatten().tolist(), std.flatten().tolist()]
            nats = -torch.tensor(list(map(log_pixel, *parts)), dtype=torch.float64).view_as(x0)
        return nats.flatten(1).mean(1) / math.log(2.0)


def log_pixel(x: float, mean: float, std: float) -> float:
    """log of the probability of x ± 1/255, the first and last bins open."""
    with mpmath.workdps(60):
        upper = mpmath.inf if x > 0.999 else (mpmath.mpf(round((x + 1) * 255)) / 255 - 1 + 1 / mpmath.mpf(255))
        lower = -mpmath.inf if x < -0.999 else (mpmath.mpf(round((x + 1) * 255)) / 255 - 1 - 1 / mpmath.mpf(255))
        upper, lower = (upper - mean) / std, (lower - mean) / std
        if lower + upper > 0:
            lower, upper = -upper, -lower
        root = mpmath.sqrt(2)
        return float(mpmath.log((mpmath.erfc(-upper / root) - mpmath.erfc(-lower / root)) / 2))


def random_batch(size: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels with both ends among them, noise, and a net's two outputs, [size, 2, 3]."""
    generator = torch.Generator().manual_seed(seed)
    k = torch.randint(0, 256, (size, 2, 3), generator=generator)
    k[0, 0, :2] = torch.tensor([0, 255])
    eps, output, v = torch.randn(3, size, 2, 3, dtype=torch.float64, generator=generator).unbind()
    return k / torch.tensor(127.5, dtype=torch.float64) - 1.0, eps, output, v


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("name", CHAINS)
def test_a_term_equals_the_independent_computation(name, predicts, variance, clip):
    betas, spec = CHAINS[name]
    keep = kept(spec, len(betas))
    native = Ho(betas, list(range(1, len(betas) + 1)))
    ho = native if spec is None else Ho(betas, keep)
    model = Denoiser(nn.Identity(), Chain.from_betas(betas), predicts, variance, clip)
    model = model if spec is None else model.respace(spec)
    T = len(keep)
    assert model.chain.T == T
    steps = sorted({1, 2, T // 2, T - 1, T} & set(range(1, T + 1)))
    x0, eps, output, v = random_batch(len(steps), 7)
    bar = torch.from_numpy(ho.alphas_cumprod)[torch.tensor(steps) - 1].view(-1, 1, 1)
    xt = bar.sqrt() * x0 + (1.0 - bar).sqrt() * eps
    if variance == "learned":  # about as far as a net would go, and beyond the two bounds
        low, high = (
            torch.tensor([b[keep[t - 1] - 1] for t in steps]).view(-1, 1, 1) for b in (native.lower, native.upper)
        )
        v = low + (0.5 + 0.7 * v) * (high - low)
    raw = torch.cat([output, v], dim=1)

    expected = []
    for i, t in enumerate(steps):
        row, n = slice(i, i + 1), keep[t - 1] - 1
        seen = ho.x0(predicts, t - 1, output[row], xt[row], native, n)
        log_variance = ho.log_variance(variance, t - 1, v[row], native, n)
        expected.append(ho.term(t - 1, x0[row], xt[row], seen.clamp(-1, 1) if clip else seen, log_variance))
        # one level for the whole batch, as a plain number
        one = term(model, x0[row], xt[row], t, t - 1, model.read(raw[row], xt[row], t))
        torch.testing.assert_close(one, expected[-1], rtol=1e-9, atol=1e-9)
    levels = torch.tensor(steps)
    many = term(model, x0, xt, levels, levels - 1, model.read(raw, xt, levels))
    torch.testing.assert_close(many, torch.cat(expected), rtol=1e-9, atol=1e-9)


def test_a_term_between_levels_that_are_no_neighbours_is_the_respaced_one_s():
    chain, keep = make_chain("cosine", STEPS), [3, 17, 40]
    x0, eps, output, _ = random_batch(3, 1)
    model = Denoiser(nn.Identity(), chain, "v", "large")
    short = model.respace(keep)
    for i, (t, s) in enumerate([(17, 3), (40, 17)], start=2):
        xt = chain.q(x0, t).sample(eps)
        far = term(model, x0, xt, t, s, model.read(output, xt, t))
        near = term(short, x0, xt, i, i - 1, short.read(output, xt, i))
        torch.testing.assert_close(far, near, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variance", VARIANCES)
def test_gradients_of_a_mixed_batch_are_those_of_each_row(variance):
    """Rows at s = 0 have a decoder, the others a divergence; neither leaves a trace in the other's gradient."""
    x0, eps, output, v = (part.float() for part in random_batch(4, 3))
    raw = torch.cat([output, 3.0 * v], dim=1).requires_grad_()
    model = Denoiser(nn.Identity(), make_chain("linear", 1000), "eps", variance, clip=False)
    t = torch.tensor([1, 2, 1000, 1])
    xt = model.chain.q(x0, t).sample(eps)
    (all_rows,) = torch.autograd.grad(
        term(model, x0, xt, t, t - 1, model.read(raw, xt, t)).sum(), raw, retain_graph=True
    )
    assert torch.all(all_rows.isfinite())
    for i in range(4):
        at, row = t[i : i + 1], slice(i, i + 1)
        alone = term(model, x0[row], xt[row], at, at - 1, model.read(raw[row], xt[row], at)).sum()
        (gradient,) = torch.autograd.grad(alone, raw)
        torch.testing.assert_close(gradient[row], all_rows[row], rtol=1e-6, atol=1e-7)
        assert torch.all(gradient[row][:, :2] != 0)
        assert torch.all((gradient[row][:, 2:] != 0) == (variance in ("learned", "learned_range")))


def test_far_out_predictions_still_teach():
    """A fresh or a wild net is thousands of deviations off; single precision must not turn that into a NaN."""
    x0, eps, output, v = (part.float() for part in random_batch(4, 4))
    for scale in (1.0, 100.0, 1e4):
        raw = torch.cat([scale * output, 5.0 * v], dim=1).requires_grad_()
        model = Denoiser(nn.Identity(), make_chain("cosine", 1000), "x0", "learned_range", clip=False)
        t = torch.tensor([1, 2, 500, 1000])
        xt = model.chain.q(x0, t).sample(eps)
        value = term(model, x0, xt, t, t - 1, model.read(raw, xt, t))
        value.sum().backward()
        assert torch.all(value.isfinite()) and torch.all(raw.grad.isfinite())


# -- the prior ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "cosine", "one step"])
def test_the_prior_is_the_divergence_from_a_standard_normal(name):
    betas, x0 = CHAINS[name][0], random_batch(5, 0)[0]
    bar = float(np.prod(1.0 - betas))
    q = Normal(math.sqrt(bar) * x0, math.sqrt(1.0 - bar))
    expected = kl_divergence(q, Normal(torch.zeros_like(x0), 1.0)).mean((1, 2)) / math.log(2.0)
    ours = prior(Chain.from_betas(betas), x0)
    assert ours.shape == (5,)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_the_paper_s_prior_is_a_hundred_thousandth_of_a_bit():
    """Ho et al. section 4: L_T ≈ 10^-5 bits/dim, for pixels spread over [−1, 1]."""
    x0 = (torch.arange(256, dtype=torch.float64) / 127.5 - 1.0).view(1, 256)
    assert prior(make_chain("linear", 1000), x0).item() == pytest.approx(1e-5, rel=0.1)
    # ½ ᾱ_T x_0² to first order, and any shorter walk starts from the same noise
    bar = float(np.prod(1.0 - linear_betas(1000)))
    exact = 0.5 * bar * x0.square().mean().item() / math.log(2.0)
    assert prior(make_chain("linear", 1000).respace("50"), x0).item() == pytest.approx(exact, rel=1e-3)


def test_bits_are_means_over_each_picture():
    nats = torch.tensor([[[1.0, 2.0]], [[-3.0, 0.0]]])
    torch.testing.assert_close(bits(nats), torch.tensor([1.5, -1.5]) / math.log(2.0))
