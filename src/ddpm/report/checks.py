"""The parts of the page about trouble: nearest training pictures, colours, quarters of the noise, a verdict."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ddpm.data import Pictures
from ddpm.draw import page, picture
from ddpm.draw.charts import Series, line_chart
from ddpm.report.colours import Colours, Compared
from ddpm.report.material import Material
from ddpm.report.nearest import Nearest, pictures_at, spread_over
from ddpm.report.quarters import NAMES, Quarters
from ddpm.report.trouble import signed, signs
from ddpm.units import counted

_CARDS = 9


def nearest(made: Material) -> str:
    """Samples beside the training pictures nearest to them, by pixels and by features."""
    found, pictures = made.checks, made.pictures
    if found is None or pictures is None:
        reason = made.without.get("pictures") or made.without["pipeline"]
        return page.note(f"No comparison with the training pictures: {reason}.")
    mirrored = ", mirrored ones too" if made.description.config.data.flip else ""
    by = found.by_pixels
    html = page.text(
        f"Some of {counted(len(found.samples), 'sample')}, each followed by the pictures nearest to it among "
        f"{_looked(by, pictures)} training pictures{mirrored}. The distance is the root mean square difference of "
        "their pixels, in grey levels from 0 to 255: near pictures may differ in what they show, copies do not.",
        "A sample counts as a copy (outlined) where the nearest training picture is less than half as far as the "
        f"{by.crowd} nearest on average (Carlini et al. 2023). A small distance alone proves nothing: smooth "
        f"pictures are near to many. So {_others(by)} are asked the same.",
    )
    html += _numbers(by, " levels") + _cards(found.samples, by, pictures, ".1f")
    if (by := found.by_features) is None:  # type: ignore[assignment]
        return html
    html += page.text(
        "The same by features: what a net of random weights makes of a picture, which a shift by a pixel moves "
        f"less. Among {_looked(by, pictures)} pictures; a distance of 1.4 is that of any two. "
        f"A sample counts as a copy where its ratio is less than half that of typical {_others(by)}.",
    )
    return html + _numbers(by, "") + _cards(found.samples, by, pictures, ".2f")


def _looked(found: Nearest, pictures: Pictures) -> str:
    every = "all" if found.looked == len(pictures) else f"{found.looked:,} of the"
    return f"{every} {len(pictures):,}"


def _others(found: Nearest) -> str:
    return "held-out pictures" if found.held_out else "training pictures, without themselves,"


def _numbers(found: Nearest, unit: str) -> str:
    """What samples and pictures that are no copies have in common, or not."""
    one = "a held-out picture" if found.held_out else "a training picture"
    other = "" if found.held_out else " other"
    values = [
        ("samples that count as copies", f"{found.copied.sum()} of {len(found.copied)}"),
        ("typically from a sample to the nearest", f"{np.median(found.distance[:, 0]):.3g}{unit}"),
    ]
    if len(found.apart):
        values[1:1] = [
            (f"{one}s that would".removeprefix("a "), f"{found.others_copied.sum()} of {len(found.apart)}")
        ]
        values += [
            (f"typically from {one} to the nearest{other}", f"{np.median(found.apart):.3g}{unit}"),
            (f"of pairs in which the sample ranks nearer than {one}: even is half", f"{found.nearer():.0%}"),
        ]
    return page.numbers(values)


def _cards(samples: npt.NDArray[np.uint8], found: Nearest, pictures: Pictures, style: str) -> str:
    """Likely copies first, then samples spread over the classes."""
    marked = np.flatnonzero(found.copied)[:4].tolist()
    others = [i for i in spread_over(len(samples), _CARDS).tolist() if i not in marked]
    cards = []
    for i in sorted([*marked, *others][:_CARDS]):
        near = [picture(one) for one in pictures_at(pictures, found.index[i])]
        captions = [format(distance, style) for distance in found.distance[i]]
        group = [(picture(samples[i]), "sample"), *zip(near, captions, strict=True)]
        cards.append((group, bool(found.copied[i])))
    return page.cards(cards)


def trouble(made: Material) -> str:
    """What is off in a sentence each, or that nothing is; and what it was told from."""
    found, checks = signs(made.records, made.checks), made.checks
    if found:
        html = page.bullets([one.what for one in found]) + page.text("What helps stands at the end of this page.")
    elif checks is None:
        return page.note(_unseen(made))
    else:
        html = page.text(
            f"Nothing that {counted(len(checks.samples), 'sample')} show: no copies, no drift of brightness, "
            "contrast or colours, no quarter of the noise levels that does worse than it should. A sign is told "
            "here if it is larger than what matters and than four standard errors."
        )
    if checks is None:
        return html + page.note(_unseen(made))
    html += _colours(checks.colours) if checks.colours else page.note("Too few samples to compare colours.")
    if checks.quarters is not None:
        return html + _quarters(checks.quarters, made.description.config.chain.steps)
    if not made.description.config.data.holdout:
        html += page.text(
            "No pictures are held out (--holdout 0.05): what it knows of pictures it never saw cannot be told."
        )
    return html


def _unseen(made: Material) -> str:
    reason = made.without.get("pictures") or made.without["pipeline"]
    return f"Samples were not compared with the data: {reason}."


def _colours(found: Colours) -> str:
    shown = [found.brightness, found.contrast, *([found.saturation] if found.saturation else []), *found.channels]
    rows = [(one.name, _told(one)) for one in shown]
    rows.append(("how much brightness varies", f"{found.spread:.2f} times as much as in the data"))
    charts = [
        _histogram(one, f"{one.name} of pictures".capitalize())
        for one in (found.channels or (found.brightness, found.contrast))
    ]
    classes = " of the same classes" if found.classes else ""
    return (
        page.text(
            f"Colours, in grey levels from 0 to 255, of {counted(found.count, 'sample')} beside "
            f"{found.looked:,} training pictures{classes}: a picture's brightness is its mean, its contrast the "
            "deviation of its pixels. Differences are told with their standard errors."
        )
        + page.table(rows)
        + page.charts(*charts)
    )


def _told(one: Compared) -> str:
    return f"{one.samples:.1f}, data {one.data:.1f} ({signed(one.difference)} ± {one.error:.1f})"


def _histogram(one: Compared, title: str) -> str:
    step = 256.0 / max(1, len(one.shares[0]))
    centres = tuple(step * (k + 0.5) for k in range(len(one.shares[0])))
    lines = [Series(name, centres, shares) for name, shares in zip(("samples", "data"), one.shares, strict=True)]
    drawing = line_chart(lines, f"share of pictures by {one.name}", x_name="grey level", zero=True, log=False)
    means = [f"{one.samples:.1f} on average", f"{one.data:.1f}"]
    return page.chart(title, drawing, lines, "Share of the pictures, by grey level.", values=means)


def _quarters(found: Quarters, T: int) -> str:
    rows = []
    for k, (name, held, known) in enumerate(zip(NAMES, found.held_out, found.trained_on, strict=True)):
        last = -(-(k + 1) * T // len(NAMES))
        apart = _percent(held / known - 1.0) if known else "–"
        rows.append((f"{name}, t ≤ {last:,}", held, f"{held:.3g}, trained on {known:.3g} ({apart})"))
    return page.text(
        f"The error by quarter of the noise levels on {found.count:,} held-out pictures, and on as many of those "
        "trained on, at the same levels with the same noise. Where the held-out ones are worse by far, it knows "
        "its pictures better than their kind: their fine details at the clean end, whole pictures at the "
        "noisy one."
    ) + page.bars(rows)


def _percent(value: float) -> str:
    return f"{value:+.0%}".replace("-", "−").replace("%", " %")
