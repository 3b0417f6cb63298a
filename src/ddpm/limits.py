"""How large a model can be: what a description says is checked before anything is made of it.

A file may say anything. These are rules of what can be built at all, with room above every net there is; those of
what can be trained are in `checking`.
"""

from __future__ import annotations

import math
from typing import Any

from ddpm.config import Config
from ddpm.errors import UserError, short

STEPS = 1_000_000
"""Levels of a chain."""
SIDE = 1 << 14
"""Pixels a side."""
WIDTH = 1 << 16
"""Channels of a level."""
CLASSES = 1_000_000
LEVELS = 16
BLOCKS = 100
"""Residual blocks of a level."""
PATCH = 256


def check_limits(config: Config, where: str) -> Config:
    """The config itself; UserError names what in `where` no net or chain can be made of."""
    data, net, chain = config.data, config.net, config.chain
    widest = max((net.channels * multiple for multiple in net.multipliers), default=0)
    rules: list[tuple[str, Any, bool, str]] = [
        ("data.size", data.size, all(1 <= side <= SIDE for side in data.size), f"has sides of 1 to {SIDE:,}"),
        ("data.low_size", data.low_size, all(0 <= n <= SIDE for n in data.low_size), f"has sides up to {SIDE:,}"),
        ("data.channels", data.channels, data.channels in (1, 3, 4), "is 1, 3 or 4"),
        (
            "net.channels",
            net.channels,
            4 <= net.channels <= WIDTH and net.channels % 2 == 0,
            f"is even and 4 to {WIDTH:,}",
        ),
        (
            "net.multipliers",
            net.multipliers,
            1 <= len(net.multipliers) <= LEVELS and min(net.multipliers) > 0 and widest <= WIDTH,
            f"makes 1 to {LEVELS} levels of at most {WIDTH:,} channels",
        ),
        ("net.blocks", net.blocks, 1 <= net.blocks <= BLOCKS, f"is 1 to {BLOCKS}"),
        ("net.attention", net.attention, len(net.attention) <= LEVELS, f"names at most {LEVELS} levels"),
        ("net.dropout", net.dropout, 0 <= net.dropout < 1, "lies in [0, 1)"),
        ("net.groups", net.groups, 1 <= net.groups <= WIDTH, f"is 1 to {WIDTH:,}"),
        ("net.patch", net.patch, 1 <= net.patch <= PATCH, f"is 1 to {PATCH}"),
        ("net.heads", net.heads, 1 <= net.heads <= WIDTH, f"is 1 to {WIDTH:,}"),
        ("net.head_channels", net.head_channels, 0 <= net.head_channels <= WIDTH, f"is 0 to {WIDTH:,}"),
        ("chain.steps", chain.steps, 1 <= chain.steps <= STEPS, f"is 1 to {STEPS:,}"),
        (
            "chain.betas",
            chain.betas,
            len(chain.betas) == (chain.steps if chain.schedule == "betas" else 0),
            "are as many as chain.steps with the schedule betas, none with another",
        ),
        ("train.steps", config.train.steps, config.train.steps >= 1, "is at least 1"),
        ("train.batch", config.train.batch, config.train.batch >= 1, "is at least 1"),
        ("train.seed", config.train.seed, 0 <= config.train.seed < 2**64, "lies in [0, 2^64)"),
        ("train.label_drop", config.train.label_drop, 0 <= config.train.label_drop < 1, "lies in [0, 1)"),
    ]
    for name, value, holds, rule in rules:
        if not holds:
            raise UserError(f"{where}: its {name} {short(value)} {rule}: damaged, or no model of pictures")
    return config


def check_numbers(values: tuple[float, ...], where: str) -> None:
    """UserError unless all are finite and none is negative."""
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise UserError(f"{where}: damaged, not all of its numbers are finite and at least 0")
