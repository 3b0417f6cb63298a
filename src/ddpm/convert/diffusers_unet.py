"""config.json of a diffusers `UNet2DModel` ↔ our NetConfig.

Their U-Net has each option apart; ours has some together, as Ho et al. or OpenAI had them. What ours cannot be is
refused key by key.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm.config import Config
from ddpm.convert.said import Said
from ddpm.errors import UserError, short
from ddpm.limits import CLASSES
from ddpm.nets.levels import heads_at, widths_of

# The first diffusers that knows all the settings written here.
VERSION = "0.22.0"

# What a key that is missing stands for: UNet2DModel's own defaults.
UNET: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
# What training with averaged weights adds to the net's config.
_AVERAGE = {
    "decay",
    "min_decay",
    "optimization_step",
    "update_after_step",
    "use_ema_warmup",
    "inv_gamma",
    "power",
    "max_value",
}
# Whether a block attends, and how it halves or doubles; None: as downsample_type or upsample_type says.
_BLOCKS: dict[str, tuple[bool, str | None]] = {
    "DownBlock2D": (False, "conv"),
    "UpBlock2D": (False, "conv"),
    "ResnetDownsampleBlock2D": (False, "block"),
    "ResnetUpsampleBlock2D": (False, "block"),
    "AttnDownBlock2D": (True, None),
    "AttnUpBlock2D": (True, None),
}
_TYPES = {"conv": "conv", "resnet": "block", None: "conv"}
# The details of our styles.
_DETAILS = {
    "ho": {"flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6, "downsample_padding": 0},
    "openai": {"flip_sin_to_cos": True, "freq_shift": 0, "norm_eps": 1e-5, "downsample_padding": 1},
}


# -- theirs → ours --------------------------------------------------------------------------------------


def read_unet(path: Path, values: Mapping[str, Any]) -> tuple[dict[str, Any], int, tuple[str, ...]]:
    """Fields of the config by dotted name, the number of classes, what there is to say.

    UserError for what our U-Net cannot be. data.size is left out where the file does not say it, and net.heads and
    net.head_channels are what diffusers takes where it does not.
    """
    said = Said(path, values, UNET)
    _check_known(said)
    attention, resample = _levels(said)
    widths = said["block_out_channels"]
    colours, leaving = said["in_channels"], said["out_channels"]
    if colours not in (1, 3, 4):
        raise said.refusal("in_channels", "pictures have 1, 3 or 4 channels")
    if leaving not in (colours, 2 * colours):
        raise said.refusal(
            "out_channels", f"a model of {colours} channels gives {colours}, or {2 * colours} with a variance"
        )
    head = 0 if said["attention_head_dim"] is None else said.whole("attention_head_dim")
    uneven = [widths[level] for level in (*attention, -1) if head and widths[level] % head]
    if uneven:
        raise said.refusal("attention_head_dim", f"must divide the widths with attention, and one is {uneven[0]}")
    note = (
        f"{path}: says nothing of attention_head_dim; heads of {head} channels are taken, as diffusers does "
        "(--net.heads 1 for one head)"
    )
    classes = 0 if said["num_class_embeds"] is None else said.whole("num_class_embeds")
    if classes > CLASSES:
        raise said.refusal("num_class_embeds", f"is at most {CLASSES:,}")
    fields = {
        "data.channels": colours,
        "data.labels": "auto" if classes else "none",
        "net.channels": widths[0],
        "net.multipliers": tuple(w // widths[0] if w % widths[0] == 0 else w / widths[0] for w in widths),
        "net.blocks": said.whole("layers_per_block"),
        "net.attention": attention,
        "net.dropout": said.number("dropout"),
        "net.groups": said.whole("norm_num_groups"),
        "net.patch": 1,
        "net.style": _style(said, resample == "conv" and len(widths) > 1),
        "net.heads": 1,
        "net.head_channels": head,
        "net.qkv": "split",
        "net.scale_shift": said["resnet_time_scale_shift"] == "scale_shift",
        "net.resample": resample,
        "train.task": "image",
    }
    size = said["sample_size"]
    if size is not None:
        sides = size if isinstance(size, list) and len(size) == 2 else [size, size]
        if any(type(side) is not int or side < 1 for side in sides):
            raise said.refusal("sample_size", "is a number of pixels, or height and width")
        fields["data.size"] = tuple(sides)
    return fields, classes, () if "attention_head_dim" in values else (note,)


def _check_known(said: Said) -> None:
    """Refuses what our U-Net has no option for."""
    said.values.setdefault("_class_name", "UNet2DModel")
    said.only("_class_name", "UNet2DModel", rule="only a UNet2DModel can be one of ours")
    strange = [key for key in said.values if key[:1] != "_" and key not in UNET and key not in _AVERAGE]
    for key in strange:
        said.only(key, None, False, rule="not known here; if the net does without, take it out of the file")
    ours = "our U-Net has no other"
    said.only("center_input_sample", False, rule=ours)
    said.only(
        "time_embedding_type", "positional", rule="our U-Net is told the timestep by sines and cosines alone"
    )
    said.only("mid_block_type", "UNetMidBlock2D", rule=ours)
    said.only("add_attention", True, rule="the middle of our U-Net always attends")
    said.only("mid_block_scale_factor", 1, 1.0, rule=ours)
    said.only("act_fn", "silu", "swish", rule="our U-Net has SiLU everywhere")
    said.only("resnet_time_scale_shift", "default", "scale_shift", rule=ours)
    said.only("class_embed_type", None, rule="our U-Net knows classes by number (num_class_embeds)")
    widths = said["block_out_channels"]
    if not isinstance(widths, list) or not widths or any(type(w) is not int or w < 1 for w in widths):
        raise said.refusal("block_out_channels", "is a list of a width for each level")
    said.only("time_embedding_dim", None, 4 * widths[0], rule=f"ours is 4 times the first width, {4 * widths[0]}")
    groups = said.whole("norm_num_groups")
    # Null beside scale_shift leaves the middle's normalisation out; before 0.22 it was there, and no such key.
    absent_is_usual = said["resnet_time_scale_shift"] == "default" or not said.says("attn_norm_num_groups")
    rule = f"all normalisations of our U-Net have as many groups, {groups} (norm_num_groups)"
    said.only("attn_norm_num_groups", groups, *([None] if absent_is_usual else []), rule=rule)


def _levels(said: Said) -> tuple[tuple[int, ...], str]:
    """The levels with attention, and how pictures are halved and doubled."""
    count = len(said["block_out_channels"])
    attends: dict[str, list[bool]] = {}
    resamples = set()
    for key, kind in (("down_block_types", "downsample_type"), ("up_block_types", "upsample_type")):
        names = said[key]
        if not isinstance(names, list) or len(names) != count:
            raise said.refusal(key, f"is a list of {count}, one for each of block_out_channels")
        way = "Down" if key[0] == "d" else "Up"
        found = []
        for name in names:
            plain = name.removeprefix("UNetRes") if isinstance(name, str) else ""
            if plain not in _BLOCKS or way not in plain:
                known = ", ".join(one for one in _BLOCKS if way in one)
                raise said.refusal(key, f"our U-Net has no {name if plain else short(name)}; known are {known}")
            found.append(_BLOCKS[plain])
        attends[key] = [attention for attention, _ in found]
        for _, sampling in found[: count - 1]:
            if sampling is None:
                said.only(kind, *_TYPES, rule="our U-Net halves and doubles by conv or resnet")
            resamples.add(sampling or _TYPES[said[kind]])
    if attends["down_block_types"] != attends["up_block_types"][::-1]:
        raise said.refusal("up_block_types", "our U-Net attends on the way up where it does on the way down")
    if len(resamples) > 1:
        types = f"{said['downsample_type']} and {said['upsample_type']}"
        raise said.refusal(
            "down_block_types",
            f"with up_block_types {json.dumps(said['up_block_types'])} and downsample_type and upsample_type "
            f"{types} some levels halve or double by a convolution, others in a residual block; our U-Net does "
            "one or the other",
        )
    levels = tuple(level for level, attention in enumerate(attends["down_block_types"]) if attention)
    return levels, resamples.pop() if resamples else "conv"


def _style(said: Said, convolves: bool) -> str:
    """Whose details the net has; convolves: whether downsample_padding matters."""
    said.only("flip_sin_to_cos", True, False, rule="is true or false")
    style = "openai" if said["flip_sin_to_cos"] else "ho"
    for key, value in _DETAILS[style].items():
        if key == "flip_sin_to_cos" or (key == "downsample_padding" and not convolves):
            continue
        if not math.isclose(said.number(key), value, rel_tol=1e-6):
            raise said.refusal(
                key,
                f"with flip_sin_to_cos {json.dumps(said['flip_sin_to_cos'])} it is {value:g}; our U-Net has "
                "flip_sin_to_cos, freq_shift, norm_eps and downsample_padding as Ho et al. have them (false, 1, "
                "1e-06, 0) or as OpenAI has them (true, 0, 1e-05, 1)",
            )
    return style


# -- ours → theirs --------------------------------------------------------------------------------------


def unet_config(config: Config, classes: int) -> dict[str, Any]:
    """config.json of the same net; UserError for what a UNet2DModel cannot be."""
    net, data = config.net, config.data
    if config.train.task != "image":
        raise UserError(
            f"--task {config.train.task}: diffusers has no such model; it takes models of pictures alone"
        )
    if net.patch > 1:
        raise UserError(
            f"--net.patch {net.patch}: diffusers' U-Net takes single pixels, and this net cells of {net.patch} x "
            f"{net.patch}; take --to ddpm, or train with --net.patch 1"
        )
    widths = widths_of(net.channels, net.multipliers)
    if widths[0] != net.channels:
        raise UserError(
            f"--net.multipliers {net.multipliers[0]:g} …: diffusers embeds the time at the first level's width, "
            f"here {net.channels} for {widths[0]}; only nets whose first multiplier is 1 can be written"
        )
    last, block = len(widths) - 1, net.resample == "block"
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if block else ("DownBlock2D", "UpBlock2D")
    down = ["AttnDownBlock2D" if level in net.attention else plain[0] for level in range(last + 1)]
    up = ["AttnUpBlock2D" if level in net.attention else plain[1] for level in range(last, -1, -1)]
    details = _DETAILS[net.style]
    height, width = data.size
    return {
        "_class_name": "UNet2DModel",
        "_diffusers_version": VERSION,
        "sample_size": height if height == width else [height, width],
        "in_channels": data.channels,
        "out_channels": data.channels * (2 if config.denoiser.variance == "learned_range" else 1),
        "center_input_sample": False,
        "time_embedding_type": "positional",
        **details,
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": list(widths),
        "layers_per_block": net.blocks,
        "mid_block_scale_factor": 1,
        "downsample_type": "resnet" if block else "conv",
        "upsample_type": "resnet" if block else "conv",
        "dropout": net.dropout,
        "act_fn": "silu",
        "attention_head_dim": _head(
            [widths[level] for level in (*net.attention, last)], net.heads, net.head_channels
        ),
        "norm_num_groups": net.groups,
        "attn_norm_num_groups": net.groups,
        "resnet_time_scale_shift": "scale_shift" if net.scale_shift else "default",
        "add_attention": True,
        "class_embed_type": None,
        "num_class_embeds": classes or None,
    }


def _head(widths: list[int], heads: int, head_channels: int) -> int | None:
    """Channels of a head at these widths; None for one head everywhere."""
    if head_channels:
        return head_channels
    if heads == 1:
        return None
    of = {width // heads_at(width, heads, 0) for width in widths}
    if len(of) > 1:
        raise UserError(
            f"--net.heads {heads}: heads are {' and '.join(map(str, sorted(of)))} channels wide at this net's "
            "levels; diffusers' have one width, and only nets with --net.head-channels can be written"
        )
    return of.pop()
