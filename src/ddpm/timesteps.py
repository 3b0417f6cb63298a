"""Which levels a training batch is trained at.

A time sampler gives t in 1 … T and the weight that keeps the loss unbiased. What it draws is addressed by
(seed, step, place in the batch), so it is the same however the batch is split.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ddpm.errors import UserError
from ddpm.noise import Purpose, uniform


class TimeSampler(ABC):
    """Draws the levels of a batch."""

    @abstractmethod
    def draw(self, step: int, batch: int) -> tuple[Int64[Tensor, "B"], Float[Tensor, "B"]]:
        """t int64[B] in 1 … T on the CPU and its weight float32[B], for the whole batch of a step."""

    def update(self, t: Int64[Tensor, "B"], loss: Float[Tensor, "B"]) -> None:  # noqa: B027
        """Told the losses of a batch; samplers that do not learn ignore them."""


@final
@dataclass(frozen=True)
class Uniform(TimeSampler):
    """Each t independently uniform (Ho et al. 2020, algorithm 1)."""

    T: int
    seed: int

    def draw(self, step: int, batch: int) -> tuple[Tensor, Tensor]:
        u = uniform(self.seed, Purpose.TRAIN_TIME, torch.arange(batch), step)[:, 0]
        return _level(u, self.T), torch.ones(batch)


@final
@dataclass(frozen=True)
class LowDiscrepancy(TimeSampler):
    """One offset for the batch, u_i = (u + i/B) mod 1 (Kingma et al. 2021, appendix I.1).

    Each t is still uniform, but a batch covers the chain evenly, so its loss varies less.
    """

    T: int
    seed: int

    def draw(self, step: int, batch: int) -> tuple[Tensor, Tensor]:
        offset = uniform(self.seed, Purpose.TRAIN_TIME, torch.zeros(1, dtype=torch.int64), step)[0, 0]
        u = (offset + torch.arange(batch, dtype=torch.float64) / batch) % 1.0
        return _level(u, self.T), torch.ones(batch)


def _level(u: Tensor, T: int) -> Tensor:
    return (u * T).long().clamp_(max=T - 1) + 1


def make_time_sampler(name: str, T: int, seed: int) -> TimeSampler:
    """The time sampler of a name: uniform or low-discrepancy."""
    if name == "uniform":
        return Uniform(T, seed)
    if name == "low-discrepancy":
        return LowDiscrepancy(T, seed)
    raise UserError(f"--loss.times {name}: takes uniform or low-discrepancy")
