"""IDX, the format of MNIST and its kin: big-endian sizes, then bytes; plain or .gz.

Magic 00 00 08 and the number of axes: 3 for pictures [N, H, W], 1 for labels [N].
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Collection, Sequence
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ddpm.data import bounds
from ddpm.data.arrays import ArraySource, check_labels
from ddpm.errors import UserError
from ddpm.units import counted

_UINT8 = b"\x00\x00\x08"
_DAMAGED = (gzip.BadGzipFile, zlib.error, EOFError)


def axes(path: Path) -> int | None:
    """How many axes a uint8 IDX file has; None if it is none."""
    try:
        with _open(path) as file:
            magic = file.read(4)
    except (*_DAMAGED, OSError):
        return None
    return magic[3] if len(magic) == 4 and magic[:3] == _UINT8 else None


def in_folder(folder: Path) -> list[Path]:
    """The picture files in a folder (not below it), sorted; recognised by name, then by content."""
    named = sorted(path for path in folder.iterdir() if path.is_file() and "idx3" in path.name)
    return [path for path in named if axes(path) == 3]


def choose(folder: Path, files: Sequence[Path]) -> tuple[Path, tuple[str, ...]]:
    """The picture file to take and what to announce; UserError if it is not plain which."""
    train = [path for path in files if path.name.startswith("train")]
    if len(files) == 1:
        return files[0], ()
    # The same file plain and packed counts once.
    if len({path.name.removesuffix(".gz") for path in train}) == 1:
        left = [path.name for path in files if path != train[0]]
        mend = f"give a file to choose another, or --holdout {left[0]}"
        return train[0], (f"{train[0].name} taken, {', '.join(left)} left: {mend}",)
    raise UserError(f"{folder}: several picture files ({', '.join(p.name for p in files)}): give one of them")


def open_idx(
    path: Path, name: str, labels: str, notes: tuple[str, ...] = (), known: Collection[str] = ()
) -> ArraySource:
    """Pictures with the labels file beside them, if any; UserError for damage or counts that differ.

    labels: auto or none; known: classes of other pictures, one of which is enough.
    """
    if axes(path) == 1:
        raise UserError(f"{path}: an IDX file of labels: give the file of pictures (images-idx3) beside it")
    shape = _shape(path, 3)
    if labels == "none":
        return ArraySource(name, [path], shape, lambda: _read(path, 3), notes=(*notes, "no classes"))
    beside = _labels_beside(path)
    if beside is None:
        expected = path.name.replace("images", "labels").replace("idx3", "idx1")
        notes = (*notes, f"no classes: no labels file {expected} beside the pictures")
        return ArraySource(name, [path], shape, lambda: _read(path, 3), notes=notes)
    index, classes = check_labels(str(beside), _read(beside, 1), shape[0], None, known)
    found = counted(len(classes), "class", "classes") + f" from {beside.name}"
    notes = (*notes, found if classes else f"no classes: {beside.name} has but one")
    return ArraySource(name, [path], shape, lambda: _read(path, 3), classes, index, notes)


def _open(path: Path) -> BufferedReader | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _shape(path: Path, rank: int) -> tuple[int, ...]:
    try:
        with _open(path) as file:
            head = file.read(4 + 4 * rank)
    except _DAMAGED as error:
        raise _damage(path, str(error)) from None
    if len(head) != 4 + 4 * rank or head[:4] != _UINT8 + bytes([rank]):
        raise _damage(path, f"no IDX header of {rank} axes")
    shape = tuple(int(n) for n in np.frombuffer(head, ">u4", offset=4))
    if 0 in shape:
        raise UserError(f"{path}: shape {list(shape)} holds no picture: give another file")
    needed, size = math.prod(shape), path.stat().st_size
    if needed > (bounds.most_inside(size) if path.suffix == ".gz" else size):
        raise _damage(path, f"{size:,} bytes cannot be shape {list(shape)}, which needs {needed:,}")
    return shape


def _read(path: Path, rank: int) -> npt.NDArray[np.uint8]:
    shape = _shape(path, rank)
    needed = math.prod(shape)
    try:
        with _open(path) as file:
            file.seek(4 + 4 * rank)
            data = np.frombuffer(file.read(needed + 1), np.uint8)
    except _DAMAGED as error:
        raise _damage(path, str(error)) from None
    if len(data) != needed:
        there = f"{len(data):,}" if len(data) < needed else "more"
        raise _damage(path, f"{there} bytes where shape {list(shape)} needs {needed:,}")
    return data.reshape(shape)


def _labels_beside(path: Path) -> Path | None:
    plain = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    found = (path.with_name(name) for name in (plain, f"{plain}.gz"))
    return next((file for file in found if file != path and file.is_file()), None)


def _damage(path: Path, why: str) -> UserError:
    return UserError(f"{path}: a damaged IDX file ({why}): copy or download it again")
