"""Decoded pictures and their batches: x = pixel / 127.5 - 1, in [-1, 1]."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pictures:
    """uint8 pixels [N, C, H, W], memory-mapped and read-only, with labels int64 [N] if there are classes.

    fingerprint names the decoded data (source, classes, size, channels); skipped lists (name, reason) of the
    pictures that could not be decoded and are in neither pixels nor labels.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64] | None
    classes: tuple[str, ...]
    name: str
    fingerprint: str
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return int(self.pixels.shape[2]), int(self.pixels.shape[3])

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)"""
        return int(self.pixels.shape[1])

    def batch(self, index: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """float32 [B, C, H, W] in [-1, 1] and labels int64 [B], for index int64 [B] and flip bool [B].

        Where flip is true the picture is mirrored left to right. IndexError outside [-N, N).
        """
        # In numpy: torch's threads gain nothing on so little, and wait for each other on a busy machine.
        rows = index.cpu().numpy()
        pixels = self.pixels[rows]
        if flip is not None:
            mirrored = flip.cpu().numpy()
            pixels[mirrored] = pixels[mirrored][..., ::-1]
        x = np.divide(pixels, np.float32(127.5), dtype=np.float32)
        x -= np.float32(1.0)
        return torch.from_numpy(x), None if self.labels is None else torch.from_numpy(self.labels[rows])

    def frequencies(self) -> npt.NDArray[np.float64] | None:
        """Share of each class, float64 [classes], adding up to 1; None without classes."""
        if self.labels is None:
            return None
        return np.bincount(self.labels, minlength=len(self.classes)) / len(self)


def to_uint8(x: Tensor) -> Tensor:
    """Pixels for x in [-1, 1], clamped: round(127.5 (x + 1)), the inverse of what `Pictures.batch` does."""
    return x.add(1.0).mul_(127.5).round_().clamp_(0.0, 255.0).to(torch.uint8)
