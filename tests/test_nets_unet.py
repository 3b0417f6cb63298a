"""The U-Net against diffusers' in the configurations of google/ddpm-cifar10-32 and OpenAI's, and its own rules."""

import math

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel

from ddpm.build import build_net
from ddpm.config import Config
from ddpm.convert.diffusers import unet_weights
from ddpm.errors import UserError
from ddpm.nets import UNet
from ddpm.nets.blocks import Attention, Downsample, ResBlock, time_embedding

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


def openai(**options: object) -> dict[str, object]:
    """A UNet2DModel as the conversions of OpenAI's nets set it: attention at the two middle levels of three."""
    return {
        "act_fn": "silu",
        "attention_head_dim": 8,
        "attn_norm_num_groups": 8,
        "block_out_channels": (16, 32, 48),
        "center_input_sample": False,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 3,
        "layers_per_block": 3,
        "norm_eps": 1e-5,
        "norm_num_groups": 8,
        "num_class_embeds": 5,
        "out_channels": 6,
        "resnet_time_scale_shift": "scale_shift",
        "sample_size": 16,
        "time_embedding_type": "positional",
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        **options,
    }


@pytest.mark.parametrize("qkv", ["legacy", "split"])
@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize(("head_channels", "classes"), [(8, 5), (16, 0)])
def test_openai_s_net_equals_diffusers_given_the_same_weights(qkv, scale_shift, head_channels, classes):
    theirs = UNet2DModel(
        **openai(
            resnet_time_scale_shift="scale_shift" if scale_shift else "default",
            attention_head_dim=head_channels,
            num_class_embeds=classes or None,
        )
    ).eval()
    ours = UNet(
        channels=16,
        multipliers=(1, 2, 3),
        blocks=3,
        attention=(1, 2),
        groups=8,
        classes=classes,
        style="openai",
        head_channels=head_channels,
        qkv=qkv,
        scale_shift=scale_shift,
        out_channels=6,
    ).eval()
    randomise(theirs)
    with torch.no_grad():  # else all places would be attended to nearly alike
        for name, value in theirs.named_parameters():
            value *= 6.0 if "attentions" in name and name.endswith("weight") and value.ndim == 2 else 1.0
    order = {"head_channels": head_channels} if qkv == "legacy" else {}
    ours.load_state_dict(unet_weights(theirs.state_dict(), **order))
    x = torch.randn(3, 3, 16, 12, generator=torch.Generator().manual_seed(1))
    t, label = torch.tensor([0.0, 17.25, 999.0]), torch.tensor([0, 4, 2])
    with torch.no_grad():
        expected = theirs(x, t, class_labels=label if classes else None).sample
        actual = ours(x, t, label if classes else None)
        assert expected.shape == (3, 6, 16, 12) and expected.std() > 0.05
        torch.testing.assert_close(actual, expected, atol=1e-5 * expected.abs().max().item(), rtol=0.0)
        # what is compared sees everything that the options change
        for options in ({"qkv": "split" if qkv == "legacy" else "legacy"}, {"style": "ho"}, {"head_channels": 4}):
            kept = {"style": "openai", "qkv": qkv, "head_channels": head_channels, **options}
            other = UNet(
                3, 16, (1, 2, 3), 3, (1, 2), 0.0, 8, 1, classes, scale_shift=scale_shift, out_channels=6, **kept
            )
            other.load_state_dict(ours.state_dict())
            difference = (other.eval()(x, t, label if classes else None) - expected).abs().max()
            assert difference > 1e-3 * expected.abs().max()


