"""Pictures as files, in a folder or a zip or tar of one: they behave alike."""

from __future__ import annotations

import heapq
import io
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import final

import numpy as np
import numpy.typing as npt
from PIL import Image

from ddpm.data import bounds, decode, digest
from ddpm.data.source import Source, printable, unsuitable
from ddpm.data.tar import Members, name_inside
from ddpm.errors import UserError
from ddpm.units import amount, counted, listed

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
SPLITS = {"train", "test", "val", "valid", "validation"}


@final
class Folder:
    """The pictures in a folder at any depth, links followed.

    Each folder is read once, by its own name, or that of the first link to it; other links to it count among the
    others. What is neither file nor folder, as a pipe, is a picture that cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._prefix = root, f"{root}{os.sep}"  # text: of a million files each costs a Path's time
        names, again = _walk(root)
        self.names, self.others = _sorted_out(names)
        if again:
            self.others["links to folders that are read already"] += again

    def open(self, name: str) -> io.BufferedReader:
        return bounds.opened(self._prefix + name)

    def read(self, name: str) -> bytes:
        return bounds.read(self._prefix + name)

    def place(self, name: str) -> Path | None:
        return self._root / name

    def stamp(self, names: Sequence[str], shown: Sequence[str]) -> digest.Stamp:
        return digest.stamp((show, self._prefix + name) for name, show in zip(names, shown, strict=True))


@final
class Archive:
    """The pictures in a zip, read in place; UserError if it is broken, or a bomb."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except OSError:
            raise
        except Exception as error:  # headers that lie make it raise almost anything
            why = decode.reason(error)
            raise UserError(f"{path}: not a whole zip archive ({why}): copy or download it again") from None
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            stored = info.filename.replace("\\", "/")  # as some programs on Windows write it
            if not stored.endswith("/"):
                self._infos[name_inside(stored)] = info
        self.names, self.others = _sorted_out(self._infos)
        size, most = (
            sum(self._infos[name].file_size for name in self.names),
            bounds.most_inside(path.stat().st_size),
        )
        if size > most:
            raise UserError(
                f"{path}: unpacks to {amount(size)} of pictures, and so small an archive to {amount(most)} at the "
                "most: give the folder itself"
            )

    def open(self, name: str) -> io.BytesIO:
        return io.BytesIO(self.read(name))

    def read(self, name: str) -> bytes:
        info, data = self._infos[name], bytearray()
        bounds.check_size(info.file_size)
        # Bit by bit, since zipfile unpacks all that it is asked for before it looks at the size. Of what is not
        # deflated it asks no size at all: 4 KiB are at the most 80 MB.
        some = 1 << 18 if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else 1 << 12
        try:
            with self._zip.open(info) as file:
                while part := file.read(some):
                    data += part
        except zlib.error as error:
            raise zipfile.BadZipFile(f"damaged in the archive: {error}") from None
        except MemoryError:
            if info.compress_type != zipfile.ZIP_LZMA:  # which says how much memory it wants, up to 4 GiB
                raise
            raise zipfile.BadZipFile("wants more memory than there is to be unpacked") from None
        return bytes(data)

    def place(self, name: str) -> Path | None:
        return None

    def stamp(self, names: Sequence[str], shown: Sequence[str]) -> digest.Stamp:
        sizes = [self._infos[name].file_size for name in names]
        return digest.stamp([("", self._path)], zip(shown, sizes, strict=True))


