"""Arrays of uint8 pixels [N, C, H, W] as pictures: single ones, grids, and films of grids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 2
_BACKGROUND = 255


def picture(pixels: np.ndarray) -> Image.Image:
    """One picture of uint8 pixels [C, H, W]: grey, colour, or colour with transparency."""
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


def enlarged(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pictures [N, C, h, w] at a larger size (H, W), each pixel as a rectangle."""
    (height, width), (h, w) = size, pixels.shape[2:]
    made: np.ndarray = pixels[:, :, np.arange(height)[:, None] * h // height, np.arange(width) * w // width]
    return made


def opaque(image: Image.Image) -> Image.Image:
    """In colour, what is transparent on white."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    sheet = Image.new("RGBA", image.size, (_BACKGROUND,) * 4)
    sheet.alpha_composite(image)
    return sheet.convert("RGB")


def beside(images: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Pictures next to each other, each under its caption."""
    font, gap, line = ImageFont.load_default(14), 12, 26
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    sheet = Image.new("RGB", (width, line + max(image.height for image in images)), (_BACKGROUND,) * 3)
    pen, left = ImageDraw.Draw(sheet), 0
    for image, caption in zip(images, captions, strict=True):
        pen.text((left + _GAP, 5), caption, (70, 70, 70), font)
        sheet.paste(opaque(image), (left, line))
        left += image.width + gap
    return sheet


def film(frames: Sequence[Image.Image], path: str, seconds: float = 4.0, hold: float = 2.0) -> None:
    """Writes frames as a looping film, .webp or .gif by the path's ending; the last frame is held."""
    milliseconds = [max(20, round(1000 * seconds / len(frames)))] * len(frames)
    milliseconds[-1] = round(1000 * hold)
    options: dict[str, Any] = {"quality": 80, "method": 2} if path.endswith(".webp") else {}
    colour = [opaque(frame) for frame in frames]
    colour[0].save(path, save_all=True, append_images=colour[1:], duration=milliseconds, loop=0, **options)
