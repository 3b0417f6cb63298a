"""Folders of diffusers ↔ ours: a DDPMPipeline, or what else holds a `UNet2DModel`.

    pipeline               model_index.json, unet/{config.json, diffusion_pytorch_model.safetensors or .bin},
                           scheduler/scheduler_config.json
    as of old              the same files without folders, as google/ddpm-cifar10-32
    training's checkpoint  checkpoint-500/{unet, unet_ema}, its scheduler in the folder above if anywhere
    U-Net alone            config.json and weights; its noise has to be given

A pipeline written here carries our description in the header of its weights, and loses nothing on the way back:
names of classes, the plan, the order of qkv. Where the JSON beside says otherwise by then, the JSON is believed.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ddpm.atomic import write_bytes, write_json
from ddpm.build import build_net
from ddpm.checking import check
from ddpm.config import Config, NetConfig, from_json, to_json
from ddpm.convert.diffusers import diffusers_weights, modern, unet_weights
from ddpm.convert.diffusers_scheduler import SCHEDULER, read_scheduler, scheduler_config
from ddpm.convert.diffusers_unet import UNET, VERSION, read_unet, unet_config
from ddpm.convert.pickles import check_weights, read_pickle
from ddpm.convert.record import Foreign
from ddpm.denoiser import LEARNED
from ddpm.errors import UserError, short
from ddpm.limits import check_limits
from ddpm.reading import parse_json, read_json
from ddpm.store import Description, Facts, open_weights

_WEIGHTS = "diffusion_pytorch_model"
_FILES = tuple(f"{_WEIGHTS}{kind}" for kind in (".safetensors", ".bin", ".fp16.safetensors", ".fp16.bin"))
_SCHEDULER = "scheduler_config.json"
_NONE: Mapping[str, Any] = {}
# What a scheduler says, as options that say it.
_USUAL = {
    "chain.schedule": "--chain.schedule linear or cosine",
    "chain.steps": "--chain.steps 1000",
    "denoiser.predicts": "--denoiser.predicts eps, x0 or v",
    "denoiser.variance": "--denoiser.variance small or large",
}


@dataclass(frozen=True)
class _Place:
    """Where the parts of a model are; step and notes as their names tell."""

    config: Path
    weights: Path
    scheduler: Path | None
    step: int
    notes: tuple[str, ...]


def recognises(path: Path) -> bool:
    """Whether a folder is one of diffusers."""
    if not path.is_dir():
        return False
    if any((path / name).is_file() for name in ("model_index.json", "unet/config.json", "unet_ema/config.json")):
        return True
    if not (path / "config.json").is_file():
        return False
    try:
        values = read_json(path / "config.json")
    except UserError:  # who reads it says what is wrong with it
        return False
    return isinstance(values, dict) and "_class_name" in values


# -- theirs → ours -----------------------------------------------------------------------------------------------


def read(folder: Path, given: Mapping[str, Any] = _NONE, weights: str = "ema") -> Foreign:
    """The model in a folder.

    Args:
        given: fields of the config by dotted name, for what the folder does not say; they win over what the
            scheduler says. The net is as it is.
        weights: "ema" or "model", where a training's checkpoint has both.

    UserError names the file, the key and the rule of what cannot be one of ours, or what is still to be given.
    """
    place = _find(folder, weights)
    net = _table(place.config)
    noise = _table(place.scheduler) if place.scheduler else None
    described, same_net, same_noise = _described(_header(place.weights), net, noise)
    notes, fields = list(place.notes), dict[str, Any]()
    if described is None or not same_net:
        if described is not None:
            notes.append(f"{place.config}: changed since ddpm wrote it; what its weights say of it is left out")
        fields, classes, said = read_unet(place.config, net)
        notes += [note for note in said if "net.heads" not in given and "net.head_channels" not in given]
        if "data.size" not in fields and "data.size" not in given:
            raise UserError(f"{place.config}: sample_size null: does not say the pictures' size; give --data.size")
        fields |= {"train.steps": place.step} if place.step else {}
        described = Description(Config(), Facts(classes=tuple(map(str, range(classes)))), place.step)
    if not same_noise:
        fields |= _noise(place, net, noise, given, notes)
    config = _with(described.config, fields, place.config)
    _check_given(config, given, place.config, "attention_head_dim" in net)
    description = dataclasses.replace(described, config=_meant(config, given, place.config))
    state = _load(place.weights)
    _check_weights(state, _expected(description, place.config), place.weights)
    ours = {key: value.float() for key, value in unet_weights(state, **_order(description.config.net)).items()}
    return Foreign("diffusers", ours, description, tuple(notes))


def _table(path: Path) -> dict[str, Any]:
    """What stands in a JSON file."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds {short(values)}; it is a table of settings")
    return values


