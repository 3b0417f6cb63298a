"""Fine-tuning: a training that starts from the weights of a model there is.

Net, prediction and chain are the model's; pictures, their size and their classes may be others, and so may the
variance, learned or not. A classifier starts from another one of the same size, or from a model of pictures, whose
way down it then is. What does not fit is refused with the reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddpm.build import build_net
from ddpm.classes import places
from ddpm.config import Config
from ddpm.denoiser import LEARNED
from ddpm.errors import UserError
from ddpm.loading import check_fits, opened
from ddpm.store import Description

_FREE = {"net.dropout", "denoiser.variance", "denoiser.clip"}  # may be other than the model's
_OPTIONS = {"data.channels": "--channels", "data.size": "--size", "train.task": "--task"}
_WAY_DOWN = ("time.", "conv_in.", "down.", "downsample.", "middle1.", "middle2.")  # of a U-Net and of an encoder


@dataclass(frozen=True)
class Origin:
    """The model that training starts from."""

    name: str
    weights: dict[str, Tensor]
    description: Description


def open_origin(model: str) -> Origin:
    """Of MODEL (a run, a file, an embedded name) the averaged weights; UserError if there is no such model."""
    found = opened(model)
    check_fits(found)
    return Origin(model, found.weights, found.description)


def settings(
    origin: Origin, asked: Mapping[str, Any], classed: bool = False
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What a config must have for the weights to fit, by dotted names, and a line for each decision.

    asked: what was asked for; UserError for what the weights do not allow. classed: the pictures have classes.
    """
    theirs = origin.description.config
    task, had = asked.get("train.task", theirs.train.task), theirs.train.task
    half = (had, task) == ("image", "classifier")
    fixed: dict[str, Any] = {"data.channels": theirs.data.channels, "train.task": task if half else had}
    if had == task == "classifier":  # its pool knows every place
        fixed["data.size"] = theirs.data.size
    for section in ("net", "chain") if task == "classifier" else ("net", "denoiser", "chain"):
        values = getattr(theirs, section)
        fixed |= {f"{section}.{item.name}": getattr(values, item.name) for item in dataclasses.fields(values)}
    for name, was in fixed.items():
        if name not in _FREE and name in asked and asked[name] != was:
            option = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
            shown = f"--task {was}" if name == "train.task" else _show(was)
            raise UserError(
                f"{option} {_show(asked[name])}: {origin.name} was trained with {shown}, and its weights fit "
                "nothing else; leave the option out, or train without --init-from"
            )
    if task != "classifier":
        variance = asked.get("denoiser.variance", _variance(theirs, asked.get("loss.kind")))
        fixed["denoiser.variance"] = variance
        if theirs.denoiser.variance in LEARNED and variance in LEARNED:
            # What taught it goes on teaching it, unless another loss was asked for.
            fixed |= {f"loss.{name}": getattr(theirs.loss, name) for name in ("kind", "vlb_weight", "times")}
    what = "net, chain and channels" if task == "classifier" else "net, prediction, chain and channels"
    part = "way down" if half else "weights"
    reasons = [f"starts from the {part} of {origin.name}: {what} are its own"]
    if classed and task != "classifier" and theirs.train.label_drop and "train.label_drop" not in asked:
        fixed["train.label_drop"] = theirs.train.label_drop
        reasons.append("labels go on being left out, as in its own training")
    size = theirs.data.size
    if had == "upsampler" and asked.get("data.size", size) == size:
        fixed["data.low_size"] = theirs.data.small
    if asked.get("data.size", size) != size:
        reasons.append(f"another size than the model's {_show(size)}: the net is convolutional and takes it")
    return {**fixed, "data.size": size, **asked}, tuple(reasons)


def _variance(theirs: Config, kind: str | None) -> str:
    """The model's own variance, unless the loss asked for needs one of the other kind."""
    own = theirs.denoiser.variance
    if kind in ("hybrid", "vlb") and own not in LEARNED:
        return "learned_range"
    return "large" if kind == "simple" and own in LEARNED else own


