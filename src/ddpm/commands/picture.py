"""One picture as commands are given it: a picture's file, or one of DATA by its number."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ddpm.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from ddpm.pipeline import Pipeline


@dataclass(frozen=True)
class Chosen:
    """A picture not yet decoded, and its class in DATA, None where it has none."""

    opened: Callable[[], AbstractContextManager[Image.Image]]
    of_class: str | None = None


def by_number(data: str, number: int) -> Chosen:
    """Picture `--number` of DATA, which may be a single picture's file."""
    alone = single(data)
    if alone is None:
        return numbered(data, number, f"--number {number}")
    if number:
        raise UserError(f"--number {number}: {data} is a single picture; leave it out")
    return alone


def by_name(text: str, known: Collection[str] = ()) -> Chosen:
    """A picture's file, or DATA:K, picture K of a set; known: classes, so that a folder of one alone has it."""
    alone = single(text)
    if alone is not None:
        return alone
    data, _, number = text.rpartition(":")
    if data and number.isdecimal():
        return numbered(data, int(number), text, known)
    from ddpm.data import open_source

    try:
        count = len(open_source(text))
    except UserError as error:
        raise UserError(f"{error}; or give one picture's file, or DATA:K as fashion:7") from None
    raise UserError(f"{text}: a set of {count} pictures; say which one, as {text}:0")


def single(text: str) -> Chosen | None:
    """The picture in a file; None where there is no file, or something else than a picture in it."""
    from PIL import UnidentifiedImageError
    from PIL.Image import open as open_image

    from ddpm.data import decode
    from ddpm.data.files import SUFFIXES, located

    path = located(text)
    try:
        with open_image(path, formats=decode.FORMATS):
            pass
    except (OSError, UnidentifiedImageError) as error:
        if path.suffix.lower() in SUFFIXES and path.is_file():
            raise UserError(f"{text}: cannot be decoded ({decode.reason(error)}); give another picture") from None
        return None
    return Chosen(partial(open_image, path, formats=decode.FORMATS))


def numbered(data: str, number: int, asked: str, known: Collection[str] = ()) -> Chosen:
    """Picture `number` of a set; `asked` is what the number was given as."""
    from ddpm.data.files import Part
    from ddpm.data.opening import find

    try:
        source = find(data).open(Part(known=tuple(known)))
    except UserError as error:
        raise UserError(f"{error}; or give one picture's file") from None
    if not 0 <= number < len(source):
        raise UserError(f"{asked}: {data} has the pictures 0 to {len(source) - 1}")
    of_class = None if source.labels is None else source.classes[source.labels[number]]
    return Chosen(partial(source.opened, number), of_class)


@contextmanager
def opened(text: str, chosen: Chosen) -> Iterator[Image.Image]:
    """The picture called `text`; UserError for what cannot be decoded while it is looked at."""
    from ddpm.data import decode

    try:
        with chosen.opened() as image:
            yield image
    except UserError:
        raise
    except Exception as error:  # PIL's readers and those of archives raise almost anything for what is broken
        raise UserError(f"{text}: cannot be decoded ({decode.reason(error)}); give another picture") from None


def decoded(model: Pipeline, text: str, chosen: Chosen) -> np.ndarray:
    """A picture as the model takes it, uint8 [C, H, W]."""
    from ddpm.data.given import brought

    with opened(text, chosen) as image:
        return brought(image, model.description.config.data, text)


def class_of(name: str, classes: Sequence[str], text: str, chosen: Chosen) -> str:
    """The class of a picture, by the name it has in DATA, for the model `name` of these classes."""
    if chosen.of_class is None:
        raise UserError(f"{text}: {name} draws by class, and this picture's is not known; name it with --class")
    if chosen.of_class not in classes:
        raise UserError(
            f"{text}: {name} has no class {chosen.of_class}; name one of its own with --class: "
            f"{', '.join(classes)}"
        )
    return chosen.of_class


def class_for(name: str, classes: Sequence[str], text: str, chosen: Chosen, label: str | None) -> str | None:
    """The class asked for, else the picture's own; None for a model without."""
    return label if label is not None or not classes else class_of(name, classes, text, chosen)