def _find(folder: Path, weights: str) -> _Place:
    """The parts of a folder's model."""
    index = folder / "model_index.json"
    if index.is_file():
        _check_index(index)
    names = ("unet", "unet_ema") if index.is_file() or weights == "model" else ("unet_ema", "unet")
    places = [folder / name for name in names if (folder / name / "config.json").is_file()]
    where = places[0] if places else folder
    if not (where / "config.json").is_file():
        raise UserError(f"{where / 'config.json'}: missing; a folder of diffusers has one beside its weights")
    notes = [f"{folder}: has {where.name} and {other.name}; {where.name} is taken" for other in places[1:]]
    found = [where / name for name in _FILES if (where / name).is_file()]
    if not found:
        if next(where.glob(f"{_WEIGHTS}*.index.json"), None):
            raise UserError(f"{where}: its weights are in several files; save them in one (max_shard_size)")
        raise UserError(f"{where}: has no weights; they are {_FILES[0]} or {_FILES[1]}")
    if "fp16" in found[0].name:
        notes.append(f"{found[0]}: in half precision; there are no others")
    around = [where]
    while re.fullmatch(r"unet|unet_ema|checkpoint-\d+", around[-1].name):
        around.append(around[-1].parent)
    schedulers = [one / name for one in around for name in (_SCHEDULER, f"scheduler/{_SCHEDULER}")]
    scheduler = next((path for path in schedulers if path.is_file()), None)
    step = next((int(one.name.split("-")[1]) for one in around if re.fullmatch(r"checkpoint-\d+", one.name)), 0)
    return _Place(where / "config.json", found[0], scheduler, step, tuple(notes))


def _check_index(path: Path) -> None:
    """UserError for a pipeline of more than a U-Net and its noise."""
    index = read_json(path)
    parts = {name: of for name, of in index.items() if isinstance(of, list)} if isinstance(index, dict) else {}
    more = [name for name, of in parts.items() if name not in ("unet", "scheduler") and any(of)]
    if more or "unet" not in parts:
        why = f"has {', '.join(more)} besides" if more else "has no unet"
        raise UserError(
            f"{path}: this pipeline {why}; only a U-Net of pixels with its scheduler can be one of ours"
        )


def _header(path: Path) -> str | None:
    """What ddpm wrote into the weights about them; None if it did not write them."""
    if path.suffix == ".bin":
        return None
    with path.open("rb") as file:
        if file.read(32).startswith(b"version https://git-lfs"):
            raise UserError(f"{path}: a Git LFS pointer, not the weights; fetch them with git lfs pull")
    with open_weights(path) as opened:
        header: str | None = (opened.metadata() or {}).get("ddpm")
        return header


def _load(path: Path) -> dict[str, Tensor]:
    """The tensors in a file."""
    if path.suffix == ".bin":
        state = read_pickle(path)
    else:
        with open_weights(path) as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    check_weights(state, path)
    return {str(key): value for key, value in state.items()}


def _described(
    header: str | None, net: Mapping[str, Any], noise: Mapping[str, Any] | None
) -> tuple[Description | None, bool, bool]:
    """Our description in the weights, and whether config.json and the scheduler's still say the same.

    A scheduler that is not there says nothing else.
    """
    if header is None:
        return None, False, False
    try:
        described = Description.from_json(parse_json(header, "header"), "header")
        wrote = unet_config(described.config, len(described.facts.classes))
        drawn = scheduler_config(described.config)
    except (ValueError, UserError):
        return None, False, False
    if not _agrees(net, wrote, UNET):
        return described, False, False
    return described, True, noise is None or _agrees(noise, drawn, SCHEDULER)


def _agrees(values: Mapping[str, Any], wrote: Mapping[str, Any], otherwise: Mapping[str, Any]) -> bool:
    """Whether a file still says what was written, in all that is read from it."""
    said, same_class = {**otherwise, **values}, values.get("_class_name") == wrote["_class_name"]
    return same_class and all(said[key] == wrote.get(key, usual) for key, usual in otherwise.items())


def _noise(
    place: _Place,
    net: Mapping[str, Any],
    noise: Mapping[str, Any] | None,
    given: Mapping[str, Any],
    notes: list[str],
) -> dict[str, Any]:
    """The fields that a scheduler tells; UserError for what neither it nor the options do."""
    fields: dict[str, Any] = {}
    learns = net.get("out_channels", UNET["out_channels"]) != net.get("in_channels", UNET["in_channels"])
    if place.scheduler is not None and noise is not None:
        fields, said = read_scheduler(place.scheduler, noise, learns)
        notes += said if "denoiser.variance" not in given else ()
    usual = {**_USUAL, "denoiser.variance": "--denoiser.variance learned_range"} if learns else _USUAL
    asked = [option for name, option in usual.items() if name not in fields and name not in given]
    if asked:
        why = f"{place.scheduler} does not say all of its noise" if noise else f"there is no {_SCHEDULER} with it"
        raise UserError(f"{place.config.parent}: {why}; give {'; '.join(asked)}")
    return fields


