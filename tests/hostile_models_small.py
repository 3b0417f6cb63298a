"""Small files: configs, grids.json and tuned.json."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostile_models_case import DEEP, GREAT, SENTINEL, Case

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
