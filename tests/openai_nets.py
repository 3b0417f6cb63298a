"""OpenAI's nets without modules: the keys and shapes of a state, and what it computes, from their definition.

Written after guided-diffusion's unet.py in plain functions of tensors, sharing nothing with ddpm.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Net(NamedTuple):
    """The arguments of UNetModel, SuperResModel and EncoderUNetModel; pool: places a side of the classifier's."""

    channels: int
    mult: tuple[float, ...]
    blocks: int
    levels: tuple[int, ...]  # with attention
    into: int = 3
    out: int = 3
    classes: int = 0
    heads: int = 4
    head_channels: int = 0
    split: bool = False
    scale_shift: bool = True
    updown: bool = True
    pool: int = 0
    upsampler: bool = False


def blueprint(net: Net) -> dict[str, tuple[int, ...]]:
    """The shape of each entry of the state dict, in its order."""
    shapes: dict[str, tuple[int, ...]] = {}
    emb = 4 * net.channels

    def entry(key: str, *weight: int) -> None:
        shapes[f"{key}.weight"] = weight
        shapes[f"{key}.bias"] = weight[:1]

    def res(key: str, into: int, out: int) -> None:
        entry(f"{key}.in_layers.0", into)
        entry(f"{key}.in_layers.2", out, into, 3, 3)
        entry(f"{key}.emb_layers.1", 2 * out if net.scale_shift else out, emb)
        entry(f"{key}.out_layers.0", out)
        entry(f"{key}.out_layers.3", out, out, 3, 3)
        if into != out:
            entry(f"{key}.skip_connection", out, into, 1, 1)

    def attention(key: str, width: int) -> None:
        entry(f"{key}.norm", width)
        entry(f"{key}.qkv", 3 * width, width, 1)
        entry(f"{key}.proj_out", width, width, 1)

    entry("time_embed.0", emb, net.channels)
    entry("time_embed.2", emb, emb)
    if net.classes:
        shapes["label_emb.weight"] = (net.classes, emb)
    width = first = int(net.channels * net.mult[0])
    entry("input_blocks.0.0", width, net.into, 3, 3)
    kept, n = [width], 0
    for level, multiple in enumerate(net.mult):
        for _ in range(net.blocks):
            n += 1
            res(f"input_blocks.{n}.0", width, int(net.channels * multiple))
            width = int(net.channels * multiple)
            if level in net.levels:
                attention(f"input_blocks.{n}.1", width)
            kept.append(width)
        if level + 1 < len(net.mult):
            n += 1
            if net.updown:
                res(f"input_blocks.{n}.0", width, width)
            else:
                entry(f"input_blocks.{n}.0.op", width, width, 3, 3)
            kept.append(width)
    res("middle_block.0", width, width)
    attention("middle_block.1", width)
    res("middle_block.2", width, width)
    if net.pool:
        entry("out.0", width)
        shapes["out.2.positional_embedding"] = (width, net.pool**2 + 1)
        entry("out.2.qkv_proj", 3 * width, width, 1)
        entry("out.2.c_proj", net.out, width, 1)
        return shapes
    n = -1
    for level in reversed(range(len(net.mult))):
        for i in range(net.blocks + 1):
            n += 1
            out = int(net.channels * net.mult[level])
            res(f"output_blocks.{n}.0", width + kept.pop(), out)
            width, part = out, 1
            if level in net.levels:
                attention(f"output_blocks.{n}.1", width)
                part = 2
            if level > 0 and i == net.blocks:
                if net.updown:
                    res(f"output_blocks.{n}.{part}", width, width)
                else:
                    entry(f"output_blocks.{n}.{part}.conv", width, width, 3, 3)
    entry("out.0", width)
    entry("out.2", net.out, first, 3, 3)
    return shapes


