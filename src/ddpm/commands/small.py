"""Small pictures as `ddpm sample UP --low` is given them: one, a set, or what ddpm sample has drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.commands.picture import Chosen, numbered, opened, single
from ddpm.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from ddpm.config import DataConfig
    from ddpm.pipeline import Pipeline
    from ddpm.samples import Samples

USUAL = 64
"""Pictures taken of a set, unless asked for otherwise."""


def small_pictures(model: Pipeline, text: str, n: int | None) -> Samples:
    """What an upsampler is to enlarge, brought to its small size (`data.given.brought_small`).

    n: of a set as many, evenly spread over it, by default 64 or all of fewer; of samples the first, by default
    all. Where there are fewer they come again, to be enlarged with other noise.
    """
    from ddpm.data.files import Part, located
    from ddpm.data.opening import find
    from ddpm.samples import SAMPLES, Samples

    data = model.description.config.data
    if (located(text) / SAMPLES[0]).is_file():
        return _drawn(Samples.load(located(text)), data, n)
    alone = _alone(text, model.classes)
    if alone is not None:
        label = None if alone.of_class is None else (0,) * (n or 1)
        classes = () if alone.of_class is None else (alone.of_class,)
        pixels = _all(data, [0] * (n or 1), lambda k: (text, alone))
        return Samples(pixels, label, classes, {"data": text, "first": 0})
    try:
        source = find(text).open(Part(known=tuple(model.classes)))
    except UserError as error:
        raise UserError(f"{error}; or give one picture's file, or a folder that ddpm sample wrote") from None
    numbers = _spread(len(source), n)
    pixels = _all(data, numbers, lambda k: (source.describe(k), Chosen(partial(source.opened, k))))
    labels = None if source.labels is None else tuple(source.labels[numbers].tolist())
    return Samples(pixels, labels, source.classes, {"data": text, "numbers": numbers, "first": 0})


def _drawn(samples: Samples, data: DataConfig, n: int | None) -> Samples:
    """The first n of samples, brought to what is enlarged where they are not."""
    import numpy as np

    from ddpm.data.given import brought_small
    from ddpm.samples import Samples

    index = np.arange(n or len(samples)) % len(samples)
    pixels, record, (h, w) = samples.pixels, samples.record, samples.pixels.shape[2:]
    if pixels.shape[1:] != (data.channels, *data.small):
        pixels = np.stack([brought_small(one, data, "a sample") for one in pixels])
        record = {**record, "brought_from": [h, w]}
    labels = None if samples.labels is None else tuple(samples.labels[i] for i in index)
    return Samples(pixels[index], labels, samples.classes, record, base=samples.base if n is None else None)


def _alone(text: str, known: tuple[str, ...]) -> Chosen | None:
    """A picture's file, or DATA:K; None for a set."""
    if (alone := single(text)) is not None or Path(text).exists():
        return alone
    data, _, number = text.rpartition(":")
    return numbered(data, int(number), text, known) if data and number.isdecimal() else None


def _spread(count: int, n: int | None) -> list[int]:
    """n of `count` pictures, evenly spread; where there are fewer, all of them again and again."""
    n = n or min(USUAL, count)
    return [k * count // n if n <= count else k % count for k in range(n)]


def _all(data: DataConfig, numbers: list[int], called: Callable[[int], tuple[str, Chosen]]) -> np.ndarray:
    """uint8 [n, C, h, w]; each picture is decoded once."""
    import numpy as np

    from ddpm.data.given import brought_small

    made: dict[int, np.ndarray] = {}
    for k in numbers:
        if k not in made:
            name, chosen = called(k)
            with opened(name, chosen) as image:
                made[k] = brought_small(image, data, name)
    return np.stack([made[k] for k in numbers])
