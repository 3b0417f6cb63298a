"""The papers' settings, as functions that return a config.

Ho et al. 2020, section 4 and appendix B; Nichol & Dhariwal 2021, sections 3 and 5 and appendix A; what they leave
open from the published code and its flags. Where paper and code disagree the comment says which is taken. All but
one are unconditional: sub-folders are classes only with `--labels auto`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
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
from ddpm.errors import UserError

_Variance = Literal["large", "learned_range"]


def cifar10() -> Config:
    """Ho et al. 2020, CIFAR-10: 35.7M parameters, FID 3.17 after 800,000 steps of 128."""
    return Config(
        DataConfig(size=(32, 32), labels="none", flip=True),
        NetConfig(128, (1, 2, 2, 2), 2, attention=(1,), dropout=0.1),
        ChainConfig("linear", 1000),
        DenoiserConfig("eps", "large"),
        LossConfig(),
        OptimizerConfig(lr=2e-4, warmup=5000, ema=0.9999),
        TrainConfig(steps=800_000, batch=128),
    )


def celebahq256() -> Config:
    """Ho et al. 2020, CelebA-HQ 256 x 256: 114M parameters, 500,000 steps of 64."""
    return _ho256(steps=500_000)


def lsun_bedroom256() -> Config:
    """Ho et al. 2020, LSUN Bedroom 256 x 256: 114M parameters, FID 6.36 after 2.4M steps of 64."""
    # The paper says that Bedroom is trained without flips; the script's own comment passes --randflip 0 for Cat.
    return _ho256(steps=2_400_000, flip=False)


def lsun_bedroom256_large() -> Config:
    """Ho et al. 2020, LSUN Bedroom 256 x 256, large: 256M parameters, FID 4.90 after 1.15M steps of 64."""
    return _ho256(steps=1_150_000, channels=192, flip=False)


def lsun_church256() -> Config:
    """Ho et al. 2020, LSUN Church 256 x 256: 114M parameters, FID 7.89 after 1.2M steps of 64."""
    return _ho256(steps=1_200_000)


def lsun_cat256() -> Config:
    """Ho et al. 2020, LSUN Cat 256 x 256: 114M parameters, FID 19.75 after 1.8M steps of 64."""
    return _ho256(steps=1_800_000)


def _ho256(steps: int, channels: int = 128, flip: bool = True) -> Config:
    # "small": the published LSUN code's fixedsmall; CIFAR-10's is fixedlarge.
    return Config(
        DataConfig(size=(256, 256), labels="none", flip=flip),
        NetConfig(channels, (1, 1, 2, 2, 4, 4), 2, attention=(4,), dropout=0.0),
        ChainConfig("linear", 1000),
        DenoiserConfig("eps", "small"),
        LossConfig(),
        OptimizerConfig(lr=2e-5, warmup=5000, ema=0.9999),
        TrainConfig(steps=steps, batch=64),
    )


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
        NetConfig(192, (1, 2, 3, 4), attention=(2, 3), dropout=0.0),
        "learned_range",
        LossConfig("hybrid", vlb_weight=1 / 4000),
        TrainConfig(steps=250_000, batch=2048),
        rate=3e-4,
        rescale=False,
    )


def _iddpm_cifar10(variance: _Variance, loss: LossConfig) -> Config:
    # The paper's dropout for the linear schedule is 0.1.
    return _iddpm(
        DataConfig(size=(32, 32), labels="none", flip=False),
        NetConfig(128, (1, 2, 2, 2), attention=(1, 2), dropout=0.3),
        variance,
        loss,
        TrainConfig(steps=500_000, batch=128),
    )


def _iddpm_imagenet64(variance: _Variance, loss: LossConfig) -> Config:
    return _iddpm(
        DataConfig(size=(64, 64), labels="none", flip=False),
        NetConfig(128, (1, 2, 3, 4), attention=(2, 3), dropout=0.0),
        variance,
        loss,
        TrainConfig(steps=1_500_000, batch=128),
    )


def _iddpm(
    data: DataConfig,
    net: NetConfig,
    variance: _Variance,
    loss: LossConfig,
    train: TrainConfig,
    rate: float = 1e-4,
    rescale: bool = True,
) -> Config:
    # The published code mirrors no pictures, warms nothing up and leaves gradients as they are.
    return Config(
        data,
        dataclasses.replace(net, blocks=3, style="openai", heads=4, qkv="legacy", scale_shift=True),
        ChainConfig("cosine", 4000, rescale=rescale),
        DenoiserConfig("eps", variance),
        loss,
        OptimizerConfig(lr=rate, warmup=0, clip=0.0, ema=0.9999),
        train,
    )


@dataclass(frozen=True)
class Origin:
    """Where a preset comes from: the paper, the place in it, and the FID it reports, None without one.

    samples: how many the FID is of. classes: those of the paper's data, 0 for an unconditional model.
    """

    paper: str
    where: str
    fid: float | None
    samples: int = 50_000
    classes: int = 0


_HO = "Ho et al. 2020"
_ND = "Nichol & Dhariwal 2021"
ORIGINS: dict[str, Origin] = {
    "cifar10": Origin(_HO, "table 1, appendix B", 3.17),
    "celebahq256": Origin(_HO, "appendix B", None),
    "lsun-bedroom256": Origin(_HO, "table 3, appendix B", 6.36),
    "lsun-bedroom256-large": Origin(_HO, "table 3, appendix B", 4.90),
    "lsun-church256": Origin(_HO, "table 3, appendix B", 7.89),
    "lsun-cat256": Origin(_HO, "table 3, appendix B", 19.75),
    "iddpm-cifar10-simple": Origin(_ND, "table 2", 3.05),
    "iddpm-cifar10-hybrid": Origin(_ND, "table 2", 3.19),
    "iddpm-cifar10-vlb": Origin(_ND, "table 2", 11.47),
    "iddpm-imagenet64-simple": Origin(_ND, "table 1", None),
    "iddpm-imagenet64-hybrid": Origin(_ND, "table 1", 19.2, 10_000),
    "iddpm-imagenet64-vlb": Origin(_ND, "table 1", 40.1, 10_000),
    "iddpm-imagenet64-cond": Origin(_ND, "table 4", 2.92, classes=1000),
}
"""Every preset's."""

PRESETS: dict[str, Callable[[], Config]] = {
    "cifar10": cifar10,
    "celebahq256": celebahq256,
    "lsun-bedroom256": lsun_bedroom256,
    "lsun-bedroom256-large": lsun_bedroom256_large,
    "lsun-church256": lsun_church256,
    "lsun-cat256": lsun_cat256,
    "iddpm-cifar10-simple": iddpm_cifar10_simple,
    "iddpm-cifar10-hybrid": iddpm_cifar10_hybrid,
    "iddpm-cifar10-vlb": iddpm_cifar10_vlb,
    "iddpm-imagenet64-simple": iddpm_imagenet64_simple,
    "iddpm-imagenet64-hybrid": iddpm_imagenet64_hybrid,
    "iddpm-imagenet64-vlb": iddpm_imagenet64_vlb,
    "iddpm-imagenet64-cond": iddpm_imagenet64_cond,
}


def preset(name: str) -> Config:
    """The config of a name."""
    if name not in PRESETS:
        raise UserError(f"--preset {name}: there are {', '.join(PRESETS)}")
    return PRESETS[name]()
