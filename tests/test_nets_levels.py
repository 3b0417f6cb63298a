"""What the U-Net and the encoder share: residual resampling, widths, kept or recomputed activations."""

import re

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel

from ddpm.convert.diffusers import unet_weights
from ddpm.errors import UserError
from ddpm.nets import Encoder, UNet
from ddpm.nets.levels import check_size, widths_of
from test_nets_blocks import randomise

# ADM's net as diffusers says it: levels of 16, 24 and 48 channels, heads of 8, resampled in residual blocks
ADM = {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "attn_norm_num_groups": 8,
    "block_out_channels": (16, 24, 48),
    "center_input_sample": False,
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "downsample_type": "resnet",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 3,
    "layers_per_block": 2,
    "norm_eps": 1e-5,
    "norm_num_groups": 8,
    "num_class_embeds": 5,
    "out_channels": 6,
    "resnet_time_scale_shift": "scale_shift",
    "sample_size": 16,
    "time_embedding_type": "positional",
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "upsample_type": "resnet",
}
OURS = {
    "channels": 16,
    "multipliers": (1, 1.5, 3),
    "blocks": 2,
    "attention": (1, 2),
    "dropout": 0.0,
    "groups": 8,
    "style": "openai",
    "head_channels": 8,
    "resample": "block",
}
_BETWEEN = re.compile(r"(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.(\w+)\.(\w+)")


def ours_of(theirs: dict[str, torch.Tensor], head_channels: int = 8) -> dict[str, torch.Tensor]:
    """Our names for their weights: the resampling blocks' here, all others' as they are converted."""
    between, rest = {}, {}
    for key, value in theirs.items():
        if match := _BETWEEN.fullmatch(key):
            way, level, part, kind = match.groups()
            between[f"{way}sample.{level}.{part.replace('time_emb_proj', 'embed')}.{kind}"] = value
        else:
            rest[key] = value
    return {**unet_weights(rest, head_channels=head_channels), **between}


def strong(net: torch.nn.Module, seed: int = 0) -> None:
    """Random weights that let places attend to each other unevenly."""
    randomise(net, seed)
    with torch.no_grad():
        for name, value in net.named_parameters():
            value *= 2.0 if "attention" in name and value.ndim == 2 else 0.4
            if "norm" in name and name.endswith("weight"):
                value += 1.0


@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize("classes", [5, 0])
def test_adm_s_net_equals_diffusers_given_the_same_weights(scale_shift, classes):
    kind = "scale_shift" if scale_shift else "default"
    options = {**ADM, "resnet_time_scale_shift": kind, "num_class_embeds": classes or None}
    theirs = UNet2DModel(**options).eval()
    strong(theirs)
    ours = UNet(**OURS, classes=classes, scale_shift=scale_shift, out_channels=6).eval()
    ours.load_state_dict(ours_of(theirs.state_dict()))
    for net in (theirs.time_embedding, ours.time):  # the waves are float32 in both
        net.register_forward_pre_hook(lambda _, given: (given[0].double(), *given[1:]))
    theirs.double(), ours.double()
    x = torch.randn(3, 3, 16, 12, generator=torch.Generator().manual_seed(1)).double()
    t, label = torch.tensor([0.0, 17.25, 999.0]), torch.tensor([0, 4, 2])
    with torch.no_grad():
        expected = theirs(x, t, class_labels=label if classes else None).sample
        assert expected.shape == (3, 6, 16, 12) and expected.std() > 0.05
        actual = ours(x, t, label if classes else None)
        torch.testing.assert_close(actual, expected, atol=1e-10 * expected.abs().max().item(), rtol=0.0)
        # and what is compared sees the resampling: by convolutions it is another net
        ours.downsample[0].resampling = "none"
        with pytest.raises((RuntimeError, jaxtyping.TypeCheckError, UserError)):
            ours(x, t, label if classes else None)


