"""Exact answers, in Ho et al.'s β notation and from nothing in `ddpm`.

For a mixture of Gaussians Σ w_k N(m_k, diag(d_k²)) everything about the diffusion is known: x_t = α x_0 + σ ε
is the mixture Σ w_k N(α m_k, diag(α² d_k² + σ²)), and a posterior mean follows by conditioning each of them.

    Mixture      the data: moments, density, samples; `noised` is the law of x_t
    probability_flow   where the ODE takes a point
    OracleNet    the perfect net for it, in any parameterisation, as Denoiser calls it, told a class or none
    OracleClassifier   the perfect classifier of x_t, where the components have classes
    ExactNet     the same for one Gaussian, and the log-variance of the exact reverse step
    *_law        for one Gaussian, the mean and variance of what a whole walk gives
    published_levels, ho_posterior     respacing and the posterior as they were published
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn


def linear_betas(steps: int) -> np.ndarray:
    """Ho et al. section 4, rescaled by 1000/T as Nichol & Dhariwal do."""
    return np.linspace(0.1 / steps, 20.0 / steps, steps)


def cosine_betas(steps: int, cap: float = 0.999) -> np.ndarray:
    """Nichol & Dhariwal 2021, eq. 17, the way it is published: β = min(1 − f(t)/f(t − 1), cap)."""
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1.0 - f[1:] / f[:-1], cap)


@dataclass(frozen=True)
class Mixture:
    """weights float64[K], means float64[K, D], stds float64[K, D] (isotropic ones broadcast)."""

    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray

    @classmethod
    def of(cls, weights, means, stds) -> Mixture:
        weights, means = np.asarray(weights, float), np.atleast_2d(np.asarray(means, float))
        stds = np.asarray(stds, float)
        stds = stds[:, None] if stds.ndim == 1 else stds
        return cls(weights / weights.sum(), means, np.broadcast_to(stds, means.shape).copy())

    @property
    def mean(self) -> np.ndarray:
        return self.weights @ self.means

    @property
    def cov(self) -> np.ndarray:
        centred = self.means - self.mean
        within = np.diag(self.weights @ self.stds**2)
        return within + np.einsum("k,ki,kj->ij", self.weights, centred, centred)

    def noised(self, alpha: float, sigma: float) -> Mixture:
        """The law of x_t = alpha x_0 + sigma ε."""
        return Mixture(self.weights, alpha * self.means, np.sqrt((alpha * self.stds) ** 2 + sigma**2))

    def log_parts(self, x: np.ndarray) -> np.ndarray:
        """log w_k N(x; m_k, d_k²), float64[N, K]."""
        z = (x[:, None] - self.means) / self.stds
        return np.log(self.weights) - np.sum(0.5 * z**2 + np.log(self.stds) + 0.5 * np.log(2 * np.pi), -1)

    def log_density(self, x: np.ndarray) -> np.ndarray:
        return np.logaddexp.reduce(self.log_parts(x), axis=1)

    def score(self, x: np.ndarray) -> np.ndarray:
        """∇ log p(x), float64[N, D]."""
        parts = self.log_parts(x)
        shares = np.exp(parts - parts.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        return np.einsum("nk,nkd->nd", shares, (self.means - x[:, None]) / self.stds**2)

    def part(self, chosen: np.ndarray) -> Mixture:
        """The mixture of some of its components alone."""
        weights = self.weights[chosen]
        return Mixture(weights / weights.sum(), self.means[chosen], self.stds[chosen])

    def component(self, x: np.ndarray) -> np.ndarray:
        """The likeliest component of each x."""
        return self.log_parts(x).argmax(1)

    def sample(self, n: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        k = rng.choice(len(self.weights), n, p=self.weights)
        return self.means[k] + self.stds[k] * rng.standard_normal((n, self.means.shape[1]))


def linear(table: np.ndarray, t: np.ndarray) -> np.ndarray:
    """A table's values at 0, 1, 2 …, and linearly between."""
    return np.interp(t, np.arange(len(table)), table)


