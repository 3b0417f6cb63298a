"""A trained model, ready to use: `ddpm.load(MODEL)` gives a Pipeline, and its samples are pictures.

model = ddpm.load("runs/flowers")
pictures = model.sample(16, steps=50, seed=0)
pictures.save("flowers")
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image

from ddpm.data.given import Given, brought, parted
from ddpm.editing import Edits, edit
from ddpm.errors import UserError
from ddpm.guidance import NO_CLASS
from ddpm.guide import UNGUIDED, Guide
from ddpm.inpainting import Inpainting, inpaint
from ddpm.interpolation import LAMBDAS, Interpolation, Mode, check_shares, interpolate
from ddpm.inverting import Inversion, invert
from ddpm.memory import AtOnce
from ddpm.method import Method, Steps
from ddpm.model import Model
from ddpm.progressive import Completions, Progressive, completions, progressive
from ddpm.samples import Samples
from ddpm.upsampling import check_base, enlarged, followed, source_of, told, without_class
from ddpm.walks import Progress, check_count, levels_of


@final
class Pipeline(Model):
    """What a model can do."""

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
        batch: int | AtOnce | None = None,
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
                `steps` evaluations, if that is given), or else 20 steps of dpm++sde.
            label: a class by name or number, for all or one each; by default drawn as often as in the data.
            size: another height and width than trained at.
            batch: pictures computed at once, by default fewer of larger ones; half of them whenever memory runs
                out, of which `tell` is told.
            frames: keep the walk of the first pictures for a film.
            progress: called with (steps done, steps in all).
            guide: classifier-free guidance, or that of a classifier.
            low: for an upsampler the small pictures to enlarge, uint8 [n, C, h, w].
            options: the sampler's own, see `samplers`: eta of ddim, churn of heun, …
        """
        check_count(n, first)
        small = told(self.name, self.description.config, low, n)
        walks = self.walks(n, Method(sampler, steps, grid, options), seed, size, batch, guide)
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
        self.check_alone("progressive")
        check_count(n, first)
        walks = self.walks(n, Method(sampler, steps, grid, options), seed, batch=batch, guide=guide)
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
        self.check_alone("progressive")
        check_count(n, first)
        walks = self.walks(n, Method(sampler, steps, grid, options), seed, batch=batch, guide=guide)
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
        self.check_alone("interpolate")
        shares = check_shares(lambdas, mode)
        data = self.description.config.data
        sources = brought(a, data, "the first picture"), brought(b, data, "the second picture")
        walks = self.walks(len(shares), Method(sampler, steps, grid, options), seed, batch=batch)
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
        self.check_alone("inpaint")
        check_count(n, 0)
        source, hole = parted(image, mask, self.description.config.data, invert=invert)
        if steps is None and sampler == "ddpm":
            steps = min(250, self.denoiser.native.T)
        walks = self.walks(n, Method(sampler, steps, grid, options), seed, batch=batch, guide=guide)
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
        self.check_alone("img2img")
        check_count(n, 0)
        source = brought(image, self.description.config.data, "the picture")
        walks = self.walks(n, Method(sampler, steps, grid, options), seed, batch=batch, guide=guide)
        classes = self.known_classes(guide)
        levels = [max(1, self.denoiser.native.T // 2)] if t is None else levels_of(t)
        return edit(walks, source, levels, n, classes.one(label), classes.names, progress)

    def invert(
        self,
        images: Given | Sequence[Given],
        *,
        steps: Steps = None,
        grid: str | Path | None = None,
        refinements: int = 0,
        label: str | int | Sequence[str | int] | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
        guide: Guide = UNGUIDED,
    ) -> Inversion:
        """The noise that DDIM makes the given pictures of, and what it gives back (Song et al. 2020, section 4.3).

        Args:
            images: one or several, as in `img2img`.
            steps: each way, 100 by default.
            refinements: evaluations more at each step, after which the way back meets the way there more closely.
            label: for a model with classes, one for all or one each.
        """
        self.check_alone("invert")
        several = [images] if isinstance(images, (np.ndarray, Image.Image)) else images
        data = self.description.config.data
        sources = np.stack([brought(one, data, "the picture") for one in several])
        steps = min(100, self.denoiser.native.T) if steps is None else steps
        walks = self.walks(len(sources), Method("ddim", steps, grid), 0, batch=batch, guide=guide)
        classes = self.known_classes(guide)
        if classes.names and label is None:
            raise UserError(f"--class: {self.name} draws by class; say of which the pictures are")
        labels = classes.labels(len(sources), 0, 0, label)
        return invert(walks, sources, refinements, labels, classes.names, progress)
