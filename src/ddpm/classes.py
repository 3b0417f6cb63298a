"""The classes a model can be asked for: by name, by number, or drawn as often as in its data."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ddpm.errors import UserError
from ddpm.noise import Purpose, uniform

_LISTED = 20  # classes at the most in a message


@final
@dataclass(frozen=True)
class Classes:
    """Names of the classes of the model `of`, none where it has none, and how often each is in its data.

    Without frequencies all are as frequent.
    """

    of: str
    names: tuple[str, ...]
    frequencies: tuple[float, ...] = ()

    def number(self, label: str | int) -> int:
        """The number of a class given by number or name; UserError if there is none such."""
        if not self.names:
            raise UserError(f"--class {label}: {self.of} was trained without classes")
        text = str(label)
        if text in self.names:
            return self.names.index(text)
        if text.isdecimal() and int(text) < len(self.names):
            return int(text)
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(self.names[:_LISTED]))
        listed += f" and {len(self.names) - _LISTED:,} more" if len(self.names) > _LISTED else ""
        near = difflib.get_close_matches(text, self.names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"--class {label}: no such class; {hint}there are {listed}")

    def labels(
        self, n: int, first: int, seed: int, label: str | int | Sequence[str | int] | Any = None
    ) -> Int64[Tensor, "N"] | None:
        """The class of pictures first … first + n − 1 of a seed: one for all, one each, or drawn; None without."""
        if isinstance(label, (torch.Tensor, np.ndarray, np.integer)):
            label = label.tolist()
        if label is not None and not isinstance(label, (str, int)):
            if len(label) != n:
                raise UserError(f"label: {len(label)} labels for {n} pictures; give one, or one for each")
            return torch.tensor([self.number(one) for one in label])
        if label is not None:
            return torch.full((n,), self.number(label))
        if not self.names:
            return None
        edges = torch.tensor(self.frequencies or (1.0,) * len(self.names), dtype=torch.float64).cumsum(0)
        u = uniform(seed, Purpose.LABELS, torch.arange(first, first + n), 0)[:, 0]
        return torch.searchsorted(edges, u * edges[-1], right=True).clamp_(max=len(self.names) - 1)

    def one(self, label: str | int | None) -> Int64[Tensor, "1"] | None:
        """The one class that is asked for; UserError where none is named of those there are."""
        if label is None and self.names:
            raise UserError(f"--class: {self.of} draws by class; give that of the picture, or another")
        return self.labels(1, 0, 0, label)


def places(classes: Sequence[str], known: Sequence[str]) -> list[int | None]:
    """The number that each class has among those known; None for one that is not.

    They go by their names. Classes that never had any, as those of IDX files, are called by their numbers: as many
    with names and without are taken to be in the same order.
    """
    apart = not set(classes) & set(known)
    if apart and len(classes) == len(known) and (unnamed(classes) or unnamed(known)):
        return list(range(len(known)))
    numbers = {name: number for number, name in enumerate(known)}
    return [numbers.get(name) for name in classes]


def unnamed(classes: Sequence[str]) -> bool:
    """Whether classes are called 0, 1, 2 and so on."""
    return all(name == str(number) for number, name in enumerate(classes))
