"""From a config to the objects it describes.

Names become classes in one place each: `make_chain`, `make_sampler` and `make_time_sampler` stand beside what
they make.
"""

from __future__ import annotations

import dataclasses

import torch

from ddpm.chain import Chain, make_chain
from ddpm.classifier import Classifier
from ddpm.config import Config
from ddpm.denoiser import LEARNED, Denoiser
from ddpm.losses import CrossEntropy, Objective, Simple, make_loss
from ddpm.nets import Encoder, UNet
from ddpm.timesteps import TimeSampler, make_time_sampler


def build_net(config: Config, classes: int) -> UNet | Encoder:
    """The net with fresh weights, the same for the same seed; leaves torch's own generator alone.

    Where the variance is learned the net has twice the pictures' channels: the mean's, then the variance's. A
    classifier has one output a class; an upsampler is told a small picture besides.
    """
    channels, task = config.data.channels, config.train.task
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        if task == "classifier":
            return Encoder(config.data.size, classes, image_channels=channels, **dataclasses.asdict(config.net))
        return UNet(
            image_channels=channels,
            out_channels=2 * channels if config.denoiser.variance in LEARNED else channels,
            classes=classes,
            low_channels=channels if task == "upsampler" else 0,
            **dataclasses.asdict(config.net),
        )


def build_chain(config: Config) -> Chain:
    """The chain the net is trained on."""
    return make_chain(**dataclasses.asdict(config.chain))


def build_denoiser(config: Config, net: torch.nn.Module) -> Denoiser:
    """The model around a net."""
    return Denoiser(net, build_chain(config), **dataclasses.asdict(config.denoiser))


def build_classifier(config: Config, net: torch.nn.Module) -> Classifier:
    """The classifier around a net."""
    return Classifier(net, build_chain(config))


def build_model(config: Config, net: torch.nn.Module) -> Denoiser | Classifier:
    """What is trained, around a net."""
    return (build_classifier if config.train.task == "classifier" else build_denoiser)(config, net)


def build_loss(config: Config) -> Objective:
    """The loss."""
    if config.train.task == "classifier":
        return CrossEntropy()
    options = dataclasses.asdict(config.loss)
    options.pop("times")
    kind, weight = options.pop("kind"), options.pop("vlb_weight")
    return make_loss(kind, weight, Simple(**options))


def build_time_sampler(config: Config, T: int) -> TimeSampler:
    """The sampler of levels for a chain of T steps."""
    return make_time_sampler(config.loss.times, T, config.train.seed)
