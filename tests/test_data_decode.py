"""Pixels are checked by position against numpy, never against PIL's own rotation or resize."""

from __future__ import annotations

import errno
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm.data import decode
from ddpm.data.decode import Fit
from ddpm.errors import UserError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)

# EXIF 2.32, tag 0x0112: where row 0 and column 0 of the stored picture lie in the picture as seen.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda u: u,
    2: lambda u: u[:, ::-1],
    3: lambda u: u[::-1, ::-1],
    4: lambda u: u[::-1],
    5: lambda u: u.swapaxes(0, 1),
    6: lambda u: np.rot90(u, 1),
    7: lambda u: u[::-1, ::-1].swapaxes(0, 1),
    8: lambda u: np.rot90(u, -1),
}


def reopened(image: Image.Image, kind: str, **options: Any) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return Image.open(io.BytesIO(stream.getvalue()))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_orientation(orientation: int, kind: str) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](RGB)))
    image = reopened(stored, kind, exif=exif(orientation), **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(decode.raw(image), RGB)
    np.testing.assert_array_equal(decode.fit(image, Fit((5, 7), 3)), RGB.transpose(2, 0, 1))


def test_orientation_of_a_large_jpeg_decoded_small() -> None:
    """Draft mode must reckon with the turned sides: 800x200 stored, 200x800 seen, red on top."""
    seen = np.zeros((800, 200, 3), np.uint8)
    seen[:400, :, 0] = 255
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](seen)))
    out = decode.fit(reopened(stored, "JPEG", exif=exif(6), quality=95), Fit((80, 20), 3)).astype(int)
    assert out.shape == (3, 80, 20)
    assert (out[0, :38] > 245).all() and (out[0, 42:] < 10).all() and (out[1:] < 12).all()


@pytest.mark.parametrize(
    ("orientation", "stored", "decoded"),
    [
        (1, (800, 1600), (100, 200)),  # wanted a tenth of it: the least that libjpeg makes, an eighth
        (1, (200, 800), (100, 400)),  # wanted 0.4 of it
        (1, (150, 800), (150, 800)),  # wanted 0.53 of it: a half would be too little
        (1, (160, 800), (80, 400)),  # wanted exactly half of it
        (6, (200, 800), (25, 100)),  # seen 800 high and 200 wide, wanted a tenth of it
        (6, (800, 150), (800, 150)),  # seen 150 high and 800 wide: a half would be too little
    ],
)
def test_jpeg_is_decoded_no_larger_than_useful(
    orientation: int, stored: tuple[int, int], decoded: tuple[int, int]
) -> None:
    image = reopened(Image.new("RGB", stored[::-1]), "JPEG", exif=exif(orientation))
    decode.fit(image, Fit((80, 20), 3))
    assert image.size[::-1] == decoded


def test_a_jpeg_of_exactly_twice_the_size_is_decoded_at_half() -> None:
    """And so on: 7/10 of 10 pixels is 7 and a rounding error, which must not ask for 8."""
    for stored, wanted in ((100, 50), (300, 150), (1000, 125), (700, 350)):
        image = reopened(Image.new("RGB", (stored, stored)), "JPEG")
        decode.fit(image, Fit((wanted, wanted), 3))
        assert image.size == (wanted, wanted), stored


def test_broken_exif_keeps_the_picture() -> None:
    image = reopened(Image.fromarray(RGB), "PNG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x09junk")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode.fit(image, Fit((5, 7), 3)), RGB.transpose(2, 0, 1))


def luma(rgb: np.ndarray) -> np.ndarray:
    """ITU-R 601-2, as PIL documents it for mode L."""
    return (rgb.astype(np.float64) @ [0.299, 0.587, 0.114])[None]


def test_right_sized_pictures_are_untouched() -> None:
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        rgb = reopened(Image.fromarray(RGB), kind, **options)
        np.testing.assert_array_equal(decode.fit(rgb, Fit((5, 7), 3)), RGB.transpose(2, 0, 1))
    grey = reopened(Image.fromarray(GREY), "PNG")
    np.testing.assert_array_equal(decode.fit(grey, Fit((5, 7), 1)), GREY[None])
    np.testing.assert_array_equal(decode.fit(grey, Fit((5, 7), 3)), np.stack([GREY] * 3))
    assert np.abs(decode.fit(reopened(Image.fromarray(RGB), "PNG"), Fit((5, 7), 1)) - luma(RGB)).max() <= 0.51


def test_transparency_goes_on_white() -> None:
    alpha = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
    alpha[0] = 255
    alpha[1] = 0
    for picture in (np.dstack([RGB, alpha]), np.dstack([GREY, alpha])):
        colour = np.broadcast_to(picture[..., :-1], (5, 7, 3)).astype(np.float64)
        share = alpha[..., None] / 255.0
        expected = (colour * share + 255.0 * (1 - share)).transpose(2, 0, 1)
        out = decode.fit(reopened(Image.fromarray(picture), "PNG"), Fit((5, 7), 3))
        assert np.abs(out - expected).max() <= 1.0
        np.testing.assert_array_equal(out[:, 0], colour[0].T)  # opaque: exact
        assert (out[:, 1] == 255).all()


def test_alpha_of_raw_is_kept() -> None:
    picture = np.dstack([RGB, np.full((5, 7), 9, np.uint8)])
    np.testing.assert_array_equal(decode.raw(reopened(Image.fromarray(picture), "PNG")), picture)
    assert decode.raw(reopened(Image.fromarray(GREY), "PNG")).shape == (5, 7, 1)


