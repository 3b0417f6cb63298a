"""Our own files: headers that lie, descriptions of impossible models, runs, and what is no file."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors

import tiny
from hostile_models_case import DEEP, GREAT, OURS, Case, our_weights


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
