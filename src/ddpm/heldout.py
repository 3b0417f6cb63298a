"""How the averaged net does on pictures it never sees, and on as many it trains on."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.build import build_model
from ddpm.data import Pictures
from ddpm.noise import Purpose, normals
from ddpm.trainer import QUARTERS, Trainer

HELD_OUT = 256  # pictures at the most, of either kind
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class Apart(NamedTuple):
    """The fields of an `Evaluated` but its step."""

    held_out: float
    trained_on: float
    held_out_quarters: tuple[float | None, ...] = ()
    trained_on_quarters: tuple[float | None, ...] = ()


def held_out_error(trainer: Trainer) -> Apart | None:
    """The averaged net's mean squared error on held-out pictures, and on as many it trains on; None without.

    Both at the same levels, spread over the chain, and with the same noise; the same ones at every time. Of a
    classifier the accuracy, each picture at a level of every quarter.
    """
    if trainer.held_out is None:
        return None
    classifies = trainer.config.train.task == "classifier"
    count = min(HELD_OUT, len(trainer.held_out), len(trainer.pictures))
    means: list[float] = []
    quarters: list[tuple[float | None, ...]] = []
    for pictures in (trainer.held_out, trainer.pictures):
        errors, quarter = _errors(trainer, pictures, count, QUARTERS if classifies else 1)
        mean = errors.mean().item()
        means.append(1.0 - mean if classifies else mean)
        each = [errors[quarter == k] for k in range(QUARTERS)] if classifies else []
        quarters.append(tuple(1.0 - one.mean().item() if len(one) else None for one in each))
    return Apart(means[0], means[1], quarters[0], quarters[1])


@torch.no_grad()
def _errors(trainer: Trainer, pictures: Pictures, count: int, looks: int) -> tuple[Tensor, Tensor]:
    """Errors float64[looks · count] of so many pictures at so many levels each, and the quarters of these."""
    model, train, device = (
        build_model(trainer.config, trainer.ema),
        trainer.config.train,
        trainer.accelerator.device,
    )
    T = model.chain.T
    errors, levels = [], []
    for look in range(looks):
        for first in range(0, count, train.batch):
            i = torch.arange(first, min(count, first + train.batch))
            # 0.618…: neighbours in the data, often of one class, get levels far apart.
            t = ((i.double() * _GOLDEN % 1.0 + look) / looks * T).long() + 1
            rows = trainer.crew.rows(len(i))
            own, at = i[rows], t[rows]
            if not len(own):  # who has none computes one for nothing: sharded weights take all to gather
                own, at = i[:1], t[:1]
            x0, labels = pictures.batch(own * len(pictures) // count)
            x0 = x0.to(device, memory_format=torch.channels_last)
            noise = normals(0, Purpose.HELD_OUT, own.to(device), torch.tensor([look]), x0.shape[1:])[0]
            with trainer.accelerator.autocast():
                error = trainer.loss(model, x0, at, noise, trainer.cond(x0, labels)).error
            errors.append(trainer.crew.joined(error[: len(i[rows])], len(i)).cpu().double())
            levels.append(t)
    return torch.cat(errors), (torch.cat(levels) - 1) * QUARTERS // T
