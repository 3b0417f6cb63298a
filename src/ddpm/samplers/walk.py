"""Walks along the chain, one level at a time; `walk` is all of sampling, and a sampler says how each step goes.

Both ends of a step are arguments and all state goes in and out, so a sampler is a plain value that can be shared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ddpm.denoiser import Denoiser, Prediction

S = TypeVar("S")


Noise: TypeAlias = Callable[..., Tensor]
"""noise(t): standard normals [B, *D] for the transition away from level t; noise(t, k) are others, k = 1, 2, …"""


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

    @property
    @abstractmethod
    def deterministic(self) -> bool:
        """Whether a walk is settled by where it starts."""

    @abstractmethod
    def evaluations(self, steps: int) -> int:
        """How often a walk of so many steps, down to t = 0, asks the model."""


def followed(model: Denoiser, xt: Float[Tensor, "B *D"], t: int, cond: dict[str, Any]) -> Prediction:
    """What the model sees in x_t, as samplers want it that follow its score: with a classifier's in it."""
    return model.shifted(xt, t, model(xt, t, **cond))


def walk(
    model: Denoiser,
    sampler: Sampler[Any],
    x: Float[Tensor, "B *D"],
    noise: Noise,
    start: int | None = None,
    end: int = 0,
    **cond: Any,
) -> Iterator[Step]:
    """Steps from x at level `start` of the model's chain, by default its top, to `end`: the chain is the grid.

    Up to a noisier `end` it goes with a sampler that inverts.
    """
    T = model.chain.T
    start = T if start is None else start
    if not (0 <= start <= T and 0 <= end <= T):
        raise ValueError(f"start {start}, end {end}: both are levels of the chain, from 0 to {T}")
    way = 1 if end > start else -1
    state, without_gradients = sampler.init(x), torch.no_grad()
    for t in range(start, end, way):
        with without_gradients:
            x, prediction, state = sampler.step(model, x, t, t + way, state, noise, **cond)
        yield Step(t, t + way, x, prediction)
