"""What two sets of pictures are compared by, from their features: FID, KID, IS, precision and recall.

    Fréchet distance     |μ − μ'|² + tr(Σ + Σ' − 2 (Σ Σ')^½)         Heusel et al. 2017
    KID                  unbiased MMD² of (x·y/F + 1)³ over subsets  Bińkowski et al. 2018
    Inception Score      exp E KL(p(y|x) ‖ p(y)) over splits         Salimans et al. 2016
    precision, recall    shares inside the other set's manifold      Kynkäänniemi et al. 2019

The first three are torchmetrics', in float64, given features in place of pictures; the last is ours. Every number
is a function of the features and a seed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from ddpm.errors import UserError
from ddpm.units import counted

_ALONE: dict[str, Any] = {"sync_on_compute": False}
"""Of several processes each scores what it is given: torchmetrics would wait for the others, and add theirs."""
_ROWS = 512
"""Rows of distances at once: of 10,000 pictures, 40 MB."""
_SPARE = 4
"""Neighbours looked at beyond the k-th, whose order rounding may have changed."""


class Mean(NamedTuple):
    """A mean, and the standard deviation over subsets or splits; NaN where there is one split only."""

    value: float
    deviation: float


@final
@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance (divided by n − 1) of n features; n of at least 2."""

    n: int
    mean: Float64[np.ndarray, "F"]
    cov: Float64[np.ndarray, "F F"]

    @staticmethod
    def of(features: Float[Tensor, "n F"] | Float[np.ndarray, "n F"]) -> Moments:
        """Of features of any float type. UserError if there are fewer than two, or some are not finite."""
        x = _checked(features).numpy()
        if len(x) < 2:
            raise UserError(f"{counted(len(x), 'picture')}: a Fréchet distance needs at least 2 on either side")
        mean = x.mean(axis=0)
        x = x - mean
        return Moments(len(x), mean, x.T @ x / (len(x) - 1))


def frechet(a: Moments, b: Moments) -> float:
    """Fréchet distance of the Gaussians of two sets, 0 or more; FID where the net is Inception."""
    _same(a.mean, b.mean)
    from torchmetrics.image.fid import FrechetInceptionDistance

    with _quiet():
        metric: Any = FrechetInceptionDistance(feature=_Given(len(a.mean)), **_ALONE)
    # Its sums are those of features about a's mean, as a shift changes no distance, so that nothing cancels.
    for side, moments in (("real", a), ("fake", b)):
        shift = torch.from_numpy(moments.mean - a.mean)
        total = torch.from_numpy(moments.cov) * (moments.n - 1) + moments.n * torch.outer(shift, shift)
        setattr(metric, f"{side}_features_sum", shift * moments.n)
        setattr(metric, f"{side}_features_cov_sum", total)
        setattr(metric, f"{side}_features_num_samples", torch.tensor(moments.n))
    metric.orig_dtype = torch.float64
    with _quiet():
        value = float(metric.compute())
    if not math.isfinite(value):  # its square root of a matrix did not come out
        raise UserError("Fréchet distance: not a number for these features; give more pictures, or take KID")
    return max(0.0, value)


def kid(
    a: Float[Tensor, "n F"] | Float[np.ndarray, "n F"],
    b: Float[Tensor, "m _"] | Float[np.ndarray, "m _"],
    seed: int = 0,
    subsets: int = 100,
    size: int = 1000,
) -> Mean:
    """Kernel distance, whose mean over subsets is free of bias for any number of pictures, so it may be below 0.

    Subsets of `size` are drawn from either set, of as many as there are where there are fewer. UserError for fewer
    than two pictures on a side, or features that are not finite.
    """
    x, y = _checked(a), _checked(b)
    _same(x[0], y[0])
    size = min(size, len(x), len(y))
    if size < 2 or subsets < 1:
        raise UserError(f"{counted(size, 'picture')} in {counted(subsets, 'subset')}: KID needs 2 in 1 or more")
    from torchmetrics.image.kid import KernelInceptionDistance

    with _quiet(), _seeded(seed):
        metric: Any = KernelInceptionDistance(
            feature=_Given(x.shape[1]), subsets=subsets, subset_size=size, **_ALONE
        )
        metric.update(x, real=True)
        metric.update(y, real=False)
        return Mean(*map(float, metric.compute()))


