"""Pictures as one array: .npy, .npz, and whatever else becomes an array (IDX, the embedded set)."""

from __future__ import annotations

import io
import math
import struct
import threading
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from ddpm.data import bounds, digest
from ddpm.data.source import Source, printable, unsuitable
from ddpm.errors import UserError, short
from ddpm.units import amount, counted, listed

PICTURE_KEYS = ("images", "pictures", "x", "arr_0", "x_train")
LABEL_KEYS = ("labels", "y", "arr_1", "y_train")
_MOST_CLASSES = 1 << 16
_MOST_NAMES = 1 << 26  # bytes of the array of their names
_LONGEST_HEADER = 1 << 14
_LONGEST_REASON = 300
# What zipfile and numpy raise for files that are damaged, or lie.
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, SyntaxError),
    *(ValueError, TypeError, LookupError, OverflowError, RuntimeError),
)

Read = Callable[[], npt.NDArray[Any]]


@final
class ArraySource(Source):
    """Pictures of one size and kind in an array uint8 [N, H, W, C] that is read when first needed."""

    def __init__(
        self,
        name: str,
        files: Sequence[Path],
        shape: tuple[int, ...],
        read: Read,
        classes: tuple[str, ...] = (),
        labels: npt.NDArray[np.int64] | None = None,
        notes: tuple[str, ...] = (),
        shown: str | None = None,
    ) -> None:
        """files: what the fingerprint is of; read gives uint8 of shape [N, H, W(, C)] or [N, C, H, W].

        shown: what the pictures are called after, by default the file.
        """
        super().__init__(name, classes, labels, notes or (_note(classes),))
        self._files, self._shape, self._read = tuple(files), shape, read
        self._shown = printable(files[0].name) if shown is None else shown
        self._pixels: npt.NDArray[np.uint8] | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._shape[0]

    @contextmanager
    def opened(self, i: int) -> Iterator[Image.Image]:
        pixels = np.ascontiguousarray(self._all()[i])
        yield Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)

    def describe(self, i: int) -> str:
        return f"{self._shown}[{i}]"

    def stored(self, i: int) -> bytes:
        pixels = self._all()[i]
        content: bytes = pixels.tobytes()
        return f"{pixels.shape}".encode() + content

    def place(self, i: int) -> Path | None:
        return None

    def fingerprint(self, advance: digest.Advance | None = None) -> str:
        try:
            return digest.of_files(self._files, advance)
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror or error}): put it back") from None

    def stamp(self) -> digest.Stamp:
        return digest.stamp((file.name, file) for file in self._files)

    def _all(self) -> npt.NDArray[np.uint8]:
        with self._lock:  # several threads ask at once, and one must read
            if self._pixels is None:
                pixels = self._read()
                if pixels.ndim == 3:
                    pixels = pixels[..., None]
                elif not _channels_last(self._shape):
                    pixels = pixels.transpose(0, 2, 3, 1)
                self._pixels = pixels
            return self._pixels


def open_npy(path: Path, name: str) -> ArraySource:
    """UserError unless the file holds uint8 pictures."""
    try:
        with path.open("rb") as file:
            head = _header(file)
        head.check(path.stat().st_size)
    except _BROKEN as error:
        raise UserError(
            f"{path}: not a readable .npy array ({_line(error)}): save it again with numpy.save"
        ) from None
    _check_pictures(str(path), head)
    pixels = np.memmap(path, np.uint8, "r", head.at, head.shape, "F" if head.fortran else "C")
    return ArraySource(name, [path], head.shape, lambda: np.asarray(pixels))


def open_npz(
    path: Path, name: str, labels: str, known: Collection[str] = (), shown: str | None = None
) -> ArraySource:
    """UserError unless the file holds uint8 pictures and, if any, one class number a picture.

    labels: auto or none; known: classes of other pictures, one of which is enough; shown: what messages and
    descriptions call the file.
    """
    where = shown or str(path)

    def read(key: str) -> npt.NDArray[Any]:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as file:
                return np.lib.format.read_array(file, allow_pickle=False)
        except _BROKEN as error:
            raise UserError(f"{where}: {key} cannot be read ({_line(error)}): save the file again") from None

    try:
        heads, keys = _headers(path)
    except _BROKEN as error:
        raise UserError(f"{where}: not a whole .npz file ({_line(error)}): save or copy it again") from None
    key = next((key for key in PICTURE_KEYS if key in heads), None)
    if key is None:
        raise UserError(
            f"{where}: holds {listed(keys) or 'nothing'}, but none of {', '.join(PICTURE_KEYS)}: "
            "save the pictures under one of these names"
        )
    shape = heads[key].shape
    _check_pictures(f"{where}: {key}", heads[key])
    label_key = next((key for key in LABEL_KEYS if key in heads), None)
    if labels == "none" or label_key is None:
        return ArraySource(name, [path], shape, lambda: read(key), shown=shown)
    _check_label_kind(f"{where}: {label_key}", heads[label_key], shape[0])
    names = None
    if "classes" in heads:
        _check_name_kind(f"{where}: classes", heads["classes"])
        names = [str(item) for item in read("classes").ravel()]
    index, classes = check_labels(f"{where}: {label_key}", read(label_key), shape[0], names, known)
    notes = () if classes else (f"no classes: {label_key} has but one",)
    return ArraySource(name, [path], shape, lambda: read(key), classes, index, notes, shown)


