"""The training pictures nearest to samples, by pixels or by features, and whether that is too near.

A distance alone proves nothing: smooth pictures are near to many. So a picture's distance to its nearest training
picture is divided by its mean distance to the 50 nearest, or of few pictures to a quarter of them: far below 1 one
picture stands out, and less than half is called a copy (Carlini et al. 2023, "Extracting training data from
diffusion models"). The same ratio is taken of pictures that are no copies: held-out ones, or training pictures
without themselves. Samples of a model that has learnt the data's law rank evenly among them, and lower if it
copies (the rank test of Meehan et al. 2020, "A non-parametric test to detect data-copying in generative models").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Float64, Int64, UInt8

from ddpm.data import Pictures
from ddpm.evaluate.features import FeatureNet

CROWD, COPY = 50, 0.5
_NEIGHBOURS = 10  # and no more than a quarter of the pictures: the far ones are no neighbours
LOOKED, FEATURED = 20_000, 2_000  # training pictures compared: pixels cost next to nothing, features a net's pass
PROBES = 200  # pictures that samples are ranked among
_CHUNK = 1 << 24  # numbers compared at once, 64 MiB as floats
_NUMBERS = 1 << 28  # compared with each sample at the most: 20,000 colour pictures of 64 x 64
_SEVERAL, _UNLIKELY = 0.05, 1e-3
_NEARER, _SURELY = 0.7, 4.0

_Vectors = Float[torch.Tensor, "N P"]


@dataclass(frozen=True)
class Nearest:
    """Of each of S samples the K nearest training pictures, nearest first, and how near others come.

    index int64 and distance [S, K]: by pixels, the root mean square difference in grey levels of 0 … 255; by
    features, that of features divided by their deviations over the training pictures, √2 on average for two of
    them. ratio [S]: nearest distance over the mean of the `crowd` nearest. apart, apart_ratio [P]: the same of
    held-out pictures (held_out), or of training pictures without themselves. looked: pictures compared.
    """

    index: npt.NDArray[np.int64]
    distance: npt.NDArray[np.float64]
    ratio: npt.NDArray[np.float64]
    apart: npt.NDArray[np.float64]
    apart_ratio: npt.NDArray[np.float64]
    apart_index: npt.NDArray[np.int64]
    held_out: bool
    looked: int
    crowd: int
    cut: float = COPY

    @property
    def copied(self) -> npt.NDArray[np.bool_]:
        """Which samples count as copies."""
        return self.ratio < self.cut

    @property
    def others_copied(self) -> npt.NDArray[np.bool_]:
        """Which of the other pictures would count as copies."""
        return self.apart_ratio < self.cut

    def nearer(self) -> float:
        """How often a sample's ratio is smaller than another picture's, over all pairs: ½ where nothing is off."""
        if not len(self.apart_ratio):
            return 0.5
        others = np.sort(self.apart_ratio)
        below = np.searchsorted(others, self.ratio, "left") + np.searchsorted(others, self.ratio, "right")
        return float(1.0 - below.mean() / (2 * len(others)))

    def memorised(self) -> bool:
        """Whether samples are copies more often, or nearer, than chance lets pictures be that are none.

        More often: at least one in 20, and by Fisher's exact test less than once in 1,000 by chance: 10 of 200
        where of 200 others none is, or 4 of 40. Nearer: in 70 % of pairs and by 4 deviations of the rank test
        under chance, as two fifths of copies among the samples make it; one report in 30,000 by chance.
        """
        n, m = len(self.ratio), len(self.apart_ratio)
        copies, others = int(self.copied.sum()), int(self.others_copied.sum())
        if not m:
            return copies >= _SEVERAL * n and copies > 1
        often = copies >= _SEVERAL * n and exceeds(copies, n, others, m) < _UNLIKELY
        nearer = self.nearer()
        return often or (nearer >= _NEARER and nearer - 0.5 > _SURELY * math.sqrt((n + m + 1) / (12 * n * m)))


def exceeds(copies: int, n: int, others: int, m: int) -> float:
    """The chance that of copies + others marked pictures at least `copies` fall among n of n + m (Fisher 1935)."""
    marked = copies + others
    ways = sum(math.comb(n, k) * math.comb(m, marked - k) for k in range(copies, min(n, marked) + 1))
    return ways / math.comb(n + m, marked)


def by_pixels(
    samples: UInt8[np.ndarray, "S C H W"],
    pictures: Pictures,
    mirrored: bool,
    most: int = LOOKED,
    keep: int = 3,
    held_out: Pictures | None = None,
) -> Nearest:
    """Compares samples with at most `most` pictures spread evenly over the data, fewer if they are large.

    mirrored: all is also compared mirrored, as a model that was trained with flips may copy either way.
    """
    numbers = math.prod(samples.shape[1:])
    looked = spread_over(len(pictures), max(CROWD, min(most, _NUMBERS // numbers)))
    return _nearest(
        samples, pictures, held_out, looked, mirrored, keep, _flat, lambda rows: _flat(pictures_at(pictures, rows))
    )


def by_features(
    samples: UInt8[np.ndarray, "S C H W"],
    pictures: Pictures,
    net: FeatureNet,
    mirrored: bool,
    also: npt.NDArray[np.int64],
    most: int = FEATURED,
    keep: int = 3,
    held_out: Pictures | None = None,
) -> Nearest:
    """The same by a net's features.

    also: pictures to look at besides, as those that are near by pixels, of samples and of the others alike.
    """
    looked = np.union1d(spread_over(len(pictures), most), also)
    made = [net(pictures_at(pictures, looked[i : i + 256])).pooled for i in range(0, len(looked), 256)]
    table = torch.cat(made)
    scale = table.std(0, correction=0)
    # What does not vary over the data says nothing of a picture.
    scale = torch.where(scale > 1e-6 * table.abs().mean(0), scale, torch.inf)
    table = table / scale

    def featured(pixels: npt.NDArray[np.uint8]) -> _Vectors:
        return net(np.ascontiguousarray(pixels)).pooled / scale

    def known(rows: npt.NDArray[np.int64]) -> _Vectors:
        return table[torch.from_numpy(np.searchsorted(looked, rows))]

    found = _nearest(samples, pictures, held_out, looked, mirrored, keep, featured, known)
    return replace(found, cut=COPY * float(np.median(found.apart_ratio))) if len(found.apart_ratio) else found


def _nearest(
    samples: UInt8[np.ndarray, "S C H W"],
    pictures: Pictures,
    held_out: Pictures | None,
    looked: Int64[np.ndarray, "L"],
    mirrored: bool,
    keep: int,
    vectors: Callable[[npt.NDArray[np.uint8]], _Vectors],
    at: Callable[[npt.NDArray[np.int64]], _Vectors],
) -> Nearest:
    """vectors: of any pictures; at: of training pictures by number."""
    if held_out is None:
        probes = spread_over(len(pictures), PROBES)
        others = pictures_at(pictures, probes)
    else:
        others = pictures_at(held_out, spread_over(len(held_out), PROBES))
        probes = np.full(len(others), -1)
    asked = np.concatenate([samples, others])
    own = np.concatenate([np.full(len(samples), -1), probes])
    crowd = min(CROWD, max(_NEIGHBOURS, len(looked) // 4), len(looked))
    found, exact, around = _search(vectors(asked), own, looked, at, crowd, min(keep, crowd))
    if mirrored:  # of the two ways round, the nearer one
        turned = _search(vectors(asked[..., ::-1].copy()), own, looked, at, crowd, min(keep, crowd))
        nearer = turned[1][:, 0] < exact[:, 0]
        for mine, other in zip((found, exact, around), turned, strict=True):
            mine[nearer] = other[nearer]
    # Equal pictures all around are no copies of one.
    ratio = np.divide(exact[:, 0], around, out=np.ones(len(asked)), where=around > 0)
    n = len(samples)
    there = np.isfinite(exact[n:, 0])
    return Nearest(
        found[:n],
        exact[:n],
        ratio[:n],
        exact[n:, 0][there],
        ratio[n:][there],
        found[n:, 0][there],
        held_out is not None,
        len(looked),
        crowd,
    )


def _search(
    queries: _Vectors,
    own: Int64[np.ndarray, "N"],
    looked: Int64[np.ndarray, "L"],
    at: Callable[[npt.NDArray[np.int64]], _Vectors],
    crowd: int,
    keep: int,
) -> tuple[Int64[np.ndarray, "N K"], Float64[np.ndarray, "N K"], Float64[np.ndarray, "N"]]:
    """Numbers and distances of the nearest ones, infinite where there is none, and the crowd's mean distance."""
    size = queries.shape[1]
    mine = torch.from_numpy(own)
    best = torch.full((len(queries), crowd), torch.inf)
    numbers = torch.zeros(len(queries), crowd, dtype=torch.int64)
    lengths = queries.square().sum(1)[:, None]
    chunk = max(1, min(512, _CHUNK // size))
    for start in range(0, len(looked), chunk):
        rows = torch.from_numpy(looked[start : start + chunk])
        some = at(rows.numpy())
        squares = lengths + some.square().sum(1) - 2.0 * (queries @ some.T)
        squares[mine[:, None] == rows] = torch.inf  # a training picture is not its own neighbour
        together = torch.cat([best, squares.clamp_(min=0.0)], dim=1)
        best, chosen = together.topk(crowd, largest=False)
        numbers = torch.cat([numbers, rows.expand(len(queries), -1)], dim=1).gather(1, chosen)
    finite = best.isfinite()
    around = (best.sqrt().where(finite, 0.0).sum(1) / finite.sum(1).clamp(min=1)).double().numpy() / size**0.5
    # Differences of large sums lose the small distances: the nearest ones are measured again, exactly.
    exact = np.full((len(queries), keep), np.inf)
    for q in range(len(queries)):
        there = int(finite[q, :keep].sum())
        if there:
            others = at(numbers[q, :there].numpy())
            exact[q, :there] = (queries[q] - others).double().square().mean(1).sqrt().numpy()
    order = exact.argsort(1, kind="stable")
    return (
        np.take_along_axis(numbers[:, :keep].numpy(), order, 1),
        np.take_along_axis(exact, order, 1),
        around,
    )


def spread_over(total: int, count: int) -> npt.NDArray[np.int64]:
    """At most `count` of the numbers below `total`, evenly spread and ascending."""
    count = min(total, count)
    return np.arange(count, dtype=np.int64) * total // max(1, count)


def pictures_at(pictures: Pictures, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """uint8 [n, C, H, W]: the pictures of these numbers."""
    return pictures.rows(rows, None)[0]


def _flat(pixels: npt.NDArray[np.uint8]) -> _Vectors:
    """In grey levels about the middle one."""
    return torch.from_numpy(pixels).flatten(1).float().sub_(127.5)
