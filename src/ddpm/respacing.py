"""Which levels a walk of K steps visits, from the γ of the chain it is made for.

    uniform     so many of the chain's levels, evenly spaced, both ends among them (Nichol & Dhariwal 2021)
    trailing    T, T − T/K, T − 2T/K …, rounded: the first is skipped less, the last more (Lin et al. 2024)
    quadratic   t grows as a square: most of the steps are where there is little noise (Song et al. 2020, app. D.2)
    log-snr     evenly spaced in γ = −log SNR (Lu et al. 2022)
    edm         σ/α as a power ρ of an even grid; ρ = 7, or as in edm:5 (Karras et al. 2022, eq. 5)

The last three have levels between two of the chain. log-snr and edm leave out what is noisier than σ/α = 80, the
top of Karras et al.: some schedules spend a third of their log SNR beyond it, where there is nothing to see. One
step alone starts at the chain's own top.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ddpm.errors import UserError

GRIDS = ("uniform", "trailing", "quadratic", "log-snr", "edm")
_TOP = 2.0 * math.log(80.0)
_RHO = 7.0


def known(grid: str) -> bool:
    """Whether it is the name of a grid, such as edm or edm:5."""
    return grid in GRIDS or grid.startswith("edm:")


def spaced(gamma: np.ndarray, steps: int, grid: str) -> np.ndarray:
    """γ of K levels, ascending, of a chain's γ_0 … γ_T, on a grid of GRIDS but uniform; UserError for another K.

    uniform is `levels`, which takes more than a number.
    """
    return np.asarray(_spaced(gamma, steps, grid), dtype=np.float64)


def _spaced(gamma: np.ndarray, steps: int, grid: str) -> Any:
    T, power = len(gamma) - 1, _power(grid)
    if not 1 <= steps <= T:
        raise UserError(f"--steps {steps}: the chain has {T} levels; take 1 to {T}")
    if grid == "trailing":
        return gamma[np.round(T * np.arange(1, steps + 1) / steps).astype(int)]
    share = np.linspace(0.0, 1.0, steps) if steps > 1 else np.ones(1)
    if grid == "quadratic":
        at = (1.0 + (math.sqrt(T) - 1.0) * share) ** 2
        at[-1] = T  # not next to it
        return np.interp(at, np.arange(1.0, T + 1.0), gamma[1:])
    low, high = float(gamma[1]), float(gamma[-1])
    if low < _TOP and steps > 1:
        high = min(high, _TOP)
    if grid == "log-snr":
        return low + (high - low) * share
    ends = math.exp(0.5 * low / power), math.exp(0.5 * high / power)
    return 2.0 * power * np.log(ends[0] + (ends[1] - ends[0]) * share)


def _power(grid: str) -> float:
    """ρ of edm, or of edm:5."""
    if not grid.startswith("edm:"):
        return _RHO
    try:
        power = float(grid.removeprefix("edm:"))
    except ValueError:
        power = 0.0
    if not 0.0 < power < math.inf:
        raise UserError(f"--grid {grid}: takes a positive power, as edm:7")
    return power


def levels(spec: str | int | Iterable[int], T: int) -> list[int]:
    """The levels t in 1 … T, ascending, that a respacing keeps; see Chain.respace."""
    if not isinstance(spec, (str, int)):
        given = list(spec)
        keep = sorted({int(t) for t in given if isinstance(t, (int, np.integer)) and 1 <= t <= T})
        if not keep or len(keep) != len(given):
            raise UserError(f"levels {given}: a list of levels holds distinct whole numbers from 1 to {T}")
        return keep
    text = str(spec).strip()
    try:
        if text.startswith("ddim"):
            return _stride(int(text.removeprefix("ddim")), T)
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f'steps "{text}": takes a number, several as in "10,15,20", or "ddim25"') from None
    if counts == [1]:
        return [T]  # a walk of one step starts from pure noise
    keep, start = [], 1
    for i, count in enumerate(counts):
        size = T // len(counts) + (i < T % len(counts))
        if not 1 <= count <= size:
            raise UserError(f'steps "{text}": takes 1 to {size} of the {size} levels there are to choose from')
        gap = (size - 1) / (count - 1) if count > 1 else 1.0
        at = 0.0
        for _ in range(count):
            keep.append(start + round(at))
            at += gap  # adding up, not multiplying, rounds half-way strides as the published code does
        start += size
    return keep


def _stride(count: int, T: int) -> list[int]:
    for gap in range(1, max(T, 2)):
        keep = list(range(1, T + 1, gap))
        if len(keep) == count:
            return keep
    raise UserError(
        f'steps "ddim{count}": no whole stride through {T} levels gives {count}; take "{count}" instead'
    )
