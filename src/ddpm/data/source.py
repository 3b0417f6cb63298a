"""A source: numbered pictures somewhere, with or without classes, not yet decoded."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ddpm import errors
from ddpm.data import decode
from ddpm.data.digest import Advance, Stamp, combined, of_parts

_LONGEST = 100  # characters of a set's name
_LONGEST_CLASS = 1000


@dataclass(frozen=True)
class Look:
    """What some pictures of a source are like, from their headers.

    sizes counts (height, width) after EXIF rotation; grey + colour + len(unreadable) = seen; alpha counts
    those with transparency, grey or colour; unreadable holds (name, reason); modes counts `decode.kind`.
    """

    seen: int
    sizes: Counter[tuple[int, int]]
    grey: int
    colour: int
    alpha: int
    unreadable: tuple[tuple[str, str], ...]
    modes: Counter[str]


def printable(name: str) -> str:
    """A file's name as it can be shown: ? for what is no character, escapes for what a terminal would obey."""
    return errors.printable(name.encode("utf-8", "replace").decode())


def called(name: str) -> str:
    """A name for a set, after which folders are called, too."""
    name = printable(name)
    return name[:_LONGEST] if name.strip(".") else "data"


def unsuitable(name: str) -> str:
    """Why a class cannot have a name; "" if it can."""
    kinds = {unicodedata.category(one) for one in name}
    if "Cs" in kinds:
        return "is not UTF-8"
    if "Cc" in kinds:
        return "has a line break or control character"
    return f"is {len(name):,} characters long" if len(name) > _LONGEST_CLASS else ""


class Source(ABC):
    """Numbered pictures; `labels` (int64 [N]) index `classes`, and are None without classes."""

    def __init__(
        self,
        name: str,
        classes: tuple[str, ...] = (),
        labels: npt.NDArray[np.int64] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.name, self.classes, self.labels = called(name), classes, labels
        self.notes = tuple(printable(note) for note in notes)

    @abstractmethod
    def __len__(self) -> int:
        """How many pictures there are, broken ones included."""

    @abstractmethod
    def opened(self, i: int) -> AbstractContextManager[Image.Image]:
        """Picture i as an open PIL picture whose pixels may not be decoded yet; safe from several threads."""

    @abstractmethod
    def describe(self, i: int) -> str:
        """A name for picture i that its owner understands."""

    @abstractmethod
    def stored(self, i: int) -> bytes:
        """What picture i is stored as; raises what reading it raises."""

    @abstractmethod
    def place(self, i: int) -> Path | None:
        """The file that is picture i; None where several share one, as in an archive or array."""

    @abstractmethod
    def stamp(self) -> Stamp:
        """What tells, without reading a picture, whether the set is the same (`digest.stamp`)."""

    @property
    def filed(self) -> bool:
        """Whether each picture is a file of its own, and the fingerprint `sealed` of them: one reading does."""
        return False

    def sealed(self, sums: Sequence[bytes]) -> str:
        """The fingerprint, from the SHA-256 of each content."""
        return combined(sums)

    def fingerprint(self, advance: Advance | None = None) -> str:
        """64 hex digits that change when any name or byte of the pictures does; reads them all.

        advance(done, total) is told how far it is, in pictures or blocks.
        """
        return self.sealed(of_parts(len(self), self.content, advance=advance))

    def content(self, i: int) -> bytes:
        """What picture i is stored as; of one that cannot be read, and is left out later, the reason in its place.

        UserError where that may pass (`decode.fault`).
        """
        try:
            return self.stored(i)
        except Exception as error:  # an encrypted or damaged member raises RuntimeError, BadZipFile, OSError
            return decode.fault(error, self.describe(i)).encode()

    def picture(self, i: int) -> npt.NDArray[np.uint8]:
        """uint8 [H, W, C] at its own size, upright, C = 1, 3 or 4; raises what PIL raises."""
        with self.opened(i) as image:
            return decode.raw(image)

    def fitted(self, i: int, to: decode.Fit) -> npt.NDArray[np.uint8]:
        """uint8 [C, H, W]; raises what PIL raises."""
        with self.opened(i) as image:
            return decode.fit(image, to)

    def look(self, limit: int = 256) -> Look:
        """At most `limit` pictures spread evenly over the source; no pixel is decoded.

        UserError if the source itself cannot be read.
        """
        count = len(self)
        chosen = [k * count // limit for k in range(limit)] if count > limit else list(range(count))
        sizes: Counter[tuple[int, int]] = Counter()
        modes: Counter[str] = Counter()
        grey = alpha = 0
        unreadable = []
        for i in chosen:
            try:
                with self.opened(i) as image:
                    seen, kind = decode.seen(image), decode.kind(image)
                    is_grey, transparent = decode.grey(image), image.has_transparency_data
            except Exception as error:  # PIL's readers raise almost anything for a broken file
                name = self.describe(i)
                unreadable.append((name, decode.fault(error, name)))
                continue
            sizes[seen] += 1
            modes[kind] += 1
            grey += is_grey
            alpha += transparent
        colour = len(chosen) - len(unreadable) - grey
        return Look(len(chosen), sizes, grey, colour, alpha, tuple(unreadable), modes)
