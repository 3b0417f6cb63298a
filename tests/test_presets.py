"""Presets: the papers' settings, spelled out again from the papers, and the papers' parameter counts."""

import math

import pytest
import torch
from diffusers import UNet2DModel

from ddpm.build import build_chain, build_net
from ddpm.config import check
from ddpm.errors import UserError
from ddpm.presets import ORIGINS, PRESETS, preset

# Ho et al. 2020, section 4, appendix B and the published code: parameters, size, width, multipliers, level of
# the attention (which is at 16 x 16), dropout, rate, batch, steps, variance, flips.
PAPER = {
    "cifar10": (35_746_307, 32, 128, (1, 2, 2, 2), 1, 0.1, 2e-4, 128, 800_000, "large", True),
    "celebahq256": (113_673_219, 256, 128, (1, 1, 2, 2, 4, 4), 4, 0.0, 2e-5, 64, 500_000, "small", True),
    "lsun-bedroom256": (113_673_219, 256, 128, (1, 1, 2, 2, 4, 4), 4, 0.0, 2e-5, 64, 2_400_000, "small", False),
    "lsun-bedroom256-large": (
        *(255_677_955, 256, 192, (1, 1, 2, 2, 4, 4), 4, 0.0, 2e-5, 64, 1_150_000, "small", False),
    ),
    "lsun-church256": (113_673_219, 256, 128, (1, 1, 2, 2, 4, 4), 4, 0.0, 2e-5, 64, 1_200_000, "small", True),
    "lsun-cat256": (113_673_219, 256, 128, (1, 1, 2, 2, 4, 4), 4, 0.0, 2e-5, 64, 1_800_000, "small", True),
}

# Nichol & Dhariwal 2021, appendix A, tables 1, 2 and 4, and the flags published with the code. Net: parameters in
# millions, size, width, multipliers, dropout, classes. Training: rate, batch, steps, timesteps rescaled. Loss:
# variance, kind, weight of one sampled term of the bound in hybrid (T/1000, or 1 without rescaling), times, FID.
CIFAR = (50, 32, 128, (1, 2, 2, 2), 0.3, 0), (1e-4, 128, 500_000, True)
IMAGENET = (120, 64, 128, (1, 2, 3, 4), 0.0, 0), (1e-4, 128, 1_500_000, True)
COND = (270, 64, 192, (1, 2, 3, 4), 0.0, 1000), (3e-4, 2048, 250_000, False)
OPENAI = {
    "iddpm-cifar10-simple": (*CIFAR, ("large", "simple", None, "uniform", 3.05)),
    "iddpm-cifar10-hybrid": (*CIFAR, ("learned_range", "hybrid", 4.0, "uniform", 3.19)),
    "iddpm-cifar10-vlb": (*CIFAR, ("learned_range", "vlb", None, "loss-second-moment", 11.47)),
    "iddpm-imagenet64-simple": (*IMAGENET, ("large", "simple", None, "uniform", None)),
    "iddpm-imagenet64-hybrid": (*IMAGENET, ("learned_range", "hybrid", 4.0, "uniform", 19.2)),
    "iddpm-imagenet64-vlb": (*IMAGENET, ("learned_range", "vlb", None, "loss-second-moment", 40.1)),
    "iddpm-imagenet64-cond": (*COND, ("learned_range", "hybrid", 1.0, "uniform", 2.92)),
}


def test_these_are_all():
    assert set(PRESETS) == set(ORIGINS) == {*PAPER, *OPENAI}


@pytest.mark.parametrize("name", PAPER)
def test_settings_and_parameters_are_the_paper_s(name):
    count, size, width, multipliers, level, dropout, rate, batch, steps, variance, flips = PAPER[name]
    config = preset(name)
    assert check(config) == config
    assert config.data.size == (size, size) and config.data.channels == 3 and config.data.flip is flips
    assert (config.net.channels, config.net.multipliers, config.net.blocks) == (width, multipliers, 2)
    assert config.net.attention == (level,) and size // 2**level == 16
    assert (config.net.dropout, config.net.groups, config.net.patch) == (dropout, 32, 1)
    assert (config.denoiser.predicts, config.denoiser.variance, config.denoiser.clip) == ("eps", variance, True)
    assert (config.loss.error, config.loss.weight, config.loss.times) == ("l2", "simple", "uniform")
    adam = config.optimizer
    assert (adam.lr, adam.warmup, adam.decay, adam.clip, adam.ema) == (rate, 5000, "none", 1.0, 0.9999)
    assert (adam.beta1, adam.beta2, adam.weight_decay) == (0.9, 0.999, 0.0)
    assert (config.train.batch, config.train.steps, config.train.accumulate) == (batch, steps, 1)
    with torch.device("meta"):
        net = build_net(config, 0)
    assert sum(p.numel() for p in net.parameters()) == count
    assert all(p.device.type == "meta" for p in net.parameters())
    assert size % net.stride == 0


