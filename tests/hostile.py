"""A corpus of hostile DATA, made anew wherever it is needed: what a stranger may put into files and folders.

    for case in families()["zips"](folder): ...   named cases, with what each is expected to be taken for
    for case in mutated(folder, 0, 1000): ...     whole files of each format, damaged at random by a seed

A case's outcome is "error" (one line that says what is wrong with DATA), "skipped" (one picture is left out, by
name) or "fine"; "any" of the three for damage that may by luck have hit nothing.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SENTINEL = "sentinel"
"""A file of this name beside a case is what a payload makes if it runs."""


@dataclass(frozen=True)
class Case:
    """path: DATA; says: what its error or the reason for the skip holds; crop: how it is loaded."""

    name: str
    path: Path
    expected: str
    says: str = ""
    crop: str = "centre"


Family = Callable[[Path], Iterator[Case]]


def noise(height: int = 20, width: int = 24, seed: int = 0) -> Image.Image:
    """A picture that does not compress."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def beside_good(root: Path, name: str, data: bytes) -> Path:
    """A folder of a good picture and one of the given name and bytes."""
    folder = root / f"{name} and more"
    written(folder / "good.png", encoded(noise()))
    written(folder / name, data)
    return folder


def families(slow: bool = False) -> dict[str, Family]:
    """Every family of cases by name; slow: also those that take minutes."""
    import hostile_archives
    import hostile_folders
    import hostile_pictures
    import hostile_tables

    modules = (hostile_pictures, hostile_folders, hostile_archives, hostile_tables)
    quick = {name: family for module in modules for name, family in module.FAMILIES.items()}
    return {**quick, **hostile_archives.SLOW} if slow else quick


# -- damage by a seed ------------------------------------------------------------------------------------------


def mutate(data: bytes, draw: np.random.Generator) -> bytes:
    """One to three of: bits flipped, cut off, a run of zeros or ones, a piece doubled, put elsewhere, left out."""
    new = bytearray(data)
    for _ in range(draw.integers(1, 4)):
        if not new:
            break
        # Half of all damage is where headers are.
        reach = len(new) if draw.random() < 0.5 else min(len(new), 80)
        at, length = int(draw.integers(reach)), int(draw.integers(1, 64))
        how = int(draw.integers(8))
        piece = new[at : at + length]
        if how == 0:
            for k in draw.integers(reach, size=int(draw.integers(1, 9))):
                new[k] ^= 1 << int(draw.integers(8))
        elif how == 1:
            del new[at:]
        elif how == 2:
            new[at : at + length] = bytes(len(piece))
        elif how == 3:
            new[at : at + length] = b"\xff" * len(piece)
        elif how == 4:
            new[at:at] = piece
        elif how == 5:
            del new[at : at + length]
        elif how == 6:
            to = int(draw.integers(len(new)))
            new[to : to + len(piece)] = piece
        else:
            new[at : at + 4] = int(draw.integers(1 << 32)).to_bytes(4, "big")
    return bytes(new)


def wholes(root: Path) -> dict[str, bytes]:
    """A small whole file of each format that is read, by the name it goes by."""
    import hostile_archives
    import hostile_pictures
    import hostile_tables

    return {
        **hostile_pictures.wholes(),
        **hostile_archives.wholes(),
        **hostile_tables.wholes(root),
    }


def mutated(root: Path, seed: int, count: int) -> Iterator[Case]:
    """`count` damaged files: pictures beside a whole one in a folder, others as DATA; each gone with the next."""
    from ddpm.data.files import SUFFIXES

    whole = wholes(root / "whole")
    draw = np.random.default_rng(seed)
    for k in range(count):
        name = list(whole)[k % len(whole)]
        folder = root / "mutated"
        shutil.rmtree(folder, ignore_errors=True)
        data = mutate(whole[name], draw)
        if name.endswith(SUFFIXES):
            path = beside_good(folder, name, data)
        elif "/" in name:  # a file in a folder that is DATA as a whole
            top = name.split("/")[0]
            shutil.copytree(root / "whole" / top, folder / top)
            written(folder / name, data)
            path = folder / top
        else:
            path = written(folder / name, data)
            if name.endswith((".csv", ".json", ".jsonl", ".tsv")):
                written(folder / "good.png", encoded(noise()))
        yield Case(f"{name} {k}", path, "any")
