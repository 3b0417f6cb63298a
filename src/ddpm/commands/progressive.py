"""`ddpm progressive MODEL`: pictures as they come into being, and what else could come of the same x_t."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ddpm.commands.guiding import GuideOptions, guide_of
from ddpm.commands.method import METHOD, MethodOptions, check_seed
from ddpm.commands.options import console, progress, read, unset
from ddpm.errors import UserError

_DESCRIPTION = (
    "Draws how pictures come into being: x_t along the walk from noise, above the picture x̂_0 the model sees in "
    "it. With --share, what other walks make of the same x_t, by ancestral sampling unless told otherwise."
)


@dataclass(frozen=True)
class Options:
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """A run's folder, a file, another project's checkpoint, or the embedded model fashion."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"], name="number", metavar="N")] = 8
    """Number of pictures; with --share, of completions of each x_t."""
    shown: Annotated[int | None, unset("S", "10")] = None
    """Columns: levels shown, evenly spread over the steps."""
    share: Annotated[str | None, unset("T,T,...", "none")] = None
    """Complete the x_t of one picture at these levels, as 750,500,250, instead; a row each."""
    first: Annotated[int, tyro.conf.arg(metavar="K")] = 0
    """The first picture of the seed; with --share, the one whose x_t is shared."""
    seed: int = 0
    """Picture k of a seed is the one that ddpm sample draws with the same options."""
    label: Annotated[str | None, unset("CLASS", "drawn as often as in the data", name="class")] = None
    """A class by number or name."""
    batch: Annotated[int | None, unset("B", "64 of 32 x 32 on a CPU, 256 on a GPU")] = None
    """Pictures computed at once."""
    weights: Literal["ema", "model"] = "ema"
    """Averaged weights, or as they are."""
    device: Annotated[str | None, unset("DEVICE", "a GPU if there is one")] = None
    """cpu, cuda or mps."""
    out: Annotated[Path | None, unset("FILE", "plots/progressive-MODEL.png, plots/shared-MODEL.png")] = None
    """A .png, .svg or .pdf file."""
    method: Annotated[MethodOptions, METHOD] = MethodOptions()
    guide: Annotated[GuideOptions, tyro.conf.arg(name="")] = GuideOptions()


def main(arguments: Sequence[str]) -> int:
    options = read(Options, "progressive", arguments, _DESCRIPTION)
    share = None if options.share is None else parse_levels(options.share)
    if share is not None and options.shown is not None:
        raise UserError(f"--shown {options.shown}: belongs to the walks; with --share the rows are its levels")
    from ddpm.draw.plots import check_path, write
    from ddpm.loading import load
    from ddpm.memory import keep_freed_memory
    from ddpm.walks import check_count

    check_count(options.n, options.first)
    check_seed(options.seed)
    keep_freed_memory()
    out = console()
    model = load(options.model, options.device, options.weights)
    for note in model.notes:
        out.print(f"note: {note}")
    guide = guide_of(options.guide, model.device)
    kind = "progressive" if share is None else "shared"
    path = check_path(options.out or Path("plots") / f"{kind}-{model.name}.png")
    with progress("sampling") as advance:
        if share is None:
            walks = model.progressive(
                options.n,
                seed=options.seed,
                label=options.label,
                shown=10 if options.shown is None else options.shown,
                batch=options.batch,
                first=options.first,
                progress=advance,
                guide=guide,
                **options.method.asked(),
            )
            figure = walks.figure()
        else:
            made = model.completions(
                share,
                options.n,
                seed=options.seed,
                first=options.first,
                label=options.label,
                batch=options.batch,
                progress=advance,
                guide=guide,
                **options.method.asked(),
            )
            figure = made.figure()
            out.print("a row a level: x_t, the picture the model sees in it, where its own walk ended, and others")
    out.print(f"open {write(figure, path)}")
    return 0


def parse_levels(text: str) -> list[int]:
    """The levels of "750,500,250"; whether the model has them is for it to say."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"--share {text}: takes levels of noise, as 750,500,250")
    return [int(part) for part in parts]
