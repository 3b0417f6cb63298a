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

    quarters: the net's squared error at the levels of each quarter of the chain, clean to noisy; None where none
    was drawn. gradient: norm before clipping. seconds: spent training so far, seconds_left: still to come. vlb:
    the bound's T terms in bits/dim (without the prior), of the losses that know them.
    """

    step: int
    loss: float
    mse: float
    quarters: tuple[float | None, ...]
    lr: float
    gradient: float
    pictures_per_second: float
    seconds: float
    seconds_left: float
    vlb: float | None = None


@dataclass(frozen=True)
class Evaluated:
    """The averaged net's squared error on pictures it never sees, and on as many it trains on, at the same levels
    and noise."""

    step: int
    held_out: float
    trained_on: float


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
class Ended:
    """Training is over; complete unless it was told to stop."""

    step: int
    complete: bool


TrainEvent = Began | Stepped | Logged | Evaluated | Previewed | Saved | Ended
