"""Pickles of PyTorch's, of which some would run what a stranger wrote."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddpm.convert import openai
from hostile_models_case import DEEP, GREAT, SENTINEL, THEIRS, Case, their_weights


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any):
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


@dataclass(frozen=True)
class Storage:
    """What a pickle says of a storage: where it is, and how many numbers it has."""

    key: str
    count: int
    kind: Any = torch.FloatStorage


class Tensor:
    """What a pickle says of a tensor, true or not."""

    def __init__(self, storage: Storage, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0):
        self.made = (storage, offset, size, stride, False, OrderedDict())

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, self.made


def program(values: Any, old: bool = False) -> bytes:
    """A pickle as torch writes it, of anything."""
    out = io.BytesIO()
    pickler = pickle.Pickler(out, 2)

    def said(one: Any) -> tuple[Any, ...] | None:
        if not isinstance(one, Storage):
            return None
        return ("storage", one.kind, one.key, "cpu", one.count, *([None] if old else []))

    pickler.persistent_id = said  # type: ignore[method-assign, assignment]
    pickler.dump(values)
    return out.getvalue()


def archive(path: Path, pickled: bytes, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A file as torch.save writes it since 1.6."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("x/data.pkl", pickled)
        file.writestr("x/byteorder", "little")
        file.writestr("x/version", "3\n")
        for key, data in records.items():
            file.writestr(f"x/data/{key}", data)
    return path


def legacy(path: Path, pickled: bytes, keys: list[str], data: bytes = b"") -> Path:
    """A file as torch.save wrote it before: five pickles and the numbers."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, machine)]
    path.write_bytes(b"".join([*head, pickled, pickle.dumps(keys, 2), data]))
    return path


