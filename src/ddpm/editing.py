"""A picture as the model would have drawn it: noised to level t, and walked back down from there (img2img).

    x_t ~ q(x_t|x_0);   x̄_0 ~ p(x_0|x_t)                                (SDEdit: Meng et al. 2021, algorithm 1)

Coarse strokes outlive the noise and details do not, so a sketch becomes a picture. The higher t, the more the
model makes up of its own; at t = T nothing is left of the picture, and what is drawn is a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from ddpm.atomic import write_json
from ddpm.draw import picture
from ddpm.samples import check_out, in_a_name, text_of, written
from ddpm.walks import Progress, Tick, Walks, pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MADE = ("img2img.json", "img2img.png", "pictures")


@dataclass(frozen=True, eq=False)
class Edits:
    """What a model made of one picture, a row a level t, a column a noise.

    source: uint8 [C, H, W], as the model takes it. pixels: uint8 [S, N, C, H, W]. label: the class of all; None
    without classes.
    """

    source: np.ndarray
    levels: tuple[int, ...]
    pixels: np.ndarray
    label: int | None
    classes: tuple[str, ...]
    record: dict[str, Any]

    def images(self) -> list[Image.Image]:
        """As Pillow pictures, row by row."""
        return [picture(one) for row in self.pixels for one in row]

    def figure(self, width: int = 120) -> Figure:
        """The picture at the left end, what became of it beside it, a row a level."""
        from ddpm.draw.plots import Row, table

        rows = [
            Row(f"t = {t}", np.concatenate([self.source[None], row]))
            for t, row in zip(self.levels, self.pixels, strict=True)
        ]
        heads = ["picture", *(str(k + 1) for k in range(self.pixels.shape[1]))]
        return table(rows, heads, corner=self._name(), width=width)

    def _name(self) -> str:
        return "" if self.label is None else self.classes[self.label]

    def save(self, folder: str | Path) -> Path:
        """Writes img2img.png (the figure), pictures/ and img2img.json; returns the folder.

        The folder appears whole or not at all. One that `save` wrote before is replaced; UserError for any other
        that is not empty. Each picture carries the record in its text fields.
        """
        from ddpm.draw.plots import drawn

        folder = check_out(folder, MADE, "ddpm img2img")
        figure = self.figure()
        with written(folder) as beside:
            (beside / MADE[1]).write_bytes(drawn(figure))
            (beside / MADE[2]).mkdir()
            picture(self.source).save(beside / MADE[2] / "source.png")
            of_class = "" if self.label is None else "-" + in_a_name(self._name())
            about = {**self.record, **({} if self.label is None else {"class": self._name()})}
            for t, row in zip(self.levels, self.pixels, strict=True):
                for k, one in enumerate(row):
                    text = text_of({**about, "t": t, "picture": k})
                    picture(one).save(beside / MADE[2] / f"t{t:04d}-{k:06d}{of_class}.png", pnginfo=text)
            write_json(beside / MADE[0], {**about, "classes": list(self.classes)})
        return folder


def edit(
    walks: Walks,
    source: np.ndarray,
    levels: Sequence[int],
    n: int,
    label: Int64[Tensor, "1"] | None,
    classes: tuple[str, ...],
    progress: Progress | None = None,
) -> Edits:
    """n pictures at each level of the source uint8 [C, H, W], all of one class.

    Picture k has the noise of picture k of the seed, the same at every level.
    """
    walks = walks.through(*levels, option="--t")
    places = [walks.place(t) for t in levels]
    x0 = torch.tensor(source, dtype=torch.float32, device=walks.device)[None] / 127.5 - 1.0
    passes = walks.passes(progress, *((n, place) for place in places))
    made = []
    for place in places:

        def compute(rows: slice, tick: Tick, place: int = place) -> tuple[np.ndarray, ...]:
            noise = walks.noise(0, rows)
            x = walks.noised(x0, place, noise(0))
            for step in walks.down(x, noise, None if label is None else label.expand(len(x)), place):
                x = step.x
                tick()
            return (pixels(x),)

        made += passes.run(compute)
    record = {**walks.about, "t": list(levels)}
    return Edits(source, tuple(levels), np.stack(made), None if label is None else int(label), classes, record)
