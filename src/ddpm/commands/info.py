"""`ddpm info MODEL|PRESET`: what it is, without computing anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from ddpm.commands.options import console, read
from ddpm.config import Config
from ddpm.errors import UserError
from ddpm.presets import PRESETS

_DESCRIPTION = "Shows config, data, progress and sizes of a model, a run, or a preset."


@dataclass(frozen=True)
class Options:
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """A run's folder, a .safetensors file, an embedded name, or a preset's name."""


def main(arguments: Sequence[str]) -> int:
    options = read(Options, "info", arguments, _DESCRIPTION)
    out = console()
    if options.model in PRESETS and not Path(options.model).exists():
        make = PRESETS[options.model]
        out.print((make.__doc__ or "").splitlines()[0])
        out.print(f"{parameters(make(), 0):,} parameters")
        out.print(config_table(make()))
        return 0
    from ddpm.pipeline import find
    from ddpm.store import Run, load_weights

    run = Run(options.model)
    if run.exists() and run.newest() == (None, []):
        description = run.description()
        out.print(f"{run.folder}: no checkpoint yet")
    else:
        try:
            path, notes = find(options.model)
        except UserError as error:
            raise UserError(f"{error}; presets: {', '.join(PRESETS)}") from None
        for note in notes:
            out.print(f"note: {note}")
        _, description = load_weights(path)
        out.print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    config, facts = description.config, description.facts
    seen = description.step * config.train.batch
    out.print(f"step {description.step:,} of {config.train.steps:,}, {seen:,} pictures seen")
    records = run.records() if run.exists() else []
    if records:
        last = records[-1]
        speed = f"{last['pictures_per_second']:.0f} pictures a second"
        out.print(f"loss {last['loss']:.4f}, {speed} at step {last['step']:,}")
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


def parameters(config: Config, classes: int) -> int:
    """Parameters of a config's net, counted without making it; UserError if it does not fit its pictures."""
    import torch

    from ddpm.build import build_net
    from ddpm.nets.unet import check_size

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
