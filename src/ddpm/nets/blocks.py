"""The parts of the U-Net: residual block, self-attention, down- and upsampling, time embedding.

All of them are Ho et al.'s (2020, appendix B), with their initialisation: variance scaling over the mean of
fan-in and fan-out, uniform, and zero for the last layer of every residual branch, so that a fresh net is
shallow. The options other nets need are added to these, not beside them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def time_embedding(timestep: Float[Tensor, "B"], width: int, longest: float = 10_000.0) -> Float[Tensor, "B E"]:
    """Sines then cosines of the timestep, wavelengths 2π … 2π·longest in even ratios (Vaswani et al. 2017)."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=timestep.device) * (-math.log(longest) / (half - 1)))
    angle = timestep.float()[:, None] * rates
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def initialise(layer: nn.Module, zero: bool = False) -> None:
    """Ho et al.'s initialisation of one convolution or linear layer."""
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    if zero:
        nn.init.zeros_(layer.weight)
    else:
        nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: int | None = None) -> nn.Conv2d:
    """A convolution that keeps the size at stride 1."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 if padding is None else padding)
    initialise(layer)
    return layer


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer."""
    layer = nn.Linear(inputs, outputs)
    initialise(layer)
    return layer


def norm(channels: int, groups: int) -> nn.GroupNorm:
    """Group normalisation with Ho et al.'s ε of 1e-6."""
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResBlock(nn.Module):
    """x + conv(drop(silu(norm(conv(silu(norm(x))) + W·emb)))), with a 1×1 shortcut where channels change."""

    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int, dropout: float):
        super().__init__()
        self.norm1 = norm(inputs, groups)
        self.conv1 = conv(inputs, outputs)
        self.embed = linear(embedding, outputs)
        self.norm2 = norm(outputs, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(outputs, outputs)
        initialise(self.conv2, zero=True)
        self.shortcut = conv(inputs, outputs, kernel=1) if inputs != outputs else nn.Identity()

    def forward(self, x: Float[Tensor, "B C H W"], emb: Float[Tensor, "B E"]) -> Float[Tensor, "B K H W"]:
        """emb has been through SiLU once for all blocks."""
        h = self.conv1(F.silu(self.norm1(x))) + self.embed(emb)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        out: Tensor = self.shortcut(x) + h
        return out


class Attention(nn.Module):
    """Self-attention over all places of the picture, one head (Ho et al. 2020, appendix B)."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = norm(channels, groups)
        self.qkv = linear(channels, 3 * channels)
        # q, k and v are three layers to the initialisation, one to the processor.
        for part in self.qkv.weight.data.chunk(3):
            nn.init.xavier_uniform_(part)
        self.out = linear(channels, channels)
        initialise(self.out, zero=True)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        places = self.norm(x).flatten(2).transpose(1, 2)  # [B, H·W, C]
        q, k, v = self.qkv(places).unsqueeze(1).chunk(3, dim=-1)
        h = self.out(F.scaled_dot_product_attention(q, k, v).squeeze(1))
        out: Tensor = x + h.transpose(1, 2).reshape(x.shape)
        return out


class Downsample(nn.Module):
    """Halves the picture by a strided convolution, padded below and right (TensorFlow's SAME at stride 2)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv(channels, channels, stride=2, padding=0)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Doubles the picture by repeating its pixels, then convolves."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv(channels, channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out
