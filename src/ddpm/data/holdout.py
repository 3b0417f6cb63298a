"""Pictures to train on, from any number of DATA, and pictures held out that are never trained on.

    --holdout 0.05     a share, drawn class by class; the same pictures whatever the seed of the training
    --holdout test     a first-level sub-folder of DATA, or a split of a table
    --holdout OTHER    other DATA; the name is looked for inside DATA first

Held-out pictures bear the classes of the training pictures, found by name. What is one file in both is held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ddpm.data.files import WHOLE, Part, located, present
from ddpm.data.opening import Found, find, is_data
from ddpm.data.several import Chosen, Several
from ddpm.data.source import Source
from ddpm.errors import UserError
from ddpm.noise import Purpose, bits
from ddpm.units import counted, listed


def open_sources(
    data: str | Path | Sequence[str | Path], labels: str = "auto", holdout: str = ""
) -> tuple[Source, Source | None]:
    """The training pictures, and the held-out ones if any are asked for; looked at but not decoded.

    Several DATA are one set: their classes are united by name, and they are no classes themselves. UserError
    where some have classes and others none, where the held-out pictures have classes that are not trained on, or
    where nothing is left of either.
    """
    given = [data] if isinstance(data, (str, Path)) else list(data)
    if not given:
        raise UserError("no DATA: give a folder, archive, list or array of pictures")
    _check_twice(given)
    found = [find(each, labels) for each in given]
    if not holdout:
        return _united(given, found, [WHOLE] * len(found)), None
    share = _share(holdout)
    if share is not None:
        return _drawn(_united(given, found, [WHOLE] * len(found)), share)
    name = _part(given, found, holdout)
    inside = [one for one in found if name in one.parts()]
    if inside:
        train = _united(given, found, [Part(without=name) if one in inside else WHOLE for one in found])
        held = [one.open(Part(within=name, known=train.classes)) for one in inside]
    else:
        train = _united(given, found, [WHOLE] * len(found))
        held = [find(_place(given, found, holdout), labels).open(Part(known=train.classes))]
    return _apart(train, held[0] if len(held) == 1 else Several(held), holdout)


def draw(labels: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.int64]:
    """Which pictures a share holds out, sorted: at least one, of each class its part, and never all of a class.

    A function of labels (int64 [N]) and share alone; UserError if no class has two pictures.
    """
    words = bits(0, Purpose.SPLIT, torch.arange(len(labels)), 0, 2).numpy()
    order = np.lexsort(((words[:, 0] << 31) ^ words[:, 1], labels))
    last = np.append(np.diff(labels[order]) != 0, True)
    free = order[~last]
    if not len(free):
        raise UserError(f"--holdout {share}: no class has two pictures, one to train on and one to hold out")
    count = min(len(free), max(1, round(share * len(labels))))
    # Every so many of them in the order of the classes: each class gives its part, up to a picture.
    chosen: npt.NDArray[np.int64] = np.sort(free[(2 * np.arange(count) + 1) * len(free) // (2 * count)])
    return chosen


def _drawn(source: Source, share: float) -> tuple[Source, Source]:
    labels = np.zeros(len(source), np.int64) if source.labels is None else source.labels
    held = draw(labels, share)
    rest = np.setdiff1d(np.arange(len(source)), held)
    note = f"{counted(len(held), 'picture')} of {len(source):,} held out: the same at every start"
    return Chosen(source, rest, source.classes, source.notes), Chosen(source, held, source.classes, (note,))


def _united(given: Sequence[str | Path], found: Sequence[Found], parts: Sequence[Part]) -> Source:
    """Pictures of one or several DATA, all with classes or all without."""
    sources = [one.open(part) for one, part in zip(found, parts, strict=True)]
    for source, where in zip(sources, given, strict=True):
        if not len(source):
            raise UserError(f"{where}: nothing is left to train on: hold out less, or give more DATA")
    if len(sources) == 1:
        return sources[0]
    known = tuple(dict.fromkeys(name for source in sources for name in source.classes))
    if known:  # a single class folder is a class if others have classes
        for k, source in enumerate(sources):
            if not source.classes:
                part = Part(parts[k].within, parts[k].without, known)
                sources[k] = source = found[k].open(part)
            if not source.classes:
                raise UserError(
                    f"{given[k]}: no classes, but other DATA has ({listed(known)}): sort its pictures into class "
                    "folders, or turn classes off (--labels none)"
                )
    return Several(sources)


def _apart(train: Source, held: Source, holdout: str) -> tuple[Source, Source]:
    """Both sources with the training pictures' classes, and without the files in the first that the second has."""
    note = f"{counted(len(held), 'picture')} held out: {holdout}"
    there = set(_identities(held)) - {None}
    same = [i for i, identity in enumerate(_identities(train)) if identity in there] if there else []
    if same:
        if len(same) == len(train):
            raise UserError(f"--holdout {holdout}: holds out every picture: give other DATA, or a smaller share")
        note += f"; {len(same):,} of them taken out of the {len(train):,} to train on"
        train = Chosen(train, np.setdiff1d(np.arange(len(train)), same), train.classes, train.notes)
    notes = (note, *(f"held out: {each}" for each in held.notes))
    if not train.classes:
        return train, Chosen(held, np.arange(len(held)), (), notes)
    if held.labels is None:
        raise UserError(
            f"--holdout {holdout}: no classes, but the training pictures have ({listed(train.classes)}): sort its "
            "pictures into folders with these names, or turn classes off (--labels none)"
        )
    strange = sorted(_present(held) - _present(train))
    if strange:
        raise UserError(
            f"--holdout {holdout}: {listed(strange)} not among the classes trained on "
            f"({listed(sorted(_present(train)))}): take these pictures out, or turn classes off (--labels none)"
        )
    return train, Chosen(held, np.arange(len(held)), train.classes, notes)


