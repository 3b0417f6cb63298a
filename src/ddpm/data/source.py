"""A source: numbered pictures somewhere, with or without classes, not yet decoded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from ddpm.data import decode


@dataclass(frozen=True)
class Look:
    """What some pictures of a source are like, from their headers.

    sizes counts (height, width) after EXIF rotation; grey + colour + len(unreadable) = seen; alpha counts
    those with transparency, grey or colour; unreadable holds (name, reason).
    """

    seen: int
    sizes: Counter[tuple[int, int]]
    grey: int
    colour: int
    alpha: int
    unreadable: tuple[tuple[str, str], ...]


class Source(ABC):
    """Numbered pictures; `labels` (int64 [N]) index `classes`, and are None without classes."""

    def __init__(
        self,
        name: str,
        classes: tuple[str, ...] = (),
        labels: npt.NDArray[np.int64] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.name, self.classes, self.labels, self.notes = name, classes, labels, notes

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
    def fingerprint(self) -> str:
        """64 hex digits that change when any name or byte of the pictures does."""

    def picture(self, i: int) -> npt.NDArray[np.uint8]:
        """uint8 [H, W, C] at its own size, upright, C = 1, 3 or 4; raises what PIL raises."""
        with self.opened(i) as image:
            return decode.raw(image)

    def fitted(self, i: int, to: decode.Fit) -> npt.NDArray[np.uint8]:
        """uint8 [C, H, W]; raises what PIL raises."""
        with self.opened(i) as image:
            return decode.fit(image, to)

    def look(self, limit: int = 256) -> Look:
        """At most `limit` pictures spread evenly over the source; no pixel is decoded."""
        count = len(self)
        chosen = [k * count // limit for k in range(limit)] if count > limit else list(range(count))
        sizes: Counter[tuple[int, int]] = Counter()
        grey = alpha = 0
        unreadable = []
        for i in chosen:
            try:
                with self.opened(i) as image:
                    width, height = image.size
                    # PIL would decode a PNG to the end to look for EXIF behind its pixels.
                    knows = image.format != "PNG" or "exif" in image.info
                    turned = knows and decode.orientation(image) >= 5
                    is_grey = image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;")
                    transparent = image.has_transparency_data
            except Exception as error:  # PIL's readers raise almost anything for a broken file
                unreadable.append((self.describe(i), decode.reason(error)))
                continue
            sizes[(width, height) if turned else (height, width)] += 1
            grey += is_grey
            alpha += transparent
        colour = len(chosen) - len(unreadable) - grey
        return Look(len(chosen), sizes, grey, colour, alpha, tuple(unreadable))
