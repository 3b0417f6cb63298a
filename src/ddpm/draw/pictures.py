"""Arrays of uint8 pixels [N, C, H, W] as pictures: single ones, grids, and films of grids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

_GAP = 2
_BACKGROUND = 255


def picture(pixels: np.ndarray) -> Image.Image:
    """One picture of uint8 pixels [C, H, W], grey or colour."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def grid(pixels: np.ndarray, columns: int | None = None, width: int = 0) -> Image.Image:
    """Pictures [N, C, H, W] in rows, near-square unless columns are given.

    Small pictures are enlarged by a whole factor so that the grid is about `width` pixels wide.
    """
    count, channels, high, wide = pixels.shape
    columns = min(count, columns or math.ceil(math.sqrt(count * high / wide)))
    rows = -(-count // columns)
    scale = max(1, width // (columns * (wide + _GAP)))
    pixels = pixels.repeat(scale, axis=2).repeat(scale, axis=3)
    high, wide = high * scale, wide * scale
    sheet = np.full(
        (channels, rows * (high + _GAP) + _GAP, columns * (wide + _GAP) + _GAP), _BACKGROUND, dtype=np.uint8
    )
    for i, one in enumerate(pixels):
        top, left = i // columns * (high + _GAP) + _GAP, i % columns * (wide + _GAP) + _GAP
        sheet[:, top : top + high, left : left + wide] = one
    return picture(sheet)


def film(frames: Sequence[Image.Image], path: str, seconds: float = 4.0, hold: float = 2.0) -> None:
    """Writes frames as a looping film, .webp or .gif by the path's ending; the last frame is held."""
    milliseconds = [max(20, round(1000 * seconds / len(frames)))] * len(frames)
    milliseconds[-1] = round(1000 * hold)
    options: dict[str, Any] = {"quality": 80, "method": 2} if path.endswith(".webp") else {}
    colour = [frame.convert("RGB") for frame in frames]
    colour[0].save(path, save_all=True, append_images=colour[1:], duration=milliseconds, loop=0, **options)
