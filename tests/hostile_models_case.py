"""A hostile model or config, and what all of them are made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

import tiny
from ddpm.config import ChainConfig, Config, DataConfig, DenoiserConfig, LossConfig, NetConfig
from ddpm.store import Description

SENTINEL = "sentinel"
"""A folder of this name beside a case is what a payload makes if it runs."""
GREAT = 10**12
DEEP = 100_000  # levels of brackets
OURS = Description(tiny.config(), tiny.ANIMALS, 7)
THEIRS = Description(
    Config(
        DataConfig((), (8, 8)),
        NetConfig(32, (1, 2), 1, (1,), dropout=0.0, style="openai", heads=2, scale_shift=True),
        ChainConfig("cosine", 50),
        DenoiserConfig("eps", "learned_range"),
        LossConfig("hybrid"),
    ),
    tiny.ANIMALS,
    7,
)


@dataclass(frozen=True)
class Case:
    """path: what is opened, as a "model", "features", "config", "grids" or "tuned"."""

    name: str
    path: Path
    says: str = ""
    what: str = "model"
    expected: str = "refused"


Family = Callable[[Path], Iterator[Case]]


@cache
def our_weights() -> dict[str, torch.Tensor]:
    return tiny.weights(tiny.config(), 3, 1)


@cache
def their_weights() -> dict[str, torch.Tensor]:
    return tiny.weights(THEIRS.config, 3, 1)
