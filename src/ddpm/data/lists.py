"""Pictures by a list of their files (CSV, JSON or JSONL, see `entries`), which may give their classes too.

Files are looked for from the list's own folder. The classes are the labels there are, integers in numerical
order, names by alphabet.
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
from PIL import Image

from ddpm.data import bounds, decode, digest
from ddpm.data.entries import LABEL_KEYS, Entry, parse
from ddpm.data.files import Part, Store
from ddpm.data.source import Source, printable
from ddpm.errors import UserError
from ddpm.reading import read_file
from ddpm.units import counted, listed

_MOST_DIGITS = 1000  # of an integer; Python turns no more than 4,300 into a number
LISTS = (".csv", ".tsv", ".json", ".jsonl")
# A folder or archive with one of these at its top is read by it.
WELL_KNOWN = ("dataset.json", "metadata.jsonl", "metadata.csv")
_SAY_NOTHING = ("dataset", "metadata", "labels", "list", "index", "files")  # of which pictures: their folder does


@final
class Paths:
    """The files of a list: their names are paths from its folder, or absolute."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, name: str) -> io.BufferedReader:
        return bounds.opened(self.place(name))

    def read(self, name: str) -> bytes:
        return bounds.read(self.place(name))

    def place(self, name: str) -> Path:
        return self._root / name

    def stamp(self, names: Sequence[str], shown: Sequence[str]) -> digest.Stamp:
        return digest.stamp((show, self._root / name) for name, show in zip(names, shown, strict=True))


@final
class ListSource(Source):
    """The files of a list, in its order; a file that is missing counts as a picture that cannot be read."""

    def __init__(
        self,
        store: Store | Paths,
        files: Sequence[str],
        shown: Sequence[str],
        name: str,
        classes: tuple[str, ...],
        labels: npt.NDArray[np.int64] | None,
        notes: tuple[str, ...],
    ) -> None:
        """files: names in the store; shown: what the list calls them."""
        super().__init__(name, classes, labels, notes)
        self._store, self._files, self._shown = store, tuple(files), tuple(shown)

    def __len__(self) -> int:
        return len(self._files)

    @contextmanager
    def opened(self, i: int) -> Iterator[Image.Image]:
        with _looked_for():
            file = self._store.open(self._files[i])
        with file, decode.opened(file) as image:
            yield image

    def describe(self, i: int) -> str:
        return printable(self._shown[i])

    def stored(self, i: int) -> bytes:
        with _looked_for():
            return self._store.read(self._files[i])

    def place(self, i: int) -> Path | None:
        return self._store.place(self._files[i])

    @property
    def filed(self) -> bool:
        return True

    def sealed(self, sums: Sequence[bytes]) -> str:
        return digest.named(self._shown, sums)

    def stamp(self) -> digest.Stamp:
        return self._store.stamp(self._files, self._shown)


@contextmanager
def _looked_for() -> Iterator[None]:
    """The reason in place of the path, which is the owner's own affair, or of an archive's KeyError."""
    try:
        yield
    except (FileNotFoundError, KeyError):
        raise FileNotFoundError("no such file") from None


def open_list(path: Path, name: str, labels: str, known: Collection[str] = ()) -> ListSource:
    """UserError where the list cannot be understood, names a class for only some, or none of its files is there.

    labels: auto or none; known: classes of other pictures, one of which is enough.
    """
    entries = parse(read_file(path, bounds.MOST), path.suffix.lower(), str(path))
    store = Paths(path.parent)
    files = [_portable(entry.file) for entry in entries]
    # Not Path.is_file, which raises for a name that is too long.
    if not any(os.path.isfile(store.place(file)) for file in files):  # noqa: PTH113
        raise UserError(
            f"{path}: none of its {counted(len(files), 'file')} is there (first: {store.place(files[0])}): "
            "list paths from the list's own folder, or absolute ones"
        )
    classes, index, notes = _classes(entries, printable(path.name), labels, known)
    if path.stem.lower() in _SAY_NOTHING:
        name = printable(path.resolve().parent.name) or name
    return ListSource(store, files, files, name, classes, index, notes)


