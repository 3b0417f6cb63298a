"""DATA as a model wants its pictures: of its size, channels and crop, with its classes, exact pixel values.

    reference = open_reference("photos", model)
    numbers = reference.spread(1000)           which pictures, the same every time
    x0, label = reference.batch(numbers[:64])

Pictures are uint8 k and enter as k/127.5 − 1 in float64. Classes are matched to the model's by name, or by number
where DATA has nothing but numbers for names. A model without classes takes no notice of DATA's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ddpm.config import DataConfig
from ddpm.data import Pictures, Source, load, open_sources
from ddpm.data.files import Part, located, present
from ddpm.data.opening import find
from ddpm.errors import UserError
from ddpm.pipeline import Pipeline
from ddpm.units import counted, listed

HELD_OUT = "held-out"
"""In place of DATA: what was held out of the model's own training."""
_PART_OF = {"fashion": ("fashion-mnist", 60_000)}
"""Of embedded sets the larger one they are a part of: its name and size, as a model trained on it has them."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Decoded pictures and the number of each one's class in the model; None for a model without classes.

    small: of an upsampler, the size of what it is told of each picture, made small as in training.
    """

    pictures: Pictures
    labels: Int64[np.ndarray, "N"] | None
    notes: tuple[str, ...] = ()
    held_out: bool = False
    small: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def name(self) -> str:
        """As people call the set; what was held out of one is not the set."""
        return self.pictures.name + (f"-{HELD_OUT}" if self.held_out else "")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pictures.size

    def spread(self, n: int) -> Int64[np.ndarray, "n"]:
        """n pictures evenly spread over the set: ⌊k N/n⌋ for k = 0 … n − 1; UserError if there are not so many."""
        if not 1 <= n <= len(self):
            raise UserError(f"-n {n}: {self.name} has {counted(len(self), 'picture')}; take 1 to all of them")
        return np.arange(n, dtype=np.int64) * len(self) // n

    def pixels(self, numbers: Int64[np.ndarray, "B"]) -> tuple[np.ndarray, Int64[np.ndarray, "B"] | None]:
        """uint8 [B, C, H, W] and labels."""
        pixels, rows = self.pictures.rows(numbers, None)
        return pixels, None if self.labels is None else self.labels[rows]

    def batch(self, numbers: Int64[np.ndarray, "B"]) -> tuple[Float[Tensor, "B *D"], Int64[Tensor, "B"] | None]:
        """Pictures float64 [B, C, H, W] in [−1, 1], and labels."""
        pixels, labels = self.pixels(numbers)
        return torch.from_numpy(pixels).double() / 127.5 - 1.0, None if labels is None else torch.from_numpy(
            labels
        )


def open_reference(
    data: str,
    model: Pipeline,
    progress: Callable[[str, int, int], None] | None = None,
    *,
    labels: bool = True,
) -> Reference:
    """DATA, decoded as the model's own pictures were; "held-out" for what was held out of its training.

    progress: as of data.load. labels: whether classes matter; else DATA need have none. UserError where DATA
    cannot be opened, has no classes though the model needs them, or has others than the model's.
    """
    config, facts = model.description.config.data, model.description.facts
    own = data == HELD_OUT and not present(located(data))
    if own:
        source = _held_out(model)
    else:
        source = find(data, "auto" if labels and model.classes else "none").open(Part(known=model.classes))
    pictures = load(
        source,
        config.size,
        config.channels,
        crop=config.crop,
        background=config.background,
        keep=config.cache,
        progress=progress,
    )
    numbers, note = _matched(data, pictures, model) if labels and model.classes else (None, "")
    notes = [*pictures.notes, *([note] if note else [])]
    if pictures.fingerprint == facts.fingerprint:
        notes.append(f"these are the pictures {model.name} was trained on, and no measure of others")
    elif not present(located(data)) and _PART_OF.get(data) == (facts.name, facts.count):
        of = f"the {facts.count:,} pictures {model.name} was trained on"
        notes.append(f"the set {data} is a part of {of}, and no measure of others")
    elif not own and _trained_on(data, config):
        others = (
            f"; --reference {HELD_OUT} takes the others"
            if config.holdout
            else ", and then is no measure of others"
        )
        notes.append(f"{data} may hold pictures {model.name} was trained on{others}")
    small = config.small if model.description.config.train.task == "upsampler" else None
    return Reference(pictures, numbers, tuple(notes), own, small)


def _trained_on(data: str, config: DataConfig) -> bool:
    """Whether DATA is one of those trained on, or holds it, or lies in it, however its path is written.

    A sub-folder that was held out as a whole was not.
    """
    if not present(located(data)):
        return data in config.path
    asked = located(data).resolve()
    if config.holdout:
        held = [located(config.holdout), *(located(path) / config.holdout for path in config.path)]
        if any(asked.is_relative_to(place.resolve()) for place in held if present(place)):
            return False
    trained = [located(path).resolve() for path in config.path if present(located(path))]
    return any(asked.is_relative_to(path) or path.is_relative_to(asked) for path in trained)


def _held_out(model: Pipeline) -> Source:
    config = model.description.config.data
    if not config.holdout:
        raise UserError(f"--reference {HELD_OUT}: {model.name} held no pictures out of its training; give DATA")
    try:
        source = open_sources(config.path, config.labels, config.holdout)[1]
    except UserError as error:
        raise UserError(f"--reference {HELD_OUT}: {error}") from None
    assert source is not None  # holdout is given
    return source


def _matched(data: str, pictures: Pictures, model: Pipeline) -> tuple[Int64[np.ndarray, "N"], str]:
    """The model's number of each picture's class, and what to say of it."""
    known = f"the classes of {model.name} ({listed(model.classes)})"
    if pictures.labels is None:
        raise UserError(f"{data}: no classes, but the model needs them; name folders of them like {known}")
    names, used = pictures.classes, np.unique(pictures.labels)
    present_names = [names[k] for k in used]
    by_number = not set(present_names) & set(model.classes) and _numbers(present_names, len(model.classes))
    strange = [] if by_number else [name for name in present_names if name not in model.classes]
    if strange:
        raise UserError(
            f"{data}: {listed(strange)} not among {known}; take these pictures out, or name their classes so"
        )
    number = np.full(len(names), -1, dtype=np.int64)
    for k in used:
        number[k] = int(names[k]) if by_number else model.classes.index(names[k])
    note = f"classes by number: 0 is {model.classes[0]}, and so on" if by_number else ""
    return number[pictures.labels], note


def _numbers(names: Sequence[str], count: int) -> bool:
    """Whether all are numbers of `count` classes."""
    return all(name.isascii() and name.isdecimal() and int(name) < count for name in names)
