"""PyTorch's files, read without running anything: tensors in dictionaries, or a refusal that says why.

A pickle is a program. `torch.load(weights_only=True)` runs the part of it that puts tensors together and stops at
the first call of anything else; what that is is then looked up in the program's text.

It does so in bounded memory: archives are of plain records, as torch writes them, and are mapped, so that no
tensor reaches beyond the file; programs are short; tensors have as many numbers as they say.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import tarfile
import warnings
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm.errors import UserError
from ddpm.reading import check_file

_SUFFIXES = {".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin"}
# What torch itself writes for tensors and the dictionaries they are in.
_PLAIN = ("torch", "torch._utils", "torch._tensor", "torch.storage", "torch.nn.parameter", "collections")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What weights can be."""
_PROGRAM = 1 << 22  # bytes of a program at the most; that of a net of 10,000 weights has half as many
_END = 22  # bytes of the end of an archive; with a comment after it another reader might find another end
_PROGRAMS = 5  # of a file without an index: a number, a version, a machine, the values, the order of their data


def is_pickle(path: Path) -> bool:
    """Whether a file is, or by its name should be, one of PyTorch's or another pickle."""
    if path.suffix.lower() in _SUFFIXES:
        return True
    start = _start(path, 4)
    return start[:1] == b"\x80" or (start == b"PK\x03\x04" and _program(path) is not None)


def read_pickle(path: Path) -> dict[Any, Any]:
    """The dictionary in a file, its tensors on the CPU; runs no code of it.

    UserError if it would run any, is damaged, or holds no dictionary.
    """
    archive = _check_beginning(path)
    if archive is None:
        _check_program(path)
    else:
        _check_archive(path, archive)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of protocols it did not choose itself
            values = torch.load(path, map_location="cpu", weights_only=True, mmap=archive is not None)
    except MemoryError:
        raise UserError(f"{path}: needs more memory than there is; load it on a larger machine") from None
    except Exception:  # whatever a damaged or hostile file can bring about
        raise UserError(f"{path}: {_reason(path)}") from None
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: holds a {type(values).__name__}, not a state dict; save the net's alone: "
            "torch.save(net.state_dict(), FILE)"
        )
    return values


