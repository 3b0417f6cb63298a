"""The U-Net: a picture goes down through coarser levels and up again, past what it was on the way down.

    x ── conv ── level 0 ─┬─ level 1 ─┬─ … ─┬─ middle ─┐
                          │           │     │          │
    out ── conv ── level 0 ┴─ level 1 ┴─ … ─┴──────────┘

With its defaults it is Ho et al.'s net for CIFAR-10 (2020, appendix B): 35,746,307 parameters. OpenAI's is the
same drawing with other parts (Nichol & Dhariwal 2021): style "openai", scale_shift, several heads, attention at
more levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ddpm.errors import UserError
from ddpm.nets.blocks import (
    Attention,
    Downsample,
    Order,
    ResBlock,
    Style,
    Upsample,
    conv,
    linear,
    norm,
    time_embedding,
    zero,
)


class Layer(nn.Module):
    """A residual block and, where the level has it, self-attention after it."""

    def __init__(self, block: ResBlock, attention: Attention | None):
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, x: Float[Tensor, "B C H W"], emb: Float[Tensor, "B E"]) -> Float[Tensor, "B K H W"]:
        h: Tensor = self.block(x, emb)
        return h if self.attention is None else self.attention(h)


class UNet(nn.Module):
    """(x[B,C,H,W], timestep[B], label[B]) → [B,K,H,W], where K is C or, with a learned variance, 2C.

    Args:
        image_channels: C of the pictures.
        channels: width at level 0; `multipliers` gives each level's width as a multiple of it.
        blocks: residual blocks in a level on the way down; one more on the way up.
        attention: the levels with self-attention, 0 being the finest; the middle always has it.
        dropout: inside the residual blocks.
        groups: groups of the normalisations; must divide every width.
        patch: pictures enter as patch × patch cells of pixels stacked in the channels, and leave as such. Over
            1 it trades the finest detail for speed, which a net without a GPU can need.
        classes: number of labels; 0 for an unconditional net.
        style: whose details the parts have: "ho" or "openai" (see `blocks`).
        heads: of each self-attention; must divide the width of every level that has it.
        head_channels: channels of a head, whose number then follows from the width; 0 for `heads` everywhere.
        qkv: order of attention's channels, "legacy" or "split" (see `blocks.Attention`).
        scale_shift: the time embedding scales and shifts the normalised features instead of being added.
        out_channels: K, 0 for C.
    """

    def __init__(
        self,
        image_channels: int = 3,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (1,),
        dropout: float = 0.1,
        groups: int = 32,
        patch: int = 1,
        classes: int = 0,
        style: Style = "ho",
        heads: int = 1,
        head_channels: int = 0,
        qkv: Order = "legacy",
        scale_shift: bool = False,
        out_channels: int = 0,
    ):
        super().__init__()
        widths = [channels * m for m in multipliers]
        _check(widths, groups, attention, patch, style, qkv)
        _check_heads([widths[level] for level in sorted({*attention, len(widths) - 1})], heads, head_channels)
        self.channels, self.patch, self.classes, self.style = channels, patch, classes, style
        self.checkpoint_activations = False
        self.stride = patch * 2 ** (len(widths) - 1)
        embedding = 4 * channels

        def layer(inputs: int, wide: int, attends: bool) -> Layer:
            block = ResBlock(inputs, wide, embedding, groups, dropout, style, scale_shift)
            several = heads_at(wide, heads, head_channels)
            return Layer(block, Attention(wide, groups, style, several, qkv) if attends else None)

        self.time = nn.Sequential(
            linear(channels, embedding, style), nn.SiLU(), linear(embedding, embedding, style)
        )
        self.label = nn.Embedding(classes, embedding) if classes else None
        self.conv_in = conv(image_channels * patch**2, channels, style)

        self.down, self.downsample = nn.ModuleList(), nn.ModuleList()
        width, skips = channels, [channels]
        for level, wide in enumerate(widths):
            layers = nn.ModuleList()
            for _ in range(blocks):
                layers.append(layer(width, wide, level in attention))
                width = wide
                skips.append(width)
            self.down.append(layers)
            if level < len(widths) - 1:
                self.downsample.append(Downsample(width, style))
                skips.append(width)

        self.middle1, self.middle2 = layer(width, width, True), layer(width, width, False)

        # `up` and `upsample` are listed as they run: from the coarsest level to the finest.
        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            layers = nn.ModuleList()
            for _ in range(blocks + 1):
                layers.append(layer(width + skips.pop(), widths[level], level in attention))
                width = widths[level]
            self.up.append(layers)
            if level > 0:
                self.upsample.append(Upsample(width, style))

        self.norm_out = norm(width, groups, style)
        # Rows of one picture channel are together, so the first half of 2C channels is the first half of the rows.
        self.conv_out = zero(conv(width, (out_channels or image_channels) * patch**2, style))

    def forward(
        self, x: Float[Tensor, "B C H W"], timestep: Float[Tensor, "B"], label: Int64[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B K H W"]:
        check_size((x.shape[2], x.shape[3]), self.stride)
        emb = self.time(time_embedding(timestep, self.channels, self.style))
        if self.label is not None:
            if label is None:
                raise UserError("this net is class-conditional: it needs a label for every picture")
            emb = emb + self.label(label)
        elif label is not None:
            raise UserError("this net was trained without classes: it takes no label")
        emb = F.silu(emb)

        h = self.conv_in(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        skips = [h]
        for level, layers in enumerate(self.down):
            for layer in layers:  # type: ignore[attr-defined]
                h = self._run(layer, h, emb)
                skips.append(h)
            if level < len(self.downsample):
                h = self.downsample[level](h)
                skips.append(h)
        h = self._run(self.middle2, self._run(self.middle1, h, emb), emb)
        for level, layers in enumerate(self.up):
            for layer in layers:  # type: ignore[attr-defined]
                h = self._run(layer, torch.cat([h, skips.pop()], dim=1), emb)
            if level < len(self.upsample):
                h = self.upsample[level](h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return F.pixel_shuffle(out, self.patch) if self.patch > 1 else out

    def _run(self, layer: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
        """The layer; where activations are checkpointed, only its inputs are kept for the way back."""
        if self.checkpoint_activations and torch.is_grad_enabled():
            out: Tensor = checkpoint(layer, h, emb, use_reentrant=False)
        else:
            out = layer(h, emb)
        return out


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


def _check(widths: Sequence[int], groups: int, attention: Sequence[int], patch: int, style: str, qkv: str) -> None:
    uneven = [width for width in widths if width % groups]
    if uneven:
        raise UserError(
            f"--net.groups {groups}: must divide the width of every level, and one is {uneven[0]} wide; "
            "take a divisor of it"
        )
    if any(not 0 <= level < len(widths) for level in attention):
        raise UserError(f"--net.attention {list(attention)}: this net has the levels 0 to {len(widths) - 1}")
    if patch < 1:
        raise UserError(f"--net.patch {patch}: is at least 1")
    if style not in get_args(Style):
        raise UserError(f"--net.style {style}: takes ho or openai")
    if qkv not in get_args(Order):
        raise UserError(f"--net.qkv {qkv}: takes legacy or split")


def _check_heads(widths: Sequence[int], heads: int, head_channels: int) -> None:
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
