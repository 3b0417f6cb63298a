"""The one distribution of diffusion models: a Gaussian with a diagonal covariance.

    x = mean + exp(logvar / 2) · noise

q(x_t|x_0), q(x_s|x_t,x_0) and p(x_s|x_t) are all of this type. The log-variance, not the variance, is kept:
variances of a chain span seven orders of magnitude, and learned ones are interpolated in their logarithm.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


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
