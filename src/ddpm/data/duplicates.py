"""Which pictures look nearly the same, without comparing all with all.

A picture's thumbnail (32 x 32, grey) gives a 64-bit perceptual hash: the signs of its 8 x 8 low frequencies
about their median (the DCT hash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash
Functions", 2010). Candidates share one of the hash's four 16-bit bands and differ in at most 8 bits: so each
band needs one sort, and pairs that differ in at most 3 bits are sure to be among them (multi-index hashing,
Norouzi, Punjani & Fleet 2012). A candidate counts if its thumbnails correlate, which neither brightness nor
contrast changes, and by more than what the set's pictures have in common anyway: garments on black all
correlate, photographs do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 32
MOST_BITS = 8
FLAT = 2.0  # standard deviation, in grey levels, under which a thumbnail has too little in it to be compared
_LOWEST, _HIGHEST = 0.9, 0.995  # that the limit of the correlation can be
_RANDOM_PAIRS, _UNLIKELY = 200_000, 2.5e-5
_REACH = 2_000  # pictures with the same band are compared with so many next ones, in the order of their hashes
_MOST_PAIRS, _MOST_CANDIDATES = 100_000, 4_000_000  # after which a search ends: a film's frames are all alike
_CHUNK = 8_192

_Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Near:
    """Pairs of numbers [K], first < second, with their correlation and differing bits, best first.

    limit: the correlation that was asked of them; complete: whether the search went to its end.
    """

    first: _Numbers
    second: _Numbers
    correlation: npt.NDArray[np.float64]
    bits: _Numbers
    limit: float
    complete: bool

    def __len__(self) -> int:
        return len(self.first)


def thumbnail(image: Image.Image) -> npt.NDArray[np.uint8]:
    """uint8 [32, 32] of a picture in mode L, RGB or RGBA, stretched; transparency is put on white."""
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    if image.mode != "L":
        image = image.convert("L")
    small = Image.Resampling.BOX if min(image.size) >= SIDE else Image.Resampling.BILINEAR
    return np.asarray(image.resize((SIDE, SIDE), small))


def perceptual_hash(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """The hashes of thumbnails [N, 32, 32], as bands uint16 [N, 4].

    A bit is 1 where the DCT-II coefficient (u, v), u and v from 1 to 8, is over the median of the 64.
    """
    u, x = np.arange(1, 9)[:, None], np.arange(SIDE)[None, :]
    basis = np.cos(np.pi * (x + 0.5) * u / SIDE).astype(np.float32)
    bands = np.empty((len(thumbnails), 4), np.uint16)
    for at in range(0, len(thumbnails), _CHUNK):
        levels = thumbnails[at : at + _CHUNK].astype(np.float32)
        frequencies = (basis @ levels @ basis.T).reshape(len(levels), 64)
        bits = frequencies > np.median(frequencies, axis=1, keepdims=True)
        bands[at : at + _CHUNK] = np.packbits(bits, axis=1).view(np.uint16)
    return bands


def contrast(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The standard deviation of each thumbnail's grey levels, [N]."""
    parts = [
        thumbnails[at : at + _CHUNK].std(axis=(1, 2), dtype=np.float32).astype(np.float64)
        for at in range(0, len(thumbnails), _CHUNK)
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def near(thumbnails: npt.NDArray[np.uint8], among: _Numbers) -> Near:
    """Pairs of nearly the same picture among the numbered ones of thumbnails [N, 32, 32].

    What has a contrast under FLAT is left out: everything flat is alike.
    """
    among = np.sort(among)
    among = among[contrast(thumbnails[among]) >= FLAT]
    bands = perceptual_hash(thumbnails[among])
    limit = _limit(thumbnails, among, bands)
    found: list[tuple[_Numbers, _Numbers, npt.NDArray[np.float64], _Numbers]] = []
    pairs = seen = 0
    complete = True
    for a, b, bits in _candidates(bands):
        if pairs >= _MOST_PAIRS or seen >= _MOST_CANDIDATES:
            complete = False
            break
        first, second = among[np.minimum(a, b)], among[np.maximum(a, b)]
        r = correlation(thumbnails, first, second)
        kept = r >= limit
        found.append((first[kept], second[kept], r[kept], bits[kept]))
        pairs, seen = pairs + int(kept.sum()), seen + len(a)
    none = np.empty(0, np.int64)
    columns = [np.concatenate(column) for column in zip((none, none, np.empty(0), none), *found, strict=True)]
    order = np.lexsort((columns[1], columns[0], -columns[2]))
    first, second, r, bits = (column[order] for column in columns)
    return Near(first, second, r, bits, limit, complete)


def correlation(thumbnails: npt.NDArray[np.uint8], a: _Numbers, b: _Numbers) -> npt.NDArray[np.float64]:
    """Pearson's correlation of thumbnails a[k] and b[k], in [-1, 1]; 0 with a flat one."""
    r = np.empty(len(a))
    for at in range(0, len(a), _CHUNK):
        x, y = (
            thumbnails[numbers[at : at + _CHUNK]].reshape(-1, SIDE * SIDE).astype(np.float32) for numbers in (a, b)
        )
        x -= x.mean(axis=1, keepdims=True)
        y -= y.mean(axis=1, keepdims=True)
        size = np.sqrt(np.einsum("nd,nd->n", x, x) * np.einsum("nd,nd->n", y, y))
        r[at : at + _CHUNK] = np.einsum("nd,nd->n", x, y) / np.maximum(size, 1e-6)
    return r


def _candidates(bands: npt.NDArray[np.uint16]) -> Iterator[tuple[_Numbers, _Numbers, _Numbers]]:
    """Pairs (a, b) that share a band and differ in at most MOST_BITS, each once, with the bits they differ in."""
    waiting: list[tuple[_Numbers, _Numbers, _Numbers]] = []
    count = 0
    for k in range(4):
        # By this band, then by the others, so that the most alike of a band stand next to each other.
        order = np.lexsort([bands[:, (k + j) % 4] for j in (3, 2, 1, 0)])
        mine = bands[order, k]
        live = np.arange(len(bands))
        for step in range(1, _REACH + 1):
            live = live[live + step < len(bands)]
            live = live[mine[live] == mine[live + step]]
            if not len(live):
                break
            a, b = order[live], order[live + step]
            bits = _BITS[bands[a] ^ bands[b]].sum(axis=1)
            kept = (bits <= MOST_BITS) & ~(bands[a, :k] == bands[b, :k]).any(axis=1)
            waiting.append((a[kept], b[kept], bits[kept]))
            count += int(kept.sum())
            if count >= _CHUNK:
                yield _joined(waiting)
                waiting, count = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[tuple[_Numbers, _Numbers, _Numbers]]) -> tuple[_Numbers, _Numbers, _Numbers]:
    a, b, bits = (np.concatenate(column) for column in zip(*parts, strict=True))
    return a, b, bits


def _limit(thumbnails: npt.NDArray[np.uint8], among: _Numbers, bands: npt.NDArray[np.uint16]) -> float:
    """Twice as close to 1 as unrelated pictures of this set come but once in 40,000, within [0.9, 0.995]."""
    count = len(among)
    if count < 2:
        return _LOWEST
    if math.comb(count, 2) <= _RANDOM_PAIRS:
        a, b = np.triu_indices(count, 1)
    else:
        draw = np.random.default_rng(0)
        a = draw.integers(0, count, _RANDOM_PAIRS)
        b = (a + draw.integers(1, count, _RANDOM_PAIRS)) % count
    # A set of many copies must not be measured by them.
    unrelated = _BITS[bands[a] ^ bands[b]].sum(axis=1) > MOST_BITS
    if not unrelated.any():
        return _LOWEST
    usual = np.quantile(correlation(thumbnails, among[a[unrelated]], among[b[unrelated]]), 1 - _UNLIKELY)
    return float(np.clip((1 + usual) / 2, _LOWEST, _HIGHEST))


# How many bits of a 16-bit number are 1 (numpy counts them itself only from 2.0 on).
_BITS = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(
    axis=1, dtype=np.int64
)
