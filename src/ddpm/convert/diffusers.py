"""Weights of a diffusers `UNet2DModel` in Ho et al.'s layout (as google/ddpm-cifar10-32) → ours.

One direction, one table; attention's three projections become one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

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


def unet_weights(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our UNet's state for their UNet2DModel's; KeyError names a key that Ho's layout does not have."""
    ours: dict[str, list[Tensor]] = {}
    for key, value in sorted(theirs.items(), key=_query_key_value):
        ours.setdefault(_rename(key), []).append(value)
    return {key: torch.cat(values) if len(values) > 1 else values[0] for key, values in ours.items()}


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
    raise KeyError(f"{key}: not a weight of a UNet2DModel in Ho et al.'s layout")
