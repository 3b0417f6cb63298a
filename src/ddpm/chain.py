"""The forward process q: a chain of noise levels, and the Gaussians between them.

    x_t = α_t x_0 + σ_t ε,   α² + σ² = 1,   γ_t = log(σ_t²/α_t²) = −log SNR,   t = 0 … T,   γ_0 = −∞

γ in float64 is all there is: everything else follows from it, for any two levels s < t, with
c = −expm1(γ_s − γ_t) (Kingma et al. 2021, appendix A; Ho et al. 2020, eq. 4, 6, 7):

    q(x_t|x_0)      mean α_t x_0                                      variance σ_t²
    q(x_t|x_s)      mean (α_t/α_s) x_s                                variance σ_t² c   (β in Ho et al.)
    q(x_s|x_t,x_0)  mean α_s c x_0 + (α_s/α_t)(1 − c) x_t             variance σ_s² c   (β̃ in Ho et al.)

so a shorter chain is γ[keep]: no new betas. Levels t and s are an int for the whole batch, or an integer
tensor [B] on the CPU, where the tables are; coefficients are computed in float64 and cast last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ddpm.errors import UserError
from ddpm.gaussian import Gaussian
from ddpm.respacing import GRIDS, known, levels, spaced

Level: TypeAlias = int | Tensor
Coefficient: TypeAlias = float | Tensor
Schedule: TypeAlias = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Chain:
    """Noise levels 0 … T: gamma float64[T+1], increasing from −∞; timestep float64[T+1], what the net is told.

    After respacing `timestep` still holds the original one: t − 1 for a chain that was never respaced, since
    the nets of Ho et al. and OpenAI count from 0; or that times a constant.
    """

    gamma: np.ndarray
    timestep: np.ndarray
    _alpha: np.ndarray = field(init=False, repr=False)
    _sigma: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        gamma = np.asarray(self.gamma, dtype=np.float64)
        if gamma.ndim != 1 or len(gamma) < 2 or len(gamma) != len(self.timestep):
            raise ValueError(f"gamma has shape {gamma.shape}; a chain needs one γ for each of t = 0 … T, T ≥ 1")
        if gamma[0] != -math.inf or not np.all(np.diff(gamma) > 0) or not np.all(np.isfinite(gamma[1:])):
            raise ValueError("gamma must start at −∞ (t = 0 is clean data) and be finite and increasing after it")
        # log α² = −softplus(γ) and log σ² = −softplus(−γ) keep full precision at both ends.
        object.__setattr__(self, "gamma", gamma)
        object.__setattr__(self, "timestep", np.asarray(self.timestep, dtype=np.float64))
        object.__setattr__(self, "_alpha", np.exp(-0.5 * np.logaddexp(0.0, gamma)))
        object.__setattr__(self, "_sigma", np.exp(-0.5 * np.logaddexp(0.0, -gamma)))

    # -- making one ----------------------------------------------------------------------------------------

    @classmethod
    def from_betas(cls, betas: Sequence[float] | np.ndarray) -> Chain:
        """The chain of Ho et al.'s β_1 … β_T, each in (0, 1): ᾱ_t = Π(1 − β)."""
        betas = np.asarray(betas, dtype=np.float64)
        if betas.ndim != 1 or len(betas) == 0 or not np.all((betas > 0) & (betas < 1)):
            raise UserError("betas: every β must lie strictly between 0 and 1, and there must be at least one")
        log_alpha_bar = np.cumsum(np.log1p(-betas))
        # log((1 − ᾱ)/ᾱ) without the cancellation in 1 − ᾱ, and without overflow where ᾱ is next to nothing
        gamma = np.log(-np.expm1(log_alpha_bar)) - log_alpha_bar
        return cls(np.concatenate([[-math.inf], gamma]), np.arange(len(betas) + 1) - 1.0)

    @classmethod
    def from_schedule(cls, schedule: Schedule, steps: int, max_beta: float = 0.999) -> Chain:
        """The chain with γ_t = schedule(t/T), where γ is −log SNR over u ∈ [0, 1], and β ≤ max_beta.

        The cap is Nichol & Dhariwal's (2021, section 3.2): a schedule that ends in pure noise has β_T = 1.
        """
        with np.errstate(divide="ignore"):
            log_alpha_bar = -np.logaddexp(0.0, schedule(np.arange(steps + 1) / steps))
        log_alpha_bar[0] = 0.0
        with np.errstate(invalid="ignore"):
            betas = -np.expm1(np.diff(log_alpha_bar))
        return cls.from_betas(np.minimum(np.nan_to_num(betas, nan=max_beta), max_beta))

    def respace(self, spec: str | int | Iterable[int], grid: str = "uniform") -> Chain:
        """The chain of fewer levels: "50", "10,15,20" (so many from each third), "ddim25", or the levels t.

        The strings mean what they mean in OpenAI's improved-diffusion: "50" includes both ends; "ddimN" is an
        integer stride from t = 1, which must exist. Level 0 is always kept. Another grid of `respacing.GRIDS`
        takes a number, as "50", and may have levels between two of the chain.
        """
        if grid != "uniform":
            if not known(grid):
                raise UserError(f"--grid {grid}: takes {', '.join(GRIDS)}, as in edm:7, fitted, or a file")
            if not str(spec).strip().isdecimal():
                raise UserError(f"--steps {spec}: --grid {grid} takes a number of steps, as 20")
            return self.between(spaced(self.gamma, int(str(spec)), grid))
        index = np.array([0, *levels(spec, self.T)])
        return Chain(self.gamma[index], self.timestep[index])

    def between(self, gamma: Sequence[float] | np.ndarray) -> Chain:
        """The chain of these γ, ascending within γ_1 … γ_T, levels of this one or between two.

        What the net is told there is interpolated, linearly in γ. ValueError for a γ beyond the ends.
        """
        gamma = np.asarray(gamma, dtype=np.float64)
        low, high = self.gamma[1], self.gamma[-1]
        if np.any(gamma < low - 1e-9) or np.any(gamma > high + 1e-9):
            raise ValueError(
                f"γ from {gamma.min()} to {gamma.max()}: the chain's levels reach from {low} to {high}"
            )
        gamma = gamma.clip(low, high)
        timestep = np.interp(gamma, self.gamma[1:], self.timestep[1:])
        return Chain(np.concatenate([self.gamma[:1], gamma]), np.concatenate([self.timestep[:1], timestep]))

    def places(self, shorter: Chain) -> np.ndarray:
        """Where the levels 0 … T of a chain respaced from this one are in it, float64.

        Whole numbers, but for levels between two.
        """
        places: np.ndarray = np.interp(shorter.timestep, self.timestep, np.arange(self.T + 1.0))
        return places

    # -- reading one ---------------------------------------------------------------------------------------

    @property
    def whole(self) -> bool:
        """Whether it has every level from t = 1 on, as one that was never respaced."""
        first = -self.timestep[0]
        return bool(np.allclose(self.timestep, first * (np.arange(self.T + 1) - 1.0), rtol=0.0, atol=1e-6 * first))

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.gamma) - 1

    def alpha(self, t: Level, like: Tensor) -> Coefficient:
        """α_t, the scale of the signal, ready to multiply a tensor shaped like `like` [B, *D]."""
        return self._numbers.alpha[t] if isinstance(t, int) else spread(self._alpha[_index(t)], like)

    def sigma(self, t: Level, like: Tensor) -> Coefficient:
        """σ_t, the scale of the noise, ready to multiply a tensor shaped like `like` [B, *D]."""
        return self._numbers.sigma[t] if isinstance(t, int) else spread(self._sigma[_index(t)], like)

    def snr(self, t: Level) -> Any:
        """α_t²/σ_t² = exp(−γ_t), float64; infinite at t = 0."""
        return np.exp(-self.gamma[_index(t)])

    def told(self, t: Level, batch: int, device: torch.device) -> Float[Tensor, "B"]:
        """The timestep the net is told, float32[B]."""
        if isinstance(t, int):
            return torch.full((batch,), self._numbers.timestep[t], device=device)
        return torch.from_numpy(self.timestep[_index(t)]).to(device, torch.float32)

    # -- its Gaussians -------------------------------------------------------------------------------------

    def q(self, x0: Float[Tensor, "B *D"], t: Level) -> Gaussian:
        """q(x_t|x_0), eq. 4 of Ho et al."""
        return Gaussian(self.alpha(t, x0) * x0, spread(-np.logaddexp(0.0, -self.gamma[_index(t)]), x0))

    def forward(self, xs: Float[Tensor, "B *D"], t: Level, s: Level) -> Gaussian:
        """q(x_t|x_s) for levels s < t; q(x_t|x_0) at s = 0."""
        at_t, at_s = _index(t), _index(s)
        ratio = spread(self._alpha[at_t] / self._alpha[at_s], xs)
        return Gaussian(ratio * xs, spread(self.log_large(t, s), xs))

    def posterior(self, x0: Float[Tensor, "B *D"], xt: Float[Tensor, "B *D"], t: Level, s: Level) -> Gaussian:
        """q(x_s|x_t,x_0) for levels s < t, eq. 6 and 7 of Ho et al. for s = t − 1; a point at s = 0."""
        return Gaussian(self.posterior_mean(x0, xt, t, s), spread(self.log_small(t, s), x0))

    def posterior_mean(
        self, x0: Float[Tensor, "B *D"], xt: Float[Tensor, "B *D"], t: Level, s: Level
    ) -> Float[Tensor, "B *D"]:
        """The mean of q(x_s|x_t,x_0)."""
        of_x0, of_xt = self.posterior_weights(t, s)
        return mix(spread(of_x0, x0), x0, spread(of_xt, xt), xt)

    def posterior_weights(self, t: Level, s: Level) -> tuple[Any, Any]:
        """The weights of x_0 and x_t in the posterior mean, float64: α_s c and (α_s/α_t)(1 − c)."""
        if isinstance(t, int) and s == t - 1:
            return self._numbers.weights[t]
        t, s = _index(t), _index(s)
        difference = self.gamma[s] - self.gamma[t]
        alpha_s = self._alpha[s]
        return alpha_s * -np.expm1(difference), alpha_s / self._alpha[t] * np.exp(difference)

    def log_small(self, t: Level, s: Level) -> Any:
        """log(σ_s² c), the posterior's own variance (β̃), float64; −∞ at s = 0."""
        if isinstance(t, int) and s == t - 1:
            return self._numbers.small[t]
        return self._log_gain(t, s) - np.logaddexp(0.0, -self.gamma[_index(s)])

    def log_lower(self, t: Level, s: Level) -> Any:
        """log_small, except at s = 0, where it would be −∞: the next step's there; float64.

        It is the model's small variance and the lower end of a learned one, as Ho et al. and OpenAI have them;
        with it the paper's L_0 comes out. A chain of one step has no next step and takes log_large.
        """
        if isinstance(s, int):
            return self._log_first if s == 0 else self.log_small(t, s)
        with np.errstate(divide="ignore"):
            return np.where(s.cpu().numpy() == 0, self._log_first, self.log_small(t, s))

    @cached_property
    def _log_first(self) -> float:
        return float(self.log_small(2, 1) if self.T > 1 else self.log_large(1, 0))

    def log_large(self, t: Level, s: Level) -> Any:
        """log(σ_t² c), the variance of the step t given s (β), float64."""
        if isinstance(t, int) and s == t - 1:
            return self._numbers.large[t]
        return self._log_gain(t, s) - np.logaddexp(0.0, -self.gamma[_index(t)])

    def _log_gain(self, t: Level, s: Level) -> Any:
        """log c."""
        return np.log(-np.expm1(self.gamma[_index(s)] - self.gamma[_index(t)]))

    @cached_property
    def _numbers(self) -> _Numbers:
        t = torch.arange(self.T + 1).clamp_(min=1)  # nothing steps from level 0
        with np.errstate(divide="ignore"):
            small, large = self.log_small(t, t - 1), self.log_large(t, t - 1)
        weights = np.stack(self.posterior_weights(t, t - 1), axis=1)
        pairs = [(a, b) for a, b in weights.tolist()]
        tables = [table.tolist() for table in (self._alpha, self._sigma, self.timestep)]
        return _Numbers(pairs, small.tolist(), large.tolist(), *tables)