def between(alphas_cumprod: np.ndarray, t: np.ndarray) -> np.ndarray:
    """ᾱ at timesteps t, between whole ones with log SNR linear in t."""
    log_snr = linear(np.log(alphas_cumprod) - np.log1p(-alphas_cumprod), t)
    whole = np.rint(t).astype(int)
    return np.where(whole == t, alphas_cumprod[whole], 1.0 / (1.0 + np.exp(-log_snr)))


def probability_flow(data: Mixture, x: np.ndarray, high: float, low: float, steps: int = 2000) -> np.ndarray:
    """Where the ODE dx̄/du = ε̂ of x̄ = x/α, u = σ/α (Song et al. 2020, eq. 14) takes x[N, D], from γ high to γ low.

    By the classical Runge-Kutta method in log u, with ε̂ = −σ ∇ log p(x_t) of the mixture.
    """

    def slope(log_u: float, x_bar: np.ndarray) -> np.ndarray:
        alpha = 1.0 / math.sqrt(1.0 + math.exp(2.0 * log_u))
        sigma = alpha * math.exp(log_u)
        return -math.exp(log_u) * sigma * data.noised(alpha, sigma).score(alpha * x_bar)

    x_bar, log_u, h = x * math.sqrt(1.0 + math.exp(high)), 0.5 * high, 0.5 * (low - high) / steps
    for _ in range(steps):
        a = slope(log_u, x_bar)
        b = slope(log_u + h / 2, x_bar + h / 2 * a)
        c = slope(log_u + h / 2, x_bar + h / 2 * b)
        d = slope(log_u + h, x_bar + h * c)
        x_bar, log_u = x_bar + h / 6 * (a + 2 * b + 2 * c + d), log_u + h
    return x_bar / math.sqrt(1.0 + math.exp(low))


class OracleNet(nn.Module):
    """E[·|x_t] for a mixture: (x[B, *D], timestep[B]) → what a perfect net gives; timestep t means ᾱ_{t+1}.

    Between two timesteps log SNR is linear, and so are the weights of Ho et al.'s eq. 7 that "mean" stands for.
    Computed in float64 by numpy and returned in the type of x. `calls` keeps the timesteps it was told. classes is
    the class of each component; with it the net is told a label[B], −1 for none, and gives E[·|x_t, label].
    """

    def __init__(self, mixture: Mixture, betas: np.ndarray, predicts: str = "eps", classes=None):
        super().__init__()
        self.mixture, self.betas, self.predicts = mixture, np.asarray(betas, np.float64), predicts
        self.classes = None if classes is None else np.asarray(classes)
        self.alphas_cumprod = np.cumprod(1.0 - self.betas)
        self.calls: list[Tensor] = []

    def posterior_mean(self, x: np.ndarray, alpha_bar: np.ndarray, possible=True) -> np.ndarray:
        """E[x_0|x_t = x] for x[B, D] and ᾱ[B, 1], one for all or one each; possible[B, K]: the components."""
        means, variances = self.mixture.means, self.mixture.stds**2
        a, var = np.sqrt(alpha_bar)[..., None], 1.0 - alpha_bar[..., None]
        total = a**2 * variances + var
        off = x[:, None] - a * means
        logits = np.log(self.mixture.weights) - 0.5 * (off**2 / total + np.log(total)).sum(-1)
        logits = np.where(possible, logits, -np.inf)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        return (weights[..., None] * (means + a * variances / total * off)).sum(1)

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor | None = None) -> Tensor:
        self.calls.append(timestep.detach().cpu())
        possible = True
        if self.classes is not None:
            asked = label.cpu().numpy()[:, None]
            possible = (asked < 0) | (asked == self.classes)
        flat = x.detach().cpu().double().flatten(1).numpy()
        t = self.calls[-1].double().numpy()
        t = t[:1, None] if np.all(t == t[0]) else t[:, None]
        bar = between(self.alphas_cumprod, t)
        x0 = self.posterior_mean(flat, bar, possible)
        a, s = np.sqrt(bar), np.sqrt(1.0 - bar)
        eps = (flat - a * x0) / s
        if self.predicts == "eps":
            out = eps
        elif self.predicts == "x0":
            out = x0
        elif self.predicts == "v":
            out = a * eps - s * x0
        else:  # Ho et al. eq. 7
            now, before = self.alphas_cumprod, np.concatenate([[1.0], self.alphas_cumprod[:-1]])
            of_x0 = np.sqrt(before) * self.betas / (1.0 - now)
            of_xt = np.sqrt(1.0 - self.betas) * (1.0 - before) / (1.0 - now)
            out = linear(of_x0, t) * x0 + linear(of_xt, t) * flat
        return torch.from_numpy(out).view(x.shape).to(x)


