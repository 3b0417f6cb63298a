"""Pictures as files, in a folder or a zip of one: the two behave alike."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import final

import numpy as np
import numpy.typing as npt
from PIL import Image

from ddpm.data import decode, digest
from ddpm.data.source import Source
from ddpm.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_SPLITS = {"train", "test", "val", "valid", "validation"}
_NAMES_SHOWN = 12


@final
class Folder:
    """The pictures in a folder at any depth, links followed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.names, self.others = _sorted_out(_walk(root, "", set()))

    def open(self, name: str) -> io.BufferedReader:
        return (self._root / name).open("rb")

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()


@final
class Archive:
    """The pictures in a zip, read in place; UserError if it is broken."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, EOFError) as error:
            raise UserError(f"{path}: not a whole zip archive ({error}): copy or download it again") from None
        self.names, self.others = _sorted_out(dict.fromkeys(self._zip.namelist()))

    def open(self, name: str) -> io.BytesIO:
        return io.BytesIO(self.read(name))

    def read(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        except zlib.error as error:
            raise zipfile.BadZipFile(f"damaged in the archive: {error}") from None


# Names have / between their parts; reading is safe from several threads.
Store = Folder | Archive


@final
class FileSource(Source):
    """Picture files of a store, sorted by the parts of their names; first-level folders are classes."""

    def __init__(self, store: Store, name: str, where: Path, labels: str) -> None:
        """where: what the user gave, for messages; labels: auto or none."""
        names = sorted(PurePosixPath(n).parts for n in store.names)
        depth = _shared_depth(names)
        self._store = store
        self._files = ["/".join(parts) for parts in names]
        self._shown = ["/".join(parts[depth:]) for parts in names]
        classes, index, notes = _classes([parts[depth:] for parts in names], where, labels)
        if store.others:
            listed = ", ".join(f"{n:,} {suffix or 'without ending'}" for suffix, n in store.others.most_common())
            notes = (*notes, f"other files are left alone: {listed}")
        super().__init__(name, classes, index, notes)

    def __len__(self) -> int:
        return len(self._files)

    @contextmanager
    def opened(self, i: int) -> Iterator[Image.Image]:
        with self._store.open(self._files[i]) as file, Image.open(file, formats=decode.FORMATS) as image:
            yield image

    def describe(self, i: int) -> str:
        return self._shown[i]

    def fingerprint(self) -> str:
        contents = digest.of_parts(len(self), self._readable)
        names = (hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in self._shown)
        return digest.combined(part for pair in zip(names, contents, strict=True) for part in pair)

    def _readable(self, i: int) -> bytes:
        """The bytes, or the reason why there are none: what cannot be read is skipped later, by name."""
        try:
            return self._store.read(self._files[i])
        except Exception as error:  # an encrypted or damaged member raises RuntimeError, BadZipFile, OSError
            return decode.reason(error).encode()


def _sorted_out(names: Iterable[str]) -> tuple[list[str], Counter[str]]:
    """The pictures among file names, and how many others there are of each ending; hidden ones do not count."""
    pictures: list[str] = []
    others: Counter[str] = Counter()
    for name in names:
        path = PurePosixPath(name)
        if name.endswith("/") or any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
            continue
        if name.lower().endswith(SUFFIXES):
            pictures.append(name)
        else:
            others[path.suffix.lower()] += 1
    return pictures, others


def _walk(folder: Path, prefix: str, above: set[tuple[int, int]]) -> Iterator[str]:
    """Names of files below a folder; `above` holds the folders we are in: a link to one of them ends."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", above | {here})
            elif entry.is_file():
                yield prefix + entry.name


def _shared_depth(names: Sequence[tuple[str, ...]]) -> int:
    """How many leading folders all pictures share, so that photos/photos/cat/1.jpg has classes too."""
    if not names:
        return 0
    depth, longest = 0, min(len(parts) for parts in names) - 1
    while depth < longest and len({parts[depth] for parts in names}) == 1:
        depth += 1
    return depth


def _classes(
    names: Sequence[tuple[str, ...]], where: Path, labels: str
) -> tuple[tuple[str, ...], npt.NDArray[np.int64] | None, tuple[str, ...]]:
    classes = sorted({parts[0] for parts in names if len(parts) > 1})
    if labels == "none" or len(classes) < 2:
        return (), None, ("no classes",)
    beside = [parts[0] for parts in names if len(parts) == 1]
    if beside:
        raise UserError(
            f"{where}: {_count(len(beside), 'picture')} (such as {beside[0]}) beside the class folders "
            f"{_listed(classes)}: move every picture into a class folder, or turn classes off (--labels none)"
        )
    number = {name: k for k, name in enumerate(classes)}
    index = np.array([number[parts[0]] for parts in names], dtype=np.int64)
    notes = [f"{len(classes)} classes from sub-folders: {_listed(classes)}"]
    if {name.lower() for name in classes} <= _SPLITS:
        notes.append(f"these sub-folders look like splits, not classes: give {where / classes[0]} for one of them")
    return tuple(classes), index, tuple(notes)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
