"""Where something is to be written, looked at before time is spent on it; and what is said where that fails."""

from __future__ import annotations

import os
from pathlib import Path

from ddpm.errors import UserError

_MEND = "choose another --out"


def check_place(path: Path, mend: str = _MEND) -> None:
    """UserError if no file or folder of that name can be made, or replaced, as far as one can tell beforehand."""
    try:
        path.exists()  # a name may be too long for the disk
        above = next(folder for folder in path.absolute().parents if folder.exists())
    except OSError as error:
        raise unwritable(path, error, mend) from None
    if not above.is_dir():
        raise UserError(f"{path}: cannot be written ({above} is a file); {mend}")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{path}: cannot be written ({above} is not yours to write); {mend}")


def unwritable(path: Path, error: OSError, mend: str = _MEND) -> UserError:
    """What to raise where writing `path` failed; it may have been in a file of it."""
    return UserError(f"{path}: cannot be written ({error.strerror or error}); {mend}")
