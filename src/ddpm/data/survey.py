"""What a data set is like, from every picture of it: sizes, kinds, classes, copies, what cannot be read.

found = survey(train, held)        each picture is decoded once, in parallel threads
found.copies                       groups with the same pixels
found.near                         pairs that look nearly the same (`data.duplicates`)
fitting(found.sizes, (64, 64))     what is lost when they are brought to one size
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from PIL import Image

from ddpm.data import bounds, decode, duplicates
from ddpm.data.digest import workers_here
from ddpm.data.source import Source

_PER_TASK = 32
_LEAST_SIDE = 128  # that a JPEG is decoded at where a thumbnail is all that is wanted
_COLOUR = 6  # grey levels that the channels of a thumbnail differ by where one sees colour

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Item:
    """A picture: its number in its source, its name and class there; held: not one to train on."""

    number: int
    name: str
    label: str = ""
    held: bool = False


@dataclass(frozen=True)
class Pair:
    """Two pictures that look nearly the same: their thumbnails' correlation, and bits their hashes differ in."""

    first: Item
    second: Item
    correlation: float
    bits: int

    @property
    def across(self) -> bool:
        """Whether their classes differ."""
        return self.first.label != self.second.label

    @property
    def leak(self) -> bool:
        """Whether one is trained on and the other held out."""
        return self.first.held != self.second.held


@dataclass(frozen=True, eq=False)
class Survey:
    """What was found in pictures to train on (total of them) and held-out ones (held), of which seen were decoded.

    sizes counts (height, width) as seen, kinds the modes in words, classes the pictures to train on that can be
    read; colourless those stored in colour that show none. All but classes count held-out pictures too. copies
    are groups with the same pixels; near are pairs of others, limit the correlation asked of them, complete
    whether all were compared.
    """

    total: int
    held: int
    seen: int
    sizes: Counter[tuple[int, int]]
    kinds: Counter[str]
    classes: dict[str, int]
    colourless: int
    flat: tuple[Item, ...]
    unreadable: tuple[tuple[Item, str], ...]
    copies: tuple[tuple[Item, ...], ...]
    near: tuple[Pair, ...]
    limit: float
    complete: bool

    @property
    def sampled(self) -> bool:
        """Whether only some of the pictures were looked at."""
        return self.seen < self.total + self.held

    @property
    def usable(self) -> int:
        """Pictures to train on, less those that were found unreadable."""
        return self.total - sum(not item.held for item, _ in self.unreadable)


@dataclass(frozen=True)
class _Seen:
    """One decoded picture; reduced: decoded at less than its full size."""

    size: tuple[int, int]
    kind: str
    pixels: bytes
    reduced: bool
    thumbnail: npt.NDArray[np.uint8]
    coloured: bool