def beside(
    store: Store, names: Sequence[tuple[str, ...]], depth: int, name: str, part: Part
) -> tuple[ListSource | None, tuple[str, ...]]:
    """Pictures of a store by a well-known list at its top, if it names a class for each; and what to say if not.

    names, depth: the pictures meant, as `files.arranged` gives them.
    """
    notes: list[str] = []
    if not names or not any(store.others[Path(known).suffix] for known in WELL_KNOWN):
        return None, ()
    for at in range(depth + 1):
        top = "".join(f"{folder}/" for folder in names[0][:at])
        for known in WELL_KNOWN:
            try:
                data = store.read(top + known)
            except (KeyError, FileNotFoundError, IsADirectoryError):
                continue
            except Exception as error:  # an encrypted or damaged member raises RuntimeError, BadZipFile, OSError
                notes.append(f"{known} left alone: {decode.fault(error, known)}")
                continue
            source, note = _by(store, data, known, top, names, depth, name, part)
            if source is not None:
                return source, ()
            notes.append(f"{known} left alone: {note}")
    return None, tuple(notes)


def _by(
    store: Store,
    data: bytes,
    file: str,
    top: str,
    names: Sequence[tuple[str, ...]],
    depth: int,
    name: str,
    part: Part,
) -> tuple[ListSource | None, str]:
    """The source by a list found in the store, or why it is none."""
    try:
        entries = parse(data, Path(file).suffix, file)
        number = {top + _portable(entry.file): entry for entry in entries}
        files = ["/".join(parts) for parts in names]
        missing = [file for file in files if file not in number]
        if missing:
            return None, f"{counted(len(missing), 'picture')} not in it, such as {missing[0]}"
        classes, index, notes = _classes([number[file] for file in files], file, "auto", part.known)
    except UserError as error:
        return None, str(error).removeprefix(f"{file}: ")
    if index is None:
        return None, "it names no classes"
    absent = len(number) - len(set(files))
    if absent and not (part.within or part.without):
        notes = (*notes, f"{counted(absent, 'file')} in {file} not there")
    shown = ["/".join(parts[depth:]) for parts in names]
    return ListSource(store, files, shown, name, classes, index, notes), ""


def numbered(
    labels: Sequence[str], known: Collection[str] = ()
) -> tuple[tuple[str, ...], npt.NDArray[np.int64] | None]:
    """Classes and each picture's number; none at all for a single class that is not known from elsewhere.

    Integers are sorted as numbers, names by alphabet.
    """
    names = set(labels)
    if not names or (len(names) < 2 and not names <= set(known)):
        return (), None
    whole = all(_is_integer(name) for name in names)
    classes = sorted(names, key=lambda name: (int(name), name)) if whole else sorted(names)
    number = {name: k for k, name in enumerate(classes)}
    return tuple(classes), np.array([number[label] for label in labels], dtype=np.int64)


def _classes(
    entries: Sequence[Entry], file: str, labels: str, known: Collection[str]
) -> tuple[tuple[str, ...], npt.NDArray[np.int64] | None, tuple[str, ...]]:
    if labels == "none":
        return (), None, ("no classes",)
    given = [entry.label for entry in entries if entry.label is not None]
    if not given:
        return (), None, (f"no classes: {file} has no labels ({', '.join(LABEL_KEYS)})",)
    if len(given) < len(entries):
        first = next(entry for entry in entries if entry.label is None)
        raise UserError(
            f"{file}, {first.at}: {first.file} has no label, as {len(entries) - len(given):,} of "
            f"{len(entries):,} have none: label every picture, or turn classes off (--labels none)"
        )
    classes, index = numbered(given, known)
    if index is None:
        return (), None, (f"no classes: all labels in {file} are {given[0]}",)
    return classes, index, (f"{counted(len(classes), 'class', 'classes')} from {file}: {listed(classes)}",)


def _portable(name: str) -> str:
    """Paths as they are written on Windows, too."""
    return name.replace("\\", "/").removeprefix("./")


def _is_integer(name: str) -> bool:
    return len(name) <= _MOST_DIGITS and name.removeprefix("-").isdecimal()
