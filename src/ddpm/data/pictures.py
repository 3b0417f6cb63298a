"""Decoded pictures and their batches: x = pixel / 127.5 - 1, in [-1, 1].

Pictures that are larger than their size are cut to it when a batch is made: a window whose place (u, v) in
[0, 1)^2 puts its upper left corner at row floor(u (H - h + 1)) and column floor(v (W - w + 1)), so that every
place in the picture is as likely; without a place it is the centre.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Pictures(ABC):
    """A set ready to train on: labels are int64 [N] if there are classes, else None.

    fingerprint names the decoded data: contents, classes, labels, and what they were fitted to.
    """

    def __init__(
        self,
        count: int,
        size: tuple[int, int],
        channels: int,
        labels: npt.NDArray[np.int64] | None,
        classes: tuple[str, ...],
        name: str,
        fingerprint: str,
        notes: tuple[str, ...] = (),
    ) -> None:
        """size: (height, width); channels: 1 (grey), 3 (RGB) or 4 (RGBA)."""
        self._count, self.size, self.channels = count, size, channels
        self.labels, self.classes, self.name, self.fingerprint = labels, classes, name, fingerprint
        self.notes = notes

    @property
    @abstractmethod
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(name, reason) of each picture that could not be decoded, as far as is known by now."""

    @abstractmethod
    def rows(
        self, index: npt.NDArray[np.int64], place: npt.NDArray[np.float64] | None
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """A copy of pictures, uint8 [B, C, h, w], for index [B] in [0, N) and place [B, 2], and their numbers.

        The numbers are the index, but where a picture that cannot be decoded had another put in its stead.
        """

    @abstractmethod
    def ahead(self, index: Tensor) -> None:
        """A hint that the next batch will be of index [B]: what takes time may begin now."""

    def __len__(self) -> int:
        return self._count

    def batch(
        self, index: Tensor, flip: Tensor | None = None, place: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """float32 [B, C, h, w] in [-1, 1] and labels int64 [B].

        For index int64 [B], flip bool [B] (mirrored left to right where true), and place float64 [B, 2] in
        [0, 1) where windows are cut; the centre without. IndexError outside [-N, N).
        """
        # In numpy: torch's threads gain nothing on so little, and wait for each other on a busy machine.
        numbers = index.cpu().numpy()
        if len(numbers) and not -len(self) <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"pictures {numbers.min()} to {numbers.max()} of {len(self)}")
        pixels, numbers = self.rows(numbers % len(self), None if place is None else place.cpu().numpy())
        if flip is not None:
            mirrored = flip.cpu().numpy()
            pixels[mirrored] = pixels[mirrored][..., ::-1]
        x = np.divide(pixels, np.float32(127.5), dtype=np.float32)
        x -= np.float32(1.0)
        return torch.from_numpy(x), None if self.labels is None else torch.from_numpy(self.labels[numbers])

    def frequencies(self) -> npt.NDArray[np.float64] | None:
        """Share of each class, float64 [classes], adding up to 1; None without classes."""
        if self.labels is None:
            return None
        return np.bincount(self.labels, minlength=len(self.classes)) / len(self)


@final
class Cached(Pictures):
    """Pictures that all have their size: pixels uint8 [N, C, H, W], memory-mapped and read-only."""

    def __init__(
        self,
        pixels: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64] | None,
        classes: tuple[str, ...],
        name: str,
        fingerprint: str,
        skipped: tuple[tuple[str, str], ...] = (),
        notes: tuple[str, ...] = (),
    ) -> None:
        """skipped: what is in neither pixels nor labels."""
        count, channels, height, width = pixels.shape
        super().__init__(count, (height, width), channels, labels, classes, name, fingerprint, notes)
        self.pixels, self._skipped = pixels, skipped

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        return self._skipped

    def rows(
        self, index: npt.NDArray[np.int64], place: npt.NDArray[np.float64] | None
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        return self.pixels[index], index

    def ahead(self, index: Tensor) -> None:
        """Nothing takes time."""


@final
class Ragged(Pictures):
    """Pictures of their own shapes, one after the other, of which windows are cut.

    flat: uint8, picture k being [C, *shapes[k]] of it, memory-mapped and read-only; shapes: [N, 2], (h, w) at
    least the size.
    """

    def __init__(
        self,
        flat: npt.NDArray[np.uint8],
        shapes: npt.NDArray[np.int64],
        size: tuple[int, int],
        channels: int,
        labels: npt.NDArray[np.int64] | None,
        classes: tuple[str, ...],
        name: str,
        fingerprint: str,
        skipped: tuple[tuple[str, str], ...] = (),
        notes: tuple[str, ...] = (),
    ) -> None:
        """skipped: what is in neither flat nor labels."""
        super().__init__(len(shapes), size, channels, labels, classes, name, fingerprint, notes)
        self._flat, self._shapes, self._skipped = flat, shapes, skipped
        self._ends = np.cumsum(channels * shapes.prod(axis=1))

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        return self._skipped

    def whole(self, i: int) -> npt.NDArray[np.uint8]:
        """Picture i in [0, N) uncut, uint8 [C, H, W]."""
        height, width = self._shapes[i]
        end = self._ends[i]
        return self._flat[end - self.channels * height * width : end].reshape(self.channels, height, width)

    def rows(
        self, index: npt.NDArray[np.int64], place: npt.NDArray[np.float64] | None
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        pixels = np.empty((len(index), self.channels, *self.size), np.uint8)
        for k, i in enumerate(index.tolist()):
            pixels[k] = window(self.whole(i), self.size, None if place is None else place[k])
        return pixels, index

    def ahead(self, index: Tensor) -> None:
        """Nothing takes time."""


def window(
    pixels: npt.NDArray[np.uint8], size: tuple[int, int], place: npt.NDArray[np.float64] | None
) -> npt.NDArray[np.uint8]:
    """The window [C, *size] of a picture [C, H, W] at a place [2] in [0, 1), or in the centre; a view."""
    (h, w), (height, width) = size, pixels.shape[1:]
    if place is None:
        top, left = (height - h) // 2, (width - w) // 2
    else:
        top, left = int(place[0] * (height - h + 1)), int(place[1] * (width - w + 1))
    return pixels[:, top : top + h, left : left + w]


def to_uint8(x: Tensor) -> Tensor:
    """Pixels for x in [-1, 1], clamped: round(127.5 (x + 1)), the inverse of what `Pictures.batch` does."""
    return x.add(1.0).mul_(127.5).round_().clamp_(0.0, 255.0).to(torch.uint8)
