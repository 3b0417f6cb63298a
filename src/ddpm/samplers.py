"""Walks down the chain: from noise to data, one level at a time.

A sampler says how x_s is drawn, given x_t and what the model sees in it; the walk does the rest. Both ends of
a step are arguments and all state goes in and out, so a sampler is a plain value that can be shared.

    ddpm   x_s ~ p(x_s|x_t)                                           (Ho et al. 2020, algorithm 2)
    ddim   x_s = α_s x̂_0 + √(σ_s² − τ²) ε̂ + τ·noise,  τ = η σ_s √c     (Song et al. 2020, eq. 12 and 16)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from ddpm.chain import mix
from ddpm.denoiser import Denoiser, Prediction
from ddpm.errors import UserError

S = TypeVar("S")
# noise(t): standard normals [B, *D] for the transition away from level t
Noise = Callable[[int], Tensor]


class Step(NamedTuple):
    """One step of a walk, from level t to s: x is x_s, and the prediction is what the model saw in x_t."""

    t: int
    s: int
    x: Float[Tensor, "B *D"]
    prediction: Prediction


class Sampler(ABC, Generic[S]):
    """How x_s is drawn."""

    @abstractmethod
    def init(self, x: Float[Tensor, "B *D"]) -> S:
        """The state before the first step."""

    @abstractmethod
    def step(
        self, model: Denoiser, xt: Float[Tensor, "B *D"], t: int, s: int, state: S, noise: Noise, **cond: Any
    ) -> tuple[Float[Tensor, "B *D"], Prediction, S]:
        """x_s, what the model saw in x_t, and the next state."""


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
        prediction = model.shifted(xt, t, model(xt, t, **cond))
        if s == 0:
            return prediction.x0, prediction, None
        alpha, sigma = model.chain.alpha(s, xt), model.chain.sigma(s, xt)
        if self.eta == 0.0:
            return mix(alpha, prediction.x0, sigma, prediction.eps), prediction, None
        tau = self.eta * math.exp(0.5 * model.chain.log_small(t, s))
        rest = math.sqrt(max(0.0, float(sigma) ** 2 - tau**2))
        return mix(alpha, prediction.x0, rest, prediction.eps).add_(noise(t), alpha=tau), prediction, None


def walk(
    model: Denoiser,
    sampler: Sampler[Any],
    x: Float[Tensor, "B *D"],
    noise: Noise,
    start: int | None = None,
    **cond: Any,
) -> Iterator[Step]:
    """Steps from x at level `start` of the model's chain (by default its top) to t = 0: the chain is the grid."""
    start = model.chain.T if start is None else start
    if not 0 <= start <= model.chain.T:
        raise ValueError(f"start {start}: is a level of the chain, from 0 to {model.chain.T}")
    state = sampler.init(x)
    for t in range(start, 0, -1):
        with torch.no_grad():
            x, prediction, state = sampler.step(model, x, t, t - 1, state, noise, **cond)
        yield Step(t, t - 1, x, prediction)


def make_sampler(name: str, eta: float = 0.0) -> Sampler[Any]:
    """The sampler of a name: ddpm or ddim."""
    if name == "ddpm":
        if eta:
            raise UserError(f"--eta {eta}: belongs to the sampler ddim; ddpm has none")
        return Ancestral()
    if name == "ddim":
        return DDIM(eta)
    raise UserError(f"--sampler {name}: takes ddpm or ddim")
