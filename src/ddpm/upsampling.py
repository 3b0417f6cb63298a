"""Upsampling: small pictures enlarged, and cascades, in which each model enlarges what the one before has drawn.

    x_0 ~ p(x_0|small)      the net is told the small picture beside x_t     (Nichol & Dhariwal 2021, section 4)

    up.upsample(base.sample(16))

An upsampler's noise is that of a seed of its own, made from the seed and the size of its pictures (`stage_seed`).
So the stages of a cascade, whose sizes differ, have no number in common, though all of them have one seed and
whether they are drawn at once or one by one; and picture k of a seed is always the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ddpm.config import Config
from ddpm.errors import UserError
from ddpm.guidance import NO_CLASS
from ddpm.noise import Purpose, another_seed
from ddpm.samples import Samples

_LISTED = 20  # classes at the most in a message


def stage_seed(seed: int, size: tuple[int, int]) -> int:
    """The seed of the noise that makes small pictures (h, w) large."""
    return another_seed(seed, Purpose.STAGE, *size)


def check_base(name: str, config: Config, of: str, size: tuple[int, int], channels: int) -> None:
    """UserError unless the model `name` enlarges pictures of this size and channels, which are those of `of`."""
    data = config.data
    check_upsampler(name, config)
    (h, w), small = size, data.small
    if size == small and channels == data.channels:
        return
    asked = f"--size {small[0]}x{small[1]}" + (f" --channels {data.channels}" if channels != data.channels else "")
    raise UserError(
        f"{name}: enlarges pictures of {small[0]} x {small[1]} with {_channels(data.channels)}, and those of {of} "
        f"are {h} x {w} with {_channels(channels)}; a model that draws what it takes is trained with ddpm train "
        f"DATA {asked}"
    )


def check_upsampler(name: str, config: Config) -> None:
    """UserError for another model."""
    if config.train.task != "upsampler":
        raise UserError(f"{name}: is no upsampler; train one with ddpm train DATA --task upsampler")


def told(name: str, config: Config, low: np.ndarray | None, n: int) -> Float[Tensor, "N C h w"] | None:
    """An upsampler's small pictures in [−1, 1]; UserError unless they are there just where they are needed."""
    if low is None and config.train.task != "upsampler":
        return None
    if low is None:
        raise UserError(
            f"{name}: enlarges small pictures; give them with --low DATA, or have them drawn: ddpm sample BASE "
            "--upsample MODEL"
        )
    check_upsampler(name, config)
    channels, (h, w) = config.data.channels, config.data.small
    if low.dtype != np.uint8 or low.shape != (n, channels, h, w):
        raise UserError(
            f"{name}: takes small pictures as uint8 {[n, channels, h, w]}, one for each that is drawn; these are "
            f"{low.dtype} {list(low.shape)}"
        )
    return torch.from_numpy(low.copy()).to(torch.float32) / 127.5 - 1.0


def followed(name: str, classes: Sequence[str], of: Samples) -> list[int] | None:
    """The class of each picture in the model `name` of these classes, by name; None where it has none in either.

    UserError for a class that the model does not know.
    """
    if not classes or of.labels is None:
        return None
    check_classes(name, classes, source_of(of), [of.classes[k] for k in sorted(set(of.labels))])
    return [list(classes).index(of.classes[k]) for k in of.labels]


def check_classes(name: str, classes: Sequence[str], of: str, theirs: Sequence[str]) -> None:
    """UserError unless the model `name` of these classes, if it has any, knows all those of the pictures."""
    missing = [one for one in theirs if one not in classes] if classes else []
    if missing:
        more = f" and {len(classes) - _LISTED:,} more" if len(classes) > _LISTED else ""
        raise UserError(
            f"{name}: does not know the class {missing[0]} of {of}; it knows {', '.join(classes[:_LISTED])}"
            f"{more}; train both on the same pictures"
        )


def without_class(name: str, classes: Sequence[str], able: bool, n: int) -> Int64[Tensor, "N"] | None:
    """The labels of small pictures whose class nobody knows: that for none, if the model is able to do without.

    None where it has no classes. A class is never drawn: it would be another than that of what the picture shows.
    """
    if not classes:
        return None
    if not able:
        raise UserError(
            f"--class: {name} draws by class, and that of these small pictures is not known; name one for all. An "
            "upsampler that is trained with --label-drop 0.1 draws without, too"
        )
    return torch.full((n,), NO_CLASS)


def source_of(samples: Samples) -> str:
    """Where pictures come from, in a word: the model's name, or DATA."""
    return str(samples.record.get("model") or samples.record.get("data") or "these pictures")


def enlarged(made: Samples, of: Samples) -> Samples:
    """What was made of small pictures, with them: it keeps their classes where it has none of its own."""
    labels, classes = (made.labels, made.classes) if made.labels is not None else (of.labels, of.classes)
    record = {**made.record, "base": of.record}
    return Samples(made.pixels, labels, classes, record, made.frames, of)


def _channels(count: int) -> str:
    return "one channel" if count == 1 else f"{count} channels"
