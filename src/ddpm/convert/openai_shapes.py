"""What the shapes in a file of OpenAI's say of its net."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ddpm.errors import UserError

FIXED = "fixed"  # a variance that is not learned; which, no shape says


def shaped(state: Mapping[str, Tensor], name: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The fields of the config that the shapes tell, by dotted name, and the number of classes.

    Of a variance that is not learned they tell that alone: it is called FIXED.
    """

    def shape(key: str) -> tuple[int, ...]:
        if key not in state:
            raise UserError(f"{name}: not a whole net of OpenAI's: it lacks {key}")
        found = tuple(state[key].shape)
        if not found or min(found) < 1 or len(found) < (1 if key.endswith("bias") else 2):
            raise UserError(f"{name}: not a whole net of OpenAI's: its {key} is {list(found)} numbers")
        return found

    channels, entering = shape("time_embed.0.weight")[1], shape("input_blocks.0.0.weight")[1]
    classifies = not any(key.startswith("output_blocks.") for key in state)
    fields: dict[str, Any] = {"net.groups": 32, "net.patch": 1, "net.style": "openai"}
    if classifies:
        if "out.2.qkv_proj.weight" not in state:
            raise UserError(
                f"{name}: a classifier that does not pool by attention (classifier_pool); no other can be read"
            )
        colours, classes = entering, shape("out.2.c_proj.weight")[0]
        fields["train.task"] = "classifier"
    else:
        leaving = shape("out.2.weight")[0]
        classes = shape("label_emb.weight")[0] if "label_emb.weight" in state else 0
        times = 2 if entering in (2, 6, 8) else 1  # an upsampler sees the small picture beside x
        colours = entering // times
        fields["train.task"] = ("image", "upsampler")[times - 1]
        if leaving not in (colours, 2 * colours):
            raise UserError(f"{name}: takes {entering} channels and gives {leaving}; no model of pictures does")
        fields["denoiser.variance"] = FIXED if leaving == colours else "learned_range"
    if colours not in (1, 3, 4):
        raise UserError(f"{name}: takes {entering} channels; pictures have 1, 3 or 4")

    numbers = len({key.split(".")[1] for key in state if key.startswith("input_blocks.")})
    place = shape("out.2.positional_embedding")[1] - 1 if classifies else 0
    side = round(place**0.5)
    if side**2 != place:
        raise UserError(f"{name}: its pool knows {place} places, which are no square")
    levels = _levels(state, numbers, side, name, given)
    blocks = numbers // levels - 1
    first = [f"input_blocks.{1 + level * (blocks + 1)}" for level in range(levels)]
    widths = [shape(f"{key}.0.out_layers.3.weight")[0] for key in first]
    whole = [width // channels if width % channels == 0 else width / channels for width in widths]
    fields |= {
        "data.channels": colours,
        "net.channels": channels,
        "net.multipliers": tuple(whole),
        "net.blocks": blocks,
        "net.attention": tuple(i for i, key in enumerate(first) if f"{key}.1.qkv.weight" in state),
        "net.scale_shift": shape("middle_block.0.emb_layers.1.weight")[0] == 2 * widths[-1],
    }
    if classifies:
        fields["data.size"] = (side * 2 ** (levels - 1),) * 2
    if levels > 1:
        fields["net.resample"] = "conv" if f"input_blocks.{blocks + 1}.0.op.weight" in state else "block"
    return fields, classes


def _levels(state: Mapping[str, Tensor], numbers: int, side: int, name: str, given: Mapping[str, Any]) -> int:
    """The number of levels of a net with so many input blocks.

    What doubles or halves by a convolution has keys of its own; a block that doubles stands after another one, but
    one that halves looks like any: a classifier with those has the levels that all its blocks fit.
    """
    samplings = [
        key for key in state if re.fullmatch(r"output_blocks\.\d+\.[12]\.(conv|in_layers\.0)\.weight", key)
    ]
    samplings += [key for key in state if re.fullmatch(r"input_blocks\.\d+\.0\.op\.weight", key) and not samplings]
    by_keys = side == 0 or bool(samplings)
    fits = [len(samplings) + 1] if by_keys else list(range(1, numbers))
    fits = [n for n in fits if numbers % n == 0 and numbers // n > 1 and (by_keys or _fits(state, numbers, n))]
    if not fits:
        raise UserError(
            f"{name}: its {numbers - 1} input blocks are no levels of equally many; not a net of OpenAI's"
        )
    blocks, size = given.get("net.blocks"), given.get("data.size")
    chosen = [n for n in fits if blocks in (None, numbers // n - 1)] if len(fits) > 1 else fits
    chosen = [n for n in chosen if size in (None, (side * 2 ** (n - 1),) * 2)] if len(chosen) > 1 else chosen
    if len(chosen) == 1:
        return chosen[0]
    several = " or ".join(f"{n} levels of {numbers // n - 1} (pictures of {side * 2 ** (n - 1)})" for n in fits)
    raise UserError(f"{name}: its blocks fit {several}; give one of them by --net.blocks")


def _fits(state: Mapping[str, Tensor], numbers: int, levels: int) -> bool:
    """Whether blocks can be levels: of one width, with attention after all or none, before one that halves."""

    def has(number: int, part: str) -> bool:
        return f"input_blocks.{number}.{part}.weight" in state

    blocks = numbers // levels - 1
    for first in range(1, numbers, blocks + 1):
        layers, halving = range(first, first + blocks), first + blocks
        if len({has(i, "1.qkv") for i in layers}) > 1 or has(halving, "1.qkv"):
            return False
        if any(has(i, "0.skip_connection") for i in [*layers[1:], halving]):  # where widths change
            return False
    return True