@pytest.mark.parametrize("name", OPENAI)
def test_openai_s_settings(name):
    (_, size, width, multipliers, dropout, classes), training, (variance, loss, weight, times, fid) = OPENAI[name]
    rate, batch, steps, rescaled = training
    config = preset(name)
    assert check(config) == config
    data, net, adam = config.data, config.net, config.optimizer
    assert data.size == (size, size) and data.channels == 3 and data.flip is False
    assert data.labels == ("auto" if classes else "none")
    assert (net.channels, net.multipliers, net.blocks) == (width, multipliers, 3)
    assert [size // 2**level for level in net.attention] == [16, 8]
    assert (net.dropout, net.groups, net.patch) == (dropout, 32, 1)
    assert (net.style, net.heads, net.head_channels, net.qkv, net.scale_shift) == ("openai", 4, 0, "legacy", True)
    assert (config.chain.schedule, config.chain.steps, config.chain.rescale) == ("cosine", 4000, rescaled)
    assert (config.denoiser.predicts, config.denoiser.variance, config.denoiser.clip) == ("eps", variance, True)
    assert (config.loss.kind, config.loss.error, config.loss.weight) == (loss, "l2", "simple")
    assert config.loss.times == times
    if weight is not None:
        # the loss adds vlb_weight times the sum of T terms, which one sampled term stands for
        assert config.loss.vlb_weight * 4000 == pytest.approx(weight)
    assert (adam.lr, adam.warmup, adam.decay, adam.clip, adam.ema) == (rate, 0, "none", 0.0, 0.9999)
    assert (adam.beta1, adam.beta2, adam.weight_decay) == (0.9, 0.999, 0.0)
    assert (config.train.batch, config.train.steps, config.train.accumulate) == (batch, steps, 1)
    assert (ORIGINS[name].fid, ORIGINS[name].classes) == (fid, classes)
    assert ORIGINS[name].samples == (10_000 if fid and "imagenet64" in name and not classes else 50_000)


@pytest.mark.parametrize("name", OPENAI)
def test_openai_s_nets_have_as_many_parameters_as_in_diffusers(name):
    """And as published: 50M, 120M and 270M. The number of heads counts for nothing."""
    millions, size, width, multipliers, _, classes = OPENAI[name][0]
    attends = [size // 2**level in (16, 8) for level in range(len(multipliers))]
    with torch.device("meta"):
        theirs = UNet2DModel(
            sample_size=size,
            out_channels=3 if name.endswith("simple") else 6,
            layers_per_block=3,
            block_out_channels=tuple(width * m for m in multipliers),
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
            attention_head_dim=64,
            norm_num_groups=32,
            attn_norm_num_groups=32,
            resnet_time_scale_shift="scale_shift",
            num_class_embeds=classes or None,
        )
        ours = build_net(preset(name), classes)
    count = sum(p.numel() for p in ours.parameters())
    assert count == sum(p.numel() for p in theirs.parameters())
    assert round(count / 1e6, -1) == millions
    assert all(p.device.type == "meta" for p in ours.parameters())


def test_openai_s_chain_is_the_cosine_of_four_thousand_steps():
    """Nichol & Dhariwal 2021, eq. 17: ᾱ_t = f(t)/f(0), f = cos²(π/2 (t/T + 0.008)/1.008)."""
    for name, rescaled in (("iddpm-cifar10-vlb", True), ("iddpm-imagenet64-cond", False)):
        chain = build_chain(preset(name))
        assert chain.T == 4000
        for t in (1, 1000, 2000, 3900):
            bar = (
                math.cos(math.pi / 2 * (t / 4000 + 0.008) / 1.008) ** 2
                / math.cos(math.pi / 2 * 0.008 / 1.008) ** 2
            )
            assert chain.snr(t) == pytest.approx(bar / (1 - bar), rel=1e-6)
            assert chain.timestep[t] == pytest.approx((t - 1) / 4 if rescaled else t - 1)


def test_the_chain_is_a_thousand_linear_betas():
    chain = build_chain(preset("cifar10"))
    assert chain.T == 1000
    bar = 1.0
    for k in range(1000):
        bar *= 1.0 - (1e-4 + (0.02 - 1e-4) * k / 999)
        if k in (0, 499, 999):
            assert chain.snr(k + 1) == pytest.approx(bar / (1.0 - bar), rel=1e-9)
    assert bar**0.5 == pytest.approx(0.00635, abs=5e-6)


@pytest.mark.parametrize("name", ["cifar", "CIFAR10", "", "fashion"])
def test_a_wrong_name_is_told_the_right_ones(name):
    with pytest.raises(UserError) as error:
        preset(name)
    message = str(error.value)
    assert message.startswith(f"--preset {name}:")
    assert all(known in message for known in (*PAPER, *OPENAI))
