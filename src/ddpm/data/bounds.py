"""What files may ask of a machine, whatever they say: how much is read, how much is in memory at a time.

Pipes and devices are not read at all, since they do not end. A packed file that is large inside, and hundreds of
times its own size, was made to fill memory and disks: of pictures, only empty ones pack so well.
"""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

MOST = 1 << 30
"""Bytes of the file of one picture, or of a list, at the most."""
_RATIO = 200
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def opened(path: str | Path) -> io.BufferedReader:
    """A picture's file, open; OSError for what is none, as a pipe, which would be waited for."""
    status = os.stat(path)  # noqa: PTH116  # a third of Path.stat's time
    if stat.S_ISREG(status.st_mode):
        if not status.st_size:  # such as the kernel's own files, of which some wait for something to tell
            raise OSError("an empty file")
        check_size(status.st_size)
    elif not stat.S_ISDIR(status.st_mode):  # of which open knows itself
        raise OSError(f"is {_KINDS.get(stat.S_IFMT(status.st_mode), 'a device')}, not a file")
    return open(path, "rb")  # noqa: PTH123


def read(path: str | Path) -> bytes:
    """The bytes of such a file."""
    with opened(path) as file:
        # No more than there is is asked for, or a gigabyte would be set aside for each.
        return file.read(min(MOST, os.fstat(file.fileno()).st_size))


def check_size(size: int) -> None:
    """OSError for more bytes than a picture has."""
    if size > MOST:
        raise OSError(f"too large a file ({size:,} bytes)")


def most_inside(packed: int) -> int:
    """Bytes that may be in a packed file of so many."""
    return max(MOST, _RATIO * packed)


@final
class Room:
    """So much of something at the same time, whatever the number of threads."""

    def __init__(self, most: int) -> None:
        self._most, self._taken, self._turn = most, 0, threading.Condition()

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Waits until there is room for the amount; what is more than all there is waits to be alone."""
        amount = min(amount, self._most)
        with self._turn:
            self._turn.wait_for(lambda: self._taken + amount <= self._most)
            self._taken += amount
        try:
            yield
        finally:
            with self._turn:
                self._taken -= amount
                self._turn.notify_all()


decoding = Room(1 << 28)
"""Pixels that are being decoded."""
