"""What fid and its like compare: pictures that a model draws, or that are given, with those of a reference.

Both sides are brought to one size and number of channels: those a model was trained at, or the pictures' own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm.commands.guiding import guide_of
from ddpm.commands.options import parse_size, stages
from ddpm.convert.foreign import is_foreign
from ddpm.data import Pictures, Source, load, open_source
from ddpm.data.files import located, present
from ddpm.data.opening import is_data
from ddpm.errors import UserError
from ddpm.evaluate import open_reference
from ddpm.evaluate.fidelity import spread
from ddpm.evaluate.measuring import kept_batch
from ddpm.loading import EMBEDDED, EXPORTED, pick_device
from ddpm.loading import load as load_model
from ddpm.memory import AtOnce
from ddpm.method import Method
from ddpm.processes import Processes
from ddpm.reading import read_json
from ddpm.samples import SAMPLES
from ddpm.store import Run
from ddpm.units import counted

if TYPE_CHECKING:
    import torch

    from ddpm.commands.evaluate import Options
    from ddpm.pipeline import Pipeline

USUAL = 10_000
"""Pictures drawn of a model, unless asked for otherwise."""
_AT_ONCE = 256
_LOOKED_AT = 10_000
_NO_CLASSES = "no classes"  # a note of every set here, as classes do not matter
_PICTURES = (".zip", ".npy", ".parquet", ".csv", ".json", ".jsonl", ".tar", ".gz", ".png", ".jpg", ".jpeg")

Tell = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Subject:
    """The pictures that are scored: their numbers, and pixels(numbers, tell), uint8 [B, C, H, W].

    words: how they are drawn, "" where they are given; slug: the same in the name of a folder, which lies in `out`
    unless asked for otherwise. batch: how many are had at once. evaluations: of the net, a picture. key: what
    decides the pixels. about: what a record says of them.
    """

    name: str
    words: str
    slug: str
    numbers: np.ndarray
    pixels: Callable[[np.ndarray, Tell], np.ndarray]
    batch: AtOnce
    evaluations: int
    key: dict[str, Any]
    about: dict[str, Any]
    out: Path
    device: torch.device
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Against:
    """The reference; data: as it was asked for."""

    data: str
    name: str
    pictures: Pictures
    notes: tuple[str, ...]


def sides(options: Options, crew: Processes, note: Callable[[str], None]) -> tuple[Subject, Against | None]:
    """What is scored, and, for the main process alone, against what. UserError for what cannot be.

    note: is told what happens while pictures are drawn.
    """
    if is_model(options.model):
        model = load_model(options.model, crew.device, options.weights)
        subject = drawn(model, options, note)
        if not crew.main:
            return subject, None
        with stages() as advance:
            opened = open_reference(pictures_of(options.reference), model, advance, labels=False)
        name = called(options.reference, opened.name)
        return subject, Against(options.reference, name, opened.pictures, _telling(opened.notes))
    _check_given(options)
    ours, others = (open_source(pictures_of(data), "none") for data in (options.model, options.reference))
    size, channels = common(options, ours, others)
    with stages() as advance:
        pictures = load(ours, size, channels, progress=advance)
        against = load(others, size, channels, progress=advance) if crew.main else None
    subject = given(pictures, options, pick_device(crew.device))
    if against is None:
        return subject, None
    name = called(options.reference, against.name)
    return subject, Against(options.reference, name, against, _telling(against.notes))


def _telling(notes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(note for note in notes if note != _NO_CLASSES)


# -- which is which -------------------------------------------------------------------------------------------


def is_model(name: str) -> bool:
    """Whether the first argument is a MODEL rather than pictures; a path that is there beats an embedded name."""
    path = located(name)
    if not present(path):
        return name in EMBEDDED or not is_data(name)
    if path.is_dir():
        own = (path / EXPORTED, path / "state.json")
        return Run(path).exists() or is_foreign(path) or any(one.is_file() for one in own)
    try:
        open_source(name, "none")
    except UserError:
        return path.suffix.lower() not in _PICTURES
    return False


def is_pictures(name: str) -> bool:
    """Whether an argument names pictures that are there."""
    try:
        return not is_model(name) and len(open_source(name, "none")) > 0
    except UserError:
        return False


def pictures_of(data: str) -> str:
    """DATA; of a folder that `ddpm sample` wrote, its pictures alone."""
    return str(located(data) / "pictures") if _is_samples(located(data)) else data


def called(data: str, name: str) -> str:
    """What a set is called: a folder that `ddpm sample` wrote has a name, not its pictures."""
    folder = located(data)
    return folder.resolve().name if _is_samples(folder) else name


def _is_samples(folder: Path) -> bool:
    return (folder / SAMPLES[0]).is_file() and (folder / "pictures").is_dir()


# -- pictures that a model draws ------------------------------------------------------------------------------


def drawn(model: Pipeline, options: Options, note: Callable[[str], None]) -> Subject:
    """Pictures 0 … n − 1 of a seed, each the same in any batch, process and number of them."""
    from ddpm.commands.evaluate import with_variance

    if model.description.config.train.task == "upsampler":
        raise UserError(
            f"{model.name}: enlarges small pictures and draws none by itself; draw with ddpm sample BASE "
            f"--upsample {options.model} --out DIR, and evaluate DIR"
        )
    if options.size is not None:
        raise UserError(f"--size {options.size}: is for folders; {model.name} draws the size it was trained on")
    if options.n == "all":
        raise UserError(f"-n all: {model.name} draws as many as it is told; give a number, as 10000")
    model.denoiser, model.tell = with_variance(model, options.variance), note
    native, denoiser = model.denoiser.native, model.denoiser
    model.run_on(options.engine)
    guide = guide_of(options.guide, model.device)
    guided = guide.guidance(model.name, model.description, model.size, native.T) is not None
    asked = {"sampler": options.sampler, "steps": options.steps, "grid": options.grid}
    asked = {name: value for name, value in asked.items() if value is not None}
    method = model.chosen(Method.of(**asked, **options.own.asked()))
    how = {**method.about(native, method.chain(native, model.fitted)), **guide.about()}
    cost = int(how["evaluations"])

    def stretch(first: int, count: int, tell: Tell) -> np.ndarray:
        return model.sample(
            count,
            sampler=method.sampler,
            steps=method.steps,
            grid=method.grid,
            seed=options.seed,
            batch=batch,
            first=first,
            progress=tell,
            guide=guide,
            **method.options,
        ).pixels

    def pixels(numbers: np.ndarray, tell: Tell) -> np.ndarray:
        done, made = 0, []
        for piece in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):

            def told(step: int, of: int, done: int = done, count: int = len(piece)) -> None:
                tell(done * of + count * step, len(numbers) * of)

            made.append(stretch(int(piece[0]), len(piece), told))
            done += len(piece)
        return np.concatenate(made)

    # guided, each picture is asked for twice, or a classifier keeps what its gradient needs
    usual = max(1, kept_batch(model.device, model.size, cost) // (2 if guided else 1))
    batch = AtOnce(options.batch or usual, note)
    sampled = {"sampler": how["sampler"], "grid": "uniform", **how}
    decided: dict[str, Any] = {"variance": denoiser.variance, "clip": denoiser.clip, "seed": options.seed}
    decided |= {} if options.engine == "torch" else {"engine": options.engine}  # a grey level apart
    run = model.grids
    return Subject(
        name=model.name,
        words=_words(sampled, options.seed),
        slug=f"{how['sampler'].replace('+', 'p')}-{how['steps']}",
        numbers=np.arange(USUAL if options.n is None else int(options.n)),
        pixels=pixels,
        batch=batch,
        evaluations=cost,
        key={"checkpoint": model.checkpoint, "device": model.device.type, **sampled, **decided},
        about={
            "model": model.name,
            "checkpoint": model.checkpoint,
            "step": model.description.step,
            "weights": "as in the file" if run is None else options.weights,
            **sampled,
            **decided,
        },
        out=Path("evaluation") / model.name if run is None else run.parent / "evaluation",
        device=model.device,
        notes=tuple(model.notes),
    )


def _words(how: dict[str, Any], seed: int) -> str:
    """How pictures are drawn, as a person says it."""
    guided = f", guided {how['cfg_scale']:g} times" if "cfg_scale" in how else ""
    if "classifier" in how:
        guided += f", guided by {how['classifier']} {how['classifier_scale']:g} times"
    return f"{how['sampler']}, {counted(how['steps'], 'step')}, grid {how['grid']}{guided}, seed {seed}"


# -- pictures that are given ----------------------------------------------------------------------------------


def given(pictures: Pictures, options: Options, device: torch.device) -> Subject:
    """Pictures of DATA, evenly spread over it where fewer are asked for than there are."""
    total, name = len(pictures), called(options.model, pictures.name)
    n = total if options.n in (None, "all") else int(str(options.n))
    if n > total:
        raise UserError(f"-n {n}: {options.model} has {counted(total, 'picture')}; leave it out for all of them")
    notes = _telling(pictures.notes)
    return Subject(
        name=name,
        words="",
        slug=name,
        numbers=spread(total, n),
        pixels=lambda numbers, tell: pictures.rows(numbers, None)[0],
        batch=AtOnce(options.batch or _AT_ONCE),
        evaluations=0,
        key={"pictures": pictures.fingerprint, "device": device.type},
        about={
            "samples": {
                "data": options.model,
                "name": name,
                "fingerprint": pictures.fingerprint,
                "pictures": total,
                "notes": list(notes),
                **_origin(located(options.model)),
            },
            "seed": options.seed,
        },
        out=Path("evaluation") / name,
        device=device,
        notes=notes,
    )


def _origin(folder: Path) -> dict[str, Any]:
    """How `ddpm sample` drew the pictures in a folder, if it did."""
    if not _is_samples(folder):
        return {}
    record = read_json(folder / SAMPLES[0])
    return {"drawn": {name: value for name, value in record.items() if name not in ("classes", "labels")}}


def _check_given(options: Options) -> None:
    """UserError for options of drawing, where nothing is drawn."""
    asked = {"sampler": options.sampler, "steps": options.steps, "grid": options.grid, **options.own.asked()}
    asked |= {"variance": options.variance, "classifier": options.guide.classifier}
    asked["engine"] = None if options.engine == "torch" else options.engine
    asked["cfg-scale"] = None if options.guide.cfg_scale == 1.0 else options.guide.cfg_scale
    for name, value in asked.items():
        if value is not None:
            raise UserError(
                f"--{name.replace('_', '-')} {value}: is for a MODEL, and {options.model} is pictures, drawn "
                "already; leave it out"
            )
    if options.reference == "held-out" and not present(located("held-out")):
        raise UserError(
            f"--reference held-out: is of a MODEL's training, and {options.model} is pictures; give DATA"
        )


def common(options: Options, ours: Source, others: Source) -> tuple[tuple[int, int], int]:
    """Height, width and channels that both sets are brought to: their own size, unless --size asks for another.

    Colour if either has any, transparency likewise. UserError for a set of several sizes, or two of other sizes.
    """
    looks = [source.look(_LOOKED_AT) for source in (ours, others)]
    size = parse_size(options.size)
    if size is None:
        for data, look in zip((options.model, options.reference), looks, strict=True):
            if len(look.sizes) > 1:
                shown = sorted(look.sizes)
                raise UserError(
                    f"{data}: pictures of {len(shown)} sizes, {_by(shown[0])} to {_by(shown[-1])}; --size "
                    f"{_short(min(shown))} brings both sides to one, scaled and cut as for training"
                )
        here, there = (next(iter(look.sizes), None) for look in looks)
        if here is not None and there is not None and here != there:
            raise UserError(
                f"{options.model} is of {_by(here)} and {options.reference} of {_by(there)}; --size "
                f"{_short(here)} brings both to one, scaled and cut as for training"
            )
        size = here or there
    if size is None:
        raise UserError(f"{options.model}: no picture in it can be read; give other DATA")
    channels = 4 if any(look.alpha for look in looks) else 3 if any(look.colour for look in looks) else 1
    return size, channels


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _short(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"
