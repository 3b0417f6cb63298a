"""What training minimises: an error of the net's output, weighted by the level.

A weight is a function of the SNR on the error of x̂_0; the parameterisation only rescales it, since

    ‖x_0 − x̂_0‖² · {x0: 1, eps: snr, v: snr + 1} = ‖target − output‖²

    simple    1 on the net's own error               (Ho et al. 2020, eq. 14 for eps)
    min-snr   min(snr, 5) on x̂_0's error             (Hang et al. 2023, "Efficient diffusion training")
    p2        snr/(k + snr)^g on x̂_0's error         (Choi et al. 2022, eq. 7)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from ddpm.denoiser import Denoiser
from ddpm.errors import UserError

_NONE: Mapping[str, Any] = {}


class Terms(NamedTuple):
    """Per picture: the weighted loss, and the net's plain squared error to compare runs by."""

    loss: Float[Tensor, "B"]
    mse: Float[Tensor, "B"]


@dataclass(frozen=True)
class Simple:
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
        output = model.output(xt, t, **cond).float()
        target = model.target(x0, noise, t)
        mse = (output - target).square().flatten(1).mean(1)
        if self.error == "l2":
            error = mse
        elif self.error == "l1":
            error = (output - target).abs().flatten(1).mean(1)
        else:
            error = F.huber_loss(output, target, reduction="none", delta=self.huber_delta).flatten(1).mean(1)
        return Terms(self.weights(model, t).to(error.device) * error, mse.detach())

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
