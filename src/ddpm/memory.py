"""Memory: what ran out of it, how much is computed at once, and how freed memory is kept.

A training step frees and takes the same tensors again and again. On Linux's CPU glibc returns every block above
128 KiB to the kernel, which hands it out again page by page, zeroed; that can cost more than the arithmetic.
"""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar, final

from ddpm.errors import UserError

T = TypeVar("T")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_SAID = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "could not allocate",
    "alloc_failed",
    "bad_alloc",
)  # by torch's allocators


def keep_freed_memory() -> bool:
    """Tells glibc's allocator, for this process; False where there is none (another system or C library)."""
    if platform.system() != "Linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    limit = (1 << 31) - 1
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, limit))


def out_of_memory(error: BaseException) -> bool:
    """Whether this is how torch, on whatever device, or Python say that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _SAID)


def free_caches() -> None:
    """Gives back what a failed try held; to be called when its exception is gone, which holds tensors."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


@final
class AtOnce:
    """How many pictures are computed at once: so many, and half of them whenever memory runs out."""

    def __init__(self, rows: int, tell: Callable[[str], object] | None = None) -> None:
        """tell: is told, in a sentence, when it is halved."""
        self.rows, self.tell = rows, tell

    def each(self, n: int, compute: Callable[[slice], T]) -> Iterator[tuple[slice, T]]:
        """What `compute` makes of pictures 0 … n − 1, so many at a time and in their order.

        What did not fit is computed again in halves; so it must not matter how often it is asked for a picture.
        UserError where a single one does not fit.
        """
        start = 0
        while start < n:
            rows = slice(start, min(n, start + self.rows))
            made = self._tried(rows, compute)
            if made:
                yield rows, made[0]
                start = rows.stop

    def _tried(self, rows: slice, compute: Callable[[slice], T]) -> tuple[T] | None:
        """What it makes; None where memory ran out, with fewer at once from here on."""
        try:
            return (compute(rows),)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        free_caches()  # not before: the exception's frames held what was computed
        count = rows.stop - rows.start
        if count == 1:
            raise UserError(
                "out of memory with a single picture at once: close what else takes memory, or take another "
                "--device or a smaller size"
            )
        self.rows = count // 2
        if self.tell is not None:
            self.tell(f"{count} pictures at once do not fit into memory: {self.rows} from here on")
        return None
