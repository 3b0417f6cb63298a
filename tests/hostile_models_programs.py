"""Programs of torch.export, as feature nets are given."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hostile_models_case import DEEP, SENTINEL, Case
from hostile_models_pickles import Payload


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
