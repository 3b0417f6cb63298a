"""`ddpm info MODEL|PRESET|presets`: what it is, without computing anything."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from ddpm.commands.configfile import write_yaml
from ddpm.commands.options import console, read
from ddpm.config import Config
from ddpm.errors import UserError
from ddpm.presets import ORIGINS, PRESETS

_DESCRIPTION = "Shows config, data, progress and sizes of a model, a run, or a preset."


@dataclass(frozen=True)
class Options:
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """A run's folder, a .safetensors file, an embedded name, or a preset's name; `presets` lists those."""
    yaml: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the config alone, as ddpm train DATA --config reads it."""


def main(arguments: Sequence[str]) -> int:
    options = read(Options, "info", arguments, _DESCRIPTION)
    out = console()
    there = Path(options.model).exists()  # a path of that name is meant first
    if options.model == "presets" and not there:
        if options.yaml:
            raise UserError(f"info presets --yaml: name one of them: {', '.join(PRESETS)}")
        _show_presets(out)
        return 0
    if options.model in PRESETS and not there:
        make = PRESETS[options.model]
        if options.yaml:
            out.print(write_yaml(make()), end="")
            return 0
        out.print((make.__doc__ or "").splitlines()[0])
        classes = ORIGINS[options.model].classes
        which = f" with {classes:,} classes" if classes else ""
        out.print(f"{parameters(make(), classes):,} parameters{which}")
        out.print(config_table(make()))
        return 0
    from ddpm.store import Run, load_weights

    run = Run(options.model)
    if options.yaml:
        config = run.description().config if run.exists() else load_weights(_found(options.model)[0])[1].config
        out.print(write_yaml(config), end="")
        return 0
    if run.exists() and run.newest() == (None, []):
        description = run.description()
        out.print(f"{run.folder}: no checkpoint yet")
    else:
        path, notes = _found(options.model)
        for note in notes:
            out.print(f"note: {note}")
        _, description = load_weights(path)
        out.print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    config, facts = description.config, description.facts
    seen = description.step * config.train.batch
    out.print(f"step {description.step:,} of {config.train.steps:,}, {seen:,} pictures seen")
    records = [record for record in (run.records() if run.exists() else []) if "loss" in record]
    if records:
        last = records[-1]
        speed = f"{last['pictures_per_second']:.0f} pictures a second"
        unit = " bits/dim" if config.loss.kind == "vlb" else ""
        out.print(f"loss {last['loss']:.4f}{unit}, {speed} at step {last['step']:,}")
    out.print(f"{parameters(config, len(facts.classes)):,} parameters")
    skipped = f", {facts.skipped} skipped" if facts.skipped else ""
    out.print(f"data {facts.name}: {facts.count:,} pictures{skipped}")
    if facts.classes:
        shares = facts.frequencies or [1 / len(facts.classes)] * len(facts.classes)
        listed = [
            f"{i} {name} ({share:.0%})" for i, (name, share) in enumerate(zip(facts.classes, shares, strict=True))
        ]
        out.print("classes " + ", ".join(listed))
    if description.command:
        out.print(f"made by: {description.command}")
    out.print(config_table(config))
    return 0


def _found(model: str) -> tuple[Path, list[str]]:
    """The weights of a model and notes about them; UserError also says what else `ddpm info` takes."""
    from ddpm.loading import find

    try:
        return find(model)
    except UserError as error:
        near = difflib.get_close_matches(model, [*PRESETS, "presets"], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{error}{hint}; ddpm info presets lists the papers' settings") from None


def _show_presets(out: Console) -> None:
    """A line a preset, aligned: the same on a terminal and in a pipe."""
    rows = [("preset", "pictures", "parameters", "batch", "steps", "FID", "origin")]
    for name, make in PRESETS.items():
        config, origin = make(), ORIGINS[name]
        fid = "" if origin.fid is None else f"{origin.fid:.2f}"
        fid += "*" if fid and origin.samples != 50_000 else " "
        size, train = " x ".join(map(str, config.data.size)), config.train
        counted = f"{parameters(config, origin.classes):,}"
        where = f"{origin.paper}, {origin.where}"
        rows.append((name, size, counted, str(train.batch), f"{train.steps:,}", fid, where))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers, where in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:-1], strict=True))
        out.print(f"{name:<{widths[0]}}  {'  '.join(cells)}  {where}")
    out.print("FID: the paper's, of 50,000 samples, * of 10,000; train one with: ddpm train DATA --preset NAME")


def parameters(config: Config, classes: int) -> int:
    """Parameters of a config's net, counted without making it; UserError if it does not fit its pictures."""
    import torch

    from ddpm.build import build_net
    from ddpm.nets.levels import check_size

    with torch.device("meta"):
        net = build_net(config, classes)
    check_size(config.data.size, net.stride)
    return sum(p.numel() for p in net.parameters())


def config_table(config: Config) -> Table:
    """Every field with its dotted option."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for section in dataclasses.fields(config):
        values = getattr(config, section.name)
        for item in dataclasses.fields(values):
            table.add_row(f"--{section.name}.{item.name.replace('_', '-')}", show(getattr(values, item.name)))
    return table


def show(value: Any) -> str:
    """A value as it is given on the command line."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
