"""A page that is one file: parts of HTML made from plain values, with style, script and pictures inside.

Functions take text, which they escape, and pictures; those that take `parts` take HTML that these functions
returned. The page asks for nothing over a network and forbids itself to.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from ddpm.draw.charts import Series, number

_HERE = Path(__file__).parent
_PIXEL_ART = 64  # pixels a side up to which a picture is kept bit by bit and enlarged in squares
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def document(title: str, head: str, sections: Sequence[tuple[str, str, str]], foot: str) -> str:
    """The whole page: a head, sections as (short name, title, HTML) with links to them, and a line at the foot."""
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    links = "".join(f'<a href="#part-{i}">{escape(name)}</a>' for i, (name, _, _) in enumerate(sections))
    body = "\n".join(
        f'<section id="part-{i}"><h2>{escape(name)}</h2>\n{part}</section>'
        for i, (_, name, part) in enumerate(sections)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>\n{style}</style>\n</head>\n'
        f'<body>\n<main>\n<header>{head}\n<nav aria-label="Parts of this page">{links}</nav></header>\n{body}\n'
        f"<footer>{escape(foot)}</footer>\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def heading(title: str, badge: str, below: str) -> str:
    """The page's title with a word of its state, and a line below."""
    state = f'<span class="badge {escape(badge)}">{escape(badge)}</span>'
    return f'<h1>{escape(title)}{state}</h1>\n<p class="soft">{escape(below)}</p>'


def bar(done: int, total: int, what: str) -> str:
    """How far something is."""
    return f'<progress value="{done}" max="{total}" aria-label="{escape(what)}"></progress>'


def text(*paragraphs: str) -> str:
    """Paragraphs."""
    return "".join(f"<p>{escape(one)}</p>\n" for one in paragraphs if one)


def note(line: str) -> str:
    """A line that says why something is not here."""
    return f'<p class="note">{escape(line)}</p>\n'


def bullets(lines: Iterable[str]) -> str:
    """A list."""
    return '<ul class="plain">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>\n"


def code(line: str) -> str:
    """Something to type."""
    return f"<pre>{escape(line)}</pre>\n"


