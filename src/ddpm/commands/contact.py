"""What a check of data leaves behind: survey.json with everything found, contact.png to look at."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ddpm.atomic import write_bytes
from ddpm.draw.sheet import Block, Section, sheet

if TYPE_CHECKING:
    from ddpm.config import DataConfig
    from ddpm.data import Source
    from ddpm.data.survey import Item, Pair, Survey

_ROW, _PICTURES, _CLASSES = 10, 200, 400
_PAIRS = 40
T = TypeVar("T")


def as_json(found: Survey) -> dict[str, Any]:
    """A survey as plain JSON values."""
    return {
        "pictures": found.total,
        "held_out": found.held,
        "looked_at": found.seen,
        "sizes": [{"height": h, "width": w, "count": count} for (h, w), count in found.sizes.most_common()],
        "kinds": dict(found.kinds.most_common()),
        "classes": found.classes,
        "grey_stored_in_colour": found.colourless,
        "single_tone": [_item(one) for one in found.flat],
        "unreadable": [{**_item(one), "reason": reason} for one, reason in found.unreadable],
        "copies": [[_item(one) for one in group] for group in found.copies],
        "near_copies": {
            "least_correlation": found.limit,
            "all_compared": found.complete,
            "pairs": [
                {"pictures": [_item(p.first), _item(p.second)], "correlation": p.correlation, "bits": p.bits}
                for p in found.near
            ],
        },
    }


def write_sheet(path: Path, train: Source, held: Source | None, found: Survey, data: DataConfig) -> None:
    """Pictures of every class as the net would see them, then copies and near copies side by side.

    Copies and pairs that are in several classes, or both trained on and held out, come first.
    """
    from ddpm.data.decode import Fit

    # Cut at random is shown cut from the centre.
    to = Fit(data.size, data.channels, "centre" if data.crop == "random" else data.crop, data.background)

    def pair(first: Item, second: Item, *more: str) -> Block:
        shown, captions = [], []
        for item in (first, second):
            source = held if item.held and held is not None else train
            shown.append(source.fitted(item.number, to))
            captions.append("held out: " * item.held + item.name)
        return Block((*captions, *more), shown)

    sections = [_pictures(train, found, to)]
    groups = sorted(found.copies, key=lambda group: -len({(item.label, item.held) for item in group}))
    if groups:
        blocks = [pair(*_both(group), f"{len(group)} copies") for group in groups[:_PAIRS]]
        sections.append(Section(f"The same, pixel by pixel{_of(len(blocks), len(groups))}", blocks))
    telling = [one for one in found.near if one.across or one.leak][:_PAIRS]
    others = [one for one in found.near if not (one.across or one.leak)]
    shown = [*telling, *_spread(others, _PAIRS - len(telling))]
    if shown:
        blocks = [pair(one.first, one.second, _likeness(one)) for one in shown]
        sections.append(Section(f"Nearly the same{_of(len(shown), len(found.near))}", blocks))
    png = io.BytesIO()
    sheet(sections).save(png, "png")
    write_bytes(path, png.getvalue())


def _pictures(train: Source, found: Survey, to: Any) -> Section:
    """Some of each class, of as many classes as there is room for."""
    bad = {item.number for item, _ in found.unreadable if not item.held}

    def some(numbers: Sequence[int], most: int) -> list[np.ndarray]:
        shown = []
        for number in _spread([i for i in numbers if i not in bad], most):
            try:
                shown.append(train.fitted(number, to))
            except Exception:  # of a sample's rest nobody knows what can be read
                continue
        return shown

    h, w = to.size
    heading = f"{train.name}, as {h} x {w}"
    if train.labels is None:
        shown = some(range(len(train)), 6 * _ROW)
        return Section(heading, [Block((), shown[at : at + _ROW]) for at in range(0, len(shown), _ROW)])
    classes = list(found.classes.items())[:_CLASSES]
    each = max(1, min(_ROW, _PICTURES // len(classes)))
    if each < _ROW:  # blocks of a line are alike, and fill it
        each = max(k for k in (1, 2, 5) if k <= each)
    blocks = []
    for k, (name, count) in enumerate(classes):
        numbers = np.flatnonzero(train.labels == k).tolist()
        blocks.append(Block((f"{name}  {count:,}",), some(numbers, each)))
    return Section(heading + _of(len(classes), len(found.classes), "classes"), blocks)


def _item(one: Item) -> dict[str, Any]:
    return {"name": one.name, "number": one.number, "label": one.label, "held_out": one.held}


def _both(group: Sequence[Item]) -> tuple[Item, Item]:
    """The first of a group, and the first of another class or side, else the second."""
    first = group[0]
    others = (one for one in group if (one.label, one.held) != (first.label, first.held))
    return first, next(others, group[1])


def _likeness(pair: Pair) -> str:
    classes = f", {pair.first.label} and {pair.second.label}" if pair.across else ""
    return f"correlation {pair.correlation:.3f}{classes}"


def _of(shown: int, there: int, noun: str = "") -> str:
    return f": {shown:,} of {there:,} {noun}".rstrip() if shown < there else ""


def _spread(items: Iterable[T], most: int) -> list[T]:
    """At most so many, evenly spread, the first and the last among them."""
    listed = list(items)
    if most < 1 or not listed:
        return []
    if len(listed) <= most:
        return listed
    return [listed[k * (len(listed) - 1) // max(1, most - 1)] for k in range(most)]
