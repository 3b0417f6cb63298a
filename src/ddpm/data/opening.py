"""DATA -> Source: an existing path first, then an embedded name, then an error that helps."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from ddpm.data import idx
from ddpm.data.arrays import open_npy, open_npz
from ddpm.data.embedded import embedded, open_embedded
from ddpm.data.files import SUFFIXES, Archive, FileSource, Folder
from ddpm.data.source import Source
from ddpm.errors import UserError

_ACCEPTED = (
    f"a folder or .zip of pictures ({' '.join(SUFFIXES)}), a .npz or .npy array, an IDX file or folder, "
    f"or an embedded set ({', '.join(embedded())})"
)
_LABELS = ("auto", "none")


def open_source(data: str | Path, labels: str = "auto") -> Source:
    """What DATA holds, looked at but not decoded.

    labels "auto" finds classes (sub-folders, label arrays), "none" turns them off. UserError says what is
    wrong with DATA and what would do.
    """
    if labels not in _LABELS:
        raise UserError(f"labels {labels!r}: give one of {', '.join(_LABELS)}")
    path = Path(data).expanduser()
    try:
        if path.is_dir():
            return _open_folder(path, labels)
        if path.exists():
            return _open_file(path, labels)
    except OSError as error:
        raise UserError(f"{data}: cannot be read ({error.strerror or error}): check its permissions") from None
    if str(data) in embedded():
        return open_embedded(str(data), labels)
    raise UserError(f"{data}: no such file or folder: give {_ACCEPTED}{_near(str(data), path)}")


def _open_folder(path: Path, labels: str) -> Source:
    # "." and ".." have no name of their own; links keep theirs.
    name = Path(os.path.abspath(path)).name or "data"  # noqa: PTH100
    store = Folder(path)
    if store.names:
        return FileSource(store, name, path, labels)
    files = idx.in_folder(path)
    if files:
        file, notes = idx.choose(path, files)
        return idx.open_idx(file, name, labels, notes)
    others = sorted(file.name for file in path.iterdir() if file.suffix.lower() in (".zip", ".npz", ".npy"))
    hint = f"; it holds {', '.join(others[:3])}: give that file" if others else ""
    raise UserError(f"{path}: no picture in this folder: give {_ACCEPTED}{hint}")


def _open_file(path: Path, labels: str) -> Source:
    name = path.name.removesuffix(".gz").rpartition(".")[0] or path.name.removesuffix(".gz")
    suffix = path.suffix.lower()
    if suffix == ".zip":
        store = Archive(path)
        if not store.names:
            raise UserError(f"{path}: no picture in this archive: put {' '.join(SUFFIXES)} files into it")
        return FileSource(store, name, path, labels)
    if suffix == ".npz":
        return open_npz(path, name, labels)
    if suffix == ".npy":
        return open_npy(path, name)
    if idx.axes(path) in (1, 3) or "idx3" in path.name:
        return idx.open_idx(path, name, labels)
    if suffix in SUFFIXES:
        raise UserError(f"{path}: a single picture: give the folder that holds it")
    raise UserError(f"{path}: not a data set that can be read: give {_ACCEPTED}")


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
