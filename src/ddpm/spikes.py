"""Spikes of the loss: a step far above what the steps around it were.

A line of the log has the highest loss of a single step since the line before. It is a spike if it exceeds what
the lines before it had by more than they differ among themselves: by six of their deviations, of logarithms, and
twofold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

_BEFORE, _FEWEST = 20, 5  # lines that a line is compared with
_FACTOR, _DEVIATIONS = 2.0, 6.0
_NORMAL = 1.4826  # a normal's deviation in median absolute deviations


class Spike(NamedTuple):
    """A step of those up to log line `step` had the loss `highest`, where `usual` was the most."""

    step: int
    highest: float
    usual: float


def spike(step: int, highest: float, before: Sequence[float]) -> Spike | None:
    """Whether a line's highest loss is one, after those of the lines before it, the latest last."""
    logs = [math.log(one) for one in before[-_BEFORE:] if one > 0 and math.isfinite(one)]
    if len(logs) < _FEWEST or not (highest > 0 and math.isfinite(highest)):
        return None
    middle = median(logs)
    deviation = _NORMAL * median(abs(one - middle) for one in logs)
    if math.log(highest) - middle <= max(math.log(_FACTOR), _DEVIATIONS * deviation):
        return None
    return Spike(step, highest, math.exp(middle))


def spikes(lines: Sequence[tuple[int, float]]) -> list[Spike]:
    """All of a log's (step, highest)."""
    highest = [value for _, value in lines]
    found = (spike(step, value, highest[:i]) for i, (step, value) in enumerate(lines))
    return [one for one in found if one is not None]
