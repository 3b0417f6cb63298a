"""The model: what a step takes, from counted FLOPs and two numbers that are fitted to measured steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Cost:
    """seconds = overhead + flops / rate: what a step takes whatever it computes, and FLOPs a second beyond."""

    overhead: float
    rate: float

    def seconds(self, flops: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return self.overhead + np.asarray(flops, np.float64) / self.rate


def fitted(flops: Sequence[float], seconds: Sequence[float]) -> Cost:
    """The cost with the least sum of squared relative errors, neither of its numbers negative.

    A step of a millisecond counts as much as one of a second. ValueError for fewer than two different FLOPs.
    """
    f, s = np.asarray(flops, np.float64), np.asarray(seconds, np.float64)
    if len(set(f.tolist())) < 2:
        raise ValueError(f"{len(f)} measurement(s) of one amount of work: a line takes two amounts")
    columns = np.stack([1 / s, f / s], axis=1)
    scale = np.linalg.norm(columns, axis=0)
    overhead, slope = np.linalg.lstsq(columns / scale, np.ones(len(f)), rcond=None)[0] / scale
    if overhead < 0:  # through the origin
        overhead, slope = 0.0, float((f / s).sum() / np.square(f / s).sum())
    if slope <= 0:
        raise ValueError("more work took less time: measure again on a machine with nothing else to do")
    return Cost(float(overhead), float(1 / slope))


def with_processes(
    step: float, count: npt.ArrayLike, gradient: float, bandwidth: float
) -> npt.NDArray[np.float64]:
    """Seconds a step of n processes, each with a device of its own and as many pictures as one alone had.

    A ring sends 2 (n − 1)/n of the gradient's bytes through each of them, after the step's own time.
    """
    n = np.asarray(count, np.float64)
    return step + 2.0 * (n - 1.0) / n * gradient / bandwidth
