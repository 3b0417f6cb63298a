"""Figures from plain arrays: curves in panels, and tables of pictures with numbers under them.

    figure = curves([[Panel("loss", [Line("train", x, y)])]])
    write(figure, Path("loss.svg"))

Figures are made without pyplot: no window, no backend to choose, nothing global. Text is set in points at 200
pixels an inch, so a figure is about as large as a page is wide.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import NullLocator

from ddpm.atomic import write_bytes
from ddpm.draw.pictures import opaque, picture
from ddpm.errors import UserError
from ddpm.places import check_place, unwritable

SUFFIXES = (".png", ".svg", ".pdf")
# For lines and their labels, in the order they are given out: told apart by every kind of colour vision (Okabe &
# Ito 2008; their yellow is left out, too pale on white).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
INK, MUTED, RULE = "#222222", "#6b6b6b", "#d9d9d9"  # read first; numbers and axes; what only guides the eye
_DPI = 200
_TEXT, _SMALL = 8.0, 7.0  # points
_PANEL_WIDTH, _PANEL_HEIGHT = 2.75, 2.0  # inches of the area curves are drawn in
_MOST_MARKED = 8
# Same input, same bytes: no dates, and names inside an SVG that do not change. A PDF's text stays text.
_FILES = {"svg.hashsalt": "ddpm", "pdf.fonttype": 42}
_UNDATED: dict[str, dict[str, None]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


# -- curves ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Line:
    """y over x, both [N], dots on it at dots = (x [M], y [M]), and a pale band from low to high, both [N]."""

    name: str
    x: np.ndarray
    y: np.ndarray
    dots: tuple[np.ndarray, np.ndarray] | None = None
    band: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Panel:
    """Lines in one frame, coloured by their place, so alike in every panel; texts may hold $mathtext$.

    log: the axes that are logarithmic, "x", "y" or "xy"; what is not positive has no place on them. Few places on
    a logarithmic x are its ticks. from_zero: y begins at 0, so that a line that hardly changes looks like one.
    """

    title: str
    lines: Sequence[Line]
    x_label: str = ""
    y_label: str = ""
    log: str = ""
    from_zero: bool = False


def curves(
    rows: Sequence[Sequence[Panel]], titles: Sequence[str] = (), about: str = "", shared: bool = True
) -> Figure:
    """Panels in rows, each row under a title if there are titles; the panels of a row share their x if `shared`.

    about: what is drawn, in small letters under the first title, broken into lines. Lines of a panel are named at
    their right end, in the last panel of a row, in place of a legend.
    """
    columns = max(len(row) for row in rows)
    names = max((_inches(line.name) for row in rows for line in row[-1].lines), default=0.0)
    # inches: room for the numbers left of a panel, for the names right of a row, above and below
    last = [number for row in rows for number in list(_marks(row[-1]).values())[-1:]]  # centred on the end
    right = max([0.16 + names, *(0.03 + _inches(number, _SMALL) / 2 for number in last)])
    left, above, below = 0.62, 0.5 if titles else 0.3, 0.46
    width = columns * (left + _PANEL_WIDTH) + right
    lines = _broken(about, width - left - right + names)
    under = len(lines) * 1.35 * _SMALL / 72
    height = len(rows) * (above + _PANEL_HEIGHT + below) + under
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    if lines:
        text = "\n".join(lines)
        top = 0.06 + (1.35 * (_TEXT + 1) / 72 if titles else 0.0)
        place = (left / width, 1.0 - top / height)
        figure.text(*place, text, size=_SMALL, color=MUTED, va="top", linespacing=1.2)
    for r, row in enumerate(rows):
        bottom = height - under - (r + 1) * (above + _PANEL_HEIGHT + below) + below
        if titles:
            place = (left / width, (bottom + _PANEL_HEIGHT + above + (0.0 if r else under) - 0.06) / height)
            figure.text(*place, titles[r], size=_TEXT + 1, color=INK, weight="bold", va="top")
        for c, panel in enumerate(row):
            x = c * (left + _PANEL_WIDTH) + left
            box = (x / width, bottom / height, _PANEL_WIDTH / width, _PANEL_HEIGHT / height)
            axes = figure.add_axes(box)
            _draw(axes, panel)
            ends = [end for one in (row if shared else [panel]) for line in one.lines for end in _span(line)]
            low, high = min(ends, default=0.0), max(ends, default=1.0)
            if low < high:  # one point alone stands in the middle
                from_zero = 0.0 < low < 0.01 * high and "x" not in panel.log
                axes.set_xlim(0.0 if from_zero else low, high)  # 0 is worth its number
            if c == len(row) - 1:
                _name(axes, panel.lines)
    return figure


def _span(line: Line) -> tuple[float, float]:
    return float(line.x.min()), float(line.x.max())


def _broken(text: str, width: float) -> list[str]:
    """Small letters in lines of at most so many inches; a longer word has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _inches(longer, _SMALL) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _draw(axes: Any, panel: Panel) -> None:
    axes.set_xscale("log" if "x" in panel.log else "linear")
    axes.set_yscale("log" if "y" in panel.log else "linear")
    last = max(1, len(panel.lines) - 1)
    for i, line in enumerate(panel.lines):
        colour = COLOURS[i % len(COLOURS)]
        # Where lines coincide, those below show on both sides of those above.
        thick = 0.8 if line.dots else 1.2 + 0.8 * (1 - i / last) * (len(panel.lines) > 1)
        axes.plot(line.x, line.y, color=colour, linewidth=thick, solid_capstyle="round")
        if line.band:
            axes.fill_between(line.x, *line.band, color=colour, alpha=0.2, linewidth=0.0)
        if line.dots:
            axes.plot(
                *line.dots,
                "o",
                color=colour,
                markersize=3.0,
                markeredgewidth=0.4,
                markeredgecolor="white",
                clip_on=False,
            )
    axes.set_title(panel.title, size=_TEXT, color=INK, loc="left", pad=5)
    axes.set_xlabel(panel.x_label, size=_TEXT, color=MUTED, labelpad=2)
    axes.set_ylabel(panel.y_label, size=_TEXT, color=MUTED, labelpad=2)
    axes.tick_params(labelsize=_SMALL, labelcolor=MUTED, color=RULE, length=2.5, width=0.6)
    axes.tick_params(which="minor", labelsize=_SMALL, labelcolor=MUTED, color=RULE, length=1.5, width=0.4)
    if marks := _marks(panel):
        axes.set_xticks(list(marks), list(marks.values()))
        axes.xaxis.set_minor_locator(NullLocator())
    if "x" not in panel.log and all(np.array_equal(line.x, np.rint(line.x)) for line in panel.lines):
        axes.xaxis.get_major_locator().set_params(integer=True)  # steps and levels have no halves
    axes.margins(x=0.0, y=0.04)
    if panel.from_zero:
        axes.set_ylim(0.0, 1.2 * max((float(line.y.max()) for line in panel.lines), default=1.0))
    axes.grid(True, color=RULE, linewidth=0.4)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=RULE, linewidth=0.6)


