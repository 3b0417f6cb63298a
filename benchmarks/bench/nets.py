"""The two nets that are compared, ours and diffusers' with the same weights; and what they cost."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ddpm.build import build_net
from ddpm.config import Config, DataConfig, NetConfig
from ddpm.presets import preset

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PAPER, SMALL = "the paper's CIFAR-10 net", "a small 28 × 28 net"


def config(name: str) -> Config:
    """Ho et al.'s net of 35.7M parameters on 3 × 32 × 32, or one of 1.1M on 1 × 28 × 28."""
    if name == PAPER:
        return preset("cifar10")
    return Config(
        DataConfig(size=(28, 28), channels=1, labels="none"),
        NetConfig(32, (1, 2), 2, attention=(1,), dropout=0.0, groups=8),
    ).with_(train__steps=1000)


def ours(name: str) -> nn.Module:
    net: nn.Module = build_net(config(name), 0).to(DEVICE, memory_format=torch.channels_last)
    return net


def theirs(name: str) -> Any:
    """diffusers' UNet2DModel of the same layers."""
    from diffusers import UNet2DModel

    made = config(name)
    count = len(made.net.multipliers)
    attends = ["Attn" if k in made.net.attention else "" for k in range(count)]
    net = UNet2DModel(
        sample_size=made.data.size[0],
        in_channels=made.data.channels,
        out_channels=made.data.channels,
        block_out_channels=tuple(made.net.channels * m for m in made.net.multipliers),
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in attends),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(attends)),
        layers_per_block=made.net.blocks,
        norm_num_groups=made.net.groups,
        dropout=made.net.dropout,
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
    )
    return net.to(DEVICE)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def flops(name: str, backward: bool) -> int:
    """Floating-point operations of the net's layers for one picture: two a multiplication and addition.

    Counted on the layers as they are written, whatever algorithm computes them.
    """
    made = config(name)
    with torch.device("meta"):
        net = build_net(made, 0)
        x, t = torch.zeros(1, made.data.channels, *made.data.size), torch.zeros(1)
    with FlopCounterMode(display=False) as counter:
        out: Tensor = net(x, t)
        if backward:
            out.sum().backward()
    return int(counter.get_total_flops())


class Product:
    """A large matrix product: what the machine can do at most."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        n = 8192 if DEVICE.type == "cuda" else 2048
        self.a, self.b = (torch.randn(n, n, device=DEVICE).to(dtype) for _ in range(2))
        self.flops = 2 * n**3

    def __call__(self) -> None:
        torch.mm(self.a, self.b)
