"""Solvers of higher order for the probability-flow ODE, and for the SDE beside it.

With z = x/α and u = σ/α the ODE is dz/du = ε̂ (Song et al. 2020, eq. 14), and a step of it is exact but for how ε̂,
or x̂_0, changes on the way; h = (γ_t − γ_s)/2 is the step in half the log SNR.

    heun       a step of DDIM to x_s, then ε̂ is taken there, too, and the mean of both (Karras et al. 2022, alg. 1)
               with churn: noise is added before each step and the walk set back as far (alg. 2)
    dpm++      x_s = (σ_s/σ_t) x_t + α_s (1 − e^−h) D                                     (Lu et al. 2022b, 2M)
    dpm++sde   x_s = (σ_s/σ_t) e^−h x_t + α_s (1 − e^−2h) D + σ_s √(1 − e^−2h)·noise      (the same, SDE-2M)

where D = x̂_0 + (x̂_0 − x̂_0 before)·h/(2 h before) continues the line through the last two x̂_0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, final

from jaxtyping import Float
from torch import Tensor

from ddpm.chain import mix
from ddpm.denoiser import Denoiser, Prediction
from ddpm.errors import UserError
from ddpm.samplers.walk import Noise, Sampler, followed


@final
@dataclass(frozen=True)
class Heun(Sampler[None]):
    """Karras et al. 2022, "Elucidating the design space", algorithm 1; with churn algorithm 2.

    churn is S_churn: spread over the walk's steps, at most √2 − 1 a step. It acts where churn_range[0] ≤ σ/α ≤
    churn_range[1] (S_tmin, S_tmax), with noise of deviation churn_noise (S_noise). The level a step is set back to
    lies between two of the chain, and never beyond its top.
    """

    churn: float = 0.0
    churn_range: tuple[float, float] = (0.0, math.inf)
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.churn < math.inf:
            raise UserError(f"--churn {self.churn:g}: is not negative")
        low, high = self.churn_range
        if not 0.0 <= low <= high:
            raise UserError(f"--churn-range {low:g} {high:g}: takes two values of σ/α, the smaller first")
        if not 0.0 <= self.churn_noise < math.inf:
            raise UserError(f"--churn-noise {self.churn_noise:g}: is not negative")

    def init(self, x: Tensor) -> None:
        return None

    def step(
        self, model: Denoiser, xt: Tensor, t: int, s: int, state: None, noise: Noise, **cond: Any
    ) -> tuple[Tensor, Prediction, None]:
        chain, gamma = model.chain, self._set_back(model, t)
        ratio = math.exp(0.5 * gamma)
        if gamma > chain.gamma[t]:
            of, at = model.between(gamma), 1
            alpha, before = float(of.chain.alpha(1, xt)), float(chain.alpha(t, xt))
            added = math.sqrt(ratio**2 - math.exp(float(chain.gamma[t])))
            xt = mix(alpha / before, xt, alpha * added * self.churn_noise, noise(t))
        else:
            of, at = model, t
        prediction = followed(of, xt, at, cond)
        if s == 0:
            return prediction.x0, prediction, None
        alpha, sigma = float(chain.alpha(s, xt)), float(chain.sigma(s, xt))
        x = mix(alpha, prediction.x0, sigma, prediction.eps)
        change = followed(model, x, s, cond).eps - prediction.eps
        return x.add_(change, alpha=0.5 * (sigma - alpha * ratio)), prediction, None

    def _set_back(self, model: Denoiser, t: int) -> float:
        """γ at which the step from level t begins."""
        gamma = float(model.chain.gamma[t])
        if not self.churn or not self.churn_range[0] <= math.exp(0.5 * gamma) <= self.churn_range[1]:
            return gamma
        gain = min(self.churn / model.chain.T, math.sqrt(2.0) - 1.0)
        return max(gamma, min(gamma + 2.0 * math.log1p(gain), float(model.native.gamma[-1])))

    @property
    def deterministic(self) -> bool:
        return self.churn == 0.0

    def evaluations(self, steps: int) -> int:
        return 2 * steps - 1


# A step more than so many times as long as the one before is of first order: a line through two levels as near, as
# where one was put into the grid (`Walks.through`), would magnify the rounding of their predictions.
_FAR = 100.0


class Before(NamedTuple):
    """What a multistep solver keeps of the step before: x̂_0 and the h of the step."""

    x0: Float[Tensor, "B *D"]
    h: float


@final
@dataclass(frozen=True)
class DPMSolver(Sampler[Before | None]):
    """DPM-Solver++ (2M), multistep: one evaluation a step; the first and the last step are of first order."""

    stochastic: bool = False

    def init(self, x: Tensor) -> Before | None:
        return None

    def step(
        self, model: Denoiser, xt: Tensor, t: int, s: int, state: Before | None, noise: Noise, **cond: Any
    ) -> tuple[Tensor, Prediction, Before | None]:
        prediction = followed(model, xt, t, cond)
        if s == 0:  # h is infinite
            return prediction.x0, prediction, None
        chain, x0 = model.chain, prediction.x0
        h = 0.5 * float(chain.gamma[t] - chain.gamma[s])
        line = x0 if state is None or h > _FAR * state.h else x0.lerp(state.x0, -0.5 * h / state.h)
        alpha, sigma = float(chain.alpha(s, xt)), float(chain.sigma(s, xt))
        ratio = sigma / float(chain.sigma(t, xt))
        if self.stochastic:
            gain = -math.expm1(-2.0 * h)
            x = mix(ratio * math.exp(-h), xt, alpha * gain, line).add_(noise(t), alpha=sigma * math.sqrt(gain))
        else:
            x = mix(ratio, xt, alpha * -math.expm1(-h), line)
        return x, prediction, Before(x0, h)

    @property
    def deterministic(self) -> bool:
        return not self.stochastic

    def evaluations(self, steps: int) -> int:
        return steps
