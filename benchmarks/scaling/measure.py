"""What is measured in this process: steps of training, and walks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from ddpm.build import build_denoiser, build_net
from ddpm.config import ChainConfig, Config, DataConfig, NetConfig, TrainConfig
from ddpm.data.pictures import Cached
from ddpm.footprint import footprint
from ddpm.noise import WalkNoise
from ddpm.processes import Processes
from ddpm.samplers import Ancestral, walk
from ddpm.trainer import Trainer

CLASSES = 10
FAR = 1_000_000
"""A step late in a long run."""
LONGEST = 8.0
"""Seconds: what is expected to take longer is not measured."""


def config(size: int = 32, batch: int = 8, levels: int = 1000, channels: int = 3, width: int = 32) -> Config:
    """A small net of four levels, with attention at the coarsest."""
    return Config(
        DataConfig(("made",), (size, size), channels),
        NetConfig(width, (1, 2, 2, 2), 1, (3,), dropout=0.0, groups=8),
        ChainConfig("cosine", levels),
        train=TrainConfig(steps=1_000_000, batch=batch, preview_every=0),
    )


def noise_set(count: int, size: int, channels: int = 3, path: Path | None = None) -> Cached:
    """Random pictures; with a path in a file, as the cache keeps them, and read from there."""
    rng, shape = np.random.default_rng(0), (count, channels, size, size)
    labels = rng.integers(0, CLASSES, count)
    if path is None:
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    else:
        with path.open("wb") as file:
            for first in range(0, count, 1 << 14):
                some = (min(1 << 14, count - first), *shape[1:])
                file.write(rng.integers(0, 256, some, dtype=np.uint8).data)
        pixels = np.asarray(np.memmap(path, np.uint8, "r", shape=shape))
    return Cached(pixels, labels, tuple(map(str, range(CLASSES))), "made", "0" * 64)


def trainer_of(made: Config, pictures: Cached | None = None, crew: Processes | None = None) -> Trainer:
    """On the GPU if there is one; of random pictures unless others are given."""
    pictures = pictures or noise_set(4 * made.train.batch, made.data.size[0], made.data.channels)
    return Trainer(made, pictures, Accelerator(cpu=not torch.cuda.is_available()), crew=crew)


def median(do: Callable[[int], object], times: int, first: int = 0) -> float:
    """Seconds, after two that do not count."""
    taken = []
    for k in range(times + 2):
        start = time.perf_counter()
        do(first + k)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[2:])


def flops_of(made: Config, backward: bool) -> int:
    """Of one picture, counted on the meta device; backward: with the way back, twice the way there."""
    with torch.device("meta"):
        net, x, t = build_net(made, CLASSES), torch.empty(1, *shape_of(made)), torch.empty(1)
        label = torch.empty(1, dtype=torch.int64)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x, t, label=label)
    return int(counter.get_total_flops()) * (3 if backward else 1)


def shape_of(made: Config) -> tuple[int, int, int]:
    return made.data.channels, *made.data.size


@dataclass(frozen=True)
class Point:
    """A case: what it is called on the axis, its FLOPs, and seconds and bytes where they were measured."""

    x: int
    flops: float
    seconds: float | None
    memory: int | None = None


def steps_of(cases: Sequence[tuple[int, Config]], rounds: int) -> list[Point]:
    """A step of training of each config, from the cheapest on, until one would take too long."""
    points: list[Point] = []
    for x, made in cases:
        flops = flops_of(made, backward=True) * made.train.batch
        known = [(p.flops, p.seconds) for p in points if p.seconds]
        expected = known[-1][1] * flops / known[-1][0] if known else 0.0
        if expected > LONGEST:
            points.append(Point(x, flops, None))
            continue
        trainer = trainer_of(made)
        seconds = median(trainer.step, rounds if expected < 2.0 else 2)
        points.append(Point(x, flops, seconds, footprint(lambda t=trainer: t.step(0))))  # type: ignore[misc]
    return points


def sampling(steps: Sequence[int], batch: int, measured_to: int) -> list[Point]:
    """A walk of so many steps with the chain of as many levels."""
    points = []
    for count in steps:
        made = config(batch=batch, levels=count)
        flops = float(flops_of(made, backward=False) * batch * count)
        if count > measured_to:
            points.append(Point(count, flops, None))
            continue
        model = build_denoiser(made, build_net(made, CLASSES).eval())

        def one(k: int, model: Any = model, made: Config = made) -> None:
            noise = WalkNoise(k, torch.arange(batch), shape_of(made))
            label = torch.zeros(batch, dtype=torch.int64)
            for _ in walk(model, Ancestral(), torch.randn(batch, *shape_of(made)), noise, label=label):
                pass

        with torch.no_grad():
            points.append(Point(count, flops, median(one, 3)))
    return points
