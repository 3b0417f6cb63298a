"""Ho et al. 2020: section 4 and appendix B, and what they leave open from the published code.

Where paper and code disagree the comment says which is taken. All are unconditional: sub-folders are classes only
with `--labels auto`.
"""

from __future__ import annotations

from collections.abc import Callable

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


_HO = "Ho et al. 2020"
ORIGINS = {
    "cifar10": Origin(_HO, "table 1, appendix B", 3.17),
    "celebahq256": Origin(_HO, "appendix B", None),
    "lsun-bedroom256": Origin(_HO, "table 3, appendix B", 6.36),
    "lsun-bedroom256-large": Origin(_HO, "table 3, appendix B", 4.90),
    "lsun-church256": Origin(_HO, "table 3, appendix B", 7.89),
    "lsun-cat256": Origin(_HO, "table 3, appendix B", 19.75),
}

PRESETS: dict[str, Callable[[], Config]] = {
    "cifar10": cifar10,
    "celebahq256": celebahq256,
    "lsun-bedroom256": lsun_bedroom256,
    "lsun-bedroom256-large": lsun_bedroom256_large,
    "lsun-church256": lsun_church256,
    "lsun-cat256": lsun_cat256,
}