def details(summary: str, *parts: str) -> str:
    """What unfolds on a click."""
    return f"<details><summary>{escape(summary)}</summary>\n{''.join(parts)}</details>\n"


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values, one below the other."""
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>\n"


def numbers(pairs: Iterable[tuple[str, str]]) -> str:
    """The few numbers to see first: (what it is, its value)."""
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="numbers">{cells}</dl>\n'


def bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """A bar a row: name, length, and what stands at its end."""
    most = max((length for _, length, _ in rows), default=0) or 1
    cells = "".join(
        f'<span>{escape(name)}</span><div><i style="width:{100 * length / most:.1f}%"></i></div>'
        f"<em>{escape(end)}</em>"
        for name, length, end in rows
    )
    return f'<div class="bars">{cells}</div>\n'


def charts(*parts: str) -> str:
    """Charts beside each other where there is room."""
    return f'<div class="charts">{"".join(parts)}</div>\n'


def chart(
    title: str,
    drawing: str,
    series: Sequence[Series],
    caption: str,
    ordered: bool = False,
    values: Sequence[str] | None = None,
) -> str:
    """A drawn chart with its title, its lines' names and last values, and what it means; "" without a drawing.

    ordered: the lines have an order, which their colours show. values: what stands beside the names instead.
    """
    if not drawing:
        return ""
    if values is None:
        values = [number(line.points()[-1][1]) if line.points() else "–" for line in series]
    names = "".join(
        f"<li>{escape(line.name)} <b>{escape(value)}</b></li>" for line, value in zip(series, values, strict=True)
    )
    ramp = ' class="ramp"' if ordered else ""
    return (
        f'<figure{ramp}><h3>{escape(title)}</h3>\n<ul class="legend">{names}</ul>\n{drawing}\n'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


# -- pictures ------------------------------------------------------------------------------------------------


def data_uri(image: Image.Image, largest: int = 0) -> str:
    """A picture as text, at most `largest` pixels a side: small ones bit by bit, others as they look."""
    if largest and max(image.size) > largest:
        image = image.copy()
        image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if max(image.size) <= _PIXEL_ART:
        image.save(file, "webp", lossless=True, exact=True, quality=60, method=2)
    else:
        image.save(file, "webp", quality=85, method=2)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def img(image: Image.Image, alt: str, largest: int = 224, more: str = "") -> str:
    """A picture; `alt` says what it shows, `more` are further attributes."""
    pixels = ' class="pixels"' if max(image.size) <= _PIXEL_ART else ""
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img src="{data_uri(image, largest)}" {size} alt="{escape(alt)}"{pixels}{more}>'


def strip(images: Sequence[Image.Image], alt: str, columns: int) -> str:
    """Pictures in a grid of so many columns."""
    cells = "".join(img(image, f"{alt}, {i + 1} of {len(images)}") for i, image in enumerate(images))
    return f'<div class="strip" style="--n:{columns}">{cells}</div>'


def sheet(images: Sequence[Image.Image], alt: str, columns: int) -> str:
    """Pictures that have no names, in a square."""
    return f'<div class="sheet">{strip(images, alt, columns)}</div>\n'


def rows(named: Sequence[tuple[str, str, Sequence[Image.Image]]], alt: str) -> str:
    """A row a name: (name, what else to say of it, pictures); short ones two beside each other."""
    columns = max((len(images) for _, _, images in named), default=1)
    cells = "".join(
        f'<div class="name">{escape(name)}<small>{escape(more)}</small></div>'
        f"{strip(images, f'{alt} {name}', columns)}"
        for name, more, images in named
    )
    beside = " two" if columns <= 5 < 2 * len(named) else ""
    return f'<div class="rows{beside}">{cells}</div>\n'


def steps(
    corner: tuple[str, str], axis: Sequence[str], levels: Sequence[tuple[str, str, Sequence[Image.Image]]]
) -> str:
    """A column a level, a row on a phone: (name, another, a picture for each name of the axis).

    corner: what the two names of a level are.
    """
    cells = f'<div class="corner"><b>{escape(corner[0])}</b>{escape(corner[1])}</div>'
    cells += "".join(f'<div class="axis">{escape(name)}</div>' for name in axis)
    for name, more, images in levels:
        cells += f'<div class="level"><b>{escape(name)}</b>{escape(more)}</div>'
        cells += "".join(img(image, f"{what}, {name}") for what, image in zip(axis, images, strict=True))
    return f'<div class="steps">{cells}</div>\n'


def cards(named: Sequence[tuple[Sequence[tuple[Image.Image, str]], bool]]) -> str:
    """Groups of a first picture and three others, each with its caption; a group may be marked."""

    def one(group: Sequence[tuple[Image.Image, str]], marked: bool) -> str:
        figures = "".join(
            f"<figure>{img(image, caption)}<figcaption>{escape(caption)}</figcaption></figure>"
            for image, caption in group
        )
        return f'<div class="card{" marked" if marked else ""}">{figures}</div>'

    return '<div class="cards">' + "".join(one(group, marked) for group, marked in named) + "</div>\n"


def film(frames: Sequence[tuple[str, Image.Image]], alt: str, largest: int = 1400) -> str:
    """Named pictures one after the other, under a slider and a button; the last one where there is no script."""
    last = len(frames) - 1
    shown = "".join(
        img(image, f"{alt}, {name}", largest, f' data-name="{escape(name)}"{"" if i == last else " hidden"}')
        for i, (name, image) in enumerate(frames)
    )
    controls = (
        '<div class="controls" hidden><button type="button">Play</button>'
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="{escape(alt)}">'
        "<output></output></div>"
    )
    return f'<div class="film">{shown}{controls}</div>\n'


def advice(items: Sequence[tuple[str, str, str]]) -> str:
    """What to do: (what, why, a command or nothing)."""
    cells = "".join(
        f"<li><b>{escape(what)}</b>{escape(why)}{code(command) if command else ''}</li>"
        for what, why, command in items
    )
    return f'<ol class="advice">{cells}</ol>\n'
