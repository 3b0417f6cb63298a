"""Pictures made small: what an upsampler is told of each, in training and wherever it is measured."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from ddpm.data.pictures import Pictures, to_uint8


def smaller(x: Float[Tensor, "B C H W"], size: tuple[int, int]) -> Float[Tensor, "B C h w"]:
    """x in [−1, 1] as a small picture would store it: means over the areas of its pixels, in 256 grey levels.

    x has 256 levels, too: the means are taken of whole numbers, so that halves are halves on every device.
    """
    levels = F.interpolate(x.add(1.0).mul(127.5).round(), size, mode="area").round()
    return levels.div(127.5).sub(1.0)


def made_small(pixels: UInt8[np.ndarray, "N C H W"], size: tuple[int, int]) -> UInt8[np.ndarray, "N C h w"]:
    """The same of pictures as they are stored."""
    x = torch.from_numpy(np.divide(pixels, np.float32(127.5), dtype=np.float32) - np.float32(1.0))
    made: UInt8[np.ndarray, "N C h w"] = to_uint8(smaller(x, size)).numpy()
    return made


class Pairs(NamedTuple):
    """Pictures, and what is made small of each; labels int64 [N], None without classes."""

    small: UInt8[np.ndarray, "N C h w"]
    whole: UInt8[np.ndarray, "N C H W"]
    labels: Int64[np.ndarray, "N"] | None


def pairs(pictures: Pictures, count: int, size: tuple[int, int]) -> Pairs:
    """Of `count` pictures evenly spread over a set, or all of a smaller one: the same ones every time."""
    count = min(count, len(pictures))
    whole, rows = pictures.rows(np.arange(count) * len(pictures) // count, None)
    return Pairs(made_small(whole, size), whole, None if pictures.labels is None else pictures.labels[rows])
