"""PyTorch's files, read without running anything: tensors in dictionaries, or a refusal that says why.

A pickle is a program. `torch.load(weights_only=True)` runs the part of it that puts tensors together and stops at
the first call of anything else; what that is is then looked up in the program's text.
"""

from __future__ import annotations

import io
import pickletools
import tarfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from ddpm.errors import UserError

_SUFFIXES = {".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin"}
# What torch itself writes for tensors and the dictionaries they are in.
_PLAIN = ("torch", "torch._utils", "torch._tensor", "torch.storage", "torch.nn.parameter", "collections")
_SEARCHED = 1 << 24  # bytes of a file without an index: its programs stand first


def is_pickle(path: Path) -> bool:
    """Whether a file is, or by its name should be, one of PyTorch's or another pickle."""
    if path.suffix.lower() in _SUFFIXES:
        return True
    with path.open("rb") as file:
        start = file.read(4)
    return start[:1] == b"\x80" or (start == b"PK\x03\x04" and _program(path) is not None)


def read_pickle(path: Path) -> dict[Any, Any]:
    """The dictionary in a file, its tensors on the CPU; runs no code of it.

    UserError if it would run any, is damaged, or holds no dictionary.
    """
    _check_beginning(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of protocols it did not choose itself
            values = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception:  # whatever a damaged or hostile file can bring about
        raise UserError(f"{path}: {_reason(path)}") from None
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: holds a {type(values).__name__}, not a state dict; save the net's alone: "
            "torch.save(net.state_dict(), FILE)"
        )
    return values


def _check_beginning(path: Path) -> None:
    """UserError for what is known not to be weights before anything is loaded."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise UserError(f"{path}: is empty; fetch it again")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a Git LFS pointer, not the weights themselves; fetch them with git lfs pull")
    if start.lstrip()[:1] == b"<":
        raise UserError(f"{path}: a web page, not weights; fetch the file itself")
    names = _names(path)
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError(
            f"{path}: a TorchScript program, which holds code; save the net's weights alone: "
            "torch.save(net.state_dict(), FILE)"
        )
    if not names and tarfile.is_tarfile(path):
        raise UserError(
            f"{path}: a .tar as PyTorch wrote before 0.1.10; load it there once and save it again with torch.save"
        )


def _names(path: Path) -> list[str]:
    """The files in a .zip; none for what is none, or is damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return []


def _program(path: Path) -> str | None:
    """The pickle in a file of torch.save."""
    return next((name for name in _names(path) if name.endswith("/data.pkl")), None)


def _reason(path: Path) -> str:
    """Why a file could not be read: what its program calls that is no part of a state dict, as `os.system`."""
    operations = list(_operations(path))
    strange = next((one for one in _called(operations) if one.rpartition(".")[0] not in _PLAIN), None)
    protocol = max((value for name, value in operations if name == "PROTO"), default=0)
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
            with path.open("rb") as file:
                data = file.read(_SEARCHED)
        else:
            with zipfile.ZipFile(path) as archive:
                data = archive.read(name)
        stream = io.BytesIO(data)
        while stream.tell() < len(data):
            for code, value, _ in pickletools.genops(stream):
                yield code.name, value
    except Exception:  # it is damaged from here on
        return


def _called(operations: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """The names of what programs call: in one step, or by the last two strings on the stack."""
    said: list[str] = []
    memo: dict[Any, Any] = {}
    last: Any = None
    for name, value in operations:
        if name == "STOP":
            memo.clear()  # what follows is another program
        elif name in ("GLOBAL", "INST"):
            yield str(value).replace(" ", ".")
        elif name == "STACK_GLOBAL":
            yield ".".join(said[-2:])
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if value is None else value] = last
            continue
        last = memo.get(value) if name in ("GET", "BINGET", "LONG_BINGET") else value
        if isinstance(last, str):
            said.append(last)