def survey(
    train: Source,
    held: Source | None = None,
    sample: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Survey:
    """Looks at every picture, or with sample at so many of them spread evenly over both sources.

    progress(done, total) is called from this thread. Takes 1 KiB a picture. UserError if a source itself cannot
    be read; a picture that cannot is listed.
    """
    sources = [train] if held is None else [train, held]
    everything = [(k, i) for k, source in enumerate(sources) for i in range(len(source))]
    count = len(everything)
    chosen = [everything[j * count // sample] for j in range(sample)] if 0 < sample < count else everything
    thumbnails = np.zeros((len(chosen), duplicates.SIDE, duplicates.SIDE), np.uint8)
    looks: list[_Seen | str] = []
    for look in _looks(sources, chosen, workers or workers_here()):
        if isinstance(look, _Seen):
            thumbnails[len(looks)] = look.thumbnail
        looks.append(look)
        if progress is not None and (len(looks) % _PER_TASK == 0 or len(looks) == len(chosen)):
            progress(len(looks), len(chosen))

    def item(j: int) -> Item:
        k, i = chosen[j]
        source = sources[k]
        label = "" if source.labels is None else source.classes[source.labels[i]]
        return Item(i, source.describe(i), label, k == 1)

    good = {j: look for j, look in enumerate(looks) if isinstance(look, _Seen)}
    groups, broken = _copies(sources, chosen, good)
    good = {j: look for j, look in good.items() if j not in broken}
    faults = {j: look for j, look in enumerate(looks) if isinstance(look, str)} | broken
    bad = tuple((item(j), why) for j, why in sorted(faults.items()))
    again = {j for group in groups for j in group[1:]}
    firsts = np.array([j for j in good if j not in again], np.int64)
    alike = duplicates.near(thumbnails, firsts)
    same = {group[0]: [item(j) for j in group] for group in groups}
    contrasts = duplicates.contrast(thumbnails[firsts])
    columns = (alike.first, alike.second, alike.correlation, alike.bits)
    return Survey(
        len(train),
        0 if held is None else len(held),
        len(chosen),
        Counter(look.size for look in good.values()),
        Counter(look.kind for look in good.values()),
        _class_counts(train, [i.number for i, _ in bad if not i.held]),
        sum(not look.coloured and "colour" in look.kind for look in good.values()),
        tuple(item(j) for j in firsts[contrasts < duplicates.FLAT].tolist()),
        bad,
        tuple(tuple(group) for group in same.values()),
        tuple(
            Pair(*_telling(same.get(a, [item(a)]), same.get(b, [item(b)])), r, bits)
            for a, b, r, bits in zip(*(column.tolist() for column in columns), strict=True)
        ),
        alike.limit,
        alike.complete,
    )


@dataclass(frozen=True)
class Fitting:
    """What bringing pictures to one shape does to them.

    lost: the share of an average picture that is cut away, or with pad of the result that is padding, or with
    none by how much an average picture is stretched; worst: the same for the size that suffers most; enlarged:
    pictures that have fewer pixels than the size.
    """

    lost: float
    worst: float
    worst_size: tuple[int, int]
    enlarged: int


def fitting(sizes: Counter[tuple[int, int]], size: tuple[int, int], crop: decode.Crop = "centre") -> Fitting:
    """The fate of pictures of these sizes (h, w), of which there is at least one, brought to another."""
    h, w = size
    losses, enlarged = {}, 0
    for (height, width), count in sizes.items():
        ratio = (height * w) / (width * h)
        ratio = max(ratio, 1 / ratio)  # of the two shapes
        losses[height, width] = ratio - 1 if crop == "none" else 1 - 1 / ratio
        scales = (h / height, w / width)
        enlarged += count * ((min(scales) if crop == "pad" else max(scales)) > 1)
    lost = sum(losses[shape] * count for shape, count in sizes.items()) / sum(sizes.values())
    worst = max(losses, key=lambda shape: losses[shape])
    return Fitting(lost, losses[worst], worst, enlarged)


def _looks(sources: Sequence[Source], chosen: Sequence[tuple[int, int]], workers: int) -> Iterator[_Seen | str]:
    """Each picture decoded, or why it cannot be, in order. Threads, as in `data.cache`."""

    def some(first: int) -> list[_Seen | str]:
        found: list[_Seen | str] = []
        for k, i in chosen[first : first + _PER_TASK]:
            try:
                with sources[k].opened(i) as image:
                    found.append(_look(image))
            except Exception as error:  # PIL's readers raise almost anything for a broken file
                found.append(decode.fault(error, sources[k].describe(i)))
        return found

    pool = ThreadPoolExecutor(workers)
    try:
        for part in pool.map(some, range(0, len(chosen), _PER_TASK)):
            yield from part
    finally:
        pool.shutdown(cancel_futures=True)


def _look(image: Image.Image) -> _Seen:
    size, kind, stored = decode.seen(image), decode.kind(image), image.size
    if image.format in ("JPEG", "MPO"):
        image.draft(None, (_LEAST_SIDE, _LEAST_SIDE))
    reduced = image.size != stored
    with bounds.decoding.taken(image.width * image.height):
        plain = decode.flat(decode.upright(image), None)
        thumbnail = duplicates.thumbnail(plain)
        return _Seen(size, kind, _digest(plain), reduced, thumbnail, plain.mode != "L" and _coloured(plain))


def _digest(plain: Image.Image) -> bytes:
    """A hash of the pixels, their size and channels."""
    described = f"{plain.mode} {plain.size}".encode()
    return hashlib.sha256(described + plain.tobytes()).digest()


def _coloured(plain: Image.Image) -> bool:
    side = duplicates.SIDE
    small = plain.convert("RGB").resize((side, side), Image.Resampling.BOX)
    channels = np.asarray(small).astype(np.int16)
    return bool((channels.max(axis=2) - channels.min(axis=2)).max() > _COLOUR)


def _copies(
    sources: Sequence[Source], chosen: Sequence[tuple[int, int]], good: dict[int, _Seen]
) -> tuple[list[list[int]], dict[int, str]]:
    """Groups with the same pixels. Where a picture was decoded at less than its size, all its pixels are asked.

    Also those of which that shows that they cannot be decoded, and why.
    """
    broken: dict[int, str] = {}
    groups = _grouped((j, (look.size, look.pixels)) for j, look in good.items())
    sure = [group for group in groups if not good[group[0]].reduced]
    for group in groups:
        if good[group[0]].reduced:
            whole = []
            for j in group:
                k, i = chosen[j]
                try:
                    with sources[k].opened(i) as image:
                        whole.append((j, _digest(decode.flat(decode.upright(image), None))))
                except Exception as error:
                    broken[j] = decode.fault(error, sources[k].describe(i))
            sure += _grouped(whole)
    return sorted(sure), broken


def _grouped(keyed: Iterable[tuple[int, object]]) -> list[list[int]]:
    """Numbers with the same key, where there are two or more."""
    groups: dict[object, list[int]] = {}
    for j, key in keyed:
        groups.setdefault(key, []).append(j)
    return [group for group in groups.values() if len(group) > 1]


def _telling(first: Sequence[Item], second: Sequence[Item]) -> tuple[Item, Item]:
    """Of two groups of copies the pair that says most: a leak before different classes before any other."""
    a, b = (
        list({(item.held, item.label): item for item in reversed(group)}.values()) for group in (first, second)
    )
    return max(product(a, b), key=lambda p: (p[0].held != p[1].held, p[0].label != p[1].label))


def _class_counts(source: Source, unreadable: Sequence[int]) -> dict[str, int]:
    if source.labels is None:
        return {}
    counts = np.bincount(np.delete(source.labels, list(unreadable)), minlength=len(source.classes))
    return dict(zip(source.classes, counts.tolist(), strict=True))
