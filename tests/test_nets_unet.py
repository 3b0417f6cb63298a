"""The U-Net against diffusers' in the configuration of google/ddpm-cifar10-32, and its own rules."""

import pytest
import torch
from diffusers import UNet2DModel

from ddpm.convert.diffusers import unet_weights
from ddpm.errors import UserError
from ddpm.nets import UNet
from ddpm.nets.blocks import time_embedding

# scheduler and net configuration as published with google/ddpm-cifar10-32
GOOGLE_DDPM_CIFAR10_32 = {
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": (128, 256, 256, 256),
    "center_input_sample": False,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}


def small(**options: object) -> UNet:
    return UNet(**{"channels": 16, "multipliers": (1, 2, 2), "blocks": 1, "groups": 8, **options})


def randomise(net: torch.nn.Module, seed: int = 0) -> None:
    """Zero-initialised layers would hide everything behind them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in net.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.05 + (1.0 if value.ndim == 1 else 0.0))


def test_equals_diffusers_given_the_same_weights():
    theirs = UNet2DModel(**GOOGLE_DDPM_CIFAR10_32).eval()
    ours = UNet().eval()
    randomise(theirs)
    ours.load_state_dict(unet_weights(theirs.state_dict()))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.0, 731.0])
    with torch.no_grad():
        expected = theirs(x, t).sample
        assert expected.std() > 0.1
        torch.testing.assert_close(ours(x, t), expected, atol=1e-5 * expected.abs().max().item(), rtol=0.0)


def test_class_labels_equal_diffusers():
    options = dict(
        GOOGLE_DDPM_CIFAR10_32,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        num_class_embeds=5,
    )
    theirs = UNet2DModel(**options).eval()
    ours = UNet(channels=16, multipliers=(1, 2), groups=8, attention=(1,), classes=5).eval()
    randomise(theirs)
    ours.load_state_dict(unet_weights(theirs.state_dict()))
    x, t, label = torch.randn(3, 3, 8, 12), torch.tensor([5.0, 6.0, 999.0]), torch.tensor([0, 4, 2])
    with torch.no_grad():
        expected = theirs(x, t, class_labels=label).sample
        torch.testing.assert_close(ours(x, t, label), expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(ours(x, t, label.flip(0)), expected, atol=1e-3)


def test_unknown_key_is_named():
    with pytest.raises(KeyError, match=r"down_blocks\.0\.resnets\.0\.mystery\.weight"):
        unet_weights({"down_blocks.0.resnets.0.mystery.weight": torch.zeros(1)})


def test_fresh_net_is_zero_and_every_weight_learns():
    net = small(classes=3)
    x = torch.randn(2, 3, 16, 16)
    assert net(x, torch.tensor([1.0, 2.0]), torch.tensor([0, 1])).abs().max() == 0
    randomise(net)
    net(x, torch.tensor([1.0, 2.0]), torch.tensor([0, 1])).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_any_divisible_size_and_a_clear_refusal():
    net = small()
    assert net(torch.zeros(1, 3, 20, 12), torch.zeros(1)).shape == (1, 3, 20, 12)
    with pytest.raises(UserError, match=r"size 30 × 14.*multiples of 4; the nearest are 28 × 12 and 32 × 16"):
        net(torch.zeros(1, 3, 30, 14), torch.zeros(1))


def test_patch_keeps_the_picture_s_shape():
    net = small(patch=2, image_channels=1, multipliers=(1, 2))
    randomise(net)
    out = net(torch.randn(2, 1, 28, 20), torch.zeros(2))
    assert out.shape == (2, 1, 28, 20) and out.std() > 0
    assert net.stride == 4


@pytest.mark.parametrize(
    "options, message",
    [
        ({"groups": 5}, "--net.groups 5"),
        ({"attention": (3,)}, "levels 0 to 2"),
        ({"patch": 0}, "--net.patch 0"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        small(**options)


def test_labels_are_asked_for_and_refused():
    with pytest.raises(UserError, match="needs a label"):
        small(classes=2)(torch.zeros(1, 3, 8, 8), torch.zeros(1))
    with pytest.raises(UserError, match="takes no label"):
        small()(torch.zeros(1, 3, 8, 8), torch.zeros(1), torch.tensor([0]))


def test_time_embedding_is_the_formula():
    emb = time_embedding(torch.tensor([7.0]), 8)[0]
    rates = [10_000 ** (-i / 3) for i in range(4)]
    expected = torch.tensor([7 * r for r in rates])
    torch.testing.assert_close(emb, torch.cat([expected.sin(), expected.cos()]))


def test_channels_last_gives_the_same():
    net = small().eval()
    randomise(net)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = net(x, torch.ones(2))
        net.to(memory_format=torch.channels_last)
        actual = net(x.to(memory_format=torch.channels_last), torch.ones(2))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
