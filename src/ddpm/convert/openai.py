"""OpenAI's .pt files (improved-diffusion, guided-diffusion) ↔ ours: models of pictures, upsamplers, classifiers.

Such a file is weights and nothing else. One table of keys serves both ways. What the shapes say of the model is
read from them; what they do not say (heads, the order of qkv, the noise, the picture's size, …) comes from options
or from OpenAI's flags in a file beside it, for a published file from its name, and is asked for otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm.build import build_net
from ddpm.checking import check
from ddpm.config import Config, NetConfig, from_json, to_json
from ddpm.convert.openai_flags import flags, from_flags, notes, sayable
from ddpm.convert.openai_shapes import FIXED, shaped
from ddpm.convert.published import PUBLISHED
from ddpm.convert.record import Foreign
from ddpm.errors import UserError
from ddpm.limits import check_limits
from ddpm.nets.levels import heads_at
from ddpm.presets import ORIGINS, preset
from ddpm.store import Description, Facts

__all__ = ["flags", "from_flags", "notes", "read", "recognises", "write"]

_NONE: Mapping[str, Any] = {}

# -- the table -----------------------------------------------------------------------------------------------

_BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "embed",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "shortcut",
}
_ATTENTION = {"norm": "norm", "qkv": "qkv", "proj_out": "out"}
_POINTWISE = ("qkv.weight", "proj_out.weight", "qkv_proj.weight", "c_proj.weight")  # Conv1d there, linear here


def keys(net: NetConfig, task: str) -> dict[str, str]:
    """Their key → ours, of every weight that such a net may have, in their order."""
    table = {f"{t}.{kind}": f"{o}.{kind}" for t, o in _modules(net, task) for kind in ("weight", "bias")}
    return {**table, "out.2.positional_embedding": "pool.position"} if task == "classifier" else table


def _modules(net: NetConfig, task: str) -> Iterator[tuple[str, str]]:
    """Their numbers run through all layers and samplings on the way down, and through all layers on the way up."""
    yield from {"time_embed.0": "time.0", "time_embed.2": "time.2", "label_emb": "label"}.items()
    yield "input_blocks.0.0", "conv_in"
    last, number = len(net.multipliers) - 1, 1
    for level in range(last + 1):
        for i in range(net.blocks):
            yield from _layer(f"input_blocks.{number}", f"down.{level}.{i}", level in net.attention)
            number += 1
        if level < last:
            yield from _sampling(f"input_blocks.{number}.0", "op", f"downsample.{level}", net)
            number += 1
    yield from _layer("middle_block", "middle1", True)
    yield from _inside("middle_block.2", "middle2.block", _BLOCK)
    if task == "classifier":
        yield "out.0", "norm_out"
        yield from _inside("out.2", "pool", {"qkv_proj": "qkv", "c_proj": "out"})
        return
    for up, level in enumerate(range(last, -1, -1)):
        attends = level in net.attention
        for i in range(net.blocks + 1):
            number = up * (net.blocks + 1) + i
            yield from _layer(f"output_blocks.{number}", f"up.{up}.{i}", attends)
        if level:
            yield from _sampling(f"output_blocks.{number}.{1 + attends}", "conv", f"upsample.{up}", net)
    yield from {"out.0": "norm_out", "out.2": "conv_out"}.items()


def _inside(theirs: str, ours: str, parts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for their, our in parts.items():
        yield f"{theirs}.{their}", f"{ours}.{our}"


def _layer(theirs: str, ours: str, attends: bool) -> Iterator[tuple[str, str]]:
    yield from _inside(f"{theirs}.0", f"{ours}.block", _BLOCK)
    if attends:
        yield from _inside(f"{theirs}.1", f"{ours}.attention", _ATTENTION)


def _sampling(theirs: str, conv: str, ours: str, net: NetConfig) -> Iterator[tuple[str, str]]:
    yield from _inside(theirs, ours, _BLOCK if net.resample == "block" else {conv: "conv"})


def _ours(key: str, value: Tensor) -> Tensor:
    """Their tensor in our shape, float32."""
    if key.endswith(_POINTWISE) and value.ndim == 3:
        value = value.squeeze(2)
    return (value.T.contiguous() if key.endswith("positional_embedding") else value).float()


def _theirs(key: str, value: Tensor) -> Tensor:
    """Our tensor in the shape that their key has."""
    if key.endswith("positional_embedding"):
        return value.T.contiguous()
    return value.unsqueeze(2) if key.endswith(_POINTWISE) else value


# -- ours → theirs -------------------------------------------------------------------------------------------


def write(weights: Mapping[str, Tensor], description: Description) -> dict[str, Tensor]:
    """Their state of our weights; UserError for what their code cannot compute or be told by `flags`.

    The order of qkv stays as it is: there it is a flag, use_new_attention_order.
    """
    config = sayable(description.config)
    if set(weights) != set(_expected(config, len(description.facts.classes))):
        raise UserError("its weights are not those of the net that it describes; was the file changed by hand?")
    table = keys(config.net, config.train.task)
    return {theirs: _theirs(theirs, weights[ours]) for theirs, ours in table.items() if ours in weights}


def _expected(config: Config, classes: int) -> dict[str, Tensor]:
    """What the net's state is like: keys and shapes, no numbers."""
    with torch.device("meta"):
        return dict(build_net(config, classes).state_dict())


