"""OpenAI's command-line flags ↔ fields of the config: what their files do not say of a model, its flags do.

The flags are guided-diffusion's, which are improved-diffusion's and some more. Written as JSON beside an exported
file they make it readable again without options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from ddpm.config import Config, from_json
from ddpm.denoiser import LEARNED
from ddpm.errors import UserError
from ddpm.store import Description

Multipliers = tuple[int | float, ...]

_GROUPS = 32  # of all normalisations there
_CLASSES = 1000  # NUM_CLASSES in script_util.py
_CLASSIFIER_HEADS = 64  # channels of a head, in create_classifier
_MULTIPLIERS: dict[int, Multipliers] = {
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}
_UPSAMPLER_MULTIPLIERS = {64: _MULTIPLIERS[64], 256: _MULTIPLIERS[256], 512: _MULTIPLIERS[256]}


@dataclass(frozen=True)
class Flags:
    """The flags that say what a model is, and their types; the defaults are guided-diffusion's."""

    image_size: int = 64
    large_size: int = 256
    small_size: int = 64
    num_channels: int = 128
    num_res_blocks: int = 2
    num_heads: int = 4
    num_heads_upsample: int = -1
    num_head_channels: int = -1
    attention_resolutions: str = "16,8"
    channel_mult: str = ""
    dropout: float = 0.0
    class_cond: bool = False
    use_scale_shift_norm: bool = True
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    classifier_width: int = 128
    classifier_depth: int = 2
    classifier_attention_resolutions: str = "32,16,8"
    classifier_use_scale_shift_norm: bool = True
    classifier_resblock_updown: bool = True
    classifier_pool: Literal["attention"] = "attention"
    learn_sigma: bool = False
    sigma_small: bool = False
    diffusion_steps: int = 1000
    noise_schedule: Literal["linear", "cosine"] = "linear"
    use_kl: bool = False
    predict_xstart: bool = False
    rescale_timesteps: bool = False
    rescale_learned_sigmas: bool = False
    clip_denoised: bool = True


class _Flag(NamedTuple):
    """A flag that is one field: its value from ours, and ours from its."""

    name: str
    field: str
    theirs: Callable[[Any], Any] = lambda value: value
    ours: Callable[[Any], Any] = lambda value: value


def _choice(name: str, field: str, yes: str, no: str) -> _Flag:
    return _Flag(name, field, lambda value: value == yes, lambda value: yes if value else no)


def _square(name: str, field: str) -> _Flag:
    return _Flag(name, field, lambda size: size[0], lambda side: (side, side))


_NOISE = (
    _Flag("diffusion_steps", "chain.steps"),
    _Flag("noise_schedule", "chain.schedule"),
    _Flag("rescale_timesteps", "chain.rescale"),
)
_HEADS = (
    _Flag("num_heads", "net.heads"),
    _Flag("num_head_channels", "net.head_channels", lambda n: n or -1, lambda n: max(n, 0)),
)
_ORDER = _choice("use_new_attention_order", "net.qkv", "split", "legacy")
_SIZE = _square("image_size", "data.size")
_UNET = (
    _Flag("num_channels", "net.channels"),
    _Flag("num_res_blocks", "net.blocks"),
    *_HEADS,
    _Flag("dropout", "net.dropout"),
    _Flag("use_scale_shift_norm", "net.scale_shift"),
    _choice("resblock_updown", "net.resample", "block", "conv"),
    _choice("predict_xstart", "denoiser.predicts", "x0", "eps"),
    *_NOISE,
)
_TASKS = {
    "image": (_SIZE, *_UNET, _ORDER),
    "upsampler": (_square("large_size", "data.size"), _square("small_size", "data.small"), *_UNET),
    "classifier": (
        _SIZE,
        _Flag("classifier_width", "net.channels"),
        _Flag("classifier_depth", "net.blocks"),
        _Flag("classifier_use_scale_shift_norm", "net.scale_shift"),
        _choice("classifier_resblock_updown", "net.resample", "block", "conv"),
        *_NOISE,
    ),
}


