"""lucidrains' `model-N.pt` (denoising-diffusion-pytorch), which is told apart and refused.

Its net normalises by root mean squares, lets attention look at learned keys and values, attends linearly at the
fine levels and halves pictures by stacking cells of pixels: our U-Net has none of the four, and no change of names
or shapes makes one net compute what the other does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from ddpm.errors import UserError

_OF_THE_NET = ("init_conv.weight", "time_mlp.1.weight", "final_conv.weight")


def recognises(values: Mapping[Any, Any]) -> bool:
    """Whether a file is such a checkpoint, its diffusion's state, or its net's."""
    state = values.get("model")
    return _is_net(state if isinstance(state, Mapping) else values)


def _is_net(state: Mapping[Any, Any]) -> bool:
    return any(all(f"{scope}{key}" in state for key in _OF_THE_NET) for scope in ("", "model."))


def refuse(path: Path) -> NoReturn:
    """Raises the UserError that says why, and what to do instead."""
    raise UserError(
        f"{path}: of lucidrains' denoising-diffusion-pytorch, whose net is another than ours (root-mean-square "
        "norms, memory keys, linear attention, halving by stacked pixels) and cannot be converted; sample it with "
        "that package, or train on its pictures with ddpm train DATA"
    )
