"""The parts of the nets: residual block, self-attention, down- and upsampling, time embedding, attention pooling.

Where they stand is the same in Ho et al.'s net (2020, appendix B) and in OpenAI's (Nichol & Dhariwal 2021,
Dhariwal & Nichol 2021); the style says whose details a part has:

                           ho                                       openai
    initialisation         variance scaling over the mean of fan-   torch's own: uniform, by fan-in
                           in and fan-out, uniform; biases 0
    ε of normalisations    1e-6                                     1e-5
    downsampling pads      below and right                          all around
    time embedding         sin | cos, up to the longest wave        cos | sin, up to one ratio before it

In both the last layer of every residual branch starts at zero, so that a fresh net is shallow.
"""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddpm.nets.winograd import Frozen, convolved, worth

Style = Literal["ho", "openai"]
Order = Literal["legacy", "split"]
Resampling = Literal["none", "down", "up"]
L = TypeVar("L", nn.Conv2d, nn.Linear)


def time_embedding(
    timestep: Float[Tensor, "B"], width: int, style: Style = "ho", longest: float = 10_000.0
) -> Float[Tensor, "B E"]:
    """Sines and cosines of the timestep, wavelengths 2π … 2π·longest in even ratios (Vaswani et al. 2017).

    Ho et al. have the sines first and reach `longest`; OpenAI has the cosines first and stops one ratio before.
    """
    half, log = width // 2, -math.log(longest)
    count = torch.arange(half, device=timestep.device)
    # Each in its own order of operations: at t = 4000 their last bits are 1e-4 of the angle.
    rates = torch.exp(count * (log / (half - 1)) if style == "ho" else count * log / half)
    angle = timestep.float()[:, None] * rates
    waves = [angle.sin(), angle.cos()]
    return torch.cat(waves if style == "ho" else waves[::-1], dim=1)


def initialise(layer: L, style: Style) -> L:
    """The layer with the style's initial weights; torch has just given it its own."""
    if style == "ho":
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return layer


def zero(layer: L) -> L:
    """The layer with weights and biases of zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def conv(
    inputs: int, outputs: int, style: Style, kernel: int = 3, stride: int = 1, padding: int | None = None
) -> nn.Conv2d:
    """A convolution that keeps the size at stride 1."""
    return initialise(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 if padding is None else padding), style
    )


def linear(inputs: int, outputs: int, style: Style) -> nn.Linear:
    """A linear layer."""
    return initialise(nn.Linear(inputs, outputs), style)


def norm(channels: int, groups: int, style: Style) -> nn.GroupNorm:
    """Group normalisation."""
    return nn.GroupNorm(groups, channels, eps=1e-6 if style == "ho" else 1e-5)


def apply(layer: nn.Conv2d | Frozen, x: Float[Tensor, "B C H W"], winograd: bool) -> Float[Tensor, "B K h w"]:
    """layer(x), by Winograd's algorithm where that is allowed and faster."""
    if winograd and isinstance(layer, nn.Conv2d) and worth(x, layer):
        return convolved(x, layer)
    out: Tensor = layer(x)
    return out


def allow_winograd(net: nn.Module) -> None:
    """Lets the net's 3×3 convolutions take the faster way (see `winograd`)."""
    for part in net.modules():
        if isinstance(part, (ResBlock, Upsample)):
            part.winograd = True


def freeze_winograd(net: nn.Module) -> None:
    """The same for a net in float32 whose weights no longer change, to be compiled for a CPU."""
    for part in net.modules():
        if isinstance(part, (ResBlock, Upsample)):
            part.winograd = False
            for name, layer in list(part.named_children()):
                if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                    setattr(part, name, Frozen(layer))


