"""DDIM, and its way back from a picture to the noise that gives it.

ddim        x_s = α_s x̂_0 + √(σ_s² − τ²) ε̂ + τ·noise,  τ = η σ_s √c          (Song et al. 2020, eq. 12 and 16)
inversion   x_t = (α_t/α_s) x_s + (σ_t − α_t σ_s/α_s) ε̂(x_t)                the same at η = 0, solved for x_t
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from ddpm.chain import mix
from ddpm.denoiser import Denoiser, Prediction
from ddpm.errors import UserError
from ddpm.samplers.walk import Noise, Sampler, followed


@final
@dataclass(frozen=True)
class DDIM(Sampler[None]):
    """Song et al. 2020: deterministic at eta = 0; ancestral sampling with the small variance at eta = 1."""

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise UserError(f"--eta {self.eta}: lies between 0 (deterministic) and 1 (ancestral)")

    def init(self, x: Tensor) -> None:
        return None

    def step(
        self, model: Denoiser, xt: Tensor, t: int, s: int, state: None, noise: Noise, **cond: Any
    ) -> tuple[Tensor, Prediction, None]:
        prediction = followed(model, xt, t, cond)
        if s == 0:
            return prediction.x0, prediction, None
        chain = model.chain
        tau = self.eta * math.exp(0.5 * chain.log_small(t, s)) if self.eta else 0.0
        # ε̂ = (x_t − α_t x̂_0)/σ_t put into the formula: two passes over the picture in place of four.
        of_xt = math.sqrt(max(0.0, float(chain.sigma(s, xt)) ** 2 - tau**2)) / float(chain.sigma(t, xt))
        of_x0 = float(chain.alpha(s, xt)) - of_xt * float(chain.alpha(t, xt))
        x = mix(of_x0, prediction.x0, of_xt, xt)
        return (x.add_(noise(t), alpha=tau) if tau else x), prediction, None

    @property
    def deterministic(self) -> bool:
        return self.eta == 0.0

    def evaluations(self, steps: int) -> int:
        return steps


@final
@dataclass(frozen=True)
class Inversion(Sampler[None]):
    """From level t up to s = t + 1: the x_s from which DDIM would step to x_t.

    ε̂ belongs to the x_s that is looked for. It is first taken of x_t, which is all of the usual inversion (Song et
    al. 2020, section 4.3), then of what came out, `refinements` times (fixed-point iteration, as in Pan et al.
    2023, "AIDI"). A net cannot be asked at t = 0: there ε̂ is that of level 1 from the beginning.
    """

    refinements: int = 0

    def __post_init__(self) -> None:
        if self.refinements < 0:
            raise UserError(f"--refinements {self.refinements}: is not negative")

    def init(self, x: Tensor) -> None:
        return None

    def step(
        self, model: Denoiser, xt: Tensor, t: int, s: int, state: None, noise: Noise, **cond: Any
    ) -> tuple[Tensor, Prediction, None]:
        if s <= t:
            raise ValueError(f"from {t} to {s}: inversion goes up, to a noisier level")
        chain = model.chain
        scale = float(chain.alpha(s, xt)) / float(chain.alpha(t, xt))
        rest = float(chain.sigma(s, xt)) - scale * float(chain.sigma(t, xt))
        prediction = followed(model, xt, t, cond) if t > 0 else followed(model, xt * scale, s, cond)
        x = mix(scale, xt, rest, prediction.eps)
        for _ in range(self.refinements):
            prediction = followed(model, x, s, cond)
            x = mix(scale, xt, rest, prediction.eps)
        return x, prediction, None

    @property
    def deterministic(self) -> bool:
        return True

    def evaluations(self, steps: int) -> int:
        return steps * (1 + self.refinements)
