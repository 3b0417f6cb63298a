"""`ddpm convert SRC DST --to FORMAT`: a model from one project's files to another's."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ddpm.commands.info import parameters
from ddpm.commands.options import console, read, unset
from ddpm.commands.planning import dotted
from ddpm.config import Config
from ddpm.errors import UserError
from ddpm.places import check_place, unwritable
from ddpm.reading import read_json

if TYPE_CHECKING:
    from ddpm.loading import Opened
    from ddpm.store import Description

_MEND = "choose another DST"
_DESCRIPTION = (
    "Converts a model between this project's files, OpenAI's (improved-diffusion, guided-diffusion) and "
    "diffusers' folders. What a file cannot say is asked for, and given by options of the config: --net.heads 4."
)


@dataclass(frozen=True)
class Options:
    source: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="SRC")]]
    """A run, a .safetensors file or an embedded name; OpenAI's .pt, a folder of diffusers, Ho et al.'s checkpoint
    (.npz, or model.ckpt-N of TensorFlow)."""
    target: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DST")]]
    """What is written: a folder; or FILE.safetensors with --to ddpm, FILE.pt with --to openai."""
    to: Literal["diffusers", "openai", "ddpm"]
    """The format: a folder for DDPMPipeline.from_pretrained; a .pt and its flags as JSON; our own."""
    weights: Literal["ema", "model"] = "ema"
    """Averaged weights, or as they are, where SRC has both."""
    preset: Annotated[str | None, unset("NAME", "none")] = None
    """A paper's settings for what SRC cannot say, as cifar10; ddpm info presets lists them."""
    classes: Annotated[Path | None, unset("FILE", "numbers")] = None
    """Names of the classes in their order: one a line, or a JSON list."""
    licence: Annotated[str | None, unset("NAME", "not given")] = None
    """Of the weights, for the model card, as the hub names it: cc-by-4.0."""
    push: Annotated[str | None, unset("ORG/NAME", "no")] = None
    """Also upload the folder to the Hugging Face hub."""
    samples: bool = True
    """Draw pictures for the model card of a folder."""
    device: Annotated[str | None, unset("DEVICE", "a GPU if there is one")] = None
    """cpu, cuda or mps, to draw them on."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    """What SRC cannot say; all else is read from it."""


def main(arguments: Sequence[str]) -> int:
    options = read(Options, "convert", arguments, _DESCRIPTION)
    given: dict[str, Any] = dotted(options.config, arguments)
    if options.preset is not None:
        given["preset"] = options.preset
    _check_target(options)
    classes = None if options.classes is None else read_names(options.classes)
    from ddpm.loading import check_fits, opened, pick_device

    pick_device(options.device)
    out = console()
    found = opened(options.source, options.weights, given)
    if classes is not None:
        found = _named(found, classes, options.classes)
    if found.kind != "ddpm":
        command = "ddpm convert " + shlex.join(arguments)
        found = replace(found, description=replace(found.description, command=command))
    found = replace(found, description=_without_places(found.description))
    check_fits(found)
    for note in found.notes:
        out.print(f"note: {note}")
    config, names = found.description.config, found.description.facts.classes
    what = {"image": "a model", "classifier": "a classifier", "upsampler": "an upsampler"}[config.train.task]
    by_class = f" and {len(names):,} classes" if names else ""
    size = " x ".join(map(str, config.data.size))
    out.print(
        f"{found.path}: {what} of pictures of {size} with {parameters(config, len(names)):,} parameters{by_class}"
    )
    try:
        notes = {"diffusers": _to_diffusers, "openai": _to_openai, "ddpm": _to_ddpm}[options.to](found, options)
    except OSError as error:
        raise unwritable(options.target, error, _MEND) from None
    for note in notes:
        out.print(f"note: {note}")
    out.print(f"wrote {_listed(options.target)}")
    if options.push:
        out.print(f"uploaded to {_pushed(options.target, options.push)}")
    out.print(f"next: {_next(options, config.train.task)}")
    return 0


def read_names(path: Path) -> tuple[str, ...]:
    """The names in a file: one a line, or a JSON list; UserError if there are none, or one twice."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"--classes {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"--classes {path}: not text in UTF-8; give one name a line, or a JSON list") from None
    names: Any = [line.strip() for line in text.splitlines() if line.strip()]
    if text.lstrip().startswith("["):
        try:
            names = json.loads(text)
        except ValueError as error:
            raise UserError(f"--classes {path}: not JSON ({error})") from None
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"--classes {path}: takes names, and one of these is none; give a list of strings")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"--classes {path}: names {twice[0]} twice; classes are told apart by their names")
    return tuple(names)


def _named(found: Opened, names: tuple[str, ...], path: Path | None) -> Opened:
    facts = found.description.facts
    if len(names) != len(facts.classes):
        raise UserError(
            f"--classes {path}: holds {len(names):,} names, and {found.name} has {len(facts.classes):,} classes; "
            "give one name a class, in the order of their numbers"
        )
    return replace(found, description=replace(found.description, facts=replace(facts, classes=names)))


_PLACES = ("data.path", "data.holdout", "train.init_from")  # as the plan's lines name what was asked for


def _without_places(of: Description) -> Description:
    """The description without the places of things on this machine: data and models go by their names alone."""
    data, train = of.config.data, of.config.train
    data = replace(data, path=tuple(map(_last, data.path)), holdout=_last(data.holdout))
    config = replace(of.config, data=data, train=replace(train, init_from=_last(train.init_from)))
    plan = tuple(line for line in of.plan if not line.startswith(_PLACES))
    return replace(of, config=config, plan=plan, command=shlex.join(map(_last, shlex.split(of.command))))


