"""One picture of any kind -> uint8 [C, H, W] of the size and channels asked for.

upright -> flat (8 bits; grey, RGB or RGBA) -> brought to the shape. A picture that needs none of the three passes
through bit by bit. The rules, in full:

- Kinds: JPEG, PNG, WebP, GIF, BMP and TIFF, known by their content, whatever the name says. Of several frames or
  pages the first counts. Broken and truncated files are errors, and bombs: more than 2^28 pixels, or than 2^26 in
  less than a byte for a thousand; more than 2^20 a side; JPEGs of more than 100 passes. Whoever reads many counts
  them and lists them by name. At most 2^28 pixels are decoded at a time: large pictures wait for each other.
- Upright: turned as EXIF says.
- 8 bits: 16-bit values are divided by 257 and rounded (colour: PIL keeps the high byte, at most 1 off), 12-bit
  ones likewise, the same for every picture: nothing is stretched to its own darkest and lightest. Floats must
  lie in 0 ... 1 and are multiplied by 255; integers of 32 bits must lie in 0 ... 65535 and are taken for 16 bits.
- Colour: palettes are looked up; CMYK becomes RGB by (1 - C)(1 - K), also where Adobe wrote it inverted; LAB and
  YCbCr by their definitions. Colour profiles are not applied. Grey from colour is ITU-R 601 luma. Unless told
  otherwise, a set is grey if every picture looked at is, and colour else.
- Transparency: with 1 or 3 channels the picture is put on the background (white unless told otherwise). With 4 it
  is kept; pictures without any are opaque. Resizing weighs colours by alpha, so that none bleeds from where
  nothing is seen; pixels that are wholly transparent after it take the background's colour.
- Filter: bicubic where a picture shrinks, Lanczos where it grows. A JPEG that shrinks twice or more is first
  scaled by its decoder to 1/2, 1/4 or 1/8, as far as it stays no smaller than wanted. On photographs that is
  nearer to a Lanczos filter of all pixels than a bilinear one of all pixels is, and faster
  (`benchmarks/data.py --fidelity`).
- Shape: "centre" scales as little as covers the size and cuts to it from the centre; "pad" scales to fit inside
  and fills up with the background on both sides alike (with 4 channels transparent); "none" stretches; "random"
  gives the whole picture, some of which is larger than the size, to be cut at random later: see `window_shape`.
"""

from __future__ import annotations

import difflib
import errno
import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, UnidentifiedImageError

from ddpm.data import bounds
from ddpm.errors import UserError, printable

# What a file may turn out to be whatever its name says; the list keeps PIL's less careful readers out.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# Photographs of 200 million pixels exist, and take up to 4 GB to decode. PIL's own limit is lower.
_MOST_PIXELS = 1 << 28
if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, _MOST_PIXELS)
# PIL warns of what it makes do with in a file, and of what it then fails at anyway: without the picture's name.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Nobody's picture is that large and that empty, but each of a thousand bombs could be.
_BOMB_PIXELS, _BOMB_PIXELS_A_BYTE = 1 << 26, 1000
_LONGEST_SIDE = 1 << 20  # a thread of pixels takes a hundred times as long as a square of them
_JPEG, _PASS = b"\xff\xd8\xff", np.frombuffer(b"\xff\xda", np.uint16)[0]  # how a JPEG begins, and a pass in it
_MOST_PASSES = 100  # ten are usual; each is one over all pixels, in a hundred bytes of the file

# Troubles of the machine, not of a picture: read another time it may be whole.
_PASSING = {
    *(errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENODEV, errno.ENXIO),
    errno.ETIMEDOUT,
}

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
# Tags of TIFF 6.0.
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _PLANES = 256, 257, 258, 262, 277, 284

_BAND = 1 << 22  # pixels that are scaled at a time
_GREY = ("1", "L", "LA", "La", "I", "F")
_MARGIN = 9 / 8

_LARGEST_WINDOW, _LONGEST_WINDOW = 1 << 24, 64  # pixels, and times as many as are cut from it
_LONGEST_REASON = 300

Crop = Literal["centre", "random", "pad", "none"]