def starting_weights(
    config: Config, classes: Sequence[str], origin: Origin
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights of a net for these classes that start as the model's, and what to say about them.

    A class the model knows by name keeps its embedding, of a classifier its output; a new one starts as the mean
    of those there are, or, where the model knew no classes, as the unconditional model. Without classes the mean
    of the embeddings, as often as their classes were in the data, becomes part of the time embedding, unless
    the model knows how to do without; where labels are left out for the first time it moves there, so that no
    class starts as the mean one. Outputs for a variance that is not the model's start at zero; a classifier's that
    starts from a model of pictures start afresh. UserError if a weight has another shape.
    """
    fresh = build_net(config, len(classes)).state_dict()
    if config.train.task != "classifier":
        weights, notes = _outputs(config.denoiser.variance, origin)
        notes += _embeddings(weights, fresh, config, classes, origin)
    elif origin.description.config.train.task == "classifier":
        weights = dict(origin.weights)
        notes = _by_class(weights, ("pool.out.weight", "pool.out.bias"), classes, origin)
    else:
        weights = dict(origin.weights)
        notes = _averaged(weights, origin, "a classifier is told none")
        weights = {**fresh, **{key: value for key, value in weights.items() if key.startswith(_WAY_DOWN)}}
        notes.append("its way up is left out; what pools its features to classes starts afresh")
    for key, value in fresh.items():
        if key not in weights or weights[key].shape != value.shape:
            shape = list(weights[key].shape) if key in weights else "missing"
            raise UserError(
                f"--init-from {origin.name}: its {key} is {shape} and this net's {list(value.shape)}; take a "
                "model whose description fits its weights"
            )
    return {key: weights[key] for key in fresh}, tuple(notes)


def _embeddings(
    weights: dict[str, Tensor], fresh: Mapping[str, Tensor], config: Config, classes: Sequence[str], origin: Origin
) -> list[str]:
    """Fits a model's embeddings, in place, to the classes there are; what to say of it."""
    if not classes:
        return _averaged(weights, origin)
    if "label.weight" not in weights:
        weights["label.weight"] = torch.zeros_like(fresh["label.weight"])
        return [f"the model had no classes: all {len(classes)} start alike"]
    notes = []
    if config.train.label_drop and not origin.description.config.train.label_drop:
        mean = _mean(weights["label.weight"], origin)
        weights["label.weight"] = weights["label.weight"] - mean
        weights["time.2.bias"] = weights["time.2.bias"] + mean
        notes.append("the model drew with a class alone: without one it starts as with the mean of its classes")
    return notes + _by_class(weights, ("label.weight",), classes, origin)


def _averaged(weights: dict[str, Tensor], origin: Origin, why: str = "these pictures have none") -> list[str]:
    """Makes the mean of the embeddings, where there are any, part of the time embedding; what to say of it."""
    if (rows := weights.pop("label.weight", None)) is None:
        return []
    if origin.description.config.train.label_drop:
        return [f"the model's {len(rows)} classes are left out: it knows how to do without"]
    weights["time.2.bias"] = weights["time.2.bias"] + _mean(rows, origin)
    return [f"the model's {len(rows)} classes are averaged: {why}"]


def _mean(rows: Tensor, origin: Origin) -> Tensor:
    """The mean embedding, as often as their classes were in the data."""
    shares = origin.description.facts.frequencies or (1.0 / len(rows),) * len(rows)
    return torch.tensor(shares) @ rows


def _by_class(
    weights: dict[str, Tensor], keys: Sequence[str], classes: Sequence[str], origin: Origin
) -> list[str]:
    """Puts the rows of these weights, in place, in the order of the classes; what to say of it."""
    known = origin.description.facts.classes
    numbers = places(classes, known)
    for key in keys:
        rows, mean = weights[key], weights[key].mean(0)
        weights[key] = torch.stack([mean if number is None else rows[number] for number in numbers])
    new = [name for name, number in zip(classes, numbers, strict=True) if number is None]
    gone = [name for number, name in enumerate(known) if number not in numbers]
    notes = []
    if new:
        notes.append(f"new classes, which start as the mean of the model's: {', '.join(new)}")
    if gone:
        notes.append(f"classes of the model that are not in the data: {', '.join(gone)}")
    if not new and classes and classes[0] not in known:
        notes.append(f"classes by number: {classes[0]} is the model's {known[0]}, and so on")
    return notes


def _outputs(variance: str, origin: Origin) -> tuple[dict[str, Tensor], list[str]]:
    """The model's weights with the outputs this variance needs, the mean's as they are, and what to say of it."""
    had, weights = origin.description.config.denoiser.variance, dict(origin.weights)
    ends = [key for key in ("conv_out.weight", "conv_out.bias") if key in weights]
    if had == variance or not {had, variance} & set(LEARNED):
        return weights, []
    if had in LEARNED:
        weights |= {key: weights[key].chunk(2)[0] for key in ends}
    if variance not in LEARNED:
        return weights, [f"the model's learned variance is left out: {variance} takes its place"]
    weights |= {key: torch.cat([weights[key], torch.zeros_like(weights[key])]) for key in ends}
    start = "at the middle of its range" if variance == "learned_range" else "at 1, whatever the level"
    return weights, [f"the model knows no {variance} variance: it starts {start}"]


def _show(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
