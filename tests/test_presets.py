"""Presets: the papers' settings, spelled out again from the papers, and the papers' parameter counts."""

import math

import pytest
import torch
from diffusers import UNet2DModel

from ddpm.build import build_chain, build_net
from ddpm.checking import check
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

# The flags published for the other two: parameters in millions as told there (the upsampler's), else Ho et al.'s.
# Net: size, width, heads, scale-shift, sides of the attention, small pictures. Training: T, rate, batch, steps.
FLAGS = {
    "iddpm-imagenet256-upsampler": (280, (256, 192, 4, True, (16, 8), 64), (4000, 3e-4, 256, 500_000)),
    "iddpm-lsun-bedroom256": (114, (256, 128, 1, False, (16,), 0), (1000, 1e-4, 128, 1_200_000)),
}

# Dhariwal & Nichol 2021, appendix I and the flags published with the code. Net: parameters in millions, size,
# width, blocks, multipliers, dropout, classes, side of an upsampler's small pictures. Training: rate, batch,
# steps. FID.
FLAT, MORE = (1, 1, 2, 2, 4, 4), (0.5, 1, 1, 2, 2, 4, 4)
BEDROOM = 552, 256, 256, 2, FLAT, 0.1, 0, 0
ADM = {
    "adm-lsun-bedroom256": (BEDROOM, (1e-4, 256, 500_000), 1.90),
    "adm-lsun-cat256": (BEDROOM, (1e-4, 256, 200_000), 5.57),
    "adm-lsun-horse256": (BEDROOM, (1e-4, 256, 250_000), 2.57),
    "adm-lsun-horse256-nodropout": ((552, 256, 256, 2, FLAT, 0.0, 0, 0), (1e-4, 256, 250_000), 2.95),
    "adm-imagenet64": ((296, 64, 192, 3, (1, 2, 3, 4), 0.1, 1000, 0), (3e-4, 2048, 540_000), 2.07),
    "adm-imagenet128": ((422, 128, 256, 2, (1, 1, 2, 3, 4), 0.0, 1000, 0), (1e-4, 256, 4_360_000), 5.91),
    "adm-imagenet256": ((554, 256, 256, 2, FLAT, 0.0, 1000, 0), (1e-4, 256, 1_980_000), 10.94),
    "adm-imagenet256-uncond": ((552, 256, 256, 2, FLAT, 0.0, 0, 0), (1e-4, 256, 1_980_000), 26.21),
    "adm-imagenet512": ((559, 512, 256, 2, MORE, 0.0, 1000, 0), (1e-4, 256, 1_940_000), 23.24),
    "adm-imagenet256-upsampler": ((312, 256, 192, 2, FLAT, 0.0, 1000, 64), (1e-4, 256, 500_000), 7.49),
    "adm-imagenet512-upsampler": ((309, 512, 192, 2, FLAT, 0.0, 1000, 128), (1e-4, 256, 1_050_000), 9.96),
}

# Parameters in millions, size, blocks, multipliers; rate, batch, steps, weight decay.
CLASSIFIERS = {
    "adm-imagenet64-classifier": ((65, 64, 4, (1, 2, 3, 4)), (6e-4, 1024, 300_000, 0.2)),
    "adm-imagenet128-classifier": ((43, 128, 2, (1, 1, 2, 3, 4)), (3e-4, 256, 300_000, 0.05)),
    "adm-imagenet256-classifier": ((54, 256, 2, FLAT), (3e-4, 256, 500_000, 0.05)),
    "adm-imagenet512-classifier": ((54, 512, 2, MORE), (3e-4, 256, 500_000, 0.05)),
}


def test_these_are_all():
    assert set(PRESETS) == set(ORIGINS) == {*PAPER, *OPENAI, *FLAGS, *ADM, *CLASSIFIERS}


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


