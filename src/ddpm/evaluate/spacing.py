"""The best K steps: of all chains of K levels, the one whose bound is least (Watson et al. 2021, "Learning to
efficiently sample from diffusion probabilistic models").

The bound is a sum over steps, so dynamic programming finds its least sum over all grids of K levels that end in T,

    D_k(t) = min over s < t of D_{k−1}(s) + L(t → s)

once the cost L of every pair of levels is known. One evaluation of the net at each t is enough for all T²/2 of
them. With e = x̂_0 − x_0, f the place of the log-variance between β̃ (0) and β (1), and w = log σ_t² − log σ_s²,

    L(t → s) = ½ mean[ f w − 1 + exp(−f w) + (SNR_s − SNR_t) e² exp(−f w) ]                   s > 0

since the mean of the step is off by α_s c e, its lowest variance is σ_s² c, and SNR_s c = SNR_s − SNR_t. What
depends on s are functions of the one number w, smooth ones: they are measured at a few w and interpolated. The
decoder's term stands alone: its lowest variance is that of the *next* step (Chain.log_lower), so it costs by pair,

    L(t_1 → 0 | t_2) = −mean log p(x_0|x_{t_1})     with log-variance log σ_{t_1}² + (1 − f) log c(t_1, t_2)

(f = 0 for both fixed variances), again a smooth function of one number. A grid's predicted bound is the one that
`likelihood` measures on the respaced model, of the same pictures with the same noise; of others it is a little
higher, for among so many sums the least one was lucky too. And a lower bound is not a better picture: most of its
bits are of what nobody sees.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.polynomial import chebyshev
from torch import Tensor

from ddpm.bound import Decoder, prior
from ddpm.chain import Chain
from ddpm.denoiser import LEARNED, Denoiser
from ddpm.errors import UserError
from ddpm.evaluate.likelihood import exact, look, noise_at
from ddpm.gaussian import Gaussian
from ddpm.grids import Grid, Grids
from ddpm.respacing import levels
from ddpm.walks import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Batch = tuple[Tensor, Tensor, dict[str, Any]]
"""Pictures in [−1, 1] float32 [B, *D], their numbers int64[B], and what the net is told beside t."""

MOST = 100  # grids of every number of steps up to it, and of a few more
_MORE = (125, 150, 200, 250)
# Functions of w are mixtures of exp(−f w) with f about 0 … 1 and w up to 12: 20 nodes leave 1e-11 of their size.
_NODES, _DECODER_NODES = 20, 16
_FIRST_GAP = 0.02
_ROWS = 32


# -- measuring -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over pictures of what the costs are made of, in nats a dimension; those of several batches add up.

    By level t: bend Σ (f w − 1 + exp(−f w))/w² and miss Σ e² exp(−f w) at nodes of w; decoder the nats
    of x_0 at nodes of log c, for the levels `first_levels`.
    """

    pictures: int
    prior: float
    bend: Float64[np.ndarray, "T N"]
    miss: Float64[np.ndarray, "T N"]
    decoder: Float64[np.ndarray, "T M"]

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.pictures + other.pictures,
            self.prior + other.prior,
            self.bend + other.bend,
            self.miss + other.miss,
            self.decoder + other.decoder,
        )


def measure(
    model: Denoiser,
    x0: Tensor,
    numbers: Tensor,
    seed: int = 0,
    decoder: Decoder = Gaussian.discretised_log_likelihood,
    progress: Progress | None = None,
    **cond: Any,
) -> Sums:
    """What the steps of the model's chain cost these pictures: one evaluation of the net a level.

    progress: called with (levels done, levels in all).
    """
    chain, x0 = model.chain, exact(x0)
    T, places = chain.T, model.native.places(chain).astype(np.int64)
    if T == 1:
        raise UserError("fitting a grid: a chain of one step leaves nothing to choose")
    rise, room = _ranges(chain)
    bend, miss, decoded = np.zeros((T + 1, _NODES)), np.zeros((T + 1, _NODES)), np.zeros((T + 1, _DECODER_NODES))
    first = set(first_levels(T))
    for t in range(1, T + 1):
        _, seen = look(model, x0, noise_at(seed, numbers, int(places[t]), x0), t, cond)
        square = (seen.x0 - x0).square()
        if model.variance in LEARNED:
            assert seen.variance_output is not None  # parts() refuses a net without
            f = model.share(seen.variance_output, t)
        else:  # the same for all elements, so that a mean is all that is needed of e²
            f = square.new_tensor(1.0 if model.variance == "large" else 0.0)
            square = square.mean()
        if t > 1:
            nodes = rise[t] * _nodes(_NODES)
            scaled = [float(w) * f for w in nodes]
            bend[t] = _numbers([(torch.expm1(-fw) + fw).mean() for fw in scaled]) / nodes**2
            miss[t] = _numbers([(square * torch.exp(-fw)).mean() for fw in scaled])
        if t in first:
            free = 1.0 - f if model.variance in LEARNED else 1.0  # large is small here (Denoiser.log_variance)
            top = float(chain.log_large(t, 0))
            gains = room[t] * _nodes(_DECODER_NODES) if t < T else [0.0]
            decoded[t] = _numbers([-decoder(Gaussian(seen.x0, top + free * float(g)), x0).mean() for g in gains])
        if progress:
            progress(t, T)
    count = len(x0)
    before = float(prior(chain, x0).sum()) * math.log(2.0)
    return Sums(count, before, count * bend, count * miss, count * decoded)


