"""Pictures made small: what an upsampler is told in training."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def smaller(x: Float[Tensor, "B C H W"], size: tuple[int, int]) -> Float[Tensor, "B C h w"]:
    """x in [−1, 1] as a small picture would store it: means over the areas of its pixels, in 256 grey levels."""
    levels = F.interpolate(x, size, mode="area").add(1.0).mul(127.5).round()
    return levels.div(127.5).sub(1.0)
