"""Cases timed in turn, and what is said of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch


class Ratio(NamedTuple):
    """Of two cases' times or speeds: the median over rounds, and the quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


class Times:
    """Seconds of each case, a number a round."""

    def __init__(self, taken: Mapping[str, list[float]]):
        self.taken = {name: np.array(of) for name, of in taken.items()}

    def median(self, name: str) -> float:
        return float(np.median(self.taken[name]))

    def faster(self, name: str, than: str) -> Ratio:
        """How many times faster `name` is than another case, round by round: how many times as long that takes."""
        low, middle, high = np.quantile(self.taken[than] / self.taken[name], [0.25, 0.5, 0.75])
        return Ratio(float(middle), float(low), float(high))


def in_turn(cases: Mapping[str, Callable[[], object]], rounds: int, warm: int = 1) -> Times:
    """Each case once a round, after `warm` rounds that do not count; on a GPU until it is done."""
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for k in range(warm + rounds):
        for name, case in cases.items():
            wait()
            start = time.perf_counter()
            case()
            wait()
            if k >= warm:
                taken[name].append(time.perf_counter() - start)
    return Times(taken)


def wait() -> None:
    """Until the GPU, if there is one, has nothing left to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
