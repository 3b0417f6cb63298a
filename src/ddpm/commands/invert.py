"""`ddpm invert MODEL PICTURE ...`: the noise that pictures are made of, and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ddpm.commands.guiding import GuideOptions, guide_of
from ddpm.commands.method import METHOD
from ddpm.commands.options import console, progress, read, unset
from ddpm.commands.picture import by_name, class_for, decoded

_DESCRIPTION = (
    "Walks pictures up to the noise that ddim makes them of, and down again: noise.npy, what it gives back, and "
    "how far that is from the pictures."
)


@dataclass(frozen=True)
class Options:
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """A run's folder, a file, another project's checkpoint, or the embedded model fashion."""
    pictures: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="PICTURE")]]
    """Pictures' files, or DATA:K for picture K of a set, counted from 0: fashion:7, ./photos:12."""
    steps: Annotated[str | None, unset("STEPS", "100")] = None
    """Each way. The more, the nearer it comes back."""
    grid: Annotated[str | None, unset("GRID", "uniform")] = None
    """Which levels, as of ddpm sample."""
    refinements: int = 0
    """Evaluations more of each step up, which bring it nearer, too."""
    label: Annotated[str | None, unset("CLASS", "each picture's own, as DATA has it", name="class")] = None
    """A class by number or name, for all."""
    batch: Annotated[int | None, unset("B", "64 of 32 x 32 on a CPU, 256 on a GPU")] = None
    """Pictures computed at once."""
    weights: Literal["ema", "model"] = "ema"
    """Averaged weights, or as they are."""
    device: Annotated[str | None, unset("DEVICE", "a GPU if there is one")] = None
    """cpu, cuda or mps."""
    out: Annotated[Path | None, unset("DIR", "inversions/MODEL")] = None
    """Folder written."""
    guide: Annotated[GuideOptions, METHOD] = GuideOptions()


def main(arguments: Sequence[str]) -> int:
    options = read(Options, "invert", arguments, _DESCRIPTION)
    from ddpm.errors import UserError
    from ddpm.inverting import MADE
    from ddpm.loading import load
    from ddpm.memory import keep_freed_memory
    from ddpm.samples import check_out

    if not options.pictures:
        raise UserError("PICTURE: name at least one, as fashion:7 or a picture's file")
    keep_freed_memory()
    out = console()
    model = load(options.model, options.device, options.weights)
    for note in model.notes:
        out.print(f"note: {note}")
    guide = guide_of(options.guide, model.device)
    classes = model.known_classes(guide).names
    chosen = [by_name(text, classes) for text in options.pictures]
    named = list(zip(options.pictures, chosen, strict=True))
    sources = [decoded(model, text, one) for text, one in named]
    labels = [class_for(model.name, classes, text, one, options.label) for text, one in named]
    folder = check_out(options.out or Path("inversions") / model.name, MADE, "ddpm invert")
    replaced = folder.is_dir() and any(folder.iterdir())
    start = time.perf_counter()
    with progress("walking up and down") as advance:
        made = model.invert(
            sources,
            steps=options.steps,
            grid=options.grid,
            refinements=options.refinements,
            label=[label for label in labels if label is not None] or None,
            batch=options.batch,
            progress=advance,
            guide=guide,
        )
    seconds = time.perf_counter() - start
    replace(made, record={**made.record, "sources": list(options.pictures)}).save(folder)
    if replaced:
        out.print(f"the pictures that were in {folder} are replaced")
    for text, error in zip(options.pictures, made.error, strict=True):
        out.print(f"{text}: comes back with a mean squared error of {error:.1e} on [0, 1]")
    out.print(
        f"{made.record['steps']} steps of ddim up and down by {model.name}, in {seconds:.1f} s on {model.device}"
    )
    out.print(f"open {folder / MADE[1]}; the noise is in {folder / MADE[2]}")
    return 0
