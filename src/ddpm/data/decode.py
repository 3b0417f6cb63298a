"""One picture of any kind -> uint8 [C, H, W] of the size and channels asked for.

upright (EXIF) -> flat (8 bits, on white, grey or RGB) -> cover (resize and centre crop). A picture that needs
none of the three passes through bit by bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

# What a file may turn out to be whatever its name says; the list keeps PIL's less careful readers out.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


Crop = Literal["centre", "random", "pad", "none"]


@dataclass(frozen=True)
class Fit:
    """What pictures are brought to: size (h, w), channels, and how, where their shape is another."""

    size: tuple[int, int]
    channels: int
    crop: Crop = "centre"
    background: str = "white"


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF fails in a dozen ways, and the pixels may still be good
        return 1
    return value if value in _TURNS else 1


def upright(image: Image.Image) -> Image.Image:
    """The picture as it is meant to be seen."""
    turn = _TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def flat(image: Image.Image, channels: int | None) -> Image.Image:
    """Mode L (channels 1), RGB (3), or with None whichever of L, RGB and RGBA loses nothing but depth.

    Transparency is put on white, unless channels is None.
    """
    if image.mode.startswith("I") or image.mode == "F":
        # PIL clips 16 bits to 8 instead of scaling them.
        deep = np.asarray(image, dtype=np.float64)
        image = Image.fromarray(np.clip(np.rint(deep / 257.0), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if channels is None:
            return image
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    grey = image.mode in ("1", "L") if channels is None else channels == 1
    mode = "L" if grey else "RGB"
    return image if image.mode == mode else image.convert(mode)


def cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scaled, as little as covers (h, w), and cut to it from the centre."""
    (h, w), (width, height) = size, image.size
    if (width, height) == (w, h):
        return image
    scale = max(w / width, h / height)
    if scale == 1.0:  # cut at whole pixels: nothing to resample
        left, top = (width - w) // 2, (height - h) // 2
        return image.crop((left, top, left + w, top + h))
    x, y = max(0.0, (width - w / scale) / 2), max(0.0, (height - h / scale) / 2)
    box = (x, y, min(width, x + w / scale), min(height, y + h / scale))
    # A far larger picture is first averaged down to three times the size (box), then filtered (Lanczos).
    return image.resize((w, h), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def fit(image: Image.Image, to: Fit) -> npt.NDArray[np.uint8]:
    """uint8 [C, H, W]; raises what PIL raises for a broken picture."""
    size, channels = to.size, to.channels
    if image.format in ("JPEG", "MPO"):
        # libjpeg can decode at 1/2, 1/4 or 1/8; twice the size wanted is left for the resize to filter.
        (width, height), turned = image.size, orientation(image) >= 5
        h, w = size[::-1] if turned else size
        scale = max(w / width, h / height)
        wanted = (math.ceil(2 * scale * width), math.ceil(2 * scale * height))
        image.draft("L" if channels == 1 else "RGB", wanted)
    pixels = np.asarray(cover(flat(upright(image), channels), size))
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def raw(image: Image.Image) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, C] at full size, upright, C = 1 (grey), 3 (RGB) or 4 (RGBA)."""
    pixels = np.asarray(flat(upright(image), None))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def reason(error: Exception) -> str:
    """Why a picture could not be decoded, in one line without addresses of objects."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a known format"
    return " ".join(str(error).split()) or type(error).__name__
