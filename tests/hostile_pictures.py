"""Hostile pictures: cut off, flipped, of other kinds than they say, and bombs of every format that is read."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import raster
from hostile import Case, beside_good, encoded, noise

_SIDE = 30_000


def wholes() -> dict[str, bytes]:
    """Every format, and what PIL reads of each in a way of its own; all of 20 x 24 pixels."""
    picture, palette = noise(), noise().quantize(16)
    clear = picture.convert("RGBA")
    clear.putalpha(100)
    deep = np.random.default_rng(1).integers(0, 65536, (20, 24, 3)).astype(np.uint16)
    frames = [noise(seed=seed) for seed in range(3)]
    more = {"save_all": True, "append_images": frames[1:]}
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "baseline.jpg": encoded(picture, "JPEG"),
        "progressive.jpg": encoded(picture, "JPEG", progressive=True),
        "turned.jpg": encoded(picture, "JPEG", exif=turned),
        "cmyk.jpg": encoded(picture.convert("CMYK"), "JPEG"),
        "plain.png": encoded(picture),
        "palette.png": encoded(palette, transparency=3),
        "alpha.png": encoded(clear),
        "animated.png": encoded(frames[0], **more),
        "sixteen.png": raster.png(deep),
        "lossy.webp": encoded(picture, "WEBP"),
        "lossless.webp": encoded(clear, "WEBP", lossless=True),
        "animated.webp": encoded(frames[0], "WEBP", **more),
        "plain.gif": encoded(palette, "GIF"),
        "animated.gif": encoded(frames[0], "GIF", **more),
        "plain.bmp": encoded(picture, "BMP"),
        "palette.bmp": encoded(palette, "BMP"),
        "packed.bmp": _run_lengths(),
        "plain.tif": encoded(picture, "TIFF"),
        "lzw.tif": encoded(picture, "TIFF", compression="tiff_lzw"),
        "deflate.tif": encoded(picture, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": encoded(picture, "TIFF", compression="jpeg"),
        "fax.tif": encoded(picture.convert("1"), "TIFF", compression="group4"),
        "sixteen.tif": raster.tiff(deep[..., 0]),
        "float.tif": raster.tiff(np.linspace(0, 1, 480, dtype=np.float32).reshape(20, 24)),
        "cmyk.tif": encoded(picture.convert("CMYK"), "TIFF"),
    }


def fine(root: Path) -> Iterator[Case]:
    """Unusual, and to be read."""
    for name, data in wholes().items():
        yield Case(name, beside_good(root, name, data), "fine")
    for size in ((1, 1), (1, 3000), (3000, 1)):
        name = f"{size[0]}x{size[1]}.png"
        yield Case(name, beside_good(root, name, encoded(noise(*size))), "fine")
    yield Case("jpeg.called.png", beside_good(root, "jpeg.called.png", encoded(noise(), "JPEG")), "fine")
    text = encoded(noise(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 40)
    yield Case("exif.jpg", beside_good(root, "exif.jpg", text), "fine")


def damaged(root: Path) -> Iterator[Case]:
    """Cut off in the head and in the pixels, and what is no picture."""
    for name, data in wholes().items():
        stem, _, suffix = name.rpartition(".")
        keeps = (1, 9, 26, len(data) // 3, len(data) // 2, 4 * len(data) // 5)
        for keep in sorted({min(keep, 4 * len(data) // 5) for keep in keeps}):
            cut = f"{stem}-{keep}.{suffix}"
            # What is cut behind its first frame is whole.
            expected = "any" if "animated" in name and keep > len(data) // 4 else "skipped"
            yield Case(cut, beside_good(root, cut, data[:keep]), expected)
        flipped = bytearray(data)
        for at in np.random.default_rng(2).integers(len(data), size=6):
            flipped[at] ^= 1 << int(at) % 8
        yield Case(f"flipped-{name}", beside_good(root, f"flipped-{name}", bytes(flipped)), "any")
    others = {
        "text.png": b"a list of things\n",
        "zeros.png": bytes(5000),
        "empty.jpg": b"",
        "page.jpg": b"<html><body>404 Not Found</body></html>",
        "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) (w) file\n",
        "nan.tif": raster.tiff(np.full((20, 24), np.nan, np.float32)),
        "infinite.tif": raster.tiff(np.full((20, 24), np.inf, np.float32)),
        "negative.tif": raster.tiff(np.full((20, 24), -1, np.int32)),
        "planes.tif": raster.tiff(np.zeros((20, 24, 3), np.uint16), planar=True),
        "nothing.gif": b"GIF89a\x10\0\x10\0\0\0\0;",
        "no-height.bmp": b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + _bitmap(10, 0) + bytes(50),
        "no-width.png": png_header(0, 10),
    }
    for name, data in others.items():
        yield Case(name, beside_good(root, name, data), "skipped")


def bombs(root: Path) -> Iterator[Case]:
    """Small files of enormous pictures, whether their headers lie or not."""
    many = "too many pixels"
    screen = b"GIF89a" + struct.pack("<HH", _SIDE, _SIDE) + b"\x80\0\0" + bytes(6)
    frame = b"," + struct.pack("<HHHH", 0, 0, _SIDE, _SIDE) + b"\0\x02\x02\x44\x01\0;"
    lying = {
        "png.png": png_header(_SIDE, _SIDE),
        "bmp.bmp": b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + _bitmap(_SIDE, _SIDE) + bytes(50),
        "upside.bmp": b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + _bitmap(_SIDE, -_SIDE) + bytes(50),
        "tiff.tif": tiff_header(_SIDE, _SIDE),
        "gif.gif": screen + frame,
        "small-screen.gif": b"GIF89a" + struct.pack("<HH", 9, 9) + b"\x80\0\0" + bytes(6) + frame,
        "largest.png": png_header(2**31 - 1, 2**31 - 1),
        "just-below.png": png_header(2**14, 2**14),
        "just-below.bmp": b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + _bitmap(2**14, 2**14) + bytes(50),
        "just-below.tif": tiff_header(2**14, 2**14),
        "just-below.jpg": _sized_jpeg(2**14, 2**14),
        "largest.webp": _canvas(2**14, 2**14),
        "deflated.png": deflated_png(20_000, 20_000),
        "largest.gif": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + frame,
        "thread.png": deflated_png(1, 2**21),
    }
    for name, data in lying.items():
        yield Case(name, beside_good(root, name, data), "skipped", many)
    text = zlib.compress(bytes(1 << 26), 9)
    inflated = {
        "text.png": png_chunk(b"zTXt", b"Comment\0\0" + text),
        "profile.png": png_chunk(b"iCCP", b"p\0\0" + text),
    }
    for name, chunk in inflated.items():
        data = encoded(noise())
        yield Case(name, beside_good(root, name, data[:33] + chunk + data[33:]), "any")
    for name, data in {
        "tiles.tif": tiff_header(20, 24, {322: 2**31 - 1, 323: 2**31 - 1, 324: 8, 325: 2**32 - 1}),
        "strips.tif": tiff_header(20, 24, {278: 2**32 - 1, 279: 2**32 - 1}),
        "samples.tif": tiff_header(20, 24, {277: 2**16 - 1}),
        "bits.tif": tiff_header(20, 24, {258: 2**16 - 1}),
        "loop.tif": tiff_header(20, 24, following=8),
        "packing.tif": tiff_header(20, 24, {259: 5}),
    }.items():
        yield Case(name, beside_good(root, name, data), "any")
    scans = _many_scans(4000, 4000, 3000)
    yield Case("scans.jpg", beside_good(root, "scans.jpg", scans), "skipped", "scans")
    thread = deflated_png(1 << 20, 1)
    yield Case("long.png", beside_good(root, "long.png", thread), "skipped", "too long", "random")
    yield Case("large.png", beside_good(root, "large.png", deflated_png(8000, 8000)), "fine")


FAMILIES = {"pictures": fine, "damaged pictures": damaged, "bombs": bombs}


# -- files byte by byte ----------------------------------------------------------------------------------------


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int, depth: int = 8) -> bytes:
    """A PNG of next to no pixels that says it has many."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", zlib.compress(bytes(100))) + png_chunk(b"IEND", b"")