def by_hand(attention: Attention, x: torch.Tensor, heads: int, order: str) -> torch.Tensor:
    """Attention written out for one picture, place and head at a time, in float64."""
    channels, width = x.shape[1], x.shape[1] // heads
    qkv, out, norm = (
        [p.detach().double() for p in part.parameters()] for part in (attention.qkv, attention.out, attention.norm)
    )
    groups = x.double().reshape(len(x), attention.norm.num_groups, -1)
    spread = (groups.var(2, unbiased=False, keepdim=True) + attention.norm.eps).sqrt()
    normed = ((groups - groups.mean(2, keepdim=True)) / spread).reshape(len(x), channels, -1)
    normed = normed * norm[0][:, None] + norm[1][:, None]
    drawn = torch.zeros(len(x), channels, normed.shape[2], dtype=torch.float64)
    for picture in range(len(x)):
        rows = qkv[0] @ normed[picture] + qkv[1][:, None]  # [3·C, places]
        for head in range(heads):
            at = [3 * width * head + width * i for i in range(3)]
            if order == "split":
                at = [channels * i + width * head for i in range(3)]
            q, k, v = (rows[start : start + width] for start in at)
            for place in range(rows.shape[1]):
                scores = [float(q[:, place] @ k[:, other]) / math.sqrt(width) for other in range(rows.shape[1])]
                shares = [math.exp(score - max(scores)) for score in scores]
                mean = sum(share * v[:, other] for other, share in enumerate(shares)) / sum(shares)
                drawn[picture, width * head : width * (head + 1), place] = mean
    return x + (out[0] @ drawn + out[1][:, None]).reshape(x.shape)


@pytest.mark.parametrize("order", ["legacy", "split"])
@pytest.mark.parametrize("heads", [1, 3, 4])
@pytest.mark.parametrize("style", ["ho", "openai"])
def test_attention_is_the_formula(style, heads, order):
    attention = Attention(12, 4, style, heads, order).eval()
    randomise(attention, 3)
    x = torch.randn(2, 12, 2, 3, generator=torch.Generator().manual_seed(4))
    expected = by_hand(attention, x, heads, order)
    with torch.no_grad():
        torch.testing.assert_close(attention(x).double(), expected, atol=1e-5, rtol=1e-5)
        other = by_hand(attention, x, heads, "split" if order == "legacy" else "legacy")
    assert ((other - expected).abs().max() > 1e-3) == (heads > 1)  # one head: the orders are the same


@pytest.mark.parametrize("order", ["legacy", "split"])
def test_a_fixed_number_of_heads_at_widths_that_differ(order):
    """Not expressible in diffusers, whose heads are as wide at every level: each attention against the formula."""
    net = UNet(3, 16, (1, 2, 3), 1, (0, 2), 0.0, 8, style="openai", heads=4, qkv=order).eval()
    randomise(net)
    seen = []
    attentions = [part for part in net.modules() if isinstance(part, Attention)]
    for part in attentions:
        part.register_forward_hook(lambda part, given, out: seen.append((part, given[0], out)))
    with torch.no_grad():
        net(torch.randn(1, 3, 8, 8), torch.tensor([5.0]))
    assert [given.shape[1:] for _, given, _ in seen] == [
        (16, 8, 8),  # down at level 0
        (48, 2, 2),  # down at level 2, middle, up twice
        (48, 2, 2),
        (48, 2, 2),
        (48, 2, 2),
        (16, 8, 8),
        (16, 8, 8),
    ]
    for part, given, out in seen[:3]:
        torch.testing.assert_close(out.double(), by_hand(part, given, 4, order), atol=1e-5, rtol=1e-5)


def test_scale_and_shift_are_the_formula():
    """Nichol & Dhariwal 2021, appendix A: GroupNorm(h)·(1 + scale) + shift, where Ho et al. add and normalise."""
    block = ResBlock(4, 8, 6, 2, 0.0, "openai", scale_shift=True).eval()
    randomise(block, 5)
    x, emb = torch.randn(3, 4, 5, 5), torch.randn(3, 6)
    with torch.no_grad():
        h = block.conv1(F.silu(F.group_norm(x, 2, block.norm1.weight, block.norm1.bias, 1e-5)))
        h = F.group_norm(h, 2, block.norm2.weight, block.norm2.bias, 1e-5)
        scale, shift = block.embed.weight[:8] @ emb.T, block.embed.weight[8:] @ emb.T
        scale, shift = scale.T + block.embed.bias[:8], shift.T + block.embed.bias[8:]
        h = h * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        expected = block.shortcut(x) + block.conv2(F.silu(h))
        torch.testing.assert_close(block(x, emb), expected, atol=1e-5, rtol=1e-5)