def pickles(folder: Path) -> Iterator[Case]:
    """Programs that would run code, lie of their tensors, or grow; none is ever run."""
    mark = str(folder / SENTINEL)
    key = "input_blocks.0.0.weight"
    inner = pickle.dumps(Payload(os.mkdir, mark))
    payloads = {
        "mkdir": Payload(os.mkdir, mark),
        "system": Payload(os.system, f"mkdir '{mark}'"),
        "eval": Payload(eval, f"__import__('os').mkdir({mark!r})"),
        "exec": Payload(exec, f"import os; os.mkdir({mark!r})"),
        "by torch's own": Payload(torch.storage._load_from_bytes, inner),
        "by pickle": Payload(pickle.loads, inner),
    }
    for name, payload in payloads.items():
        for suffix in (".pt", ".ckpt", ".pkl", ".bin", ".pth", ""):
            if suffix not in (".pt", "") and name != "mkdir":
                continue
            for protocol in (2, 4):
                path = folder / f"{name} {protocol}{suffix}"
                path.write_bytes(pickle.dumps({key: payload}, protocol))
                yield Case(path.name, path, "" if "torch" in name else "would run code on loading: it calls")
        says = "" if "torch" in name else "would run code on loading: it calls"
        yield Case(f"{name}, zipped", archive(folder / f"{name} z.pt", program({key: payload}), {}), says)
        yield Case(f"{name}, legacy", legacy(folder / f"{name} l.pt", program({key: payload}), []), says)
    renamed = folder / "payload.safetensors"
    renamed.write_bytes(pickle.dumps({key: payloads["mkdir"]}))
    yield Case("a pickle called safetensors", renamed, "damaged or not a safetensors")
    renamed = folder / "payload.npz"
    np.savez(renamed, **{"temb/dense0/W": np.array([payloads["mkdir"]], dtype=object)})
    yield Case("a .npz of objects", renamed, "damaged, or not a .npz of arrays")

    four = b"\0" * 16

    def zipped(name: str, tensor: Any, says: str, records: dict[str, bytes] | None = None) -> Case:
        path = archive(folder / f"{name}.pt", program({key: tensor}), {"0": four} if records is None else records)
        return Case(name, path, says)

    def old(name: str, tensor: Any, says: str, data: bytes = struct.pack("<q", 4) + four) -> Case:
        return Case(
            f"{name}, legacy", legacy(folder / f"{name} l.pt", program({key: tensor}, True), ["0"], data), says
        )

    none = "damaged, or not a file of PyTorch"
    for make in (zipped, old):
        yield make("a storage of 4 TB", Tensor(Storage("0", GREAT), (GREAT,), (1,)), none)
        yield make("a storage of 2 GB", Tensor(Storage("0", 1 << 29), (1 << 29,), (1,)), none)
        yield make("a storage below nothing", Tensor(Storage("0", -4), (4,), (1,)), none)
        yield make("a tensor of 4 TB", Tensor(Storage("0", 4), (GREAT,), (0,)), "numbers, which it is not")
        yield make("a tensor beyond its storage", Tensor(Storage("0", 4), (1 << 20,), (1,)), none)
        yield make("an offset beyond its storage", Tensor(Storage("0", 4), (4,), (1,), 1 << 40), none)
        yield make("a stride below nothing", Tensor(Storage("0", 4), (4,), (-1,)), none)
        yield make("sizes that run over", Tensor(Storage("0", 4), (1 << 62, 1 << 62), (0, 0)), none)
        yield make("a tensor that is none", [1, 2], "is no weight" if make is zipped else none)
        yield make("whole numbers", Tensor(Storage("0", 4, torch.IntStorage), (4,), (1,)), "weights are floats")
        sparse = Payload(
            torch._utils._rebuild_sparse_tensor, torch.sparse_coo, (torch.zeros(1, 0), torch.zeros(0), (GREAT,))
        )
        yield make("a sparse tensor", sparse, "")
    yield zipped("no record", Tensor(Storage("0", 4), (4,), (1,)), none, {})
    yield zipped("a record outside", Tensor(Storage("../../data/0", 4), (4,), (1,)), none)
    packed = archive(
        folder / "bomb.pt",
        program({key: Tensor(Storage("0", 1 << 25), (1 << 25,), (1,))}),
        {"0": bytes(1 << 27)},
        zipfile.ZIP_DEFLATED,
    )
    yield Case("a bomb", packed, "its records are compressed, or overlap")
    yield Case("a bomb without a name", packed.rename(folder / "bomb"), "its records are compressed, or overlap")
    twice = archive(folder / "twice.pt", program({}), {str(i): b"\0" * 1000 for i in range(50)})
    twice.write_bytes(overlapping(twice.read_bytes()))
    yield Case("records that overlap", twice, "")
    yield Case(
        "a long program", legacy(folder / "long.pt", b"\x80\x02" + b"]" * (5 << 20) + b".", []), "over 4 MB"
    )
    (folder / "large.pt").write_bytes(b"\xee" * (5 << 20))
    yield Case("5 MB of nothing known", folder / "large.pt", none)
    long = archive(folder / "long z.pt", b"\x80\x02" + b"]" * (5 << 20) + b".", {})
    yield Case("a long program, zipped", long, "over 4 MB")
    for name, text in {
        "a string of 4 GB": b"\x80\x02X\xff\xff\xff\xff",
        "a string of 2^60": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60),
        "a frame of 2^60": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"}.",
        "a memo at 2^32": b"\x80\x02}r\xff\xff\xff\xff.",
        "bytes of 4 GB": b"\x80\x03B\xff\xff\xff\xff",
        "a number of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7f",
        "a stack of nothing": b"\x80\x02\x85\x85R.",
        "deep": b"\x80\x02" + b"(" * DEEP + b"t" * DEEP + b".",
        "no end": b"\x80\x02}",
        "itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    }.items():
        (folder / f"{name}.pt").write_bytes(text)
        yield Case(name, folder / f"{name}.pt", "")
        yield Case(f"{name}, zipped", archive(folder / f"{name} z.pt", text, {}), "")
        yield Case(f"{name}, legacy", legacy(folder / f"{name} l.pt", text, []), "")
    whole = folder / "whole.pt"
    torch.save(openai.write(their_weights(), THEIRS), whole)
    data = whole.read_bytes()
    for share in (0.001, 0.3, 0.9, 0.999):
        (folder / f"cut {share}.pt").write_bytes(data[: int(share * len(data))])
        yield Case(f"cut at {share}", folder / f"cut {share}.pt", none)


def overlapping(data: bytes) -> bytes:
    """A .zip whose last records all begin where the first one does."""
    changed = bytearray(data)
    first, places = b"x/data/0", []
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        places.append(at)
        at = data.find(b"PK\x01\x02", at + 4)
    begin = next(data[at + 42 : at + 46] for at in places if data[at + 46 :].startswith(first))
    for at in places:
        if data[at + 46 :].startswith(b"x/data/"):
            changed[at + 42 : at + 46] = begin
            changed[at + 20 : at + 28] = struct.pack("<II", 1 << 20, 1 << 20)
    return bytes(changed)
