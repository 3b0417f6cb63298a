"""DATA -> Source: an existing path first, then an embedded name, the hub's data sets, then an error that helps."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ddpm.data import hub, idx, lists
from ddpm.data.arrays import open_npy, open_npz
from ddpm.data.cache import default_cache
from ddpm.data.embedded import embedded, open_embedded
from ddpm.data.files import (
    SUFFIXES,
    WHOLE,
    Archive,
    FileSource,
    Folder,
    Part,
    Store,
    Tar,
    arranged,
    first_level,
    located,
    present,
)
from ddpm.data.source import Source, called
from ddpm.data.tar import TARS
from ddpm.errors import UserError
from ddpm.reading import check_file

_FILES = (".zip", ".npz", ".npy", ".parquet", *TARS, *lists.LISTS)
_ACCEPTED = (
    f"a folder, .zip or .tar of pictures, a list of files ({' '.join(lists.LISTS)}), a .npz, .npy, .parquet or "
    f"IDX file, a data set of the hub (hub:org/name), or an embedded set ({', '.join(embedded())})"
)
_LABELS = ("auto", "none")


@dataclass(frozen=True)
class Found:
    """DATA, looked at: open(part) gives its pictures or a part of them, parts() the names parts go by."""

    open: Callable[[Part], Source]
    parts: Callable[[], Sequence[str]] = tuple


def open_source(data: str | Path, labels: str = "auto") -> Source:
    """What DATA holds, looked at but not decoded.

    labels "auto" finds classes (sub-folders, label arrays, lists, columns), "none" turns them off. UserError says
    what is wrong with DATA and what would do.
    """
    return find(data, labels).open(WHOLE)


def find(data: str | Path, labels: str = "auto") -> Found:
    """DATA and the parts it has: first-level sub-folders, or the splits of a table; UserError if there is none."""
    if labels not in _LABELS:
        raise UserError(f"labels {labels!r}: give one of {', '.join(_LABELS)}")
    if not str(data):  # which as a path is the folder one stands in, as of a variable that is not set
        raise UserError(f"DATA: is empty: give {_ACCEPTED}")
    path = located(data)
    with _reading(data):
        if path.is_dir():
            return _guarded(_folder(path, labels), data)
        if path.exists():
            check_file(path)
            return _guarded(_file(path, labels), data)
    if str(data) in embedded():
        return Found(lambda part: open_embedded(str(data), labels, part.known))
    if _on_hub(str(data)):
        return _tables(hub.on_hub(str(data)), labels)
    raise UserError(f"{data}: no such file or folder: give {_ACCEPTED}{_near(str(data), path)}")


@contextmanager
def _reading(data: str | Path) -> Iterator[None]:
    """What a disk refuses in the block is a mistake with DATA, or a file in it."""
    try:
        yield
    except OSError as error:
        mend = "change its permissions" if isinstance(error, PermissionError) else "mend it or take it out"
        raise UserError(f"{error.filename or data}: cannot be read ({error.strerror or error}): {mend}") from None


def _guarded(found: Found, data: str | Path) -> Found:
    def opened(part: Part) -> Source:
        with _reading(data):
            return found.open(part)

    return Found(opened, found.parts)


def is_data(data: str) -> bool:
    """Whether DATA is there, or would be looked for on the hub."""
    return present(located(data)) or data in embedded() or _on_hub(data)


def _on_hub(data: str) -> bool:
    """hub:... always, org/name unless it names a kind of file or a place in a folder that is here."""
    if data.startswith(hub.PREFIX):
        return True
    named = data.lower().endswith((*_FILES, *SUFFIXES))
    return hub.address(data) is not None and not named and not Path(data).parent.exists()


def _folder(path: Path, labels: str) -> Found:
    # "." and ".." have no name of their own; links keep theirs.
    name = called(Path(os.path.abspath(path)).name)  # noqa: PTH100
    if hub.is_saved(path):
        return _tables(hub.saved(path, name), labels)
    store = Folder(path)
    if store.names:
        return _store(store, name, path, labels)
    files = idx.in_folder(path)
    if files:
        file, notes = idx.choose(path, files)
        return Found(lambda part: idx.open_idx(file, name, labels, notes, part.known))
    if store.others[".parquet"]:
        return _tables(hub.parquet(path, name), labels)
    others = sorted(f.name for f in path.iterdir() if f.name.lower().endswith(_FILES))
    hint = f"; it holds {', '.join(others[:3])}: give that file" if others else ""
    raise UserError(f"{path}: no picture in this folder: give {_ACCEPTED}{hint}")


def _file(path: Path, labels: str) -> Found:
    name = path.name.removesuffix(".gz").rpartition(".")[0] or path.name.removesuffix(".gz")
    suffix = path.suffix.lower()
    tar = next((ending for ending in TARS if path.name.lower().endswith(ending)), "")
    if tar:
        name = path.name[: -len(tar)] or path.name
    name = called(name)
    if suffix == ".zip" or tar:
        store = Tar(path, default_cache()) if tar else Archive(path)
        if not store.names:
            raise UserError(f"{path}: no picture in this archive: put {' '.join(SUFFIXES)} files into it")
        return _store(store, name, path, labels)
    if suffix == ".npz":
        return Found(lambda part: open_npz(path, name, labels, part.known))
    if suffix == ".npy":
        return Found(lambda part: open_npy(path, name))
    if suffix == ".parquet":
        return _tables(hub.parquet(path, name), labels)
    if suffix in lists.LISTS:
        return Found(lambda part: lists.open_list(path, name, labels, part.known))
    if idx.axes(path) in (1, 3) or "idx3" in path.name:
        return Found(lambda part: idx.open_idx(path, name, labels, known=part.known))
    if suffix in SUFFIXES:
        raise UserError(f"{path}: a single picture: give the folder that holds it")
    raise UserError(f"{path}: not a data set that can be read: give {_ACCEPTED}")


def _store(store: Store, name: str, where: Path, labels: str) -> Found:
    def opened(part: Part) -> Source:
        notes: tuple[str, ...] = ()
        if labels != "none":
            names, depth, _ = arranged(store.names, part)
            source, notes = lists.beside(store, names, depth, name, part)
            if source is not None:
                return source
        return FileSource(store, name, where, labels, part, notes)

    return Found(opened, lambda: first_level(store.names))


def _tables(tables: hub.Tables, labels: str) -> Found:
    return Found(
        lambda part: hub.open_table(tables, labels, part), lambda: [name for name in tables.by_split if name]
    )


def _near(data: str, path: Path) -> str:
    """Did you mean ...: embedded sets, and what lies where the path would."""
    parent = path.parent
    try:
        beside = [file.name for file in parent.iterdir() if not file.name.startswith(".")]
    except OSError:
        beside = []
    sets = difflib.get_close_matches(data, embedded(), n=1, cutoff=0.6)
    found = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.6)
    names = [*sets, *(str(parent / name) for name in found)]
    return f"; did you mean {' or '.join(names)}?" if names else ""