def test_the_encoder_is_the_way_down_the_middle_and_the_pool():
    """diffusers' modules as far as it has them, then the pool written out."""
    theirs = UNet2DModel(**{**ADM, "num_class_embeds": None}).eval()
    strong(theirs)
    encoder = Encoder((16, 12), 7, scale_shift=True, **OURS).eval()
    pool = {key: value for key, value in encoder.state_dict().items() if key.startswith(("pool", "norm_out"))}
    pool = {key: value + 0.3 * torch.randn(value.shape) for key, value in pool.items()}
    below = {
        key: value
        for key, value in ours_of(theirs.state_dict()).items()
        if not key.startswith(("up", "norm_out", "conv_out"))
    }
    encoder.load_state_dict({**below, **pool})
    x = torch.randn(3, 3, 16, 12, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.0, 17.25, 999.0])
    with torch.no_grad():
        emb = theirs.time_embedding(theirs.time_proj(t))
        h = theirs.conv_in(x)
        for block in theirs.down_blocks:
            h, _ = block(h, emb)
        h = theirs.mid_block(h, emb)
        assert h.shape == (3, 48, 4, 3)
        h = F.silu(F.group_norm(h, 8, pool["norm_out.weight"], pool["norm_out.bias"], 1e-5)).flatten(2)
        h = torch.cat([h.mean(2, keepdim=True), h], dim=2).transpose(1, 2) + pool["pool.position"]
        q, k, v = (h @ pool["pool.qkv.weight"].T + pool["pool.qkv.bias"]).unflatten(2, (3, 6, 8)).unbind(2)
        shares = torch.einsum("bhc,bnhc->bhn", q[:, 0], k).div(8**0.5).softmax(2)
        vector = torch.einsum("bhn,bnhc->bhc", shares, v).flatten(1)
        expected = vector @ pool["pool.out.weight"].T + pool["pool.out.bias"]
        assert expected.shape == (3, 7) and expected.std() > 0.1
        torch.testing.assert_close(encoder(x, t), expected, atol=2e-5 * expected.abs().max().item(), rtol=0.0)


def net_of(kind: str, **options) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A net with everything there is, in training, and what it is asked."""
    options = {**OURS, "scale_shift": True, **options}
    x, t = torch.randn(2, 3, 8, 8, requires_grad=True), torch.tensor([1.0, 700.0])
    if kind == "encoder":
        net, asked = Encoder((8, 8), 3, **options), {"x": x, "timestep": t}
    else:
        net = UNet(**options, classes=3, low_channels=3)
        low = torch.randn(2, 3, 4, 4, requires_grad=True)
        asked = {"x": x, "timestep": t, "label": torch.tensor([2, -1]), "low": low}
    randomise(net, 0)
    return net.train(), asked


@pytest.mark.parametrize("kind", ["unet", "encoder"])
@pytest.mark.parametrize("resample", ["block", "conv"])
def test_recomputed_activations_change_nothing(kind, resample):
    """Output and all gradients, with dropout, whose masks are drawn again alike."""
    net, asked = net_of(kind, resample=resample, dropout=0.4)
    results = []
    for save, levels in ((False, 0), (True, 0), (True, 1), (True, 2)):
        net.checkpoint_activations, net.checkpoint_levels = save, levels
        net.zero_grad()
        asked["x"].grad = None
        torch.manual_seed(5)
        out = net(**asked)
        out.square().sum().backward()
        results.append([out.detach(), asked["x"].grad, *(p.grad.clone() for p in net.parameters())])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    torch.manual_seed(6)
    assert not torch.equal(net(**asked), results[0][0])  # dropout was on


@pytest.mark.parametrize("kind", ["unet", "encoder"])
def test_recomputing_keeps_fewer_activations(kind):
    net, asked = net_of(kind, resample="block")
    kept = []
    for save, levels in ((False, 0), (True, 1), (True, 0)):
        net.checkpoint_activations, net.checkpoint_levels = save, levels
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: s.append(x.numel()) or x, lambda x: x):
            net(**asked)
        kept.append(sum(sizes))
    assert kept[2] < kept[1] < kept[0] and kept[2] < 0.5 * kept[0]


@pytest.mark.parametrize("kind", ["unet", "encoder"])
@pytest.mark.parametrize("resample", ["block", "conv"])
def test_a_gradient_reaches_every_weight_and_input(kind, resample):
    net, asked = net_of(kind, resample=resample)
    net(**asked).square().sum().backward()
    for name, value in net.named_parameters():
        assert value.grad is not None and value.grad.abs().sum() > 0, name
    assert all(value.grad.abs().sum() > 0 for name, value in asked.items() if value.requires_grad)


def test_widths_may_be_fractions_of_the_first():
    """ADM's for 512 pixels begins at half of its 256 channels; the time embedding keeps to 256."""
    assert widths_of(256, (0.5, 1, 1, 2, 2, 4, 4)) == (128, 256, 256, 512, 512, 1024, 1024)
    with torch.device("meta"):
        net = UNet(3, 256, (0.5, 1, 2), 2, (1, 2), style="openai", head_channels=64, resample="block")
        assert net.conv_in.out_channels == net.conv_out.in_channels == 128
        assert net.time[0].in_features == 256 and net.time[2].out_features == 1024
        assert [level[-1].block.conv2.out_channels for level in net.down] == [128, 256, 512]
        encoder = Encoder((32, 32), 10, channels=128, multipliers=(0.5, 1, 1.5), attention=(2,))
        assert encoder.pool.out.in_features == 192 and encoder.pool.qkv.out_features == 3 * 192
        assert encoder.pool.position.shape == (8 * 8 + 1, 192) and encoder.pool.heads == 3


