"""Rate and distortion along the walk (Ho et al. 2020, section 4.3; algorithms 3 and 4 as a calculation).

Who knows x_0 sends x_T, then each x_s given x_t, in about KL(q ‖ p) bits each (minimal random coding). Who
receives may stop at any x_t and take x̂_0(x_t) for the picture.

    rate(t)   L_T + Σ_{i > t} L_{i−1}, the prior and all steps i → i − 1 down to x_t       bits/dim
    RMSE(t)   127.5 √mean (x̂_0(x_t) − x_0)²                                                on 0 … 255
    PSNR(t)   20 log10(255/RMSE(t))                                                        dB

Nothing is coded: a real code takes a little more. x̂_0(x_t) costs T − t + 1 evaluations of the net, the "reverse
steps" of the paper's table. The last row, t = 1, so has every term but the decoder's; with that the picture is
exact, and the rate is the whole bound (`lossless`).

    curve = RateDistortion.from_pictures(likelihood(model, x0, numbers))
    for row in table(curve): print(*row.cells())
    write(figure(curve), Path("rate.png"))

Means over pictures are of the bits and of the *squared* errors; root and logarithm come last. So the RMSE is of
all pixels together, not the mean of the pictures' own, which is lower; PSNR likewise, and the mean of theirs is
higher. x̂_0 is taken as the model gives it: clipped if the model clips, and not rounded to pixel values.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from ddpm.evaluate.likelihood import Bits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADINGS = ("reverse steps", "t", "rate (bits/dim)", "RMSE (0–255)", "PSNR (dB)")
_HALF_RANGE = 127.5  # pixel values a unit of [−1, 1]
_PEAK = 255.0
_SHORT = 50  # levels


@dataclass(frozen=True, eq=False)
class RateDistortion:
    """The curve of one chain, element k after k + 1 reverse steps: of x_T first, of x_1 last.

    levels: t of x_t, on the native chain where the model was respaced. rate in bits/dim; rmse on 0 … 255; psnr in
    dB, ∞ without error. decoder: L_0; lossless: rate[-1] + decoder, the bound. The `_se` are standard errors over
    pictures, of the data and the noise together; None for one picture, or where only means were given.
    """

    steps: Int64[np.ndarray, "T"]
    levels: Int64[np.ndarray, "T"]
    rate: Float64[np.ndarray, "T"]
    rmse: Float64[np.ndarray, "T"]
    psnr: Float64[np.ndarray, "T"]
    decoder: float
    lossless: float
    pictures: int | None = None
    rate_se: Float64[np.ndarray, "T"] | None = None
    rmse_se: Float64[np.ndarray, "T"] | None = None
    psnr_se: Float64[np.ndarray, "T"] | None = None
    decoder_se: float | None = None
    lossless_se: float | None = None

    @classmethod
    def from_pictures(cls, bits: Bits, levels: np.ndarray | None = None) -> RateDistortion:
        """The curve of the pictures that were measured, with standard errors.

        levels: of the terms on the native chain, ascending; 1 … T unless given. For a respaced model they are
        `model.native.places(model.chain)[1:]`.
        """
        prior, terms, error = (part.numpy() for part in (bits.prior, bits.terms, bits.error))
        mean = cls.from_means(float(prior.mean()), terms.mean(0), error.mean(0), levels, len(prior))
        if len(prior) == 1:
            return mean
        rmse_se = np.zeros(len(mean.rmse))
        off = mean.rmse > 0  # where there is no error at all, its root has no slope, and nothing varies
        squares = _HALF_RANGE**2 * error[:, ::-1]
        rmse_se[off] = _standard_error(squares)[off] / (2.0 * mean.rmse[off])  # d√m = dm/2√m
        psnr_se = np.zeros(len(mean.rmse))
        psnr_se[off] = 20.0 / math.log(10.0) * rmse_se[off] / mean.rmse[off]
        return dataclasses.replace(
            mean,
            rate_se=_standard_error(_received(prior[:, None], terms)),
            rmse_se=rmse_se,
            psnr_se=psnr_se,
            decoder_se=float(_standard_error(terms[:, 0])),
            lossless_se=float(_standard_error(bits.total.numpy())),
        )

    @classmethod
    def from_means(
        cls,
        prior: float,
        terms: np.ndarray,
        error: np.ndarray,
        levels: np.ndarray | None = None,
        pictures: int | None = None,
    ) -> RateDistortion:
        """The curve from means over pictures of what `Bits` holds: terms and squared errors [T] of t = 1 … T."""
        terms, error = np.asarray(terms, np.float64), np.asarray(error, np.float64)
        levels = np.arange(1, len(terms) + 1) if levels is None else np.asarray(levels, np.int64)
        T = len(levels)
        if T == 0 or not terms.shape == error.shape == (T,):
            raise ValueError(
                f"terms {terms.shape}, error {error.shape}, levels {levels.shape}: need one of each a step"
            )
        rate = _received(np.float64(prior), terms)
        rmse = _HALF_RANGE * np.sqrt(error[::-1])
        with np.errstate(divide="ignore"):
            psnr = 20.0 * np.log10(_PEAK / rmse)
        decoder = float(terms[0])
        return cls(
            np.arange(1, T + 1), levels[::-1], rate, rmse, psnr, decoder, float(rate[-1]) + decoder, pictures
        )

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, null for what is not finite or not known."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


class Row(NamedTuple):
    """A line of the table; the standard errors None where the curve has none."""

    steps: int
    level: int
    rate: float
    rmse: float
    psnr: float
    rate_se: float | None
    rmse_se: float | None
    psnr_se: float | None

    def cells(self) -> tuple[str, ...]:
        """As text under HEADINGS, in as many digits as the paper's."""
        return (
            str(self.steps),
            str(self.level),
            _measured(self.rate, self.rate_se, 5),
            _measured(self.rmse, self.rmse_se, 5),
            _measured(self.psnr, self.psnr_se, 2),
        )