def _present(source: Source) -> set[str]:
    """Names of the classes that have pictures."""
    return set() if source.labels is None else {source.classes[k] for k in np.unique(source.labels)}


def _identities(source: Source) -> list[tuple[int, int] | None]:
    """What tells the files of pictures apart, by whatever path they are reached; None for one without its own."""
    identities: list[tuple[int, int] | None] = []
    for i in range(len(source)):
        place = source.place(i)
        try:
            status = None if place is None else place.stat()
        except OSError:  # missing files are counted when pictures are decoded
            status = None
        identities.append(None if status is None else (status.st_dev, status.st_ino))
    return identities


def _share(holdout: str) -> float | None:
    try:
        share = float(holdout)
    except ValueError:
        return None
    return share if 0 < share < 1 else None


def _part(given: Sequence[str | Path], found: Sequence[Found], holdout: str) -> str:
    """The name of the part meant: holdout itself, or the last folder of a path to a part."""
    path = located(holdout)
    for data, one in zip(given, found, strict=True):
        inside = located(data).resolve() in path.resolve().parents
        if inside and path.is_dir() and all((path.resolve().parent / part).is_dir() for part in one.parts()):
            return path.name if path.name in one.parts() else holdout
    return holdout


def _place(given: Sequence[str | Path], found: Sequence[Found], holdout: str) -> str:
    """Where other DATA lies: inside DATA, or where it says."""
    inside = (located(data) / holdout for data in given)
    place = next((str(path) for path in inside if present(path)), holdout)
    if not is_data(place):
        parts = sorted({part for one in found for part in one.parts()})
        raise UserError(
            f"--holdout {holdout}: neither a share between 0 and 1, nor other DATA, nor a sub-folder or split of "
            f"DATA ({listed(parts) or 'it has none'}): give one of them"
        )
    if any(_same(place, data) for data in given):
        raise UserError(f"--holdout {holdout}: is what is trained on: give a share such as 0.05, or other DATA")
    return place


def _check_twice(given: Sequence[str | Path]) -> None:
    for k, data in enumerate(given):
        if any(_same(data, other) for other in given[:k]):
            raise UserError(f"{data}: given twice: give each DATA once")


def _same(a: str | Path, b: str | Path) -> bool:
    first, second = (located(data) for data in (a, b))
    return str(a) == str(b) or (present(first) and present(second) and first.samefile(second))
