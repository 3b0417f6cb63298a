"""Whether samples are as bright, as rich in contrast and as coloured as the pictures a model was trained on.

Samples of diffusion models are known to drift: all of them a little too red, too dark, or all of one brightness. A
picture's mean over its pixels tells, a set's mean over its pictures with its standard error: pictures differ
much in brightness, hardly in tint, so that a tint shows in few samples and a change of brightness in many.

Both sets are compared class by class, with the classes' shares among the samples: how samples were divided over
the classes is no drift, and what classes differ in is no noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64, UInt8

from ddpm.data import Pictures
from ddpm.report.nearest import pictures_at, spread_over

LOOKED = 2_000  # pictures of the data, whose error then counts for little beside that of 200 samples
_SURELY = 4.0  # standard errors: of ten values in a report, one in 1,500 reports by chance
_TINT, _LEVEL = 3.0, 5.0  # grey levels that are seen: hues differ sooner than brightness, of which 5 is 2 % of all
_RANGE = math.log(4 / 3)  # deviations of the brightness that are a third apart
_FEWEST = 8  # samples of which there is a standard error to speak of
_BINS = 16
_CHANNELS = ("red", "green", "blue")


@dataclass(frozen=True)
class Compared:
    """A value of samples and of the data, in grey levels of 0 … 255: means over pictures, and the difference's
    standard error. least: the difference that matters if it is sure; infinite for what is only shown.

    shares: of samples and of the data, in 16 bins over 0 … 256.
    """

    name: str
    samples: float
    data: float
    error: float
    least: float
    shares: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())

    @property
    def difference(self) -> float:
        """Samples less data."""
        return self.samples - self.data

    @property
    def off(self) -> bool:
        """Whether the difference matters and is no chance."""
        return abs(self.difference) >= max(self.least, _SURELY * self.error)


@dataclass(frozen=True)
class Colours:
    """Of `count` samples and `looked` pictures of the data; classes: whether they were compared class by class.

    brightness: the mean over pixels and channels; contrast: the deviation over pixels; of colour pictures also the
    channels' means, their differences to the brightness (`tint`), and the saturation, the mean over pixels of the
    largest channel less the smallest. deviation: that of the brightness over the data, in grey levels; spread: the
    same of the samples divided by it; spread_error: standard error of its logarithm.
    """

    count: int
    looked: int
    classes: bool
    brightness: Compared
    contrast: Compared
    channels: tuple[Compared, ...]
    tint: tuple[Compared, ...]
    saturation: Compared | None
    deviation: float
    spread: float
    spread_error: float

    @property
    def tinted(self) -> bool:
        """Whether a channel stands out from the others."""
        return any(one.off for one in self.tint)

    @property
    def narrow(self) -> bool:
        """Whether samples differ less in brightness than the data do, by a quarter or more and surely."""
        return -math.log(max(self.spread, 1e-6)) >= max(_RANGE, _SURELY * self.spread_error)


def compare(
    samples: UInt8[np.ndarray, "S C H W"],
    labels: npt.NDArray[np.int64] | None,
    pictures: Pictures,
    most: int = LOOKED,
) -> Colours | None:
    """Samples, with their classes if there are some, with at most `most` pictures; None for fewer than eight.

    Transparent pictures are put on white.
    """
    if pictures.labels is None:
        labels = None
    rows, classes = _rows(pictures, labels, most)
    known = np.isin(labels, classes) if labels is not None else np.ones(len(samples), bool)
    if known.sum() < _FEWEST or len(rows) < 2:
        return None
    mine = _measured(samples[known])
    theirs = np.concatenate(
        [_measured(pictures_at(pictures, rows[i : i + 256])) for i in range(0, len(rows), 256)]
    )
    kinds = labels[known] if labels is not None else np.zeros(len(mine), np.int64)
    groups, of_mine = np.unique(kinds, return_inverse=True)
    of_theirs = np.searchsorted(groups, classes)
    shares = np.bincount(of_mine) / len(mine)
    weight = (shares / np.bincount(of_theirs, minlength=len(groups)))[of_theirs]  # adds up to 1
    means = weight @ theirs
    other = _scatter(theirs, of_theirs)
    own = _scatter(mine, of_mine) if len(mine) - len(groups) >= _FEWEST - 1 else other
    errors = np.sqrt(own / len(mine) + other * np.square(weight).sum())
    values = [
        Compared(
            name,
            float(mine[:, k].mean()),
            float(means[k]),
            float(errors[k]),
            {"tint": _TINT, "level": _LEVEL}.get(kind, math.inf),
            (_shares(mine[:, k], np.full(len(mine), 1 / len(mine))), _shares(theirs[:, k], weight)),
        )
        for k, (name, kind) in enumerate(_names(mine.shape[1]))
    ]
    coloured = len(values) > 2
    away, apart = mine[:, 0] - mine[:, 0].mean(), theirs[:, 0] - means[0]
    mean_square, data = float(np.square(away).mean()), math.sqrt(weight @ np.square(apart))
    flat = max(data, 1e-6)
    return Colours(
        len(mine),
        len(rows),
        labels is not None,
        values[0],
        values[1],
        tuple(values[3:6]),
        tuple(values[6:]),
        values[2] if coloured else None,
        data,
        math.sqrt(mean_square) / flat if data > 1.0 else 1.0,  # data that are all alike have no spread to lose
        # Of a logarithm of a deviation: sqrt((kurtosis − 1)/4n), with the kurtosis of the data.
        math.sqrt(max(0.0, (weight @ apart**4) / flat**4 - 1.0) / (4 * len(mine))),
    )


def _rows(
    pictures: Pictures, labels: npt.NDArray[np.int64] | None, most: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Numbers of pictures, equally many of each class that samples have, and their classes; 0 without any."""
    if labels is None or pictures.labels is None:  # the one where the other is
        rows = spread_over(len(pictures), most)
        return rows, np.zeros(len(rows), np.int64)
    kinds = np.unique(labels)
    chosen = []
    for kind in kinds.tolist():
        members = np.flatnonzero(pictures.labels == kind)
        chosen.append(members[spread_over(len(members), max(1, most // len(kinds)))])
    rows = np.concatenate(chosen)
    return rows, pictures.labels[rows]


def _scatter(values: Float64[np.ndarray, "N M"], group: npt.NDArray[np.int64]) -> Float64[np.ndarray, "M"]:
    """The variance within the groups, of which each has a member."""
    counts = np.bincount(group)
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, group, values)
    inside = values - (sums / counts[:, None])[group]
    variance: Float64[np.ndarray, "M"] = np.square(inside).sum(0) / max(1, len(values) - len(counts))
    return variance


def _names(count: int) -> list[tuple[str, str]]:
    first = [("brightness", "level"), ("contrast", "level")]
    if count == len(first):
        return first
    channels = [(name, "shown") for name in _CHANNELS]
    return [*first, ("saturation", "level"), *channels, *((name, "tint") for name in _CHANNELS)]


def _measured(pixels: UInt8[np.ndarray, "N C H W"]) -> Float64[np.ndarray, "N M"]:
    """Of each picture the values that `_names` names."""
    x = pixels.reshape(*pixels.shape[:2], -1).astype(np.float64)
    if x.shape[1] == 4:
        x = x[:, :3] * (x[:, 3:] / 255.0) + 255.0 - x[:, 3:]
    grey = x.mean(1)
    columns = [grey.mean(1), grey.std(1)]
    if x.shape[1] == 3:
        channels = x.mean(2)
        columns += [(x.max(1) - x.min(1)).mean(1), *channels.T, *(channels - channels.mean(1, keepdims=True)).T]
    return np.stack(columns, 1)


def _shares(values: Float64[np.ndarray, "N"], weight: Float64[np.ndarray, "N"]) -> tuple[float, ...]:
    counts, _ = np.histogram(values, _BINS, (0.0, 256.0), weights=weight)
    return tuple(counts.tolist())


def hue(difference: tuple[float, float, float]) -> str:
    """The name of a tint, from what it adds to red, green and blue."""
    most = max(range(3), key=lambda k: abs(difference[k]))
    return (("cyan", "red"), ("magenta", "green"), ("yellow", "blue"))[most][difference[most] > 0]
