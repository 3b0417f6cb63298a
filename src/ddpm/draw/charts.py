"""Line charts as inline SVG: exact, sharp at any size, and coloured by the page they stand in.

A chart is drawn for a column of about 360 CSS pixels, which is a phone's width: its letters are never scaled
to less than they are. Colours are the page's variables --line-0 … --line-3, --ink and --faint, so a dark page
has a dark chart; the classes s0 … s3 name the series.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

_WIDTH, _HEIGHT = 360, 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 8, 34
_MOST_POINTS = 400
_LOG_FROM = 8.0  # highest over lowest: from there on a logarithmic axis shows more


@dataclass(frozen=True)
class Series:
    """A named line through (x, y); where y is None the line is broken."""

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]

    def points(self) -> list[tuple[float, float]]:
        """Those that there are."""
        return [
            (x, y)
            for x, y in zip(self.x, self.y, strict=True)
            if y is not None and math.isfinite(x) and math.isfinite(y)
        ]


def line_chart(
    series: Sequence[Series],
    what: str,
    *,
    x_name: str = "step",
    log: bool | None = None,
    zero: bool = False,
    smooth: bool = False,
    span: tuple[float, float] | None = None,
) -> str:
    """At most four series as one <svg>; "" if none of them has a point.

    what: said to who cannot see it. log: by default where all values are positive and span a factor of 8; zero
    starts a linear axis there. smooth: a bold running mean over a faint line of the values. span: ends of the x
    axis, by default those of the points.
    """
    lines = [line.points() for line in series]
    every = [point for line in lines for point in line]
    if not every:
        return ""
    values = [y for _, y in every]
    low, high = min(values), max(values)
    log = (low > 0 and high / low >= _LOG_FROM and not zero) if log is None else log and low > 0
    y_ticks = log_ticks(low, high) if log else ticks(min(low, 0.0) if zero else low, high)
    x_low, x_high = span or (min(x for x, _ in every), max(x for x, _ in every))
    x_ticks = [x for x in ticks(x_low, x_high, 5) if x_low <= x <= x_high] or [x_low]
    bottom, top = y_ticks[0], y_ticks[-1]
    if log:
        bottom, top = min(bottom, low), max(top, high)

    def across(x: float) -> float:
        return _LEFT + (x - x_low) / ((x_high - x_low) or 1.0) * (_WIDTH - _LEFT - _RIGHT)

    def up(y: float) -> float:
        share = math.log(y / bottom) / (math.log(top / bottom) or 1.0) if log else (y - bottom) / (top - bottom)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def path(line: Sequence[tuple[float, float]], kind: str) -> str:
        if len(line) == 1:
            return f'<circle class="{kind} dot" cx="{across(line[0][0]):.1f}" cy="{up(line[0][1]):.1f}" r="3"/>'
        places = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)
        return f'<polyline class="{kind}" points="{places}"/>'

    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(what)}">']
    for y in y_ticks:
        parts.append(f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{number(y)}</text>')
    for x in x_ticks:
        parts.append(f'<text x="{across(x):.1f}" y="{_HEIGHT - 18}" text-anchor="middle">{number(x)}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 3}" text-anchor="end">{escape(x_name)}</text>')
    for i, line in enumerate(lines):
        line = thinned(line)
        # Too few points have no mean worth drawing over them.
        if smooth and len(line) >= 20:
            parts.append(path(line, f"s{i} faint"))
            line = running_mean(line)
        if line:
            parts.append(path(line, f"s{i}"))
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers, steps of 1, 2 or 5 times a power of ten, that enclose low … high."""
    if high <= low:
        room = abs(low) * 0.5 or 1.0
        low, high = low - room, high + room
    step = 10.0 ** math.floor(math.log10((high - low) / about))
    step = next(step * m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round positive numbers that enclose low … high: powers of ten, and 2 and 5 of them where there is room."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for per_decade in ((1, 2, 5), (1, 3), (1,)):
        every = [float(f"{m}e{k}") for k in range(first, last + 1) for m in per_decade]
        start = max(v for v in every if v <= low * (1 + 1e-9))
        end = min(v for v in every if v >= high * (1 - 1e-9))
        kept = [v for v in every if start <= v <= end]
        if len(kept) <= 7:
            return kept
    stride = -(-(last - first) // 6)
    return [float(f"1e{k}") for k in range(first, last + stride, stride)]


def number(value: float) -> str:
    """A short form: 0.05, 12, 1.5k, 20k, 3M, 2e-5."""
    if value and abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def thinned(line: Sequence[tuple[float, float]], most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """At most so many points: means over neighbours, the last point always its own."""
    if len(line) <= most:
        return list(line)
    body, parts = line[:-1], most - 1
    edges = [k * len(body) // parts for k in range(parts + 1)]
    means = []
    for start, end in pairwise(edges):
        some = body[start:end]
        means.append((sum(x for x, _ in some) / len(some), sum(y for _, y in some) / len(some)))
    return [*means, line[-1]]


def running_mean(line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Each value's mean with the neighbours within a twentieth of the line on both sides, fewer at the ends.

    The window stays centred, so that a mean of a straight line is the line.
    """
    reach, last = max(1, len(line) // 20), len(line) - 1
    means = []
    for i, (x, _) in enumerate(line):
        side = min(reach, i, last - i)
        some = line[i - side : i + side + 1]
        means.append((x, sum(y for _, y in some) / len(some)))
    return means
