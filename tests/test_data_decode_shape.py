"""Crops, backgrounds and kept transparency, by position and by colour."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ddpm.data import decode
from ddpm.data.decode import Crop, Fit
from ddpm.errors import UserError
from raster import png

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
SIDES = st.integers(1, 3000)


def fitted(image: Image.Image, to: Fit) -> np.ndarray:
    """[H, W, C]"""
    return decode.fit(image, to).transpose(1, 2, 0).astype(np.float64)


def ramp(h: int, w: int) -> Image.Image:
    """Red rises along a row, green along a column: a pixel tells where it comes from."""
    x, y = np.meshgrid(np.arange(w), np.arange(h))
    return Image.fromarray(np.dstack([x, y, 0 * x + 90]).astype(np.uint8))


def at(count: int, scale: float) -> np.ndarray:
    """Where the centres of scaled pixels lie in the picture they come from."""
    return (np.arange(count) + 0.5) / scale - 0.5


def near(out: np.ndarray, x: np.ndarray, y: np.ndarray) -> bool:
    """Away from the picture's own edge, where the filter leans inwards."""
    inner = slice(2, -2)
    return bool(
        np.abs(out[..., 0] - x)[:, inner].max() <= 0.75 and np.abs(out[..., 1] - y[:, None])[inner].max() <= 0.75
    )


# -- pad ---------------------------------------------------------------------------------------------------


def test_pad_without_scaling_is_exact() -> None:
    out = fitted(Image.fromarray(RGB), Fit((5, 10), 3, "pad", "#102030"))
    np.testing.assert_array_equal(out[:, 1:8], RGB)
    for side in (out[:, :1], out[:, 8:]):  # one column before, two behind
        assert (side == [16, 32, 48]).all()
    out = fitted(Image.fromarray(RGB), Fit((7, 7), 3, "pad"))
    np.testing.assert_array_equal(out[1:6], RGB)
    assert (out[[0, 6]] == 255).all()


@pytest.mark.parametrize(
    ("size", "scale", "top", "left", "inside"),
    [
        ((60, 60), 0.5, 15, 0, (30, 60)),  # wide into square
        ((30, 80), 0.5, 0, 10, (30, 60)),  # wide into wider
        ((120, 300), 2.0, 0, 30, (120, 240)),  # enlarged
        ((20, 20), 1 / 6, 5, 0, (10, 20)),
    ],
)
def test_pad_scales_to_fit_inside(
    size: tuple[int, int], scale: float, top: int, left: int, inside: tuple[int, int]
) -> None:
    out = fitted(ramp(60, 120), Fit(size, 3, "pad", "blue"))
    assert out.shape == (*size, 3)
    (h, w) = inside
    assert near(out[top : top + h, left : left + w], at(w, scale), at(h, scale))
    frame = np.ones(size, bool)
    frame[top : top + h, left : left + w] = False
    assert (out[frame] == [0, 0, 255]).all()
    assert (np.abs(out[~frame][:, 2] - 90) <= 1).all()


def test_pad_of_grey_and_of_transparency() -> None:
    grey = Image.fromarray(RGB[..., 0])
    out = fitted(grey, Fit((7, 7), 1, "pad", "#ff0000"))
    np.testing.assert_array_equal(out[1:6, :, 0], RGB[..., 0])
    assert (np.abs(out[[0, 6]] - 0.299 * 255) <= 0.5).all()  # ITU-R 601-2
    out = fitted(Image.fromarray(np.dstack([RGB, ALPHA])), Fit((7, 7), 4, "pad", "#102030"))
    np.testing.assert_array_equal(out[1:6], np.dstack([RGB, ALPHA]))
    assert (out[[0, 6]] == [16, 32, 48, 0]).all()
    out = fitted(Image.fromarray(RGB), Fit((7, 7), 4, "pad"))
    np.testing.assert_array_equal(out[1:6], np.dstack([RGB, np.full((5, 7), 255)]))


def test_pad_of_a_thread_keeps_a_pixel() -> None:
    out = fitted(Image.new("RGB", (1000, 1), "red"), Fit((8, 8), 3, "pad", "blue"))
    assert (out == [255, 0, 0]).all(-1).sum() == 8
    assert (out == [0, 0, 255]).all(-1).sum() == 56


# -- none --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(30, 30), (60, 60), (120, 120), (20, 200)])
def test_none_stretches(size: tuple[int, int]) -> None:
    out = fitted(ramp(60, 120), Fit(size, 3, "none"))
    assert out.shape == (*size, 3)
    assert near(out, at(size[1], size[1] / 120), at(size[0], size[0] / 60))


