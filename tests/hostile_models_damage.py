"""Damage at random, by a seed: whole models of each format, and accidents in their bytes and values."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import test_convert_bundle as bundles
import test_convert_ho as his
import tiny
from ddpm.commands.configfile import write_yaml
from ddpm.convert import diffusers_folder, openai
from ddpm.store import save_weights
from hostile_models_case import GREAT, OURS, THEIRS, Case, our_weights, their_weights
from hostile_models_programs import exported
from hostile_models_small import GRIDS, TUNED

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