def check_weights(state: Mapping[Any, Any], path: Path) -> None:
    """UserError unless all values of a state are plain tensors of floats, each with all the memory it says it has.

    A tensor may repeat its numbers by strides of 0, so that a small file would fill any memory once it is copied.
    A counter of steps may be a whole number.
    """
    told, held = 0, dict[int, int]()
    for key, value in state.items():
        why = None
        if not isinstance(value, Tensor):
            why = "is no weight"
        elif value.layout != torch.strided or value.is_quantized or value.is_nested or value.device.type != "cpu":
            why = "is no plain tensor"
        elif value.dim() and value.dtype not in FLOATS:
            why = f"is of {value.dtype}, and weights are floats of 16 bits or more"
        elif math.prod(value.shape) * value.element_size() > value.untyped_storage().nbytes():
            why = f"says it is {math.prod(value.shape):,} numbers, which it is not"
        else:
            told += value.numel() * value.element_size()
            held[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        if why:
            raise UserError(f"{path}: {key} {why}; save the net's state dict alone")
    if told > 2 * sum(held.values()):  # two layers may share theirs
        raise UserError(f"{path}: its weights share their numbers; save the net's state dict alone")


def _start(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _check_beginning(path: Path) -> list[zipfile.ZipInfo] | None:
    """The records of an archive, None for what is none; UserError for what is known not to be weights."""
    check_file(path)
    start = _start(path, 64)
    if not start:
        raise UserError(f"{path}: is empty; fetch it again")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a Git LFS pointer, not the weights themselves; fetch them with git lfs pull")
    if start.lstrip()[:1] == b"<":
        raise UserError(f"{path}: a web page, not weights; fetch the file itself")
    archive = _records(path)
    if any(record.filename.endswith("/constants.pkl") for record in archive):
        raise UserError(
            f"{path}: a TorchScript program, which holds code; save the net's weights alone: "
            "torch.save(net.state_dict(), FILE)"
        )
    if not archive and _is_tar(path):
        raise UserError(
            f"{path}: a .tar as PyTorch wrote before 0.1.10; load it there once and save it again with torch.save"
        )
    return archive or (None if start[:2] != b"PK" else [])


def _is_tar(path: Path) -> bool:
    """Whether a file is an archive of plain records; compressed ones would have to be unpacked to say."""
    try:
        with tarfile.open(path, "r:"):
            return True
    except (tarfile.TarError, OSError, ValueError):
        return False


def _check_archive(path: Path, records: list[zipfile.ZipInfo]) -> None:
    """UserError for an archive that torch did not write."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _END))
        end = file.read(_END)
    if not records or not end.startswith(b"PK\x05\x06"):
        raise UserError(f"{path}: damaged, or not a file of PyTorch; fetch it again")
    if not plain(records, size):
        raise UserError(
            f"{path}: its records are compressed, or overlap, which torch.save never writes; save it again with "
            "that"
        )
    longest = max((record.file_size for record in records if record.filename.endswith("/data.pkl")), default=0)
    if longest > _PROGRAM:
        raise UserError(f"{path}: {_LONG}")


def plain(records: Sequence[zipfile.ZipInfo], size: int) -> bool:
    """Whether the records of an archive of so many bytes are as they are, one after another.

    Compressed or overlapping ones may be a million times what the file is.
    """
    stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
    return stored and sum(record.file_size for record in records) <= size


_LONG = (
    f"its pickle has over {_PROGRAM >> 20} MB beside its tensors, and that of weights has not; save the net's "
    "weights alone: torch.save(net.state_dict(), FILE)"
)


def _check_program(path: Path) -> None:
    """UserError for a file without an index whose programs are damaged, or do not end soon enough."""
    data = _start(path, _PROGRAM)
    stream = io.BytesIO(data)
    try:
        for _ in range(_PROGRAMS):
            for _ in pickletools.genops(stream):
                pass
            if stream.tell() == path.stat().st_size:
                return
    except Exception:  # whatever is no program
        unfinished = stream.tell() == len(data) == _PROGRAM
        raise UserError(f"{path}: {_LONG if unfinished else _reason(path)}") from None


def _records(path: Path) -> list[zipfile.ZipInfo]:
    """The files in a .zip; none for what is none, or is damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, UnicodeError):
        return []


def _program(path: Path) -> str | None:
    """The pickle in a file of torch.save."""
    names = (record.filename for record in _records(path))
    return next((name for name in names if name.endswith("/data.pkl")), None)


def _reason(path: Path) -> str:
    """Why a file could not be read: what its program calls that is no part of a state dict, as `os.system`."""
    protocol = max((value for name, value in _operations(path) if name == "PROTO"), default=0)
    strange = next((one for one in _called(_operations(path)) if one.rpartition(".")[0] not in _PLAIN), None)
    if strange:
        return (
            f"not read, since it is a pickle that would run code on loading: it calls {strange}; ask for its "
            "weights alone, saved as torch.save(net.state_dict(), FILE) or as .safetensors"
        )
    if protocol > 3:
        return (
            f"not read, since it is a pickle of protocol {protocol}, of which tensors alone cannot be read; save "
            "it again with torch.save as it is by default"
        )
    return "damaged, or not a file of PyTorch; fetch it again"


def _operations(path: Path) -> Iterator[tuple[str, Any]]:
    """The steps of a file's programs, one after another, as far as they can be read; none is run."""
    try:
        name = _program(path)
        if name is None:
            data = _start(path, _PROGRAM)
        else:
            with zipfile.ZipFile(path) as archive, archive.open(name) as file:
                data = file.read(_PROGRAM)
        stream = io.BytesIO(data)
        while stream.tell() < len(data):
            for code, value, _ in pickletools.genops(stream):
                yield code.name, value
    except Exception:  # it is damaged from here on
        return


def _called(operations: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """The names of what programs call: in one step, or by the last two strings on the stack."""
    said: deque[str] = deque(maxlen=2)
    memo: dict[Any, str] = {}  # of strings alone
    last: Any = None
    kept = 0
    for name, value in operations:
        if name == "STOP":
            memo.clear()  # what follows is another program
            kept = 0
        elif name in ("GLOBAL", "INST"):
            yield str(value).replace(" ", ".")
        elif name == "STACK_GLOBAL":
            yield ".".join(said)
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            if isinstance(last, str):
                memo[kept if value is None else value] = last
            kept += 1
            continue
        last = memo.get(value) if name in ("GET", "BINGET", "LONG_BINGET") else value
        if isinstance(last, str):
            said.append(last)
