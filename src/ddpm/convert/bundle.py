"""TensorFlow's checkpoints, read without TensorFlow: `model.ckpt-790000.index` and its `.data-00000-of-00001`.

The index is a sorted table in LevelDB's format, from a variable's name to a protocol buffer that says its type and
shape and where its numbers stand in the data files; those are the plain numbers one after another.

    table   blocks …, footer(index of the blocks, magic)
    block   (bytes shared with the last key, new ones, size of the value, new bytes, value) …, restarts
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm.errors import UserError
from ddpm.reading import check_file, read_file

_MAGIC, _FOOTER, _TRAILER = 0xDB4775248B80FB57, 48, 5
_INDEX, _ENTRIES, _KEY = 1 << 24, 100_000, 1000  # bytes, variables, bytes of a name: of an index at the most
_FLOATS = {1: "<f4", 2: "<f8", 19: "<f2"}  # DataType; a net's variables are of no other


def prefix_of(path: Path) -> Path | None:
    """The checkpoint a path names: its common beginning, one of its files, or a folder with a single one."""
    if path.is_dir():
        found = [
            one.with_suffix("") for one in sorted(path.glob("*.index")) if len(files_of(one.with_suffix(""))) > 1
        ]
        if len(found) > 1:
            names = ", ".join(one.name for one in found)
            raise UserError(
                f"{path}: holds several checkpoints of TensorFlow; name one, as {path / found[-1].name}: {names}"
            )
        return found[0] if found else None
    if path.suffix == ".index" or path.suffix.startswith(".data-"):
        path = path.with_suffix("")
    return path if path.name and files_of(path) else None


def files_of(prefix: Path) -> list[Path]:
    """The files of a checkpoint, its index first; none where there is no index."""
    index = prefix.with_name(f"{prefix.name}.index")
    return [index, *sorted(prefix.parent.glob(f"{prefix.name}.data-*"))] if index.is_file() else []


def read_bundle(prefix: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """The variables of floats whose names are wanted; UserError if a file is missing or damaged."""
    index = prefix.with_name(f"{prefix.name}.index")
    try:
        entries = dict(_table(read_file(index, _INDEX)))
        shards = _number(_message(entries.pop(b"")).get(1, 1))
        found: dict[str, Tensor] = {}
        held = sum(check_file(path) for path in files_of(prefix))
        for key, value in entries.items():
            name = key.decode()
            entry = _message(value)
            kind = _number(entry.get(1, 0))
            if kind in _FLOATS and wanted(name):
                shape = _shape(entry.get(2, b""))
                shard, offset, size = (_number(entry.get(field, 0)) for field in (3, 4, 5))
                data = prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}")
                if not data.exists():
                    raise UserError(f"{data}: missing; a checkpoint of TensorFlow is all of its files")
                held -= size
                if held < 0:
                    raise ValueError("its variables are more than its files hold")
                found[name] = _tensor(data, _FLOATS[kind], shape, offset, size)
        return found
    except (KeyError, IndexError, ValueError, TypeError, struct.error) as error:
        raise UserError(f"{index}: damaged, or no checkpoint of TensorFlow ({error}); fetch it again") from None


def _tensor(path: Path, dtype: str, shape: tuple[int, ...], offset: int, size: int) -> Tensor:
    count = math.prod(shape)
    if count * np.dtype(dtype).itemsize != size:
        raise ValueError(f"{size} bytes for {count} numbers")
    if offset + size > check_file(path):
        raise ValueError(f"{path.name} ends too early")
    values = np.fromfile(path, dtype, count, offset=offset)
    return torch.from_numpy(values.reshape(shape).astype(np.float32))


# -- the table -------------------------------------------------------------------------------------------------


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a table."""
    footer = data[-_FOOTER:]
    if len(footer) < _FOOTER or struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise ValueError("its end is not that of an index")
    _, _, at = _handle(footer, 0)
    offset, size, _ = _handle(footer, at)
    count = 0
    for _, place in _block(data, offset, size):
        start, length, _ = _handle(place, 0)
        for one in _block(data, start, length):
            yield one
            count += 1
            if count > _ENTRIES:  # its blocks may be one and the same, again and again
                raise ValueError(f"it lists over {_ENTRIES:,} variables")


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block: each key says how much of the one before it repeats."""
    block = data[offset : offset + size]
    if len(data) < offset + size + _TRAILER:
        raise ValueError("it ends too early")
    if data[offset + size]:
        raise ValueError("it is compressed, which no checkpoint of Ho et al.'s is")
    restarts = struct.unpack("<I", block[-4:])[0]
    at, end, key = 0, len(block) - 4 * (1 + restarts), b""
    while at < end:
        shared, at = _varint(block, at)
        new, at = _varint(block, at)
        length, at = _varint(block, at)
        if max(shared, new) > _KEY:
            raise ValueError(f"a name has over {_KEY:,} bytes")
        key = key[:shared] + block[at : at + new]
        yield key, block[at + new : at + new + length]
        at += new + length


def _handle(data: bytes, at: int) -> tuple[int, int, int]:
    """Where a block begins, how long it is, and where the handle ends."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return offset, size, at


# -- protocol buffers ------------------------------------------------------------------------------------------


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
        if shift >= 64:
            raise ValueError("a number has more than 64 bits")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The numbered fields of a message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size, at = _varint(data, at)
        if size is None:
            raise ValueError(f"a field of the unknown kind {wire}")
        yield tag >> 3, data[at : at + size]
        at += size


def _message(data: bytes) -> dict[int, int | bytes]:
    """The last value of each field."""
    return dict(_fields(data))


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise TypeError("a number is expected where bytes stand")
    return value


def _shape(data: int | bytes) -> tuple[int, ...]:
    """The sizes of a TensorShape: its repeated field 2, whose field 1 is one size."""
    if isinstance(data, int):
        raise TypeError("a shape is expected where a number stands")
    dims = [value for field, value in _fields(data) if field == 2 and isinstance(value, bytes)]
    return tuple(_number(_message(dim).get(1, 0)) for dim in dims)
