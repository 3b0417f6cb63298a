"""Any other project's model as one of ours: what a path holds is recognised by its content.

    diffusers' folder              model_index.json, or a U-Net's config.json
    TensorFlow's checkpoint        model.ckpt-790000, its .index or its folder: Ho et al.'s
    .pt .pth .ckpt .safetensors    OpenAI's layout, or Ho et al.'s; alone, or inside a training's dictionary
    .npz                           Ho et al.'s variables

What cannot be one of ours is refused with the reason; what is nothing known is left to others.
"""

from __future__ import annotations

import dataclasses
import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm.config import to_json
from ddpm.convert import diffusers_folder, ho, lucidrains, openai
from ddpm.convert.bundle import files_of, prefix_of, read_bundle
from ddpm.convert.pickles import check_weights, is_pickle, read_pickle
from ddpm.convert.record import Foreign
from ddpm.errors import UserError, short
from ddpm.presets import preset
from ddpm.reading import read_json
from ddpm.store import Description, open_weights, read_facts

_UNPACKED = 1 << 24  # bytes that a .npz may unpack to, beside ten times its own
_NONE: Mapping[str, Any] = {}
# Under which names trainings keep the weights: averaged ones, then as they are.
_AVERAGED = ("ema", "model_ema", "ema_model", "ema_state_dict", "model_ema_state_dict")
_PLAIN = ("model", "state_dict", "model_state_dict", "net", "unet")
_WRAPPERS = ("module.", "_orig_mod.")  # of torch's own for several devices and compiled nets


def read_foreign(path: Path, given: Mapping[str, Any] = _NONE, weights: str = "ema") -> Foreign | None:
    """The model at a path; None if it is nothing known as foreign.

    Args:
        given: what the files cannot say: fields of the config by dotted name, and "preset", a paper's settings.
        weights: "ema" or "model", where a file has averaged weights and those as they are.

    UserError says why a model cannot be read, or which fields are still to be given.
    """
    if _is_diffusers(path):
        if "preset" in given:
            raise UserError(f"--preset: {path} says itself what it is; leave it out")
        return diffusers_folder.read(path, given, weights)
    prefix = prefix_of(path)
    if prefix is not None:
        variables = read_bundle(prefix, lambda name: "/Adam" not in name)
        if not ho.recognises(variables):
            raise UserError(f"{prefix}: a checkpoint of TensorFlow, but not of Ho et al.'s net; no other is known")
        return ho.read(variables, str(prefix), given, weights)
    values = _read(path) if path.is_file() else None
    if values is None:
        return None
    state, notes = _state(values, path, weights)
    if ho.recognises(state) or "input_blocks.0.0.weight" in state:
        check_weights(state, path)
    if ho.recognises(state):
        found = ho.read(state, str(path), given, weights)
    elif openai.recognises(state, str(path)):
        found = _openai(state, path, given)
    elif _of_diffusers(state):
        raise UserError(
            f"{path}: weights of a diffusers model, which say nothing without their config.json; give the folder "
            "that has both"
        )
    elif not is_pickle(path):
        return None
    else:
        raise UserError(
            f"{path}: no layout that is known here: it holds {_listed(values)}; known are OpenAI's, Ho et "
            "al.'s, and folders of diffusers"
        )
    return dataclasses.replace(found, notes=(*found.notes, *notes))


def is_foreign(path: Path) -> bool:
    """Whether a folder is another project's model: of diffusers, or a checkpoint of TensorFlow."""
    return _is_diffusers(path) or (path.is_dir() and prefix_of(path) is not None)


def _is_diffusers(path: Path) -> bool:
    return path.is_dir() and diffusers_folder.recognises(path)


def files(path: Path) -> list[Path]:
    """The files that decide what a foreign model computes, weights first."""
    if _is_diffusers(path):
        places = [path, *(path / name for name in ("unet", "unet_ema", "scheduler"))]
        names = ("diffusion_pytorch_model*", "config.json", "scheduler_config.json")
        found = [one for name in names for place in places for one in sorted(place.glob(name))]
        return [one for one in found if one.is_file()]
    prefix = prefix_of(path)
    if prefix is not None:
        return files_of(prefix)
    return [path, *([sidecar(path)] if sidecar(path).is_file() else [])]


def sidecar(path: Path) -> Path:
    """Where the flags of a .pt stand, if they were kept: `FILE.pt.json`."""
    return path.with_name(f"{path.name}.json")


def _openai(state: Mapping[str, Any], path: Path, given: Mapping[str, Any]) -> Foreign:
    """A file of OpenAI's; flags beside it, then a preset, say what it does not, and options win over both."""
    said: dict[str, Any] = {}
    ours: Any = None
    if "preset" in given:
        config = to_json(preset(given["preset"]))
        said |= {f"{section}.{item}": value for section, part in config.items() for item, value in part.items()}
    if sidecar(path).is_file():
        flags = read_json(sidecar(path))
        if not isinstance(flags, dict):
            raise UserError(f"{sidecar(path)}: holds {short(flags)}; it is a table of OpenAI's flags, as JSON")
        classifies = not any(key.startswith("output_blocks.") for key in state)
        said |= openai.from_flags(flags, str(sidecar(path)), classifies)
        ours = flags.get("ddpm")
    said |= {name: value for name, value in given.items() if "." in name}
    if "net.heads" in given and "net.head_channels" not in given:
        said["net.head_channels"] = 0  # else it would decide the number of heads, whatever was asked for
    found = openai.read(state, str(path), said)
    return found if ours is None else _reminded(found, ours, sidecar(path))