def first_levels(T: int) -> list[int]:
    """The levels that a grid may start from: each up to 75, above these each 2 % further, and T.

    The decoder's term takes as long to measure as a small net. Only short grids start that high, and what they
    lose by it is a few thousandths of a bit.
    """
    found = [1]
    while found[-1] < T:
        found.append(min(T, max(found[-1] + 1, round(found[-1] * (1.0 + _FIRST_GAP)))))
    return found


def _ranges(chain: Chain) -> tuple[np.ndarray, np.ndarray]:
    """By level t: the largest w, of the step t → 1; and the lowest log c(t, t_2), that of t_2 = t + 1, 0 at T."""
    log_variance = -np.logaddexp(0.0, -chain.gamma)
    rise = log_variance - log_variance[1]
    room = np.zeros(chain.T + 1)
    room[1:-1] = np.log(-np.expm1(chain.gamma[1:-1] - chain.gamma[2:]))
    return rise, room


def _nodes(count: int) -> np.ndarray:
    """Chebyshev's points of the first kind, on [0, 1]."""
    nodes: np.ndarray = 0.5 * (chebyshev.chebpts1(count) + 1.0)
    return nodes


def _numbers(means: Sequence[Tensor]) -> np.ndarray:
    numbers: np.ndarray = torch.stack(list(means)).cpu().double().numpy()
    return numbers


# -- costs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Costs:
    """Bits/dim of every step, ∞ where there is none.

    steps[t, s]: of t → s for 1 ≤ s < t. decoder[t_2, t_1]: of t_1 → 0, the decoder's term, where t_2 is next.
    alone: of T → 0, the decoder's term of the chain of one step.
    """

    prior: float
    steps: Float64[np.ndarray, "T T"]
    decoder: Float64[np.ndarray, "T T"]
    alone: float

    @property
    def T(self) -> int:
        """The number of levels there are to choose from."""
        return len(self.steps) - 1

    def bound(self, grid: Sequence[int]) -> float:
        """The bound of ascending levels that end in T; ∞ if the first is none of `first_levels`."""
        if len(grid) == 1:
            return self.prior + self.alone
        upper, lower = np.array(grid[1:]), np.array(grid[:-1])
        return self.prior + float(self.decoder[upper[0], lower[0]] + self.steps[upper, lower].sum())


def costs(sums: Sums, chain: Chain) -> Costs:
    """The cost of every step of a chain, from what was measured on it."""
    T, (rise, room) = chain.T, _ranges(chain)
    log_variance, snr = -np.logaddexp(0.0, -chain.gamma), np.exp(-chain.gamma)
    steps, decoder = np.full((T + 1, T + 1), np.inf), np.full((T + 1, T + 1), np.inf)
    share = 1.0 / (sums.pictures * math.log(2.0))
    for t in range(2, T + 1):
        w = log_variance[t] - log_variance[1:t]
        bend, miss = _between(np.stack([sums.bend[t], sums.miss[t]]), w / rise[t])
        steps[t, 1:t] = 0.5 * share * (bend * w**2 + (snr[1:t] - snr[t]) * miss)
    for t in first_levels(T)[:-1]:
        gain = np.log(-np.expm1(chain.gamma[t] - chain.gamma[t + 1 :]))
        decoder[t + 1 :, t] = share * _between(sums.decoder[t : t + 1], gain / room[t])[0]
    return Costs(share * sums.prior, steps, decoder, float(share * sums.decoder[T, 0]))


