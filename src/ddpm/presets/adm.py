"""Dhariwal & Nichol 2021, ADM: models of pictures, upsamplers, and classifiers of noisy pictures that guide them.

Section 3 and appendix I, and what they leave open from the published code and flags. FIDs are those without
guidance. LSUN's and `adm_imagenet256_uncond` are unconditional: sub-folders are classes only with `--labels auto`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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

_MULTIPLIERS: dict[int, tuple[int | float, ...]] = {
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}


def adm_lsun_bedroom256() -> Config:
    """Dhariwal & Nichol 2021, LSUN Bedroom 256 x 256: 553M parameters, FID 1.90 after 500,000 steps of 256."""
    return _unlabelled(_image(256, steps=500_000, dropout=0.1))


def adm_lsun_cat256() -> Config:
    """Dhariwal & Nichol 2021, LSUN Cat 256 x 256: 553M parameters, FID 5.57 after 200,000 steps of 256."""
    return _unlabelled(_image(256, steps=200_000, dropout=0.1))


def adm_lsun_horse256() -> Config:
    """Dhariwal & Nichol 2021, LSUN Horse 256 x 256: 553M parameters, FID 2.57 after 250,000 steps of 256."""
    return _unlabelled(_image(256, steps=250_000, dropout=0.1))


def adm_lsun_horse256_nodropout() -> Config:
    """Dhariwal & Nichol 2021, LSUN Horse 256 x 256 without dropout: 553M parameters, FID 2.95."""
    return _unlabelled(_image(256, steps=250_000))


def adm_imagenet64() -> Config:
    """Dhariwal & Nichol 2021, ImageNet 64 x 64 by class: 296M parameters, FID 2.07 after 540,000 steps of 2048."""
    # The only one of the published models with the newer order of attention's channels.
    made = _image(64, steps=540_000, batch=2048, rate=3e-4, channels=192, blocks=3, dropout=0.1)
    return made.with_(net__qkv="split", chain__schedule="cosine")


def adm_imagenet128() -> Config:
    """Dhariwal & Nichol 2021, ImageNet 128 x 128 by class: 422M parameters, FID 5.91 after 4.36M steps of 256."""
    return _image(128, steps=4_360_000).with_(net__heads=4, net__head_channels=0)


def adm_imagenet256() -> Config:
    """Dhariwal & Nichol 2021, ImageNet 256 x 256 by class: 554M parameters, FID 10.94 after 1.98M steps of 256."""
    return _image(256, steps=1_980_000)


def adm_imagenet256_uncond() -> Config:
    """Dhariwal & Nichol 2021, ImageNet 256 x 256 without classes: 553M parameters, FID 26.21."""
    # As long as the one by class: the paper says about 2M steps of both.
    return _unlabelled(_image(256, steps=1_980_000))


def adm_imagenet512() -> Config:
    """Dhariwal & Nichol 2021, ImageNet 512 x 512 by class: 559M parameters, FID 23.24 after 1.94M steps of 256."""
    return _image(512, steps=1_940_000)


def adm_imagenet256_upsampler() -> Config:
    """Dhariwal & Nichol 2021, ImageNet 64 x 64 to 256 x 256: 312M parameters, FID 7.49 with adm-imagenet64."""
    made = _image(256, steps=500_000, channels=192).with_(net__heads=4, net__head_channels=0)
    return _upsampler(made, small=64)


def adm_imagenet512_upsampler() -> Config:
    """Dhariwal & Nichol 2021, ImageNet 128 x 128 to 512 x 512: 309M parameters, FID 9.96 with adm-imagenet128."""
    # The net for 256, whose coarsest level has 16 places a side here.
    made = _image(512, steps=1_050_000, channels=192).with_(net__multipliers=_MULTIPLIERS[256])
    return _upsampler(made.with_(net__attention=_at(512, 32, 16)), small=128)


def adm_imagenet64_classifier() -> Config:
    """Dhariwal & Nichol 2021, classifier of noisy ImageNet 64 x 64: 65M parameters, 300,000 steps of 1024."""
    made = _classifier(64, 300_000, blocks=4, batch=1024, rate=6e-4, weight_decay=0.2)
    return made.with_(chain__schedule="cosine")  # as the model it guides


def adm_imagenet128_classifier() -> Config:
    """Dhariwal & Nichol 2021, classifier of noisy ImageNet 128 x 128: 43M parameters, 300,000 steps of 256."""
    return _classifier(128, 300_000)


def adm_imagenet256_classifier() -> Config:
    """Dhariwal & Nichol 2021, classifier of noisy ImageNet 256 x 256: 54M parameters, 500,000 steps of 256."""
    return _classifier(256, 500_000)


def adm_imagenet512_classifier() -> Config:
    """Dhariwal & Nichol 2021, classifier of noisy ImageNet 512 x 512: 54M parameters, 500,000 steps of 256."""
    return _classifier(512, 500_000)


def _image(
    size: int,
    steps: int,
    batch: int = 256,
    rate: float = 1e-4,
    channels: int = 256,
    blocks: int = 2,
    dropout: float = 0.0,
) -> Config:
    # The published flags leave the variational term of each sampled level as it is: 1/T of the sum of T terms.
    return Config(
        DataConfig(size=(size, size), flip=True),
        _net(size, channels, blocks, dropout),
        ChainConfig("linear", 1000),
        DenoiserConfig("eps", "learned_range"),
        LossConfig("hybrid", vlb_weight=1 / 1000),
        OptimizerConfig(lr=rate, warmup=0, clip=0.0, ema=0.9999),
        TrainConfig(steps=steps, batch=batch),
    )


def _unlabelled(config: Config) -> Config:
    return config.with_(data__labels="none")


def _upsampler(config: Config, small: int) -> Config:
    return config.with_(data__low_size=(small, small), train__task="upsampler")


def _classifier(
    size: int, steps: int, blocks: int = 2, batch: int = 256, rate: float = 3e-4, weight_decay: float = 0.05
) -> Config:
    # The published code averages no weights. It cuts from pictures up to a quarter larger than the size; the crop
    # "random" makes them an eighth larger.
    return Config(
        DataConfig(size=(size, size), crop="random", flip=True),
        _net(size, 128, blocks, dropout=0.0),
        ChainConfig("linear", 1000),
        DenoiserConfig(),
        LossConfig(),
        OptimizerConfig(lr=rate, warmup=0, decay="linear", weight_decay=weight_decay, clip=0.0, ema=0.0),
        TrainConfig(steps=steps, batch=batch, task="classifier"),
    )


def _net(size: int, channels: int, blocks: int, dropout: float) -> NetConfig:
    plain = NetConfig(channels, _MULTIPLIERS[size], blocks, _at(size, 32, 16, 8), dropout, style="openai")
    return replace(plain, head_channels=64, qkv="legacy", scale_shift=True, resample="block")


def _at(size: int, *sides: int) -> tuple[int, ...]:
    """The levels at which pictures of `size` have so many places a side: each level halves them."""
    return tuple((size // side).bit_length() - 1 for side in sides)


_DN = "Dhariwal & Nichol 2021"
ORIGINS = {
    "adm-lsun-bedroom256": Origin(_DN, "table 5, appendix I", 1.90),
    "adm-lsun-cat256": Origin(_DN, "table 5, appendix I", 5.57),
    "adm-lsun-horse256": Origin(_DN, "table 5, appendix I", 2.57),
    "adm-lsun-horse256-nodropout": Origin(_DN, "table 5, appendix I", 2.95),
    "adm-imagenet64": Origin(_DN, "table 5, appendix I", 2.07, classes=1000),
    "adm-imagenet128": Origin(_DN, "table 5, appendix I", 5.91, classes=1000),
    "adm-imagenet256": Origin(_DN, "table 5, appendix I", 10.94, classes=1000),
    "adm-imagenet256-uncond": Origin(_DN, "table 4", 26.21),
    "adm-imagenet512": Origin(_DN, "table 5, appendix I", 23.24, classes=1000),
    "adm-imagenet256-upsampler": Origin(_DN, "table 5, appendix I", 7.49, classes=1000),
    "adm-imagenet512-upsampler": Origin(_DN, "table 5, appendix I", 9.96, classes=1000),
    "adm-imagenet64-classifier": Origin(_DN, "appendix I", None, classes=1000),
    "adm-imagenet128-classifier": Origin(_DN, "appendix I", None, classes=1000),
    "adm-imagenet256-classifier": Origin(_DN, "appendix I", None, classes=1000),
    "adm-imagenet512-classifier": Origin(_DN, "appendix I", None, classes=1000),
}

PRESETS: dict[str, Callable[[], Config]] = {
    "adm-lsun-bedroom256": adm_lsun_bedroom256,
    "adm-lsun-cat256": adm_lsun_cat256,
    "adm-lsun-horse256": adm_lsun_horse256,
    "adm-lsun-horse256-nodropout": adm_lsun_horse256_nodropout,
    "adm-imagenet64": adm_imagenet64,
    "adm-imagenet128": adm_imagenet128,
    "adm-imagenet256": adm_imagenet256,
    "adm-imagenet256-uncond": adm_imagenet256_uncond,
    "adm-imagenet512": adm_imagenet512,
    "adm-imagenet256-upsampler": adm_imagenet256_upsampler,
    "adm-imagenet512-upsampler": adm_imagenet512_upsampler,
    "adm-imagenet64-classifier": adm_imagenet64_classifier,
    "adm-imagenet128-classifier": adm_imagenet128_classifier,
    "adm-imagenet256-classifier": adm_imagenet256_classifier,
    "adm-imagenet512-classifier": adm_imagenet512_classifier,
}
