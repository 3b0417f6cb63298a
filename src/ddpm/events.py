"""What a training tells those who watch it, as plain records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Began:
    """Training starts, or goes on, after `step` of `steps`."""

    step: int
    steps: int
    parameters: int
    device: str


@dataclass(frozen=True)
class Stepped:
    """A step is done; nothing was measured."""

    step: int


@dataclass(frozen=True)
class Logged:
    """Means over the steps since the last one of these.

    mse: the net's squared error; of a classifier None, and accuracy is the share of noisy pictures it was right
    about. quarters: either at the levels of each quarter of the chain, clean to noisy; None where none was drawn.
    gradient: norm before clipping. seconds: spent training so far, seconds_left: still to come. vlb: the bound's T
    terms in bits/dim (without the prior), of the losses that know them. highest: a single step's loss. skipped:
    steps since training began whose loss or gradient was no number; they changed nothing.
    """

    step: int
    loss: float
    mse: float | None
    quarters: tuple[float | None, ...]
    lr: float
    gradient: float
    pictures_per_second: float
    seconds: float
    seconds_left: float
    vlb: float | None = None
    accuracy: float | None = None
    highest: float | None = None
    skipped: int = 0


@dataclass(frozen=True)
class Evaluated:
    """How the averaged net does on pictures it never sees and on as many trained on, at the same levels and noise.

    It is the mean squared error. Of a classifier it is the accuracy, which comes by quarter of the chain besides,
    clean to noisy, None where a chain of fewer levels has none; the quarters are empty for the error.
    """

    step: int
    held_out: float
    trained_on: float
    held_out_quarters: tuple[float | None, ...] = ()
    trained_on_quarters: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Scored:
    """The Fréchet distance, in features, of n pictures that the averaged net draws from those trained on.

    best: whether it is the least so far, whose checkpoint is kept.
    """

    step: int
    fid: float
    n: int
    features: str
    best: bool


@dataclass(frozen=True)
class Previewed:
    """A grid of samples was written."""

    step: int
    path: Path


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    step: int
    path: Path


@dataclass(frozen=True)
class Unsaved:
    """A checkpoint could not be written; training goes on, and the one before is still there."""

    step: int
    reason: str


@dataclass(frozen=True)
class WentBack:
    """So many steps in a row gave no number that training goes on from `to`, at `rate` times the learning rate."""

    step: int
    to: int
    rate: float


@dataclass(frozen=True)
class Noted:
    """Something happened that is worth a line."""

    step: int
    text: str


@dataclass(frozen=True)
class Ended:
    """Training is over; complete unless it was told to stop."""

    step: int
    complete: bool


TrainEvent = Began | Stepped | Logged | Evaluated | Scored | Previewed | Saved | Unsaved | WentBack | Noted | Ended
