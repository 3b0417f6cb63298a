"""Nichol & Dhariwal 2021: sections 3 and 5 and appendix A, and what they leave open from the published flags.

Unless said otherwise they are unconditional: sub-folders are classes only with `--labels auto`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

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
from ddpm.presets.origin import Origin

_Variance = Literal["large", "learned_range"]


def iddpm_cifar10_simple() -> Config:
    """Nichol & Dhariwal 2021, CIFAR-10, L_simple and fixed variances: 52.5M parameters, FID 3.05."""
    return _iddpm_cifar10("large", LossConfig())


def iddpm_cifar10_hybrid() -> Config:
    """Nichol & Dhariwal 2021, CIFAR-10, L_hybrid: 52.5M parameters, FID 3.19 and 3.17 bits/dim."""
    return _iddpm_cifar10("learned_range", LossConfig("hybrid"))


def iddpm_cifar10_vlb() -> Config:
    """Nichol & Dhariwal 2021, CIFAR-10, L_vlb: 52.5M parameters, FID 11.47 and 2.94 bits/dim."""
    return _iddpm_cifar10("learned_range", LossConfig("vlb", times="loss-second-moment"))


def iddpm_imagenet64_simple() -> Config:
    """Nichol & Dhariwal 2021, ImageNet 64 x 64, L_simple and fixed variances: 121M parameters."""
    # The paper trains this one for 200,000 steps; the steps are those of the other two, to be compared with.
    return _iddpm_imagenet64("large", LossConfig())


def iddpm_imagenet64_hybrid() -> Config:
    """Nichol & Dhariwal 2021, ImageNet 64 x 64, L_hybrid: 121M parameters, FID 19.20 and 3.57 bits/dim."""
    return _iddpm_imagenet64("learned_range", LossConfig("hybrid"))


def iddpm_imagenet64_vlb() -> Config:
    """Nichol & Dhariwal 2021, ImageNet 64 x 64, L_vlb: 121M parameters, FID 40.10 and 3.53 bits/dim."""
    return _iddpm_imagenet64("learned_range", LossConfig("vlb", times="loss-second-moment"))


def iddpm_imagenet64_cond() -> Config:
    """Nichol & Dhariwal 2021, ImageNet 64 x 64 by class, L_hybrid: 273M parameters, FID 2.92 in 250 steps."""
    # The published flags are taken, not the paper's λ = 0.001: they leave the variational term of each sampled
    # level as it is, which is 1/T of the sum of T terms. They also leave the timesteps as they are.
    return _iddpm(
        DataConfig(size=(64, 64), flip=False),
        _net(192, (1, 2, 3, 4), attention=(2, 3)),
        "learned_range",
        LossConfig("hybrid", vlb_weight=1 / 4000),
        TrainConfig(steps=250_000, batch=2048),
        rate=3e-4,
        chain=ChainConfig("cosine", 4000),
    )


def iddpm_imagenet256_upsampler() -> Config:
    """Nichol & Dhariwal 2021, ImageNet 64 x 64 to 256 x 256 by class, L_hybrid: 280M parameters."""
    return _iddpm(
        DataConfig(size=(256, 256), flip=False, low_size=(64, 64)),
        _net(192, (1, 1, 2, 2, 4, 4), attention=(4, 5), blocks=2),
        "learned_range",
        LossConfig("hybrid", vlb_weight=1 / 4000),
        TrainConfig(steps=500_000, batch=256, task="upsampler"),
        rate=3e-4,
        chain=ChainConfig("linear", 4000),
    )


def iddpm_lsun_bedroom256() -> Config:
    """Nichol & Dhariwal 2021, LSUN Bedroom 256 x 256, L_hybrid: 114M parameters, 1.2M steps of 128."""
    # Published once more, trained at a rate of 2e-5 for 2.4M steps: of 64 by the file's name, of 128 by its flags.
    return _iddpm(
        DataConfig(size=(256, 256), labels="none", flip=False),
        _net(128, (1, 1, 2, 2, 4, 4), attention=(4,), blocks=2, heads=1, scale_shift=False),
        "learned_range",
        LossConfig("hybrid", vlb_weight=1 / 1000),
        TrainConfig(steps=1_200_000, batch=128),
        chain=ChainConfig("linear", 1000),
    )


def _iddpm_cifar10(variance: _Variance, loss: LossConfig) -> Config:
    # The paper's dropout for the linear schedule is 0.1.
    return _iddpm(
        DataConfig(size=(32, 32), labels="none", flip=False),
        _net(128, (1, 2, 2, 2), attention=(1, 2), dropout=0.3),
        variance,
        loss,
        TrainConfig(steps=500_000, batch=128),
    )


def _iddpm_imagenet64(variance: _Variance, loss: LossConfig) -> Config:
    return _iddpm(
        DataConfig(size=(64, 64), labels="none", flip=False),
        _net(128, (1, 2, 3, 4), attention=(2, 3)),
        variance,
        loss,
        TrainConfig(steps=1_500_000, batch=128),
    )


def _net(
    channels: int,
    multipliers: tuple[int, ...],
    attention: tuple[int, ...],
    dropout: float = 0.0,
    blocks: int = 3,
    heads: int = 4,
    scale_shift: bool = True,
) -> NetConfig:
    return NetConfig(
        channels,
        multipliers,
        blocks,
        attention,
        dropout,
        style="openai",
        heads=heads,
        qkv="legacy",
        scale_shift=scale_shift,
    )


def _iddpm(
    data: DataConfig,
    net: NetConfig,
    variance: _Variance,
    loss: LossConfig,
    train: TrainConfig,
    rate: float = 1e-4,
    chain: ChainConfig = ChainConfig("cosine", 4000, rescale=True),
) -> Config:
    # The published code mirrors no pictures, warms nothing up and leaves gradients as they are.
    return Config(
        data,
        net,
        chain,
        DenoiserConfig("eps", variance),
        loss,
        OptimizerConfig(lr=rate, warmup=0, clip=0.0, ema=0.9999),
        train,
    )


_ND = "Nichol & Dhariwal 2021"
ORIGINS = {
    "iddpm-cifar10-simple": Origin(_ND, "table 2", 3.05),
    "iddpm-cifar10-hybrid": Origin(_ND, "table 2", 3.19),
    "iddpm-cifar10-vlb": Origin(_ND, "table 2", 11.47),
    "iddpm-imagenet64-simple": Origin(_ND, "table 1", None),
    "iddpm-imagenet64-hybrid": Origin(_ND, "table 1", 19.2, 10_000),
    "iddpm-imagenet64-vlb": Origin(_ND, "table 1", 40.1, 10_000),
    "iddpm-imagenet64-cond": Origin(_ND, "table 4", 2.92, classes=1000),
    "iddpm-imagenet256-upsampler": Origin(_ND, "published flags", None, classes=1000),
    "iddpm-lsun-bedroom256": Origin(_ND, "published flags", None),
}

PRESETS: dict[str, Callable[[], Config]] = {
    "iddpm-cifar10-simple": iddpm_cifar10_simple,
    "iddpm-cifar10-hybrid": iddpm_cifar10_hybrid,
    "iddpm-cifar10-vlb": iddpm_cifar10_vlb,
    "iddpm-imagenet64-simple": iddpm_imagenet64_simple,
    "iddpm-imagenet64-hybrid": iddpm_imagenet64_hybrid,
    "iddpm-imagenet64-vlb": iddpm_imagenet64_vlb,
    "iddpm-imagenet64-cond": iddpm_imagenet64_cond,
    "iddpm-imagenet256-upsampler": iddpm_imagenet256_upsampler,
    "iddpm-lsun-bedroom256": iddpm_lsun_bedroom256,
}