def table(curve: RateDistortion, rows: int = 10) -> list[Row]:
    """At most so many rows at evenly spaced reverse steps, the most first, as in the paper's table 4."""
    T = len(curve.steps)
    if rows < 1:
        raise ValueError(f"rows {rows}: is at least 1")
    return [
        Row(
            int(curve.steps[k]),
            int(curve.levels[k]),
            *(float(values[k]) for values in (curve.rate, curve.rmse, curve.psnr)),
            *(None if se is None else float(se[k]) for se in (curve.rate_se, curve.rmse_se, curve.psnr_se)),
        )
        for k in sorted({max(1, round(T * i / rows)) - 1 for i in range(1, rows + 1)}, reverse=True)
    ]


def figure(curve: RateDistortion, about: str = "") -> Figure:
    """The panels of the paper's figure 5, and PSNR beside them.

    Dots stand where the ten rows of the table are; on a chain too short to look like a curve, at all its levels.
    Bands are two standard errors to each side. about: of which model and pictures, a sentence.
    """
    from ddpm.draw.plots import Line, Panel, curves

    T = len(curve.steps)
    at = [row.steps - 1 for row in table(curve, T if T <= _SHORT else 10)]
    distortion = ("Distortion", curve.rmse, curve.rmse_se, "RMSE (0–255)")
    rate = ("Rate", curve.rate, curve.rate_se, "rate (bits/dim)")
    psnr = ("PSNR", curve.psnr, curve.psnr_se, "PSNR (dB)")

    def panel(what: tuple[str, np.ndarray, np.ndarray | None, str], x: np.ndarray, x_label: str) -> Panel:
        title, y, se, y_label = what
        shown = np.isfinite(y)
        dots = [k for k in at if shown[k]]
        band = None if se is None else ((y - 2 * se)[shown], (y + 2 * se)[shown])
        return Panel(title, [Line("", x[shown], y[shown], (x[dots], y[dots]), band)], x_label, y_label)

    steps = curve.steps.astype(np.float64)
    over_steps = [panel(what, steps, "reverse steps") for what in (distortion, rate, psnr)]
    over_rate = [panel(what, curve.rate, rate[-1]) for what in (distortion, psnr)]
    lossless = f"For each rate (lossless: {curve.lossless:.2f} bits/dim)"
    bands = "" if curve.rate_se is None else "Bands: ± 2 standard errors."
    return curves([over_steps, over_rate], ["After each reverse step", lossless], f"{about} {bands}")


def _received(prior: np.ndarray | np.float64, terms: np.ndarray) -> Any:
    """Bits/dim of x_T, then of each x_t down to x_1: terms [..., T] of t = 1 … T, of which the first stays out."""
    sent = np.concatenate([np.zeros_like(terms[..., :1]), terms[..., :0:-1]], axis=-1)
    return prior + np.cumsum(sent, axis=-1)


def _standard_error(values: np.ndarray) -> Any:
    """Of the mean over the first axis."""
    return values.std(axis=0, ddof=1) / math.sqrt(len(values))


def _measured(value: float, se: float | None, digits: int) -> str:
    if math.isinf(value):
        return "∞"
    return f"{value:.{digits}f}" + ("" if se is None else f" ± {se:.{digits}f}")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(one) for one in value.tolist()]
    return None if isinstance(value, float) and not math.isfinite(value) else value