def test_downsampling_pads_below_and_right_or_all_around():
    """A picture of ones under a kernel of ones counts the pixels that each window saw."""
    for style, counts in (("ho", [[9, 6], [6, 4]]), ("openai", [[4, 6], [6, 9]])):
        part = Downsample(1, style)
        with torch.no_grad():
            part.conv.weight.fill_(1.0)
            part.conv.bias.zero_()
            assert part(torch.ones(1, 1, 4, 4), torch.zeros(1, 4))[0, 0].tolist() == counts


def test_fresh_weights_of_the_styles():
    """Xavier's bound √(6/(in + out)) with biases of 0, and torch's 1/√in for weights and biases; zeros in both."""
    for style in ("ho", "openai"):
        net = UNet(3, 32, (1, 2), 1, (0,), 0.0, 8, style=style, heads=2, scale_shift=True)
        bounds = {
            net.down[1][0].block.conv1: (math.sqrt(6 / (9 * 32 + 9 * 64)), 1 / math.sqrt(9 * 32)),
            net.down[1][0].block.embed: (math.sqrt(6 / (128 + 128)), 1 / math.sqrt(128)),
            net.middle1.attention.qkv: (math.sqrt(6 / (64 + 64)), 1 / math.sqrt(64)),
            net.time[0]: (math.sqrt(6 / (32 + 128)), 1 / math.sqrt(32)),
        }
        for layer, (xavier, by_inputs) in bounds.items():
            bound = xavier if style == "ho" else by_inputs
            assert 0.97 * bound < layer.weight.abs().max() <= bound * 1.0001
            if style == "ho":
                assert not layer.bias.any()
            else:
                assert 0.8 * bound < layer.bias.abs().max() <= bound * 1.0001
        for layer in (net.down[1][0].block.conv2, net.middle1.attention.out, net.conv_out):
            assert not layer.weight.any() and not layer.bias.any()
        eps = {part.eps for part in net.modules() if isinstance(part, torch.nn.GroupNorm)}
        assert eps == {1e-6 if style == "ho" else 1e-5}


@pytest.mark.parametrize("patch", [1, 2])
def test_the_first_half_of_the_output_is_made_by_the_first_half_of_the_rows(patch):
    net = small(multipliers=(1, 2), patch=patch, out_channels=6).eval()
    randomise(net)
    x, t = torch.randn(2, 3, 12, 8), torch.tensor([1.0, 2.0])
    with torch.no_grad():
        both = net(x, t)
        assert both.shape == (2, 6, 12, 8) and len(net.conv_out.weight) == 6 * patch**2
        half = small(multipliers=(1, 2), patch=patch).eval()
        rows = 3 * patch**2
        ends = {
            key: value[:rows] if key.startswith("conv_out") else value for key, value in net.state_dict().items()
        }
        half.load_state_dict(ends)
        torch.testing.assert_close(both[:, :3], half(x, t), atol=1e-6, rtol=1e-6)
        net.conv_out.weight[rows:] = 0.0
        net.conv_out.bias[rows:] = torch.arange(3.0).repeat_interleave(patch**2)
        assert torch.equal(net(x, t)[:, 3:], torch.arange(3.0).view(1, 3, 1, 1).expand(2, 3, 12, 8))


