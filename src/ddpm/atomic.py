"""A file or folder appears under its name whole, or not at all.

It is made beside its place under a hidden name, flushed to the disk, and renamed. A process killed in between
leaves at most a hidden `.….tmp`, which `sweep` removes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_REPLACED = ".old.tmp"


def write_json(path: Path, values: Any) -> None:
    """Writes values, whole or not at all."""
    write_bytes(path, (json.dumps(values, indent=2) + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, whole or not at all: beside it, flushed, then renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that appears under its name when the block ends well, replacing what was there, or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside, before = target.with_name(f".{target.name}.{os.getpid()}.tmp"), _aside(target)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        flush_folder(beside)
        if target.exists():
            shutil.rmtree(before, ignore_errors=True)
            target.rename(before)
        beside.rename(target)
        flush_folder(target.parent)
    finally:
        if before.exists() and not target.exists():
            before.rename(target)
        for path in (before, beside):
            shutil.rmtree(path, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Takes a folder from its name at once, then deletes it: a kill in between leaves no half of it."""
    gone = folder.with_name(f".{folder.name}.{os.getpid()}.gone.tmp")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _aside(target: Path) -> Path:
    """Where a folder waits while another takes its place."""
    return target.with_name(f".{target.name}.{os.getpid()}{_REPLACED}")


def sweep(folder: Path) -> None:
    """Removes what killed processes left half-made in a folder; nothing else may be writing there.

    A folder that one of them was about to replace gets its name back.
    """
    for path in folder.glob(f".*{_REPLACED}"):
        target = path.with_name(path.name[1:].removesuffix(_REPLACED).rpartition(".")[0])
        if not target.exists():
            path.rename(target)
    for path in folder.glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Makes a rename last through a power failure, where the system lets folders be flushed."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
