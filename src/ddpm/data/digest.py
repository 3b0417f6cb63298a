"""What files are: a hash of their contents, read in parallel, and a stamp of their names, sizes and times.

The contents decide what a set is; the stamp tells, without reading it, whether it is still the same files.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

from ddpm.atomic import write_bytes

_BLOCK = 8 << 20
_PARTS_PER_TASK = 64
_SETTLED_SECONDS = 3.0
_HEX = re.compile(r"[0-9a-f]{64}\n")

Advance = Callable[[int, int], None]  # (done, total)


@final
@dataclass(frozen=True)
class Stamp:
    """Files, unread. Both are 64 hex digits.

    names: of names and sizes, so it outlives a move or a copy; state: of paths, sizes and times too, so it
    changes with every edit but one that keeps size and times; newest: the last change, in seconds since 1970.
    """

    names: str
    state: str
    newest: float

    def settled(self, started: float) -> bool:
        """Whether the state tells a later edit from what was read from `started` on, in seconds since 1970.

        Not where a file was changed just before: a second edit might leave it the same times.
        """
        return self.newest < started - _SETTLED_SECONDS


def workers_here() -> int:
    """The CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def combined(digests: Iterable[bytes]) -> str:
    """64 hex digits over digests in order."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


def named(names: Iterable[str], sums: Iterable[bytes]) -> str:
    """64 hex digits over digests in order, each with the name of what it is of."""
    hashed = (hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names)
    return combined(part for pair in zip(hashed, sums, strict=True) for part in pair)


def of_parts(
    count: int,
    read: Callable[[int], bytes],
    parts_per_task: int = _PARTS_PER_TASK,
    advance: Advance | None = None,
) -> list[bytes]:
    """SHA-256 of read(0) ... read(count - 1); hashing lets go of the interpreter lock, so threads serve.

    advance(done, count) is called from this thread.
    """

    def some(first: int) -> list[bytes]:
        last = min(count, first + parts_per_task)
        return [hashlib.sha256(read(i)).digest() for i in range(first, last)]

    digests: list[bytes] = []
    with ThreadPoolExecutor(workers_here()) as pool:
        try:
            for task in pool.map(some, range(0, count, parts_per_task)):
                digests += task
                if advance is not None:
                    advance(len(digests), count)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C nobody waits for the rest
            raise
    return digests


def of_files(paths: Sequence[Path], advance: Advance | None = None) -> str:
    """64 hex digits over the contents of files, whatever they are called."""
    blocks = [(path, at) for path in paths for at in range(0, path.stat().st_size, _BLOCK)]

    def read(i: int) -> bytes:
        path, at = blocks[i]
        with path.open("rb") as file:
            file.seek(at)
            return file.read(_BLOCK)

    lengths = ",".join(str(path.stat().st_size) for path in paths).encode()
    return combined([hashlib.sha256(lengths).digest(), *of_parts(len(blocks), read, 1, advance)])


def stamp(files: Iterable[tuple[str, str | Path]], parts: Iterable[tuple[str, int]] | None = None) -> Stamp:
    """The stamp of files, each with the name it goes by; `parts`, the names and sizes of what an archive holds,
    stand in for the files' own. A file that is not there counts with size -1.
    """
    names, state, newest = hashlib.sha256(), hashlib.sha256(), 0
    for name, path in files:
        # The change time (of the inode) gives away an edit whose writer has put the old mtime back.
        try:
            status = os.stat(path)  # noqa: PTH116
            size, times = status.st_size, (status.st_mtime_ns, status.st_ctime_ns)
        except OSError:
            size, times = -1, (0, 0)
        newest = max(newest, *times)
        if parts is None:
            names.update(_line(name, size))
        state.update(_line(name, os.path.abspath(path), size, *times))  # noqa: PTH100
    for name, size in parts or ():
        names.update(_line(name, size))
    state.update(names.digest())
    return Stamp(names.hexdigest(), state.hexdigest(), newest / 1e9)


def together(stamps: Sequence[Stamp]) -> Stamp:
    """The stamp of several sets as one."""
    return Stamp(
        combined(bytes.fromhex(one.names) for one in stamps),
        combined(bytes.fromhex(one.state) for one in stamps),
        max((one.newest for one in stamps), default=0.0),
    )


def recall(memo: Path) -> str | None:
    """The hash that was remembered in a file."""
    try:
        text = memo.read_text()
    except (OSError, ValueError):
        return None
    return text.strip() if _HEX.fullmatch(text) else None


def remember(memo: Path, digest: str) -> None:
    """Keeps the hash in a file."""
    with suppress(OSError):  # a memo that cannot be written costs time, nothing else
        memo.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(memo, f"{digest}\n".encode())


def _line(*values: str | int) -> bytes:
    """Values in one piece that no others give: a name holds no zero byte."""
    return "\0".join([*map(str, values), "\n"]).encode("utf-8", "surrogateescape")
