"""Presets: the papers' settings, spelled out again from the papers, and the papers' parameter counts."""

import pytest
import torch

from ddpm.build import build_chain, build_net
from ddpm.config import check
from ddpm.errors import UserError
from ddpm.presets import PRESETS, preset

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


def test_these_are_all():
    assert set(PRESETS) == set(PAPER)


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
    assert all(known in message for known in PAPER)
