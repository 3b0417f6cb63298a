"""A corpus of hostile models and configs, made anew wherever it is needed: what a stranger may have sent.

    for case in cases(folder): ...             every named case
    for case in mutated(folder, 0, 1000): ...  whole models of each format, damaged at random by a seed

A case is refused, by one line that holds what it `says`; "any" is damage that may by luck have hit nothing.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import struct
import sys
import traceback
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as to_safetensors

import test_convert_bundle as bundles
import test_convert_ho as his
import tiny
from ddpm.commands.configfile import write_yaml
from ddpm.config import ChainConfig, Config, DataConfig, DenoiserConfig, LossConfig, NetConfig
from ddpm.convert import diffusers_folder, openai
from ddpm.store import Description, save_weights

SENTINEL = "sentinel"
"""A folder of this name beside a case is what a payload makes if it runs."""
GREAT = 10**12
DEEP = 100_000  # levels of brackets
OURS = Description(tiny.config(), tiny.ANIMALS, 7)
THEIRS = Description(
    Config(
        DataConfig((), (8, 8)),
        NetConfig(32, (1, 2), 1, (1,), dropout=0.0, style="openai", heads=2, scale_shift=True),
        ChainConfig("cosine", 50),
        DenoiserConfig("eps", "learned_range"),
        LossConfig("hybrid"),
    ),
    tiny.ANIMALS,
    7,
)


@dataclass(frozen=True)
class Case:
    """path: what is opened, as a "model", "features", "config", "grids" or "tuned"."""

    name: str
    path: Path
    says: str = ""
    what: str = "model"
    expected: str = "refused"


Family = Callable[[Path], Iterator[Case]]


# -- our own files -----------------------------------------------------------------------------------------------


def description(change: Callable[[dict[str, Any]], Any] = lambda values: None) -> dict[str, Any]:
    """Our description of the tiny model as it stands in a file, changed in place."""
    values: dict[str, Any] = json.loads(json.dumps(OURS.to_json()))
    change(values)
    return values


def safetensors(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    """A file by hand: the length of the header, the header, the numbers."""
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def ours(path: Path, tensors: dict[str, torch.Tensor], said: str) -> Path:
    """A file with the tensors and what is said of them, whether that is a description or not."""
    path.write_bytes(to_safetensors(tensors, metadata={"ddpm": said}))
    return path


def our_files(folder: Path) -> Iterator[Case]:
    """Headers that lie, files that are cut short, weights of another net."""
    weights = our_weights()
    whole = ours(folder / "whole.safetensors", weights, json.dumps(description())).read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    said = {"__metadata__": {"ddpm": json.dumps(description())}}

    def header(
        name: str, value: Any, data: bytes = b"\0" * 16, says: str = "damaged or not a safetensors"
    ) -> Case:
        text = value if isinstance(value, bytes) else json.dumps(value).encode()
        return Case(name, safetensors(folder / f"{name}.safetensors", text, data), says)

    for name, claimed in {
        "a header of 1 GB": 1 << 30,
        "a header of 2^63": 1 << 63,
        "a header below nothing": 2**64 - 1,
        "a header of nothing": 0,
        "a header as long as the file": len(whole),
    }.items():
        path = folder / f"{name}.safetensors"
        path.write_bytes(struct.pack("<Q", claimed) + whole[8:])
        yield Case(name, path, "would be the header")
    sparse = folder / "a true header of 1 GB.safetensors"
    with sparse.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 30))
        file.truncate((1 << 30) + 8)
    yield Case("a true header of 1 GB", sparse, "would be the header")
    yield header("no JSON", b"{" * 40)
    yield header("no table", b"[1, 2]")
    yield header("deep", b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}")
    yield header("bytes", bytes(range(255)))
    yield header("beyond the end", {**said, "a": entry([4], 0, 1 << 40)})
    yield header("overlapping", {**said, "a": entry([4], 0, 16), "b": entry([2], 8, 16)})
    yield header("backwards", {**said, "a": entry([4], 16, 0)})
    yield header("below nothing", {**said, "a": entry([-4], 0, 16)})
    yield header("more than there is", {**said, "a": entry([1 << 40], 0, 16)})
    yield header("sizes that run over", {**said, "a": entry([1 << 40, 1 << 40], 0, 16)})
    yield header("no such dtype", {**said, "a": entry([4], 0, 16, "F128")})
    yield header("numbers of no tensor", {**said, "a": entry([2], 0, 8)})
    yield header("eight bits", {**said, "a": entry([16], 0, 16, "F8_E4M3")}, says="weights are floats")
    yield header("four bits", {**said, "a": entry([32], 0, 16, "F4")}, says="weights are floats")
    yield header("complex", {**said, "a": entry([2], 0, 16, "C64")}, says="weights are floats")
    yield header("whole numbers", {**said, "a": entry([4], 0, 16, "I32")}, says="weights are floats")
    yield header("nothing said", {"a": entry([4], 0, 16)}, says="says nothing of its model")
    for share in (0, 4, 8, length // 2, length + 8, len(whole) // 2, len(whole) - 1):
        path = folder / f"cut at {share}.safetensors"
        path.write_bytes(whole[:share])
        yield Case(f"cut at {share}", path, "damaged or not a safetensors" if share else "is empty")

    for name, changed, says in (
        ("too narrow", {**weights, "conv_in.weight": torch.zeros(4, 1, 3, 3)}, "conv_in.weight differs"),
        ("transposed", {**weights, "time.2.weight": torch.zeros(32, 31)}, "time.2.weight differs"),
        ("no number", {**weights, "conv_in.bias": torch.zeros(())}, "conv_in.bias differs"),
        ("nothing in it", {**weights, "conv_in.bias": torch.zeros(0)}, "conv_in.bias differs"),
        ("one too few", {k: v for k, v in weights.items() if k != "conv_in.bias"}, "conv_in.bias is missing"),
        ("one too many", {**weights, "back.door": torch.zeros(3)}, "back.door has no place in it"),
        (
            "a name of two lines",
            {**weights, "a\nddpm: fine\x1b[2J": torch.zeros(3)},
            r"a\nddpm: fine\x1b[2J has no",
        ),
        ("none at all", {}, "is missing"),
    ):
        yield Case(name, ours(folder / f"{name}.safetensors", changed, json.dumps(description())), says)
    for bad in ("nan", "inf"):
        changed = {**weights, "conv_in.bias": torch.full((8,), float(bad))}
        path = ours(folder / f"{bad}.safetensors", changed, json.dumps(description()))
        yield Case(bad, path, "conv_in.bias holds NaN or infinity")
    bits = weights["conv_in.weight"].clone().view(torch.int32)
    bits[0] |= 0x7F800000  # all bits of the exponent: infinite, or no number
    path = ours(
        folder / "flipped.safetensors",
        {**weights, "conv_in.weight": bits.view(torch.float32)},
        json.dumps(description()),
    )
    yield Case("flipped bits", path, "conv_in.weight holds NaN or infinity")


def set_to(where: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of a description: config.net.channels to a value."""

    def change(values: dict[str, Any]) -> None:
        *path, last = where.split(".")
        for key in path:
            values = values[key]
        values[last] = value

    return change