# -- random ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "shape"),
    [
        ((800, 800), (72, 72)),  # 9/8
        ((800, 1600), (72, 144)),
        ((1600, 800), (144, 72)),
        ((64, 64), (64, 64)),  # just so: nothing to choose from
        ((70, 140), (70, 140)),  # between 1 and 9/8: as it is
        ((72, 72), (72, 72)),
        ((32, 64), (64, 128)),  # too small: enlarged to cover, not beyond
    ],
)
def test_random_gives_the_whole_picture_to_cut_from(seen: tuple[int, int], shape: tuple[int, int]) -> None:
    assert decode.window_shape(seen, (64, 64)) == shape
    assert fitted(Image.new("RGB", seen[::-1]), Fit((64, 64), 3, "random")).shape == (*shape, 3)


@given(height=SIDES, width=SIDES, h=SIDES, w=SIDES)
def test_random_leaves_room_for_a_window_and_keeps_the_shape(height: int, width: int, h: int, w: int) -> None:
    high, wide = decode.window_shape((height, width), (h, w))
    assert high >= h and wide >= w
    cover = max(h / height, w / width)
    assert high <= max(1.0, cover) * height + 0.5 and wide <= max(1.0, cover) * width + 0.5
    assert min(high / h, wide / w) <= 9 / 8 + 0.5 / min(h, w)
    assert abs(high / height - wide / width) <= 0.51 / height + 0.51 / width  # but for rounding to whole pixels
    if cover <= 8 / 9:
        assert min(high / h, wide / w) >= 9 / 8 - 0.5 / min(h, w)


def test_random_content() -> None:
    out = fitted(ramp(60, 120), Fit((20, 20), 3, "random"))
    assert out.shape == (22, 45, 3)
    assert near(out, at(45, 45 / 120), at(22, 22 / 60))
    np.testing.assert_array_equal(fitted(Image.fromarray(RGB), Fit((5, 7), 3, "random")), RGB)
    np.testing.assert_array_equal(fitted(Image.fromarray(RGB), Fit((5, 5), 3, "random")), RGB)


# -- JPEG decoded at a fraction ----------------------------------------------------------------------------


def jpeg(image: Image.Image, orientation: int = 1) -> Image.Image:
    stream, tags = io.BytesIO(), Image.Exif()
    tags[0x0112] = orientation
    image.save(stream, "JPEG", exif=tags, quality=95)
    return Image.open(io.BytesIO(stream.getvalue()))


