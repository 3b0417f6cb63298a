"""What was found best for a model: for each number of evaluations of the net a method, kept in RUN/tuned.json.

`ddpm tune` finds them; whatever draws from the run takes them where no method is asked for. With a number of steps
alone that is taken as the evaluations a picture may cost: `ddpm sample RUN --steps 10` may walk 5 steps of heun.
The file says what they were found on: what is best of one checkpoint need not be of another.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import final

import numpy as np

from ddpm.atomic import write_bytes
from ddpm.config import from_json, to_json
from ddpm.errors import UserError
from ddpm.method import DEFAULT, USUAL, Method
from ddpm.reading import read_json
from ddpm.respacing import known, spaced
from ddpm.samplers import make_sampler

NAME = "tuned.json"
FORMAT = "ddpm-tuned/1"
COMMAND = "ddpm tune MODEL --reference DATA"


@final
@dataclass(frozen=True)
class Setting:
    """A method tried for so many evaluations of the net a picture; it may need fewer, see `cost`.

    grid: one of respacing.GRIDS, or "fitted". options: the sampler's own, as (name, value).
    """

    evaluations: int
    sampler: str
    steps: int
    grid: str
    options: tuple[tuple[str, float], ...] = ()

    @property
    def method(self) -> Method:
        """As it is walked."""
        return Method(self.sampler, self.steps, self.grid, dict(self.options))

    @property
    def cost(self) -> int:
        """Evaluations that it does need."""
        return make_sampler(self.sampler, **dict(self.options)).evaluations(self.steps)

    @property
    def kind(self) -> str:
        """The sampler with its options: "heun churn 1.5"."""
        return " ".join([self.sampler, *(f"{name} {value:g}" for name, value in self.options)])

    def words(self) -> str:
        """In a line: "heun churn 1.5, 10 steps, edm"."""
        return f"{self.kind}, {self.steps} step{'s' * (self.steps != 1)}, {self.grid}"

    def arguments(self) -> str:
        """As a command takes it."""
        options = "".join(f" --{name.replace('_', '-')} {value:g}" for name, value in self.options)
        return f"--sampler {self.sampler} --steps {self.steps} --grid {self.grid}{options}"


@final
@dataclass(frozen=True)
class Winner:
    """The best of `tried` settings, and its Fréchet distance with each of the seeds."""

    setting: Setting
    scores: tuple[float, ...]
    tried: int

    @property
    def score(self) -> float:
        """The mean over the seeds."""
        return sum(self.scores) / len(self.scores)


@final
@dataclass(frozen=True)
class Tuned:
    """The winners of a model of T levels, ascending in evaluations, and what they were found on.

    Distances are those of n pictures of each seed in the features of a net, whose key is `net`; model, checkpoint,
    weights (ema, model, or "as in the file"), data and its fingerprint say of what.
    """

    T: int
    winners: tuple[Winner, ...]
    n: int
    seeds: tuple[int, ...]
    features: str
    net: str = ""
    model: str = ""
    checkpoint: str = ""
    weights: str = ""
    data: str = ""
    fingerprint: str = ""

    def winner(self, evaluations: int | None) -> Winner | None:
        """That of so many evaluations, None if they were not tuned; without a number that of the usual one.

        The usual one is 20, or what was tuned that is nearest to it as a factor, the smaller of two as near.
        """
        if evaluations is not None:
            return next((one for one in self.winners if one.setting.evaluations == evaluations), None)
        usual = USUAL[DEFAULT][0] or 1

        def far(one: Winner) -> tuple[float, int]:
            count = one.setting.evaluations
            return round(abs(math.log(count / usual)), 9), count

        return min(self.winners, key=far, default=None)

    def merged(self, old: Tuned) -> Tuned:
        """With those winners of an older file that were found on the same, for other numbers of evaluations."""
        if replace(old, winners=()) != replace(self, winners=()):
            return self
        winners = {one.setting.evaluations: one for one in (*old.winners, *self.winners)}
        return replace(self, winners=tuple(winners[count] for count in sorted(winners)))

    def differences(self, path: Path, checkpoint: str) -> list[str]:
        """What a user should know of who takes these methods with another net."""
        if not self.checkpoint or self.checkpoint == checkpoint:
            return []
        of = f"another checkpoint ({self.model or 'a model'}, {self.checkpoint})"
        return [f"{path}: its methods were found best for {of}; `{COMMAND}` looks again"]


def resolved(
    method: Method, T: int, path: Path | None, checkpoint: str, notes: list[str]
) -> tuple[Method, Winner | None]:
    """A method with nothing left open, for a model of T levels, and the winner that it is, if it is one.

    path: the tuned.json to look into, if there is one. What there is to say of it joins `notes`, once.
    """
    found: list[Winner] = []

    def best(evaluations: int | None) -> Method | None:
        if path is None or not path.is_file():
            return None
        tuned = read_tuned(path, T)
        winner = tuned.winner(evaluations)
        if winner is None:
            return None
        found.append(winner)
        notes.extend(note for note in tuned.differences(path, checkpoint) if note not in notes)
        return winner.setting.method

    return method.resolved(T, best), found[0] if found else None


def write_tuned(path: Path, tuned: Tuned) -> None:
    """Writes a tuned.json, whole or not at all, a line a winner."""
    values = {"format": FORMAT, **to_json(tuned)}
    lines = ",\n    ".join(json.dumps(winner) for winner in values.pop("winners"))
    head = json.dumps(values, indent=2).removesuffix("\n}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, f'{head},\n  "winners": [\n    {lines}\n  ]\n}}\n'.encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --out") from None


def read_tuned(path: Path, T: int | None = None) -> Tuned:
    """What a file says was best, for a model of T levels; UserError if it is missing, damaged or another's."""
    mend = f"remove it, or `{COMMAND}` makes it anew"
    try:
        values = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; {mend}" if path.exists() else str(error)) from None
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise UserError(f"{path}: holds no tuned methods (its format is not {FORMAT}); {mend}")
    try:
        tuned = from_json(Tuned, values, str(path))
    except TypeError:
        raise UserError(f"{path}: damaged, settings are missing from it; {mend}") from None
    except UserError as error:
        raise UserError(f"{error}; {mend}") from None
    if T is not None and tuned.T != T:
        raise UserError(f"{path}: was tuned for a model of {tuned.T} levels, and this one has {T}; {mend}")
    for winner in tuned.winners:
        if (wrong := _wrong(winner, tuned)) is not None:
            raise UserError(f"{path}: damaged, {wrong}; {mend}")
    counts = [winner.setting.evaluations for winner in tuned.winners]
    if not counts or any(a >= b for a, b in pairwise((0, *counts))):
        raise UserError(
            f"{path}: damaged, its numbers of evaluations {counts} do not rise from 1 or above; {mend}"
        )
    return tuned


def _wrong(winner: Winner, tuned: Tuned) -> str | None:
    """What is wrong with a winner that was read."""
    one = winner.setting
    try:
        usual, made = make_sampler(one.sampler), make_sampler(one.sampler, **dict(one.options))
        if one.grid.startswith("edm:"):
            spaced(np.array([-5.0, 0.0, 5.0]), 1, one.grid)
    except (UserError, TypeError) as error:
        return f"a winner's {error}"
    whole = [name for name, _ in one.options if not isinstance(getattr(usual, name), float)]
    if whole:
        return f"a winner's {whole[0]} is none that is tuned"
    if one.grid != "fitted" and not known(one.grid):
        return f"a winner's grid is {one.grid}"
    if not 1 <= one.steps <= tuned.T or made.evaluations(one.steps) > one.evaluations:
        return f"{one.words()} is none of {one.evaluations} evaluations and {tuned.T} levels"
    if len(winner.scores) != len(tuned.seeds):
        return f"the scores of {one.words()} are {list(winner.scores)}"
    return None
