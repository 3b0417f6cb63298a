"""What nobody asked for is decided here, from the data, the machine and the time there is.

Each decision comes with its reason, which the command line prints and the run keeps. What was asked for is
never touched.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator

from ddpm.config import (
    ChainConfig,
    Config,
    DataConfig,
    DenoiserConfig,
    LossConfig,
    NetConfig,
    OptimizerConfig,
    TrainConfig,
)
from ddpm.data import Pictures, Source
from ddpm.errors import UserError
from ddpm.train import PREVIEW_STEPS, Trainer, preview_layout

DEFAULT_BUDGET = 3600.0
# A model is worth looking at after some 50,000 pictures. These sizes and widths see as many in the time.
_SHORT = 1800.0  # until then pictures are at most 32 pixels a side
_SECONDS = 600.0  # for a net of 32 channels over 256 places; the time goes with places and the square of channels
_MEASURED_SECONDS = 6.0
_CHECKPOINT_SECONDS, _LOG_SECONDS = 600.0, 5.0  # at the most between two of them
_RESERVE = 0.95  # of the budget: the machine may be slower later than while it was measured


@dataclass(frozen=True)
class Planned:
    """A config, and a line for each decision in it."""

    config: Config
    reasons: tuple[str, ...]


def for_data(
    source: Source, device: torch.device, path: str, size: tuple[int, int] | None, seconds: float
) -> Planned:
    """A config for the data, this kind of device and about so much time; not yet the number of steps."""
    look = source.look()
    if not look.sizes:
        name, reason = look.unreadable[0]
        raise UserError(
            f"{path}: none of the {look.seen} pictures looked at can be read, as {name} ({reason}); give others"
        )
    reasons = []
    channels = 1 if look.colour == 0 else 3
    reasons.append(
        f"channels {channels}: " + ("all pictures are grey" if channels == 1 else "the pictures have colour")
    )
    if channels == 1:
        reasons.append("no flips: grey pictures are often of things that face one way; --data.flip turns them on")
    if size is None:
        largest = 32 if device.type != "cuda" and seconds < _SHORT else 64
        size, exact = _size(look.sizes, largest)
        why = f"sized for {duration(seconds)} on {device.type}; --size asks for more"
        if exact:
            why = "the pictures' own" + (", cut to multiples of 4" if size not in look.sizes else "")
        reasons.append(f"size {size[0]} x {size[1]}: {why}")
    net, reason = _net(size, device, seconds)
    reasons.append(f"net: {reason}")
    usual = 32 if device.type != "cuda" else 128 if max(size) <= 32 else 64
    batch = min(usual, len(source))
    reasons.append(f"batch {batch}: " + (f"usual on {device.type}" if batch == usual else "all pictures at once"))
    # Adam's rate goes down with the width (Nichol & Dhariwal 2021, section 6, scale it by 1/√channels).
    rate = 4e-3 * math.sqrt(32 / net.channels) if device.type != "cuda" else 2e-4
    reasons.append(
        f"learning rate {rate:.1e}: " + ("high, for a small net and few steps" if rate > 1e-3 else "Ho et al.'s")
    )
    # docs/log.md, Flowers: colour pictures of a narrow net kept a grain with v and lost it with x0 and min-SNR.
    # That is one pair of runs, in which the rate differed too; on grey garments v and x0 could not be told apart.
    plain = channels == 3 and device.type != "cuda"
    reasons.append(
        "x0-prediction with min-SNR weights: left less grain in colour pictures of a narrow net"
        if plain
        else "v-prediction: what the recipes for grey pictures and for a GPU were chosen with"
    )
    config = Config(
        DataConfig(path=(path,), size=size, channels=channels, flip=channels == 3),
        net,
        ChainConfig("cosine", 1000),
        DenoiserConfig("x0" if plain else "v", "large"),
        LossConfig(weight="min-snr" if plain else "simple", times="low-discrepancy"),
        OptimizerConfig(lr=rate, decay="cosine", beta2=0.99),
        TrainConfig(batch=batch),
    )
    return Planned(config, tuple(reasons))


def _size(sizes: dict[tuple[int, int], int], largest: int) -> tuple[tuple[int, int], bool]:
    """The pictures' own size in whole 4s, if they have one that is not too large, else a square most of them fill.

    The second value says which of the two it is.
    """
    common = max(sizes, key=lambda size: sizes[size])
    if len(sizes) == 1 and max(common) <= largest and min(common) >= 4:
        return (common[0] // 4 * 4, common[1] // 4 * 4), True
    sides = sorted(min(size) for size, count in sizes.items() for _ in range(count))
    median = sides[len(sides) // 2]
    side = max((side for side in (16, 32, 64, 128) if side <= min(median, largest)), default=16)
    return (side, side), False


def _net(size: tuple[int, int], device: torch.device, seconds: float) -> tuple[NetConfig, str]:
    """Halves pictures to about 8 x 8; on a GPU Ho et al.'s widths, else narrow, over cells of 2 x 2 pixels."""
    if device.type == "cuda":
        levels = _levels(size, patch=1)
        multipliers = (1, *(2 for _ in range(levels - 1)))
        attention = tuple(level for level in range(levels) if max(size) >> level == 16)
        return NetConfig(128, multipliers, 2, attention), "Ho et al.'s widths"
    patch = 2 if min(size) >= 24 and size[0] % 2 == size[1] % 2 == 0 else 1
    levels = _levels(size, patch)
    places = size[0] * size[1] / patch**2
    affordable = [wide for wide in (32, 48, 64) if _SECONDS * places / 256 * (wide / 32) ** 2 <= seconds]
    channels = max(affordable, default=32)
    multipliers = (1, *(2 for _ in range(levels - 1)))
    net = NetConfig(channels, multipliers, blocks=1, attention=(), dropout=0.0, groups=8, patch=patch)
    cells = f", over cells of {patch} x {patch} pixels" if patch > 1 else ""
    return net, f"{channels} channels on {levels} levels{cells}: sized for {duration(seconds)} on {device.type}"


