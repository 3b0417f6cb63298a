"""Guidance: a prediction pushed towards a class. `model.guided(...)` takes one in place of its own.

    classifier-free   ε̂ = ε̂_u + s (ε̂_c − ε̂_u)                  (Ho & Salimans 2022, eq. 6 with s = 1 + w)
    by a classifier   ∇ log p(x_t) + s ∇ log p(y|x_t)            (Dhariwal & Nichol 2021, section 4)

The first asks one net with the label and without, which needs labels left out in training; s = 1 is the model with
it and s = 0 the one without, and the other is not asked. The second asks a classifier of noisy pictures, and s = 0
is the model itself; ancestral sampling moves its mean by Σ·score, deterministic samplers take σ_t·score from ε̂.
They can be had together. Nothing here waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ddpm.chain import Level
from ddpm.classifier import Classifier
from ddpm.denoiser import Denoiser, Prediction

NO_CLASS = -1
"""The label that stands for none (see `nets.UNet`)."""


@final
@dataclass(frozen=True)
class ClassifierFree:
    """What the net says with the label, `scale` times as far from what it says without.

    interval: levels of the model's native chain, both included, that are guided (Kynkäänniemi et al. 2024); None
    for all. The two questions are one batch. Of a learned variance the conditional answer is taken.
    """

    scale: float
    interval: tuple[int, int] | None = None

    def __call__(self, model: Denoiser, xt: Float[Tensor, "B *D"], t: Level, **cond: Any) -> Prediction:
        if self.scale == 1.0 or not self._guides(model, t):
            return model.plain(xt, t, **cond)
        none = torch.full_like(cond["label"], NO_CLASS)
        if self.scale == 0.0:
            return model.plain(xt, t, **{**cond, "label": none})
        both = {key: torch.cat([value, none if key == "label" else value]) for key, value in cond.items()}
        twice = t if isinstance(t, int) else torch.cat([t, t])
        given, without = model.output(torch.cat([xt, xt]), twice, **both).chunk(2)
        mean, variance = model.parts(given, xt)
        guided = torch.lerp(model.parts(without, xt)[0], mean, self.scale)
        return model.read(guided if variance is None else torch.cat([guided, variance], dim=1), xt, t)

    def _guides(self, model: Denoiser, t: Level) -> bool:
        if self.interval is None:
            return True
        if not isinstance(t, int):
            raise ValueError("guidance over an interval takes one level for the whole batch")
        return bool(self.interval[0] <= model.native_level(t) <= self.interval[1])


@final
@dataclass(frozen=True, eq=False)
class ByClassifier:
    """The prediction with `scale` times a classifier's score beside it; `base` guides it further, None for not.

    numbers: the classifier's number of each label, on its device; None where they are the same. conditional: the
    model is told the label, too.
    """

    classifier: Classifier
    scale: float
    base: ClassifierFree | None = None
    numbers: Int64[Tensor, "K"] | None = None
    conditional: bool = True

    def __call__(self, model: Denoiser, xt: Float[Tensor, "B *D"], t: Level, **cond: Any) -> Prediction:
        label = cond["label"] if self.conditional else cond.pop("label")
        prediction = self.base(model, xt, t, **cond) if self.base else model.plain(xt, t, **cond)
        if self.scale == 0.0:
            return prediction
        number = label if self.numbers is None else self.numbers[label]
        return prediction.scored(self.scale * self.classifier.score(xt, number, model.chain, t))