def _between(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Functions [F, N] known at the nodes, where `at` [S] in [0, 1] says: the polynomial through them, [F, S]."""
    found: np.ndarray = chebyshev.chebval(2.0 * at - 1.0, _coefficients(values.shape[1]) @ values.T)
    return found


@cache
def _coefficients(count: int) -> np.ndarray:
    """The matrix that makes a polynomial's Chebyshev coefficients of its values at the nodes."""
    inverse: np.ndarray = np.linalg.inv(chebyshev.chebvander(chebyshev.chebpts1(count), count - 1))
    return inverse


# -- the best grids --------------------------------------------------------------------------------------------


def best_grids(measured: Costs, counts: Iterable[int]) -> dict[int, tuple[int, ...]]:
    """For each number of steps K in 1 … T the ascending levels, the last of them T, whose bound is least."""
    T, wanted = measured.T, sorted(set(counts))
    if not wanted or wanted[0] < 1 or wanted[-1] > T:
        raise UserError(f"numbers of steps {wanted}: lie between 1 and {T}")
    found: dict[int, tuple[int, ...]] = {1: (T,)}
    # came[k − 2][t]: the level before t on the best way of k levels from 0 to t
    came: list[Int64[np.ndarray, "T"]] = []
    before = measured.decoder
    for k in range(2, wanted[-1] + 1):
        least, level = _least(measured.steps, np.broadcast_to(before, (T + 1, T + 1)))
        came.append(level)
        if k in wanted:
            grid = [T]
            for level in reversed(came):
                grid.append(int(level[grid[-1]]))
            found[k] = tuple(reversed(grid))
        before = least
    return {k: found[k] for k in wanted}


def _least(steps: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row t the least before[t, s] + steps[t, s], and its s; in blocks, as s < t and caches are small."""
    T = len(steps) - 1
    least, level = np.full(T + 1, np.inf), np.zeros(T + 1, dtype=np.int64)
    for start in range(0, T + 1, _ROWS):
        stop = min(start + _ROWS, T + 1)
        sums = before[start:stop, :stop] + steps[start:stop, :stop]
        level[start:stop] = sums.argmin(1)
        least[start:stop] = sums[np.arange(stop - start), level[start:stop]]
    return least, level


def fit_grids(
    model: Denoiser,
    batches: Iterable[Batch],
    most: int = MOST,
    seed: int = 0,
    decoder: Decoder = Gaussian.discretised_log_likelihood,
    progress: Progress | None = None,
    count: int | None = None,
) -> Grids:
    """The best grids of 1 … `most` levels, and of a few more, of the model's chain for these pictures.

    What they were fitted to, beside variance, number of pictures and seed, is the caller's to fill in
    (dataclasses.replace). progress: called with (levels done, levels in all) of `count` batches; without a count,
    of those begun.
    """
    if most < 1:
        raise UserError(f"number of steps {most}: is at least 1")
    T, sums = model.chain.T, None
    for i, (x0, numbers, cond) in enumerate(batches):

        def tell(done: int, _: int, i: int = i) -> None:
            if progress:
                progress(i * T + done, (count or i + 1) * T)

        made = measure(model, x0, numbers, seed, decoder, tell, **cond)
        sums = made if sums is None else sums + made
    if sums is None:
        raise UserError("fitting a grid: there are no pictures; give at least one")
    return grids_of(sums, model, most, seed)


def grids_of(sums: Sums, model: Denoiser, most: int = MOST, seed: int = 0) -> Grids:
    """The best grids by what was measured of the model's chain, as `fit_grids` gives them."""
    T, measured = model.chain.T, costs(sums, model.chain)
    if not math.isfinite(measured.bound(range(1, T + 1))):
        raise UserError("fitting a grid: the model's bound is not a finite number; its weights are broken")
    # A log-variance learned for the chain itself is kept within limits on every grid but that of all levels.
    longest = T - 1 if model.variance == "learned" and model.chain is model.native else T
    counts = [k for k in (*range(1, most + 1), *(k for k in _MORE if k > most)) if k <= longest]
    grids = tuple(
        Grid(grid, measured.bound(grid), measured.bound(levels(k, T)))
        for k, grid in best_grids(measured, counts).items()
    )
    return Grids(T, grids, model.variance, sums.pictures, seed)


# -- the figure ------------------------------------------------------------------------------------------------


def figure(grids: Grids, shown: Sequence[int] = (5, 10, 20, 50, 100), about: str = "") -> Figure:
    """The bound over the number of steps K, of the fitted and of even grids; and where the levels lie.

    shown: the K whose levels are drawn; those that were not fitted are left out. about: of which model and
    pictures, a sentence.
    """
    from ddpm.draw.plots import Line, Panel, curves

    steps = np.array([grid.steps for grid in grids.grids])
    bounds = [("fitted", [grid.bits for grid in grids.grids]), ("even", [grid.even for grid in grids.grids])]
    lines = [Line(name, steps, np.array(bits)) for name, bits in bounds]
    strips = []
    for height, grid in enumerate(grid for grid in grids.grids if grid.steps in shown):
        at = np.full(grid.steps, -float(height))
        ends = np.array([1.0, grids.T])
        strips.append(Line(f"{grid.steps} steps", ends, at[[0, 0]], (np.array(grid.levels), at)))
    # A learned range over a few long steps can cost a thousand times what the best ones do.
    wide = max(lines[1].y) > 10.0 * min(lines[0].y) > 0.0
    rows = [[Panel("bits/dim of a chain of K steps", lines, "K", log="xy" if wide else "x")]]
    if strips:
        rows.append([Panel("levels t of the fitted grids", strips, "t", log="x")])
    made = curves(rows, about=f"{about} Even: K evenly spaced levels alone.")
    if strips:
        made.axes[-1].set_yticks([])
    return made