def _levels(size: tuple[int, int], patch: int) -> int:
    """Levels until the coarsest is at most 8 places a side, as long as both sides can be halved evenly."""
    levels, height, width = 1, size[0] // patch, size[1] // patch
    while max(height, width) > 8 and height % 2 == width % 2 == 0:
        levels, height, width = levels + 1, height // 2, width // 2
    return levels


def fixed_steps(config: Config, asked: Iterable[str], previews: int = 10, seconds: float | None = None) -> Planned:
    """The rest of a config whose number of steps is known, and perhaps the seconds a step takes."""
    asked = set(asked)
    steps, reasons = config.train.steps, []
    optimizer, train = config.optimizer, config.train
    if "optimizer.warmup" not in asked:
        optimizer = replace(optimizer, warmup=max(1, min(1000, steps // 20)))
        reasons.append(f"warm-up {optimizer.warmup}: 5 % of the steps, at most 1,000")
    if "optimizer.ema" not in asked:
        horizon = min(10_000, max(10, steps // 20))
        optimizer = replace(optimizer, ema=1.0 - 1.0 / horizon)
        reasons.append(f"EMA over the last {horizon} steps: 5 % of them, at most 10,000")
    if "train.checkpoint_every" not in asked:
        longest = max(1, int(_CHECKPOINT_SECONDS / seconds)) if seconds else steps
        train = replace(train, checkpoint_every=min(steps, max(50, steps // 10), longest))
        reasons.append(f"a checkpoint every {train.checkpoint_every} steps, the newest {train.keep} kept")
    if "train.preview_every" not in asked:
        train = replace(train, preview_every=-(-steps // max(1, previews)))
        reasons.append(f"a preview every {train.preview_every} steps: {max(1, previews)} in all")
    if "train.log_every" not in asked:
        longest = max(1, int(_LOG_SECONDS / seconds)) if seconds else 100
        train = replace(train, log_every=max(1, min(100, steps // 50, longest)))
    return Planned(replace(config, optimizer=optimizer, train=train), tuple(reasons))


def within(
    config: Config, pictures: Pictures, accelerator: Accelerator, seconds: float, asked: Iterable[str]
) -> Planned:
    """A config whose training takes about so many seconds on this machine: its speed is measured first."""
    asked = set(asked)
    began = time.perf_counter()
    trainer = Trainer(config, pictures, accelerator)
    step = measure(trainer)
    glance = _preview_seconds(trainer, step)
    del trainer
    accelerator.free_memory()  # it keeps what it prepared
    left = seconds * _RESERVE - (time.perf_counter() - began)
    previews = 10 if "train.preview_every" not in asked else 0
    # Previews are ten at the most and take a tenth of the time at the most.
    previews = min(previews, int(0.1 * left / glance)) if glance > 0 else previews
    steps = int((left - previews * glance) / step)
    if steps < 10:
        raise UserError(
            f"--budget: leaves time for {max(0, steps)} steps of {step:.2f} s each; give more time, or a smaller "
            "--size, --batch or --net.channels"
        )
    config = config.with_(train__steps=steps)
    planned = fixed_steps(config, asked, previews, step)
    speed = config.train.batch / step
    reason = f"{steps} steps: at the {speed:.0f} pictures a second measured here they fill {duration(seconds)}"
    return Planned(planned.config, (reason, *planned.reasons))


def measure(trainer: Trainer, seconds: float = _MEASURED_SECONDS) -> float:
    """Seconds a step of a trainer that is thrown away after it: the median, the first two left out."""
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < seconds:
        clock = time.perf_counter()
        trainer.step(len(times))[1].item()
        times.append(time.perf_counter() - clock)
        if len(times) >= 200:
            break
    kept = sorted(times[2:])
    return kept[len(kept) // 2]


def _preview_seconds(trainer: Trainer, step: float) -> float:
    """A forward pass is about a third of a training step's work."""
    count = preview_layout(len(trainer.pictures.classes))[0]
    return PREVIEW_STEPS * step / 3 * count / trainer.config.train.batch


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds of "90s", "20m", "1h30m", "2d"; a bare number is minutes."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        text += "m"
    if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", text):
        raise UserError(f"--budget {text}: takes a time such as 20m, 90s, 1h30m or 2d")
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)([smhd])", text))


def duration(seconds: float) -> str:
    """A time as a person writes it: 45 s, 3 min, 2 h 5 min, 3 d 4 h."""
    seconds = max(0.0, seconds)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"
