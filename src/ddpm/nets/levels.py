"""The levels of a net: what the U-Net and the encoder share.

A level is a few residual blocks at one width, some followed by self-attention; between two levels the picture is
halved, by a strided convolution or inside a residual block.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ddpm.errors import UserError
from ddpm.nets.blocks import Attention, Downsample, Order, ResBlock, Style, Upsample

Resample = Literal["conv", "block"]


class Layer(nn.Module):
    """A residual block and, where the level has it, self-attention after it."""

    def __init__(self, block: ResBlock, attention: Attention | None):
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, x: Float[Tensor, "B C H W"], emb: Float[Tensor, "B E"]) -> Float[Tensor, "B K H W"]:
        h: Tensor = self.block(x, emb)
        return h if self.attention is None else self.attention(h)


@dataclass(frozen=True)
class Levels:
    """What the levels of a net are like: their widths, the finest first, and the options of their parts.

    The fields are explained at `UNet`. UserError where they do not fit each other.
    """

    widths: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    embedding: int
    dropout: float
    groups: int
    style: Style
    heads: int
    head_channels: int
    qkv: Order
    scale_shift: bool
    resample: Resample

    def __post_init__(self) -> None:
        _check(self)

    def layer(self, inputs: int, width: int, attends: bool) -> Layer:
        """A residual block, and attention after it."""
        block = ResBlock(inputs, width, self.embedding, self.groups, self.dropout, self.style, self.scale_shift)
        heads = heads_at(width, self.heads, self.head_channels)
        return Layer(block, Attention(width, self.groups, self.style, heads, self.qkv) if attends else None)

    def downsample(self, width: int) -> nn.Module:
        """What halves the picture, at constant width."""
        return self._residual(width, "down") if self.resample == "block" else Downsample(width, self.style)

    def upsample(self, width: int) -> nn.Module:
        """What doubles the picture, at constant width."""
        return self._residual(width, "up") if self.resample == "block" else Upsample(width, self.style)

    def _residual(self, width: int, resampling: Literal["down", "up"]) -> ResBlock:
        return ResBlock(
            width, width, self.embedding, self.groups, self.dropout, self.style, self.scale_shift, resampling
        )

    def way_down(self) -> tuple[nn.ModuleList, nn.ModuleList, list[int]]:
        """The layers of each level, what is between two levels, and the widths that `descend` passes."""
        down, between = nn.ModuleList(), nn.ModuleList()
        width = self.widths[0]
        passed = [width]
        for level, wide in enumerate(self.widths):
            layers = nn.ModuleList()
            for _ in range(self.blocks):
                layers.append(self.layer(width, wide, level in self.attention))
                width = wide
                passed.append(width)
            down.append(layers)
            if level < len(self.widths) - 1:
                between.append(self.downsample(width))
                passed.append(width)
        return down, between, passed


def descend(
    down: nn.ModuleList,
    between: nn.ModuleList,
    h: Float[Tensor, "B C H W"],
    emb: Float[Tensor, "B E"],
    saving: int,
) -> list[Tensor]:
    """h and the features after each layer and each halving; saving: of how many levels `run` saves memory."""
    passed = [h]
    for level, layers in enumerate(down):
        for layer in layers:  # type: ignore[attr-defined]
            passed.append(run(layer, passed[-1], emb, level < saving))
        if level < len(between):
            passed.append(run(between[level], passed[-1], emb, level < saving))
    return passed


def saving_levels(net: Any, levels: int) -> int:
    """Of how many levels, the finest first, a net of so many computes activations again."""
    if not net.checkpoint_activations:
        return 0
    return min(levels, net.checkpoint_levels or levels)


def run(layer: nn.Module, h: Tensor, emb: Tensor, save: bool) -> Tensor:
    """The layer; to save memory, only its inputs are kept for the way back."""
    if save and torch.is_grad_enabled():
        out: Tensor = checkpoint(layer, h, emb, use_reentrant=False)
    else:
        out = layer(h, emb)
    return out


def widths_of(channels: int, multipliers: Sequence[int | float]) -> tuple[int, ...]:
    """The width of each level; UserError where a multiple is no whole number of channels."""
    # A width that was divided by channels may come out of the product a last bit off.
    broken = [m for m in multipliers if abs(channels * m - round(channels * m)) > 1e-6 or m <= 0]
    if broken:
        raise UserError(
            f"--net.multipliers {' '.join(f'{m:g}' for m in multipliers)}: {broken[0]:g} times {channels} "
            "channels is no width; take multiples that make whole numbers"
        )
    return tuple(round(channels * m) for m in multipliers)


def check_size(size: tuple[int, int], stride: int) -> None:
    """Refuses a height or width that the levels do not divide, naming the nearest that work."""
    if size[0] % stride or size[1] % stride:
        below = " × ".join(str(max(stride, n // stride * stride)) for n in size)
        above = " × ".join(str(-(-n // stride) * stride) for n in size)
        raise UserError(
            f"size {size[0]} × {size[1]}: this net halves pictures so often that height and width must be "
            f"multiples of {stride}; the nearest are {below} and {above}"
        )


def heads_at(width: int, heads: int, head_channels: int) -> int:
    """Heads of an attention over `width` channels."""
    return width // head_channels if head_channels else heads


def _check(levels: Levels) -> None:
    widths = levels.widths
    uneven = [width for width in widths if width % levels.groups]
    if uneven:
        raise UserError(
            f"--net.groups {levels.groups}: must divide the width of every level, and one is {uneven[0]} wide; "
            "take a divisor of it"
        )
    if any(not 0 <= level < len(widths) for level in levels.attention):
        raise UserError(
            f"--net.attention {list(levels.attention)}: this net has the levels 0 to {len(widths) - 1}"
        )
    if levels.style not in get_args(Style):
        raise UserError(f"--net.style {levels.style}: takes ho or openai")
    if levels.qkv not in get_args(Order):
        raise UserError(f"--net.qkv {levels.qkv}: takes legacy or split")
    if levels.resample not in get_args(Resample):
        raise UserError(f"--net.resample {levels.resample}: takes conv or block")
    _check_heads(
        [widths[level] for level in sorted({*levels.attention, len(widths) - 1})],
        levels.heads,
        levels.head_channels,
    )


def _check_heads(widths: Iterable[int], heads: int, head_channels: int) -> None:
    """widths: of the levels with attention."""
    option, value = ("head-channels", head_channels) if head_channels else ("heads", heads)
    uneven = [width for width in widths if value < 1 or width % value]
    if uneven:
        together = math.gcd(*widths)
        fits = max(n for n in range(1, max(value, 1) + 1) if together % n == 0)
        raise UserError(
            f"--net.{option} {value}: must divide the width of every level with attention, and one is {uneven[0]} "
            f"wide; take a divisor, as {fits}"
        )
