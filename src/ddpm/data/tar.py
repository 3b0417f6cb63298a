"""The files in a tar, plain or compressed, read in any order and never put onto the disk by their names.

A plain tar is a row of files, each behind a header: where each begins is noted once, and read from there. Into a
compressed one there is no such way, so it is unpacked as a whole, once, into a file without a name, which is gone
when nobody reads it any more, at the latest with the process.
"""

from __future__ import annotations

import errno
import io
import os
import tarfile
import tempfile
import threading
import weakref
from pathlib import Path
from typing import IO, final

from ddpm.data import bounds
from ddpm.errors import UserError
from ddpm.units import amount

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_BLOCK = 512  # of a tar; a header fills one
_LONGEST_HEADER = 1 << 20  # of names and remarks that do not fit into one
_SPARSE = (-1, -1)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@final
class Members:
    """Names of the regular files in a tar, with / between their parts, and their contents.

    Links within the archive (hard ones) are followed, other links, devices and directories left out; of two files
    with one name the later counts, as it would after unpacking. Safe from several threads.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        """scratch: the folder a compressed one is unpacked in; UserError if that fails or the tar is broken."""
        self._file = _plain(path, scratch)
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        try:
            self._places = _places(self._file)
        except Exception as error:  # headers that lie make it raise almost anything
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            raise _broken(path, error) from None

    @property
    def names(self) -> list[str]:
        return list(self._places)

    def size(self, name: str) -> int:
        """In bytes."""
        return self._places[name][1]

    def read(self, name: str) -> bytes:
        """KeyError if there is no such file."""
        at, size = place = self._places[name]
        if place == _SPARSE:
            raise OSError("stored with holes: pack the archive without --sparse")
        bounds.check_size(size)
        if hasattr(os, "pread"):
            data = os.pread(self._file.fileno(), size, at)
        else:
            with self._lock:
                self._file.seek(at)
                data = self._file.read(size)
        if len(data) != size:
            raise OSError("the archive has become shorter")
        return data


def _places(file: IO[bytes]) -> dict[str, tuple[int, int]]:
    """(offset, size) of each regular file; TarError or ValueError if the tar is not whole."""
    places: dict[str, tuple[int, int]] = {}
    end = 0
    with tarfile.open(fileobj=_Headers(file), mode="r:") as tar:  # type: ignore[call-overload]
        while (member := tar.next()) is not None:
            tar.members = []  # or all headers stay in memory
            if tar.offset <= end:  # a negative size, which would lead here again and again
                raise tarfile.ReadError(f"a header leads back, after {len(places):,} files")
            end = tar.offset
            name = name_inside(member.name)
            if member.isreg():
                places[name] = _SPARSE if member.issparse() else (member.offset_data, member.size)
            elif member.islnk() and name_inside(member.linkname) in places:
                places[name] = places[name_inside(member.linkname)]
        # tarfile takes a header that it cannot read for the end, which is a block of zeros, or nothing.
        file.seek(tar.offset)
        if file.read(_BLOCK).strip(b"\0"):
            raise tarfile.ReadError(f"damaged header after {len(places):,} files")
    return places


@final
class _Headers:
    """A tar as tarfile reads it: no more of it at once than headers have, whatever they say."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


def name_inside(stored: str) -> str:
    """A name in an archive without ./, ../ and a leading /, which tell where it was packed."""
    return "/".join(part for part in stored.split("/") if part not in ("", ".", ".."))


def _plain(path: Path, scratch: Path) -> IO[bytes]:
    """The tar, open, without its compression, which its content decides and not its name."""
    file = path.open("rb")
    packed = _unpacker(file)
    if packed is None:
        return file
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        unpacked = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115
    except OSError as error:
        file.close()
        raise _no_room(path, scratch, error) from None
    try:
        with file, packed:
            most = bounds.most_inside(path.stat().st_size)
            while part := packed.read(1 << 20):
                if unpacked.write(part) and unpacked.tell() > most:
                    raise UserError(
                        f"{path}: unpacks to more than {amount(most)}, and so small an archive of pictures to "
                        "less: give the folder itself, or a plain .tar"
                    )
        unpacked.seek(0)
    except Exception as error:  # each format has errors of its own, derived from nothing in common
        unpacked.close()
        if isinstance(error, UserError):
            raise
        if isinstance(error, OSError) and error.errno in _FULL:
            raise _no_room(path, scratch, error) from None
        if isinstance(error, OSError) and error.errno is not None:
            why = f"cannot be unpacked into {scratch} now ({error.strerror})"
            raise UserError(f"{path}: {why}: check the disks of both, and start again") from None
        raise _broken(path, error) from None
    return unpacked


def _unpacker(file: IO[bytes]) -> io.BufferedIOBase | None:
    # Imported here: some builds of Python lack one or the other.
    head = file.read(6)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        import gzip

        return gzip.open(file)
    if head.startswith(b"BZh"):
        import bz2

        return bz2.open(file)
    if head.startswith(b"\xfd7zXZ\0"):
        import lzma

        return lzma.open(file)
    return None


def _broken(path: Path, error: Exception) -> UserError:
    why = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path}: not a whole tar archive ({why}): copy or download it again")


def _no_room(path: Path, scratch: Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot be unpacked in {scratch} ({error.strerror}): free space there, name another folder in "
        "DDPM_CACHE, or give a .zip or plain .tar, which are read in place"
    )