@contextmanager
def opened(file: io.BufferedReader | io.BytesIO) -> Iterator[Image.Image]:
    """The picture in a file, not yet decoded; raises what PIL raises, and for bombs."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    data = b""
    if file.read(len(_JPEG)) == _JPEG:
        file.seek(0)
        data = file.read(size)  # in one piece: the passes are counted in it, and PIL asks for it bit by bit
        file = io.BytesIO(data)
    file.seek(0)
    with Image.open(file, formats=FORMATS) as image:
        pixels = image.width * image.height
        most = min(_MOST_PIXELS, max(_BOMB_PIXELS, _BOMB_PIXELS_A_BYTE * size))
        if pixels > most or max(image.size) > _LONGEST_SIDE:
            raise Image.DecompressionBombError(f"{pixels:,} pixels in {size:,} bytes")
        if (passes := _passes(data)) > _MOST_PASSES:
            raise ValueError(f"a JPEG of {passes:,} passes, which takes as many times as long: save it again")
        yield image


def _passes(jpeg: bytes) -> int:
    """How many passes over its pixels a JPEG has at the most: the marks of their beginnings, FF DA.

    Two bytes at a time, from the first and from the second on: a fifth of what bytes.count takes.
    """
    return sum(
        int(np.count_nonzero(np.frombuffer(jpeg, np.uint16, (len(jpeg) - first) // 2, first) == _PASS))
        for first in range(min(2, len(jpeg)))
    )


@dataclass(frozen=True)
class Fit:
    """What pictures are brought to: size (h, w), channels, and how, where their shape is another."""

    size: tuple[int, int]
    channels: int
    crop: Crop = "centre"
    background: str = "white"


def colour(text: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a colour's name or #rrggbb; UserError for anything else."""
    try:
        rgb = ImageColor.getrgb(text)
    except ValueError:
        near = difflib.get_close_matches(text.lower(), ImageColor.colormap, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(
            f"--background {text}: not a colour: give a name such as white, or #rrggbb{hint}"
        ) from None
    if len(rgb) != 3:
        raise UserError(f"--background {text}: has transparency: give a colour without, a name or #rrggbb")
    return rgb


def window_shape(seen: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of what `fit` gives for the crop random: the whole of a picture that is seen as (h, w).

    It is scaled to 9/8 of the least that covers the size, so that there is something to choose from, but never
    enlarged for that: a picture between 1 and 9/8 of the size keeps its own, a smaller one is enlarged to cover.
    """
    (height, width), (h, w) = seen, size
    cover = max(h / height, w / width)
    scale = min(_MARGIN * cover, max(1.0, cover))
    return max(h, round(scale * height)), max(w, round(scale * width))


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF fails in a dozen ways, and the pixels may still be good
        return 1
    return value if value in _TURNS else 1


def seen(image: Image.Image) -> tuple[int, int]:
    """(h, w) of a picture not yet decoded, as it is meant to be seen; no pixel is decoded."""
    width, height = image.size
    if image.format == "TIFF" and _tiles(image):  # versions of PIL differ in whether this is turned already
        width, height = _tag(image, _WIDTH, width), _tag(image, _HEIGHT, height)
    # PIL would decode a PNG to the end to look for EXIF behind its pixels.
    knows = image.format != "PNG" or "exif" in image.info
    return (width, height) if knows and orientation(image) >= 5 else (height, width)


def upright(image: Image.Image) -> Image.Image:
    """The picture as it is meant to be seen."""
    _load(image)  # turns a TIFF; and to look for the EXIF of a PNG would hide that it is broken
    turn = _TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def grey(image: Image.Image) -> bool:
    """Whether a picture not yet decoded is without colour, by its mode or its palette."""
    if image.mode in ("P", "PA") and image.palette is not None:
        probe = Image.new("P", (1, 1))
        probe.putpalette(image.palette.getdata()[1], image.palette.getdata()[0])
        red, green, blue = np.array(probe.getpalette("RGB"), np.uint8).reshape(-1, 3).T
        return bool((red == green).all() and (green == blue).all())
    # PIL opens 16 bits of grey with alpha as RGBA.
    return image.mode in _GREY or image.mode.startswith("I;") or _layout(image).startswith("LA;")


def kind(image: Image.Image) -> str:
    """The mode of a picture not yet decoded, in words: "grey", "16-bit colour with transparency", ..."""
    word = "grey" if grey(image) else "colour" if image.mode.startswith(("RGB", "P")) else image.mode
    if image.mode in ("P", "PA"):
        word += " palette"
    elif image.mode == "1":
        word = "1-bit"
    depth = "16-bit " if _deep(image) else {"F": "float ", "I": "32-bit "}.get(image.mode, "")
    return depth + word + (" with transparency" if image.has_transparency_data else "")


def flat(image: Image.Image, channels: int | None, background: str = "white") -> Image.Image:
    """Mode L (channels 1), RGB (3), RGBA (4), or with None whichever of these loses nothing but depth.

    Transparency is put on the background, unless it is kept. The picture must be upright and, if it comes from
    a file, be the opened one or made of it.
    """
    if channels is None:
        channels = 4 if image.has_transparency_data else 1 if grey(image) else 3
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        if image.mode != "RGBA":  # or PIL would copy it
            image = image.convert("RGBA")
        if channels != 4:
            below = Image.new("RGBA", image.size, colour(background))
            below.alpha_composite(image)
            image = below
    if channels == 4 and image.mode not in ("L", "RGBA"):
        image = image.convert("RGB")  # few modes become RGBA at once
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    return image if image.mode == mode else image.convert(mode)


def cover(image: Image.Image, size: tuple[int, int], background: str = "white") -> Image.Image:
    """Scaled, as little as covers (h, w), and cut to it from the centre."""
    (h, w), (width, height) = size, image.size
    if (width, height) == (w, h):
        return image
    scale = max(w / width, h / height)
    if scale == 1.0:  # cut at whole pixels: nothing to resample
        left, top = (width - w) // 2, (height - h) // 2
        return image.crop((left, top, left + w, top + h))
    x, y = max(0.0, (width - w / scale) / 2), max(0.0, (height - h / scale) / 2)
    box = (x, y, min(float(width), x + w / scale), min(float(height), y + h / scale))
    return _resized(image, size, background, box)


def pad(image: Image.Image, size: tuple[int, int], background: str = "white") -> Image.Image:
    """The whole picture, scaled to fit into (h, w), on the background; with mode RGBA on transparency."""
    (h, w), (width, height) = size, image.size
    scale = min(w / width, h / height)
    inside = max(1, min(h, round(scale * height))), max(1, min(w, round(scale * width)))
    image = _resized(image, inside, background)
    if inside == size:
        return image
    canvas = Image.new("RGB", (w, h), colour(background)).convert(image.mode)
    if image.mode == "RGBA":
        canvas.putalpha(0)
    canvas.paste(image, ((w - inside[1]) // 2, (h - inside[0]) // 2))
    return canvas


def fit(image: Image.Image, to: Fit) -> npt.NDArray[np.uint8]:
    """uint8 [C, h, w] of the size; for the crop random of `window_shape`. Raises what PIL raises if broken."""
    jpeg, here = image.format in ("JPEG", "MPO"), seen(image)
    if jpeg:
        _draft(image, here, to)
    with bounds.decoding.taken(image.width * image.height):
        image = upright(image)
        if not jpeg:  # a PNG may have its EXIF behind its pixels
            here = image.height, image.width
        image = flat(image, to.channels, to.background)
        if to.crop == "centre":
            image = cover(image, to.size, to.background)
        elif to.crop == "pad":
            image = pad(image, to.size, to.background)
        elif to.crop == "random":
            image = _resized(image, _checked_window(here, to.size), to.background)
        else:
            image = _resized(image, to.size, to.background)
        pixels = np.asarray(image)
    return pixels[None] if to.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _checked_window(seen: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """The shape that windows are cut from; ValueError for a thread that would be enlarged to a wide band."""
    shape = window_shape(seen, size)
    if math.prod(shape) > max(_LARGEST_WINDOW, _LONGEST_WINDOW * math.prod(size)):
        raise ValueError(f"too long and thin to cut windows from ({seen[0]} x {seen[1]}): cut it yourself")
    return shape


def raw(image: Image.Image) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, C] at full size, upright, C = 1 (grey), 3 (RGB) or 4 (RGBA)."""
    with bounds.decoding.taken(image.width * image.height):
        pixels = np.asarray(flat(upright(image), None))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def reason(error: Exception) -> str:
    """Why a picture could not be decoded, in one line without addresses of objects or paths of files."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a known format"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return "too many pixels to decode: make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return printable(" ".join(str(error).split()) or type(error).__name__)[:_LONGEST_REASON]


def fault(error: Exception, name: str) -> str:
    """The reason, where it lies in the picture called `name`, which is then left out; else raises UserError.

    A disk that is gone or memory that is full says nothing of the picture, and a UserError speaks of its source.
    """
    if isinstance(error, UserError):
        raise error
    if isinstance(error, MemoryError):
        raise UserError(f"{name}: cannot be read now (out of memory): free some, and start again") from None
    if isinstance(error, OSError) and error.errno in _PASSING:
        raise UserError(f"{name}: cannot be read now ({reason(error)}): check the disk, and start again") from None
    return reason(error)


def _draft(image: Image.Image, seen: tuple[int, int], to: Fit) -> None:
    """Has libjpeg decode at 1/2, 1/4 or 1/8, to no less than the size wanted; the resize does the rest."""
    height, width = seen
    h, w = window_shape(seen, to.size) if to.crop == "random" else to.size
    high, wide = h / height, w / width
    if to.crop == "centre":
        high = wide = max(high, wide)
    elif to.crop == "pad":
        high = wide = min(high, wide)
    # Rounded first: 32/100 of 100 pixels is 32 and a rounding error, which must not ask for 33.
    least = math.ceil(round(wide * width, 6)), math.ceil(round(high * height, 6))
    image.draft("L" if to.channels == 1 else "RGB", least[::-1] if orientation(image) >= 5 else least)


def _resized(
    image: Image.Image,
    size: tuple[int, int],
    background: str,
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """The box of a picture, or all of it, at (h, w)."""
    h, w = size
    if box is None and image.size == (w, h):
        return image
    clear = image.mode == "RGBA"
    weighted = image.convert("RGBa") if clear else image
    wide, high = image.size if box is None else (box[2] - box[0], box[3] - box[1])
    shrinks = w <= wide and h <= high
    filter_ = Image.Resampling.BICUBIC if shrinks else Image.Resampling.LANCZOS
    # A far larger picture is first averaged down to three times the size (box), then filtered.
    small = weighted.resize((w, h), filter_, box=box, reducing_gap=3.0)
    if not clear:
        return small
    small = small.convert("RGBA")
    hidden = small.getchannel("A").point(lambda alpha: 0 if alpha else 255)
    small.paste((*colour(background), 0), mask=hidden)
    return small


def _eight_bits(image: Image.Image) -> Image.Image:
    """Mode L of 16 or 32 bits or floats (PIL would clip, not scale), or LA where one value is transparent."""
    values = np.asarray(image)
    top = 1.0 if image.mode == "F" else 4095.0 if _tag(image, _BITS, 0) == 12 else 65535.0
    low, high = float(values.min()), float(values.max())
    if not 0.0 <= low <= high <= top:  # not a number is not in order either
        rule = "floats from 0 to 1" if image.mode == "F" else f"whole numbers from 0 to {top:.0f}"
        raise ValueError(f"values from {low:g} to {high:g}: grey pictures of this kind hold {rule}")
    scaled = np.empty(values.shape, np.uint8)
    rows = max(1, _BAND // values.shape[1])
    for row in range(0, len(values), rows):  # or floats of all of them would be in memory
        scaled[row : row + rows] = np.rint(values[row : row + rows] * np.float32(255.0 / top))
    if image.mode != "F" and _tag(image, _PHOTOMETRIC, 1) == 0:  # 0 is white; PIL turns only 8 bits round
        scaled = 255 - scaled
    grey = Image.fromarray(scaled)
    if isinstance(clear := image.info.get("transparency"), int):
        grey.putalpha(Image.fromarray((values != clear).astype(np.uint8) * np.uint8(255)))
    return grey


def _load(image: Image.Image) -> None:
    """Decodes a picture; what PIL does to some files without a word is put right or refused."""
    if _tag(image, _PLANES, 1) == 2 and _tag(image, _SAMPLES, 1) > 1 and _tag(image, _BITS, 8) > 8:
        raise ValueError("16 bits in separate planes: save it with its channels interleaved")
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and _deep(image):  # of 16 bits, for pixels of which PIL keeps 8
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    image.load()


def _deep(image: Image.Image) -> bool:
    """Whether a picture not yet decoded has 16 bits a channel; PIL's mode tells so for grey only."""
    return image.mode.startswith("I;") or _tag(image, _BITS, 8) == 16 or ";16" in _layout(image)


def _layout(image: Image.Image) -> str:
    """How a PNG not yet decoded stores its pixels, in PIL's words, such as RGB;16B; empty for other formats."""
    tiles = _tiles(image)
    return str(tiles[0][3]) if image.format == "PNG" and tiles else ""


def _tiles(image: Image.Image) -> Sequence[Any]:
    """What of a picture's file is still to be decoded."""
    return getattr(image, "tile", ())


def _tag(image: Image.Image, number: int, default: int) -> int:
    """A TIFF's tag, the first of its values; the default for other formats."""
    value = getattr(image, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)
