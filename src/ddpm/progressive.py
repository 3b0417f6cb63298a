"""Progressive generation: what the model sees in x_t along a walk, and what other walks make of the same x_t.

x̂_0(x_t)                 its coarse features are there first, its details last    (Ho et al. 2020, figure 6)
x_0 ~ p(x_0|x_t)          several from one x_t share what x_t has settled          (figure 7)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ddpm.errors import UserError
from ddpm.samples import Samples
from ddpm.walks import Progress, Tick, Walks, covering, log_snr, pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# -- along the walk ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Progressive:
    """Walks at some of their levels, noisiest first: x_t, and the picture x̂_0 the model sees in it.

    levels: t on the chain the net was trained on; log_snr of each. xt and x0: uint8 [S, N, C, H, W].
    samples: where the walks end, which is x̂_0 at the last level.
    """

    levels: tuple[int, ...]
    log_snr: tuple[float, ...]
    xt: np.ndarray
    x0: np.ndarray
    samples: Samples

    def figure(self, width: int = 100) -> Figure:
        """A picture a pair of rows, x_t above x̂_0, over t; each about `width` pixels wide."""
        from ddpm.draw.plots import Row, table

        rows = []
        for k in range(len(self.samples)):
            labels = self.samples.labels
            name = "" if labels is None else f"{self.samples.classes[labels[k]]}  "
            rows += [Row(f"{name}$x_t$", covering(self.xt[:, k])), Row(r"$\hat{x}_0$", self.x0[:, k])]
        last = rows[-1]
        rows[-1] = Row(last.name, last.pixels, [("log SNR", [log_snr(value) for value in self.log_snr])])
        return table(rows, [str(t) for t in self.levels], corner="t", width=width)


def progressive(
    walks: Walks,
    n: int,
    first: int,
    label: Int64[Tensor, "N"] | None,
    classes: tuple[str, ...],
    shown: int,
    progress: Progress | None = None,
) -> Progressive:
    """Pictures first … first + n − 1 of a seed, at `shown` levels evenly spread over the steps of their walks."""
    if shown < 2:
        raise UserError(f"--shown {shown}: show at least 2, the first and the last")
    chain = walks.model.chain
    chosen = np.unique(np.linspace(1, chain.T, shown).round().astype(int))[::-1].tolist()

    def compute(rows: slice, tick: Tick) -> tuple[np.ndarray, ...]:
        noise = walks.noise(first, rows)
        x, seen = noise(0), []
        for step in walks.down(x, noise, None if label is None else label[rows]):
            if step.t in chosen:
                seen.append((pixels(x), pixels(step.prediction.x0)))
            x = step.x
            tick()
        xt, x0 = (np.stack(column, axis=1) for column in zip(*seen, strict=True))
        return xt, x0, pixels(x)

    xt, x0, ends = walks.passes(progress, (n, chain.T)).run(compute)
    labels = None if label is None else tuple(label.tolist())
    samples = Samples(ends, labels, classes, {**walks.about, "first": first})
    levels = walks.levels
    return Progressive(
        tuple(levels[k] for k in chosen),
        tuple(float(-chain.gamma[k]) for k in chosen),
        xt.swapaxes(0, 1),
        x0.swapaxes(0, 1),
        samples,
    )


# -- from one x_t ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Completions:
    """What several walks, each with noise of its own, make of the same x_t; a row a level.

    levels and log_snr as in Progressive. xt and x0: uint8 [S, C, H, W], the shared x_t and the x̂_0 the model sees
    in it, which is about the mean of what can become of it. pixels: uint8 [S, N, C, H, W], the completions.
    picture: uint8 [C, H, W], where the walk that x_t was taken from ended. label: the class of all, or None.
    """

    levels: tuple[int, ...]
    log_snr: tuple[float, ...]
    xt: np.ndarray
    x0: np.ndarray
    pixels: np.ndarray
    picture: np.ndarray
    label: int | None
    classes: tuple[str, ...]
    record: dict[str, Any]

    def figure(self, width: int = 150) -> Figure:
        """The shared x_t on the left, then x̂_0, where its own walk ended, and the completions; a row a level."""
        from ddpm.draw.plots import Row, table

        rows = []
        for k, t in enumerate(self.levels):
            left = [covering(self.xt[k : k + 1]), self.x0[k : k + 1], self.picture[None]]
            pictures = np.concatenate([*left, self.pixels[k]])
            caption = (f"log SNR {log_snr(self.log_snr[k])}", [""] * len(pictures))
            rows.append(Row(f"t = {t}", pictures, [caption]))
        heads = ["$x_t$", r"$\hat{x}_0(x_t)$", "own $x_0$"]
        others = [f"{j + 1}" if j else "other 1" for j in range(self.pixels.shape[1])]
        corner = "" if self.label is None else self.classes[self.label]
        return table(rows, heads + others, corner=corner, width=width)


def completions(
    walks: Walks,
    n: int,
    levels: Sequence[int],
    first: int,
    label: Int64[Tensor, "1"] | None,
    classes: tuple[str, ...],
    progress: Progress | None = None,
) -> Completions:
    """n completions of the x_t at each of these levels of the walk of picture `first`.

    Completion j goes down with the noise of picture first + 1 + j of the seed, the same at every level: so it is
    itself whatever n is, and independent of the noise that made x_t.
    """
    if walks.sampler.deterministic:
        raise UserError(
            f"--sampler {walks.about.get('sampler', 'this one')}: draws no noise, all completions are one; take "
            "ddpm or dpm++sde, or ddim with --eta 1"
        )
    walks = walks.through(*levels, option="--share")
    chain, places = walks.model.chain, [walks.place(t) for t in levels]
    passes = walks.passes(progress, (1, chain.T), *((n, place) for place in places))

    def own(rows: slice, tick: Tick) -> tuple[np.ndarray, ...]:
        noise = walks.noise(first, rows)
        x, seen = noise(0), {}
        for step in walks.down(x, noise, label):
            if step.t in places:
                seen[step.t] = x.cpu().numpy(), pixels(step.prediction.x0)
            x = step.x
            tick()
        xt, x0 = (np.stack([seen[place][k] for place in places], axis=1) for k in (0, 1))
        return xt, x0, pixels(x)

    (xt,), (x0,), (picture,) = passes.run(own)
    shared, made = torch.from_numpy(xt).to(walks.device), []
    for k, place in enumerate(places):

        def others(rows: slice, tick: Tick, k: int = k, place: int = place) -> tuple[np.ndarray, ...]:
            count = rows.stop - rows.start
            x = shared[k].expand(count, -1, -1, -1)
            of = None if label is None else label.expand(count)
            for step in walks.down(x, walks.noise(first + 1, rows), of, place):
                x = step.x
                tick()
            return (pixels(x),)

        made += passes.run(others)
    return Completions(
        tuple(levels),
        tuple(float(-chain.gamma[place]) for place in places),
        pixels(shared),
        x0,
        np.stack(made),
        picture,
        None if label is None else int(label),
        classes,
        {**walks.about, "first": first, "t": list(levels)},
    )