def descriptions(folder: Path) -> Iterator[Case]:
    """Weights that are fine under a description that is not."""
    weights = our_weights()
    wrong: list[tuple[str, Any, str]] = [
        ("config.net.channels", 10**9, "net.channels 1000000000 is even and 4 to"),
        ("config.net.channels", 32768, "its weights are not those of the net it describes"),
        ("config.net.channels", -8, "net.channels -8 is even"),
        ("config.net.channels", 0, "net.channels 0 is even"),
        ("config.net.channels", "8", "net.channels: holds '8'; takes int"),
        ("config.net.channels", 8.0, "net.channels: holds 8.0; takes int"),
        ("config.net.channels", True, "net.channels: holds True; takes int"),
        ("config.net.channels", 10**4000, "net.channels: holds 1000"),
        ("config.net.multipliers", [1] * 10**5, "makes 1 to 16 levels"),
        ("config.net.multipliers", [1, 10**9], "makes 1 to 16 levels"),
        ("config.net.multipliers", [1e300, 1e300], "makes 1 to 16 levels"),
        ("config.net.multipliers", [float("nan")], "holds nan"),
        ("config.net.multipliers", [], "makes 1 to 16 levels"),
        ("config.net.multipliers", [-1, 2], "makes 1 to 16 levels"),
        ("config.net.multipliers", [1, 1.3], "is no width"),
        ("config.net.blocks", 10**9, "net.blocks 1000000000 is 1 to 100"),
        ("config.net.blocks", 20, "its weights are not those of the net it describes"),
        ("config.net.attention", [0] * 10**5, "names at most 16 levels"),
        ("config.net.attention", [-1], "this net has the levels 0 to 1"),
        ("config.net.dropout", -3.0, "net.dropout -3.0 lies in [0, 1)"),
        ("config.net.dropout", float("inf"), "net.dropout: holds inf; takes finite float"),
        ("config.net.groups", 0, "net.groups 0 is 1 to"),
        ("config.net.patch", 10**6, "net.patch 1000000 is 1 to 256"),
        ("config.net.patch", 256, "its weights are not those of the net it describes"),
        ("config.net.heads", 0, "net.heads 0 is 1 to"),
        ("config.net.heads", 3, "--net.heads 3: must divide"),
        ("config.net.head_channels", -1, "net.head_channels -1 is 0 to"),
        ("config.net.style", "os.system", "net.style: holds 'os.system'; takes ho or openai"),
        ("config.net.style", ["ho"], "takes ho or openai"),
        ("config.chain.steps", GREAT, "chain.steps 1000000000000 is 1 to 1,000,000"),
        ("config.chain.steps", -1, "chain.steps -1 is 1 to"),
        ("config.chain", {"schedule": "betas", "steps": 3, "betas": [0.1]}, "are as many as chain.steps"),
        ("config.chain", {"schedule": "betas", "steps": 1, "betas": [2.0]}, "strictly between 0 and 1"),
        ("config.chain", {"schedule": "betas", "steps": 2, "betas": [0.1, 1e-300]}, "describes a net or chain"),
        ("config.chain", {"schedule": "linear", "steps": 3}, "describes a net or chain"),
        ("config.data.size", [10**6, 10**6], "data.size (1000000, 1000000) has sides of 1 to"),
        ("config.data.size", [0, 8], "data.size (0, 8) has sides"),
        ("config.data.size", [8], "data.size: holds [8]"),
        ("config.data.low_size", [10**9, 1], "data.low_size"),
        ("config.data.channels", 10**9, "data.channels 1000000000 is 1, 3 or 4"),
        ("config.data.channels", 3, "its weights are not those of the net it describes"),
        ("config.train.seed", -1, "train.seed -1 lies in"),
        ("config.train.seed", 10**30, "train.seed: holds"),
        ("config.train.batch", 0, "train.batch 0 is at least 1"),
        ("config.train.task", "classifier", ""),
        ("config.train.task", "upsampler", "its weights are not those of the net it describes"),
        ("config.net.chanels", 8, "config.net.chanels: no such setting; did you mean channels?"),
        ("config.nett", {}, "config.nett: no such setting; did you mean net?"),
        ("config.__class__", {}, "no such setting"),
        ("config.net", [], "config.net: holds []; it is a table"),
        ("config.net", json.loads("[" * 200 + "]" * 200), "it is a table of settings"),
        ("config", None, "config: holds None; it is a table"),
        ("data.classes", [f"kind {i}" for i in range(10**5)], "frequencies are not those of 100,000 classes"),
        ("data.classes", ["a"] * 10**6, "frequencies are not those of 1,000,000 classes"),
        ("data.classes", ["a" * 10**6] * 17, "would be the header"),
        ("data", {"classes": ["a"] * 10**5}, "its weights are not those of the net it describes"),
        ("data.classes", [["ant"]], "data.classes: holds ['ant']; takes str"),
        ("data.classes", [], "frequencies are not those of 0 classes"),
        ("data.frequencies", [0.0, 0.0, 0.0], "frequencies are not those"),
        ("data.frequencies", [1.0, float("nan"), 0.0], "frequencies: holds nan"),
        ("data.frequencies", [1.0, -1.0, 0.0], "finite and at least 0"),
        ("data.count", -1, "counts less than nothing"),
        ("data.count", 1e300, "data.count: holds 1e+300; takes int"),
        ("data.name", {"a": 1}, "data.name: holds {'a': 1}; takes str"),
        ("data", "zoo", "data: holds 'zoo'"),
        ("step", -7, "its step or plan is of a wrong type"),
        ("step", 1e308, "its step or plan is of a wrong type"),
        ("step", float("inf"), "its step or plan is of a wrong type"),
        ("step", True, "its step or plan is of a wrong type"),
        ("plan", "why", "its step or plan is of a wrong type"),
        ("plan", [1, 2], "its step or plan is of a wrong type"),
        ("plan", {"a": 1}, "its step or plan is of a wrong type"),
        ("command", ["ls"], "its step or plan is of a wrong type"),
        ("format", "ddpm/2", "not written by ddpm"),
        ("format", ["ddpm/1"], "not written by ddpm"),
    ]
    for i, (where, value, says) in enumerate(wrong):
        path = ours(folder / f"said {i}.safetensors", weights, described(where, value))
        yield Case(f"{where} {str(value)[:20]}", path, says)
    for i, (name, text, says) in enumerate(
        [
            ("no JSON", "{", "damaged, not JSON"),
            ("no table", "3", "not written by ddpm"),
            ("nothing", "", "damaged, not JSON"),
            ("deep", "[" * DEEP, "nested too deeply"),
            ("deep and whole", '{"format": "ddpm/1", "config": ' + "[" * 900 + "]" * 900 + "}", ""),
            ("a number of 5000 digits", '{"format": "ddpm/1", "step": ' + "9" * 5000 + "}", "damaged"),
        ]
    ):
        yield Case(f"said {name}", ours(folder / f"text {i}.safetensors", weights, text), says)


