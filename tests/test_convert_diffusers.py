"""The table of keys, both ways: against the layers of diffusers' own nets, and attention's order by hand."""

import pytest
import torch
from diffusers import UNet2DModel

from ddpm.convert.diffusers import diffusers_weights, legacy, modern, split, unet_weights
from ddpm.nets import UNet

# Every kind of layer that a UNet2DModel of the layouts that are read can have.
KINDS = {
    "ho": {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
    "adm": {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "num_class_embeds": 3,
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 4,
    },
}


def theirs(kind: str) -> dict[str, torch.Tensor]:
    return UNet2DModel(norm_num_groups=4, layers_per_block=1, attention_head_dim=8, **KINDS[kind]).state_dict()


@pytest.mark.parametrize("heads", [{}, {"heads": 2}, {"head_channels": 4}])
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_is_bit_equal(kind, heads):
    state = theirs(kind)
    ours = unet_weights(state, **heads)
    back = diffusers_weights(ours, **heads)
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)
    again = unet_weights(back, **heads)
    assert again.keys() == ours.keys() and all(torch.equal(again[key], ours[key]) for key in ours)


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_the_weights_of_our_net(kind):
    block = kind == "adm"
    net = UNet(
        channels=8,
        multipliers=(1, 2, 2),
        blocks=1,
        attention=(1, 2) if block else (1,),
        groups=4,
        classes=3 if block else 0,
        scale_shift=block,
        resample="block" if block else "conv",
    )
    ours = unet_weights(theirs(kind))
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in net.state_dict().items()
    }


def test_a_legacy_qkv_has_each_head_s_three_together():
    """Rows numbered in the order q₀ … q₃, k₀ …, v₀ …: two heads of two channels take them in turn."""
    rows = torch.arange(12.0)
    assert legacy(rows, 2).tolist() == [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11]
    assert torch.equal(split(legacy(rows, 2), 2), rows) and torch.equal(legacy(rows, 1), rows)
    weight = torch.randn(12, 4)
    assert torch.equal(legacy(weight, 2), weight[legacy(rows, 2).long()])


def test_q_k_and_v_come_in_that_order_however_the_file_lists_them():
    name = "mid_block.attentions.0.to_{}.weight"
    state = {name.format(part): torch.full((2, 2), float(i)) for i, part in ((2, "v"), (0, "q"), (1, "k"))}
    assert unet_weights(state)["middle1.attention.qkv.weight"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_attention_s_old_names():
    state = theirs("ho")
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for key, value in state.items():
        for new, name in renamed.items():
            key = key.replace(f".{new}.", f".{name}.")
        old[key] = value
    assert len(old.keys() - state.keys()) == 2 * 4 * (1 + 2 + 1)  # weights and biases: down, up, middle
    ours, expected = unet_weights(old), unet_weights(state)
    assert ours.keys() == expected.keys() and all(torch.equal(ours[key], expected[key]) for key in ours)
    assert modern(old).keys() == state.keys()


@pytest.mark.parametrize(
    "key",
    [
        "down_blocks.0.resnets.0.mystery.weight",
        "conv_in2.weight",
        "down_blocks.0.downsamplers.1.conv.weight",
        "mid_block.resnets.2.conv1.weight",
        "down_blocks.0.resnets.0.norm1.extra.weight",
    ],
)
def test_a_key_without_a_place_is_named(key):
    with pytest.raises(KeyError, match=key.replace(".", r"\.")):
        unet_weights({key: torch.zeros(1)})
    with pytest.raises(KeyError, match=key.replace(".", r"\.")):
        diffusers_weights({key: torch.zeros(1)})


def test_a_third_of_attention_is_not_attention():
    with pytest.raises(KeyError, match=r"qkv.weight: of attention's .* there is only to_q and to_v"):
        unet_weights({f"mid_block.attentions.0.to_{part}.weight": torch.zeros(2, 2) for part in "qv"})