def flags(description: Description) -> dict[str, Any]:
    """The flags of a model; UserError for what they cannot say.

    A flag that only some of their scripts know is there only where it is not as the others have it: see `notes`.
    """
    config = sayable(description.config)
    task, net, model = config.train.task, config.net, config.denoiser
    said = {flag.name: flag.theirs(_get(config, flag.field)) for flag in _TASKS[task]}
    side = config.data.size[0]
    # Resolutions are those of the features; one that there is not stands for no attention at all.
    resolutions = ",".join(str(side // 2**level) for level in sorted(net.attention)) or str(2 * side)
    if task == "classifier":
        said |= {"classifier_attention_resolutions": resolutions, "classifier_pool": "attention"}
        if net.head_channels != _CLASSIFIER_HEADS:
            said["num_head_channels"] = net.head_channels
    else:
        said |= {
            "attention_resolutions": resolutions,
            "class_cond": len(description.facts.classes) > 0,
            "learn_sigma": model.variance in LEARNED,
            "use_kl": config.loss.kind == "vlb",
            "rescale_learned_sigmas": config.loss.kind == "hybrid" and config.loss.vlb_weight != _unscaled(config),
        }
        if not model.clip:
            said["clip_denoised"] = False
        if model.variance == "small":
            said["sigma_small"] = True
    if task == "image":
        usual = net.multipliers == _MULTIPLIERS.get(side)
        said["channel_mult"] = "" if usual else ",".join(f"{multiple:g}" for multiple in net.multipliers)
    elif net.qkv == "split":
        said["use_new_attention_order"] = True
    return said


def from_flags(flags: Mapping[str, Any], where: str = "flags", classifies: bool = True) -> dict[str, Any]:
    """The fields of the config that flags say, by dotted name; those that say nothing of a model are passed over.

    A flag that is left out says nothing, since the defaults of their two projects differ. where: the file of the
    flags, for the UserError that names one of a wrong type. classifies: False for a model of pictures; the flags
    of the classifier that guides it often stand beside its own, and are passed over.
    """
    if not classifies:
        flags = {name: value for name, value in flags.items() if not name.startswith("classifier_")}
    known = {field.name for field in fields(Flags)}
    read = from_json(Flags, {name: value for name, value in flags.items() if name in known}, where)
    given = {
        flag.field: flag.ours(getattr(read, flag.name))
        for task, table in _TASKS.items()
        for flag in table
        if flag.name in flags and (classifies or task != "classifier")
    }
    if "data.small" in given:
        given["data.low_size"] = given.pop("data.small")
    if read.diffusion_steps < 1:
        raise UserError(f"{where}.diffusion_steps: holds {read.diffusion_steps}; is at least 1")
    if {"classifier_width", "classifier_depth", "classifier_pool"} & set(flags):
        given.setdefault("net.head_channels", _CLASSIFIER_HEADS)
    if {"classifier_width", "classifier_depth", "classifier_pool", "large_size"} & set(flags):
        given.setdefault("net.qkv", "legacy")  # their scripts have no flag for it
    if read.num_heads_upsample not in (-1, read.num_heads) and read.num_head_channels == -1:
        raise UserError(
            f"{where}.num_heads_upsample: holds {read.num_heads_upsample}; our nets have as many heads on the way "
            f"up as on the way down ({read.num_heads})"
        )
    if "learn_sigma" in flags and read.learn_sigma:
        given["denoiser.variance"] = "learned_range"
        given["loss.kind"] = "vlb" if read.use_kl else "hybrid"
        if "diffusion_steps" in flags and not read.rescale_learned_sigmas:
            given["loss.vlb_weight"] = 1 / read.diffusion_steps
    elif "learn_sigma" in flags:
        given["denoiser.variance"] = "small" if read.sigma_small else "large"
        given["loss.kind"] = "vlb" if read.use_kl else "simple"
    if "clip_denoised" in flags:
        given["denoiser.clip"] = read.clip_denoised
    return given


def sayable(config: Config) -> Config:
    """The config itself; UserError names what neither their nets nor their flags can be."""
    task, net, data = config.train.task, config.net, config.data
    chain, model = config.chain, config.denoiser
    classifies = task == "classifier"
    rules: list[tuple[str, Any, bool, str]] = [
        ("--net.style", net.style, net.style == "openai", "their nets have the style openai"),
        ("--net.patch", net.patch, net.patch == 1, "their nets take single pixels"),
        ("--net.groups", net.groups, net.groups == _GROUPS, f"their normalisations have {_GROUPS} groups"),
        ("--data.size", data.size, data.size[0] == data.size[1], "their pictures are squares"),
        (
            "--data.low-size",
            data.low_size,
            task != "upsampler" or data.small[0] == data.small[1],
            "their small pictures are squares",
        ),
        (
            "--net.head-channels",
            net.head_channels,
            not classifies or net.head_channels > 0,
            "the heads of their classifiers are so many channels each, not so many",
        ),
        (
            "--chain.schedule",
            chain.schedule,
            chain.schedule in ("linear", "cosine"),
            "they have linear and cosine",
        ),
        (
            "--denoiser.predicts",
            model.predicts,
            classifies or model.predicts in ("eps", "x0"),
            "their nets predict eps or x0",
        ),
        (
            "--denoiser.variance",
            model.variance,
            classifies or model.variance != "learned",
            "they learn a variance as learned_range",
        ),
    ]
    for option, value, holds, rule in rules:
        if not holds:
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            raise UserError(f"{option} {shown}: OpenAI's format cannot say it ({rule}); take --to ddpm")
    return config


def notes(description: Description) -> tuple[str, ...]:
    """What their scripts cannot be told of a model that their code can compute, and what is lost."""
    config, classes = description.config, len(description.facts.classes)
    task, net, side = config.train.task, config.net, config.data.size[0]
    said = []
    if classes not in (0, _CLASSES):
        said.append(f"it has {classes} classes, OpenAI's scripts {_CLASSES}: set NUM_CLASSES in script_util.py")
    if config.data.channels != 3:
        said.append(
            f"it has {config.data.channels} channels, OpenAI's scripts 3: set in_channels in script_util.py"
        )
    usual = (_UPSAMPLER_MULTIPLIERS if task == "upsampler" else _MULTIPLIERS).get(side)
    whole = all(isinstance(multiple, int) for multiple in net.multipliers)
    if net.multipliers != usual and not (task == "image" and whole):
        said.append(
            f"OpenAI's scripts have no multipliers {' '.join(f'{m:g}' for m in net.multipliers)} for {side} "
            "pixels: set channel_mult in script_util.py"
        )
    heads = task == "classifier" and net.head_channels != _CLASSIFIER_HEADS
    if heads:
        said.append(f"OpenAI's scripts have heads of {_CLASSIFIER_HEADS} channels: set num_head_channels there")
    if task != "image" and net.qkv == "split":
        said.append("OpenAI's scripts have the legacy order here: set use_new_attention_order in script_util.py")
    if task != "classifier" and config.denoiser.variance == "small":
        said.append("sigma_small is a flag of improved-diffusion's scripts alone")
    if config.train.label_drop:
        said.append("OpenAI's nets have no label for no class: classifier-free guidance is lost")
    return tuple(said)


def _unscaled(config: Config) -> float:
    """The weight of the bound without rescale_learned_sigmas: of one of its T terms."""
    return 1 / config.chain.steps


def _get(config: Config, field: str) -> Any:
    section, _, item = field.partition(".")
    return getattr(getattr(config, section), item)