def described(where: str, value: Any) -> str:
    """JSON of a description with one thing changed; Python's own refuses to write numbers of 4,001 digits."""
    if value == 10**4000:
        return json.dumps(description(set_to(where, "HERE"))).replace('"HERE"', "1" + "0" * 4000)
    return json.dumps(description(set_to(where, value)))


def runs(folder: Path) -> Iterator[Case]:
    """Runs whose files were damaged: their checksums say so."""

    def run(name: str) -> Path:
        return tiny.run(folder / name).folder

    def checkpoint(of: Path) -> Path:
        return of / "checkpoints" / "000000007"

    one = run("flipped")
    path = checkpoint(one) / "ema.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    yield Case("a flipped bit", one, "its checksum is not the one in state.json")
    for i, (text, says) in enumerate(
        [
            ("{", "no whole checkpoint"),
            ("[]", "no whole checkpoint"),
            ('{"step": 7, "sha256": 3}', "no whole checkpoint"),
            ("[" * DEEP, "no whole checkpoint"),
            ('{"step": 7, "sha256": {"../../../config.json": "0"}}', "no whole checkpoint"),
        ]
    ):
        one = run(f"state {i}")
        (checkpoint(one) / "state.json").write_text(text)
        yield Case(f"state.json {text[:20]}", one, says)
    one = run("piped")
    (checkpoint(one) / "ema.safetensors").unlink()
    os.mkfifo(checkpoint(one) / "ema.safetensors")
    yield Case("a pipe for weights", one, "missing from its checkpoint")
    one = run("deep config")
    (one / "config.json").write_text("[" * DEEP)
    shutil.rmtree(one / "checkpoints")
    yield Case("a deep config.json", one, "nested too deeply")
    one = run("piped config")
    (one / "config.json").unlink()
    os.mkfifo(one / "config.json")
    shutil.rmtree(one / "checkpoints")
    yield Case("a pipe for config.json", one, "holds no run")


def places(folder: Path) -> Iterator[Case]:
    """What a MODEL may be that is none."""
    (folder / "empty").mkdir()
    yield Case("an empty folder", folder / "empty", "holds no run")
    for name, data, says in (
        ("nothing.safetensors", b"", "is empty"),
        ("nothing.pt", b"", "is empty"),
        ("nothing", b"", "is empty"),
        ("text.txt", b"hello", "not a model"),
        ("text.safetensors", b"hello", "damaged or not a safetensors"),
        ("text.pt", b"hello", "damaged, or not a file of PyTorch"),
        ("text.npz", b"hello", "damaged, or not a .npz"),
        ("name\nof two\x1blines.pt", b"hello", r"name\nof two\x1blines.pt"),
    ):
        (folder / name).write_bytes(data)
        yield Case(name, folder / name, says)
    yield Case("a device", Path("/dev/zero"), "is a device; name a file")
    yield Case("a terminal", Path("/dev/null"), "is a device; name a file")
    os.mkfifo(folder / "pipe.safetensors")
    yield Case("a pipe", folder / "pipe.safetensors", "is a pipe; name a file")
    (folder / "dangling.pt").symlink_to(folder / "gone.pt")
    yield Case("a link to nothing", folder / "dangling.pt", "a symbolic link to nothing")
    (folder / "round").symlink_to(folder / "about")
    (folder / "about").symlink_to(folder / "round")
    yield Case("links in a circle", folder / "round", "cannot be read")
    yield Case("inside of a circle", folder / "round" / "model.pt", "cannot be read")
    yield Case("beyond a file", folder / "text.pt" / "model.pt", "there is no such file")
    yield Case("a name of 5,000 letters", folder / ("a" * 5000), "cannot be read")
    yield Case("no name", Path("a\0b"), "cannot be read")


# -- pickles -----------------------------------------------------------------------------------------------------


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


# -- other projects' ---------------------------------------------------------------------------------------------


@cache
def our_weights() -> dict[str, torch.Tensor]:
    return tiny.weights(tiny.config(), 3, 1)


@cache
def their_weights() -> dict[str, torch.Tensor]:
    return tiny.weights(THEIRS.config, 3, 1)


def openai_file(
    path: Path, flags: Any = None, change: Callable[[dict[str, Any]], Any] = lambda state: None
) -> Path:
    """A file of OpenAI's, changed, with its flags beside it, whatever they are."""
    state: dict[str, Any] = openai.write(their_weights(), THEIRS)
    change(state)
    torch.save(state, path)
    text = flags if isinstance(flags, str) else json.dumps({**openai.flags(THEIRS), **(flags or {})})
    path.with_name(f"{path.name}.json").write_text(text)
    return path


