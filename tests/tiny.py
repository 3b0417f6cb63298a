"""The smallest models, runs and folders of pictures that the tests of the outer layers need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddpm.build import build_net
from ddpm.config import ChainConfig, Config, DataConfig, DenoiserConfig, NetConfig, TrainConfig
from ddpm.store import Description, Facts, Run

ANIMALS = Facts("zoo", 10, ("ant", "bee", "cat"), (0.5, 0.0, 0.5), "f" * 64)
# The smallest net for `ddpm train`, and next to no steps.
NET = ["--net.channels", "4", "--net.groups", "2", "--net.multipliers", "1", "2", "--net.blocks", "1"]
QUICK = [*NET, "--size", "8", "--batch", "4", "--device", "cpu"]


def config(**changes: Any) -> Config:
    """A net of 8 channels on pictures of 8 x 8, a chain of 40 steps."""
    made = Config(
        DataConfig(("zoo",), (8, 8), 1),
        NetConfig(8, (1, 2), 1, (), dropout=0.0, groups=4),
        ChainConfig("cosine", 40),
        DenoiserConfig("v"),
        train=TrainConfig(steps=12, batch=6),
    )
    return made.with_(**changes)


def weights(made: Config, classes: int, seed: int) -> dict[str, Tensor]:
    """Weights of which none is zero: a fresh net's output is."""
    generator = torch.Generator().manual_seed(seed)
    state = build_net(made, classes).state_dict()
    return {key: value + 0.3 * torch.randn(value.shape, generator=generator) for key, value in state.items()}


def run(folder: Path, facts: Facts = ANIMALS, step: int = 7, **changes: Any) -> Run:
    """A run with one checkpoint, whose averaged weights are not its plain ones."""
    made = config(**changes)
    parts = {"model": weights(made, len(facts.classes), 1), "ema": weights(made, len(facts.classes), 2)}
    store = Run.create(folder, Description(made, facts))
    store.save(Description(made, facts, step), parts, {"images": 42}, keep=2)
    return store


def photos(folder: Path, count: int = 30, size: tuple[int, int] = (8, 8), grey: bool = False) -> Path:
    """PNGs of height and width `size`, half of them in each of two class folders."""
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, size if grey else (*size, 3), dtype=np.uint8)
        path = folder / ("cats", "dogs")[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder
