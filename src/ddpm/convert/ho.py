"""Ho et al.'s TensorFlow variables → our U-Net of style "ho", and the same net under PyTorch's names.

    model/down_0/block_1/conv1/W     [3, 3, in, out]   →   down.0.1.block.conv1.weight    [out, in, 3, 3]
    model/mid/attn_1/q/W             [in, out]         →   rows of middle1.attention.qkv.weight

`up_0` is their finest level, and ours is the last: it runs last. The PyTorch port that other projects took
(`down.0.block.1.conv1.weight`) differs by names and layout alone. Weights do not say on what chain they were
trained, nor at which size: both come from what is given, from a preset, or from a published checkpoint's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from ddpm.config import Config
from ddpm.convert.record import Foreign
from ddpm.errors import UserError
from ddpm.limits import check_limits
from ddpm.presets import PRESETS, preset
from ddpm.store import Description, Facts

_AVERAGED = "/ExponentialMovingAverage"
_KINDS = {"W": "weight", "b": "bias", "gamma": "weight", "beta": "bias"}

# The port's name, with # for a number, and ours: {0}, {1} stand for the numbers, {up} for the first from the end.
_TABLE = {
    "conv_in": "conv_in",
    "temb.dense.0": "time.0",
    "temb.dense.1": "time.2",
    "down.#.block.#": "down.{0}.{1}.block",
    "down.#.attn.#": "down.{0}.{1}.attention",
    "down.#.downsample.conv": "downsample.{0}.conv",
    "mid.block_1": "middle1.block",
    "mid.attn_1": "middle1.attention",
    "mid.block_2": "middle2.block",
    "up.#.block.#": "up.{up}.{1}.block",
    "up.#.attn.#": "up.{up}.{1}.attention",
    "up.#.upsample.conv": "upsample.{up}.conv",
    "norm_out": "norm_out",
    "conv_out": "conv_out",
}
_INSIDE = {
    "norm1": "norm1",
    "conv1": "conv1",
    "temb_proj": "embed",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "shortcut",
    "norm": "norm",
    "q": "qkv",
    "k": "qkv",
    "v": "qkv",
    "proj_out": "out",
}
_PATTERNS = [
    (re.compile(re.escape(theirs).replace(r"\#", r"(\d+)") + r"(?:\.|$)"), ours) for theirs, ours in _TABLE.items()
]

# A published checkpoint's folder, diffusion_cifar10_model, and the presets it may be of: the shapes tell which.
_PUBLISHED = {
    "cifar10": ("cifar10",),
    "lsun_bedroom": ("lsun-bedroom256", "lsun-bedroom256-large"),
    "lsun_cat": ("lsun-cat256",),
    "lsun_church": ("lsun-church256",),
    "celeba_?hq": ("celebahq256",),
}
# What the weights do not say, and an example of how it is said.
_UNKNOWN = {
    "data.size": "32 32",
    "chain.schedule": "linear",
    "chain.steps": "1000",
    "denoiser.predicts": "eps",
    "denoiser.variance": "large",
}
# What his net has no other of.
_ALWAYS = {"net.style": "ho", "net.patch": 1, "net.heads": 1, "net.scale_shift": False, "net.resample": "conv"}
_SHAPED = ("channels", "multipliers", "blocks", "attention")


def recognises(names: Iterable[str]) -> bool:
    """Whether these are the names of his variables, or of the port's weights."""
    return any(_bare(name.removesuffix(_AVERAGED)) in ("temb/dense0/W", "temb.dense.0.weight") for name in names)


def read(state: Mapping[str, Tensor], name: str, given: Mapping[str, Any], weights: str = "ema") -> Foreign:
    """The net of his variables, or of the port's weights, as one of ours.

    Args:
        name: the file, for messages; a published checkpoint is known by it.
        given: dotted fields of the config, and "preset", for what the weights do not say.
        weights: "ema" or "model", where the variables have both.
    """
    chosen, notes = _choose(state, weights)
    try:
        ported = _ported(chosen)
        net, channels, learned = _net({key: tuple(value.shape) for key, value in ported.items()})
        made = _ours(ported, len(net["multipliers"]), name)
    except KeyError as error:
        raise UserError(f"{name}: Ho et al.'s U-Net, but {error.args[0]} is missing; fetch it again") from None
    except (RuntimeError, ValueError, ZeroDivisionError) as error:  # of shapes that do not go together
        raise UserError(
            f"{name}: Ho et al.'s names, but not the shapes of his U-Net ({error}); fetch it again"
        ) from None
    config, where = _config(name, given, net, channels, learned)
    check_limits(config, name)
    if where:
        notes.append(where)
    step = re.search(r"model(?:\.ckpt)?-(\d+)", PurePath(name).name)
    return Foreign("ho", made, Description(config, Facts(), int(step.group(1)) if step else 0), tuple(notes))


# -- names and layout ------------------------------------------------------------------------------------------


def _bare(name: str) -> str:
    """A variable's name without the scope it stands in."""
    found = re.search(r"(?:^|[/.])((?:temb|conv_in|conv_out|norm_out|down[_.]|mid|up[_.]).*)", name)
    return found.group(1) if found else name


def _choose(state: Mapping[str, Tensor], weights: str) -> tuple[dict[str, Tensor], list[str]]:
    """Of the averaged variables and the plain ones those asked for, by their bare names; what to say of it."""
    averaged = {_bare(key.removesuffix(_AVERAGED)): v for key, v in state.items() if key.endswith(_AVERAGED)}
    plain = {_bare(key): v for key, v in state.items() if _is_variable(key)}
    if weights == "model" or not averaged:
        lacks = weights == "ema" and "temb/dense0/W" in plain
        return plain, ["has no averaged variables: these are the weights as they are"] if lacks else []
    return averaged, []


def _is_variable(key: str) -> bool:
    """A weight of the net itself: neither an average, nor one of the optimizer's, nor a counter."""
    kind = re.split(r"[/.]", key)[-1]
    return kind in _KINDS or kind in _KINDS.values()


def _ported(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """His variables by the port's names and in PyTorch's layout; the port's own as they are."""
    made = {}
    for name, value in state.items():
        path, slash, kind = name.rpartition("/")
        if slash:
            if value.dim() > 1:  # [height, width, in, out] or [in, out]
                value = value.permute(3, 2, 0, 1) if value.dim() == 4 else value.t()
            path = re.sub(r"\b(down|up|dense)_?(\d+)", r"\1.\2", path)
            path = re.sub(r"\b((?:down|up)\.\d+/(?:block|attn))_(\d+)", r"\1.\2", path)
            name = f"{path.replace('/', '.')}.{_KINDS[kind]}"
        made[name] = value.float()
    return made


def _ours(ported: Mapping[str, Tensor], levels: int, where: str) -> dict[str, Tensor]:
    """The port's weights by our names; UserError says which has no place there."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in ported.items():
        found = _renamed(key, levels)
        if found is None:
            raise UserError(f"{where}: {key} has no place in Ho et al.'s U-Net; other nets cannot be read so")
        parts.setdefault(found[0], {})[found[1]] = value
    made = {}
    for name, values in parts.items():
        whole = torch.cat([values[part] for part in sorted(values, key="qkv".find)])
        if name.endswith(".shortcut.weight"):  # his matrix is our 1 x 1 convolution, and the port's already
            whole = whole.reshape(*whole.shape[:2], 1, 1)
        elif ".attention." in name and whole.dim() == 4:  # the port's 1 x 1 convolution is our matrix
            whole = whole.flatten(1)
        made[name] = whole.contiguous()
    return made


def _renamed(key: str, levels: int) -> tuple[str, str] | None:
    """Our name for the port's, and which part of it this is; None for none."""
    path, _, kind = key.rpartition(".")
    for pattern, ours in _PATTERNS:
        match = pattern.match(path)
        rest = path[match.end() :] if match else ""
        if match and (not rest or rest in _INSIDE):
            numbers = [int(number) for number in match.groups()]
            placed = ours.format(*numbers, up=levels - 1 - numbers[0] if numbers else 0)
            return ".".join(filter(None, [placed, _INSIDE.get(rest, ""), kind])), rest
    return None


# -- what the net is -------------------------------------------------------------------------------------------


def _net(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Any], int, bool]:
    """What the shapes say: fields of the net, the pictures' channels, whether the variance is learned."""
    width, channels = shapes["conv_in.weight"][:2]
    levels = 1 + max((int(key.split(".")[1]) for key in shapes if key.startswith("down.")), default=-1)
    widths = [shapes[f"down.{level}.block.0.conv1.weight"][0] for level in range(levels)]
    blocks = len([key for key in shapes if re.fullmatch(r"down\.0\.block\.\d+\.conv1\.weight", key)])
    attention = tuple(level for level in range(levels) if f"down.{level}.attn.0.norm.weight" in shapes)
    multipliers = tuple(wide // width if wide % width == 0 else wide / width for wide in widths)
    net = {"channels": width, "multipliers": multipliers, "blocks": blocks, "attention": attention}
    return net, channels, shapes["conv_out.weight"][0] == 2 * channels


def _config(
    name: str, given: Mapping[str, Any], net: Mapping[str, Any], channels: int, learned: bool
) -> tuple[Config, str]:
    """The whole config, and what to say of where the unknown came from; UserError asks for what nobody said."""
    fields = {f"net.{key}": value for key, value in net.items()}
    fields |= {"data.channels": channels, **_ALWAYS}
    if learned:
        fields |= {"denoiser.variance": "learned", "loss.kind": "vlb"}
    for option, value in given.items():
        if option in fields and value != fields[option]:
            raise UserError(
                f"--{option.replace('_', '-')} {_said(value)}: the weights of {name} say {_said(fields[option])}; "
                "leave it out"
            )
    chosen, where = _preset(name, given, net, channels)
    said = {**fields, **{option: value for option, value in given.items() if "." in option}}
    missing = [option for option in _UNKNOWN if option not in said]
    if missing and chosen is None:
        options = " ".join(f"--{option} {_UNKNOWN[option]}" for option in missing)
        raise UserError(
            f"{name}: its weights do not say {', '.join(missing)}; give them: "
            f"{options}, or for all of it --preset cifar10"
        )
    return (chosen or Config()).with_(**{key.replace(".", "__"): value for key, value in said.items()}), where


def _preset(
    name: str, given: Mapping[str, Any], net: Mapping[str, Any], channels: int
) -> tuple[Config | None, str]:
    """The preset that was named, or that of a published checkpoint with this name and these shapes."""

    def fits(config: Config) -> bool:
        same = all(getattr(config.net, field) == net[field] for field in _SHAPED)
        return same and config.net.style == "ho" and config.data.channels == channels

    if given.get("preset"):
        config = preset(given["preset"])
        if not fits(config):
            which = [one for one, make in PRESETS.items() if fits(make())]
            hint = f"; those of {', '.join(which)} do" if which else ""
            raise UserError(f"--preset {given['preset']}: its net does not fit the weights of {name}{hint}")
        return config, ""
    for published, presets in _PUBLISHED.items():
        if re.search(rf"diffusion_{published}_model", name):
            for one in presets:
                if fits(preset(one)):
                    return preset(one), f"size, chain and variance are those of {one}, as its name says"
    return None, ""


def _said(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