class _Numbers(NamedTuple):
    """What belongs to the levels t and to the steps t → t − 1, as plain numbers by t.

    A walk asks for them one by one, where computing each costs more than the step's own arithmetic.
    """

    weights: list[tuple[float, float]]
    small: list[float]
    large: list[float]
    alpha: list[float]
    sigma: list[float]
    timestep: list[float]


def spread(coefficient: Any, like: Tensor) -> Coefficient:
    """A coefficient as it multiplies `like` [B, *D]: a float, or a tensor [B, 1, …] of its dtype and device.

    The only place where coefficients are cast and broadcast.
    """
    if isinstance(coefficient, float) or np.ndim(coefficient) == 0:  # asked for at every step of a walk
        return float(coefficient)
    column = torch.from_numpy(coefficient).to(like.dtype)
    return column.view(-1, *[1] * (like.ndim - 1)).to(like.device, non_blocking=True)


def mix(a: Coefficient, x: Tensor, b: Coefficient, y: Tensor) -> Tensor:
    """a·x + b·y, in as few passes as there can be where a and b are numbers."""
    if isinstance(b, Tensor):
        return a * x + b * y
    return torch.add(x if a == 1.0 else a * x, y, alpha=b)


def _index(t: Level) -> Any:
    return t if isinstance(t, int) else t.cpu().numpy() if isinstance(t, Tensor) else np.asarray(t)


