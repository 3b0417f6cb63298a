"""Pictures between two pictures: both are noised to x_t with the same noise, mixed there, and walked back down.

    x̄_t = (1 − λ) x_t + λ x'_t,   x_t, x'_t ~ q(·|x_0), q(·|x'_0);   x̄_0 ~ p(x_0|x̄_t)        (Ho et al. 2020, 4.3)

The higher t, the more the model makes up of its own. All that is random, in x_t and in the walk, is the same for
both pictures and for every λ, so x_t and x'_t stay where they are. At t = T nothing is left of the pictures: the
walk starts from the noise alone, and what it draws is a sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from ddpm.atomic import write_json
from ddpm.draw import picture
from ddpm.errors import UserError
from ddpm.samples import check_out, in_a_name, text_of, written
from ddpm.walks import Progress, Tick, Walks, pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Mode = Literal["linear", "slerp"]
LAMBDAS = tuple(k / 10 for k in range(11))
MADE = ("interpolation.json", "interpolation.png", "pictures")
_PARALLEL = 1e-4  # radians; nearer than that the great circle and the chord are the same to eight digits


@dataclass(frozen=True, eq=False)
class Interpolation:
    """Pictures between two, a row a level t, a column a λ.

    sources: uint8 [2, C, H, W], as the model takes them. pixels: uint8 [S, K, C, H, W]. labels: the class each λ
    was drawn as; None without classes.
    """

    sources: np.ndarray
    levels: tuple[int, ...]
    lambdas: tuple[float, ...]
    pixels: np.ndarray
    labels: tuple[int, ...] | None
    classes: tuple[str, ...]
    record: dict[str, Any]

    def images(self) -> list[Image.Image]:
        """As Pillow pictures, row by row."""
        return [picture(one) for row in self.pixels for one in row]

    def figure(self, width: int = 120) -> Figure:
        """The sources at both ends, what is between them over λ, a row a level."""
        from ddpm.draw.plots import Row, table

        rows = [
            Row(f"t = {t}", np.concatenate([self.sources[:1], self.pixels[k], self.sources[1:]]))
            for k, t in enumerate(self.levels)
        ]
        if self.labels is not None:
            # named where it begins
            begins = [k == 0 or self.labels[k - 1] != label for k, label in enumerate(self.labels)]
            names = [self.classes[k] if new else "" for k, new in zip(self.labels, begins, strict=True)]
            rows[-1] = Row(rows[-1].name, rows[-1].pixels, [("class", ["", *names, ""])])
        heads = ["A", *(f"{share:.3g}" for share in self.lambdas), "B"]
        return table(rows, heads, corner="λ", width=width)

    def save(self, folder: str | Path) -> Path:
        """Writes interpolation.png (the figure), pictures/ and interpolation.json; returns the folder.

        The folder appears whole or not at all. One that `save` wrote before is replaced; UserError for any other
        that is not empty. Each picture carries the record in its text fields.
        """
        from ddpm.draw.plots import drawn

        folder = check_out(folder, MADE, "ddpm interpolate")
        figure = self.figure()
        with written(folder) as beside:
            (beside / MADE[1]).write_bytes(drawn(figure))
            (beside / MADE[2]).mkdir()
            for name, one in zip("ab", self.sources, strict=True):
                picture(one).save(beside / MADE[2] / f"{name}.png")
            for t, row in zip(self.levels, self.pixels, strict=True):
                for k, (share, one) in enumerate(zip(self.lambdas, row, strict=True)):
                    about = {**self.record, "t": t, "lambda": share}
                    name = f"t{t:04d}-{k:02d}-lambda{share:g}"
                    if self.labels is not None:
                        about["class"] = self.classes[self.labels[k]]
                        name += "-" + in_a_name(about["class"])
                    picture(one).save(beside / MADE[2] / f"{name}.png", pnginfo=text_of(about))
            labels = None if self.labels is None else list(self.labels)
            write_json(beside / MADE[0], {**self.record, "classes": list(self.classes), "labels": labels})
        return folder


def interpolate(
    walks: Walks,
    sources: tuple[np.ndarray, np.ndarray],
    levels: Sequence[int],
    lambdas: Sequence[float],
    mode: Mode,
    label: Int64[Tensor, "K"] | None,
    classes: tuple[str, ...],
    progress: Progress | None = None,
) -> Interpolation:
    """Pictures between two, uint8 [C, H, W] each; label is the class of each λ."""
    walks = walks.through(*levels, option="--t")
    places = [walks.place(t) for t in levels]
    a, b = (torch.tensor(one, dtype=torch.float32, device=walks.device)[None] / 127.5 - 1.0 for one in sources)
    noise = walks.noise(0, slice(0, 1))
    eps = noise(0)
    passes = walks.passes(progress, *((len(lambdas), place) for place in places))
    made = []
    for place in places:
        from_a, from_b = walks.noised(a, place, eps), walks.noised(b, place, eps)

        def compute(
            rows: slice, tick: Tick, from_a: Tensor = from_a, from_b: Tensor = from_b, place: int = place
        ) -> tuple[np.ndarray, ...]:
            x = torch.cat([between(from_a, from_b, share, mode) for share in lambdas[rows]])

            def same(t: int, like: Tensor = x) -> Tensor:
                return noise(t).expand_as(like)

            for step in walks.down(x, same, None if label is None else label[rows], place):
                x = step.x
                tick()
            return (pixels(x),)

        made += passes.run(compute)
    labels = None if label is None else tuple(label.tolist())
    record = {**walks.about, "mode": mode, "t": list(levels), "lambdas": list(lambdas)}
    return Interpolation(np.stack(sources), tuple(levels), tuple(lambdas), np.stack(made), labels, classes, record)


def between(a: Float[Tensor, "*D"], b: Float[Tensor, "*D"], share: float, mode: Mode) -> Float[Tensor, "*D"]:
    """A share λ of the way from a to b: along the line, or along the great circle (slerp)."""
    if mode == "slerp":
        return slerp(a, b, share)
    return (1.0 - share) * a + share * b


def slerp(a: Float[Tensor, "*D"], b: Float[Tensor, "*D"], share: float) -> Float[Tensor, "*D"]:
    """sin((1 − λ)θ)/sin θ · a + sin(λθ)/sin θ · b, θ the angle between a and b as vectors of all their numbers.

    It keeps the length where both have the same (Shoemake 1985). Through parallel and opposite vectors, and those
    of no length, there is no one great circle: there it is the line.
    """
    u, v = a.cpu().double().flatten(), b.cpu().double().flatten()
    if not (u.norm() > 0.0 and v.norm() > 0.0):
        return between(a, b, share, "linear")
    u, v = u / u.norm(), v / v.norm()
    angle = 2.0 * torch.atan2((u - v).norm(), (u + v).norm()).item()  # arccos would lose small angles
    if min(angle, math.pi - angle) < _PARALLEL:
        return between(a, b, share, "linear")
    return (math.sin((1.0 - share) * angle) * a + math.sin(share * angle) * b) / math.sin(angle)


# -- what is asked for -------------------------------------------------------------------------------------


def check_shares(lambdas: Iterable[int | float], mode: str) -> tuple[float, ...]:
    """The λs; UserError unless each is between 0 and 1, and the mode is one."""
    shares = tuple(float(share) for share in lambdas)
    if not shares:
        raise UserError("--lambdas: name at least one, as 0 0.5 1")
    for share in shares:
        if not 0.0 <= share <= 1.0:
            raise UserError(f"--lambdas {share:g}: lies between 0 (the first picture) and 1 (the second)")
    if mode not in get_args(Mode):
        raise UserError(f"--mode {mode}: takes linear or slerp")
    return shares