def inception_score(
    logits: Float[Tensor, "n K"] | Float[np.ndarray, "n K"], seed: int = 0, splits: int = 10
) -> Mean:
    """Inception Score from 1 to K, over splits of pictures in random order; the deviation divides by splits − 1.

    UserError for fewer pictures than splits, or logits that are not finite.
    """
    x = _checked(logits)
    if not 1 <= splits <= len(x):
        raise UserError(
            f"{counted(len(x), 'picture')}: IS in {counted(splits, 'split')} needs at least one for each"
        )
    from torchmetrics.image.inception import InceptionScore

    with _quiet(), _seeded(seed):
        metric: Any = InceptionScore(feature=_Given(x.shape[1]), splits=splits, **_ALONE)
        metric.update(x)
        value, deviation = map(float, metric.compute())
    return Mean(value, deviation if splits > 1 else math.nan)


def precision_recall(
    real: Float[Tensor, "n F"] | Float[np.ndarray, "n F"],
    fake: Float[Tensor, "m _"] | Float[np.ndarray, "m _"],
    k: int = 3,
) -> tuple[float, float]:
    """Shares of samples in the manifold of real pictures (precision), and of these in that of samples (recall).

    A set's manifold is all that is at most as far from one of its points as that point's k-th neighbour in the
    set, itself not counted (Kynkäänniemi et al. 2019, eq. 1 and 2). UserError unless 1 <= k < n on both sides.
    """
    x, y = _checked(real), _checked(fake)
    _same(x[0], y[0])
    if not 1 <= k < min(len(x), len(y)):
        raise UserError(
            f"k = {k}: neighbours are counted among {min(len(x), len(y))} pictures; take 1 to one less"
        )
    return _share_inside(y, x, _radii(x, k)), _share_inside(x, y, _radii(y, k))


def _radii(x: Float64[Tensor, "n F"], k: int) -> Float64[Tensor, "n"]:
    """The distance of each point's k-th neighbour: exact, of the few that are nearest by products."""
    few = min(k + 1 + _SPARE, len(x))
    found = []
    for first in range(0, len(x), _ROWS):
        rows = x[first : first + _ROWS]
        nearest = _squares(rows, x).topk(few, dim=1, largest=False).indices
        found.append(torch.stack([(x[near] - row).norm(dim=1) for row, near in zip(rows, nearest, strict=True)]))
    return torch.cat(found).kthvalue(k + 1, dim=1).values  # the first is the point itself


def _share_inside(points: Float64[Tensor, "m F"], x: Float64[Tensor, "n F"], radii: Float64[Tensor, "n"]) -> float:
    """Products decide for all but pairs so close to the edge that rounding might; these are looked at singly."""
    inside = 0
    blur = 1e-10 * float(x.square().sum(dim=1).max() + points.square().sum(dim=1).max())
    for first in range(0, len(points), _ROWS):
        rows = points[first : first + _ROWS]
        beyond = _squares(rows, x) - radii.square()
        sure = (beyond < -blur).any(dim=1)
        inside += int(sure.sum())
        rows, beyond = rows[~sure], beyond[~sure]
        while len(rows):
            least, which = beyond.min(dim=1)
            doubtful = least <= blur
            rows, beyond, which = rows[doubtful], beyond[doubtful], which[doubtful]
            reached = (rows - x[which]).norm(dim=1) <= radii[which]
            inside += int(reached.sum())
            beyond[torch.arange(len(rows)), which] = torch.inf
            rows, beyond = rows[~reached], beyond[~reached]
    return inside / len(points)


def _squares(rows: Float64[Tensor, "r F"], x: Float64[Tensor, "n F"]) -> Float64[Tensor, "r n"]:
    """Squared distances as |x|² + |y|² − 2 x·y, a matrix product, right to some 1e-14 of the largest |x|²."""
    products: Tensor = torch.addmm(x.square().sum(dim=1), rows, x.T, alpha=-2.0)
    return products + rows.square().sum(dim=1, keepdim=True)


@final
class _Given(nn.Module):
    """In a feature net's place: what it is given are features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _checked(features: Tensor | np.ndarray) -> Float64[Tensor, "n F"]:
    x = torch.as_tensor(features).detach().cpu().double()
    if not len(x):
        raise UserError("no pictures to score; take at least 2 on either side")
    off = ~x.isfinite().all(dim=1)
    if off.any():
        raise UserError(
            f"features of picture {int(off.nonzero()[0])} are not finite (NaN or inf); mend the feature net"
        )
    return x


def _same(a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> None:
    if len(a) != len(b):
        raise UserError(f"{len(a)} and {len(b)} features a picture: the two sides must be scored by the same net")


@contextmanager
def _quiet() -> Iterator[None]:
    """torchmetrics warns of the memory that its buffers take, and of one split's deviation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torchmetrics draws from the global generator, which is put back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
