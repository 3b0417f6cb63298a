"""Every kind of file and mode of pixels, against numbers worked out here from what was written into the file."""

from __future__ import annotations

import io
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm.data import decode
from ddpm.data.decode import Fit
from raster import png, tiff

RNG = np.random.default_rng(0)
SIZE = (6, 7)
RGB = RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, SIZE, dtype=np.uint8)
ALPHA = RNG.integers(0, 256, SIZE, dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (*SIZE, 4), dtype=np.uint16)
COLOURS = np.array([[255, 0, 0], [0, 200, 0], [0, 0, 100], [9, 8, 7]], np.uint8)
NUMBERS = (np.arange(42) % 4).astype(np.uint8).reshape(SIZE)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=decode.FORMATS)


def fitted(data: bytes, channels: int = 3) -> np.ndarray:
    """float64 [H, W, C]"""
    return decode.fit(opened(data), Fit(SIZE, channels)).transpose(1, 2, 0).astype(np.float64)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255.0
    return colour * share + 255.0 * (1 - share)


def palette(numbers: np.ndarray = NUMBERS, colours: np.ndarray = COLOURS) -> Image.Image:
    image = Image.fromarray(numbers)
    image.putpalette(colours.tobytes())
    assert image.mode == "P"
    return image


LOSSLESS = [
    ("BMP", {}),
    ("PNG", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", {"compression": "packbits"}),
]


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
def test_colour(kind: str, options: dict[str, Any]) -> None:
    data = saved(Image.fromarray(RGB), kind, **options)
    np.testing.assert_array_equal(fitted(data), RGB)
    assert (decode.kind(opened(data)), decode.grey(opened(data))) == ("colour", False)


@pytest.mark.parametrize("kind", ["BMP", "PNG", "TIFF", "GIF"])
def test_grey(kind: str) -> None:
    data = saved(Image.fromarray(GREY), kind)
    np.testing.assert_array_equal(fitted(data, 1)[..., 0], GREY)
    np.testing.assert_array_equal(decode.raw(opened(data)), GREY[..., None])
    assert decode.grey(opened(data))
    assert decode.kind(opened(data)) == ("grey palette" if kind == "GIF" else "grey")


@pytest.mark.parametrize("kind", ["BMP", "PNG", "TIFF", "GIF"])
def test_palette_of_colours(kind: str) -> None:
    data = saved(palette(), kind)
    np.testing.assert_array_equal(fitted(data), COLOURS[NUMBERS])
    assert (decode.kind(opened(data)), decode.grey(opened(data))) == ("colour palette", False)


@pytest.mark.parametrize("kind", ["BMP", "PNG", "TIFF"])
def test_one_bit(kind: str) -> None:
    data = saved(Image.fromarray(GREY > 127), kind)
    np.testing.assert_array_equal(fitted(data, 1)[..., 0], (GREY > 127) * 255)
    assert decode.kind(opened(data)) == "1-bit"


def test_fax_tiff() -> None:
    data = saved(Image.fromarray(GREY > 127), "TIFF", compression="group4")
    np.testing.assert_array_equal(fitted(data, 1)[..., 0], (GREY > 127) * 255)


def test_gif_and_tiff_show_their_first_picture() -> None:
    first, second = palette(), palette(3 - NUMBERS)
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        frames = [picture.convert("RGB") for picture in (first, second)]
        options = {"WEBP": {"lossless": True}, "GIF": {"duration": 100}}.get(kind, {})
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert opened(data).n_frames == 2  # type: ignore[attr-defined]
        np.testing.assert_array_equal(fitted(data), COLOURS[NUMBERS])


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_transparent_palette_entry(kind: str) -> None:
    data = saved(palette(), kind, transparency=3)
    expected = COLOURS.copy()
    expected[3] = 255
    np.testing.assert_array_equal(fitted(data), expected[NUMBERS])
    kept = fitted(data, 4)
    np.testing.assert_array_equal(kept[..., 3], (NUMBERS != 3) * 255)
    np.testing.assert_array_equal(kept[NUMBERS != 3][:, :3], COLOURS[NUMBERS[NUMBERS != 3]])
    assert decode.kind(opened(data)) == "colour palette with transparency"


def test_palette_with_an_alpha_for_each_entry() -> None:
    alphas = np.array([255, 128, 60, 0], np.uint8)
    data = saved(palette(), "PNG", transparency=alphas.tobytes())
    assert np.abs(fitted(data) - on_white(COLOURS[NUMBERS], alphas[NUMBERS])).max() <= 1
    np.testing.assert_array_equal(fitted(data, 4), np.dstack([COLOURS[NUMBERS], alphas[NUMBERS]]))


@pytest.mark.parametrize(
    ("kind", "colour"), [("PNG", True), ("PNG", False), ("TIFF", True), ("TIFF", False), ("WEBP", True)]
)
def test_alpha(kind: str, colour: bool) -> None:
    picture = np.dstack([RGB if colour else GREY, ALPHA])
    data = saved(Image.fromarray(picture), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    seen = RGB if colour else np.dstack([GREY] * 3)
    assert np.abs(fitted(data) - on_white(seen, ALPHA)).max() <= 1
    np.testing.assert_array_equal(fitted(data, 4), np.dstack([seen, ALPHA]))
    assert decode.kind(opened(data)) == ("colour" if colour else "grey") + " with transparency"
    assert decode.grey(opened(data)) is not colour


def test_palette_with_alpha_in_a_tiff() -> None:
    image = palette().convert("PA")
    image.putalpha(Image.fromarray(ALPHA))
    data = saved(image, "TIFF")
    assert opened(data).mode == "PA"
    np.testing.assert_array_equal(fitted(data, 4), np.dstack([COLOURS[NUMBERS], ALPHA]))


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_colours_multiplied_by_alpha(mode: str) -> None:
    share = np.where(ALPHA > 127, 255, 51)  # a fifth
    straight = (RGB // 5) * 5 if mode == "RGBa" else ((GREY // 5) * 5)[..., None]
    stored = np.dstack([straight * share[..., None] // 255, share]).astype(np.uint8)
    image = Image.frombytes(mode, SIZE[::-1], stored.tobytes())
    out = decode.fit(image, Fit(SIZE, 4)).transpose(1, 2, 0)
    np.testing.assert_array_equal(out[..., 3], share)
    assert np.abs(out[..., :3].astype(int) - straight).max() <= 3  # from a fifth of the values


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    """Adobe, and PIL after it, stores a CMYK JPEG inverted."""
    inks = np.broadcast_to(np.array([55, 215, 165, 60], np.uint8), (*SIZE, 4))
    data = saved(
        Image.frombytes("CMYK", SIZE[::-1], inks.tobytes()), kind, **({"quality": 100} if kind == "JPEG" else {})
    )
    if kind == "JPEG":
        assert b"Adobe" in data
    expected = (1 - np.array([55, 215, 165]) / 255) * (1 - 60 / 255) * 255
    assert np.abs(fitted(data) - expected).max() <= (4 if kind == "JPEG" else 1)
    assert (decode.kind(opened(data)), decode.grey(opened(data))) == ("CMYK", False)
    assert (fitted(data, 4)[..., 3] == 255).all()


def test_lab_and_ycbcr_tiff() -> None:
    lab = np.empty((*SIZE, 3))
    lab[..., 0] = RNG.uniform(30, 80, SIZE)
    lab[..., 1:] = RNG.uniform(-20, 20, (*SIZE, 2))
    lab[..., 0] = np.rint(lab[..., 0] * 2.55) / 2.55
    lab[..., 1:] = np.rint(lab[..., 1:])
    stored = np.dstack([np.rint(lab[..., 0] * 2.55).astype(np.uint8), lab[..., 1:].astype(np.int8).view(np.uint8)])
    data = tiff(stored, photometric=8)
    assert np.abs(fitted(data) - srgb(lab)).max() <= 2
    assert decode.kind(opened(data)) == "LAB"
    grey = Image.fromarray(np.dstack([GREY, np.full_like(GREY, 128), np.full_like(GREY, 128)]), "RGB")
    image = Image.frombytes("YCbCr", SIZE[::-1], grey.tobytes())
    out = decode.fit(image, Fit(SIZE, 3)).transpose(1, 2, 0)
    assert np.abs(out.astype(int) - GREY[..., None]).max() <= 1


def srgb(lab: np.ndarray) -> np.ndarray:
    """CIE 15 (L*a*b*, D50), the Bradford adaptation to D65, IEC 61966-2-1."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.96422, 1.0, 0.82521]
    linear = (
        xyz
        @ np.array(
            [
                [3.1338561, -1.6168667, -0.4906146],
                [-0.9787684, 1.9161415, 0.0334540],
                [0.0719453, -0.2289914, 1.4052427],
            ]
        ).T
    )
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_of_grey(order: str) -> None:
    deep = DEEP[..., 0].copy()
    deep[0] = [0, 128, 129, 257, 65406, 65407, 65535]  # around the halves, and the ends
    expected = np.floor(deep / 257 + 0.5)
    assert expected[0].tolist() == [0, 0, 1, 1, 254, 255, 255]
    for data in (png(deep), tiff(deep, order=order)):
        np.testing.assert_array_equal(fitted(data, 1)[..., 0], expected)
        assert (decode.kind(opened(data)), decode.grey(opened(data))) == ("16-bit grey", True)


def test_sixteen_bits_of_which_zero_is_white() -> None:
    expected = 255 - np.rint(DEEP[..., 0] / 257)
    np.testing.assert_array_equal(fitted(tiff(DEEP[..., 0], photometric=0), 1)[..., 0], expected)
    np.testing.assert_array_equal(fitted(tiff(GREY, photometric=0), 1)[..., 0], 255.0 - GREY)


def test_twelve_bits_of_grey() -> None:
    deep = DEEP[..., 0] >> 4
    deep[0, :2] = 0, 4095
    np.testing.assert_array_equal(fitted(tiff(deep, twelve=True), 1)[..., 0], np.rint(deep / 4095 * 255))


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_of_colour(order: str) -> None:
    rgb = DEEP[..., :3]
    for data in (png(rgb), tiff(rgb, order=order)):
        assert np.abs(fitted(data) - rgb / 257).max() <= 1
        assert decode.kind(opened(data)) == "16-bit colour"


def test_sixteen_bits_with_alpha() -> None:
    for data in (png(DEEP), tiff(DEEP, extra=2)):
        assert np.abs(fitted(data, 4) - DEEP / 257).max() <= 1
        assert decode.kind(opened(data)) == "16-bit colour with transparency"
    grey = png(DEEP[..., :2])
    assert np.abs(fitted(grey, 4)[..., [0, 3]] - DEEP[..., :2] / 257).max() <= 1
    assert (decode.kind(opened(grey)), decode.grey(opened(grey))) == ("16-bit grey with transparency", True)


def test_sixteen_bits_of_cmyk() -> None:
    expected = (1 - DEEP[..., :3] / 65535) * (1 - DEEP[..., 3:] / 65535) * 255
    data = tiff(DEEP, photometric=5)
    assert np.abs(fitted(data) - expected).max() <= 2.5  # high bytes of two factors, rounded
    assert decode.kind(opened(data)) == "16-bit CMYK"


def test_one_transparent_value_of_sixteen_bits() -> None:
    clear = DEEP[2, 3]
    kept = fitted(png(DEEP[..., 0], (int(clear[0]),)), 4)
    np.testing.assert_array_equal(np.argwhere(kept[..., 3] == 0), [[2, 3]])
    kept = fitted(png(DEEP[..., :3], tuple(clear[:3].tolist())), 4)
    np.testing.assert_array_equal(np.argwhere(kept[..., 3] == 0), [[2, 3]])


def test_sixteen_bits_in_planes_are_refused() -> None:
    """PIL would show them wrongly, without a word."""
    with pytest.raises(ValueError, match="16 bits in separate planes: save it with its channels interleaved"):
        fitted(tiff(DEEP[..., :3], planar=True))
    np.testing.assert_array_equal(fitted(tiff(RGB, planar=True)), RGB)


def test_floats() -> None:
    values = RNG.random(SIZE).astype(np.float32)
    values[0, :2] = 0, 1
    data = tiff(values)
    assert np.abs(fitted(data, 1)[..., 0] - 255 * values).max() <= 0.5001
    assert decode.kind(opened(data)) == "float grey"
    for wrong in (2 * values, values - 1, np.where(values > 0.5, np.nan, values).astype(np.float32)):
        with pytest.raises(
            ValueError, match=r"values from .* to .*: grey pictures of this kind hold floats from 0 to"
        ):
            fitted(tiff(wrong), 1)


def test_other_integers() -> None:
    deep = DEEP[..., 0]
    np.testing.assert_array_equal(fitted(tiff(deep.astype(np.uint32)), 1)[..., 0], np.rint(deep / 257))
    assert decode.kind(opened(tiff(deep.astype(np.uint32)))) == "32-bit grey"
    for wrong in (deep.astype(np.uint32) * 3, deep.view(np.int16)):
        with pytest.raises(ValueError, match=r"values from .* to .*: .* hold whole numbers from 0 to 65535"):
            fitted(tiff(wrong), 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "lzw", "cmyk", "palette bmp"])
@pytest.mark.parametrize("keep", [0.0, 0.05, 0.3, 0.6, 0.9])
def test_truncated(kind: str, keep: float) -> None:
    noise = Image.fromarray(RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    data = {
        "lzw": lambda: saved(noise, "TIFF", compression="tiff_lzw"),
        "cmyk": lambda: saved(noise.convert("CMYK"), "JPEG"),
        "palette bmp": lambda: saved(noise.quantize(16), "BMP"),
        "GIF": lambda: saved(noise.quantize(16), "GIF"),
    }.get(kind, lambda: saved(noise, kind))()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TIFF warns before it fails
        for size in ((40, 50), (8, 8)):  # the smaller one through JPEG's decoding at a fraction
            with pytest.raises(Exception) as caught:
                decode.fit(opened(data[: int(keep * len(data))]), Fit(size, 3))
            assert decode.reason(caught.value)


def test_broken_inside() -> None:
    data = bytearray(png(RGB))
    data[41] ^= 0xFF  # where the compressed pixels begin
    for channels in (1, 3, 4):
        with pytest.raises(OSError, match="broken data stream"):
            fitted(bytes(data), channels)


def header(height: int, width: int) -> bytes:
    """A PNG without its pixels."""
    data = bytearray(png(np.zeros((1, 1), np.uint8)))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def test_a_photograph_of_200_megapixels_is_no_attack() -> None:
    assert decode.seen(opened(header(12240, 16320))) == (12240, 16320)
    with pytest.raises(Image.DecompressionBombError) as caught:
        opened(header(30000, 30000))
    assert decode.reason(caught.value) == "too many pixels to decode: make it smaller"
