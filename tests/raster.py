"""PNG and TIFF files with more than 8 bits a channel, which PIL cannot write, made byte by byte.

PNG (third edition) 11.2 and TIFF 6.0 sections 2 and 8; uncompressed, one strip a plane.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np


def png(pixels: np.ndarray[Any, Any], transparent: tuple[int, ...] = ()) -> bytes:
    """From uint8 or uint16 [H, W] or [H, W, C]; transparent: the value of a chunk tRNS."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    depth, kind = 8 * pixels.dtype.itemsize, {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(height, -1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))]
    if transparent:
        chunks.append((b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)))
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def tiff(
    pixels: np.ndarray[Any, Any],
    *,
    photometric: int | None = None,
    order: str = "<",
    planar: bool = False,
    extra: int | None = None,
    twelve: bool = False,
) -> bytes:
    """From [H, W] or [H, W, C] of integers or floats; order: "<" or ">"; extra: the kind of the last channel.

    twelve: only the lower 12 bits of uint16 are stored, rows beginning at whole bytes.
    """
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    strips = [pixels[..., c] for c in range(channels)] if planar else [pixels]
    data = [strip.astype(pixels.dtype.newbyteorder(order)).tobytes() for strip in strips]
    if twelve:
        bits = np.unpackbits(pixels.astype(">u2").reshape(height, -1, 1).view(np.uint8), axis=2)[..., 4:]
        data = [np.packbits(bits.reshape(height, -1), axis=1).tobytes()]
    starts = [8 + sum(map(len, data[:k])) for k in range(len(data))]
    tags = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [12 if twelve else 8 * pixels.dtype.itemsize] * channels),
        259: ("H", [1]),
        262: ("H", [(1 if channels == 1 else 2) if photometric is None else photometric]),
        273: ("I", starts),
        277: ("H", [channels]),
        278: ("I", [height]),
        279: ("I", [len(strip) for strip in data]),
        284: ("H", [2 if planar else 1]),
        339: ("H", [{"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]] * channels),
    }
    if extra is not None:
        tags[338] = ("H", [extra])
    body = b"".join(data)
    body += b"\0" * (len(body) % 2)
    at = 8 + len(body) + 2 + 12 * len(tags) + 4
    entries, beyond = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        value = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(value) > 4:
            value, beyond = struct.pack(f"{order}I", at + len(beyond)), beyond + value
        entries += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(values)) + value.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(body))
    return head + body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + beyond