@pytest.mark.parametrize("size", [(8, 8), (8, 16)])
def test_attention_s_heads_follow_the_width(size):
    with torch.device("meta"):
        net = Encoder(
            size, 10, channels=32, multipliers=(1, 2, 4), head_channels=16, groups=8, attention=(0, 1, 2)
        )
        heads = [layer.attention.heads for level in net.down for layer in level]
        assert heads == [2, 2, 4, 4, 8, 8] and net.middle1.attention.heads == net.pool.heads == 8
        assert net.pool.position.shape == (size[0] * size[1] // 16 + 1, 128)
        fixed = Encoder(
            size, 10, channels=32, multipliers=(1, 2), head_channels=0, heads=4, groups=8, attention=()
        )
        assert fixed.pool.heads == fixed.middle1.attention.heads == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multipliers": (1, 1.3)}, r"^--net.multipliers 1 1.3: 1.3 times 16 channels is no width"),
        ({"multipliers": (0, 1)}, r"^--net.multipliers 0 1: 0 times 16"),
        ({"multipliers": (-1, 1)}, r"^--net.multipliers -1 1: -1 times 16"),
        ({"multipliers": (0.25, 1)}, r"^--net.groups 8: must divide the width of every level, and one is 4 wide"),
        ({"multipliers": (1, 1.25)}, r"^--net.groups 8: .* one is 20 wide"),
        ({"multipliers": (1, 2.5), "head_channels": 16}, r"^--net.head-channels 16: .* one is 40 wide"),
        ({"attention": (2,), "multipliers": (1, 2)}, r"^--net.attention \[2\]: this net has the levels 0 to 1"),
        ({"patch": 0}, r"^--net.patch 0: is at least 1"),
    ],
)
def test_impossible_options_are_refused_by_both(options, message):
    options = {"channels": 16, "groups": 8, "multipliers": (1, 2), "attention": (), "head_channels": 8, **options}
    with pytest.raises(UserError, match=message):
        UNet(**options)
    with pytest.raises(UserError, match=message):
        Encoder((8, 8), 3, **options)


def test_a_misspelt_resampling_is_no_other(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in use: the tests alone check types
    with pytest.raises(UserError, match=r"^--net.resample biggan: takes conv or block$"):
        UNet(channels=16, groups=8, resample="biggan")


def test_sizes_that_halve_and_the_nearest_that_do():
    check_size((24, 40), 8)
    with pytest.raises(UserError, match=r"size 20 × 3: .* multiples of 8; the nearest are 16 × 8 and 24 × 8$"):
        check_size((20, 3), 8)
