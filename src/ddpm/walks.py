"""Walks of many pictures: batch by batch, each picture with the noise of its own number.

So a picture does not depend on those beside it: batches are as large as fits into memory, and several processes
have a share of the pictures each.

A walk may begin at any level: `through` puts a level of the native chain into the grid, and `down` starts there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from ddpm.chain import Chain
from ddpm.data import to_uint8
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.memory import AtOnce
from ddpm.noise import Purpose, WalkNoise
from ddpm.processes import ALONE, Processes, gathered
from ddpm.samplers import Noise, Sampler, Step, walk

Progress = Callable[[int, int], None]
Tick = Callable[[], None]
_FILM_FRAMES, _FILM_PICTURES, _FILM_PIXELS = 40, 64, 1 << 18


@dataclass(frozen=True)
class Walks:
    """How pictures are walked: the model on its grid, the sampler, the noise's seed, a picture's shape (C, H, W).

    `batch` pictures are computed at once, by each process of `crew`; `about` says for a record how they were made.
    """

    model: Denoiser
    sampler: Sampler[Any]
    seed: int
    shape: tuple[int, int, int]
    batch: AtOnce
    about: dict[str, Any] = field(default_factory=dict)
    crew: Processes = ALONE

    @property
    def device(self) -> torch.device:
        """Where the net is."""
        return next(self.model.net.parameters()).device

    def through(self, *levels: int, option: str = "t =") -> Walks:
        """The same on a grid that holds these levels of the native chain, too; UserError unless in 1 … T.

        option: what they were asked for with.
        """
        model, native = self.model, self.model.native
        for t in levels:
            if not 1 <= t <= native.T:
                raise UserError(f"{option} {t}: a level of noise of this model lies between 1 and {native.T}")
        absent = sorted({t for t in levels if native.timestep[t] not in model.chain.timestep})
        if not absent:
            return self
        timestep = np.concatenate([model.chain.timestep, native.timestep[absent]])
        order = timestep.argsort()
        gamma = np.concatenate([model.chain.gamma, native.gamma[absent]])
        return replace(self, model=model.on(Chain(gamma[order], timestep[order])).eval())

    @property
    def levels(self) -> tuple[int, ...]:
        """The level of the native chain that each level of the grid is, or is next to."""
        return tuple(self.model.native.places(self.model.chain).round().astype(int).tolist())

    def place(self, t: int) -> int:
        """Where level t of the native chain is on a grid that holds it."""
        return int(np.searchsorted(self.model.chain.timestep, self.model.native.timestep[t]))

    def passes(self, progress: Progress | None, *plan: tuple[int, int]) -> Passes:
        """Passes over pictures; of each the plan says how many there are, and how many steps a batch takes."""
        return Passes(self.batch, self.crew, progress, plan)

    def noise(self, first: int, rows: slice, purpose: Purpose = Purpose.WALK) -> WalkNoise:
        """The noise of some pictures of the seed, counted from `first`."""
        numbers = torch.arange(first + rows.start, first + rows.stop, device=self.device)
        return WalkNoise(self.seed, numbers, self.shape, purpose=purpose)

    def noised(self, x0: Float[Tensor, "#B C H W"], place: int, eps: Float[Tensor, "B C H W"]) -> Tensor:
        """x_t = α_t x_0 + σ_t ε at a level of the grid; at t = T, which is pure noise to the model, ε alone."""
        if self.model.chain.timestep[place] == self.model.native.timestep[-1]:
            return eps
        return self.model.chain.q(x0, place).sample(eps)

    def down(
        self,
        x: Float[Tensor, "B C H W"],
        noise: Noise,
        label: Int64[Tensor, "B"] | None,
        start: int | None = None,
        low: Float[Tensor, "B C h w"] | None = None,
    ) -> Iterator[Step]:
        """The steps from x, at the top or at level `start` of the grid, to t = 0.

        low: the small pictures an upsampler enlarges.
        """
        cond = {} if label is None else {"label": label.to(self.device)}
        if low is not None:
            cond["low"] = low.to(self.device)
        return walk(self.model, self.sampler, x, noise, start, 0, **cond)

    def drawn(
        self,
        n: int,
        first: int,
        label: Int64[Tensor, "N"] | None,
        low: Float[Tensor, "N C h w"] | None = None,
        frames: bool = False,
        progress: Progress | None = None,
    ) -> tuple[UInt8[np.ndarray, "N C H W"], tuple[np.ndarray, ...]]:
        """Pictures first … first + n − 1 of the seed, and x along the walk of the first of them, if asked for."""
        T = self.model.chain.T
        wanted = {round(i * T / _FILM_FRAMES) for i in range(_FILM_FRAMES + 1)}
        filmed = film_count(n, self.shape[1:]) if frames else 0

        def compute(rows: slice, tick: Tick) -> tuple[np.ndarray, ...]:
            noise = self.noise(first, rows)
            x = noise(0)
            of, given = (None if one is None else one[rows] for one in (label, low))
            count, kept = max(0, min(rows.stop, filmed) - rows.start), []
            for i, step in enumerate(self.down(x, noise, of, low=given)):
                if frames and i in wanted:
                    kept.append(pixels(x[:count]))
                x = step.x
                tick()
            made = pixels(x)
            return (made, np.stack([*kept, made[:count]], axis=1)) if frames else (made,)

        made, *film = self.passes(progress, (n, T)).run(compute)
        return made, tuple(film[0].swapaxes(0, 1)) if film else ()


@final
class Passes:
    """Passes over pictures, one after the other: in batches that fit into memory, dealt over processes."""

    def __init__(
        self, batch: AtOnce, crew: Processes, progress: Progress | None, plan: Sequence[tuple[int, int]]
    ) -> None:
        self._batch, self._crew, self._progress = batch, crew, progress
        self._plan, self._done = list(plan), 0

    def run(self, compute: Callable[[slice, Tick], tuple[np.ndarray, ...]]) -> list[np.ndarray]:
        """The next pass: what `compute` makes of all its pictures, the same in every process.

        compute(rows, tick) makes arrays with a row each of these pictures, and calls tick at every step; where
        memory runs out, it is called again.
        """
        n, steps = self._plan.pop(0)
        own, parts = self._crew.rows(n), []

        def batch(rows: slice) -> tuple[np.ndarray, ...]:
            total = self._done + steps * self._batches(own.stop - own.start - rows.start)
            total += sum(more * self._batches(_length(self._crew.rows(count))) for count, more in self._plan)
            done = itertools.count(self._done + 1)

            def tick() -> None:
                if self._progress is not None:
                    self._progress(next(done), total)

            return compute(slice(own.start + rows.start, own.start + rows.stop), tick)

        for _, made in self._batch.each(_length(own), batch):
            parts.append(made)
            self._done += steps
        return gathered(self._crew, [np.concatenate(column) for column in zip(*parts, strict=True)] or None)

    def _batches(self, n: int) -> int:
        return -(-n // self._batch.rows)


def _length(rows: slice) -> int:
    return int(rows.stop - rows.start)


def usual_batch(device: torch.device, size: tuple[int, int]) -> int:
    """Pictures at once: 64 (CPU) or 256 (GPU) of 32 x 32, fewer of larger ones."""
    return max(1, (64 if device.type == "cpu" else 256) * 1024 // max(1024, size[0] * size[1]))


def film_count(n: int, size: tuple[int, int]) -> int:
    """How many of n pictures, the first, are filmed: 64 of up to 64 x 64, fewer of larger ones."""
    return min(n, _FILM_PICTURES, max(1, _FILM_PIXELS // (size[0] * size[1])))


def check_count(n: int, first: int) -> None:
    """UserError unless pictures first … first + n − 1 can be drawn."""
    if n < 1:
        raise UserError(f"-n {n}: draw at least one picture")
    if first < 0:
        raise UserError(f"--first {first}: pictures are counted from 0")


def levels_of(t: int | Sequence[int]) -> list[int]:
    """One level of noise, or several, as a list; UserError for none."""
    levels = [int(t)] if isinstance(t, (int, np.integer)) else [int(one) for one in t]
    if not levels:
        raise UserError("t: name at least one level of noise")
    return levels


def pixels(x: Float[Tensor, "*N C H W"]) -> UInt8[np.ndarray, "*N C H W"]:
    """x in [−1, 1] as grey levels."""
    made: np.ndarray = to_uint8(x.float().cpu()).numpy()
    return made


def covering(xt: UInt8[np.ndarray, "N C H W"]) -> UInt8[np.ndarray, "N C H W"]:
    """Pixels of x_t as they can be looked at: noise in the transparency would show the page through."""
    return np.concatenate([xt[:, :3], np.full_like(xt[:, :1], 255)], axis=1) if xt.shape[1] == 4 else xt


def log_snr(value: float) -> str:
    """A log SNR in one decimal: −20.0."""
    return f"{value:.1f}".replace("-0.0", "0.0").replace("-", "−")
