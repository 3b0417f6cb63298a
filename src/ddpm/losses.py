"""What training minimises: an error of the net's output, weighted by the level, or the variational bound.

    simple    an error of the output
    vlb       the bound itself: T times the term of one level, an estimate of their sum
    hybrid    simple + 0.001 vlb, where vlb teaches the variance alone     (Nichol & Dhariwal 2021, section 3.1)

and of a classifier of noisy pictures −log p(y|x_t).

A weight of `simple` is a function of the SNR on the error of x̂_0; the parameterisation only rescales it, since

    ‖x_0 − x̂_0‖² · {x0: 1, eps: snr, v: snr + 1} = ‖target − output‖²

    simple    1 on the net's own error               (Ho et al. 2020, eq. 14 for eps)
    min-snr   min(snr, 5) on x̂_0's error             (Hang et al. 2023, "Efficient diffusion training")
    p2        snr/(k + snr)^g on x̂_0's error         (Choi et al. 2022, eq. 7)

The bound is taken of unclipped predictions, since a clipped pixel would teach nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from ddpm.bound import term
from ddpm.classifier import Classifier
from ddpm.denoiser import LEARNED, Denoiser, Prediction
from ddpm.errors import UserError

_NONE: Mapping[str, Any] = {}


class Terms(NamedTuple):
    """Per picture: the weighted loss; an error to compare runs by, whatever their loss; the bound.

    The error is the net's plain squared one, or a classifier's 0 or 1. vlb, of the losses that know it, is the sum
    of the bound's T terms in bits/dim as estimated from one of them.
    """

    loss: Float[Tensor, "B"]
    error: Float[Tensor, "B"]
    vlb: Float[Tensor, "B"] | None = None


class Noised(NamedTuple):
    """Pictures x0, the noise and levels t they were noised with, and what came of it."""

    x0: Float[Tensor, "B *D"]
    noise: Float[Tensor, "B *D"]
    t: Int64[Tensor, "B"]
    xt: Float[Tensor, "B *D"]


class Loss(ABC):
    """What a batch's levels and noise cost."""

    def __call__(
        self,
        model: Denoiser,
        x0: Float[Tensor, "B *D"],
        t: Int64[Tensor, "B"],
        noise: Float[Tensor, "B *D"],
        cond: Mapping[str, Any] = _NONE,
    ) -> Terms:
        """The terms for pictures x0 in [−1, 1], noised to levels t ≥ 1 by standard normal noise."""
        xt = model.chain.q(x0, t).sample(noise)
        return self.terms(model, model.output(xt, t, **cond).to(x0.dtype), Noised(x0, noise, t, xt))

    @abstractmethod
    def terms(self, model: Denoiser, output: Float[Tensor, "B ..."], at: Noised) -> Terms:
        """The terms for the net's output."""


@final
@dataclass(frozen=True)
class Simple(Loss):
    """L_simple: the error of the net's output, its mean over each picture, weighted.

    error: l2 squared, l1 absolute, huber with threshold huber_delta. weight: simple, min-snr or p2.
    """

    error: Literal["l2", "l1", "huber"] = "l2"
    weight: Literal["simple", "min-snr", "p2"] = "simple"
    min_snr: float = 5.0
    p2_k: float = 1.0
    p2_gamma: float = 1.0
    huber_delta: float = 1.0

    def __post_init__(self) -> None:
        if self.error not in ("l2", "l1", "huber"):
            raise UserError(f"--loss.error {self.error}: takes l2, l1 or huber")
        if self.weight not in ("simple", "min-snr", "p2"):
            raise UserError(f"--loss.weight {self.weight}: takes simple, min-snr or p2")

    def terms(self, model: Denoiser, output: Float[Tensor, "B ..."], at: Noised) -> Terms:
        """The terms for the net's output for the mean."""
        output, _ = model.parts(output, at.xt)
        target = model.target(at.x0, at.noise, at.t)
        squared = (output - target).square().flatten(1).mean(1)
        if self.error == "l2":
            error = squared
        elif self.error == "l1":
            error = (output - target).abs().flatten(1).mean(1)
        else:
            error = F.huber_loss(output, target, reduction="none", delta=self.huber_delta).flatten(1).mean(1)
        return Terms(self.weights(model, at.t).to(error.device) * error, squared.detach())

    def weights(self, model: Denoiser, t: Int64[Tensor, "B"]) -> Float[Tensor, "B"]:
        """The weight of the net's own error at each t, float32[B]."""
        snr = model.chain.snr(t)
        if self.weight == "simple":
            return torch.ones(len(t))
        on_x0 = (
            np.minimum(snr, self.min_snr) if self.weight == "min-snr" else snr / (self.p2_k + snr) ** self.p2_gamma
        )
        return torch.from_numpy(on_x0 / _rescale(model.predicts, snr)).float()