@pytest.mark.parametrize(
    ("crop", "decoded"),
    [
        ("centre", (200, 400)),  # covered by 120 x 240; at an eighth that would be 100 x 200
        ("random", (200, 400)),  # 135 x 270
        ("pad", (100, 200)),  # 15 x 30
        ("none", (200, 400)),  # 120 x 30: the height needs it
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_jpeg_is_decoded_no_larger_than_useful(crop: Crop, decoded: tuple[int, int], turned: bool) -> None:
    stored = (1600, 800) if turned else (800, 1600)
    image = jpeg(Image.new("RGB", stored[::-1]), 6 if turned else 1)
    decode.fit(image, Fit((120, 30), 3, crop))
    assert image.size[::-1] == (decoded[::-1] if turned else decoded)


def test_shape_for_random_is_that_of_the_whole_jpeg() -> None:
    """A fraction of it has rounded sides, whose shape is another."""
    for sides in ((1003, 2001), (1001, 1009), (2047, 999)):
        out = decode.fit(jpeg(Image.new("L", sides[::-1])), Fit((32, 32), 1, "random"))
        assert out.shape[1:] == decode.window_shape(sides, (32, 32))


@pytest.mark.parametrize("crop", ["pad", "none", "random"])
def test_large_turned_jpeg(crop: Crop) -> None:
    """Red above, black below as seen; stored lying on its side."""
    stored = np.zeros((400, 1600, 3), np.uint8)
    stored[:, :800, 0] = 255  # orientation 6: the first columns are the top
    out = fitted(jpeg(Image.fromarray(stored), 6), Fit((40, 40), 3, crop, "blue"))
    high = out.shape[0]
    assert out.shape == ({"random": 180}.get(crop, 40), {"random": 45}.get(crop, 40), 3)
    middle = out[:, out.shape[1] // 2]
    assert (middle[: high // 2 - 2, 0] > 245).all() and (middle[high // 2 + 2 :, 0] < 10).all()
    assert (middle[:, 2] < 12).all()
    if crop == "pad":  # 40 x 10 in the middle
        assert (out[:, :15] == [0, 0, 255]).all() and (out[:, 25:] == [0, 0, 255]).all()


# -- orientation of TIFF, which PIL turns by itself --------------------------------------------------------


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, lambda u: u),
        (2, lambda u: u[:, ::-1]),
        (3, lambda u: u[::-1, ::-1]),
        (4, lambda u: u[::-1]),
        (5, lambda u: u.swapaxes(0, 1)),
        (6, lambda u: np.rot90(u, 1)),
        (7, lambda u: u[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda u: np.rot90(u, -1)),
    ],
)
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_tiff_is_turned_once(
    orientation: int, stored: Callable[[np.ndarray], np.ndarray], compression: str
) -> None:
    stream, tags = io.BytesIO(), Image.Exif()
    tags[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(stored(RGB)))
    picture.save(stream, "TIFF", exif=tags, compression=compression)

    def opened() -> Image.Image:
        return Image.open(io.BytesIO(stream.getvalue()))

    image = opened()
    assert decode.seen(image) == (5, 7)
    np.testing.assert_array_equal(decode.raw(image), RGB)
    assert decode.seen(image) == (5, 7)
    np.testing.assert_array_equal(fitted(opened(), Fit((5, 7), 3)), RGB)
    assert decode.fit(opened(), Fit((10, 10), 3, "random")).shape == (3, 10, 14)


def test_exif_behind_the_pixels_of_a_png() -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    chunk = b"eXIf" + tags.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    whole = png(np.ascontiguousarray(np.rot90(RGB, 1)))
    data = whole[:-12] + chunk + whole[-12:]
    for crop in ("centre", "random", "pad", "none"):
        out = fitted(Image.open(io.BytesIO(data)), Fit((5, 7), 3, crop))  # type: ignore[arg-type]
        np.testing.assert_array_equal(out, RGB)


# -- colour behind, and transparency kept ------------------------------------------------------------------


def test_transparency_goes_on_the_background() -> None:
    share = ALPHA[..., None] / 255.0
    for name, colour in (
        ("#102030", [16, 32, 48]),
        ("Red", [255, 0, 0]),
        ("grey", [128] * 3),
        ("#fff", [255] * 3),
    ):
        out = fitted(Image.fromarray(np.dstack([RGB, ALPHA])), Fit((5, 7), 3, background=name))
        assert np.abs(out - (RGB * share + np.array(colour) * (1 - share))).max() <= 1


def test_opaque_pictures_get_an_alpha_of_255() -> None:
    for mode in ("1", "L", "P", "RGB", "CMYK"):
        image = Image.fromarray(RGB).convert(mode)
        expected = np.dstack([np.asarray(image.convert("RGB")), np.full((5, 7), 255)])
        np.testing.assert_array_equal(fitted(image, Fit((5, 7), 4)), expected)


def test_kept_transparency_is_untouched_at_the_right_size() -> None:
    picture = np.dstack([RGB, ALPHA])
    picture[0, :, 3] = 0  # even colours that nobody sees
    for crop in ("centre", "random", "pad", "none"):
        np.testing.assert_array_equal(fitted(Image.fromarray(picture), Fit((5, 7), 4, crop)), picture)  # type: ignore[arg-type]
    np.testing.assert_array_equal(fitted(Image.fromarray(picture), Fit((5, 3), 4)), picture[:, 2:5])


@pytest.mark.parametrize("crop", ["centre", "random", "pad", "none"])
@pytest.mark.parametrize("sides", [(64, 96), (1000, 700), (7, 5)])
def test_no_colour_bleeds_from_where_nothing_is_seen(crop: Crop, sides: tuple[int, int]) -> None:
    picture = np.zeros((*sides, 4), np.uint8)
    picture[..., 1] = 255  # green, unseen
    picture[: sides[0] // 2] = [255, 0, 0, 255]
    picture[:, : sides[1] // 3] = [255, 0, 0, 255]
    out = fitted(Image.fromarray(picture), Fit((16, 16), 4, crop, "#0000ff"))
    alpha = out[..., 3]
    assert (alpha == 255).any() and (alpha == 0).any()
    assert (out[alpha == 0] == [0, 0, 255, 0]).all()
    assert (out[alpha > 0][:, :3] == [255, 0, 0]).all()


@pytest.mark.parametrize("size", [(16, 16), (20, 9), (150, 150)])
def test_kept_and_then_put_on_a_colour_is_the_same_as_put_at_once(size: tuple[int, int]) -> None:
    y, x = np.mgrid[:90, :120]
    picture = np.dstack([x * 2, y * 2, 255 - x, (np.hypot(x - 60, y - 45) * 3).clip(0, 255)]).astype(np.uint8)
    kept = fitted(Image.fromarray(picture), Fit(size, 4))
    share = kept[..., 3:] / 255
    at_once = fitted(Image.fromarray(picture), Fit(size, 3, background="#408000"))
    assert np.abs(kept[..., :3] * share + np.array([64, 128, 0]) * (1 - share) - at_once).max() <= 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("whit", "--background whit: not a colour: give a name such as white, or #rrggbb; did you mean white?"),
        ("#12345", "--background #12345: not a colour: give a name such as white, or #rrggbb"),
        ("", "--background : not a colour: give a name such as white, or #rrggbb"),
        ("#10203040", "--background #10203040: has transparency: give a colour without, a name or #rrggbb"),
    ],
)
def test_colours_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        decode.colour(text)
    assert str(caught.value) == message
    assert decode.colour("#a0B1c2") == (160, 177, 194)
    options: dict[str, Any] = {"background": text}
    with pytest.raises(UserError):
        decode.fit(Image.fromarray(np.dstack([RGB, ALPHA])), Fit((5, 7), 3, **options))