@final
class Tar:
    """The pictures in a tar; a compressed one is unpacked into a file in `scratch` that is gone with the process.

    UserError if it is broken or cannot be unpacked.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        self._path, self._members = path, Members(path, scratch)
        self.names, self.others = _sorted_out(self._members.names)

    def open(self, name: str) -> io.BytesIO:
        return io.BytesIO(self.read(name))

    def read(self, name: str) -> bytes:
        return self._members.read(name)

    def place(self, name: str) -> Path | None:
        return None

    def stamp(self, names: Sequence[str], shown: Sequence[str]) -> digest.Stamp:
        sizes = [self._members.size(name) for name in names]
        return digest.stamp([("", self._path)], zip(shown, sizes, strict=True))


def located(data: str | Path) -> Path:
    """The path that DATA is; ~ is home, and ~name that of a user, if there is one of that name."""
    return Path(os.path.expanduser(data))  # noqa: PTH111  # Path.expanduser raises where there is none


def present(path: Path) -> bool:
    """Whether there is something; a name too long for one, or behind a closed door, is not there either."""
    return os.path.exists(path)  # noqa: PTH110  # Path.exists raises


# Names have / between their parts; reading is safe from several threads.
Store = Folder | Archive | Tar


@final
@dataclass(frozen=True)
class Part:
    """Which pictures of a set are meant: those in a first-level sub-folder, all others, or all there are.

    known: classes that other pictures have; a single folder with such a name is a class too.
    """

    within: str = ""
    without: str = ""
    known: tuple[str, ...] = ()


WHOLE = Part()


@final
class FileSource(Source):
    """Picture files of a store, sorted by the parts of their names; first-level folders are classes."""

    def __init__(
        self,
        store: Store,
        name: str,
        where: Path,
        labels: str,
        part: Part = WHOLE,
        remarks: tuple[str, ...] = (),
    ) -> None:
        """where: what the user gave, for messages; labels: auto or none; remarks: further notes."""
        names, depth, class_depth = arranged(store.names, part)
        self._store = store
        self._files = ["/".join(parts) for parts in names]
        self._shown = ["/".join(parts[depth:]) for parts in names]
        classes, index, notes = _classes([parts[class_depth:] for parts in names], where, labels, part.known)
        if store.others:
            others = ", ".join(f"{n:,} {suffix or 'without ending'}" for suffix, n in store.others.most_common())
            notes = (*notes, f"other files are left alone: {others}")
        super().__init__(name, classes, index, (*notes, *remarks))

    def __len__(self) -> int:
        return len(self._files)

    @contextmanager
    def opened(self, i: int) -> Iterator[Image.Image]:
        with self._store.open(self._files[i]) as file, decode.opened(file) as image:
            yield image

    def describe(self, i: int) -> str:
        return printable(self._shown[i])

    def stored(self, i: int) -> bytes:
        return self._store.read(self._files[i])

    @property
    def filed(self) -> bool:
        return True

    def sealed(self, sums: Sequence[bytes]) -> str:
        return digest.named(self._shown, sums)

    def stamp(self) -> digest.Stamp:
        return self._store.stamp(self._files, self._shown)

    def place(self, i: int) -> Path | None:
        return self._store.place(self._files[i])


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


def _walk(root: Path) -> tuple[list[str], int]:
    """Names of what is no folder below one, and how many links lead to folders that have been read by then.

    A link to nothing counts as a file, one that cannot be read. Links wait until all folders are read that have a
    name of their own, and then come in alphabetical order: what is found does not depend on the disk's order.
    """
    found: list[str] = []
    folders, again = [("", str(root))], 0
    links: list[tuple[str, str]] = []
    read: set[tuple[int, int]] = set()
    while folders or links:
        prefix, folder = folders.pop() if folders else heapq.heappop(links)
        status = os.stat(folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in read:
            again += 1
            continue
        read.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                name = prefix + entry.name
                if not entry.is_symlink():
                    folders.append((f"{name}/", entry.path)) if entry.is_dir() else found.append(name)
                elif os.path.isdir(entry.path):  # noqa: PTH112
                    heapq.heappush(links, (f"{name}/", entry.path))
                else:
                    found.append(name)
    return found, again


def first_level(names: Iterable[str]) -> list[str]:
    """The sub-folders a set divides into, sorted; folders that hold all of it are stepped through."""
    split, depth, _ = arranged(names, WHOLE)
    return sorted({parts[depth] for parts in split if len(parts) > depth + 1})


def arranged(names: Iterable[str], part: Part) -> tuple[list[tuple[str, ...]], int, int]:
    """The parts of the names meant, sorted, and how many lead to what is shown, and to the class folders.

    Where one split is left out and all that remains lies in others (train, val), classes lie below those.
    """
    split = sorted(PurePosixPath(name).parts for name in names)
    depth = _shared_depth(split, part.known)
    if part.within or part.without:
        within = [parts for parts in split if len(parts) > depth + 1 and parts[depth] == part.within]
        split = within or [p for p in split if len(p) <= depth + 1 or p[depth] != part.without]
        depth = _shared_depth(split, part.known)
    class_depth = depth
    if part.without and {p[depth].lower() if len(p) > depth + 1 else "" for p in split} <= SPLITS:
        class_depth += 1 + _shared_depth([parts[depth + 1 :] for parts in split], part.known)
    return split, depth, class_depth


def _shared_depth(names: Sequence[tuple[str, ...]], known: Collection[str] = ()) -> int:
    """How many leading folders all pictures share, so that photos/photos/cat/1.jpg has classes too."""
    if not names:
        return 0
    depth, longest = 0, min(len(parts) for parts in names) - 1
    while depth < longest and names[0][depth] not in known and len({parts[depth] for parts in names}) == 1:
        depth += 1
    return depth


def _classes(
    names: Sequence[tuple[str, ...]], where: Path, labels: str, known: Collection[str] = ()
) -> tuple[tuple[str, ...], npt.NDArray[np.int64] | None, tuple[str, ...]]:
    classes = sorted({parts[0] for parts in names if len(parts) > 1})
    if labels == "none" or not (len(classes) > 1 or (classes and set(classes) <= set(known))):
        return (), None, ("no classes",)
    beside = [parts[0] for parts in names if len(parts) == 1]
    if beside:
        raise UserError(
            f"{where}: {counted(len(beside), 'picture')} (such as {beside[0]}) beside the class folders "
            f"{listed(classes)}: move every picture into a class folder, or turn classes off (--labels none)"
        )
    for name in classes:
        if why := unsuitable(name):
            raise UserError(f"{where}: a class folder's name {why} ({printable(name)}): rename it")
    number = {name: k for k, name in enumerate(classes)}
    index = np.array([number[parts[0]] for parts in names], dtype=np.int64)
    notes = [f"{counted(len(classes), 'class', 'classes')} from sub-folders: {listed(classes)}"]
    if {name.lower() for name in classes} <= SPLITS:
        held = next((name for name in ("test", *classes) if name in classes and name != "train"), classes[0])
        notes.append(
            f"these sub-folders look like splits, not classes: --holdout {held} keeps that one out of training, "
            "and takes classes from the folders below"
        )
    return tuple(classes), index, tuple(notes)