# -- theirs → ours -------------------------------------------------------------------------------------------


def recognises(state: Mapping[str, Any], name: str) -> bool:
    """Whether a file is OpenAI's by its keys; also the state of an optimizer by its name, for `read` to refuse."""
    return "input_blocks.0.0.weight" in state or _is_optimizer(state, name)


def _is_optimizer(state: Mapping[str, Any], name: str) -> bool:
    return set(state) == {"state", "param_groups"} and re.fullmatch(r"opt\d+\.pt", Path(name).name) is not None


def read(state: Mapping[str, Any], name: str, given: Mapping[str, Any] = _NONE) -> Foreign:
    """Their state as a model of ours.

    name: the file's. given: fields of the config by dotted name, as {"net.heads": 4}, which win over what is known
    of a published file; UserError where they contradict the shapes, and for all that nothing says.
    """
    file = Path(name).name
    if _is_optimizer(state, name):
        step = file[len("opt") : -len(".pt")]
        raise UserError(
            f"{name}: the state of an optimizer, not a model; take ema_0.9999_{step}.pt (averaged weights) or "
            f"model{step}.pt beside it"
        )
    seen, classes = shaped(state, name, given)
    published = PUBLISHED.get(file)
    base = preset(published) if published else Config()
    if published:
        known = {field: _get(base, field) for field in seen} | {"classes": ORIGINS[published].classes}
        if wrong := _differences({**seen, "classes": classes}, known):
            raise UserError(
                f"{name}: not the file that OpenAI published under this name: {wrong}; give it another name, and "
                "options or flags for what its shapes do not say"
            )
    if wrong := _differences(seen, given):
        raise UserError(f"{name}: its shapes say otherwise than what is given: {wrong}; leave that out")
    fields = {"net.dropout": 0.0, "data.labels": "auto" if classes else "none"} if not published else {}
    fields |= {field: value for field, value in seen.items() if value != FIXED} | dict(given)
    if "net.heads" in given:
        fields.setdefault("net.head_channels", 0)
    if not published and (asked := _unknown(fields)):
        raise UserError(
            f"{name}: these weights fit several models; give what its training's flags said, as options or as "
            f"JSON in {file}.json beside it: {'; '.join(asked)}"
        )
    trained = _step(file, base.train.steps if published else 0)
    if trained:
        fields["train.steps"] = trained
    if fields.get("denoiser.variance") == "learned_range" and not published:
        fields.setdefault("loss.kind", "hybrid")
    values = to_json(base)
    for field, value in fields.items():
        section, _, item = field.partition(".")
        values[section][item] = value
    try:
        config = check(from_json(Config, values, "config"))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    check_limits(config, name)
    facts = Facts(classes=tuple(map(str, range(classes))))
    said = (f"OpenAI's published {file}: what the shapes do not say is taken from --preset {published}",)
    return Foreign(
        "openai",
        _weights(state, config, classes, name),
        Description(config, facts, trained),
        said if published else (),
    )


