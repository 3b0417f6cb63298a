"""Inpainting: a part of a picture painted anew, by a model that was taught nothing but to draw (RePaint).

    x_s = mask · x_s^drawn + (1 − mask) · x_s^known,   x_s^known ~ q(x_s|x_0),  x_s^drawn ~ p(x_s|x_t)

                                                                 (Lugmayr et al. 2022, eq. 8 and algorithm 1)

What is drawn is drawn before the known part of its level is in place, so the two need not agree. So the walk goes
back up, x_t ~ q(x_t|x_s), by `jump` levels, and comes down again with both in view, until each stretch has been
walked `resample` times. `resample` 1 only replaces: one way down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from PIL import Image
from torch import Tensor

from ddpm.atomic import write_json
from ddpm.denoiser import Denoiser
from ddpm.draw import picture
from ddpm.draw.pictures import opaque
from ddpm.errors import UserError
from ddpm.noise import Purpose
from ddpm.samplers import Noise, Sampler, Step
from ddpm.samples import check_out, in_a_name, text_of, written
from ddpm.walks import Progress, Tick, Walks, pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MADE = ("inpainting.json", "inpainting.png", "pictures")
_COLUMNS = 8  # of results in a figure
_HOLE = (0, 114, 178)
_NOISES = (Purpose.WALK, Purpose.KNOWN, Purpose.RENOISE)


@dataclass(frozen=True, eq=False)
class Inpainting:
    """A picture, and what a model painted into it.

    source: uint8 [C, H, W], as the model takes it. mask: bool [H, W], where it was painted anew. pixels: uint8
    [N, C, H, W], which are the source's wherever the mask is not. label: the class of all; None without classes.
    """

    source: np.ndarray
    mask: np.ndarray
    pixels: np.ndarray
    label: int | None
    classes: tuple[str, ...]
    record: dict[str, Any]

    def images(self) -> list[Image.Image]:
        """As Pillow pictures."""
        return [picture(one) for one in self.pixels]

    def figure(self, width: int = 120) -> Figure:
        """The picture, what of it was kept, and what became of it."""
        from ddpm.draw.plots import Row, table

        source, *made = (np.asarray(opaque(picture(one))) for one in (self.source, *self.pixels))
        kept = np.where(self.mask[..., None], np.array(_HOLE, np.uint8), source)
        blank = np.full_like(source, 255)
        rows = []
        for first in range(0, len(made), _COLUMNS):
            left = [blank, blank] if first else [source, kept]
            shown = np.stack([*left, *made[first : first + _COLUMNS]]).transpose(0, 3, 1, 2)
            rows.append(Row("" if first else self._name(), shown))
        heads = ["picture", "kept", *(str(k + 1) for k in range(min(len(made), _COLUMNS)))]
        return table(rows, heads, width=width)

    def _name(self) -> str:
        return "" if self.label is None else self.classes[self.label]

    def save(self, folder: str | Path) -> Path:
        """Writes inpainting.png (the figure), pictures/ and inpainting.json; returns the folder.

        The folder appears whole or not at all. One that `save` wrote before is replaced; UserError for any other
        that is not empty. Each picture carries the record in its text fields.
        """
        from ddpm.draw.plots import drawn

        folder = check_out(folder, MADE, "ddpm inpaint")
        figure = self.figure()
        with written(folder) as beside:
            (beside / MADE[1]).write_bytes(drawn(figure))
            (beside / MADE[2]).mkdir()
            picture(self.source).save(beside / MADE[2] / "source.png")
            picture(self.mask[None].astype(np.uint8) * 255).save(beside / MADE[2] / "mask.png")
            of_class = "" if self.label is None else "-" + in_a_name(self._name())
            about = {**self.record, **({} if self.label is None else {"class": self._name()})}
            for k, image in enumerate(self.images()):
                text = text_of({**about, "picture": k})
                image.save(beside / MADE[2] / f"{k:06d}{of_class}.png", pnginfo=text)
            write_json(beside / MADE[0], {**about, "classes": list(self.classes)})
        return folder


def inpaint(
    walks: Walks,
    source: np.ndarray,
    mask: Bool[np.ndarray, "H W"],
    n: int,
    jump: int,
    resample: int,
    label: Int64[Tensor, "1"] | None,
    classes: tuple[str, ...],
    progress: Progress | None = None,
) -> Inpainting:
    """n pictures with the source uint8 [C, H, W] where the mask is not, all of one class."""
    check_jumps(walks.model.chain.T, jump, resample)
    known = torch.tensor(source, dtype=torch.float32, device=walks.device)[None] / 127.5 - 1.0
    hole = torch.tensor(mask, device=walks.device)
    steps = sum(s < t for t, s in pairwise(visits(walks.model.chain.T, jump, resample)))

    def compute(rows: slice, tick: Tick) -> tuple[np.ndarray, ...]:
        noise, of_known, of_jumps = (walks.noise(0, rows, purpose) for purpose in _NOISES)
        cond = {} if label is None else {"label": label.expand(rows.stop - rows.start).to(walks.device)}
        for step in repaint(
            walks.model, walks.sampler, known, hole, noise, of_known, of_jumps, jump, resample, **cond
        ):
            x = step.x
            tick()
        return (pixels(x),)

    (made,) = walks.passes(progress, (n, steps)).run(compute)
    record = {**walks.about, "jump": jump, "resample": resample, "painted": round(float(mask.mean()), 4)}
    return Inpainting(source, mask, made, None if label is None else int(label), classes, record)


def repaint(
    model: Denoiser,
    sampler: Sampler[Any],
    x0: Float[Tensor, "#B *D"],
    mask: Bool[Tensor, "..."],
    noise: Noise,
    of_known: Noise,
    of_jumps: Noise,
    jump: int,
    resample: int,
    **cond: Any,
) -> Iterator[Step]:
    """The steps down of the whole path, from noise at the top of the model's chain to x_0 outside of the mask.

    The three noises are asked for the number of steps still to come, 0 for where the path begins; so each is asked
    for a number once, and on a path without jumps `noise` as `samplers.walk` asks it.
    """
    chain = model.chain
    levels = visits(chain.T, jump, resample)
    left = sum(s < t for t, s in pairwise(levels))
    x = noise(0)
    state = sampler.init(x)
    for t, s in pairwise(levels):
        with torch.no_grad():
            if s > t:
                x = chain.forward(x, s, t).sample(of_jumps(left))
                state = sampler.init(x)
                continue

            def here(_: int, at: int = left) -> Tensor:
                return noise(at)

            drawn, prediction, state = sampler.step(model, x, t, s, state, here, **cond)
            known = chain.q(x0, s).sample(of_known(left)) if s > 0 else x0
            x = torch.where(mask, drawn, known)
        left -= 1
        yield Step(t, s, x, prediction)


def visits(T: int, jump: int, resample: int) -> list[int]:
    """The levels the path comes to, from T to 0.

    Down by one; and at the levels 1, 1 + jump, 1 + 2 jump, … it goes up by `jump`, resample − 1 times at each, if
    the chain is as high.
    """
    again = dict.fromkeys(range(1, T - jump + 1, jump), resample - 1)
    path = [T]
    while path[-1] > 0:
        path.append(path[-1] - 1)
        if again.get(path[-1], 0):
            again[path[-1]] -= 1
            path.append(path[-1] + jump)
    return path


def check_jumps(T: int, jump: int, resample: int) -> None:
    """UserError unless a walk of T steps can be resampled so."""
    if resample < 1:
        raise UserError(f"--resample {resample}: is at least 1, which only replaces")
    if jump < 1:
        raise UserError(f"--jump {jump}: is at least 1")
    if resample > 1 and jump >= T:
        raise UserError(
            f"--jump {jump}: a walk of {T} steps has no two levels as far apart above 0; take a smaller one, more "
            "--steps, or --resample 1"
        )