@pytest.mark.parametrize("transparent", [False, True])
def test_palette(transparent: bool) -> None:
    number = (np.arange(35) % 4).astype(np.uint8).reshape(5, 7)
    colours = np.array([[255, 0, 0], [0, 200, 0], [0, 0, 100], [9, 8, 7]], np.uint8)
    image = Image.fromarray(number)
    image.putpalette(colours.tobytes())
    assert image.mode == "P"
    options = {"transparency": 3} if transparent else {}
    expected = colours.copy()
    if transparent:
        expected[3] = 255
    out = decode.fit(reopened(image, "PNG", **options), Fit((5, 7), 3))
    np.testing.assert_array_equal(out, expected[number].transpose(2, 0, 1))


def test_one_bit_and_sixteen_bits() -> None:
    bits = GREY > 127
    out = decode.fit(reopened(Image.fromarray(bits), "PNG"), Fit((5, 7), 1))
    np.testing.assert_array_equal(out[0], bits * np.uint8(255))
    deep = (GREY.astype(np.uint16) * 257).astype(np.uint16)
    np.testing.assert_array_equal(decode.fit(reopened(Image.fromarray(deep), "PNG"), Fit((5, 7), 1))[0], GREY)


def test_cmyk_jpeg() -> None:
    flat = Image.new("RGB", (16, 16), (200, 40, 90))
    out = decode.fit(reopened(flat.convert("CMYK"), "JPEG", quality=100), Fit((16, 16), 3)).astype(int)
    assert np.abs(out - np.array([200, 40, 90])[:, None, None]).max() <= 4


def ramp(h: int, w: int) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """Red rises along a row, green along a column: a pixel tells where it comes from."""
    x, y = np.meshgrid(np.arange(w), np.arange(h))
    return Image.fromarray(np.dstack([x, y, 0 * x]).astype(np.uint8)), x, y


@pytest.mark.parametrize(
    ("size", "scale", "left", "top"),
    [
        ((30, 30), 0.5, 30, 0),  # wide to square: the sides go
        ((30, 60), 0.5, 0, 0),  # same shape
        ((20, 60), 0.5, 0, 10),  # wider still: top and bottom go
        ((60, 30), 1.0, 45, 0),  # nothing to scale, only to cut
        ((20, 10), 1 / 3, 45, 0),  # tall, not square
    ],
)
def test_geometry(size: tuple[int, int], scale: float, left: float, top: float) -> None:
    image, _, _ = ramp(60, 120)
    out = decode.fit(image, Fit(size, 3)).astype(np.float64)
    assert out.shape == (3, *size)
    x = left + (np.arange(size[1]) + 0.5) / scale - 0.5
    y = top + (np.arange(size[0]) + 0.5) / scale - 0.5
    inner = slice(2, -2)  # at the picture's own edge the filter leans inwards
    assert np.abs(out[0] - x)[:, inner].max() <= 0.75
    assert np.abs(out[1] - y[:, None])[inner].max() <= 0.75


def test_enlarging_keeps_the_centre() -> None:
    image, _, _ = ramp(40, 80)
    out = decode.fit(image, Fit((80, 80), 3)).astype(np.float64)
    x = 20 + (np.arange(80) + 0.5) / 2 - 0.5
    assert np.abs(out[0] - x).max() <= 0.75


def test_cut_without_scaling_is_exact() -> None:
    out = decode.fit(Image.fromarray(RGB), Fit((5, 4), 3))
    np.testing.assert_array_equal(out, RGB[:, 1:5].transpose(2, 0, 1))


def test_shrinking_averages() -> None:
    """A fine chequerboard becomes grey, not a moiré; also through JPEG's decoding at a fraction."""
    board = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    for image in (Image.fromarray(board), reopened(Image.fromarray(board), "JPEG", quality=100)):
        out = decode.fit(image, Fit((32, 32), 1)).astype(np.float64)
        assert np.abs(out - 127.5).max() <= 3


def test_reason_is_one_stable_line(tmp_path: Path) -> None:
    with pytest.raises(Image.UnidentifiedImageError) as caught:
        Image.open(io.BytesIO(b"nothing"))
    assert decode.reason(caught.value) == "not a picture in a known format"
    assert decode.reason(OSError("two\nlines")) == "two lines"
    assert decode.reason(MemoryError()) == "MemoryError"


def test_faults_of_the_machine_are_not_the_pictures() -> None:
    assert decode.fault(OSError("cut off"), "a.png") == "cut off"
    assert decode.fault(OSError(errno.ENOENT, "No such file", "/x/a.png"), "a.png") == "No such file"
    assert decode.fault(OSError(errno.EACCES, "Permission denied"), "a.png") == "Permission denied"
    for name in ("EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM", "ENODEV", "ENXIO", "ETIMEDOUT"):
        with pytest.raises(UserError, match=r"^a: cannot be read now \(w\): check the disk, and start again$"):
            decode.fault(OSError(getattr(errno, name), "w"), "a")
    with pytest.raises(UserError, match=r"^a: cannot be read now \(out of memory\): free some, and start again$"):
        decode.fault(MemoryError(), "a")
    with pytest.raises(UserError, match=r"^of the source$"):
        decode.fault(UserError("of the source"), "a")