class ResBlock(nn.Module):
    """x + conv(drop(silu(n))), with a 1×1 shortcut where channels change and h = conv(silu(norm(x))) in

    n = norm(h + W·emb)                                 (Ho et al. 2020)
    n = norm(h)·(1 + a) + b,  a | b = W·emb             with scale_shift (Nichol & Dhariwal 2021, appendix A)

    resampling "down" or "up" makes it BigGAN's (Brock et al. 2019; Dhariwal & Nichol 2021, section 3): x, and
    silu(norm(x)) before the convolution, are averaged over cells of 2 x 2, or repeated to fill them.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        groups: int,
        dropout: float,
        style: Style = "ho",
        scale_shift: bool = False,
        resampling: Resampling = "none",
    ):
        super().__init__()
        self.scale_shift, self.resampling, self.winograd = scale_shift, resampling, False
        self.norm1 = norm(inputs, groups, style)
        self.conv1 = conv(inputs, outputs, style)
        self.embed = linear(embedding, 2 * outputs if scale_shift else outputs, style)
        self.norm2 = norm(outputs, groups, style)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(conv(outputs, outputs, style))
        self.shortcut = conv(inputs, outputs, style, kernel=1) if inputs != outputs else nn.Identity()

    def forward(self, x: Float[Tensor, "B C H W"], emb: Float[Tensor, "B E"]) -> Float[Tensor, "B K h w"]:
        """emb has been through SiLU once for all blocks."""
        h = apply(self.conv1, self._resampled(F.silu(self.norm1(x))), self.winograd)
        by_time = self.embed(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = by_time.chunk(2, dim=1)
            h = self.norm2(h) * (1.0 + scale) + shift
        else:
            h = self.norm2(h + by_time)
        h = apply(self.conv2, self.dropout(F.silu(h)), self.winograd)
        out: Tensor = self.shortcut(self._resampled(x)) + h
        return out

    def _resampled(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        if self.resampling == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.resampling == "up" else x


class Attention(nn.Module):
    """Self-attention over all places of the picture, each head over its own channels (Vaswani et al. 2017).

    order: what the 3·C outputs of `qkv` are: "legacy" has q, k and v of the first head, then of the next, as
    OpenAI's published weights; "split" has q of all heads, then k, then v. With one head they are the same.
    """

    def __init__(self, channels: int, groups: int, style: Style = "ho", heads: int = 1, order: Order = "legacy"):
        super().__init__()
        self.heads, self.order = heads, order
        self.norm = norm(channels, groups, style)
        self.qkv = linear(channels, 3 * channels, style)
        if style == "ho":
            # q, k and v are three layers to the initialisation, one to the processor.
            for part in self.qkv.weight.data.chunk(3):
                nn.init.xavier_uniform_(part)
        self.out = zero(linear(channels, channels, style))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        h = self.out(attend(self.qkv(self.norm(x).flatten(2).transpose(1, 2)), self.heads, self.order))
        out: Tensor = x + h.transpose(1, 2).reshape(x.shape)
        return out


def attend(qkv: Float[Tensor, "B N C3"], heads: int, order: Order) -> Float[Tensor, "B N C"]:
    """What N places make of each other: softmax(q·k/√(C/heads))·v of each head; C3 is 3·C."""
    if order == "legacy":
        parts = qkv.view(*qkv.shape[:2], heads, 3, -1).permute(3, 0, 2, 1, 4)
    else:
        parts = qkv.view(*qkv.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = parts.unbind(0)  # each [B, heads, N, C/heads]
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class AttentionPool(nn.Module):
    """What the mean of all places attends to, as one vector (Radford et al. 2021; Dhariwal & Nichol 2021, 4.1).

    Places have an embedding each, so the picture's size is fixed. The order of qkv is "split".
    """

    def __init__(self, channels: int, places: int, heads: int, outputs: int, style: Style = "openai"):
        super().__init__()
        self.heads = heads
        self.position = nn.Parameter(torch.randn(places + 1, channels) / channels**0.5)
        self.qkv = linear(channels, 3 * channels, style)
        self.out = linear(channels, outputs, style)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        places = x.flatten(2).transpose(1, 2)
        places = torch.cat([places.mean(1, keepdim=True), places], dim=1) + self.position
        out: Tensor = self.out(attend(self.qkv(places), self.heads, "split")[:, 0])
        return out


class Downsample(nn.Module):
    """Halves the picture by a strided convolution, padded below and right (TensorFlow's SAME) or all around."""

    def __init__(self, channels: int, style: Style = "ho"):
        super().__init__()
        self.uneven = style == "ho"
        self.conv = conv(channels, channels, style, stride=2, padding=0 if self.uneven else 1)

    def forward(self, x: Float[Tensor, "B C H W"], emb: Float[Tensor, "B E"]) -> Float[Tensor, "B C h w"]:
        """emb is what a residual block in its place would take."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)) if self.uneven else x)
        return out


class Upsample(nn.Module):
    """Doubles the picture by repeating its pixels, then convolves."""

    def __init__(self, channels: int, style: Style = "ho"):
        super().__init__()
        self.conv = conv(channels, channels, style)
        self.winograd = False

    def forward(self, x: Float[Tensor, "B C H W"], emb: Float[Tensor, "B E"]) -> Float[Tensor, "B C h w"]:
        """emb is what a residual block in its place would take."""
        return apply(self.conv, F.interpolate(x, scale_factor=2.0, mode="nearest"), self.winograd)
