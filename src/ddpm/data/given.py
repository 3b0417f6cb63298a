"""A picture given by hand, and the part of it that is to be painted anew, as a model takes them.

A mask is white where the picture is painted anew and black where it is kept; what is transparent in it is kept.
It is brought to the model's size by the picture's own rules and then cut at half of white, so that every pixel is
one or the other. So that it lies where it was drawn, it has the proportions of the picture as it was given, or is
of the model's own size. In its place may stand

    left, right, top, bottom     that half of the model's picture
    centre                       the middle half of its height and width
    box:X,Y,W,H                  a rectangle, in shares of width and height from the upper left corner

and a pixel belongs to an area that its own middle lies in. Without a mask the transparency of the picture is one:
what is less than half opaque is painted anew, and all else keeps its colour, with nothing of a background in it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, UInt8
from PIL import Image

from ddpm.config import DataConfig
from ddpm.data import decode
from ddpm.data.smaller import made_small
from ddpm.draw import picture
from ddpm.errors import UserError

Given: TypeAlias = npt.NDArray[Any] | Image.Image
Pixels: TypeAlias = UInt8[np.ndarray, "C H W"]
Mask: TypeAlias = Bool[np.ndarray, "H W"]

# x, y, width, height, in shares
AREAS = {
    "left": (0.0, 0.0, 0.5, 1.0),
    "right": (0.5, 0.0, 0.5, 1.0),
    "top": (0.0, 0.0, 1.0, 0.5),
    "bottom": (0.0, 0.5, 1.0, 0.5),
    "centre": (0.25, 0.25, 0.5, 0.5),
}
_BOX, _HALF = "box:", 128


def brought(image: Given, to: DataConfig, name: str) -> Pixels:
    """uint8 [C, H, W] of the size and channels the model was trained at, of a picture or uint8 [C, H, W] of any.

    By the rules of `data.decode`, as the model's data was; the crop random cuts from the centre.
    """
    return _fitted(_opened(image, name), to, to.channels, to.background, name)


def brought_small(image: Given, to: DataConfig, name: str) -> Pixels:
    """uint8 [C, h, w] as an upsampler takes it.

    A picture of its small size is left as it is; any other is made small as those were that it was trained on,
    from its large size.
    """
    source = _opened(image, name)
    if decode.seen(source) == to.small:
        return brought(source, replace(to, size=to.small), name)
    whole = brought(source, to, name)
    small: Pixels = made_small(whole[None], to.small)[0]
    return small


def parted(
    image: Given,
    mask: Given | str | None,
    to: DataConfig,
    name: str = "the picture",
    mask_name: str = "the mask",
    invert: bool = False,
) -> tuple[Pixels, Mask]:
    """The picture as the model takes it, and where it is painted anew.

    mask: a picture, uint8 [C, H, W], an area's name, or bool [H, W] of the model's own size; None for the
    picture's own transparency. invert: paint what else would be kept. UserError unless something is painted.
    """
    source = _opened(image, name)
    if mask is None:
        pixels, hole = _by_transparency(source, to, name)
    else:
        pixels = _fitted(source, to, to.channels, to.background, name)
        hole = _hole(mask, source, to, name, mask_name, invert)
    hole = ~hole if invert else hole
    if not hole.any():
        raise UserError(
            f"{name if mask is None else mask_name}: leaves nothing to paint; "
            + ("leave out --invert" if invert else "--invert paints what it keeps")
        )
    return pixels, hole


def is_area(text: str) -> bool:
    """Whether it is meant as an area's name, or a box."""
    return text in AREAS or text.startswith(_BOX)


def area(text: str, size: tuple[int, int]) -> Mask:
    """The pixels of a named area, or of a box; UserError for what is neither."""
    x, y, width, height = _box(text) if text.startswith(_BOX) else _named(text)
    rows, columns = ((np.arange(count) + 0.5) / count for count in size)
    down, across = (rows >= y) & (rows < y + height), (columns >= x) & (columns < x + width)
    made: Mask = down[:, None] & across
    if not made.any():
        raise UserError(f"--mask {text}: holds no pixel's middle of {size[0]} x {size[1]}; take a larger one")
    return made


