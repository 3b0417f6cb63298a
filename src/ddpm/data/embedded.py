"""Data sets that ship with the package, by name: they work without a file and without a network."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ddpm.data.arrays import ArraySource, open_npz

_ASSETS = Path(__file__).resolve().parents[1] / "assets"
# fashion: the first 1,000 pictures of each class of Fashion-MNIST's training set, 28x28 grey.
_FILES = {"fashion": "fashion.npz"}


def embedded() -> tuple[str, ...]:
    """The names that can be given in place of a path."""
    return tuple(_FILES)


def open_embedded(name: str, labels: str, known: Collection[str] = ()) -> ArraySource:
    """KeyError for a name that is not in embedded()."""
    return open_npz(_ASSETS / _FILES[name], name, labels, known, shown=name)
