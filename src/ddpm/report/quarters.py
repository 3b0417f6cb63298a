"""How well the net does in each quarter of the noise levels: on held-out pictures, and over the training.

Levels differ so much in how hard they are that one mean hides a quarter that has gone wrong: fine detail learnt by
heart shows where there is little noise, whole pictures learnt by heart show where there is much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.build import build_loss
from ddpm.config import Config
from ddpm.data import Pictures
from ddpm.noise import Purpose, normals
from ddpm.pipeline import Pipeline
from ddpm.report.nearest import spread_over

NAMES = ("cleanest", "second", "third", "noisiest")
LOOKS = 256  # pictures of either kind, each at a level of every quarter
_AT_ONCE = 64
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_SURELY = 4.0  # standard errors: of four quarters two ways, one in 4,000 reports by chance
_APART = 1.1  # held out over trained on: less than a tenth is hardly seen in samples
_RISEN = 1.1  # now over earlier
_SURER = 5.0  # standard errors: the best of four earlier parts is one that chance made good
_PARTS = 5
_LEAST = 5  # lines of the log in such a fifth


@dataclass(frozen=True)
class Quarters:
    """The averaged net's mean squared error in each quarter of the levels, cleanest first, over `count` pictures.

    held_out: of pictures it never trained on, at the same levels and with the same noise as as many trained_on;
    error: standard error of the difference.
    """

    count: int
    held_out: tuple[float, ...]
    trained_on: tuple[float, ...]
    error: tuple[float, ...]

    def apart(self, k: int) -> bool:
        """Whether quarter k is worse on held-out pictures than it should be."""
        worse = self.held_out[k] - self.trained_on[k]
        return worse >= max((_APART - 1.0) * self.trained_on[k], _SURELY * self.error[k])


@torch.no_grad()
def by_quarter(
    pipeline: Pipeline, config: Config, pictures: Pictures, held_out: Pictures, looks: int = LOOKS
) -> Quarters:
    """8 passes of the net for each of at most `looks` pictures of either kind; of unguided pictures without
    `low`."""
    model, loss, device = pipeline.denoiser, build_loss(config), pipeline.device
    T, count = model.chain.T, min(looks, len(pictures), len(held_out))
    errors = np.empty((2, count, len(NAMES)))
    for side, given in enumerate((held_out, pictures)):
        rows = torch.from_numpy(spread_over(len(given), count))
        for start in range(0, count, _AT_ONCE):
            i = torch.arange(start, min(count, start + _AT_ONCE))
            x0, labels = given.batch(rows[i])
            x0 = x0.to(device)
            cond = {} if labels is None or not pipeline.classes else {"label": labels.to(device)}
            for k in range(len(NAMES)):
                # 0.618…: neighbours in the data, often of one class, get levels far apart.
                t = ((i.double() * _GOLDEN % 1.0 + k) / len(NAMES) * T).long() + 1
                noise: Tensor = normals(0, Purpose.HELD_OUT, i.to(device), torch.tensor([k]), x0.shape[1:])[0]
                errors[side, i.numpy(), k] = loss(model, x0, t, noise, cond).error.cpu().double().numpy()
    return quarters_of(errors[0], errors[1])


def quarters_of(held_out: Float64[np.ndarray, "N 4"], trained_on: Float64[np.ndarray, "N 4"]) -> Quarters:
    """From errors of N pictures of either kind, one beside the other at the same level with the same noise."""
    apart = held_out - trained_on
    error = apart.std(0, ddof=1) / math.sqrt(len(apart)) if len(apart) > 1 else np.full(len(NAMES), np.inf)
    held, known = held_out.mean(0).tolist(), trained_on.mean(0).tolist()
    return Quarters(len(apart), tuple(held), tuple(known), tuple(error.tolist()))


@dataclass(frozen=True)
class Risen:
    """Quarter k, whose error in training was `before` up to a step, and is `now`."""

    k: int
    step: int
    before: float
    now: float


def risen(records: Sequence[dict[str, Any]]) -> list[Risen]:
    """Quarters whose error in training is higher in the last fifth of the log than it was in an earlier one."""
    lines = [(r["step"], r["quarters"]) for r in records if _whole(r)]
    size = len(lines) // _PARTS
    if size < _LEAST:
        return []
    lines = lines[-_PARTS * size :]
    values = np.array([one for _, one in lines], dtype=np.float64).reshape(_PARTS, size, -1)
    means, variances = values.mean(1), values.var(1, ddof=1) / size
    best = means[:-1].argmin(0)
    made = []
    for k in range(len(NAMES)):
        before, now = means[best[k], k], means[-1, k]
        doubt = math.sqrt(variances[best[k], k] + variances[-1, k])
        if now - before >= max((_RISEN - 1.0) * before, _SURER * doubt):
            made.append(Risen(k, lines[int(best[k] + 1) * size - 1][0], float(before), float(now)))
    return made


def _whole(record: dict[str, Any]) -> bool:
    quarters = record.get("quarters")
    return (
        isinstance(record.get("step"), int)
        and isinstance(quarters, list)
        and len(quarters) == len(NAMES)
        and all(isinstance(v, (int, float)) and math.isfinite(v) for v in quarters)
    )
