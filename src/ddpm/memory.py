"""Keeps freed memory instead of giving it back to the system, on Linux's CPU.

A training step frees and takes the same tensors again and again. glibc returns every block above 128 KiB to
the kernel, which hands it out again page by page, zeroed; that can cost more than the arithmetic.
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


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
