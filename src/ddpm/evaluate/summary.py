"""What a measurement comes to: bits/dim with its parts, and its terms over t; as a record, and as a figure.

    total = prior + between + decoder            L_T, Σ L_{t−1} for t > 1, and L_0: means over pictures

Standard errors are of the mean over pictures; of an estimate they hold what the drawing of levels adds. Its terms
are gathered in bins of t that are about equally likely to be drawn: each has the sum of its terms, estimated
without bias, so that bins and prior add up to the total.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from ddpm.chain import Chain
from ddpm.evaluate.likelihood import Bits, Estimate, level_probabilities
from ddpm.evaluate.measuring import Measurement
from ddpm.units import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 40


class Mean(NamedTuple):
    """A mean over pictures and its standard error, which one picture has not."""

    value: float
    standard_error: float | None

    @classmethod
    def of(cls, values: Float64[np.ndarray, "n"]) -> Mean:
        """Of one value a picture."""
        spread = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(float(values.mean()), spread)

    def to_json(self) -> dict[str, float | None]:
        """Plain values."""
        return {"mean": self.value, "standard_error": self.standard_error}


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms by level, ascending: of each bin of steps t = first … last the mean term of one step, bits/dim.

    t counts on the native chain; where every term was measured, first = last. steps: how many terms a bin has;
    total: their sum; error: the mean squared error of x̂_0 at t, in [−1, 1], where every term was measured.
    """

    first: Int64[np.ndarray, "L"]
    last: Int64[np.ndarray, "L"]
    steps: Int64[np.ndarray, "L"]
    mean: Float64[np.ndarray, "L"]
    standard_error: Float64[np.ndarray, "L"] | None
    error: Float64[np.ndarray, "L"] | None = None

    @property
    def total(self) -> Float64[np.ndarray, "L"]:
        """The sum of each bin's terms."""
        total: np.ndarray = self.mean * self.steps
        return total

    def to_json(self) -> dict[str, Any]:
        """Plain lists."""
        names = ("first", "last", "steps", "mean", "standard_error", "error")
        lists = {name: getattr(self, name) for name in names}
        renamed = {"mean": "bits_per_dim", "error": "squared_error"}
        return {renamed.get(k, k): None if v is None else v.tolist() for k, v in lists.items()}


@dataclass(frozen=True, eq=False)
class Summary:
    """Bits/dim over n pictures."""

    pictures: int
    total: Mean
    prior: Mean
    between: Mean
    decoder: Mean
    terms: Terms

    def parts(self) -> dict[str, Mean]:
        """The parts, in the order of the walk, under the names of their terms."""
        return {"prior": self.prior, "between": self.between, "decoder": self.decoder}

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "bits_per_dim": self.total.to_json(),
            "parts": {name: part.to_json() for name, part in self.parts().items()},
            "terms": self.terms.to_json(),
        }


def summarise(what: Measurement, measured: Bits | Estimate) -> Summary:
    """What was measured of all pictures, summed up."""
    total, prior = measured.total.numpy(), measured.prior.numpy()
    if isinstance(measured, Estimate):
        decoder, between = measured.decoder.numpy(), (measured.weights * measured.terms).sum(1).numpy()
        terms = _binned(what.model.chain, measured)
    else:
        every, levels = measured.terms.numpy(), what.levels
        decoder, between = every[:, 0], every[:, 1:].sum(1)
        steps, mean = np.ones_like(levels), every.mean(0)
        terms = Terms(levels, levels, steps, mean, _standard_error(every), measured.error.numpy().mean(0))
    parts = [Mean.of(part) for part in (total, prior, between, decoder)]
    return Summary(len(total), parts[0], parts[1], parts[2], parts[3], terms)


def bins(chain: Chain, most: int = _BINS) -> Int64[np.ndarray, "L"]:
    """The last level of each bin: t = 1 alone, then 2 … T in up to `most` parts about as likely to be drawn."""
    if chain.T == 1:
        return np.array([1])
    share = np.cumsum(level_probabilities(chain))
    ends = np.searchsorted(share, share[-1] * np.arange(1, most) / most) + 2
    return np.unique(np.concatenate([[1], ends, [chain.T]]))


def _binned(chain: Chain, measured: Estimate) -> Terms:
    last = bins(chain)
    first = np.concatenate([[1], last[:-1] + 1])
    count, steps = len(measured.total), last - first + 1
    sums = np.zeros((count, len(last)))
    sums[:, 0] = measured.decoder.numpy()
    place = np.searchsorted(last, measured.levels.numpy())
    np.add.at(sums, (np.arange(count)[:, None], place), (measured.weights * measured.terms).numpy())
    return Terms(first, last, steps, sums.mean(0) / steps, _standard_error(sums / steps))


def _standard_error(values: Float64[np.ndarray, "n L"]) -> Float64[np.ndarray, "L"] | None:
    if len(values) == 1:
        return None
    error: np.ndarray = values.std(axis=0, ddof=1) / math.sqrt(len(values))
    return error


def figure(what: Measurement, summary: Summary, about: str = "") -> Figure:
    """The terms over t with a band of two standard errors, and their sum from t = 1 on; t logarithmic.

    about: of which model and pictures, a sentence.
    """
    from ddpm.draw.plots import Line, Panel, curves

    terms = summary.terms
    t = np.sqrt(terms.first * terms.last.astype(np.float64))
    there = terms.mean > 0
    band = None
    if terms.standard_error is not None:
        low, high = (terms.mean + k * terms.standard_error for k in (-2, 2))
        band = np.maximum(low, terms.mean[there].min(initial=np.inf))[there], high[there]
    each = Line("", t[there], terms.mean[there], band=band)
    grown = Line("", terms.last.astype(np.float64), np.cumsum(terms.total))
    error = summary.total.standard_error
    total = f"{summary.total.value:.3f}" + ("" if error is None else f" ± {error:.3f} (standard error)")
    bands = "" if band is None else "Band: ± 2 standard errors."
    panels = [
        Panel("Term of the step at t", [each], "t", "bits/dim", log="xy"),
        Panel("Sum of the terms up to t, prior left out", [grown], "t", log="x"),
    ]
    under = about or f"{counted(summary.pictures, 'picture')}."
    return curves([panels], [f"{what.title()}: {total} bits/dim"], f"{under} {bands}")
