"""Ancestral sampling, and the predictor–corrector that walks beside it.

ddpm   x_s ~ p(x_s|x_t)                                            (Ho et al. 2020, algorithm 2)
pc     at each level first Langevin steps, x ← x + ε·score + √(2ε)·noise, then a predictor's step to the next
       (Song et al. 2021, algorithms 3 and 5)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor

from ddpm.chain import mix
from ddpm.denoiser import Denoiser, Prediction
from ddpm.errors import UserError
from ddpm.samplers.walk import Noise, Sampler, followed

Predictor = Literal["ancestral", "reverse"]


@final
@dataclass(frozen=True)
class Ancestral(Sampler[None]):
    """Draws from p(x_s|x_t); the last step, to s = 0, is its mean (Ho et al. 2020, algorithm 2)."""

    def init(self, x: Tensor) -> None:
        return None

    def step(
        self, model: Denoiser, xt: Tensor, t: int, s: int, state: None, noise: Noise, **cond: Any
    ) -> tuple[Tensor, Prediction, None]:
        prediction = model(xt, t, **cond)
        reverse = model.reverse(xt, t, s, prediction)
        return (reverse.sample(noise(t)) if s > 0 else reverse.mean), prediction, None

    @property
    def deterministic(self) -> bool:
        return False

    def evaluations(self, steps: int) -> int:
        return steps


@final
@dataclass(frozen=True)
class PredictorCorrector(Sampler[None]):
    """Song et al. 2021, "Score-based generative modeling", algorithms 3 and 5, on the chain there is.

    predictor: ancestral draws from p(x_s|x_t); reverse discretises the reverse SDE, their eq. 46:
    x_s = (2 − √(1 − β)) x_t + β·score + √β·noise. corrections: Langevin steps at each level, of size
    ε = 2(1 − β)(r ‖noise‖/‖score‖)² with r = corrector_snr. Norms are each picture's own, where the published code
    takes the mean over the batch: a picture must not depend on its neighbours.
    """

    predictor: Predictor = "ancestral"
    corrections: int = 1
    corrector_snr: float = 0.16

    def __post_init__(self) -> None:
        if self.predictor not in get_args(Predictor):
            raise UserError(f"--predictor {self.predictor}: takes ancestral or reverse")
        if self.corrections < 1:
            raise UserError(f"--corrections {self.corrections}: is at least 1; without any take --sampler ddpm")
        if self.corrections > 255:  # the draws that noise has at a level
            raise UserError(f"--corrections {self.corrections}: is at most 255")
        if not 0.0 < self.corrector_snr < math.inf:
            raise UserError(f"--corrector-snr {self.corrector_snr:g}: is positive")

    def init(self, x: Tensor) -> None:
        return None

    def step(
        self, model: Denoiser, xt: Tensor, t: int, s: int, state: None, noise: Noise, **cond: Any
    ) -> tuple[Tensor, Prediction, None]:
        sigma, beta = float(model.chain.sigma(t, xt)), math.exp(model.chain.log_large(t, s))
        for k in range(1, self.corrections + 1):
            score = followed(model, xt, t, cond).eps / -sigma
            z = noise(t, k)
            ratio = self.corrector_snr * _norm(z) / _norm(score).clamp_min(1e-12)
            size = 2.0 * (1.0 - beta) * ratio.square()
            xt = xt + size * score + (2.0 * size).sqrt() * z
        if self.predictor == "ancestral":
            prediction = model(xt, t, **cond)
            reverse = model.reverse(xt, t, s, prediction)
            return (reverse.sample(noise(t)) if s > 0 else reverse.mean), prediction, None
        prediction = followed(model, xt, t, cond)
        if s == 0:  # where the last step's noise would stay in the picture
            return prediction.x0, prediction, None
        mean = mix(2.0 - math.sqrt(1.0 - beta), xt, -beta / sigma, prediction.eps)
        return mean.add_(noise(t), alpha=math.sqrt(beta)), prediction, None

    @property
    def deterministic(self) -> bool:
        return False

    def evaluations(self, steps: int) -> int:
        return steps * (1 + self.corrections)


def _norm(x: Tensor) -> Tensor:
    """Of each picture, [B, 1, …]."""
    norm: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norm.view(-1, *[1] * (x.ndim - 1))
