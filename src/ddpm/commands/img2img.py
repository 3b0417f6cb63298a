"""`ddpm img2img MODEL PICTURE`: a picture drawn again, from noise that has not quite covered it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ddpm.commands.guiding import GuideOptions, guide_of
from ddpm.commands.method import METHOD, MethodOptions, check_seed
from ddpm.commands.options import console, progress, read, unset
from ddpm.commands.picture import by_name, class_for, decoded

_DESCRIPTION = (
    "Draws a picture again (SDEdit): noised to level t and walked back down. What is coarse stays, as of a "
    "sketch; what is fine is the model's. The higher t, the more it makes up of its own; at t = T, everything."
)


@dataclass(frozen=True)
class Options:
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """A run's folder, a file, another project's checkpoint, or the embedded model fashion."""
    picture: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PICTURE")]]
    """A picture's file, or DATA:K for picture K of a set, counted from 0: fashion:7, ./photos:12."""
    t: Annotated[tuple[int, ...] | None, unset("T ...", "half the chain, 500 of 1000")] = None
    """Level it is noised to, from 1 to the T of the model; several give a row each."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"], name="number", metavar="N")] = 8
    """Number of pictures drawn of it at each level."""
    seed: int = 0
    """Picture k of a seed is always the same."""
    label: Annotated[str | None, unset("CLASS", "the picture's own, as DATA has it", name="class")] = None
    """A class by number or name."""
    batch: Annotated[int | None, unset("B", "64 of 32 x 32 on a CPU, 256 on a GPU")] = None
    """Pictures computed at once."""
    weights: Literal["ema", "model"] = "ema"
    """Averaged weights, or as they are."""
    device: Annotated[str | None, unset("DEVICE", "a GPU if there is one")] = None
    """cpu, cuda or mps."""
    out: Annotated[Path | None, unset("DIR", "img2img/MODEL")] = None
    """Folder written."""
    method: Annotated[MethodOptions, METHOD] = MethodOptions()
    guide: Annotated[GuideOptions, tyro.conf.arg(name="")] = GuideOptions()


def main(arguments: Sequence[str]) -> int:
    options = read(Options, "img2img", arguments, _DESCRIPTION)
    check_seed(options.seed)
    from ddpm.editing import MADE
    from ddpm.loading import load
    from ddpm.memory import keep_freed_memory
    from ddpm.samples import check_out

    keep_freed_memory()
    out = console()
    model = load(options.model, options.device, options.weights)
    for note in model.notes:
        out.print(f"note: {note}")
    guide = guide_of(options.guide, model.device)
    classes = model.known_classes(guide).names
    chosen = by_name(options.picture, classes)
    source = decoded(model, options.picture, chosen)
    label = class_for(model.name, classes, options.picture, chosen, options.label)
    folder = check_out(options.out or Path("img2img") / model.name, MADE, "ddpm img2img")
    replaced = folder.is_dir() and any(folder.iterdir())
    start = time.perf_counter()
    with progress("drawing") as advance:
        made = model.img2img(
            source,
            options.t,
            options.n,
            seed=options.seed,
            label=label,
            batch=options.batch,
            progress=advance,
            guide=guide,
            **options.method.asked(),
        )
    seconds = time.perf_counter() - start
    replace(made, record={**made.record, "source": options.picture}).save(folder)
    if replaced:
        out.print(f"the pictures that were in {folder} are replaced")
    of_class = "" if made.label is None else f" as {made.classes[made.label]}"
    out.print(
        f"{len(made.images())} pictures of {options.picture}{of_class} by {model.name}, "
        f"t = {', '.join(map(str, made.levels))}, seed {options.seed}, in {seconds:.1f} s on {model.device}"
    )
    out.print(f"open {folder / MADE[1]}")
    return 0
