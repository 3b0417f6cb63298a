"""Decode once, then map: a folder in the cache holds every usable picture of a source as raw uint8.

    <cache>/pictures/<key>/pixels.u8     [N, C, H, W], or pictures [C, H_k, W_k] one after the other
    <cache>/pictures/<key>/shapes.i4     [N, 2], their heights and widths, where they differ (crop random)
    <cache>/pictures/<key>/index.json    counts, and which pictures were skipped and why
    <cache>/digests/<stamp>              the content's hash, so that unchanged files are not read again; under
                                         the stamp of names and sizes, which decides nothing, that of the last

The key is a hash of the content and of all that decides the pixels, so an entry never goes stale. It is
built in a folder of its own and renamed into place when whole; of two processes at it the first wins. A set
that would take too much of the disk is not kept but decoded as it is needed (`data.stream`).
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ddpm.atomic import flush_folder
from ddpm.data import decode, digest
from ddpm.data.digest import Advance, Stamp, workers_here
from ddpm.data.files import located
from ddpm.data.pictures import Cached, Pictures, Ragged
from ddpm.data.source import Source
from ddpm.data.stream import Streamed
from ddpm.errors import UserError

_FORMAT = 4  # goes up whenever the same file would decode to other pixels
_SHARE = 0.5  # of the free space, that decoded pictures may take unasked
_LOOKED_AT = 256
_PER_TASK = 16
_QUIET_SECONDS = 1.0
_STALE_SECONDS = 24 * 3600
_PARTIAL = ".partial"

Keep = Literal["auto", "always", "never"]
Progress = Callable[[str, int, int], None]  # ("reading" or "decoding", done, total)
Skipped = tuple[int, str, str]  # number in the source, name, reason
_Pixels = npt.NDArray[np.uint8]
_Task = tuple[list[_Pixels], list[Skipped], list[bytes], int]


def default_cache() -> Path:
    """$DDPM_CACHE, else $XDG_CACHE_HOME/ddpm, else ~/.cache/ddpm."""
    if own := os.environ.get("DDPM_CACHE"):
        return located(own)
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
    keep: Keep = "auto",
) -> Pictures:
    """Every usable picture at size (h, w) with 1 (grey), 3 (RGB) or 4 (RGBA) channels.

    keep: "always" decodes into the cache, or takes what is there; "never" decodes as batches need it; "auto"
    does the latter only for what `too_large` says is. workers: threads that decode, by default one a core.
    progress(stage, done, total) is called from this thread: stage "reading" while files are hashed, if that takes
    a while, then "decoding"; neither when nothing has changed since the last time. Files whose names and sizes
    were never seen are hashed as they are decoded, in one reading. UserError if no picture can be decoded or the
    cache cannot be written.
    """
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"size {'x'.join(map(str, size))}: give height and width of at least 1 pixel")
    if channels not in (1, 3, 4):
        raise UserError(f"channels {channels}: give 1 (grey), 3 (RGB) or 4 (RGB with transparency)")
    if workers is not None and workers < 1:
        raise UserError(f"workers {workers}: give at least 1")
    to = decode.Fit((size[0], size[1]), channels, crop, background)
    workers = workers or workers_here()
    home = cache or default_cache()
    stamp = source.stamp()
    if keep == "never":
        return _streamed(source, to, stamp, workers, "asked for")
    memo, seen = _memo(home, type(source).__name__, stamp.state), _memo(home, stamp.names)
    contents = digest.recall(memo)
    entry = None if contents is None else _open(_place(home, contents, to), len(source), to)
    if entry is None and keep == "auto" and (why := too_large(source, to, home)):
        return _streamed(source, to, stamp, workers, why)
    started = time.time()

    def remember(contents: str) -> None:
        digest.remember(seen, contents)
        if stamp.settled(started) and source.stamp() == stamp:
            digest.remember(memo, contents)

    # What was moved, packed or touched is most likely there already: to hash it takes a fraction of decoding it.
    if contents is None and (not source.filed or digest.recall(seen) is not None):
        contents = source.fingerprint(None if progress is None else _later(partial(progress, "reading")))
        remember(contents)
        entry = _open(_place(home, contents, to), len(source), to)
    if contents is None or entry is None:
        try:
            tell = None if progress is None else partial(progress, "decoding")
            whole, entry = _build(home, source, to, workers, tell, contents)
        except OSError as error:
            raise UserError(
                f"{home / 'pictures'}: the decoded pictures cannot be written ({error.strerror or error}): free "
                "space there, or name another folder in DDPM_CACHE"
            ) from None
        if contents is None:
            contents = whole
            remember(contents)
    return _kept(source, to, contents, entry)


def too_large(source: Source, to: decode.Fit, cache: Path | None = None) -> str:
    """Why a source's decoded pictures would take too much of the disk that the cache is on; "" if they would not.

    Too much is more than half of what is free.
    """
    home = cache or default_cache()
    needed, free = decoded_bytes(source, to), _free(home)
    if needed <= _SHARE * free:
        return ""
    return f"decoded it takes {_bytes(needed)}, more than half of the {_bytes(free)} free at {home}"


def decoded_bytes(source: Source, to: decode.Fit) -> int:
    """What a source takes in the cache; for crop random an estimate from the shapes of some of its pictures."""
    h, w = to.size
    area = float(h * w)
    if to.crop == "random":
        sizes = source.look(_LOOKED_AT).sizes
        areas = [float(np.prod(decode.window_shape(shape, to.size))) * n for shape, n in sizes.items()]
        area = sum(areas) / max(1, sizes.total()) if areas else area
    return round(len(source) * to.channels * area)


@dataclass(frozen=True)
class _Entry:
    pixels: npt.NDArray[np.uint8]  # [N, C, H, W], or flat with shapes
    shapes: npt.NDArray[np.int64] | None
    skipped: tuple[Skipped, ...]


def _kept(source: Source, to: decode.Fit, contents: str, entry: _Entry) -> Pictures:
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
    fingerprint = _fingerprint(_key(contents, to), source)
    skipped = tuple((name, reason) for _, name, reason in entry.skipped)
    about = (labels, source.classes, source.name, fingerprint, skipped, notes)
    if entry.shapes is None:
        return Cached(entry.pixels, *about)
    return Ragged(entry.pixels, entry.shapes, to.size, to.channels, *about)


def _streamed(source: Source, to: decode.Fit, stamp: Stamp, workers: int, why: str) -> Streamed:
    """Named by names and sizes alone: to read a set that large takes as long as an epoch."""
    fingerprint = _fingerprint(_key(stamp.names, to), source)
    notes = (*source.notes, f"decoded at every step instead of once: {why}")
    return Streamed(source, to, fingerprint, workers, notes)


def _memo(home: Path, *of: str) -> Path:
    return home / "digests" / digest.combined(part.encode() for part in of)[:32]


def _place(home: Path, contents: str, to: decode.Fit) -> Path:
    return home / "pictures" / _key(contents, to)[:32]


def _key(contents: str, to: decode.Fit) -> str:
    """64 hex digits over everything that decides the pixels."""
    parts = [_FORMAT, contents, to.size, to.channels, to.crop, decode.colour(to.background)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _fingerprint(key: str, source: Source) -> str:
    """64 hex digits over the pixels' key, the classes and the labels."""
    labels = b"" if source.labels is None else source.labels.astype("<i8").tobytes()
    parts = [key, list(source.classes), hashlib.sha256(labels).hexdigest()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _later(advance: Advance) -> Advance:
    """Says nothing of what is over within a second."""
    begun = time.monotonic()

    def told(done: int, total: int) -> None:
        if time.monotonic() - begun > _QUIET_SECONDS:
            advance(done, total)

    return told


def _free(folder: Path) -> int:
    """Bytes free on the disk of a folder that may not be there yet."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def _open(place: Path, total: int, to: decode.Fit) -> _Entry | None:
    """The entry if it is there and whole."""
    pixels = place / "pixels.u8"
    try:
        index = json.loads((place / "index.json").read_text())
        skipped = tuple((int(i), str(name), str(why)) for i, name, why in index["skipped"])
        shape: tuple[int, ...] = (total - len(skipped), to.channels, *to.size)
        shapes = None
        if to.crop == "random":
            shapes = np.fromfile(place / "shapes.i4", "<i4").reshape(shape[0], 2).astype(np.int64)
            if (shapes < to.size).any():
                return None
            shape = (to.channels * int(shapes.prod(axis=1).sum()),)
        if index["shape"] != list(shape) or pixels.stat().st_size != math.prod(shape):
            return None
        # A plain array on top of the map: numpy indexes it faster than a memmap.
        return _Entry(np.asarray(np.memmap(pixels, np.uint8, "r", shape=shape)), shapes, skipped)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(
    home: Path, source: Source, to: decode.Fit, workers: int, advance: Advance | None, contents: str | None
) -> tuple[str, _Entry]:
    """The contents' hash, worked out on the way where it is not given, and the entry."""
    root = home / "pictures"
    root.mkdir(parents=True, exist_ok=True)
    _sweep(root)
    unfinished = root / f"{uuid.uuid4().hex}{_PARTIAL}"
    unfinished.mkdir()
    try:
        skipped: list[Skipped] = []
        shapes: list[tuple[int, ...]] = []
        sums: list[bytes] = []
        done = 0
        # Closed by name, so that after Ctrl-C no thread still decodes when the folder goes.
        with (
            (unfinished / "pixels.u8").open("wb") as file,
            closing(_decoded(source, to, workers, contents is None)) as tasks,
        ):
            for kept, dropped, summed, tried in tasks:
                for pixels in kept:
                    file.write(pixels.data)
                    shapes.append(pixels.shape[1:])
                done += tried
                skipped += dropped
                sums += summed
                if advance is not None:
                    advance(done, len(source))
            _flush(file)
        if not shapes:
            raise _unusable(source, skipped)
        shape = [len(shapes), to.channels, *to.size]
        if to.crop == "random":
            table = np.array(shapes, "<i4")
            shape = [to.channels * int(table.prod(axis=1, dtype=np.int64).sum())]
            with (unfinished / "shapes.i4").open("wb") as file:
                file.write(table.data)
                _flush(file)
        index: dict[str, Any] = {"format": _FORMAT, "shape": shape, "skipped": skipped}
        with (unfinished / "index.json").open("w") as text:
            json.dump(index, text)
            _flush(text)
        if contents is None:
            contents = source.sealed(sums)
        return contents, _publish(unfinished, _place(home, contents, to), len(source), to)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _decoded(source: Source, to: decode.Fit, workers: int, hashed: bool) -> Generator[_Task, None, None]:
    """(pictures, skipped, each content's SHA-256 if `hashed`, how many tried) of each task, in the source's order.

    Threads, not processes: PIL decodes and resizes outside the interpreter lock, and nothing has to be copied
    between processes, started under `spawn`, or hunted down after Ctrl-C.
    """

    def some(first: int) -> _Task:
        kept: list[_Pixels] = []
        skipped: list[Skipped] = []
        sums: list[bytes] = []
        last = min(len(source), first + _PER_TASK)
        for i in range(first, last):
            try:
                kept.append(_summed(source, i, to, sums) if hashed else source.fitted(i, to))
            except Exception as error:  # PIL's readers raise almost anything for a broken file
                name = source.describe(i)
                skipped.append((i, name, decode.fault(error, name)))
        return kept, skipped, sums, last - first

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


def _summed(source: Source, i: int, to: decode.Fit, sums: list[bytes]) -> _Pixels:
    """Picture i of files, fitted, from the same reading as the SHA-256 that is put behind the others."""
    try:
        content = source.stored(i)
    except Exception as error:
        reason = decode.fault(error, source.describe(i))  # which stands for it in `content`, too
        sums.append(hashlib.sha256(reason.encode()).digest())
        raise
    sums.append(hashlib.sha256(content).digest())
    with decode.opened(io.BytesIO(content)) as image:
        return decode.fit(image, to)


def _publish(unfinished: Path, place: Path, total: int, to: decode.Fit) -> _Entry:
    """Move a finished entry to its place, unless a whole one is there already."""
    for _ in range(10):
        try:
            unfinished.rename(place)
            flush_folder(place.parent)
        except OSError:
            if not place.exists():
                raise
        entry = _open(place, total, to)
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
