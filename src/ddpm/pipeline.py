"""A trained model, ready to use: `ddpm.load(MODEL)` gives a Pipeline, and its samples are pictures.

model = ddpm.load("runs/flowers")
pictures = model.sample(16, steps=50, seed=0)
pictures.save("flowers")
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ddpm.classes import Classes
from ddpm.data.given import Given, brought, parted
from ddpm.denoiser import Denoiser
from ddpm.editing import Edits, edit
from ddpm.errors import UserError
from ddpm.grids import Grid, choose_grid
from ddpm.guidance import NO_CLASS
from ddpm.guide import UNGUIDED, Guide
from ddpm.inpainting import Inpainting, inpaint
from ddpm.interpolation import LAMBDAS, Interpolation, Mode, check_shares, interpolate
from ddpm.method import Method, Steps
from ddpm.nets.levels import check_size
from ddpm.progressive import Completions, Progressive, completions, progressive
from ddpm.samples import Samples
from ddpm.store import Description
from ddpm.tuned import NAME as TUNED
from ddpm.tuned import resolved
from ddpm.upsampling import check_base, enlarged, followed, source_of, stage_seed, told, without_class
from ddpm.walks import Progress, Walks, check_count, levels_of, usual_batch


class Pipeline:
    """A denoiser with all that is needed to use it: classes and their frequencies, the pictures' size.

    `grids` is where its run has, or would have, the grids fitted to it; None for a model that is no run's. `tuned`
    likewise is where it has the methods found best for it; it may be set to another tuned.json, or to None.
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
        self.tuned = grids.with_name(TUNED) if grids else None
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
        return self.known_classes(guide).number(label)

    def known_classes(self, guide: Guide = UNGUIDED) -> Classes:
        """The classes that can be asked for: the model's, or those a classifier guides it to."""
        names = self.classes or (guide.by_classifier.classes if guide.by_classifier else ())
        return Classes(self.name, names, self.description.facts.frequencies)

    def sample(
        self,
        n: int,
        *,
        sampler: str | None = None,
        steps: Steps = None,
        grid: str | Path | None = None,
        seed: int = 0,
        label: str | int | Sequence[str | int] | None = None,
        size: tuple[int, int] | None = None,
        batch: int | None = None,
        first: int = 0,
        frames: bool = False,
        progress: Progress | None = None,
        guide: Guide = UNGUIDED,
        low: np.ndarray | None = None,
        **options: Any,
    ) -> Samples:
        """Pictures first … first + n − 1 of a seed; picture k is the same for any n and batch.

        Args:
            sampler, steps, grid: see `method`. Left out, they are what `ddpm tune` found best for the run (of
                `steps` evaluations, if that is given), or else 20 steps of dpm++.
            label: a class by name or number, for all or one each; by default drawn as often as in the data.
            size: another height and width than trained at.
            batch: pictures computed at once; by default fewer of larger ones.
            frames: keep the walk of the first pictures for a film.
            progress: called with (steps done, steps in all).
            guide: classifier-free guidance, or that of a classifier.
            low: for an upsampler the small pictures to enlarge, uint8 [n, C, h, w].
            options: the sampler's own, see `samplers`: eta of ddim, churn of heun, …
        """
        check_count(n, first)
        small = told(self.name, self.description.config, low, n)
        walks = self._walks(n, Method(sampler, steps, grid, options), seed, size, batch, guide)
        known, free = self.known_classes(guide), self.description.config.train.label_drop > 0
        if small is not None and label is None:
            labels = without_class(self.name, known.names, free and not guide.by_classifier, n)
        else:
            labels = known.labels(n, first, seed, label)
        made, kept = walks.drawn(n, first, labels, small, frames, progress)
        record = {**walks.about, "first": first}
        named = None if labels is None or labels[0] == NO_CLASS else tuple(labels.tolist())
        return Samples(made, named, known.names, record, kept)

    def upsample(
        self,
        of: Samples,
        *,
        sampler: str | None = None,
        steps: Steps = None,
        grid: str | Path | None = None,
        seed: int | None = None,
        label: str | int | Sequence[str | int] | None = None,
        batch: int | None = None,
        frames: bool = False,
        progress: Progress | None = None,
        guide: Guide = UNGUIDED,
        **options: Any,
    ) -> Samples:
        """Pictures that another model has drawn, enlarged: `up.upsample(base.sample(16))` is a cascade of two.

        Each keeps its number, and its class where both models know it by the same name.

        Args:
            seed: by default that of the pictures, with which an upsampler's noise has no number in common.
            label: a class by name or number, for all or one each, in place of theirs.

        The rest as in `sample`. UserError unless this model enlarges pictures of their size, channels and classes.
        """
        check_base(self.name, self.description.config, source_of(of), of.pixels.shape[2:], of.pixels.shape[1])
        made = self.sample(
            len(of),
            sampler=sampler,
            steps=steps,
            seed=of.record.get("seed", 0) if seed is None else seed,
            label=followed(self.name, self.known_classes(guide).names, of) if label is None else label,
            batch=batch,
            first=of.record.get("first", 0),
            frames=frames,
            progress=progress,
            grid=grid,
            guide=guide,
            low=of.pixels,
            **options,
        )
        return enlarged(made, of)

    def progressive(
        self,
        n: int = 8,
        *,
        sampler: str | None = None,
        steps: Steps = None,
        grid: str | Path | None = None,
        seed: int = 0,
        label: str | int | Sequence[str | int] | None = None,
        shown: int = 10,
        batch: int | None = None,
        first: int = 0,
        progress: Progress | None = None,
        guide: Guide = UNGUIDED,
        **options: Any,
    ) -> Progressive:
        """The pictures of `sample`, and x_t and x̂_0 at `shown` levels of their walks (Ho et al. 2020, figure 6).

        The levels lie evenly over the steps, the first and the last among them; the rest as in `sample`.
        """
        self._alone("progressive")
        check_count(n, first)
        walks = self._walks(n, Method(sampler, steps, grid, options), seed, batch=batch, guide=guide)
        classes = self.known_classes(guide)
        labels = classes.labels(n, first, seed, label)
        return progressive(walks, n, first, labels, classes.names, shown, progress)

    def completions(
        self,
        t: int | Sequence[int],
        n: int = 8,
        *,
        sampler: str = "ddpm",
        steps: Steps = None,
        grid: str | Path | None = None,
        seed: int = 0,
        first: int = 0,
        label: str | int | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
        guide: Guide = UNGUIDED,
        **options: Any,
    ) -> Completions:
        """What n walks make of one x_t, which is that of picture `first` of a seed (Ho et al. 2020, figure 7).

        Args:
            t: a level of noise of the model, 1 … T, or several; they join the levels that `steps` keeps.
            first: a picture that `sample` draws with the same seed and steps, if its steps hold t.
            label: a class by name or number; by default that picture's own.
            guide: as in `sample`.
        """
        self._alone("progressive")
        check_count(n, first)
        walks = self._walks(n, Method(sampler, steps, grid, options), seed, batch=batch, guide=guide)
        classes = self.known_classes(guide)
        labels = classes.labels(1, first, seed, label)
        return completions(walks, n, levels_of(t), first, labels, classes.names, progress)

    def interpolate(
        self,
        a: np.ndarray | Image.Image,
        b: np.ndarray | Image.Image,
        *,
        t: int | Sequence[int] | None = None,
        lambdas: Iterable[int | float] = LAMBDAS,
        mode: Mode = "linear",
        sampler: str = "ddpm",
        steps: Steps = None,
        grid: str | Path | None = None,
        seed: int = 0,
        label: str | int | Sequence[str | int] | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
        **options: Any,
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
        self._alone("interpolate")
        shares = check_shares(lambdas, mode)
        data = self.description.config.data
        sources = brought(a, data, "the first picture"), brought(b, data, "the second picture")
        walks = self._walks(len(shares), Method(sampler, steps, grid, options), seed, batch=batch)
        if self.classes and label is None:
            raise UserError(f"--class: {self.name} draws by class; give one, or that of each of the two pictures")
        ends = self.known_classes().labels(2, 0, seed, label)
        labels = None if ends is None else ends[[int(share >= 0.5) for share in shares]]
        levels = [max(1, self.denoiser.native.T // 2)] if t is None else levels_of(t)
        return interpolate(walks, sources, levels, shares, mode, labels, self.classes, progress)

    def inpaint(
        self,
        image: Given,
        mask: Given | str | None = None,
        n: int = 8,
        *,
        invert: bool = False,
        jump: int = 5,
        resample: int = 5,
        sampler: str = "ddim",
        steps: Steps = None,
        grid: str | Path | None = None,
        seed: int = 0,
        label: str | int | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
        guide: Guide = UNGUIDED,
        **options: Any,
    ) -> Inpainting:
        """n pictures that are the given one but where a mask is white (RePaint, Lugmayr et al. 2022).

        Args:
            image: a Pillow picture or uint8 [C, H, W], brought to the model's size and channels as its data was.
            mask: the same; or bool [H, W] of the model's size, or an area's name; None for the picture's own
                transparency. See `data.given` for all of it.
            invert: paint what else would be kept.
            jump, resample: every stretch of so many levels is walked so many times; resample 1 only replaces.
            steps: levels of the chain as in `sample`; by default 250 for ddpm.
            label: the class, which a model with classes is told.
        """
        self._alone("inpaint")
        check_count(n, 0)
        source, hole = parted(image, mask, self.description.config.data, invert=invert)
        if steps is None and sampler == "ddpm":
            steps = min(250, self.denoiser.native.T)
        walks = self._walks(n, Method(sampler, steps, grid, options), seed, batch=batch, guide=guide)
        classes = self.known_classes(guide)
        return inpaint(walks, source, hole, n, jump, resample, classes.one(label), classes.names, progress)

    def img2img(
        self,
        image: Given,
        t: int | Sequence[int] | None = None,
        n: int = 8,
        *,
        sampler: str | None = None,
        steps: Steps = None,
        grid: str | Path | None = None,
        seed: int = 0,
        label: str | int | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
        guide: Guide = UNGUIDED,
        **options: Any,
    ) -> Edits:
        """n pictures of a given one, noised to level t and walked down from there (SDEdit, Meng et al. 2021).

        Args:
            image: a Pillow picture or uint8 [C, H, W], brought to the model's size and channels as its data was.
            t: a level of noise of the model, 1 … T, or several; by default T/2. At T it is all noise.
            steps: of the whole chain, as in `sample`; those from t down are walked.
            label: the class, which a model with classes is told.
        """
        self._alone("img2img")
        check_count(n, 0)
        source = brought(image, self.description.config.data, "the picture")
        walks = self._walks(n, Method(sampler, steps, grid, options), seed, batch=batch, guide=guide)
        classes = self.known_classes(guide)
        levels = [max(1, self.denoiser.native.T // 2)] if t is None else levels_of(t)
        return edit(walks, source, levels, n, classes.one(label), classes.names, progress)

    def fitted(self, steps: Steps = None, grid: str | Path = "fitted") -> Grid:
        """The fitted grid of so many steps, by default of 50; of the run, or of a grids.json.

        UserError if there is none. Where it was fitted to something else, `notes` says so.
        """
        T = self.denoiser.native.T
        if steps is None:
            steps = min(50, T)
        if not str(steps).strip().isdecimal():
            raise UserError(f"--steps {steps}: a fitted grid takes a number of steps, as 20")
        grids, path = choose_grid(grid, self.grids, self.name, T)
        found = grids.grid(int(str(steps)))
        for note in grids.differences(path, self.checkpoint, self.denoiser.variance):
            if note not in self.notes:
                self.notes.append(note)
        return found

    def chosen(self, method: Method) -> Method:
        """A method with nothing left open, as this model would walk it; `notes` says if another was tuned."""
        return resolved(method, self.denoiser.native.T, self.tuned, self.checkpoint, self.notes)[0]

    def _walks(
        self,
        n: int,
        method: Method,
        seed: int,
        size: tuple[int, int] | None = None,
        batch: int | None = None,
        guide: Guide = UNGUIDED,
    ) -> Walks:
        """The walks of n pictures, and the record of how they are made."""
        if batch is not None and batch < 1:
            raise UserError(f"--batch {batch}: is at least 1")
        height, width = size or self.size
        if min(height, width) < 1:
            raise UserError(f"size {height} x {width}: is at least 1 x 1")
        native, config = self.denoiser.native, self.description.config
        method, winner = resolved(method, native.T, self.tuned, self.checkpoint, self.notes)
        model = self.denoiser.on(method.chain(native, self.fitted))
        model = model.guided(guide.guidance(self.name, self.description, (height, width), native.T)).eval()
        check_size((height, width), getattr(model.net, "stride", 1))
        about = {"model": self.name, "checkpoint": self.checkpoint, "seed": seed}
        about |= {**method.about(native, model.chain), **guide.about()}
        about |= {"tuned": winner.setting.evaluations} if winner else {}
        if config.train.task == "upsampler":
            seed = stage_seed(seed, (height, width))
        # guided, each picture is asked for twice, or a classifier keeps what its gradient needs
        usual = max(1, usual_batch(self.device, (height, width)) // (2 if model.guidance else 1))
        shape = (config.data.channels, height, width)
        return Walks(model, method.make(), seed, shape, min(n, batch or usual), about)

    def _alone(self, what: str) -> None:
        """UserError for a model that draws nothing without a small picture."""
        if self.description.config.train.task == "upsampler":
            raise UserError(
                f"{self.name}: enlarges small pictures; ddpm {what} takes a model that draws by itself"
            )