def random_state(net: Net, seed: int = 0) -> dict[str, Tensor]:
    """Weights that keep the features' size and make attention attend; no entry is zero."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in blueprint(net).items():
        value = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            value = 0.1 * value + (1.0 if key.endswith("weight") else 0.0)
        elif "embedding" not in key and not key.startswith("label"):
            gain = 0.4 if "out_layers" in key or "emb" in key else 1.0  # else rounding errors grow
            value = gain * value / math.sqrt(math.prod(shape[1:]))
        state[key] = value
    return state


def attend(qkv: Tensor, heads: int, split: bool) -> Tensor:
    """[B, 3C, N] → [B, C, N], one head after another."""
    width = qkv.shape[1] // 3
    c = width // heads
    drawn = []
    for head in range(heads):
        at = [i * width + head * c for i in range(3)] if split else [head * 3 * c + i * c for i in range(3)]
        q, k, v = (qkv[:, start : start + c] for start in at)
        weights = torch.einsum("bct,bcs->bts", q, k) / math.sqrt(c)
        drawn.append(torch.einsum("bts,bcs->bct", weights.softmax(2), v))
    return torch.cat(drawn, 1)


def outputs(
    state: dict[str, Tensor],
    net: Net,
    x: Tensor,
    timestep: Tensor,
    label: Tensor | None = None,
    low: Tensor | None = None,
) -> Tensor:
    """What their net computes."""

    def conv(key: str, x: Tensor, **options: int) -> Tensor:
        weight = state[f"{key}.weight"]
        return F.conv2d(x, weight, state[f"{key}.bias"], padding=weight.shape[-1] // 2, **options)

    def conv1d(key: str, x: Tensor) -> Tensor:
        return F.conv1d(x, state[f"{key}.weight"], state[f"{key}.bias"])

    def linear(key: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{key}.weight"], state[f"{key}.bias"])

    def norm(key: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 32, state[f"{key}.weight"], state[f"{key}.bias"])

    def double(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def res(key: str, x: Tensor, resample=lambda x: x) -> Tensor:
        h = conv(f"{key}.in_layers.2", resample(F.silu(norm(f"{key}.in_layers.0", x))))
        x = resample(x)
        by_time = linear(f"{key}.emb_layers.1", F.silu(emb))[:, :, None, None]
        if net.scale_shift:
            scale, shift = by_time.chunk(2, 1)
            h = norm(f"{key}.out_layers.0", h) * (1 + scale) + shift
        else:
            h = norm(f"{key}.out_layers.0", h + by_time)
        h = conv(f"{key}.out_layers.3", F.silu(h))
        return (conv(f"{key}.skip_connection", x) if f"{key}.skip_connection.weight" in state else x) + h

    def heads(width: int) -> int:
        return width // net.head_channels if net.head_channels else net.heads

    def attention(key: str, x: Tensor) -> Tensor:
        h = attend(conv1d(f"{key}.qkv", norm(f"{key}.norm", x).flatten(2)), heads(x.shape[1]), net.split)
        return x + conv1d(f"{key}.proj_out", h).view(x.shape)

    half = net.channels // 2  # in float32 and in their order of operations, which t = 999 makes visible
    rates = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32) / half)
    angles = timestep[:, None] * rates
    emb = linear("time_embed.2", F.silu(linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], 1))))
    if label is not None:
        emb = emb + state["label_emb.weight"][label]
    if low is not None:
        x = torch.cat([x, F.interpolate(low, x.shape[2:], mode="bilinear")], 1)

    h = conv("input_blocks.0.0", x)
    kept, n = [h], 0
    for level in range(len(net.mult)):
        for _ in range(net.blocks):
            n += 1
            h = res(f"input_blocks.{n}.0", h)
            if level in net.levels:
                h = attention(f"input_blocks.{n}.1", h)
            kept.append(h)
        if level + 1 < len(net.mult):
            n += 1
            if net.updown:
                h = res(f"input_blocks.{n}.0", h, lambda x: F.avg_pool2d(x, 2))
            else:
                h = conv(f"input_blocks.{n}.0.op", h, stride=2)
            kept.append(h)
    h = res("middle_block.2", attention("middle_block.1", res("middle_block.0", h)))
    if net.pool:
        h = F.silu(norm("out.0", h)).flatten(2)
        h = torch.cat([h.mean(2, keepdim=True), h], 2) + state["out.2.positional_embedding"]
        # their pool splits q, k and v before the heads, whatever the blocks do
        h = attend(conv1d("out.2.qkv_proj", h), h.shape[1] // net.head_channels, True)
        return conv1d("out.2.c_proj", h)[:, :, 0]
    n = -1
    for level in reversed(range(len(net.mult))):
        for i in range(net.blocks + 1):
            n += 1
            h = res(f"output_blocks.{n}.0", torch.cat([h, kept.pop()], 1))
            part = 1
            if level in net.levels:
                h, part = attention(f"output_blocks.{n}.1", h), 2
            if level > 0 and i == net.blocks:
                if net.updown:
                    h = res(f"output_blocks.{n}.{part}", h, double)
                else:
                    h = conv(f"output_blocks.{n}.{part}.conv", double(h))
    return conv("out.2", F.silu(norm("out.0", h)))