def _named(text: str) -> tuple[float, float, float, float]:
    if text in AREAS:
        return AREAS[text]
    near = difflib.get_close_matches(text, AREAS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        f"--mask {text}: no such picture or area; {hint}give a picture that is white where to paint, "
        f"{', '.join(AREAS)}, or box:X,Y,W,H in shares of width and height, as box:0.25,0.5,0.5,0.5"
    )


def _box(text: str) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = (float(part) for part in text.removeprefix(_BOX).split(","))
    except ValueError:
        raise UserError(f"--mask {text}: takes four numbers, X,Y,W,H, as box:0.25,0.5,0.5,0.5") from None
    if not (0.0 <= x < 1.0 and 0.0 <= y < 1.0 and 0.0 < width <= 1.0 and 0.0 < height <= 1.0):
        raise UserError(f"--mask {text}: X, Y, W and H are shares of width and height, from 0 to 1")
    return x, y, width, height


def _hole(mask: Given | str, source: Image.Image, to: DataConfig, name: str, mask_name: str, invert: bool) -> Mask:
    """Where a mask is white; before it is inverted, if it will be."""
    if isinstance(mask, str):
        return area(mask, to.size)
    if isinstance(mask, np.ndarray) and mask.dtype == np.bool_:
        if mask.shape != to.size:
            raise UserError(f"{mask_name}: bool {list(mask.shape)}; the model takes {list(to.size)}")
        return mask
    drawn = _opened(mask, mask_name)
    (high, wide), (h, w) = decode.seen(source), decode.seen(drawn)
    # the same proportions, but for the rounding of the smaller one's sides
    if (h, w) != to.size and abs(h * wide - w * high) > max(high, wide, h, w):
        raise UserError(
            f"{mask_name}: is {h} x {w} (height x width), and {name} {high} x {wide}; give a mask of its "
            f"proportions, or of the model's {to.size[0]} x {to.size[1]}"
        )
    # what is transparent is put on the grey that keeps
    white: Mask = _fitted(drawn, to, 1, "white" if invert else "black", mask_name)[0] >= _HALF
    return white


def _by_transparency(source: Image.Image, to: DataConfig, name: str) -> tuple[Pixels, Mask]:
    """Colours as they are, and where there are none."""
    if to.channels == 4:
        raise UserError(
            f"--mask: the model draws transparency itself, so that of {name} is no mask; give one, as "
            "--mask centre"
        )
    if not source.has_transparency_data:
        raise UserError(
            f"--mask: {name} has no transparency that could be one; give a picture that is white where to paint, "
            "or an area, as --mask centre"
        )
    with _decoding(name):
        whole = decode.flat(decode.upright(source), 4)
    opaque = _fitted(whole.getchannel("A"), to, 1, "white", name)[0]  # what is added by padding is kept
    colours = _fitted(whole, to, 4, to.background, name)[:3]
    pixels = colours if to.channels == 3 else np.asarray(picture(colours).convert("L"))[None]
    return pixels, opaque < _HALF


def _opened(image: Given, name: str) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if image.dtype != np.uint8 or image.ndim != 3 or len(image) not in (1, 3, 4) or not image.size:
        raise UserError(
            f"{name}: an array of {image.dtype} {list(image.shape)}; takes uint8 [C, H, W] with 1, 3 or 4 "
            "channels, or a Pillow picture"
        )
    return picture(image)


def _fitted(image: Image.Image, to: DataConfig, channels: int, background: str, name: str) -> Pixels:
    crop = "centre" if to.crop == "random" else to.crop
    with _decoding(name):
        made: Pixels = decode.fit(image, decode.Fit(to.size, channels, crop, background))
    return made


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # PIL's readers raise almost anything for a broken file
        raise UserError(f"{name}: cannot be decoded ({decode.reason(error)}); give another picture") from None