@pytest.mark.parametrize(
    ("variance", "outputs"), [("small", 3), ("large", 3), ("learned", 6), ("learned_range", 6)]
)
def test_a_learned_variance_has_outputs_of_its_own(variance, outputs):
    config = Config().with_(net__channels=16, net__groups=8, denoiser__variance=variance)
    with torch.device("meta"):
        assert build_net(config, 0).conv_out.out_channels == outputs


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
        ({"heads": 3}, r"--net.heads 3: must divide .* one is 32 wide; take a divisor, as 2$"),
        ({"heads": 0}, r"--net.heads 0: must divide .*; take a divisor, as 1$"),
        ({"heads": 5, "attention": (0, 2)}, r"--net.heads 5: .* one is 16 wide; take a divisor, as 4$"),
        ({"head_channels": 24, "heads": 3}, r"--net.head-channels 24: .* one is 32 wide; take a divisor, as 16$"),
        ({"head_channels": 32, "attention": (0,)}, r"--net.head-channels 32: .* one is 16 wide; .* as 16$"),
        ({"head_channels": -8}, r"--net.head-channels -8: .* as 1$"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        small(**options)


def test_a_misspelt_style_is_no_other_style(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in use: the tests alone check types
    with pytest.raises(UserError, match=r"--net.style adm: takes ho or openai$"):
        small(style="adm")
    with pytest.raises(UserError, match=r"--net.qkv new: takes legacy or split$"):
        small(qkv="new")


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


def test_openai_s_time_embedding_is_the_formula():
    emb = time_embedding(torch.tensor([7.0, 0.5]), 8, "openai")
    angles = torch.tensor([[t * 10_000 ** (-i / 4) for i in range(4)] for t in (7.0, 0.5)])
    torch.testing.assert_close(emb, torch.cat([angles.cos(), angles.sin()], dim=1))


def test_channels_last_gives_the_same():
    net = small().eval()
    randomise(net)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = net(x, torch.ones(2))
        net.to(memory_format=torch.channels_last)
        actual = net(x.to(memory_format=torch.channels_last), torch.ones(2))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


# -- no class, and the small picture -----------------------------------------------------------------------


def test_no_class_adds_nothing():
    """The label −1 gives what the same net without classes gives, and teaches no class's row."""
    net, without = small(classes=3).eval(), small().eval()
    randomise(net, 2)
    state = net.state_dict()
    state.pop("label.weight")
    without.load_state_dict(state)
    x, t = torch.randn(4, 3, 8, 8), torch.tensor([0.0, 5.0, 70.0, 999.0])
    expected, label = without(x, t), torch.tensor([-1, 2, -1, 0])
    out = net(x, t, label)
    torch.testing.assert_close(net(x, t, torch.full((4,), -1)), expected)
    torch.testing.assert_close(out[::2], expected[::2], rtol=1e-5, atol=1e-5)
    assert ((out - expected)[1::2].abs().amax((1, 2, 3)) > 1e-3).all()
    out.square().sum().backward()
    assert [bool(row.any()) for row in net.label.weight.grad] == [True, False, True]
    net.zero_grad()
    net(x, t, torch.full((4,), -1)).square().sum().backward()
    assert not net.label.weight.grad.any()


def bilinear(low: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Each pixel from the four small ones about its middle, in the shares of their distances; the edges go on."""
    axes = []
    for n, m in zip(low.shape[2:], size, strict=True):
        at = ((torch.arange(m).double() + 0.5) * n / m - 0.5).clamp(min=0.0)
        below = at.floor().long()
        weights = torch.zeros(m, n).double()
        weights[torch.arange(m), below] += 1.0 - (at - below)
        weights[torch.arange(m), (below + 1).clamp(max=n - 1)] += at - below
        axes.append(weights)
    return torch.einsum("yi,bcij,xj->bcyx", axes[0], low.double(), axes[1]).float()


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("size", [(4, 6), (2, 3), (8, 12), (3, 5)])
def test_the_small_picture_enters_enlarged_beside_x(patch, size):
    """It is as if it were further channels of x (Dhariwal & Nichol 2021, after Nichol & Dhariwal 2021)."""
    options = {"patch": patch, "multipliers": (1, 2)}
    net = small(low_channels=3, **options).eval()
    plain = small(image_channels=6, out_channels=3, **options).eval()
    randomise(net, 3)
    plain.load_state_dict(net.state_dict())
    x, t, low = torch.randn(2, 3, 8, 12), torch.tensor([1.0, 900.0]), torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = plain(torch.cat([x, bilinear(low, (8, 12))], dim=1), t)
        torch.testing.assert_close(net(x, t, low=low), expected, rtol=1e-4, atol=1e-5)
        assert (net(x, t, low=-low) - expected).abs().max() > 1e-3


def test_a_small_picture_is_asked_for_and_refused():
    x, t = torch.zeros(1, 3, 8, 8), torch.zeros(1)
    with pytest.raises(UserError, match=r"^this net needs a small picture to upsample$"):
        small(low_channels=3)(x, t)
    with pytest.raises(UserError, match=r"^this net takes no small picture$"):
        small()(x, t, low=torch.zeros(1, 3, 4, 4))
