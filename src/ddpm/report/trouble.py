"""Looking for trouble: what may be wrong with a model that its loss does not say, each sign in one sentence.

Copies (nearest.py), drift of the colours (colours.py), and levels of noise at which the net does worse than it
should (quarters.py): than on the pictures it was trained on, or than it did earlier. A sign has to be larger than
what would matter and than what chance makes of so few pictures; a run with nothing to tell has none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ddpm.config import Config
from ddpm.data import Pictures
from ddpm.evaluate.features import FeatureNet, open_features
from ddpm.pipeline import Pipeline
from ddpm.report import nearest
from ddpm.report.colours import Colours, compare, hue
from ddpm.report.looks import Drawn
from ddpm.report.nearest import Nearest, pictures_at, spread_over
from ddpm.report.quarters import LOOKS, NAMES, Quarters, by_quarter, risen

SAMPLES = 200  # samples looked at, where there is time
_SECONDS = 20.0  # that drawing them, their features, and the quarters may take, each
_FEWEST, _FEATURED, _TIMED = 32, 200, 32  # pictures that are looked at however long they take
_FEWEST_HELD_OUT = 20  # held-out pictures that samples are compared with; of fewer, training pictures are
_LEAK = 0.3  # deviations of the noise: from there on brightness can be told from the last level

Kind = Literal["copies", "by heart", "colour", "spread", "risen"]


@dataclass(frozen=True)
class Checks:
    """What was measured: of uint8 samples [S, C, H, W], the ones that the report shows first. leak: see `leaked`.

    What took too long, or had nothing to be measured on, is None.
    """

    samples: npt.NDArray[np.uint8]
    by_pixels: Nearest
    by_features: Nearest | None
    colours: Colours | None
    quarters: Quarters | None
    leak: float = 0.0


def check(
    pipeline: Pipeline,
    config: Config,
    pictures: Pictures,
    held_out: Pictures | None,
    drawn: Drawn,
    steps: int,
    most: int = nearest.LOOKED,
    thorough: bool = True,
    net: FeatureNet | None = None,
) -> Checks:
    """Measures what the pictures at hand allow.

    thorough: draws up to 200 samples, with classes as frequent as in the data, takes features, of a net of random
    weights unless another is given, and the error on held-out pictures: about a minute at the most. Otherwise the
    samples drawn already are compared by pixels and colours.
    """
    pixels, labels = drawn.samples.pixels, drawn.samples.labels
    each = drawn.seconds / len(pixels)
    count = min(SAMPLES - len(pixels), int(_SECONDS / max(each, 1e-9))) if thorough else 0
    if count > 0:
        more = pipeline.sample(count, steps=steps, first=len(pixels))
        pixels = np.concatenate([pixels, more.pixels])
        labels = None if labels is None or more.labels is None else (*labels, *more.labels)
    flip = config.data.flip
    others = held_out if held_out is not None and len(held_out) >= _FEWEST_HELD_OUT else None
    by_pixels = nearest.by_pixels(pixels, pictures, flip, most, held_out=others)
    numbers = None if labels is None else np.array(labels, np.int64)
    colours = compare(pixels, numbers, pictures, min(most, 2_000))
    by_features = quarters = None
    if thorough:
        net = net or open_features("random", pipeline.device)
        also = np.concatenate([by_pixels.index[:, 0], by_pixels.apart_index])
        room = min(most, nearest.FEATURED, max(_FEATURED, int(_SECONDS * _speed(net, pictures))))
        by_features = nearest.by_features(pixels, pictures, net, flip, also, room, held_out=others)
    if thorough and held_out is not None:
        passes = _SECONDS / max(each, 1e-9) * drawn.samples.record["evaluations"]
        looks = min(LOOKS, max(_FEWEST, int(passes / (2 * len(NAMES)))))
        quarters = by_quarter(pipeline, config, pictures, held_out, looks)
    return Checks(pixels, by_pixels, by_features, colours, quarters, leaked(pipeline, colours))


def _speed(net: FeatureNet, pictures: Pictures) -> float:
    """Pictures a second that a net takes features of."""
    some = pictures_at(pictures, spread_over(len(pictures), _TIMED))
    net(some[:1])
    start = time.perf_counter()
    net(some)
    return len(some) / max(time.perf_counter() - start, 1e-9)


class Sign(NamedTuple):
    """Something that is off: of which kind, and in a sentence what and how much."""

    kind: Kind
    what: str


def signs(records: Sequence[dict[str, Any]], checks: Checks | None) -> list[Sign]:
    """Everything that is off, the gravest first."""
    found: list[Sign] = []
    if checks is not None:
        found += _copies(checks.by_pixels, checks.by_features)
        found += _by_heart(checks.quarters) if checks.quarters else []
        found += _colour(checks.colours, checks.leak) if checks.colours else []
    return [*found, *_risen(records)]


def _copies(by_pixels: Nearest | None, by_features: Nearest | None) -> list[Sign]:
    measured = [(n, how) for n, how in ((by_pixels, "pixels"), (by_features, "features")) if n is not None]
    guilty = [(n, how) for n, how in measured if n.memorised()]
    if not guilty:
        return []
    what = those = "held-out pictures"
    if not guilty[0][0].held_out:
        what, those = "training pictures to each other", "those"
    told = [
        f"by {how} {n.copied.mean():.0%} count as copies, where {n.others_copied.mean():.0%} of {those} would, "
        f"and in {n.nearer():.0%} of pairs the sample is nearer, where chance makes it half"
        for n, how in guilty
    ]
    return [Sign("copies", f"Samples are nearer to single training pictures than {what}: {'; '.join(told)}.")]


def _by_heart(found: Quarters) -> list[Sign]:
    bad = [k for k in range(len(NAMES)) if found.apart(k)]
    if not bad:
        return []
    worst = max(bad, key=lambda k: found.held_out[k] / found.trained_on[k])
    where = " and ".join([", ".join(NAMES[k] for k in bad[:-1])] * (len(bad) > 1) + [NAMES[bad[-1]]])
    many = "s" if len(bad) > 1 else ""
    times = found.held_out[worst] / found.trained_on[worst]
    more = f"{times:.1f} times as large" if times >= 2.0 else f"larger by {times - 1.0:.0%}"
    return [
        Sign(
            "by heart",
            f"In the {where} quarter{many} of the noise levels the error on held-out pictures is above that on "
            f"those trained on, in the {NAMES[worst]} {more}: "
            + ("shapes" if worst >= 2 else "fine details")
            + " are being learnt by heart.",
        )
    ]


def _colour(found: Colours, leak: float) -> list[Sign]:
    made = []
    if found.tinted:
        apart = (found.tint[0].difference, found.tint[1].difference, found.tint[2].difference)
        by = ", ".join(f"{one.name} {signed(one.difference)}" for one in found.channels)
        error = max(one.error for one in found.tint)
        made.append(
            Sign(
                "colour",
                f"Samples are tinted {hue(apart)}: against the data {by} grey levels of 255, which between "
                f"channels is known to ± {error:.1f}.",
            )
        )
    levels = (
        (found.brightness, ("darker", "brighter")),
        (found.contrast, ("of less contrast", "of more contrast")),
        (found.saturation, ("paler", "more saturated")),
    )
    for one, (less, more) in levels:
        if one is not None and one.off:
            made.append(
                Sign(
                    "colour",
                    f"Samples are {more if one.difference > 0 else less} than the data: {one.name} "
                    f"{one.samples:.1f} against {one.data:.1f} grey levels, a difference of "
                    f"{signed(one.difference)} ± {one.error:.1f}.",
                )
            )
    if found.narrow:
        why = (
            f" The last level still holds some of a picture's brightness ({leak:.2f} of the noise's deviation), "
            "which samples begin without."
            if leak >= _LEAK
            else ""
        )
        made.append(
            Sign(
                "spread",
                f"Samples are all of much the same brightness: it varies {found.spread:.2f} times as much as in "
                f"the data.{why}",
            )
        )
    return made


def leaked(pipeline: Pipeline, colours: Colours | None) -> float:
    """How far brightness lifts x_T, in deviations of its mean under noise alone.

    Sampling begins with pure noise, training saw x_T = α_T x_0 + σ_T ε: where the mean over D numbers, known to
    σ_T/√D, still tells the brightness, samples begin with none (Lin et al. 2024, "Common diffusion noise schedules
    and sample steps are flawed").
    """
    if colours is None:
        return 0.0
    chain, data = pipeline.denoiser.native, pipeline.description.config.data
    numbers = math.prod(data.size) * data.channels
    deviation = colours.deviation / 127.5
    return float(math.exp(-0.5 * chain.gamma[-1]) * deviation * math.sqrt(numbers))


def _risen(records: Sequence[dict[str, Any]]) -> list[Sign]:
    return [
        Sign(
            "risen",
            f"In the {NAMES[one.k]} quarter of the noise levels the error in training has risen since step "
            f"{one.step:,}, from {one.before:.3g} to {one.now:.3g}.",
        )
        for one in risen(records)
    ]


def signed(value: float) -> str:
    """+1.2 or −1.2."""
    return f"{value:+.1f}".replace("-", "−")