def check_labels(
    where: str, labels: npt.NDArray[Any], count: int, names: Sequence[str] | None, known: Collection[str] = ()
) -> tuple[npt.NDArray[np.int64] | None, tuple[str, ...]]:
    """Labels int64 [count] and class names; where no names are given, the values there are, in order.

    A single class is none unless it is known from other pictures. UserError for labels that misfit.
    """
    _check_label_kind(where, labels, count)
    index = labels.reshape(count).astype(np.int64)
    low, high = (int(index.min()), int(index.max())) if count else (0, -1)
    if low < 0 or (names is not None and high >= len(names)):
        rule = f"there are {len(names)} classes" if names is not None else "none is below 0"
        raise UserError(f"{where}: values from {low} to {high}, but {rule}: number the classes from 0")
    if names is None:
        values, index = np.unique(index, return_inverse=True)
        if len(values) > _MOST_CLASSES:
            raise UserError(
                f"{where}: {len(values):,} different values, but there are at most {_MOST_CLASSES:,} classes: "
                "give class numbers, or turn classes off (--labels none)"
            )
        names = [str(value) for value in values]
    check_names(where, names)
    if len(names) < 2 and not set(names) <= set(known):
        return None, ()
    return index.astype(np.int64), tuple(names)


def check_names(where: str, names: Sequence[str]) -> None:
    """UserError unless all are names of classes, each another one."""
    for name in names:
        if why := unsuitable(name):
            raise UserError(f"{where}: the class name {short(name)} {why}: give it another")
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise UserError(f"{where}: the class name {twice} is given twice: give each class its own")


def _note(classes: Sequence[str]) -> str:
    if not classes:
        return "no classes"
    return f"{counted(len(classes), 'class', 'classes')} from labels: {listed(classes)}"


def _channels_last(shape: Sequence[int]) -> bool:
    return shape[-1] in (1, 3, 4)


@dataclass(frozen=True)
class _Header:
    """What a .npy stream says of its array; at: bytes before its data."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    at: int

    def check(self, size: int) -> None:
        """ValueError unless the array can be in a stream of so many bytes."""
        if any(type(n) is not int or n < 0 for n in self.shape):
            raise ValueError(f"no shape: {short(self.shape)}")
        needed = self.at + math.prod(self.shape) * self.dtype.itemsize
        if needed > size and not self.dtype.hasobject:  # objects are refused for what they are
            raise ValueError(f"{size:,} bytes where shape {short(list(self.shape))} needs {needed:,}")


def _header(file: io.BufferedIOBase | IO[bytes]) -> _Header:
    """Of a .npy stream, without its data; raises what is in _BROKEN."""
    head = io.BytesIO(file.read(_LONGEST_HEADER))  # a longer one is a lie, and would be read at once
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is no Python
        try:
            read = np.lib.format
            one = read.read_magic(head) == (1, 0)
            shape, fortran, dtype = (read.read_array_header_1_0 if one else read.read_array_header_2_0)(head)
        except Exception as error:  # whatever parsers of Python raise, which it is written in
            raise ValueError(_line(error)) from None
    return _Header(shape, fortran, dtype, head.tell())


def _headers(path: Path) -> tuple[dict[str, _Header], list[str]]:
    """Of the arrays in a .npz that matter, each of which can be as large as it says; and the names of all."""
    heads = {}
    with zipfile.ZipFile(path) as archive:
        most = bounds.most_inside(path.stat().st_size)
        names = archive.namelist()
        for key in (*PICTURE_KEYS, *LABEL_KEYS, "classes"):
            if (name := f"{key}.npy") not in names:
                continue
            info = archive.getinfo(name)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{key} is packed in a way that numpy never does")
            if info.file_size > most:
                raise ValueError(f"{key} unpacks to {amount(info.file_size)}, and so small a file to less")
            with archive.open(info) as file:
                heads[key] = _header(file)
            heads[key].check(info.file_size)
    return heads, [name.removesuffix(".npy") for name in names]


def _check_label_kind(where: str, labels: _Header | npt.NDArray[Any], count: int) -> None:
    if labels.shape not in ((count,), (count, 1)):
        raise UserError(
            f"{where}: shape {list(labels.shape)} for {count} pictures: give one class number a picture"
        )
    if labels.dtype.kind not in "iu":
        raise UserError(f"{where}: {labels.dtype} values: give class numbers 0, 1, 2, ... as integers")


def _check_name_kind(where: str, names: _Header) -> None:
    count = math.prod(names.shape)
    if names.dtype.kind not in "USiu" or count > _MOST_CLASSES or count * names.dtype.itemsize > _MOST_NAMES:
        raise UserError(
            f"{where}: {names.dtype} {list(names.shape)}: give at most {_MOST_CLASSES:,} names as an array of text"
        )


def _check_pictures(where: str, head: _Header) -> None:
    shape, dtype = head.shape, head.dtype
    if dtype.hasobject:
        raise UserError(f"{where}: Python objects, which are never unpickled: save the pictures as a uint8 array")
    if dtype.kind == "f":
        raise UserError(
            f"{where}: {dtype} values, but pictures are uint8 from 0 to 255: save "
            "(255 * x).round().astype('uint8') if x is in [0, 1], "
            "(127.5 * (x + 1)).round().astype('uint8') if it is in [-1, 1]"
        )
    if dtype != np.uint8:
        raise UserError(f"{where}: {dtype} values, but pictures are uint8 from 0 to 255: save x.astype('uint8')")
    three = len(shape) == 3 and shape[-1] > 4
    four = len(shape) == 4 and (_channels_last(shape) or shape[1] in (1, 3, 4))
    if not (three or four):
        raise UserError(
            f"{where}: shape {list(shape)}, but pictures are [N, H, W], [N, H, W, C] or [N, C, H, W] with "
            "C = 1, 3 or 4: reshape the array (one picture is x[None])"
        )
    if 0 in shape:
        raise UserError(f"{where}: shape {list(shape)} holds no picture: save at least one")


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:_LONGEST_REASON]
