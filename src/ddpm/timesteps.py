"""Which levels a training batch is trained at.

A time sampler gives t in 1 … T and the weight that keeps the loss unbiased. What it draws is addressed by
(seed, step, place in the batch), so it is the same however the batch is split. One that learns from the losses has
a state, which is a function of all batches so far: it is saved with a checkpoint.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ddpm.errors import UserError
from ddpm.noise import Purpose, uniform


class TimeSampler(ABC):
    """Draws the levels of a batch."""

    learns: ClassVar[bool] = False
    """Whether what it draws follows from the losses it is told."""

    @abstractmethod
    def draw(self, step: int, batch: int) -> tuple[Int64[Tensor, "B"], Float[Tensor, "B"]]:
        """t int64[B] in 1 … T on the CPU and its weight float32[B], for the whole batch of a step."""

    def update(self, t: Int64[Tensor, "B"], loss: Float[Tensor, "B"]) -> None:  # noqa: B027
        """Told the unweighted losses of a whole batch, of all processes in their order, if it learns."""

    def tensors(self) -> dict[str, Tensor]:
        """Its state; empty if it does not learn."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Goes back to a state of `tensors`."""


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


@final
class LossSecondMoment(TimeSampler):
    """t with probability ∝ √E[L_t²], from the last ten losses at each t (Nichol & Dhariwal 2021, eq. 18).

    A thousandth of the draws stays uniform, so that no level is forgotten; until every level has ten losses all of
    them are. Every process is to be told the losses of all, so all have the same history.
    """

    learns = True

    def __init__(self, T: int, seed: int, history: int = 10, uniform_share: float = 0.001):
        self.T, self.seed, self.uniform_share = T, seed, uniform_share
        self.losses = torch.zeros(T, history, dtype=torch.float64)
        self.counts = torch.zeros(T, dtype=torch.int64)

    def probabilities(self) -> Float[Tensor, "T"]:
        """Of t = 1 … T, float64; they sum to one."""
        even = torch.full((self.T,), 1.0 / self.T, dtype=torch.float64)
        if bool((self.counts < self.losses.shape[1]).any()):
            return even
        moments = self.losses.square().mean(1).sqrt()
        total = moments.sum()
        if not (total > 0 and bool(total.isfinite())):
            return even
        return (1.0 - self.uniform_share) * moments / total + self.uniform_share * even

    def draw(self, step: int, batch: int) -> tuple[Tensor, Tensor]:
        p = self.probabilities()
        u = uniform(self.seed, Purpose.TRAIN_TIME, torch.arange(batch), step)[:, 0]
        edges = p.cumsum(0)
        place = torch.searchsorted(edges, u * edges[-1], right=True).clamp_(max=self.T - 1)
        return place + 1, (1.0 / (self.T * p[place])).float()

    def update(self, t: Tensor, loss: Tensor) -> None:
        values = loss.detach().cpu().tolist()
        losses, counts = self.losses.numpy(), self.counts.numpy()  # views, which plain numbers index faster
        # Losses of one level in one batch follow each other; the oldest of the ten makes room.
        for level, value in zip((t.cpu() - 1).tolist(), values, strict=True):
            if math.isfinite(value):
                losses[level, counts[level] % losses.shape[1]] = value
                counts[level] += 1

    def tensors(self) -> dict[str, Tensor]:
        return {"losses": self.losses, "counts": self.counts}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.losses, self.counts = tensors["losses"].clone(), tensors["counts"].clone()


def _level(u: Tensor, T: int) -> Tensor:
    return (u * T).long().clamp_(max=T - 1) + 1


def make_time_sampler(name: str, T: int, seed: int) -> TimeSampler:
    """The time sampler of a name: uniform, low-discrepancy or loss-second-moment."""
    if name == "uniform":
        return Uniform(T, seed)
    if name == "low-discrepancy":
        return LowDiscrepancy(T, seed)
    if name == "loss-second-moment":
        return LossSecondMoment(T, seed)
    raise UserError(f"--loss.times {name}: takes uniform, low-discrepancy or loss-second-moment")
