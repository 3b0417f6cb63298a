"""Memory: what ran out of it, and how freed memory is kept.

A training step frees and takes the same tensors again and again. On Linux's CPU glibc returns every block above
128 KiB to the kernel, which hands it out again page by page, zeroed; that can cost more than the arithmetic.
"""

from __future__ import annotations

import ctypes
import gc
import platform
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_SAID = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "could not allocate",
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