def remembered(description: Description) -> dict[str, Any]:
    """What `ddpm` keeps beside OpenAI's flags of a model: what they know nothing of."""
    return {"ddpm": {"step": description.step, "data": to_json(description.facts)}}


def _reminded(found: Foreign, ours: Any, where: Path) -> Foreign:
    """The model with the step and the data that `remembered` kept."""
    ours = ours if isinstance(ours, dict) else {}
    facts, step = read_facts(ours.get("data", {}), f"{where}: ddpm.data"), ours.get("step", 0)
    has = len(found.description.facts.classes)
    if len(facts.classes) != has or type(step) is not int or not 0 <= step < 2**63:
        raise UserError(
            f"{where}: its ddpm is of another model: it has {len(facts.classes)} classes, and the weights {has}; "
            "take that part out of it"
        )
    return dataclasses.replace(found, description=dataclasses.replace(found.description, facts=facts, step=step))


# -- files -----------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[Any, Any] | None:
    """What stands in a file of weights; None for other files, and for ours."""
    with path.open("rb") as file:
        start = file.read(9)
    if path.suffix == ".safetensors" or start[8:] == b"{":
        return _safetensors(path)
    if path.suffix == ".npz":
        return _npz(path)
    if not is_pickle(path):
        return None
    values = read_pickle(path)
    _refuse(values, path)
    return values


def _safetensors(path: Path) -> dict[Any, Any] | None:
    try:
        with open_weights(path) as file:
            names = list(file.keys())
            if "ddpm" in (file.metadata() or {}) and not _of_diffusers(names):
                return None
            return {name: file.get_tensor(name) for name in names}
    except UserError:
        return None  # who reads ours says what is wrong with it


def _of_diffusers(names: Iterable[str]) -> bool:
    return any(".resnets.0.norm1." in name for name in names)


def _npz(path: Path) -> dict[Any, Any] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            if not ho.recognises(name.removesuffix(".npy") for name in archive.namelist()):
                return None  # pictures, perhaps
            _check_arrays(archive, path)
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except UserError:
        raise
    except Exception:  # whatever a damaged or hostile file can bring about
        raise UserError(f"{path}: damaged, or not a .npz of arrays; write it again with numpy.savez") from None
    return {key: torch.from_numpy(value) for key, value in arrays.items() if value.dtype.kind == "f"}


def _check_arrays(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuses an archive whose arrays are not as large as they say, or unpack to far more than it is."""
    records = archive.infolist()
    if sum(record.file_size for record in records) > _UNPACKED + 10 * path.stat().st_size:
        raise UserError(f"{path}: unpacks to far more than weights do; write it again with numpy.savez")
    for record in records:
        with archive.open(record) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            if math.prod(shape) * dtype.itemsize != record.file_size - file.tell():
                raise ValueError(f"{record.filename} is not as large as it says")


def _refuse(values: Mapping[Any, Any], path: Path) -> None:
    """UserError for what is known, and known to be no model that ours can be."""
    if lucidrains.recognises(values):
        lucidrains.refuse(path)
    if "pytorch-lightning_version" in values:
        raise UserError(
            f"{path}: a checkpoint of Lightning, whose net only the code it was trained with knows; save the "
            "net's weights alone there: torch.save(module.net.state_dict(), FILE)"
        )
    if "model_ema" in values and {"gns_stats", "ema_sched", "demo_gen"} & set(values):
        raise UserError(
            f"{path}: of k-diffusion, whose nets are told the noise's deviation and scale their own inputs, as no "
            "net here does; sample it with that package"
        )
    if {"state", "param_groups"} <= set(values) and not openai.recognises(values, str(path)):
        raise UserError(f"{path}: the state of an optimizer, not a model; take the file of the model beside it")


def _state(values: Mapping[Any, Any], path: Path, weights: str) -> tuple[dict[str, Any], list[str]]:
    """The weights themselves, out of a training's dictionary; what to say about it."""
    names = (*_AVERAGED, *_PLAIN) if weights == "ema" else (*_PLAIN, *_AVERAGED)
    inside = [name for name in names if isinstance(values.get(name), Mapping) and _is_weights(values[name])]
    if not inside:
        return _unwrapped(values), []
    others = [name for name in inside[1:] if _is_weights(values[name])]
    told = f"of {path.name} its {inside[0]} is taken" + (f", not its {' or '.join(others)}" if others else "")
    return _unwrapped(values[inside[0]]), [told]


def _is_weights(state: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in state.values())


def _unwrapped(state: Mapping[Any, Any]) -> dict[str, Any]:
    """The state without the wrappers that torch puts around a net."""
    keys = {str(key): value for key, value in state.items()}
    for _ in _WRAPPERS:
        for wrapper in _WRAPPERS:
            if keys and all(key.startswith(wrapper) for key in keys):
                keys = {key.removeprefix(wrapper): value for key, value in keys.items()}
    return keys


def _listed(values: Mapping[Any, Any]) -> str:
    """The first names in a file."""
    names = [str(name) for name in values]
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more if names else "nothing"
