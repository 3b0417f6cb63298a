"""Decode once, then map: a folder in the cache holds every usable picture of a source as raw uint8.

    <cache>/pictures/<key>/pixels.u8     [N, C, H, W]
    <cache>/pictures/<key>/index.json    counts, and which pictures were skipped and why

The key is a hash of the content and of all that decides the pixels, so an entry never goes stale. It is
built in a folder of its own and renamed into place when whole; of two processes at it the first wins.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ddpm.atomic import flush_folder
from ddpm.data import decode
from ddpm.data.digest import workers_here
from ddpm.data.pictures import Pictures
from ddpm.data.source import Source
from ddpm.errors import UserError

_FORMAT = 1  # goes up whenever the same file would decode to other pixels
_PER_TASK = 16
_STALE_SECONDS = 24 * 3600
_PARTIAL = ".partial"

Progress = Callable[[int, int], None]
Skipped = tuple[int, str, str]  # number in the source, name, reason
_Task = tuple[list[npt.NDArray[np.uint8]], list[Skipped], int]


def default_cache() -> Path:
    """$DDPM_CACHE, else $XDG_CACHE_HOME/ddpm, else ~/.cache/ddpm."""
    if own := os.environ.get("DDPM_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ddpm"


def load(
    source: Source,
    size: tuple[int, int],
    channels: int,
    *,
    crop: decode.Crop = "centre",
    background: str = "white",
    cache: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Pictures:
    """Every usable picture at size (h, w) with 1 (grey) or 3 (RGB) channels, decoded or from the cache.

    workers: threads that decode, by default one a core; progress(done, total) is called from this thread, and
    not at all when the cache has the pictures. UserError if no picture can be decoded or the cache cannot be
    written.
    """
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"size {'x'.join(map(str, size))}: give height and width of at least 1 pixel")
    if channels not in (1, 3):
        raise UserError(f"channels {channels}: give 1 (grey) or 3 (RGB)")
    if workers is not None and workers < 1:
        raise UserError(f"workers {workers}: give at least 1")
    root = (cache or default_cache()) / "pictures"
    key = _key(source, size, channels)
    place = root / key[:32]
    entry = _open(place, len(source), size, channels)
    if entry is None:
        try:
            entry = _build(place, source, size, channels, workers or workers_here(), progress)
        except OSError as error:
            raise UserError(
                f"{root}: the decoded pictures cannot be written ({error.strerror or error}): free space "
                "there, or name another folder in DDPM_CACHE"
            ) from None
    left_out = {i for i, _, _ in entry.skipped}
    labels = source.labels
    if labels is not None and left_out:
        labels = labels[[i for i in range(len(source)) if i not in left_out]]
    notes = source.notes
    if left_out:
        notes = (
            *notes,
            f"{len(left_out):,} of {len(source):,} pictures could not be decoded and are left out",
        )
    skipped = tuple((name, reason) for _, name, reason in entry.skipped)
    return Pictures(entry.pixels, labels, source.classes, source.name, key, skipped, notes)


@dataclass(frozen=True)
class _Entry:
    pixels: npt.NDArray[np.uint8]
    skipped: tuple[Skipped, ...]


def _key(source: Source, size: tuple[int, int], channels: int) -> str:
    """64 hex digits over the source's content and classes and everything that decides the pixels."""
    parts = [_FORMAT, source.fingerprint(), list(source.classes), list(size), channels]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _open(place: Path, total: int, size: tuple[int, int], channels: int) -> _Entry | None:
    """The entry if it is there and whole."""
    pixels = place / "pixels.u8"
    try:
        index = json.loads((place / "index.json").read_text())
        skipped = tuple((int(i), str(name), str(why)) for i, name, why in index["skipped"])
        shape = (total - len(skipped), channels, *size)
        if index["shape"] != list(shape) or pixels.stat().st_size != int(np.prod(shape)):
            return None
        # A plain array on top of the map: numpy indexes it faster than a memmap.
        return _Entry(np.asarray(np.memmap(pixels, np.uint8, "r", shape=shape)), skipped)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(
    place: Path, source: Source, size: tuple[int, int], channels: int, workers: int, progress: Progress | None
) -> _Entry:
    place.parent.mkdir(parents=True, exist_ok=True)
    _sweep(place.parent)
    partial = place.with_name(f"{place.name}.{uuid.uuid4().hex[:12]}{_PARTIAL}")
    partial.mkdir()
    try:
        skipped: list[Skipped] = []
        count = done = 0
        # Closed by name, so that after Ctrl-C no thread still decodes when the folder goes.
        with (
            (partial / "pixels.u8").open("wb") as file,
            closing(_decoded(source, size, channels, workers)) as tasks,
        ):
            for kept, dropped, tried in tasks:
                for pixels in kept:
                    file.write(pixels.data)
                count, done = count + len(kept), done + tried
                skipped += dropped
                if progress is not None:
                    progress(done, len(source))
            _flush(file)
        if not count:
            raise _unusable(source, skipped)
        index: dict[str, Any] = {"format": _FORMAT, "shape": [count, channels, *size], "skipped": skipped}
        with (partial / "index.json").open("w") as text:
            json.dump(index, text)
            _flush(text)
        return _publish(partial, place, len(source), size, channels)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _decoded(source: Source, size: tuple[int, int], channels: int, workers: int) -> Generator[_Task, None, None]:
    """(pictures, skipped, how many tried) of each task, in the source's order.

    Threads, not processes: PIL decodes and resizes outside the interpreter lock, and nothing has to be copied
    between processes, started under `spawn`, or hunted down after Ctrl-C.
    """

    def some(first: int) -> _Task:
        kept, skipped = [], []
        last = min(len(source), first + _PER_TASK)
        for i in range(first, last):
            try:
                kept.append(source.fitted(i, decode.Fit(size, channels)))
            except UserError:
                raise
            except Exception as error:  # PIL's readers raise almost anything for a broken file
                skipped.append((i, source.describe(i), decode.reason(error)))
        return kept, skipped, last - first

    pool = ThreadPoolExecutor(workers)
    ahead: deque[Future[_Task]] = deque()
    try:
        for first in range(0, len(source), _PER_TASK):
            ahead.append(pool.submit(some, first))
            if len(ahead) > 4 * workers:  # enough to keep all busy, little enough to keep in memory
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _publish(partial: Path, place: Path, total: int, size: tuple[int, int], channels: int) -> _Entry:
    """Move a finished entry to its place, unless a whole one is there already."""
    for _ in range(10):
        try:
            partial.rename(place)
            flush_folder(place.parent)
        except OSError:
            if not place.exists():
                raise
        entry = _open(place, total, size, channels)
        if entry is not None:
            return entry
        # What lies there is damaged. Moved aside first: who has it mapped keeps it, nobody finds half of it.
        aside = place.with_name(f"{place.name}.{uuid.uuid4().hex[:12]}{_PARTIAL}")
        with suppress(FileNotFoundError):  # somebody else has done so
            place.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    raise OSError(f"{place} keeps being damaged")


def _sweep(root: Path) -> None:
    """Remove what killed processes left; a running one has written to its file less than a day ago."""
    for folder in root.glob(f"*{_PARTIAL}"):
        try:
            newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
        except OSError:  # its owner has just removed or renamed it
            continue
        if time.time() - newest > _STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _unusable(source: Source, skipped: list[Skipped]) -> UserError:
    _, name, why = skipped[0]
    return UserError(
        f"{source.name}: none of its {len(source):,} pictures can be decoded (first: {name}: {why}): "
        "give other DATA"
    )


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
