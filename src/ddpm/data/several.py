"""Sources made of sources: several as one, and chosen pictures of one."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import accumulate
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
from PIL import Image

from ddpm.data import digest
from ddpm.data.source import Source

_NAMES_SHOWN = 3


@final
class Several(Source):
    """Sources one after another. Classes are united by name, in the order in which they first come."""

    def __init__(self, sources: Sequence[Source]) -> None:
        """All sources have classes, or none has."""
        self._sources = tuple(sources)
        self._ends = list(accumulate(len(source) for source in sources))
        self._called = _apart([source.name for source in sources])
        classes = tuple(dict.fromkeys(name for source in sources for name in source.classes))
        labels = np.concatenate([by_name(source, classes) for source in sources]) if classes else None
        notes = [f"{name}: {note}" for name, s in zip(self._called, sources, strict=True) for note in s.notes]
        more = len(sources) - _NAMES_SHOWN
        name = "+".join(source.name for source in sources[:_NAMES_SHOWN]) + (f"+{more}more" if more > 0 else "")
        super().__init__(name, classes, labels, tuple(notes))

    def __len__(self) -> int:
        return self._ends[-1]

    def opened(self, i: int) -> AbstractContextManager[Image.Image]:
        k, j = self._at(i)
        return self._sources[k].opened(j)

    def describe(self, i: int) -> str:
        k, j = self._at(i)
        return f"{self._called[k]}: {self._sources[k].describe(j)}"

    def stored(self, i: int) -> bytes:
        k, j = self._at(i)
        return self._sources[k].stored(j)

    def place(self, i: int) -> Path | None:
        k, j = self._at(i)
        return self._sources[k].place(j)

    @property
    def filed(self) -> bool:
        return all(source.filed for source in self._sources)

    def sealed(self, sums: Sequence[bytes]) -> str:
        parts = zip(self._sources, [0, *self._ends], self._ends, strict=False)
        return digest.combined(bytes.fromhex(source.sealed(sums[a:b])) for source, a, b in parts)

    def fingerprint(self, advance: digest.Advance | None = None) -> str:
        # Each tells how far it is in its own measure.
        return digest.combined(bytes.fromhex(source.fingerprint(advance)) for source in self._sources)

    def stamp(self) -> digest.Stamp:
        return digest.together([_typed(source) for source in self._sources])

    def _at(self, i: int) -> tuple[int, int]:
        """The source that picture i is in, and its number there."""
        k = bisect.bisect_right(self._ends, i)
        return k, i - (self._ends[k - 1] if k else 0)


@final
class Chosen(Source):
    """Some pictures of a source."""

    def __init__(
        self, source: Source, index: npt.NDArray[np.int64], classes: tuple[str, ...], notes: tuple[str, ...]
    ) -> None:
        """index: int64 [n], which pictures; classes: what their labels number, found by name."""
        labels = by_name(source, classes)[index] if classes else None
        super().__init__(source.name, classes, labels, notes)
        self._source, self._index = source, index.astype(np.int64)

    def __len__(self) -> int:
        return len(self._index)

    def opened(self, i: int) -> AbstractContextManager[Image.Image]:
        return self._source.opened(int(self._index[i]))

    def describe(self, i: int) -> str:
        return self._source.describe(int(self._index[i]))

    def stored(self, i: int) -> bytes:
        return self._source.stored(int(self._index[i]))

    def place(self, i: int) -> Path | None:
        return self._source.place(int(self._index[i]))

    @property
    def filed(self) -> bool:
        return self._source.filed

    def sealed(self, sums: Sequence[bytes]) -> str:
        """Of the chosen pictures alone: the others may change."""
        return digest.named(map(self.describe, range(len(self))), sums)

    def stamp(self) -> digest.Stamp:
        whole = _typed(self._source)
        index = hashlib.sha256(self._index.astype("<i8").tobytes()).digest()
        names, state = (digest.combined([bytes.fromhex(part), index]) for part in (whole.names, whole.state))
        return digest.Stamp(names, state, whole.newest)


def by_name(source: Source, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """A source's labels, int64 [N], as numbers of other classes; ValueError for one that is not among them."""
    if source.labels is None:
        raise ValueError(f"{source.name} has no classes")
    number = np.full(len(source.classes), -1, dtype=np.int64)
    for k in np.unique(source.labels):
        number[k] = classes.index(source.classes[k])
    return number[source.labels]


def _typed(source: Source) -> digest.Stamp:
    """The stamp, kept apart from that of the same files opened as something else."""
    stamp, kind = source.stamp(), hashlib.sha256(type(source).__name__.encode()).digest()
    return digest.Stamp(stamp.names, digest.combined([bytes.fromhex(stamp.state), kind]), stamp.newest)


def _apart(names: Sequence[str]) -> list[str]:
    """The names, numbered where two are the same."""
    if len(set(names)) == len(names):
        return list(names)
    return [f"{name} ({k})" for k, name in enumerate(names, 1)]