class OracleClassifier(nn.Module):
    """log p(y, x_t) of a mixture whose components have classes: (x[B, *D], timestep[B]) → logits [B, Y].

    Timestep t means ᾱ_{t+1}; between two of them log SNR is linear. `calls` keeps what it was told; the logits are
    of the type of x.
    """

    def __init__(self, mixture: Mixture, betas: np.ndarray, classes):
        super().__init__()
        self.mixture, self.classes = mixture, np.asarray(classes)
        bar = np.cumprod(1.0 - np.asarray(betas, np.float64))
        self.log_snr = np.log(bar / (1.0 - bar))
        self.calls: list[Tensor] = []

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        self.calls.append(timestep.detach().cpu())
        log_snr = np.interp(self.calls[-1].double().numpy(), np.arange(len(self.log_snr)), self.log_snr)
        bar = torch.from_numpy(1.0 / (1.0 + np.exp(-log_snr)))[:, None, None]
        weights, means, stds = (torch.from_numpy(np.asarray(part)) for part in vars(self.mixture).values())
        variance = bar * stds**2 + 1.0 - bar
        off = x.flatten(1).double()[:, None] - bar.sqrt() * means
        parts = weights.log() - 0.5 * (off**2 / variance + variance.log()).sum(-1)
        of_class = [parts[:, self.classes == y].logsumexp(1) for y in range(self.classes.max() + 1)]
        return torch.stack(of_class, dim=1).to(x)


