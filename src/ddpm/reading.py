"""Files of others, read in bounded memory: no pipe, no device, no more bytes than such a file has."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from ddpm.errors import UserError

JSON = 1 << 24
"""Bytes of a JSON file at the most; the largest there are list the names of some ten thousand classes."""


def check_file(path: Path) -> int:
    """The size of a file in bytes; UserError for what is none, as a pipe, which would be waited for forever, and
    for one that may not be read."""
    try:
        found = path.stat()
    except FileNotFoundError:
        why = "a symbolic link to nothing" if path.is_symlink() else "missing, there is no such file"
        raise UserError(f"{path}: {why}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); {_mend(error)}") from None
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path}: is {_kind(found.st_mode)}; name a file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); {_mend(error)}") from None
    return found.st_size


def _mend(error: OSError) -> str:
    return "change its permissions" if isinstance(error, PermissionError) else "name another"


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a file; UserError if there are more than `most`, or it is no file."""
    size = check_file(path)
    if size > most:
        raise UserError(f"{path}: is {size:,} bytes, and no such file has more than {most:,}; name another")
    with path.open("rb") as file:
        return file.read(most)


def read_json(path: Path) -> Any:
    """The values in a file; UserError if it is missing or damaged."""
    return parse_json(read_file(path, JSON), str(path))


def parse_json(text: str | bytes, where: str) -> Any:
    """The values; UserError says what in `where` is no JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: damaged, not JSON ({error}); write it again") from None
    except RecursionError:
        raise UserError(f"{where}: damaged, it is nested too deeply; write it again") from None