# -- schedules ---------------------------------------------------------------------------------------------


def linear_betas(steps: int) -> np.ndarray:
    """β from 1e-4 to 0.02 at T = 1000 (Ho et al., section 4), scaled by 1000/T so that ᾱ_T is kept."""
    scale = 1000.0 / steps
    if scale * 0.02 >= 1.0:
        raise UserError(
            f"--chain.steps {steps}: the linear schedule scales β by 1000/T and reaches 1 below T = 21; "
            "take at least 21 steps, or --chain.schedule cosine"
        )
    return np.linspace(scale * 1e-4, scale * 0.02, steps)


def cosine(u: np.ndarray) -> np.ndarray:
    """γ(u) with ᾱ = f(u)/f(0), f = cos²(π/2 (u + 0.008)/1.008) (Nichol & Dhariwal 2021, eq. 17)."""
    angle = (np.asarray(u) + 0.008) / 1.008 * (math.pi / 2)
    alpha_bar = np.cos(angle) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    return _gamma_of(alpha_bar)


def sigmoid(u: np.ndarray, start: float = -3.0, end: float = 3.0, temperature: float = 1.0) -> np.ndarray:
    """γ(u) with ᾱ a sigmoid from 1 to 0 (Jabri et al. 2022, "Scalable adaptive computation", algorithm 1)."""

    def logistic(x: Any) -> Any:
        return 1.0 / (1.0 + np.exp(-x / temperature))

    first, last = logistic(start), logistic(end)
    return _gamma_of((last - logistic(start + np.asarray(u) * (end - start))) / (last - first))