def _rescale(predicts: str, snr: np.ndarray) -> np.ndarray:
    """The net's squared error as a multiple of x̂_0's."""
    if predicts == "eps":
        return snr
    if predicts == "x0":
        return np.ones_like(snr)
    if predicts == "v":
        return snr + 1.0
    raise UserError("--loss.weight: a net that predicts the mean is trained with the weight simple")


@final
@dataclass(frozen=True)
class Vlb(Loss):
    """L_vlb: T times the bound's term at t, in bits/dim, so that its mean over t is the sum of all terms."""

    simple: Simple = field(default_factory=Simple)

    def terms(self, model: Denoiser, output: Float[Tensor, "B ..."], at: Noised) -> Terms:
        vlb = _vlb(model, model.read(output, at.xt, at.t, clip=False), at)
        with torch.no_grad():
            error = self.simple.terms(model, output, at).error
        return Terms(vlb, error, vlb.detach())


@final
@dataclass(frozen=True)
class Hybrid(Loss):
    """L_simple + weight · L_vlb; the mean is held fixed in the second, which so teaches the variance alone."""

    simple: Simple = field(default_factory=Simple)
    weight: float = 0.001

    def terms(self, model: Denoiser, output: Float[Tensor, "B ..."], at: Noised) -> Terms:
        if model.variance not in LEARNED:
            raise UserError(
                f"--loss.kind hybrid: teaches a variance, and {model.variance} is fixed; take "
                "--denoiser.variance learned_range"
            )
        seen = model.read(output, at.xt, at.t, clip=False)
        vlb = _vlb(model, Prediction(seen.x0.detach(), seen.eps.detach(), seen.variance_output), at)
        simple = self.simple.terms(model, output, at)
        return Terms(simple.loss + self.weight * vlb, simple.error, vlb.detach())


@final
@dataclass(frozen=True)
class CrossEntropy:
    """−log p(y|x_t) of a classifier (Dhariwal & Nichol 2021, 4.1); its error is 1 or 0."""

    def __call__(
        self,
        model: Classifier,
        x0: Float[Tensor, "B *D"],
        t: Int64[Tensor, "B"],
        noise: Float[Tensor, "B *D"],
        cond: Mapping[str, Any] = _NONE,
    ) -> Terms:
        """The terms for pictures x0 of classes cond["label"], noised to levels t ≥ 1 by standard normal noise."""
        label = cond["label"]
        logits = model.output(model.chain.q(x0, t).sample(noise), t).float()
        wrong = (logits.argmax(1) != label).float()
        return Terms(F.cross_entropy(logits, label, reduction="none"), wrong)


Objective = Callable[..., Terms]
"""(model, x0, t, noise, cond) → Terms: a Loss of a denoiser, or a classifier's CrossEntropy."""


def _vlb(model: Denoiser, prediction: Prediction, at: Noised) -> Float[Tensor, "B"]:
    """T times the term at t, in bits/dim."""
    return model.chain.T * term(model, at.x0, at.xt, at.t, at.t - 1, prediction)


def make_loss(kind: str, vlb_weight: float, simple: Simple) -> Loss:
    """The loss of a name: simple, hybrid or vlb."""
    if kind == "simple":
        return simple
    if kind == "hybrid":
        return Hybrid(simple, vlb_weight)
    if kind == "vlb":
        return Vlb(simple)
    raise UserError(f"--loss.kind {kind}: takes simple, hybrid or vlb")
