"""config.json both ways: defaults as diffusers has them, and what our U-Net and theirs cannot be."""

import inspect
import json
from pathlib import Path

import pytest
from diffusers import UNet2DModel

from ddpm.config import Config, DataConfig, NetConfig
from ddpm.convert.diffusers_unet import UNET, read_unet, unet_config
from ddpm.errors import UserError

FILE = Path("unet/config.json")

# as published with google/ddpm-cat-256, in 2022
GOOGLE = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "center_input_sample": False,
    "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 256,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
}
# two levels of OpenAI's, halved in residual blocks where nothing attends
ADM = {
    "block_out_channels": [32, 64],
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 32,
    "out_channels": 6,
    "num_class_embeds": 10,
    "sample_size": [16, 32],
}


def net(fields: dict[str, object]) -> NetConfig:
    return NetConfig(**{key.removeprefix("net."): fields[key] for key in fields if key.startswith("net.")})


def test_what_a_missing_key_means_is_diffusers_own_default():
    defaults = {key: p.default for key, p in inspect.signature(UNet2DModel.__init__).parameters.items()}
    defaults.pop("self")
    assert json.loads(json.dumps(defaults)) == UNET


def test_google_s():
    fields, classes, notes = read_unet(FILE, GOOGLE)
    assert net(fields) == NetConfig(128, (1, 1, 2, 2, 4, 4), 2, (4,), 0.0, 32, qkv="split")
    assert (fields["data.size"], fields["data.channels"], classes, notes) == ((256, 256), 3, 0, ())


def test_adm_s():
    fields, classes, _ = read_unet(FILE, ADM)
    expected = NetConfig(
        32, (1, 2), 2, (1,), 0.0, 32, 1, "openai", 1, 8, "split", scale_shift=True, resample="block"
    )
    assert net(fields) == expected
    assert (fields["data.size"], classes, fields["data.labels"]) == ((16, 32), 10, "auto")


def test_diffusers_own_defaults_are_openai_s_details():
    fields, _, notes = read_unet(FILE, {})
    assert net(fields) == NetConfig(
        224, (1, 2, 3, 4), 2, (1, 2, 3), 0.0, 32, style="openai", head_channels=8, qkv="split"
    )
    assert "data.size" not in fields
    assert notes == (
        f"{FILE}: says nothing of attention_head_dim; heads of 8 channels are taken, as diffusers does "
        "(--net.heads 1 for one head)",
    )


def test_what_does_not_matter():
    """Padding where nothing is padded, names of old, the averaging's own numbers, settings that are off."""
    expected, _, _ = read_unet(FILE, ADM)
    same = {
        **ADM,
        "downsample_padding": 0,
        "down_block_types": ["UNetResResnetDownsampleBlock2D", "UNetResAttnDownBlock2D"],
        "decay": 0.9999,
        "optimization_step": 5000,
        "use_ema_warmup": True,
        "_name_or_path": "somewhere",
        "new_in_a_later_version": None,
        "another": False,
        "act_fn": "swish",
        "time_embedding_dim": 128,
    }
    assert read_unet(FILE, same)[0] == expected
    last = {**GOOGLE, "down_block_types": [*GOOGLE["down_block_types"][:5], "ResnetDownsampleBlock2D"]}
    assert read_unet(FILE, last)[0] == read_unet(FILE, GOOGLE)[0]  # the last level is not halved


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, r'_class_name "UNet2DConditionModel": only a UNet2DModel'),
        ({"center_input_sample": True}, r"center_input_sample true: our U-Net has no other"),
        ({"time_embedding_type": "fourier"}, r'time_embedding_type "fourier": our U-Net is told the timestep by'),
        ({"time_embedding_dim": 77}, r"time_embedding_dim 77: ours is 4 times the first width, 128"),
        ({"mid_block_type": None}, r"mid_block_type null: our U-Net has no other"),
        ({"add_attention": False}, r"add_attention false: the middle of our U-Net always attends"),
        ({"mid_block_scale_factor": 1.41}, r"mid_block_scale_factor 1.41: our U-Net has no other"),
        ({"act_fn": "mish"}, r'act_fn "mish": our U-Net has SiLU everywhere'),
        ({"resnet_time_scale_shift": "ada_group"}, r'resnet_time_scale_shift "ada_group": our U-Net has no other'),
        ({"class_embed_type": "timestep"}, r'class_embed_type "timestep": our U-Net knows classes by number'),
        ({"num_class_embeds": "ten"}, r'num_class_embeds "ten": is a positive whole number'),
        ({"attn_norm_num_groups": 16}, r"attn_norm_num_groups 16: all normalisations of our U-Net have as many"),
        ({"norm_num_groups": None}, r"norm_num_groups null: is a positive whole number"),
        ({"norm_eps": 1e-4}, r"norm_eps 0.0001: with flip_sin_to_cos true it is 1e-05; our U-Net has"),
        ({"flip_sin_to_cos": False}, r"freq_shift 0: with flip_sin_to_cos false it is 1; .* Ho et al. have them"),
        ({"freq_shift": 1}, r"freq_shift 1: with flip_sin_to_cos true it is 0"),
        ({"in_channels": 6}, r"in_channels 6: pictures have 1, 3 or 4 channels"),
        ({"out_channels": 4}, r"out_channels 4: a model of 3 channels gives 3, or 6 with a variance"),
        ({"attention_head_dim": 48}, r"attention_head_dim 48: must divide the widths with attention, .* is 64"),
        ({"attention_head_dim": [8, 8]}, r"attention_head_dim \[8, 8\]: is a positive whole number"),
        ({"block_out_channels": []}, r"block_out_channels \[\]: is a list of a width for each level"),
        ({"block_out_channels": [32]}, r"down_block_types .*: is a list of 1, one for each of block_out_channels"),
        (
            {"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]},
            r"up_block_types .*: our U-Net attends on the way up where it does on the way down",
        ),
        (
            {"down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D"]},
            r"down_block_types .*: our U-Net has no SkipDownBlock2D; known are DownBlock2D, Resnet",
        ),
        ({"up_block_types": ["DownBlock2D", "AttnUpBlock2D"]}, r"up_block_types .*: our U-Net has no DownBlock2D"),
        (
            {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]},
            r"down_block_types .* some levels halve or double by a convolution, others in a residual block",
        ),
        ({"sample_size": "32"}, r'sample_size "32": is a number of pixels, or height and width'),
        ({"layers_per_block": 0}, r"layers_per_block 0: is a positive whole number"),
        ({"dropout": None}, r"dropout null: is a number"),
        ({"skip_everything": True}, r"skip_everything true: not known here; if the net does without"),
    ],
)
def test_what_our_net_cannot_be(changes, message):
    with pytest.raises(UserError, match=f"^{FILE}: {message}"):
        read_unet(FILE, {**ADM, **changes})


