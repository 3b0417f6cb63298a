"""`ddpm sample MODEL`: pictures, a grid of them, and a film of their making."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ddpm.commands.guiding import GuideOptions, guide_of
from ddpm.commands.options import console, parse_size, progress, read, unset

_DESCRIPTION = "Draws pictures from a model: a grid, single PNGs, and a film of the walk from noise to picture."


@dataclass(frozen=True)
class Options:
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """A run's folder, a .safetensors file, or the embedded model fashion."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"], name="number", metavar="N")] = 64
    """Number of pictures."""
    sampler: Literal["ddpm", "ddim"] = "ddim"
    """ddpm is ancestral sampling, ddim the faster deterministic walk."""
    steps: Annotated[str | None, unset("STEPS", "50 for ddim and for a fitted grid, all for ddpm")] = None
    """How many: 50, or of each section of the chain: 10,15,20, or a whole stride: ddim25."""
    grid: Annotated[str, tyro.conf.arg(metavar="even|fitted|FILE")] = "even"
    """Evenly spaced levels, or those that ddpm evaluate --metrics grid left in the run, or in a grids.json."""
    eta: float = 0.0
    """Noise in ddim's steps: 0 none, 1 as much as in ancestral sampling."""
    seed: int = 0
    """Picture k of a seed is always the same."""
    label: Annotated[str | None, unset("CLASS", "drawn as often as in the data", name="class")] = None
    """A class by number or name."""
    size: Annotated[str | None, unset("SIZE", "as trained")] = None
    """Height and width: 64, or 64x96."""
    batch: Annotated[int | None, unset("B", "64 of 32 x 32 on a CPU, 256 on a GPU")] = None
    """Pictures computed at once."""
    weights: Literal["ema", "model"] = "ema"
    """Averaged weights, or as they are."""
    device: Annotated[str | None, unset("DEVICE", "a GPU if there is one")] = None
    """cpu, cuda or mps."""
    out: Annotated[Path | None, unset("DIR", "samples/MODEL")] = None
    """Folder written."""
    film: bool = True
    """Also write film.webp."""
    guide: Annotated[GuideOptions, tyro.conf.arg(name="")] = GuideOptions()


def main(arguments: Sequence[str]) -> int:
    options = read(Options, "sample", arguments, _DESCRIPTION)
    from ddpm.loading import load
    from ddpm.memory import keep_freed_memory
    from ddpm.pipeline import check_count
    from ddpm.samples import check_out

    check_count(options.n, 0)
    keep_freed_memory()
    out = console()
    model = load(options.model, options.device, options.weights)
    if options.grid != "even":
        model.fitted(options.steps, options.grid)  # what there is to say of it is said before time is spent
    for note in model.notes:
        out.print(f"note: {note}")
    guide = guide_of(options.guide, model.device)
    folder = check_out(options.out or Path("samples") / model.name)
    replaced = folder.is_dir() and any(folder.iterdir())
    start = time.perf_counter()
    with progress("sampling") as advance:
        samples = model.sample(
            options.n,
            sampler=options.sampler,
            steps=options.steps,
            eta=options.eta,
            seed=options.seed,
            label=options.label,
            size=parse_size(options.size),
            batch=options.batch,
            frames=options.film,
            progress=advance,
            grid=options.grid,
            guide=guide,
        )
    seconds = time.perf_counter() - start
    samples.save(folder)
    if replaced:
        out.print(f"the samples that were in {folder} are replaced")
    record = samples.record
    fitted = "" if options.grid == "even" else " fitted"
    out.print(
        f"{len(samples)} pictures of {model.name}, {record['sampler']} with {record['steps']}{fitted} steps, "
        f"seed {options.seed}, in {seconds:.1f} s on {model.device}"
    )
    out.print(f"open {folder / 'grid.png'}" + (f" or {folder / 'film.webp'}" if options.film else ""))
    return 0