def openai_files(folder: Path) -> Iterator[Case]:
    """Weights of wrong shapes, and flags beside them."""
    shapes: list[tuple[str, Any, str]] = [
        ("input_blocks.0.0.weight", torch.zeros(()), "not a whole net of OpenAI's"),
        ("input_blocks.0.0.weight", torch.zeros(3), "not a whole net of OpenAI's"),
        ("input_blocks.0.0.weight", torch.zeros(0, 0, 0, 0), "not a whole net of OpenAI's"),
        ("time_embed.0.weight", torch.zeros(0, 3), "not a whole net of OpenAI's"),
        ("time_embed.0.weight", torch.zeros(128, 1), ""),
        ("out.2.weight", torch.zeros(10**6, 1), "no model of pictures does"),
        ("label_emb.weight", torch.zeros(1), "not a whole net of OpenAI's"),
        ("label_emb.weight", torch.zeros(10**6, 1), "label_emb.weight is"),
        ("input_blocks.999999999999.0.op.weight", torch.zeros(1), ""),
        ("input_blocks.1.0.out_layers.3.weight", torch.zeros(10**6, 1), ""),
        ("input_blocks.x.0.op.weight", torch.zeros(1, 1), ""),
        ("middle_block.0.emb_layers.1.weight", torch.zeros(1), ""),
        ("out.2.bias", 3, "out.2.bias is no weight"),
        ("out.2.bias", torch.zeros(6, dtype=torch.int32), "weights are floats"),
        ("out.2.bias", torch.zeros(6, dtype=torch.complex64), "weights are floats"),
        ("out.2.bias", torch.full((6,), float("nan")), "holds NaN"),
        ("out.2.bias", torch.zeros(6).to_sparse(), ""),
    ]
    for i, (key, value, says) in enumerate(shapes):
        path = openai_file(folder / f"{i}.pt", change=lambda state, k=key, v=value: state.update({k: v}))
        yield Case(f"{key} {getattr(value, 'shape', value)}", path, says)
    flags: list[tuple[Any, str]] = [
        ({"num_heads": 0}, "--net.heads 0: is at least 1"),
        ({"num_heads": 10**9}, ""),
        ({"num_heads": "4"}, "num_heads: holds '4'; takes int"),
        ({"num_head_channels": 10**9}, ""),
        ({"diffusion_steps": 0}, "diffusion_steps: holds 0; is at least 1"),
        ({"diffusion_steps": GREAT}, "chain.steps 1000000000000 is 1 to"),
        ({"diffusion_steps": -5}, "diffusion_steps: holds -5; is at least 1"),
        ({"image_size": 10**9}, "data.size"),
        ({"image_size": 0}, "--data.size"),
        ({"dropout": float("nan")}, "dropout: holds nan"),
        ({"dropout": -1.0}, "--net.dropout -1.0"),
        ({"noise_schedule": "exec"}, "takes linear or cosine"),
        ({"ddpm": {"step": -1, "data": {"classes": ["a", "b", "c"]}}}, "its ddpm is of another model"),
        ({"ddpm": {"step": "x", "data": {"classes": ["a", "b", "c"]}}}, "its ddpm is of another model"),
        ({"ddpm": {"data": {"classes": 3}}}, "takes str"),
        ("[" * DEEP, "nested too deeply"),
        ("[]", "it is a table of OpenAI's flags"),
        ("", "damaged, not JSON"),
        ("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "damaged, not JSON"),
    ]
    for i, (beside, says) in enumerate(flags):
        yield Case(f"flags {str(beside)[:30]}", openai_file(folder / f"flags {i}.pt", beside), says)
    path = openai_file(folder / "piped.pt")
    path.with_name("piped.pt.json").unlink()
    os.mkfifo(path.with_name("piped.pt.json"))
    yield Case("a pipe for flags", path, "give what its training's flags said")


def diffusers(folder: Path) -> Iterator[Case]:
    """Folders whose JSON is of wrong types, missing, huge or deep."""

    def made(name: str) -> Path:
        first = folder / "whole"
        if not first.exists():
            first.mkdir()
            diffusers_folder.write(first, their_weights(), THEIRS)
        shutil.copytree(first, folder / name)
        return folder / name

    net, noise = "unet/config.json", "scheduler/scheduler_config.json"
    wrong: list[tuple[str, str, Any, str]] = [
        (net, "block_out_channels", [10**9, 10**9], "net.channels 1000000000 is even and 4 to"),
        (net, "block_out_channels", [], "is a list of a width for each level"),
        (net, "block_out_channels", "32", "is a list of a width for each level"),
        (net, "block_out_channels", [32] * 10**5, ""),
        (net, "block_out_channels", [0, 0], "is a list of a width"),
        (net, "layers_per_block", 10**9, "net.blocks 1000000000 is 1 to 100"),
        (net, "layers_per_block", -1, "is a positive whole number"),
        (net, "norm_num_groups", 0, "is a positive whole number"),
        (net, "attention_head_dim", 10**9, "must divide the widths"),
        (net, "sample_size", 10**6, "data.size (1000000, 1000000) has sides"),
        (net, "sample_size", -1, "is a number of pixels"),
        (net, "in_channels", 10**9, "pictures have 1, 3 or 4 channels"),
        (net, "in_channels", True, ""),
        (net, "in_channels", [3], "pictures have 1, 3 or 4 channels"),
        (net, "num_class_embeds", 10**9, "is at most 1,000,000"),
        (net, "down_block_types", [["x"], ["y"]], "our U-Net has no"),
        (net, "down_block_types", ["\x1b[2J", "a\nb"], "our U-Net has no"),
        (net, "down_block_types", "DownBlock2D", "is a list of 2"),
        (net, "dropout", float("nan"), "is a number"),
        (net, "dropout", 10**400, "is a number"),
        (net, "norm_eps", "1e-5", "is a number"),
        (net, "freq_shift", 10**400, "is a number"),
        (net, "act_fn", ["silu"], "SiLU everywhere"),
        (net, "act_fn", "x" * 10**6, "SiLU everywhere"),
        (net, "time_embedding_dim", 10**9, "ours is 4 times"),
        (net, "_class_name", "os.system", "only a UNet2DModel"),
        (net, "_class_name", None, "only a UNet2DModel"),
        (noise, "num_train_timesteps", GREAT, "is at most 1,000,000"),
        (noise, "num_train_timesteps", -1, "is a positive whole number"),
        (noise, "num_train_timesteps", 1.5, "is a positive whole number"),
        (noise, "trained_betas", "0.1", "are not 50 numbers"),
        (noise, "trained_betas", [0.1] * 10**5, "are not 50 numbers"),
        (noise, "trained_betas", [[0.1]] * 50, "are not 50 numbers"),
        (noise, "trained_betas", [10**400] * 50, "are not 50 numbers"),
        (noise, "trained_betas", [float("nan")] * 50, ""),
        (noise, "trained_betas", [2.0] * 50, "lies between 0 and 1"),
        (noise, "trained_betas", {"a": 1}, "are not 50 numbers"),
        (noise, "beta_schedule", ["linear"], ""),
        (noise, "prediction_type", {"eps": 1}, "takes epsilon"),
        (noise, "clip_sample_range", 10**400, "is a number"),
        (noise, "variance_type", 3, ""),
        (noise, "_class_name", ["DDPMScheduler"], "not the noise of a DDPM"),
    ]
    for i, (file, key, value, says) in enumerate(wrong):
        place = made(f"{i}")
        values = json.loads((place / file).read_text())
        (place / file).write_text(json.dumps({**values, key: value}))
        yield Case(f"{key} {str(value)[:20]}", place, says)
    for i, (file, text, says) in enumerate(
        [
            (net, "", "damaged, not JSON"),
            (net, "[" * DEEP, "nested too deeply"),
            (net, '{"_class_name":' * 900 + "1" + "}" * 900, ""),
            (net, "[]", "it is a table of settings"),
            (net, " " * (17 << 20), "no such file has more than"),
            (net, '{"a": ' + "9" * 5000 + "}", "damaged"),
            (noise, "{", "damaged, not JSON"),
            (noise, "[1]", "it is a table of settings"),
            ("model_index.json", "[" * DEEP, "nested too deeply"),
            ("model_index.json", "[]", "has no unet"),
            ("model_index.json", '{"unet": 3}', "has no unet"),
        ]
    ):
        place = made(f"text {i}")
        (place / file).write_text(text)
        yield Case(f"{file} {text[:20]}", place, says)
    weights = "unet/diffusion_pytorch_model.safetensors"
    place = made("no config")
    (place / net).unlink()
    yield Case("no config.json", place, "missing")
    place = made("no weights")
    (place / weights).unlink()
    yield Case("no weights", place, "has no weights")
    place = made("piped weights")
    (place / weights).unlink()
    os.mkfifo(place / weights)
    yield Case("a pipe for weights", place, "has no weights")
    place = made("piped config")
    (place / net).unlink()
    os.mkfifo(place / net)
    yield Case("a pipe for config.json", place, "missing")
    place = made("circle")
    (place / net).unlink()
    (place / net).symlink_to(place / net)
    yield Case("a link to itself for config.json", place, "missing")
    place = made("itself")
    shutil.rmtree(place / "unet")
    (place / "unet").symlink_to(place)
    yield Case("a folder in itself", place, "missing")
    place = made("cut")
    (place / weights).write_bytes((place / weights).read_bytes()[:-100])
    yield Case("weights cut short", place, "damaged or not a safetensors")
    place = made("payload")
    (place / weights).unlink()
    (place / "unet" / "diffusion_pytorch_model.bin").write_bytes(
        pickle.dumps({"conv_in.weight": Payload(os.mkdir, str(folder / SENTINEL))})
    )
    yield Case("a .bin that would run code", place, "would run code on loading")
    place = made("lying")
    (place / weights).unlink()
    lie = {"conv_in.weight": Tensor(Storage("0", 4), (GREAT,), (0,))}
    archive(place / "unet" / "diffusion_pytorch_model.bin", program(lie), {"0": bytes(16)})
    yield Case("a .bin of 4 TB", place, "numbers, which it is not")


def tensorflow(folder: Path) -> Iterator[Case]:
    """Ho et al.'s variables, in TensorFlow's files and in numpy's."""
    variables = his.variables()

    def bundle(name: str, change: Callable[[bytes], bytes]) -> Path:
        prefix = folder / name / "model.ckpt-7"
        prefix.parent.mkdir()
        bundles.write(prefix, variables)
        index = prefix.with_name(prefix.name + ".index")
        index.write_bytes(change(index.read_bytes()))
        return prefix

    none = "damaged, or no checkpoint of TensorFlow"
    yield Case("an index cut short", bundle("cut", lambda data: data[:-9]), none)
    yield Case("an index of nothing", bundle("nothing", lambda data: b""), none)
    yield Case("half an index", bundle("half", lambda data: data[len(data) // 2 :]), "")
    endless = b"\xff" * (1 << 20) + struct.pack("<Q", 0xDB4775248B80FB57)
    yield Case("a number without end", bundle("endless", lambda data: endless), none)
    name = "model/temb/dense0/W"

    def lying(where: str, shape: tuple[int, ...], offset: int, size: int, says: str) -> Case:
        prefix = folder / where / "model.ckpt-7"
        prefix.parent.mkdir()
        dims = b"".join(bundles.field(2, bundles.field(1, side)) for side in shape)
        said = bundles.field(1, 1) + bundles.field(2, dims) + bundles.field(4, offset) + bundles.field(5, size)
        rows = [(b"", bundles.field(1, 1)), (name.encode(), said)]
        prefix.with_name("model.ckpt-7.index").write_bytes(bundles.table(rows))
        prefix.with_name("model.ckpt-7.data-00000-of-00001").write_bytes(bytes(64))
        return Case(where, prefix, says)

    yield lying("a variable of 4 TB", (GREAT,), 0, 4 * GREAT, none)
    yield lying("a variable of another size", (GREAT,), 0, 64, none)
    yield lying("a variable beyond the end", (4,), 1 << 50, 16, none)
    yield lying("a variable of no dimensions", (), 0, 4, "")
    yield lying("sizes that run over", (1 << 62, 1 << 62), 0, 16, none)
    again = bundle("again", lambda data: repeated())
    yield Case("one block ten thousand times", again, "over 100,000 variables")
    gone = bundle("gone", lambda data: data)
    next(gone.parent.glob("*.data-*")).unlink()
    yield Case(
        "no data", folder / "gone" / "model.ckpt-7", "missing; a checkpoint of TensorFlow is all of its files"
    )
    short = bundle("short", lambda data: data)
    data = next(short.parent.glob("*.data-*"))
    data.write_bytes(data.read_bytes()[:100])
    yield Case("data cut short", short, none)

    for label, changed, says in (
        ("none of his shapes", {name: np.zeros(3, "f4")}, ""),
        ("an empty one", {name: np.zeros((0, 0), "f4")}, ""),
        ("three dimensions", {"model/conv_in/W": np.zeros((3, 3, 8), "f4")}, "not the shapes of his U-Net"),
        ("q of another size", {"model/mid/attn_1/q/W": np.zeros((4, 4), "f4")}, "not the shapes of his U-Net"),
        ("a number of 5,000 digits", {f"model/down_{'9' * 5000}/block_0/conv1/W": np.zeros((1, 1), "f4")}, ""),
        ("level 10^9", {"model/down_1000000000/block_0/conv1/W": np.zeros((3, 3, 8, 8), "f4")}, ""),
    ):
        np.savez(folder / f"{label}.npz", **{**variables, **changed})
        yield Case(label, folder / f"{label}.npz", says)
    np.savez_compressed(folder / "bomb.npz", **{name: np.zeros((1 << 12, 1 << 12), "f4")})
    yield Case("a .npz that grows", folder / "bomb.npz", "unpacks to far more")
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (GREAT,)})
    with zipfile.ZipFile(folder / "lying.npz", "w") as file:
        file.writestr(f"{name}.npy", head.getvalue() + bytes(16))
    yield Case("an array of 4 TB", folder / "lying.npz", "damaged, or not a .npz")
    with zipfile.ZipFile(folder / "no array.npz", "w") as file:
        file.writestr(f"{name}.npy", b"hello")
    yield Case("no array", folder / "no array.npz", "damaged, or not a .npz")


def repeated() -> bytes:
    """An index that names one block of 100 variables ten thousand times."""
    inner = bundles.block([(b"k%04d" % i, b"") for i in range(100)])
    handle = bundles.varint(0) + bundles.varint(len(inner))
    index = bundles.block([(b"%05d" % i, handle) for i in range(10_000)])
    data = inner + bytes(5)
    place = bundles.varint(len(data)) + bundles.varint(len(index))
    data += index + bytes(5)
    return data + (place + place).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


# -- programs of torch.export ------------------------------------------------------------------------------------


def exported(path: Path) -> Path:
    """A feature net, whole."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(4)).eval()
    example = torch.zeros(2, 1, 8, 8)
    net(example)
    batch = {0: torch.export.Dim("batch")}
    torch.export.save(torch.export.export(net, (example,), dynamic_shapes=({**batch},)), path)
    return path


def rezipped(path: Path, out: Path, change: Callable[[str, bytes], bytes | None], compression: int = 0) -> Path:
    """An archive with its files changed: change(name, content) → content, or None for none."""
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(out, "w", compression) as to:
        for name in whole.namelist():
            content = change(name, whole.read(name))
            if content is not None:
                to.writestr(name, content)
    return out


def programs(folder: Path) -> Iterator[Case]:
    """Feature nets that would run code, or grow."""
    whole = exported(folder / "whole.pt2")

    def case(name: str, says: str, change: Callable[[str, bytes], bytes | None], compression: int = 0) -> Case:
        return Case(name, rezipped(whole, folder / f"{name}.pt2", change, compression), says, "features")

    def said(change: Callable[[dict[str, Any]], Any]) -> Callable[[str, bytes], bytes]:
        def edit(name: str, content: bytes) -> bytes:
            if not name.endswith("models/model.json"):
                return content
            values = json.loads(content)
            change(values)
            return json.dumps(values).encode()

        return edit

    def node(values: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = values["graph_module"]["graph"]["nodes"][0]
        return made

    def target(name: str) -> Callable[[dict[str, Any]], Any]:
        return lambda values: node(values).update(target=name)

    def sized(text: str) -> Callable[[dict[str, Any]], Any]:
        def change(values: dict[str, Any]) -> None:
            found = json.dumps(values)
            at = found.index('"expr_str": "') + len('"expr_str": "')
            values.clear()
            values.update(json.loads(found[:at] + text + found[found.index('"', at) :]))

        return change

    mark = str(folder / SENTINEL)
    yield case("os.system", "none that may be run", said(target("torch.os.system")))
    yield case("a hub", "none that may be run", said(target("torch.hub.load")))
    yield case("an expression", "none that may be run", said(sized(f"__import__('os').mkdir('{mark}')")))
    powers = "Pow(Integer(9), Pow(Integer(9), Integer(9)))"
    yield case("9 to the 9 to the 9th", "none that may be run", said(sized(powers)))
    yield case("a power of 10^9", "none that may be run", said(sized("Pow(Integer(9), Integer(1000000000))")))
    yield case("a long number", "none that may be run", said(sized("Rational('1e999999999')")))
    yield case("no power", "none that may be run", said(sized("Pow()")))
    guard = f"__import__('os').mkdir('{mark}')"
    left_out = case("a guard", "", said(lambda values: values.update(guards_code=[guard])))
    yield replace(left_out, expected="any")
    yield case("a deep program", "nested too deeply", lambda n, c: b"[" * DEEP if n.endswith("model.json") else c)
    yield case("no table", "damaged", lambda n, c: b'{"config": {"a": 3}}' if n.endswith("config.json") else c)
    yield case("compressed", "its records are compressed", lambda n, c: c, zipfile.ZIP_DEFLATED)
    grown = rezipped(
        whole, folder / "bomb.pt2", lambda n, c: bytes(1 << 27) if "weight_0" in n else c, zipfile.ZIP_DEFLATED
    )
    yield Case("a bomb", grown, "its records are compressed", "features")
    (folder / "pickle.pt2").write_bytes(pickle.dumps(Payload(os.mkdir, mark)))
    yield Case("a pickle", folder / "pickle.pt2", "would run code on loading", "features")
    (folder / "cut.pt2").write_bytes(whole.read_bytes()[:-400])
    yield Case("cut", folder / "cut.pt2", "cut short or damaged", "features")
    os.mkfifo(folder / "pipe.pt2")
    yield Case("a pipe", folder / "pipe.pt2", "is a pipe; name a file", "features")
    yield Case("a folder", folder, "is a folder; name a file", "features")
    yield Case("a device", Path("/dev/zero"), "is a device; name a file", "features")
    (folder / "dangling.pt2").symlink_to(folder / "gone.pt2")
    yield Case("a link to nothing", folder / "dangling.pt2", "a symbolic link to nothing", "features")
    (folder / "nothing.pt2").write_bytes(b"")
    yield Case("nothing", folder / "nothing.pt2", "is empty", "features")


# -- small files -------------------------------------------------------------------------------------------------

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))


def configs(folder: Path) -> Iterator[Case]:
    """What --config may be given."""
    texts: list[tuple[str, str | bytes, str]] = [
        ("bomb.yaml", BOMB, "*a0 repeats what stands elsewhere"),
        ("bomb of tables.yaml", "net: &n {channels: 8}\ndata: *n", "*n repeats what stands elsewhere"),
        ("merge.yaml", "net: &n {channels: 8}\ndata: {<<: *n}", "*n repeats what stands elsewhere"),
        ("code.yaml", "net: !!python/object/apply:os.mkdir ['HERE']", "could not determine a constructor"),
        ("name.yaml", "net: !!python/name:os.mkdir", "could not determine a constructor"),
        ("module.yaml", "!!python/module:os {}", "could not determine a constructor"),
        ("new.yaml", "net: !!python/object/new:os.mkdir {args: ['HERE']}", "could not determine a constructor"),
        ("binary.yaml", "net: {style: !!binary aGVsbG8=}", "takes ho or openai"),
        ("set.yaml", "net: {attention: !!set {1, 2}}", ""),
        ("pairs.yaml", "net: !!pairs [a: 1]", "it is a table of settings"),
        ("deep.yaml", "[" * DEEP, "nested too deeply"),
        ("deep whole.yaml", "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("deep blocks.yaml", "".join(f"{' ' * i}a:\n" for i in range(1000)), "nested too deeply"),
        ("deep.json", "[" * DEEP, "nested too deeply"),
        ("deep whole.json", '{"net": ' + "[" * 800 + "]" * 800 + "}", "table of settings"),
        ("long.yaml", "#" * (2 << 20), "no such file has more than"),
        ("long.json", " " * (17 << 20), "no such file has more than"),
        ("latin.yaml", "net: {style: \xe9}".encode("latin-1"), "not text in UTF-8"),
        ("utf16.json", "{}".encode("utf-16"), "not text in UTF-8"),
        ("nul.yaml", b"net: \0", "not YAML"),
        ("surrogate.json", r'{"\ud800": 1}', "no such section"),
        ("surrogate.yaml", r'"\ud800": 1', ""),
        ("nan.yaml", "optimizer: {lr: .nan}", "optimizer.lr: holds nan; takes finite float"),
        ("inf.yaml", "optimizer: {lr: .inf}", "optimizer.lr: holds inf; takes finite float"),
        ("nan.json", '{"optimizer": {"lr": NaN}}', "optimizer.lr: holds nan; takes finite float"),
        ("infinity.json", '{"net": {"multipliers": [Infinity]}}', "holds inf"),
        ("huge.json", '{"net": {"multipliers": [1e999]}}', "holds inf"),
        ("digits.json", '{"net": {"channels": ' + "9" * 5000 + "}}", "holds what no config does"),
        ("digits.yaml", "net: {channels: " + "9" * 5000 + "}", "holds what no config does"),
        ("hex.yaml", "net: {channels: 0x" + "f" * 5000 + "}", "takes 64-bit int"),
        ("long int.yaml", "optimizer: {lr: " + "9" * 400 + "}", "takes 64-bit float"),
        ("key.yaml", "net: {chanels: 8}", "net.chanels: no such setting; did you mean channels?"),
        ("section.yaml", "ent: {channels: 8}", "ent: no such section; did you mean net?"),
        ("dotted.yaml", "net.chanels: 8", "did you mean data: {channels: ...} or net: {channels: ...}?"),
        ("a key of two lines.yaml", '{"a\\nb\\e[2J": 1}', r"a\nb\x1b[2J: no such section"),
        ("a long key.yaml", f"{'a' * 10**5}: 1", ""),
        ("a long key.json", json.dumps({"net": {"a" * 10**6: 1}}), "no such setting"),
        ("flags.yaml", "data: {flip: 1}", "data.flip: holds 1; takes bool"),
        ("true.yaml", "data: {size: true}", "data.size: holds"),
        ("size.yaml", "data: {size: -64}", "takes a height and a width"),
        ("words.yaml", "net: {channels: eight}", "takes int"),
        ("list.yaml", "- net", "it is a table of sections"),
        ("null.yaml", "~", "holds nothing"),
        ("nothing.json", "", "not JSON"),
        ("run.json", '{"format": "ddpm/1", "config": []}', "damaged"),
    ]
    for name, text, says in texts:
        data = text if isinstance(text, bytes) else text.replace("HERE", str(folder / SENTINEL)).encode()
        (folder / name).write_bytes(data)
        yield Case(name, folder / name, says, "config")
    os.mkfifo(folder / "pipe.yaml")
    yield Case("a pipe", folder / "pipe.yaml", "is a pipe; name a file", "config")
    yield Case("a folder", folder, "is a folder; name a file", "config")
    yield Case("a device", Path("/dev/zero"), "is a device; name a file", "config")
    yield Case("none", folder / "none.yaml", "there is no such file", "config")
    (folder / "round.yaml").symlink_to(folder / "round.yaml")
    yield Case("a link to itself", folder / "round.yaml", "cannot be read", "config")


GRIDS: dict[str, Any] = {
    "format": "ddpm-grids/1",
    "T": 40,
    "grids": [{"levels": [10, 40], "bits": 3.0, "even": 3.1}],
    "variance": "large",
    "pictures": 8,
    "seed": 0,
}
SETTING = {"evaluations": 5, "sampler": "heun", "steps": 3, "grid": "edm", "options": [["churn", 1.5]]}
TUNED: dict[str, Any] = {
    "format": "ddpm-tuned/1",
    "T": 40,
    "winners": [{"setting": SETTING, "scores": [1.0], "tried": 2}],
    "n": 8,
    "seeds": [0],
    "features": "random",
}


def grids(folder: Path) -> Iterator[Case]:
    """grids.json and tuned.json."""
    grid, tuned = GRIDS, TUNED
    one, winner = grid["grids"][0], tuned["winners"][0]
    setting = winner["setting"]
    changes: list[tuple[str, dict[str, Any], str, Any, str]] = [
        ("grids", grid, "T", GREAT, "do not rise"),
        ("grids", grid, "T", -1, "do not rise"),
        ("grids", grid, "grids", 3, "it is a table"),
        ("grids", grid, "grids", [{**one, "levels": [40, 10]}], "do not rise"),
        ("grids", grid, "grids", [{**one, "levels": []}], "do not rise"),
        ("grids", grid, "grids", [{**one, "levels": [0.5, 40]}], "takes int"),
        ("grids", grid, "grids", [{**one, "bits": float("nan")}], "holds nan"),
        ("grids", grid, "grids", [{"levels": [40]}], "settings are missing"),
        ("grids", grid, "grids", [{**one, "leveles": 1}], "did you mean levels?"),
        ("grids", grid, "format", "x", "holds no fitted grids"),
        ("grids", grid, "variance", None, "takes str"),
        ("tuned", tuned, "T", GREAT, "was tuned for a model of"),
        ("tuned", tuned, "winners", [], "do not rise"),
        ("tuned", tuned, "winners", [winner, winner], "do not rise"),
        ("tuned", tuned, "winners", [{**winner, "scores": [float("nan")]}], "holds nan"),
        ("tuned", tuned, "winners", [{**winner, "scores": []}], "the scores of"),
        ("tuned", tuned, "winners", [{**winner, "setting": {**setting, "steps": GREAT}}], ""),
        ("tuned", tuned, "winners", [{**winner, "setting": {**setting, "steps": -1}}], ""),
        ("tuned", tuned, "winners", [{**winner, "setting": {**setting, "sampler": "os.system"}}], "--sampler"),
        ("tuned", tuned, "winners", [{**winner, "setting": {**setting, "grid": "edm:x"}}], ""),
        ("tuned", tuned, "winners", [{**winner, "setting": {**setting, "grid": "edm:0"}}], ""),
        (
            "tuned",
            tuned,
            "winners",
            [{**winner, "setting": {**setting, "options": [["corrections", 1.0]]}}],
            "belongs to",
        ),
        (
            "tuned",
            tuned,
            "winners",
            [{**winner, "setting": {**setting, "options": [["churn", "x"]]}}],
            "takes float",
        ),
        ("tuned", tuned, "winners", [{**winner, "setting": {**setting, "options": [["self", 1.0]]}}], ""),
        ("tuned", tuned, "winners", [{**winner, "setting": {**setting, "options": [["name", 1.0]]}}], ""),
        ("tuned", tuned, "winners", [{**winner, "setting": {**setting, "options": [["churn_range", 1.0]]}}], ""),
        ("tuned", tuned, "seeds", "0", "takes int"),
    ]
    for i, (what, values, key, value, says) in enumerate(changes):
        (folder / f"{what} {i}.json").write_text(json.dumps({**values, key: value}))
        yield Case(f"{what} {key} {str(value)[:30]}", folder / f"{what} {i}.json", says, what)
    for what in ("grids", "tuned"):
        for i, (text, says) in enumerate([("", "damaged"), ("[" * DEEP, "nested too deeply"), ("[]", "holds no")]):
            (folder / f"{what} text {i}.json").write_text(text)
            yield Case(f"{what} {text[:9]}", folder / f"{what} text {i}.json", says, what)
        os.mkfifo(folder / f"{what} pipe.json")
        yield Case(f"{what}, a pipe", folder / f"{what} pipe.json", "is a pipe", what)


FAMILIES: tuple[Family, ...] = (
    our_files,
    descriptions,
    runs,
    places,
    pickles,
    openai_files,
    diffusers,
    tensorflow,
    programs,
    configs,
    grids,
)


def cases(folder: Path) -> Iterator[Case]:
    """All of them, a family a folder."""
    for family in FAMILIES:
        place = folder / family.__name__
        place.mkdir(parents=True)
        yield from family(place)


# -- damage at random --------------------------------------------------------------------------------------------

_INTEGERS = (0, 1, -1, 2**15, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**40)
_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, GREAT, 2**63, 1e308, float("nan"), float("-inf"), "", "x", "\x1b[2J\n", [], {}, [[]],
    [0] * 1000, {"a": {"b": 1}}, "ddpm/1", [1e-300] * 3, 0.5,
)  # fmt: skip


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes with one to four accidents, half of them where headers are: at the ends."""
    made = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if not made:
            break
        near = rng.random()
        if near < 0.35:
            at = int(rng.integers(min(len(made), 2048)))
        elif near < 0.5:
            at = len(made) - 1 - int(rng.integers(min(len(made), 512)))
        else:
            at = int(rng.integers(len(made)))
        length = int(rng.integers(1, 64))
        kind = rng.integers(8)
        if kind == 0:
            made[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            made[at : at + length] = rng.bytes(length)
        elif kind == 2:
            made[at : at + length] = bytes([rng.choice([0, 0xFF])]) * length
        elif kind == 3:
            del made[at : at + length]
        elif kind == 4:
            made[at:at] = made[at : at + length]
        elif kind == 5:
            made[at:at] = rng.bytes(length)
        elif kind == 6:
            del made[at:]
        else:
            number = _INTEGERS[rng.integers(len(_INTEGERS))]
            size = int(rng.choice([2, 4, 8]))
            made[at : at + size] = (number % 256**size).to_bytes(size, "little")
    return bytes(made)


def twisted(values: Any, rng: np.random.Generator) -> Any:
    """JSON values with one of them, somewhere, another, renamed or left out."""
    if isinstance(values, dict) and values and rng.random() < 0.85:
        key = list(values)[rng.integers(len(values))]
        if rng.random() < 0.1:
            return {f"{name}x" if name == key else name: value for name, value in values.items()}
        if rng.random() < 0.1:
            return {name: value for name, value in values.items() if name != key}
        return {**values, key: twisted(values[key], rng)}
    if isinstance(values, list) and values and rng.random() < 0.7:
        at = int(rng.integers(len(values)))
        return [*values[:at], twisted(values[at], rng), *values[at + 1 :]]
    return _VALUES[rng.integers(len(_VALUES))]


def _json(data: bytes, rng: np.random.Generator) -> bytes:
    """A JSON file, damaged as bytes or as values."""
    if rng.random() < 0.3:
        return damaged(data, rng)
    return json.dumps(twisted(json.loads(data), rng)).encode()


def _header(data: bytes, rng: np.random.Generator) -> bytes:
    """A safetensors file, damaged as bytes, in its header's values or in those of the description."""
    kind = rng.random()
    if kind < 0.35:
        return damaged(data, rng)
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    if kind < 0.55:
        header = twisted(header, rng)
    else:
        told = header.get("__metadata__", {})
        if "ddpm" in told:
            said = json.dumps(twisted(json.loads(told["ddpm"]), rng))
            header["__metadata__"] = {**told, "ddpm": said}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _zip(data: bytes, rng: np.random.Generator) -> bytes:
    """An archive, damaged as bytes, or in one of its files with its checksum put right."""
    if rng.random() < 0.35:
        return damaged(data, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as whole:
        names = whole.namelist()
        first = [name for name in names if name.endswith(("data.pkl", ".json", ".npy"))] or names
        chosen = first[rng.integers(len(first))] if rng.random() < 0.85 else names[rng.integers(len(names))]
        with zipfile.ZipFile(out, "w") as to:
            for name in names:
                content = whole.read(name)
                if name == chosen:
                    content = (_json if name.endswith(".json") else damaged)(content, rng)
                to.writestr(name, content)
    return out.getvalue()


Damage = Callable[[bytes, np.random.Generator], bytes]


@dataclass(frozen=True)
class Whole:
    """A model that nothing happened to, in a folder of its own: `case` opens it, or is refused by what it says.

    files: in that folder, and how each is damaged.
    """

    case: Case
    folder: Path
    files: dict[str, Damage]


def whole(folder: Path) -> list[Whole]:
    """A model in each format, and the small files beside models."""
    made: list[Whole] = []

    def add(name: str, files: dict[str, Damage], says: str = "", what: str = "model") -> None:
        made.append(Whole(Case(name, folder / name / next(iter(files)), says, what), folder / name, files))

    def place(name: str) -> Path:
        (folder / name).mkdir(parents=True)
        return folder / name

    run = tiny.run(place("run") / "run").folder
    inside = "checkpoints/000000007"
    state = run / inside / "state.json"
    values = {key: value for key, value in json.loads(state.read_text()).items() if key != "checksum"}
    state.write_text(json.dumps({**values, "sha256": {}}))  # else every accident is noticed by its checksum
    files: dict[str, Damage] = {
        "run/config.json": _json,
        f"run/{inside}/state.json": _json,
        f"run/{inside}/ema.safetensors": _header,
    }
    made.append(Whole(Case("run", run), folder / "run", files))
    save_weights(place("ours") / "ours.safetensors", our_weights(), OURS)
    add("ours", {"ours.safetensors": _header})
    diffusers_folder.write(place("diffusers"), their_weights(), THEIRS)
    files = {
        "unet/config.json": _json,
        "scheduler/scheduler_config.json": _json,
        "model_index.json": _json,
        "unet/diffusion_pytorch_model.safetensors": _header,
    }
    made.append(Whole(Case("diffusers", folder / "diffusers"), folder / "diffusers", files))
    for name, zipped in (("openai", True), ("legacy", False)):
        path = place(name) / "model.pt"
        torch.save(openai.write(their_weights(), THEIRS), path, _use_new_zipfile_serialization=zipped)
        path.with_name("model.pt.json").write_text(json.dumps(openai.flags(THEIRS)))
        add(name, {"model.pt": _zip if zipped else damaged, "model.pt.json": _json})
    asks = "its weights do not say"
    np.savez(place("npz") / "his.npz", **his.variables())
    add("npz", {"his.npz": _zip}, asks)
    bundles.write(place("tensorflow") / "model.ckpt-7", his.variables())
    add("tensorflow", {"model.ckpt-7.index": damaged, "model.ckpt-7.data-00000-of-00001": damaged}, asks)
    exported(place("exported") / "net.pt2")
    add("exported", {"net.pt2": _zip}, what="features")
    (place("config") / "config.yaml").write_text(write_yaml(OURS.config))
    add("config", {"config.yaml": damaged}, what="config")
    (place("json") / "config.json").write_text(json.dumps(OURS.to_json()))
    add("json", {"config.json": _json}, what="config")
    for what, values in (("grids", GRIDS), ("tuned", TUNED)):
        (place(what) / f"{what}.json").write_text(json.dumps(values))
        add(what, {f"{what}.json": _json}, what=what)
    return made


def mutated(folder: Path, first: int, count: int) -> Iterator[Case]:
    """Cases number first … first + count − 1, each the same wherever it is made; a case is gone after its turn."""
    models = whole(folder / "whole")
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        model = models[number % len(models)]
        place = folder / f"{number}"
        shutil.copytree(model.folder, place)
        name = list(model.files)[rng.integers(len(model.files))]
        (place / name).write_bytes(model.files[name]((place / name).read_bytes(), rng))
        path = place / model.case.path.relative_to(model.folder)
        yield replace(model.case, name=f"{number}: {model.case.name}, {name}", path=path, expected="any")
        shutil.rmtree(place)


# -- trying them -------------------------------------------------------------------------------------------------


def tried(case: Case) -> tuple[str, str]:
    """What comes of it: ("opened", ""), ("refused", the message) or ("trace", the stack trace)."""
    import ddpm
    from ddpm.commands.configfile import read_config
    from ddpm.errors import UserError
    from ddpm.evaluate.features import open_features
    from ddpm.grids import read_grids
    from ddpm.tuned import read_tuned

    try:
        if case.what == "model":
            ddpm.load(case.path, "cpu")
        elif case.what == "features":
            open_features(str(case.path), "cpu")
        elif case.what == "config":
            read_config(case.path)
        elif case.what == "grids":
            if read_grids(case.path).T != 40:
                raise UserError("for a model of other levels")
        else:
            read_tuned(case.path, 40)
    except UserError as error:
        return "refused", str(error)
    except Exception:
        return "trace", traceback.format_exc()
    return "opened", ""


def limited(room: int) -> None:
    """From here on this process may take so many bytes more, and no others."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + room, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main(folder: str, first: str, count: str, room: str) -> None:
    """Tries damaged models; writes a line for each: [name, outcome, text, bytes more than at the beginning]."""

    limited(int(room))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in mutated(Path(folder), int(first), int(count)):
        outcome, text = tried(case)
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        print(json.dumps([case.name, outcome, text, grown]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
