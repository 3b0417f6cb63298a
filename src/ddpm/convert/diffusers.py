"""Weights of a diffusers `UNet2DModel` → ours: Ho et al.'s layout (as google/ddpm-cifar10-32) and OpenAI's.

One direction, one table; attention's three projections become one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ddpm.nets.levels import heads_at

# Their key, with # for a number, and ours: {0}, {1} … stand for the numbers in turn.
_TABLE = {
    "conv_in": "conv_in",
    "time_embedding.linear_1": "time.0",
    "time_embedding.linear_2": "time.2",
    "class_embedding": "label",
    "down_blocks.#.resnets.#": "down.{0}.{1}.block",
    "down_blocks.#.attentions.#": "down.{0}.{1}.attention",
    "down_blocks.#.downsamplers.0.conv": "downsample.{0}.conv",
    "mid_block.resnets.0": "middle1.block",
    "mid_block.attentions.0": "middle1.attention",
    "mid_block.resnets.1": "middle2.block",
    "up_blocks.#.resnets.#": "up.{0}.{1}.block",
    "up_blocks.#.attentions.#": "up.{0}.{1}.attention",
    "up_blocks.#.upsamplers.0.conv": "upsample.{0}.conv",
    "conv_norm_out": "norm_out",
    "conv_out": "conv_out",
}
_INSIDE = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time_emb_proj": "embed",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "shortcut",
    "group_norm": "norm",
    "to_q": "qkv",
    "to_k": "qkv",
    "to_v": "qkv",
    "to_out.0": "out",
}
_PATTERNS = [(re.compile(re.escape(theirs).replace(r"\#", r"(\d+)")), ours) for theirs, ours in _TABLE.items()]


def unet_weights(theirs: Mapping[str, Tensor], heads: int = 1, head_channels: int = 0) -> dict[str, Tensor]:
    """Our UNet's state for their UNet2DModel's; KeyError names a key that has no place in ours.

    heads, head_channels: those of our net, where its order of attention's channels is "legacy". Theirs is "split",
    which is what one head gives.
    """
    ours: dict[str, list[Tensor]] = {}
    for key, value in sorted(theirs.items(), key=_query_key_value):
        ours.setdefault(_rename(key), []).append(value)
    return {
        key: legacy(torch.cat(values), heads_at(len(values[0]), heads, head_channels))
        if len(values) == 3
        else values[0]
        for key, values in ours.items()
    }


def legacy(split: Tensor, heads: int) -> Tensor:
    """Rows of a qkv layer from [q of all heads, k, v] to [q, k, v of the first head, of the next …]."""
    return split.reshape(3, heads, -1, *split.shape[1:]).transpose(0, 1).reshape(split.shape)


def _query_key_value(item: tuple[str, Tensor]) -> tuple[bool, bool, bool, str]:
    key = item[0]
    return ".to_v." in key, ".to_k." in key, ".to_q." in key, key


def _rename(key: str) -> str:
    path, _, kind = key.rpartition(".")
    for pattern, ours in _PATTERNS:
        match = pattern.match(path)
        if match:
            rest = path[match.end() :].lstrip(".")
            if rest == "" or rest in _INSIDE:
                return ".".join(filter(None, [ours.format(*match.groups()), _INSIDE.get(rest, ""), kind]))
    raise KeyError(f"{key}: not a weight of a UNet2DModel in Ho et al.'s or OpenAI's layout")