def test_padding_of_the_other_style():
    with pytest.raises(UserError, match=r"downsample_padding 1: with flip_sin_to_cos false it is 0"):
        read_unet(FILE, {**GOOGLE, "downsample_padding": 1})


def test_a_middle_without_normalisation():
    """diffusers leaves it out where the time embedding scales and the groups are null."""
    with pytest.raises(UserError, match="attn_norm_num_groups null: all normalisations"):
        read_unet(FILE, {**ADM, "attn_norm_num_groups": None})
    of_old = {key: value for key, value in ADM.items() if key != "attn_norm_num_groups"}
    assert read_unet(FILE, of_old)[0] == read_unet(FILE, ADM)[0]  # the weights tell whether it is there


def test_a_level_of_attention_takes_the_type_that_is_given():
    both = {
        **ADM,
        "block_out_channels": [32, 32, 32],
        "down_block_types": ["AttnDownBlock2D"] * 3,
        "up_block_types": ["AttnUpBlock2D"] * 3,
    }
    assert read_unet(FILE, both)[0]["net.resample"] == "block"
    assert read_unet(FILE, {**both, "downsample_type": "conv", "upsample_type": None})[0]["net.resample"] == "conv"
    with pytest.raises(UserError, match=r"down_block_types .* downsample_type and upsample_type conv and resnet"):
        read_unet(FILE, {**both, "downsample_type": "conv"})
    with pytest.raises(UserError, match=r'upsample_type "fir": our U-Net halves and doubles by conv or resnet'):
        read_unet(FILE, {**both, "upsample_type": "fir"})


# -- ours → theirs -----------------------------------------------------------------------------------------------

SMALL = NetConfig(16, (1, 2, 2), 1, (1,), groups=8)


@pytest.mark.parametrize(
    ("options", "head"),
    [
        ({}, None),
        ({"heads": 4}, 8),
        ({"head_channels": 16}, 16),
        ({"head_channels": 32}, 32),  # one head, where its width is said
        ({"heads": 2, "attention": ()}, 16),  # the middle's alone
    ],
)
def test_heads(options, head):
    config = Config(net=NetConfig(16, **{"multipliers": (1, 2, 2), "attention": (1,), "groups": 8, **options}))
    assert unet_config(config, 0)["attention_head_dim"] == head


def test_size_and_channels():
    config = Config(DataConfig(size=(16, 32), channels=1), SMALL).with_(denoiser__variance="learned_range")
    made = unet_config(config, 7)
    assert (made["sample_size"], made["in_channels"], made["out_channels"]) == ([16, 32], 1, 2)
    assert made["num_class_embeds"] == 7 and made["dropout"] == 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"net__patch": 2},
            r"--net.patch 2: diffusers' U-Net takes single pixels, and this net cells of 2 x 2; take --to ddpm",
        ),
        ({"net__multipliers": (0.5, 1, 1)}, r"--net.multipliers 0.5 …: .* width, here 16 for 8; only nets whose"),
        (
            {"net__heads": 4, "net__attention": (0,)},
            r"--net.heads 4: heads are 4 and 8 channels wide at this net's",
        ),
        ({"train__task": "classifier"}, r"--task classifier: diffusers has no such model"),
        ({"train__task": "upsampler"}, r"--task upsampler: diffusers has no such model"),
    ],
)
def test_what_their_net_cannot_be(changes, message):
    with pytest.raises(UserError, match=f"^{message}"):
        unet_config(Config(net=SMALL).with_(**changes), 0)