def deflated_png(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel that has all its pixels, black ones."""
    squeezed = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    some = max(1, (1 << 22) // len(row))
    whole, rest = divmod(height, some)
    data = b"".join(squeezed.compress(row * some) for _ in range(whole)) + squeezed.compress(row * rest)
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    pixels = png_chunk(b"IDAT", data + squeezed.flush())
    return b"\x89PNG\r\n\x1a\n" + head + pixels + png_chunk(b"IEND", b"")


def tiff_header(width: int, height: int, other: dict[int, int] | None = None, following: int = 0) -> bytes:
    """A TIFF of eight grey bits and 64 bytes of pixels; other: tags with other values."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: width * height}
    tags = {tag: value & 0xFFFFFFFF for tag, value in sorted({**tags, **(other or {})}.items())}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + struct.pack("<I", following) + bytes(64)


def _bitmap(width: int, height: int, bits: int = 24, packing: int = 0) -> bytes:
    return struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, packing, 0, 0, 0, 0, 0)


def _run_lengths() -> bytes:
    """A BMP of 24 x 20 in runs, its last row by steps aside."""
    runs = b"".join(bytes([24, row, 0, 0]) for row in range(19)) + bytes([0, 2, 4, 0, 20, 7, 0, 1])
    table = b"".join(bytes([k, k, k, 0]) for k in range(256))
    head = struct.pack("<IHHI", 54 + len(table) + len(runs), 0, 0, 54 + len(table))
    return b"BM" + head + _bitmap(24, 20, 8, 1) + table + runs


def _sized_jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header says another size."""
    data = bytearray(encoded(noise(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _canvas(width: int, height: int) -> bytes:
    """An animated WebP whose canvas is larger than its frames."""
    stream = io.BytesIO()
    noise().save(stream, "WEBP", save_all=True, append_images=[noise(seed=1)])
    data = bytearray(stream.getvalue())
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def _many_scans(width: int, height: int, count: int) -> bytes:
    """A progressive JPEG with one scan again and again, each of which is a pass over all its pixels."""
    whole = encoded(Image.new("L", (width, height), 90), "JPEG", progressive=True)
    starts = [at for at in range(len(whole) - 1) if whole[at : at + 2] == b"\xff\xda"]
    return whole[: starts[-1]] + whole[starts[-1] : -2] * count + whole[-2:]
