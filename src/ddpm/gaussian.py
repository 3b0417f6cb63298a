"""The one distribution of diffusion models: a Gaussian with a diagonal covariance.

    x = mean + exp(logvar / 2) · noise

q(x_t|x_0), q(x_s|x_t,x_0) and p(x_s|x_t) are all of this type. The log-variance, not the variance, is kept:
variances of a chain span seven orders of magnitude, and learned ones are interpolated in their logarithm.
Logarithms of probabilities are natural ones (nats), one an element: who sums them knows what a picture is.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_HIGHEST = 255  # of a pixel
_HALF = math.sqrt(0.5)


class Gaussian(NamedTuple):
    """Independent normals; logvar is one number for all, or a tensor that broadcasts to the mean's shape."""

    mean: Float[Tensor, "B *D"]
    logvar: Float[Tensor, "B ..."] | float

    @property
    def std(self) -> Float[Tensor, "B ..."] | float:
        """exp(logvar / 2)."""
        return (0.5 * self.logvar).exp() if isinstance(self.logvar, Tensor) else math.exp(0.5 * self.logvar)

    def sample(self, noise: Float[Tensor, "B *D"]) -> Float[Tensor, "B *D"]:
        """The value that standard normal noise stands for (the reparameterisation trick)."""
        std = self.std
        return self.mean + std * noise if isinstance(std, Tensor) else self.mean.add(noise, alpha=std)

    def kl(self, other: Gaussian) -> Float[Tensor, "B *D"]:
        """KL(self‖other) ≥ 0 of each element."""
        ratio = self.logvar - other.logvar
        # expm1(r) − r keeps its digits where the variances are nearly the same, as they are all along a chain.
        spreads = ratio.expm1() - ratio if isinstance(ratio, Tensor) else math.expm1(ratio) - ratio
        return 0.5 * (spreads + (self.mean - other.mean).square() * other._precision)

    def log_density(self, x: Float[Tensor, "B *D"]) -> Float[Tensor, "B *D"]:
        """log p(x) of each element."""
        return -0.5 * ((x - self.mean).square() * self._precision + self.logvar + math.log(2.0 * math.pi))

    def discretised_log_likelihood(self, x: Float[Tensor, "B *D"]) -> Float[Tensor, "B *D"]:
        """log P(x) of each element for pixels k/127.5 − 1, k = 0 … 255 (Ho et al. 2020, eq. 13).

        The probability of a pixel is that of its bin, x ± 1/255, and the first and last bins are open, so the 256
        sum to one. The normal distribution function is the exact one, and its difference is taken in logarithms:
        a pixel far out in a tail keeps a finite value and a gradient.
        """
        k = x.add(1.0).mul(0.5 * _HIGHEST).round()
        std = self.std
        # Neighbours' common edge is one number: (2k + 1)/255 − 1 of the lower, (2k − 1)/255 − 1 of the upper.
        upper = ((2.0 * k + 1.0) / _HIGHEST - 1.0 - self.mean) / std
        lower = ((2.0 * k - 1.0) / _HIGHEST - 1.0 - self.mean) / std
        upper = upper.masked_fill(k >= _HIGHEST, math.inf)
        lower = lower.masked_fill(k <= 0, -math.inf)
        log_mass: Tensor = _LogNormalMass.apply(lower, upper)  # type: ignore[no-untyped-call]
        return log_mass

    @property
    def _precision(self) -> Float[Tensor, "B ..."] | float:
        return (-self.logvar).exp() if isinstance(self.logvar, Tensor) else math.exp(-self.logvar)


class _LogNormalMass(torch.autograd.Function):
    """log(Φ(b) − Φ(a)) for a < b, either of which may be infinite.

    torch.special.log_ndtr would do but for its gradient, which overflows a few thousand deviations out. The scaled
    erfcx(x) = exp(x²) erfc(x) keeps both: with a ≤ b ≤ 0,

        Φ(b) − Φ(a) = ½ exp(−b²/2) (erfcx(−b/√2) − exp((b² − a²)/2) erfcx(−a/√2))
    """

    @staticmethod
    def forward(ctx: Any, lower: Tensor, upper: Tensor) -> Tensor:
        flip = lower + upper > 0  # to the lower tail, or to an interval about 0 that reaches further down
        a, b = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
        across = b > 0
        tail, fall = b.clamp(max=0.0), torch.exp(0.5 * (b - a) * (b + a))
        scaled = torch.special.erfcx(-_HALF * tail) - fall * torch.special.erfcx(-_HALF * a.clamp(max=0.0))
        middle = 0.5 * (torch.erf(_HALF * b) - torch.erf(_HALF * a))
        outside = 0.5 * (torch.erfc(_HALF * b) + torch.erfc(-_HALF * a))
        log_mass = torch.where(
            across,
            torch.where(b > 0.5, torch.log1p(-outside), middle.log()),
            scaled.mul(0.5).log() - 0.5 * tail.square(),
        )
        # φ/(Φ(b) − Φ(a)) at both ends
        at_b = math.sqrt(2.0 / math.pi) * torch.where(
            across, 0.5 * torch.exp(-0.5 * b.square()) / middle, 1.0 / scaled
        )
        at_a = at_b * fall
        ctx.save_for_backward(torch.where(flip, -at_b, -at_a), torch.where(flip, at_a, at_b))
        return log_mass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        of_lower, of_upper = ctx.saved_tensors
        return gradient * of_lower, gradient * of_upper