def _with(config: Config, fields: Mapping[str, Any], where: Path) -> Config:
    """The config with fields changed, by dotted name; UserError for a value of a wrong type."""
    values = to_json(config)
    for name, value in fields.items():
        section, _, item = name.partition(".")
        values.setdefault(section, {})[item] = value
    return from_json(Config, values, f"{where}: config")


def _meant(config: Config, given: Mapping[str, Any], where: Path) -> Config:
    """The config with what is given, and without what that replaces; UserError if it cannot be."""
    replaced: dict[str, Any] = {"net.head_channels": 0} if "net.heads" in given else {}
    if given.get("chain.schedule", "betas") != "betas":
        replaced["chain.betas"] = ()
    config = _with(config, {**replaced, **given}, where)
    if config.denoiser.variance in LEARNED and config.loss.kind == "simple":
        config = config.with_(loss__kind="hybrid")
    chain = config.chain
    if chain.schedule == "betas" and len(chain.betas) != chain.steps:
        raise UserError(
            f"{where}: --chain.steps {chain.steps}: there are {len(chain.betas)} numbers in --chain.betas"
        )
    try:
        return check_limits(check(config), str(where))
    except UserError as error:
        raise UserError(str(error) if str(where) in str(error) else f"{where}: {error}") from None


def _expected(description: Description, where: Path) -> dict[str, Tensor]:
    """Their state of the net, without numbers; UserError if there is no such net."""
    try:
        with torch.device("meta"):
            made = build_net(description.config, len(description.facts.classes)).state_dict()
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return diffusers_weights(made)


def _check_given(config: Config, given: Mapping[str, Any], where: Path, says_heads: bool) -> None:
    """UserError where what is given contradicts the net, which is as it is."""
    for name, value in given.items():
        section, _, item = name.partition(".")
        decided = (section == "net" and item != "dropout") or name == "data.channels"
        if not decided or (item in ("heads", "head_channels") and not says_heads):
            continue
        said = getattr(getattr(config, section), item)
        if said != (tuple(value) if isinstance(value, list) else value):
            raise UserError(f"{where}: its {name} is {said}, not {value}; leave --{name.replace('_', '-')} out")


def _check_weights(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """UserError unless a file has just the weights that its config.json asks for."""
    named = modern(state)
    problems = [f"lacks {key}" for key in expected if key not in named]
    problems += [f"has {key}, for which there is no place" for key in named if key not in expected]
    problems += [
        f"has {key} of {_by(named[key])} numbers, not {_by(expected[key])}"
        for key in expected
        if key in named and named[key].shape != expected[key].shape
    ]
    if problems:
        more = f", and {len(problems) - 1} more such" if len(problems) > 1 else ""
        raise UserError(f"{path}: not the weights that its config.json asks for: it {problems[0]}{more}")


def _by(value: Tensor) -> str:
    return " × ".join(map(str, value.shape)) or "1"


def _order(net: NetConfig) -> dict[str, int]:
    """What the conversion has to know of the order of attention's channels in ours."""
    return {"heads": net.heads, "head_channels": net.head_channels} if net.qkv == "legacy" else {}


# -- ours → theirs -----------------------------------------------------------------------------------------------


def write(folder: Path, weights: Mapping[str, Tensor], description: Description) -> None:
    """Writes a DDPMPipeline into a folder that is there; UserError, before anything is, for what one cannot be.

    A net with classes is loaded by diffusers, too, but its pipeline cannot ask for one: call the unet with
    class_labels. Nor can it leave the class out.
    """
    config, classes = description.config, len(description.facts.classes)
    net, scheduler = unet_config(config, classes), scheduler_config(config)
    try:
        state = diffusers_weights(weights, **_order(config.net))
    except KeyError as error:
        raise UserError(f"{error.args[0]}; was the model changed by hand?") from None
    plain = {key: value.detach().to("cpu").contiguous() for key, value in state.items()}
    metadata = {"format": "pt", "ddpm": json.dumps(description.to_json())}
    (folder / "unet").mkdir()
    (folder / "scheduler").mkdir()
    write_bytes(folder / "unet" / _FILES[0], to_safetensors(plain, metadata=metadata))
    write_json(folder / "unet" / "config.json", net)
    write_json(folder / "scheduler" / _SCHEDULER, scheduler)
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "DDPMPipeline",
            "_diffusers_version": VERSION,
            "scheduler": ["diffusers", scheduler["_class_name"]],
            "unet": ["diffusers", net["_class_name"]],
        },
    )