def _gamma_of(alpha_bar: np.ndarray) -> np.ndarray:
    alpha_bar = np.clip(alpha_bar, 0.0, 1.0)
    with np.errstate(divide="ignore"):
        gamma: np.ndarray = np.log1p(-alpha_bar) - np.log(alpha_bar)
    return gamma


def make_chain(schedule: str, steps: int, betas: Sequence[float] = (), rescale: bool = False) -> Chain:
    """The chain of a named schedule: linear, cosine, sigmoid, or betas (the numbers given).

    rescale: the net is told (t − 1)·1000/T, so that nets for any T see the same range (Nichol & Dhariwal's code).
    """
    chain = _chain_of(schedule, steps, betas)
    return Chain(chain.gamma, chain.timestep * (1000.0 / chain.T)) if rescale else chain


def _chain_of(schedule: str, steps: int, betas: Sequence[float]) -> Chain:
    if schedule == "betas":
        return Chain.from_betas(betas)
    if steps < 1:
        raise UserError(f"--chain.steps {steps}: is at least 1")
    if schedule == "linear":
        return Chain.from_betas(linear_betas(steps))
    if schedule == "cosine":
        return Chain.from_schedule(cosine, steps)
    if schedule == "sigmoid":
        return Chain.from_schedule(sigmoid, steps)
    raise UserError(f"--chain.schedule {schedule}: takes linear, cosine, sigmoid or betas")
