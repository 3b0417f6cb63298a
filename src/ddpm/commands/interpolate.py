"""`ddpm interpolate MODEL A B`: the pictures between two pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ddpm.commands.method import METHOD, MethodOptions, check_seed
from ddpm.commands.options import console, progress, read, unset
from ddpm.commands.picture import by_name, class_of, decoded

_DESCRIPTION = (
    "Draws the pictures between two: both are noised to level t with the same noise, mixed there, and walked back "
    "down. The higher t, the more the model makes up of its own; at t = T it makes up everything. By "
    "ancestral sampling, unless told otherwise."
)


@dataclass(frozen=True)
class Options:
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """A run's folder, a file, another project's checkpoint, or the embedded model fashion."""
    a: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="A")]]
    """A picture's file, or DATA:K for picture K of a set, counted from 0: fashion:7, ./photos:12."""
    b: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="B")]]
    """Another."""
    t: Annotated[tuple[int, ...] | None, unset("T ...", "half the chain, 500 of 1000")] = None
    """Level at which they are mixed, from 1 to the T of the model; several give a row each."""
    lambdas: Annotated[tuple[float, ...] | None, unset("LAMBDA ...", "0 0.1 ... 1")] = None
    """Shares of B: at 0 A is reconstructed, at 1 B."""
    mode: Literal["linear", "slerp"] = "linear"
    """Mix along the line, or along the great circle."""
    seed: int = 0
    """Seed of the noise."""
    label: Annotated[
        str | None, unset("CLASS", "A's below 0.5, B's from there on, as DATA has it", name="class")
    ] = None
    """A class by number or name, for all."""
    batch: Annotated[int | None, unset("B", "64 of 32 x 32 on a CPU, 256 on a GPU")] = None
    """Pictures computed at once."""
    weights: Literal["ema", "model"] = "ema"
    """Averaged weights, or as they are."""
    device: Annotated[str | None, unset("DEVICE", "a GPU if there is one")] = None
    """cpu, cuda or mps."""
    out: Annotated[Path | None, unset("DIR", "interpolations/MODEL")] = None
    """Folder written."""
    method: Annotated[MethodOptions, METHOD] = MethodOptions()


def main(arguments: Sequence[str]) -> int:
    options = read(Options, "interpolate", arguments, _DESCRIPTION)
    check_seed(options.seed)
    from ddpm.interpolation import LAMBDAS, MADE
    from ddpm.loading import load
    from ddpm.memory import keep_freed_memory
    from ddpm.samples import check_out

    keep_freed_memory()
    out = console()
    model = load(options.model, options.device, options.weights)
    for note in model.notes:
        out.print(f"note: {note}")
    ends = [(text, by_name(text, model.classes)) for text in (options.a, options.b)]
    a, b = (decoded(model, text, chosen) for text, chosen in ends)
    label: str | list[str] | None = options.label
    if label is None and model.classes:
        label = [class_of(model.name, model.classes, *end) for end in ends]
    folder = check_out(options.out or Path("interpolations") / model.name, MADE, "ddpm interpolate")
    replaced = folder.is_dir() and any(folder.iterdir())
    start = time.perf_counter()
    with progress("interpolating") as advance:
        made = model.interpolate(
            a,
            b,
            t=options.t,
            lambdas=LAMBDAS if options.lambdas is None else options.lambdas,
            mode=options.mode,
            seed=options.seed,
            label=label,
            batch=options.batch,
            progress=advance,
            **options.method.asked(),
        )
    seconds = time.perf_counter() - start
    replace(made, record={**made.record, "a": options.a, "b": options.b}).save(folder)
    if replaced:
        out.print(f"the pictures that were in {folder} are replaced")
    out.print(
        f"{len(made.images())} pictures between {options.a} and {options.b} by {model.name}, "
        f"t = {', '.join(map(str, made.levels))}, seed {options.seed}, in {seconds:.1f} s on {model.device}"
    )
    out.print(f"open {folder / MADE[1]}")
    return 0
