"""From a picture up to the noise that DDIM makes it of, and down again, to see how well that went.

    x_t = (α_t/α_s) x_s + (σ_t − α_t σ_s/α_s) ε̂              (Song et al. 2020, section 4.3; samplers.Inversion)

The noise is a code of the picture: walked down it gives the picture back, its neighbours the picture's neighbours.
How nearly depends on the number of steps: ε̂ is taken at one end of each on the way up, and at the other down.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from PIL import Image
from torch import Tensor

from ddpm.atomic import write_json
from ddpm.draw import picture
from ddpm.samplers import DDIM, walk
from ddpm.samplers import Inversion as Upwards
from ddpm.samples import check_out, text_of, written
from ddpm.walks import Progress, Tick, Walks, covering, pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MADE = ("invert.json", "invert.png", "noise.npy", "pictures")


@dataclass(frozen=True, eq=False)
class Inversion:
    """N pictures, their noise, and what it gives back.

    error: of each the mean squared difference of picture and rebuilt, per dimension, on [0, 1]. labels: their
    classes; None without.
    """

    sources: UInt8[np.ndarray, "N C H W"]
    noise: Float32[np.ndarray, "N C H W"]
    rebuilt: UInt8[np.ndarray, "N C H W"]
    error: Float64[np.ndarray, "N"]
    labels: tuple[int, ...] | None
    classes: tuple[str, ...]
    record: dict[str, Any]

    def images(self) -> list[Image.Image]:
        """What was rebuilt, as Pillow pictures."""
        return [picture(one) for one in self.rebuilt]

    def figure(self, width: int = 120) -> Figure:
        """A row a picture: itself, its noise, what that gives back, and ten times the difference on grey."""
        from ddpm.draw.plots import Row, table

        shown = covering(pixels(torch.from_numpy(self.noise) / 3.0))
        off = np.clip(127.5 + 10.0 * (self.rebuilt.astype(float) - self.sources), 0, 255).astype(np.uint8)
        columns = zip(self.sources, shown, self.rebuilt, covering(off), strict=True)
        rows = [Row(f"{error:.1e}", np.stack(one)) for error, one in zip(self.error, columns, strict=True)]
        return table(rows, ["picture", "noise", "rebuilt", "off × 10"], corner="error", width=width)

    def save(self, folder: str | Path) -> Path:
        """Writes invert.png (the figure), noise.npy (float32 [N, C, H, W]), pictures/ and invert.json; returns it.

        The folder appears whole or not at all. One that `save` wrote before is replaced; UserError for any other
        that is not empty.
        """
        from ddpm.draw.plots import drawn

        folder = check_out(folder, MADE, "ddpm invert")
        figure, noise = self.figure(), io.BytesIO()
        np.save(noise, self.noise)  # a full disk is told of by files of Python's alone
        with written(folder) as beside:
            (beside / MADE[1]).write_bytes(drawn(figure))
            (beside / MADE[2]).write_bytes(noise.getvalue())
            (beside / MADE[3]).mkdir()
            for k, image in enumerate(self.images()):
                image.save(beside / MADE[3] / f"{k:06d}.png", pnginfo=text_of({**self.record, "picture": k}))
            labels = None if self.labels is None else list(self.labels)
            about = {**self.record, "error": self.error.tolist(), "classes": list(self.classes), "labels": labels}
            write_json(beside / MADE[0], about)
        return folder


def invert(
    walks: Walks,
    sources: UInt8[np.ndarray, "N C H W"],
    refinements: int,
    labels: Int64[Tensor, "N"] | None,
    classes: tuple[str, ...],
    progress: Progress | None = None,
) -> Inversion:
    """Up the grid of the walks, and down by its sampler; clipped x̂_0 of the model count as on any walk."""
    up, T = Upwards(refinements), walks.model.chain.T

    def compute(rows: slice, tick: Tick) -> tuple[np.ndarray, ...]:
        x0 = x = torch.tensor(sources[rows], dtype=torch.float32, device=walks.device) / 127.5 - 1.0
        cond = {} if labels is None else {"label": labels[rows].to(walks.device)}
        for step in walk(walks.model, up, x0, _no_noise, 0, T, **cond):
            x = step.x
            tick()
        noise = x.cpu().numpy()
        for step in walk(walks.model, DDIM(), x, _no_noise, T, 0, **cond):
            x = step.x
            tick()
        error = (0.5 * (x.clamp(-1.0, 1.0) - x0)).double().square().flatten(1).mean(1)
        return noise, pixels(x), error.cpu().numpy()

    noise, rebuilt, errors = walks.passes(progress, (len(sources), 2 * T)).run(compute)
    return Inversion(
        sources,
        noise,
        rebuilt,
        errors,
        None if labels is None else tuple(labels.tolist()),
        classes,
        {
            **{key: value for key, value in walks.about.items() if key != "seed"},  # nothing is drawn
            "refinements": refinements,
            "evaluations": up.evaluations(T) + DDIM().evaluations(T),
        },
    )


def _no_noise(t: int, draw: int = 0) -> Tensor:
    raise AssertionError("a deterministic walk asks for none")
