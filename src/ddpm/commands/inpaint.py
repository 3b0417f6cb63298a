"""`ddpm inpaint MODEL PICTURE --mask MASK`: a part of a picture painted anew."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ddpm.commands.guiding import GuideOptions, guide_of
from ddpm.commands.method import METHOD, MethodOptions, check_seed
from ddpm.commands.options import console, progress, read, unset
from ddpm.commands.picture import Chosen, by_name, class_for, opened, single

if TYPE_CHECKING:
    import numpy as np

    from ddpm.config import DataConfig

_DESCRIPTION = (
    "Paints a part of a picture anew (RePaint), with a model that was taught nothing but to draw: along the walk "
    "from noise the known part is put in its place at every level, and stretches of the walk are repeated until "
    "the two agree. All pixels outside of the mask stay as they are. By ddim with 50 steps, unless told "
    "otherwise; of ddpm by 250."
)


@dataclass(frozen=True)
class Options:
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """A run's folder, a file, another project's checkpoint, or the embedded model fashion."""
    picture: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PICTURE")]]
    """A picture's file, or DATA:K for picture K of a set, counted from 0: fashion:7, ./photos:12."""
    mask: Annotated[str | None, unset("MASK", "the picture's transparency")] = None
    """A picture (file, or DATA:K) that is white where to paint and black where to keep, cut at half of white, of
    PICTURE's proportions or the model's size; or left, right, top, bottom, centre, or box:X,Y,W,H in shares of
    width and height."""
    invert: bool = False
    """Paint where the mask is black."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"], name="number", metavar="N")] = 8
    """Number of pictures."""
    jump: int = 5
    """Steps that are repeated at once."""
    resample: int = 5
    """How many times each is walked; 1 is once, without looking back."""
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
    out: Annotated[Path | None, unset("DIR", "inpaintings/MODEL")] = None
    """Folder written."""
    method: Annotated[MethodOptions, METHOD] = MethodOptions()
    guide: Annotated[GuideOptions, tyro.conf.arg(name="")] = GuideOptions()


def main(arguments: Sequence[str]) -> int:
    options = read(Options, "inpaint", arguments, _DESCRIPTION)
    check_seed(options.seed)
    from ddpm.inpainting import MADE
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
    source, hole = parts(options, chosen, model.description.config.data)
    label = class_for(model.name, classes, options.picture, chosen, options.label)
    folder = check_out(options.out or Path("inpaintings") / model.name, MADE, "ddpm inpaint")
    replaced = folder.is_dir() and any(folder.iterdir())
    start = time.perf_counter()
    with progress("painting") as advance:
        made = model.inpaint(
            source,
            hole,
            options.n,
            jump=options.jump,
            resample=options.resample,
            seed=options.seed,
            label=label,
            batch=options.batch,
            progress=advance,
            guide=guide,
            **options.method.asked(),
        )
    seconds = time.perf_counter() - start
    about = {"source": options.picture, "mask": options.mask, "invert": options.invert}
    replace(made, record={**made.record, **about}).save(folder)
    if replaced:
        out.print(f"the pictures that were in {folder} are replaced")
    times = "once" if options.resample == 1 else f"{options.resample} times"
    of_class = "" if made.label is None else f" as {made.classes[made.label]}"
    out.print(
        f"{len(made.pixels)} pictures of {options.picture}{of_class} by {model.name}, {100 * hole.mean():.0f} % "
        f"painted anew, {made.record['steps']} steps walked {times}, seed {options.seed}, "
        f"in {seconds:.1f} s on {model.device}"
    )
    out.print(f"open {folder / MADE[1]}")
    return 0


def parts(options: Options, chosen: Chosen, data: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """The picture as the model takes it, uint8 [C, H, W], and where to paint, bool [H, W]."""
    from ddpm.data.given import parted

    text, mask = options.picture, options.mask
    drawn = None if mask is None else mask_of(mask)
    with opened(text, chosen) as image:
        if mask is None or drawn is None:
            return parted(image, mask, data, text, f"--mask {mask}", options.invert)
        with opened(mask, drawn) as other:
            return parted(image, other, data, text, mask, options.invert)


def mask_of(text: str) -> Chosen | None:
    """The picture that a mask is; None for the name of an area, which a picture's file of that name beats."""
    from ddpm.data.files import located
    from ddpm.data.given import is_area

    alone = single(text)
    if alone is not None or is_area(text):
        return alone
    data, _, number = text.rpartition(":")
    return by_name(text) if (data and number.isdecimal()) or located(text).exists() else None
