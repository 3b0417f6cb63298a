"""Weights of a diffusers `UNet2DModel` ↔ ours: Ho et al.'s layout (as google/ddpm-cifar10-32), OpenAI's and ADM's.

One table serves both ways. Attention's three projections are one layer of ours, whose order of channels is that of
the net: theirs is "split", which is what one head gives in either order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ddpm.nets.levels import heads_at

# Their module and ours, with # for a number.
_TABLE = {
    "conv_in": "conv_in",
    "time_embedding.linear_1": "time.0",
    "time_embedding.linear_2": "time.2",
    "class_embedding": "label",
    "down_blocks.#.resnets.#": "down.#.#.block",
    "down_blocks.#.attentions.#": "down.#.#.attention",
    "down_blocks.#.downsamplers.0": "downsample.#",
    "mid_block.resnets.0": "middle1.block",
    "mid_block.attentions.0": "middle1.attention",
    "mid_block.resnets.1": "middle2.block",
    "up_blocks.#.resnets.#": "up.#.#.block",
    "up_blocks.#.attentions.#": "up.#.#.attention",
    "up_blocks.#.upsamplers.0": "upsample.#",
    "conv_norm_out": "norm_out",
    "conv_out": "conv_out",
}
# The layers in one: of what the table names, or (empty) that itself.
_INSIDE = {
    "": "",
    "norm1": "norm1",
    "conv1": "conv1",
    "time_emb_proj": "embed",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "shortcut",
    "conv": "conv",
    "group_norm": "norm",
    "to_q": "qkv",
    "to_k": "qkv",
    "to_v": "qkv",
    "to_out.0": "out",
}
_QKV = ("to_q", "to_k", "to_v")
# What attention's layers were called of old.
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_KEY = re.compile(r"(.+\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")

_Patterns = list[tuple[re.Pattern[str], str]]


def _patterns(table: Mapping[str, str]) -> _Patterns:
    return [
        (re.compile(re.escape(of).replace(r"\#", r"(\d+)") + r"(?:\.(.+))?"), to.replace("#", "{}"))
        for of, to in table.items()
    ]


_TO_OURS = _patterns(_TABLE)
_TO_THEIRS = _patterns({ours: theirs for theirs, ours in _TABLE.items()})
_INSIDE_OURS = {ours: theirs for theirs, ours in _INSIDE.items() if ours != "qkv"}


def unet_weights(theirs: Mapping[str, Tensor], heads: int = 1, head_channels: int = 0) -> dict[str, Tensor]:
    """Our UNet's state for their UNet2DModel's; KeyError names a key that has no place in ours.

    heads, head_channels: those of our net, where its order of attention's channels is "legacy".
    """
    ours: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in modern(theirs).items():
        path, _, kind = key.rpartition(".")
        module, inside = _place(path, _TO_OURS, key)
        if inside not in _INSIDE:
            raise _no_place(key)
        renamed = ".".join(filter(None, [module, _INSIDE[inside], kind]))
        if inside in _QKV:
            parts.setdefault(renamed, {})[inside] = value
        else:
            ours[renamed] = value
    for key, three in parts.items():
        if len(three) < 3:
            raise KeyError(f"{key}: of attention's to_q, to_k and to_v there is only {' and '.join(three)}")
        joined = torch.cat([three[part] for part in _QKV])
        ours[key] = legacy(joined, heads_at(len(joined) // 3, heads, head_channels))
    return ours


def diffusers_weights(ours: Mapping[str, Tensor], heads: int = 1, head_channels: int = 0) -> dict[str, Tensor]:
    """The inverse of `unet_weights`: their UNet2DModel's state for our UNet's."""
    theirs: dict[str, Tensor] = {}
    for key, value in ours.items():
        path, _, kind = key.rpartition(".")
        module, inside = _place(path, _TO_THEIRS, key)
        if inside == "qkv":
            separate = split(value, heads_at(len(value) // 3, heads, head_channels)).chunk(3)
            theirs |= {f"{module}.{part}.{kind}": one.clone() for part, one in zip(_QKV, separate, strict=True)}
        elif inside in _INSIDE_OURS:
            theirs[".".join(filter(None, [module, _INSIDE_OURS[inside], kind]))] = value
        else:
            raise KeyError(f"{key}: not a weight of our U-Net")
    return theirs


def modern(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with attention's layers as they are called today."""
    matches = {key: _OLD_KEY.fullmatch(key) for key in theirs}
    return {f"{m[1]}.{_OLD[m[2]]}.{m[3]}" if m else key: theirs[key] for key, m in matches.items()}


def legacy(split: Tensor, heads: int) -> Tensor:
    """Rows of a qkv layer from [q of all heads, k, v] to [q, k, v of the first head, of the next …]."""
    return split.reshape(3, heads, -1, *split.shape[1:]).transpose(0, 1).reshape(split.shape)


def split(legacy: Tensor, heads: int) -> Tensor:
    """The inverse of `legacy`."""
    return legacy.reshape(heads, 3, -1, *legacy.shape[1:]).transpose(0, 1).reshape(legacy.shape)


def _place(path: str, patterns: _Patterns, key: str) -> tuple[str, str]:
    """The module in the other layout, and the layer in it as it is called in this one."""
    for pattern, to in patterns:
        match = pattern.fullmatch(path)
        if match:
            *numbers, inside = match.groups()
            return to.format(*numbers), inside or ""
    raise _no_place(key)


def _no_place(key: str) -> KeyError:
    return KeyError(f"{key}: not a weight of a UNet2DModel in Ho et al.'s or OpenAI's layout")