def _last(text: str) -> str:
    """The name of a path, which may be an option's value; anything else as it is."""
    option, equals, value = text.partition("=") if text.startswith("--") else ("", "", text)
    parts = re.split(r"[/\\]", value.rstrip("/\\"))
    return text if value.startswith("hub:") or not parts[-1] else f"{option}{equals}{parts[-1]}"


# -- what is written -------------------------------------------------------------------------------------------


def _check_target(options: Options) -> None:
    """UserError unless DST is free and is what the format writes."""
    target, suffix = options.target, options.target.suffix
    file = options.to == "openai" or suffix == ".safetensors"
    if options.to == "openai" and suffix != ".pt":
        raise UserError(f"{target}: --to openai writes a file; name it {target.with_suffix('.pt')}")
    if options.to != "openai" and suffix == ".pt":
        raise UserError(f"{target}: --to {options.to} writes no .pt; name a folder, or take --to openai")
    if options.to == "diffusers" and file:
        raise UserError(f"{target}: --to diffusers writes a folder; name it without {suffix}")
    if file and (options.push or options.licence):
        option = "--push" if options.push else "--licence"
        raise UserError(
            f"{option}: belongs to a folder with a model card; take --to diffusers, or --to ddpm and a folder"
        )
    if options.push is not None and not re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", options.push, re.ASCII):
        raise UserError(f"--push {options.push}: no name of a repository; take NAME or ORG/NAME")
    if target.resolve() == Path.cwd():
        raise UserError(f"{target}: is the folder you stand in; choose another DST")
    check_place(target, _MEND)
    there = [target] if target.exists() and (file or not target.is_dir() or any(target.iterdir())) else []
    if options.to == "openai" and _flags_of(target).exists() and not _left_alone(_flags_of(target)):
        there.append(_flags_of(target))
    if there:
        raise UserError(f"{there[0]}: is there already; choose another DST, or remove it")


def _left_alone(flags: Path) -> bool:
    """Whether flags are ours, which a kill left without their weights."""
    try:
        return isinstance(found := read_json(flags), dict) and "ddpm" in found
    except UserError:
        return False


def _to_ddpm(found: Opened, options: Options) -> list[str]:
    from ddpm.loading import EXPORTED
    from ddpm.store import save_weights

    if options.target.suffix == ".safetensors":
        options.target.parent.mkdir(parents=True, exist_ok=True)
        save_weights(options.target, found.weights, found.description)
        return []
    return _folder(
        found, options, lambda folder: save_weights(folder / EXPORTED, found.weights, found.description)
    )


def _to_diffusers(found: Opened, options: Options) -> list[str]:
    from ddpm.convert import diffusers_folder

    return _folder(found, options, lambda folder: diffusers_folder.write(folder, found.weights, found.description))


def _to_openai(found: Opened, options: Options) -> list[str]:
    import torch

    from ddpm.atomic import write_bytes, write_json
    from ddpm.convert import openai
    from ddpm.convert.foreign import remembered

    flags = openai.flags(found.description)
    state, data = openai.write(found.weights, found.description), io.BytesIO()
    torch.save(state, data)
    options.target.parent.mkdir(parents=True, exist_ok=True)
    write_json(_flags_of(options.target), {**flags, **remembered(found.description)})
    write_bytes(options.target, data.getvalue())
    return list(openai.notes(found.description))


def _folder(found: Opened, options: Options, write: Callable[[Path], object]) -> list[str]:
    """A folder with what `write` puts there and a model card, whole or not at all."""
    from ddpm.atomic import new_folder
    from ddpm.card import write_card
    from ddpm.loading import classifier, grids_path, pipeline

    grids = grids_path(options.source)
    classifies = found.description.config.train.task == "classifier"
    model = (classifier if classifies else pipeline)(found, options.device if options.samples else "cpu")
    with new_folder(options.target) as beside:
        # The card calls the folder by its name, so it is made in one of that name.
        made = beside / ".made" / options.target.resolve().name
        made.mkdir(parents=True)
        write(made)
        run = None if grids is None else grids.parent
        if options.samples and found.description.config.train.task == "image":
            console().print("drawing samples for the model card (--no-samples leaves them out)")
        write_card(made, model, to=options.to, licence=options.licence, run=run, samples=options.samples)
        for path in made.iterdir():
            path.rename(beside / path.name)
        made.rmdir()
        made.parent.rmdir()
    return []


def _pushed(folder: Path, repo: str) -> str:
    """The address on the hub that a folder was uploaded to."""
    from ddpm.card import push

    try:
        return push(folder, repo)
    except UserError as error:
        raise UserError(f"{error}; {folder} is whole, and hf upload {repo} {folder} sends it later") from None


def _flags_of(target: Path) -> Path:
    """Where the flags of a .pt stand."""
    return target.with_name(f"{target.name}.json")


def _listed(target: Path) -> str:
    """What was written, for whoever looks for it."""
    if not target.is_dir():
        flags = f" and {_flags_of(target)}, which has its flags" if _flags_of(target).exists() else ""
        return f"{target} ({target.stat().st_size / 1e6:.1f} MB){flags}"
    return f"{target}: {', '.join(sorted(path.name for path in target.iterdir()))}"


def _next(options: Options, task: str) -> str:
    """The command to go on with."""
    target = shlex.quote(str(options.target))
    if task == "classifier":
        return f"ddpm sample MODEL --classifier {target}"
    return f"ddpm sample BASE --upsample {target}" if task == "upsampler" else f"ddpm sample {target}"