def _marks(panel: Panel) -> dict[float, str]:
    """The places on a logarithmic x with their numbers, if they do not touch: they say more than powers of ten."""
    places = np.unique(np.concatenate([line.x for line in panel.lines] or [np.empty(0)]))
    if "x" not in panel.log or not 1 < len(places) <= _MOST_MARKED or places[0] <= 0.0:
        return {}
    marks = {float(place): f"{place:,.10g}" for place in places}
    gap = _PANEL_WIDTH * float(np.diff(np.log(places)).min() / np.log(places[-1] / places[0]))
    return marks if gap > 1.2 * max(_inches(number, _SMALL) for number in marks.values()) else {}


def _name(axes: Any, lines: Sequence[Line]) -> None:
    """Names beside the lines' right ends, moved apart as far as they would cover each other."""
    if not lines:
        return
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [float(to_axes.transform((line.x[-1], line.y[-1]))[1]) for line in lines]
    step = 1.35 * _TEXT / 72 / _PANEL_HEIGHT  # a line of text as a share of the panel
    for i, place in enumerate(apart(ends, step)):
        axes.annotate(
            lines[i].name,
            (1.0, ends[i]),
            (1.0 + 0.09 / _PANEL_WIDTH, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            size=_TEXT,
            color=COLOURS[i % len(COLOURS)],
            va="center",
            annotation_clip=False,
        )


def apart(places: Sequence[float], step: float) -> list[float]:
    """The places, in the same order, at least `step` from each other and moved as little as does it.

    Those that crowd share their middle (pool adjacent violators: least squares with an order to keep).
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    blocks: list[list[float]] = []  # middle of what its members would need, and how many they are
    for rank, i in enumerate(order):
        blocks.append([places[i] - rank * step, 1.0])
        while len(blocks) > 1 and blocks[-1][0] < blocks[-2][0]:
            mean, count = blocks.pop()
            before, others = blocks[-1]
            blocks[-1] = [(before * others + mean * count) / (others + count), others + count]
    moved = [mean for mean, count in blocks for _ in range(int(count))]
    placed = [0.0] * len(places)
    for rank, i in enumerate(order):
        placed[i] = moved[rank] + rank * step
    return placed


# -- tables of pictures --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Row:
    """Pictures uint8 [K, C, H, W] beside a name; captions are (what it is, one number or word a picture)."""

    name: str
    pixels: np.ndarray
    captions: Sequence[tuple[str, Sequence[str]]] = ()


def table(rows: Sequence[Row], columns: Sequence[str] = (), corner: str = "", width: int = 150) -> Figure:
    """Rows of pictures of one size, under their columns' headings, `corner` saying what the headings are.

    A picture's pixels become whole squares, as many as make it about `width` pixels wide; never fewer than one.
    """
    count, _, high, wide = rows[0].pixels.shape
    scale = max(1, round(width / wide))
    high, wide = high * scale, wide * scale
    # pixels: a line of text, the room left of the pictures, between them, and between rows
    line, gap = round(1.5 * _TEXT / 72 * _DPI), 8
    names = [_inches(row.name, _TEXT + 1, "bold") for row in rows]
    words = [_inches(what, _SMALL) for row in rows for what, _ in row.captions]
    left = round(_DPI * max(_inches(corner), *names, *words)) + 3 * gap
    head = line + gap if columns else gap
    heights = [high + gap // 2 + line * len(row.captions) + 2 * gap for row in rows]
    whole = (left + count * (wide + gap), head + sum(heights))
    figure = Figure(figsize=(whole[0] / _DPI, whole[1] / _DPI), dpi=_DPI, facecolor="white")

    def write_at(x: int | float, y: int | float, text: str, **options: Any) -> None:
        figure.text(x / whole[0], 1 - y / whole[1], text, va="center", **options)

    edge = left - 2 * gap
    write_at(edge, line / 2, corner, size=_TEXT, color=MUTED, ha="right")
    centres = [left + k * (wide + gap) + wide / 2 for k in range(count)]
    for x, text in zip(centres, columns, strict=False):
        write_at(x, line / 2, text, size=_TEXT, color=MUTED, ha="center")
    top = head
    for row, height in zip(rows, heights, strict=True):
        write_at(edge, top + high / 2, row.name, size=_TEXT + 1, color=INK, weight="bold", ha="right")
        for k, pixels in enumerate(row.pixels):
            x = left + k * (wide + gap)
            box = (x / whole[0], 1 - (top + high) / whole[1], wide / whole[0], high / whole[1])
            axes = figure.add_axes(box)
            axes.imshow(np.asarray(opaque(picture(pixels))), interpolation="nearest")
            axes.set_axis_off()
        for j, (what, values) in enumerate(row.captions):
            y = top + high + gap // 2 + line * (j + 0.5)
            write_at(edge, y, what, size=_SMALL, color=MUTED, ha="right")
            for x, text in zip(centres, values, strict=True):
                write_at(x, y, text, size=_SMALL, color=MUTED, ha="center")
        top += height
    return figure


def _inches(text: str, size: float = _TEXT, weight: str = "normal") -> float:
    """How wide a text is, with its $mathtext$ set."""
    font = FontProperties(size=size, weight=weight)
    points, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath="$" in text)
    return float(points) / 72


# -- files ---------------------------------------------------------------------------------------------------


def check_path(path: Path) -> Path:
    """The path, if a figure can be written there; UserError for another ending, or a folder."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out {path}: a figure's name ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if path.is_dir():
        raise UserError(f"--out {path}: is a folder; name a file in it, as {path / 'figure.png'}")
    check_place(path)
    return path


def drawn(figure: Figure, suffix: str = ".png") -> bytes:
    """A figure as the bytes of a file: .png, .svg or .pdf."""
    data = io.BytesIO()
    with matplotlib.rc_context(_FILES):
        figure.savefig(data, format=suffix[1:], dpi=_DPI, metadata=_UNDATED.get(suffix))
    return data.getvalue()


def write(figure: Figure, path: Path) -> Path:
    """Writes a figure, whole or not at all, as the ending says: .png, .svg or .pdf; makes the folder."""
    path = check_path(path)
    data = drawn(figure, path.suffix.lower())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
    except OSError as error:
        raise unwritable(path, error) from None
    return path