@pytest.mark.parametrize("name", FLAGS)
def test_the_published_flags_of_the_other_two(name):
    _, (size, width, heads, scale_shift, sides, small), (T, rate, batch, steps) = FLAGS[name]
    config = preset(name)
    assert check(config) == config
    data, net, adam, train = config.data, config.net, config.optimizer, config.train
    assert data.size == (size, size) and data.flip is False and data.crop == "centre"
    assert data.labels == ("auto" if small else "none") and (ORIGINS[name].classes == 1000) == bool(small)
    assert train.task == ("upsampler" if small else "image") and (not small or data.small == (small, small))
    assert (net.channels, net.multipliers, net.blocks, net.dropout) == (width, FLAT, 2, 0.0)
    assert tuple(size // 2**level for level in net.attention) == sides
    assert (net.style, net.heads, net.head_channels, net.qkv) == ("openai", heads, 0, "legacy")
    assert (net.scale_shift, net.resample, net.patch) == (scale_shift, "conv", 1)
    assert (config.chain.schedule, config.chain.steps, config.chain.rescale) == ("linear", T, False)
    assert (config.denoiser.predicts, config.denoiser.variance) == ("eps", "learned_range")
    assert config.loss.kind == "hybrid" and config.loss.vlb_weight * T == pytest.approx(1.0)
    assert (adam.lr, adam.warmup, adam.decay, adam.clip, adam.ema) == (rate, 0, "none", 0.0, 0.9999)
    assert (train.batch, train.steps, train.label_drop) == (batch, steps, 0.0)


@pytest.mark.parametrize("name", ADM)
def test_adm_s_settings(name):
    (_, size, width, blocks, multipliers, dropout, classes, small), (rate, batch, steps), fid = ADM[name]
    config = preset(name)
    assert check(config) == config
    data, net, adam, train = config.data, config.net, config.optimizer, config.train
    assert data.size == (size, size) and data.channels == 3 and data.flip is True and data.crop == "centre"
    assert data.labels == ("auto" if classes else "none") and ORIGINS[name].classes == classes
    assert train.task == ("upsampler" if small else "image") and (not small or data.small == (small, small))
    assert (net.channels, net.multipliers, net.blocks, net.dropout) == (width, multipliers, blocks, dropout)
    sides = [32, 16] if name == "adm-imagenet512-upsampler" else [32, 16, 8]
    assert [size // 2**level for level in net.attention] == sides
    fixed = name in ("adm-imagenet128", "adm-imagenet256-upsampler")
    assert (net.heads, net.head_channels) == (4, 0) if fixed else net.head_channels == 64
    assert (net.style, net.scale_shift, net.resample, net.patch) == ("openai", True, "block", 1)
    small_one = name == "adm-imagenet64"
    assert net.qkv == ("split" if small_one else "legacy")
    schedule = "cosine" if small_one else "linear"
    assert (config.chain.schedule, config.chain.steps, config.chain.rescale) == (schedule, 1000, False)
    assert (config.denoiser.predicts, config.denoiser.variance) == ("eps", "learned_range")
    # one sampled term of the bound as it is, of the sum of a thousand that the weight is for
    assert config.loss.kind == "hybrid" and config.loss.vlb_weight * 1000 == pytest.approx(1.0)
    assert (config.loss.error, config.loss.weight, config.loss.times) == ("l2", "simple", "uniform")
    assert (adam.lr, adam.warmup, adam.decay, adam.clip, adam.ema) == (rate, 0, "none", 0.0, 0.9999)
    assert (adam.beta1, adam.beta2, adam.weight_decay) == (0.9, 0.999, 0.0)
    assert (train.batch, train.steps, train.accumulate, train.label_drop) == (batch, steps, 1, 0.0)
    assert (ORIGINS[name].fid, ORIGINS[name].samples) == (fid, 50_000)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_classifiers_settings(name):
    (_, size, blocks, multipliers), (rate, batch, steps, weight_decay) = CLASSIFIERS[name]
    config = preset(name)
    assert check(config) == config
    data, net, adam, train = config.data, config.net, config.optimizer, config.train
    assert data.size == (size, size) and (data.crop, data.flip, data.labels) == ("random", True, "auto")
    assert (net.channels, net.multipliers, net.blocks, net.dropout) == (128, multipliers, blocks, 0.0)
    assert [size // 2**level for level in net.attention] == [32, 16, 8]
    assert (net.head_channels, net.qkv, net.scale_shift, net.resample) == (64, "legacy", True, "block")
    assert config.chain == preset(f"adm-imagenet{size}").chain  # of the model that it guides
    assert (adam.lr, adam.warmup, adam.decay, adam.clip, adam.ema) == (rate, 0, "linear", 0.0, 0.0)
    assert (adam.beta1, adam.beta2, adam.weight_decay) == (0.9, 0.999, weight_decay)
    assert (train.task, train.batch, train.steps) == ("classifier", batch, steps)
    assert (ORIGINS[name].fid, ORIGINS[name].classes) == (None, 1000)


def by_hand(config, classes):
    """Parameters of OpenAI's nets, from what they are made of."""
    net, size = config.net, config.data.size[0]
    widths, embedding = [int(net.channels * m) for m in net.multipliers], 4 * net.channels

    def linear(i, o, places=1):
        return i * o * places + o

    def block(i, o):  # norm, 3 x 3, embedding, norm, 3 x 3, and a way past them where the width changes
        told = linear(embedding, 2 * o if net.scale_shift else o)
        return 2 * i + linear(i, o, 9) + told + 2 * o + linear(o, o, 9) + (linear(i, o) if i != o else 0)

    def layer(i, o, attends):  # a block, and attention: norm, q with k and v, the way out
        return block(i, o) + (2 * o + linear(o, 3 * o) + linear(o, o) if attends else 0)

    def between(width):
        return block(width, width) if net.resample == "block" else linear(width, width, 9)

    enters = 6 if config.train.task == "upsampler" else 3
    total = linear(net.channels, embedding) + linear(embedding, embedding) + linear(enters, widths[0], 9)
    width, passed = widths[0], [widths[0]]
    for level, wide in enumerate(widths):
        for _ in range(net.blocks):
            total += layer(width, wide, level in net.attention)
            width = wide
            passed.append(wide)
        if level < len(widths) - 1:
            total += between(wide)
            passed.append(wide)
    total += layer(width, width, True) + layer(width, width, False)
    if config.train.task == "classifier":  # norm; places and their mean; q with k and v; the classes
        places = (size >> (len(widths) - 1)) ** 2
        return total + 2 * width + width * (places + 1) + linear(width, 3 * width) + linear(width, classes)
    total += classes * embedding
    for level, wide in reversed(list(enumerate(widths))):
        for _ in range(net.blocks + 1):
            total += layer(width + passed.pop(), wide, level in net.attention)
            width = wide
        total += between(wide) if level else 0
    return total + 2 * width + linear(width, 6, 9)  # colours and their variances


@pytest.mark.parametrize("name", [*FLAGS, *ADM, *CLASSIFIERS])
def test_parameters_are_as_many_as_published(name):
    """In millions, as told; exactly, as counted by hand and, where it can build such a net, by diffusers."""
    config, classes = preset(name), ORIGINS[name].classes
    with torch.device("meta"):
        ours = build_net(config, classes)
    count = sum(p.numel() for p in ours.parameters())
    assert all(p.device.type == "meta" for p in ours.parameters())
    assert config.data.size[0] % ours.stride == 0
    assert count == by_hand(config, classes)
    published = FLAGS[name][0] if name in FLAGS else {**ADM, **CLASSIFIERS}[name][0][0]
    # 552,814,086 is told as 552M, and all others by the nearest million
    assert published == (int(count / 1e6) if published == 552 else round(count / 1e6))
    if config.train.task == "classifier" or config.net.multipliers == MORE:
        return  # diffusers has no encoder alone, and ties the time embedding's width to the finest level's
    theirs = in_diffusers(config, classes)
    assert count == sum(p.numel() for p in theirs.parameters())


def in_diffusers(config, classes):
    net = config.net
    attends = [level in net.attention for level in range(len(net.multipliers))]
    way, plain = ("resnet", "Resnet{}sampleBlock2D") if net.resample == "block" else ("conv", "{}Block2D")
    with torch.device("meta"):
        return UNet2DModel(
            sample_size=config.data.size[0],
            in_channels=6 if config.train.task == "upsampler" else 3,
            out_channels=6,
            layers_per_block=net.blocks,
            block_out_channels=tuple(net.channels * m for m in net.multipliers),
            down_block_types=tuple("AttnDownBlock2D" if a else plain.format("Down") for a in attends),
            up_block_types=tuple("AttnUpBlock2D" if a else plain.format("Up") for a in reversed(attends)),
            downsample_type=way,
            upsample_type=way,
            attention_head_dim=64,
            norm_num_groups=32,
            attn_norm_num_groups=32,
            resnet_time_scale_shift="scale_shift" if net.scale_shift else "default",
            num_class_embeds=classes or None,
        )


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
    assert all(known in message for known in (*PAPER, *OPENAI, *FLAGS, *ADM, *CLASSIFIERS))