def _weights(state: Mapping[str, Tensor], config: Config, classes: int, name: str) -> dict[str, Tensor]:
    """Their state under our names; UserError unless it is that of the net in the config, key by key."""
    try:
        expected = _expected(config, classes)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    table = keys(config.net, config.train.task)
    wanted = {theirs: ours for theirs, ours in table.items() if ours in expected}
    problems = [f"lacks {key}" for key in wanted if key not in state]
    problems += [f"has {key}, for which there is no place" for key in state if key not in wanted]
    if problems:
        more = f", and {len(problems) - 1} more such keys" if len(problems) > 1 else ""
        raise UserError(f"{name}: not a whole net of OpenAI's: it {problems[0]}{more}")
    weights = {ours: _ours(theirs, state[theirs]) for theirs, ours in wanted.items()}
    for theirs, ours in wanted.items():
        if weights[ours].shape != expected[ours].shape:
            raise UserError(
                f"{name}: not a net of OpenAI's: {theirs} is {_by(state[theirs].shape)} numbers, "
                f"{_by(_theirs(theirs, expected[ours]).shape)} in a net with its other shapes"
            )
    return weights


def _step(file: str, otherwise: int) -> int:
    """The step in a file's name: of model010000.pt, ema_0.9999_010000.pt, or cifar10_uncond_50M_500K.pt."""
    if match := re.fullmatch(r"(?:model|ema_[\d.]+_)(\d+)\.pt", file):
        return int(match[1])
    match = re.search(r"_(\d+)K[_.]", file) if file in PUBLISHED else None
    return int(match[1]) * 1000 if match else otherwise


# -- what they do not say ------------------------------------------------------------------------------------

_USUAL = {
    "net.heads": "--net.heads 4 or --net.head-channels 64 (num_heads, num_head_channels)",
    "net.qkv": "--net.qkv legacy, or split (use_new_attention_order)",
    "chain.schedule": "--chain.schedule linear or cosine (noise_schedule)",
    "chain.steps": "--chain.steps 1000 or 4000 (diffusion_steps)",
    "chain.rescale": "--chain.no-rescale as in guided-diffusion, or --chain.rescale (rescale_timesteps)",
    "denoiser.predicts": "--denoiser.predicts eps, or x0 (predict_xstart)",
    "denoiser.variance": "--denoiser.variance large, or small (sigma_small)",
    "data.size": "--data.size 64 64 (image_size, large_size)",
    "data.low_size": "--data.low-size 16 16 (small_size)",
}
_CLASSIFIER_HEADS = "--net.head-channels 64 as in all of their classifiers"


def _unknown(fields: Mapping[str, Any]) -> list[str]:
    """What is still to be asked for: the options, with what they usually are."""
    task, net = fields["train.task"], {"net.heads": 1, "net.head_channels": 0, **fields}
    has_heads = "net.heads" in fields or bool(fields.get("net.head_channels"))
    attending = [fields["net.multipliers"][level] for level in {*fields["net.attention"], -1}]
    widths = [round(multiple * fields["net.channels"]) for multiple in attending]
    single = all(heads_at(width, net["net.heads"], net["net.head_channels"]) == 1 for width in widths)
    needless = {
        "net.heads": has_heads,
        "net.qkv": has_heads and single,  # then both orders are the same
        "denoiser.predicts": task == "classifier",
        "denoiser.variance": task == "classifier",
        "data.low_size": task != "upsampler",
    }
    usual = {**_USUAL, "net.heads": _CLASSIFIER_HEADS} if task == "classifier" else _USUAL
    return [option for field, option in usual.items() if field not in fields and not needless.get(field)]


def _differences(are: Mapping[str, Any], said: Mapping[str, Any]) -> str:
    """Where what is said is not what is."""
    told = {field: FIXED if value in ("small", "large") else value for field, value in said.items()}
    wrong = [field for field in are if field in told and told[field] != are[field]]
    return ", ".join(f"{field} is {_show(are[field])}, not {_show(said[field])}" for field in wrong)


def _show(value: Any) -> str:
    return " ".join(f"{v:g}" for v in value) or "none" if isinstance(value, tuple) else str(value)


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _get(config: Config, field: str) -> Any:
    section, _, item = field.partition(".")
    return getattr(getattr(config, section), item)
