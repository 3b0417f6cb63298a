"""The encoder's own rules; its parts are compared with diffusers' in test_nets_levels.py."""

import pytest
import torch

from ddpm.build import build_net
from ddpm.config import Config
from ddpm.errors import UserError
from ddpm.nets import Encoder
from test_nets_blocks import randomise


def small(size: tuple[int, int] = (8, 12), **options) -> Encoder:
    options = {"channels": 16, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "groups": 8, **options}
    return Encoder(size, 5, **{"head_channels": 8, **options})


def test_numbers_of_every_picture():
    net = small(image_channels=1).eval()
    randomise(net, 0)
    x, t = torch.randn(3, 1, 8, 12), torch.tensor([0.0, 3.5, 999.0])
    with torch.no_grad():
        out = net(x, t)
        assert out.shape == (3, 5) and out.dtype == torch.float32
        # pictures do not see each other, and both picture and timestep count
        torch.testing.assert_close(net(x[1:2], t[1:2]), out[1:2], rtol=1e-4, atol=1e-4)
        assert (net(x, t + 5.0) - out).abs().max() > 1e-3 and (net(-x, t) - out).abs().max() > 1e-3


def test_a_fresh_one_is_undecided_about_the_place_but_not_stuck():
    """Nothing is zero before the pool's end, so that the first gradient reaches it all but zeroed convolutions."""
    net = small()
    net(torch.randn(2, 3, 8, 12), torch.zeros(2)).square().sum().backward()
    stuck = {name for name, value in net.named_parameters() if not value.grad.any()}
    zeroed = ("conv2", "attention.out")  # what is behind these waits for them to move
    behind = ("norm1", "conv1", "embed", "norm2", "attention.norm", "attention.qkv", "time.")
    assert stuck and all(any(part in name for part in behind) for name in stuck)
    assert not any(part in name for part in zeroed for name in stuck)


def test_each_place_counts():
    """A picture turned around is another one, though its pixels are the same."""
    net = small(attention=()).eval()
    randomise(net, 1)
    x = torch.randn(1, 3, 8, 12)
    with torch.no_grad():
        assert (net(x, torch.ones(1)) - net(x.flip(2), torch.ones(1))).abs().max() > 1e-3


def test_a_patch_makes_fewer_places():
    net = small((16, 24), patch=2).eval()
    assert net.stride == 4 and net.pool.position.shape[0] == 4 * 6 + 1
    assert net(torch.randn(2, 3, 16, 24), torch.zeros(2)).shape == (2, 5)


def test_other_sizes_than_its_own_are_refused():
    with pytest.raises(UserError, match=r"^size 12 × 8: this classifier knows pictures of 8 × 12 alone$"):
        small()(torch.zeros(1, 3, 12, 8), torch.zeros(1))
    with pytest.raises(UserError, match=r"^size 9 × 12: .* multiples of 2; the nearest are 8 × 12 and 10 × 12$"):
        small((9, 12))


def test_the_defaults_are_adm_s_classifier_but_for_depth():
    """Dhariwal & Nichol 2021, table 13: 128 channels, (1, 2, 3, 4), heads of 64, resampled in blocks, shifts."""
    with torch.device("meta"):
        net = Encoder((64, 64), 1000)
    assert [len(level) for level in net.down] == [2, 2, 2, 2] and len(net.downsample) == 3
    assert [level[-1].block.conv2.out_channels for level in net.down] == [128, 256, 384, 512]
    assert [layer.attention is not None for level in net.down for layer in level] == [False] * 2 + [True] * 6
    assert net.pool.heads == 8 and net.pool.out.out_features == 1000 and net.pool.position.shape == (65, 512)
    assert all(block.resampling == "down" and block.scale_shift for block in net.downsample)


def test_a_config_builds_it_with_an_output_a_class():
    config = Config().with_(
        train__task="classifier", data__size=(16, 24), data__channels=1, net__channels=32, net__resample="block"
    )
    with torch.device("meta"):
        net = build_net(config, 7)
    assert isinstance(net, Encoder) and net.size == (16, 24) and net.pool.out.out_features == 7
    assert net.conv_in.in_channels == 1 and net.stride == 8
