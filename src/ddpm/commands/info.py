"""`ddpm info MODEL|PRESET|presets`: what it is, without computing anything."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from ddpm.commands.configfile import write_yaml
from ddpm.commands.options import console, read
from ddpm.config import Config, meaningless
from ddpm.errors import UserError, printable
from ddpm.presets import ORIGINS, PRESETS

if TYPE_CHECKING:
    from ddpm.loading import Opened

_LISTED = 100  # classes at the most
_DESCRIPTION = "Shows config, data, progress and sizes of a model, a run, or a preset."


@dataclass(frozen=True)
class Options:
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """A run's folder, a .safetensors file, another project's model, an embedded name, or a preset's name;
    `presets` lists those."""
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
    from ddpm.loading import is_run
    from ddpm.store import Run

    run = Run(options.model) if is_run(Path(options.model)) else None
    if options.yaml:
        out.print(
            write_yaml(run.description().config if run else _opened(options.model).description.config), end=""
        )
        return 0
    foreign = ""
    if run and run.newest() == (None, []):
        description = run.description()
        out.print(f"{run.folder}: no checkpoint yet")
    else:
        found = _opened(options.model)
        for note in found.notes:
            out.print(f"note: {note}")
        description = found.description
        foreign = "" if found.kind == "ddpm" else f", format {found.kind}"
        size = sum(value.nbytes for value in found.weights.values()) if foreign else found.path.stat().st_size
        out.print(f"{found.path} ({size / 1e6:.1f} MB{foreign})")
    config, facts = description.config, description.facts
    seen = description.step * config.train.batch
    if not foreign:
        out.print(f"step {description.step:,} of {config.train.steps:,}, {seen:,} pictures seen")
    elif description.step:
        out.print(f"step {description.step:,}")
    records = [record for record in (run.records() if run else []) if "loss" in record]
    if records:
        last = records[-1]
        speed = f"{last['pictures_per_second']:.0f} pictures a second"
        unit = " bits/dim" if config.loss.kind == "vlb" else ""
        right = f", right about {last['accuracy']:.1%}" if "accuracy" in last else ""
        out.print(f"loss {last['loss']:.4f}{unit}{right}, {speed} at step {last['step']:,}")
    what = ", a classifier of noisy pictures" if config.train.task == "classifier" else ""
    out.print(f"{parameters(config, len(facts.classes)):,} parameters{what}")
    skipped = f", {facts.skipped} skipped" if facts.skipped else ""
    if facts.count or not foreign:
        out.print(f"data {facts.name}: {facts.count:,} pictures{skipped}")
    if facts.classes:
        out.print("classes " + _classes(facts.classes, facts.frequencies))
    if description.command:
        out.print(f"made by: {description.command}")
    out.print(config_table(config))
    return 0


def _opened(model: str) -> Opened:
    """The model; UserError also says what else `ddpm info` takes, where there is no such path."""
    from ddpm.loading import opened

    try:
        return opened(model)
    except UserError as error:
        if "there is no such file" not in str(error):
            raise
        near = difflib.get_close_matches(model, [*PRESETS, "presets"], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{error}{hint}; ddpm info presets lists the papers' settings") from None


def _classes(names: Sequence[str], shares: Sequence[float]) -> str:
    """Numbers and names, and how often each is in the data where that is known."""
    often = [f" ({share:.0%})" for share in shares] or [""] * len(names)
    listed = [f"{i} {name}{share}" for i, (name, share) in enumerate(zip(names, often, strict=True))]
    return ", ".join(listed[:_LISTED]) + (f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else "")


def _show_presets(out: Console) -> None:
    """A line a preset, aligned: the same on a terminal and in a pipe."""
    rows = [("preset", "pictures", "classes", "parameters", "batch", "steps", "FID", "origin")]
    for name, make in PRESETS.items():
        config, origin = make(), ORIGINS[name]
        fid = "" if origin.fid is None else f"{origin.fid:.2f}"
        fid += "*" if fid and origin.samples != 50_000 else " "
        train, classes = config.train, f"{origin.classes:,}" if origin.classes else ""
        counted = f"{parameters(config, origin.classes):,}"
        where = f"{origin.paper}, {origin.where}"
        rows.append((name, _pictures(config), classes, counted, str(train.batch), f"{train.steps:,}", fid, where))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers, where in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:-1], strict=True))
        out.print(f"{name:<{widths[0]}}  {'  '.join(cells)}  {where}")
    out.print("FID: the paper's, without guidance, of 50,000 samples, * of 10,000; an upsampler's is of the model")
    out.print("of its small pictures and it together. Train one with: ddpm train DATA --preset NAME")


def _pictures(config: Config) -> str:
    """Their size; an upsampler's small and large one."""
    size = " x ".join(map(str, config.data.size))
    if config.train.task != "upsampler":
        return size
    sides = [config.data.small, config.data.size]
    return " -> ".join(str(h) if h == w else f"{h} x {w}" for h, w in sides)


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
    """Every field that means something for the task, with its dotted option."""
    table, without = Table(box=None, show_header=False, pad_edge=False), meaningless(config)
    for section in dataclasses.fields(config):
        values = getattr(config, section.name)
        for item in dataclasses.fields(values):
            if f"{section.name}.{item.name}" in without:
                continue
            table.add_row(f"--{section.name}.{item.name.replace('_', '-')}", show(getattr(values, item.name)))
    return table


def show(value: Any) -> str:
    """A value as it is given on the command line."""
    return printable(" ".join(map(str, value)) if isinstance(value, tuple) else str(value))
