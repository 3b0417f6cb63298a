"""The best grids of a model: for each number of steps K the levels whose bound is least, kept in RUN/grids.json.

`evaluate/spacing.py` finds them; `ddpm sample --grid fitted` and `ddpm plot schedule --respace fitted:20` read
them.
The file says what they were fitted to: a grid belongs to one net, and is only good for another by luck.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ddpm.atomic import write_bytes
from ddpm.config import from_json, to_json
from ddpm.errors import UserError
from ddpm.reading import read_json
from ddpm.respacing import GRIDS

NAME = "grids.json"
FORMAT = "ddpm-grids/1"
COMMAND = "ddpm evaluate MODEL --reference DATA --metrics grid"


@dataclass(frozen=True)
class Grid:
    """K levels, ascending to T, and what they cost in bits/dim: the bound of the chain respaced to them.

    even: that of K evenly spaced levels, on the same pictures with the same noise.
    """

    levels: tuple[int, ...]
    bits: float
    even: float

    @property
    def steps(self) -> int:
        """K."""
        return len(self.levels)


@dataclass(frozen=True)
class Grids:
    """The grids of one chain of T steps, ascending in K, and what they were fitted to.

    variance, pictures and seed are of the fit; model, checkpoint, weights (ema, model, or "as in the file"), data
    and its fingerprint say of what, as far as it is known.
    """

    T: int
    grids: tuple[Grid, ...]
    variance: str
    pictures: int
    seed: int
    model: str = ""
    checkpoint: str = ""
    weights: str = ""
    data: str = ""
    fingerprint: str = ""

    def grid(self, steps: int) -> Grid:
        """That of so many steps; UserError names those there are."""
        for grid in self.grids:
            if grid.steps == steps:
                return grid
        there = _ranges([grid.steps for grid in self.grids])
        raise UserError(f"--steps {steps}: no grid of so many steps was fitted; there are those of {there}")

    def differences(self, path: Path, checkpoint: str, variance: str) -> list[str]:
        """What a user should know of who walks these grids with another net, or another variance."""
        notes = []
        if self.checkpoint and self.checkpoint != checkpoint:
            of = f"another checkpoint ({self.model or 'a model'}, {self.checkpoint})"
            notes.append(f"{path}: its grids were fitted to {of}; `{COMMAND}` fits them again")
        if self.variance != variance:
            notes.append(f"{path}: its grids were fitted with variance {self.variance}, the model has {variance}")
        return notes


def choose_grid(grid: str | Path, own: Path | None, model: str, T: int, option: str = "") -> tuple[Grids, Path]:
    """The grids a model of T levels is to take, and their file: its own for "fitted", else that of a path.

    own: where the model's run keeps its own; None for a model that is no run's. option: as the user wrote it.
    """
    option = option or f"--grid {grid}"
    path = Path(grid)
    if str(grid) == "fitted":
        if own is None:
            raise UserError(f"{option}: {model} is no run; name a {NAME}, which `{COMMAND}` writes")
        if not own.is_file():
            raise UserError(f"{option}: {own.parent} has no fitted grids yet; `{COMMAND}` makes them")
        path = own
    elif not path.is_file():
        raise UserError(f"{option}: takes {', '.join(GRIDS)}, as in edm:7, fitted, or the path of a {NAME}")
    grids = read_grids(path)
    if grids.T != T:
        raise UserError(
            f"{path}: its grids are of {grids.T} levels, and {model} has {T}; `{COMMAND}` fits its own"
        )
    return grids, path


def write_grids(path: Path, grids: Grids) -> None:
    """Writes a grids.json, whole or not at all, a line a grid."""
    values = {"format": FORMAT, **to_json(grids)}
    lines = ",\n    ".join(json.dumps(grid) for grid in values.pop("grids"))
    head = json.dumps(values, indent=2).removesuffix("\n}")
    try:
        write_bytes(path, f'{head},\n  "grids": [\n    {lines}\n  ]\n}}\n'.encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another") from None


def read_grids(path: Path) -> Grids:
    """The grids of a file; UserError if it is missing, damaged or something else."""
    values = read_json(path)
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise UserError(f"{path}: holds no fitted grids (its format is not {FORMAT})")
    try:
        grids = from_json(Grids, values, str(path))
    except TypeError:
        raise UserError(f"{path}: damaged, settings are missing from it") from None
    for grid in grids.grids:
        rises = all(a < b for a, b in pairwise((0, *grid.levels)))
        if not grid.levels or not rises or grid.levels[-1] != grids.T:
            raise UserError(
                f"{path}: damaged, levels {list(grid.levels)} do not rise from 1 or above to {grids.T}"
            )
    return grids


def _ranges(numbers: Sequence[int]) -> str:
    """1, 2, 3, 5 as "1 to 3, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