def reverse_variance(bar: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Var(x_s|x_t) for data N(·, std²) and the steps between neighbours of the levels with the given ᾱ, [T, D].

    The posterior's β̃, and what is not known of x_0: β̃ + (weight of x_0)² Var(x_0|x_t); at s = 0 Var(x_0|x_1).
    """
    before, now = bar[:-1, None], bar[1:, None]
    beta = 1.0 - now / before
    of_x0 = np.sqrt(before) * beta / (1.0 - now)
    unknown = std**2 * (1.0 - now) / (now * std**2 + 1.0 - now)
    return beta * (1.0 - before) / (1.0 - now) + of_x0**2 * unknown


class ExactNet(nn.Module):
    """(x[B, D], timestep[B]) → [B, 2D]: OracleNet's output for one Gaussian, and log Var(x_s|x_t).

    `keep`: the levels that the steps are between, all without.
    """

    def __init__(self, gaussian: Mixture, betas: np.ndarray, keep: list[int] | None = None, predicts: str = "eps"):
        super().__init__()
        self.of_mean = OracleNet(gaussian, betas, predicts)
        self.keep = np.asarray(keep or range(1, len(betas) + 1))
        self.log_variance = np.log(reverse_variance(bars(betas, list(self.keep)), gaussian.stds[0]))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        place = np.searchsorted(self.keep, np.rint(timestep.cpu().numpy()).astype(int) + 1)
        log_variance = torch.from_numpy(self.log_variance[place]).to(x)
        return torch.cat([self.of_mean(x, timestep), log_variance], dim=1)


def bars(betas: np.ndarray, keep: list[int]) -> np.ndarray:
    """ᾱ at level 0 and at the levels that a walk keeps, ascending; level t has β_1 … β_t behind it."""
    return np.concatenate([[1.0], np.cumprod(1.0 - betas)[np.asarray(keep) - 1]])


def _law(bar: np.ndarray, mean: np.ndarray, std: np.ndarray, coefficients) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of x_0 after x_s = of_x0 E[x_0|x_t] + of_xt x_t + √noise z, from x_T ~ N(0, 1)."""
    m, v = np.zeros_like(mean), np.ones_like(std)
    for i in range(len(bar) - 1, 0, -1):
        root = np.sqrt(bar[i])
        gain = root * std**2 / (bar[i] * std**2 + 1.0 - bar[i])  # E[x_0|x_t] = mean + gain (x_t − √ᾱ mean)
        of_x0, of_xt, noise = coefficients(bar[i], bar[i - 1])
        slope = of_x0 * gain + of_xt
        m = slope * m + of_x0 * (mean - gain * root * mean)
        v = slope**2 * v + (noise if i > 1 else 0.0)
    return m, v


def ancestral_law(bar, mean, std, variance: str) -> tuple[np.ndarray, np.ndarray]:
    """Ho et al. 2020, algorithm 2 with σ² = β̃ ("small") or β ("large"), on the levels with the given ᾱ."""

    def coefficients(now: float, before: float) -> tuple[float, float, float]:
        beta = 1.0 - now / before
        of_x0 = np.sqrt(before) * beta / (1.0 - now)
        of_xt = np.sqrt(1.0 - beta) * (1.0 - before) / (1.0 - now)
        return of_x0, of_xt, beta * ((1.0 - before) / (1.0 - now) if variance == "small" else 1.0)

    return _law(bar, mean, std, coefficients)


def ddim_law(bar, mean, std, eta: float) -> tuple[np.ndarray, np.ndarray]:
    """Song et al. 2020, eq. 12 and 16 (their α is ᾱ)."""

    def coefficients(now: float, before: float) -> tuple[float, float, float]:
        noise = eta**2 * (1.0 - before) / (1.0 - now) * (1.0 - now / before)
        of_eps = np.sqrt(1.0 - before - noise)
        return (
            np.sqrt(before) - of_eps * np.sqrt(now) / np.sqrt(1.0 - now),
            of_eps / np.sqrt(1.0 - now),
            noise,
        )

    return _law(bar, mean, std, coefficients)


def ho_posterior(bar: list[Decimal]) -> list[tuple[float, float, float]]:
    """Ho et al. eq. 6 and 7 for t = 2 … T: the weights of x_0 and x_t, and β̃, in 50 digits."""
    out = []
    for before, now in pairwise(bar[1:]):
        beta = 1 - now / before
        weights = before.sqrt() * beta / (1 - now), (1 - beta).sqrt() * (1 - before) / (1 - now)
        out.append((*map(float, weights), float((1 - before) / (1 - now) * beta)))
    return out


def published_levels(spec: str, T: int) -> list[int]:
    """The rule of improved-diffusion in its own words: "the number of timesteps to take from equal portions".

    A portion of `size` steps gives `count` of them, at 0, stride, 2·stride, … added up in floating point and
    rounded, with stride = (size − 1)/(count − 1); the first T mod n portions are one longer. "ddimN" is the
    first whole stride from 0 that gives N. Steps count from 0 there, levels from 1 here.
    """
    if spec.startswith("ddim"):
        stride = next(i for i in range(1, T) if math.ceil(T / i) == int(spec[4:]))
        return [1 + i for i in range(0, T, stride)]
    counts, taken, start = [int(c) for c in spec.split(",")], [], 0
    short, longer = divmod(T, len(counts))
    for portion, count in enumerate(counts):
        size = short + 1 if portion < longer else short
        stride, at = ((size - 1) / (count - 1) if count > 1 else 1), 0.0
        while count:
            taken.append(1 + start + round(at))
            at, count = at + stride, count - 1
        start += size
    return taken
