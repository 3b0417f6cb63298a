"""A trained model, ready to use: `ddpm.load(MODEL)` gives a Pipeline, and its samples are pictures.

model = ddpm.load("runs/flowers")
pictures = model.sample(16, steps=50, seed=0)
pictures.save("flowers")
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.grids import Grid, choose_grid
from ddpm.guide import UNGUIDED, Guide
from ddpm.interpolation import LAMBDAS, Interpolation, Mode, brought, check_shares, interpolate
from ddpm.nets.levels import check_size
from ddpm.noise import Purpose, uniform
from ddpm.progressive import Completions, Progressive, completions, progressive
from ddpm.samplers import make_sampler
from ddpm.samples import Samples
from ddpm.store import Description
from ddpm.walks import Progress, Walks, pixels, ticks, usual_batch

_FILM_FRAMES, _FILM_PICTURES = 40, 64
_LISTED = 20  # classes at the most in a message


class Pipeline:
    """A denoiser with all that is needed to use it: classes and their frequencies, the pictures' size.

    `grids` is where its run has, or would have, the grids fitted to it; None for a model that is no run's.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        description: Description,
        name: str,
        checkpoint: str = "",
        grids: Path | None = None,
    ):
        self.denoiser, self.description, self.name, self.checkpoint = denoiser, description, name, checkpoint
        self.grids = grids
        self.notes: list[str] = []

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none for an unconditional model."""
        return self.description.facts.classes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width the model was trained at."""
        return self.description.config.data.size

    @property
    def device(self) -> torch.device:
        """Where the net is."""
        return next(self.denoiser.net.parameters()).device

    def class_number(self, label: str | int, guide: Guide = UNGUIDED) -> int:
        """The number of a class given by number or name; of a guide's classifier where the model has none."""
        classes = self._classes(guide)
        if not classes:
            raise UserError(f"--class {label}: {self.name} was trained without classes")
        text = str(label)
        if text in classes:
            return classes.index(text)
        if text.isdecimal() and int(text) < len(classes):
            return int(text)
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(classes[:_LISTED]))
        listed += f" and {len(classes) - _LISTED:,} more" if len(classes) > _LISTED else ""
        near = difflib.get_close_matches(text, classes, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"--class {label}: no such class; {hint}there are {listed}")

    def _classes(self, guide: Guide) -> tuple[str, ...]:
        """The classes that can be asked for: the model's, or those a classifier guides it to."""
        return self.classes or (guide.by_classifier.classes if guide.by_classifier else ())

    def sample(
        self,
        n: int,
        *,
        sampler: str = "ddim",
        steps: int | str | Sequence[int] | None = None,
        eta: float = 0.0,
        seed: int = 0,
        label: str | int | Sequence[str | int] | None = None,
        size: tuple[int, int] | None = None,
        batch: int | None = None,
        first: int = 0,
        frames: bool = False,
        progress: Progress | None = None,
        grid: str | Path = "even",
        guide: Guide = UNGUIDED,
        low: np.ndarray | None = None,
    ) -> Samples:
        """Pictures first … first + n − 1 of a seed; picture k is the same for any n and batch.

        Args:
            sampler: "ddpm" (ancestral) or "ddim" with its eta.
            steps: so many levels of the chain, or a spec of Chain.respace; by default 50 for ddim, all for ddpm.
            label: a class by name or number, for all or one each; by default drawn as often as in the data.
            size: another height and width than trained at.
            batch: pictures computed at once; by default fewer of larger ones.
            frames: keep the walk of the first pictures for a film.
            progress: called with (steps done, steps in all).
            grid: "even"; "fitted", the levels of the least bound that `ddpm evaluate --metrics grid` found for the
                run; or a grids.json.
            guide: classifier-free guidance, or that of a classifier.
            low: for an upsampler the small pictures to enlarge, uint8 [n, C, h, w].
        """
        check_count(n, first)
        small = self._small(low, n)
        walks = self._walks(n, sampler, steps, eta, seed, size, batch, grid, guide)
        labels = self._labels(n, first, seed, label, guide)
        T = walks.model.chain.T
        wanted = {round(i * T / _FILM_FRAMES) for i in range(_FILM_FRAMES + 1)} | {T}
        drawn, kept = [], []
        tick = ticks(progress, len(walks.batches(n)) * T)
        for rows in walks.batches(n):
            noise = walks.noise(first, rows)
            x = noise(0)
            of, given = (None if one is None else one[rows] for one in (labels, small))
            for i, step in enumerate(walks.down(x, noise, of, low=given)):
                if frames and rows.start == 0 and i in wanted:
                    kept.append(pixels(x[:_FILM_PICTURES]))
                x = step.x
                tick()
            drawn.append(pixels(x))
            if frames and rows.start == 0:
                kept.append(drawn[0][:_FILM_PICTURES])
        record = {**walks.about, "first": first}
        classes = None if labels is None else tuple(labels.tolist())
        return Samples(np.concatenate(drawn), classes, self._classes(guide), record, tuple(kept))

    def progressive(
        self,
        n: int = 8,
        *,
        sampler: str = "ddim",
        steps: int | str | Sequence[int] | None = None,
        eta: float = 0.0,
        seed: int = 0,
        label: str | int | Sequence[str | int] | None = None,
        shown: int = 10,
        batch: int | None = None,
        first: int = 0,
        progress: Progress | None = None,
    ) -> Progressive:
        """The pictures of `sample`, and x_t and x̂_0 at `shown` levels of their walks (Ho et al. 2020, figure 6).

        The levels lie evenly over the steps, the first and the last among them; the rest as in `sample`.
        """
        check_count(n, first)
        walks = self._walks(n, sampler, steps, eta, seed, batch=batch)
        labels = self._labels(n, first, seed, label)
        return progressive(walks, n, first, labels, self.classes, shown, progress)

    def completions(
        self,
        t: int | Sequence[int],
        n: int = 8,
        *,
        sampler: str = "ddpm",
        steps: int | str | Sequence[int] | None = None,
        eta: float = 0.0,
        seed: int = 0,
        first: int = 0,
        label: str | int | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> Completions:
        """What n walks make of one x_t, which is that of picture `first` of a seed (Ho et al. 2020, figure 7).

        Args:
            t: a level of noise of the model, 1 … T, or several; they join the levels that `steps` keeps.
            first: a picture that `sample` draws with the same seed and steps, if its steps hold t.
            label: a class by name or number; by default that picture's own.
        """
        check_count(n, first)
        walks = self._walks(n, sampler, steps, eta, seed, batch=batch)
        labels = self._labels(1, first, seed, label)
        return completions(walks, n, _several(t), first, labels, self.classes, progress)

    def interpolate(
        self,
        a: np.ndarray | Image.Image,
        b: np.ndarray | Image.Image,
        *,
        t: int | Sequence[int] | None = None,
        lambdas: Iterable[int | float] = LAMBDAS,
        mode: Mode = "linear",
        sampler: str = "ddpm",
        steps: int | str | Sequence[int] | None = None,
        eta: float = 0.0,
        seed: int = 0,
        label: str | int | Sequence[str | int] | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> Interpolation:
        """Pictures between two, mixed at level t and walked down from there (Ho et al. 2020, figures 8 and 9).

        Args:
            a, b: Pillow pictures or uint8 [C, H, W], brought to the model's size and channels as its data was.
            t: a level of noise of the model, 1 … T, or several; by default T/2. At T nothing of a and b is left.
            lambdas: shares of b, 0 … 1.
            mode: "linear", or "slerp" along the great circle.
            steps: of the whole chain, as in `sample`; those from t down are walked.
            label: for a model with classes, one for all, or a's (where λ < ½) and b's (from there on).
        """
        shares = check_shares(lambdas, mode)
        data = self.description.config.data
        sources = brought(a, data, "the first picture"), brought(b, data, "the second picture")
        walks = self._walks(len(shares), sampler, steps, eta, seed, batch=batch)
        if self.classes and label is None:
            raise UserError(f"--class: {self.name} draws by class; give one, or that of each of the two pictures")
        ends = self._labels(2, 0, seed, label)
        labels = None if ends is None else ends[[int(share >= 0.5) for share in shares]]
        levels = [max(1, self.denoiser.native.T // 2)] if t is None else _several(t)
        return interpolate(walks, sources, levels, shares, mode, labels, self.classes, progress)

    def fitted(self, steps: int | str | Sequence[int] | None = None, grid: str | Path = "fitted") -> Grid:
        """The fitted grid of so many steps, by default of 50; of the run, or of a grids.json.

        UserError if there is none. Where it was fitted to something else, `notes` says so.
        """
        if steps is None:
            steps = min(50, self.denoiser.native.T)
        if not str(steps).strip().isdecimal():
            raise UserError(f"--steps {steps}: a fitted grid takes a number of steps, as 20")
        grids, path = choose_grid(grid, self.grids, self.name, self.denoiser.native.T)
        found = grids.grid(int(str(steps)))
        for note in grids.differences(path, self.checkpoint, self.denoiser.variance):
            if note not in self.notes:
                self.notes.append(note)
        return found

    def _walks(
        self,
        n: int,
        sampler: str,
        steps: int | str | Sequence[int] | None,
        eta: float,
        seed: int,
        size: tuple[int, int] | None = None,
        batch: int | None = None,
        grid: str | Path = "even",
        guide: Guide = UNGUIDED,
    ) -> Walks:
        """The walks of n pictures, and the record of how they are made."""
        if batch is not None and batch < 1:
            raise UserError(f"--batch {batch}: is at least 1")
        if size is not None and min(size) < 1:
            raise UserError(f"size {size[0]} x {size[1]}: is at least 1 x 1")
        method = make_sampler(sampler, eta)
        if isinstance(steps, str) and steps.strip().isdecimal():
            steps = int(steps)
        elif steps is not None and not isinstance(steps, (str, int)):
            steps = list(steps)
        levels = None if grid == "even" else self.fitted(steps, grid).levels
        if steps is None:
            steps = min(50, self.denoiser.native.T) if sampler == "ddim" else self.denoiser.native.T
        model = self.denoiser.respace(levels or steps)
        height, width = size or self.size
        model = model.guided(guide.guidance(self.name, self.description, (height, width), model.native.T)).eval()
        check_size((height, width), getattr(model.net, "stride", 1))
        about = {
            "model": self.name,
            "checkpoint": self.checkpoint,
            "seed": seed,
            "sampler": sampler,
            "steps": model.chain.T,
            **({"eta": eta} if sampler == "ddim" else {}),
            **({"spec": steps.strip()} if isinstance(steps, str) else {}),
            **({"levels": [int(t) for t in steps]} if isinstance(steps, list) else {}),
            **({"grid": str(grid), "levels": list(levels)} if levels else {}),
            **guide.about(),
        }
        shape = (self.description.config.data.channels, height, width)
        return Walks(model, method, seed, shape, min(n, batch or usual_batch(self.device, (height, width))), about)

    def _labels(self, n: int, first: int, seed: int, label: Any, guide: Guide = UNGUIDED) -> torch.Tensor | None:
        classes = self._classes(guide)
        if isinstance(label, (torch.Tensor, np.ndarray, np.integer)):
            label = label.tolist()
        if label is not None and not isinstance(label, (str, int)):
            if len(label) != n:
                raise UserError(f"label: {len(label)} labels for {n} pictures; give one, or one for each")
            return torch.tensor([self.class_number(one, guide) for one in label])
        if label is not None:
            return torch.full((n,), self.class_number(label, guide))
        if not classes:
            return None
        frequencies = self.description.facts.frequencies or (1.0,) * len(classes)
        edges = torch.tensor(frequencies, dtype=torch.float64).cumsum(0)
        u = uniform(seed, Purpose.LABELS, torch.arange(first, first + n), 0)[:, 0]
        return torch.searchsorted(edges, u * edges[-1], right=True).clamp_(max=len(classes) - 1)

    def _small(self, low: np.ndarray | None, n: int) -> torch.Tensor | None:
        """An upsampler's small pictures in [−1, 1]; UserError unless they are there just where they are needed."""
        data = self.description.config.data
        if self.description.config.train.task != "upsampler":
            if low is not None:
                raise UserError(f"{self.name}: is no upsampler; it takes no small pictures")
            return None
        if low is None:
            raise UserError(
                f"{self.name}: enlarges small pictures; give them with --low DATA, or draw them with "
                f"ddpm sample BASE --upsample {self.name}"
            )
        wanted = (data.channels, *data.small)
        if low.dtype != np.uint8 or low.shape != (n, *wanted):
            raise UserError(
                f"{self.name}: takes small pictures of {wanted[1]} x {wanted[2]} with {wanted[0]} channels, one "
                f"for each of {n}; these are {low.dtype} {list(low.shape)}"
            )
        return torch.from_numpy(low).to(torch.float32) / 127.5 - 1.0


def _several(t: int | Sequence[int]) -> list[int]:
    levels = [int(t)] if isinstance(t, (int, np.integer)) else [int(one) for one in t]
    if not levels:
        raise UserError("t: name at least one level of noise")
    return levels


def check_count(n: int, first: int) -> None:
    """UserError unless pictures first … first + n − 1 can be drawn."""
    if n < 1:
        raise UserError(f"-n {n}: draw at least one picture")
    if first < 0:
        raise UserError(f"--first {first}: pictures are counted from 0")
