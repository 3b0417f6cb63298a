"""Pictures a model drew, and the folders they are kept in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from ddpm.atomic import new_folder, write_json
from ddpm.draw import film, grid, picture
from ddpm.errors import UserError
from ddpm.places import check_place, unwritable

# What each command writes into its folder, its record first.
SAMPLES = ("samples.json", "grid.png", "film.webp", "pictures", "base")


@dataclass(frozen=True)
class Samples:
    """Pictures a model drew: uint8 [N, C, H, W], a label each (or None), and how they were made.

    `frames` holds the walk of the first pictures, uint8 [M, C, H, W] each, if it was asked for; `base` the small
    pictures that these were made of by an upsampler.
    """

    pixels: np.ndarray
    labels: tuple[int, ...] | None
    classes: tuple[str, ...]
    record: dict[str, Any]
    frames: tuple[np.ndarray, ...] = field(default=(), repr=False)
    base: Samples | None = field(default=None, repr=False)

    @classmethod
    def load(cls, folder: str | Path) -> Samples:
        """What `save` wrote, without the film; UserError where something of it is missing or damaged."""
        folder = Path(folder)
        try:
            record = json.loads((folder / SAMPLES[0]).read_text(encoding="utf-8"))
            if not isinstance(record, dict):
                raise ValueError(f"{SAMPLES[0]} holds no record")
            paths = sorted((folder / "pictures").glob("*.png"), key=lambda path: int(path.stem.partition("-")[0]))
            pixels = np.stack([_pixels(path) for path in paths])
            classes, labels = tuple(record.pop("classes")), record.pop("labels")
            if labels is not None and len(labels) != len(paths):
                raise ValueError(f"{len(labels)} labels for {len(paths)} pictures")
            if labels is not None and not set(labels) <= set(range(len(classes))):
                raise ValueError(f"labels other than 0 to {len(classes) - 1}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder}: not whole as ddpm sample writes it ({error}); draw it anew") from None
        base = cls.load(folder / "base") if (folder / "base").is_dir() else None
        return cls(pixels, None if labels is None else tuple(labels), classes, record, base=base)

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self) -> list[Image.Image]:
        """As Pillow pictures."""
        return [picture(one) for one in self.pixels]

    def grid(self, columns: int | None = None, width: int = 640) -> Image.Image:
        """As one picture, about `width` pixels wide."""
        return grid(self.pixels, columns, width)

    def save(self, folder: str | Path) -> Path:
        """Writes grid.png, film.webp (if there are frames), pictures/ and samples.json; returns the folder.

        What an upsampler made these of lies in base/, written likewise.
        The folder appears whole or not at all. One that `save` wrote before is replaced; UserError for any
        other that is not empty. Each PNG carries the record in its text fields.
        """
        folder = check_out(folder)
        with written(folder) as beside:
            self._write(beside)
        return folder

    def _write(self, folder: Path) -> None:
        self.grid().save(folder / "grid.png", pnginfo=text_of(self.record))
        if self.frames:
            film([grid(frame, width=480) for frame in self.frames], str(folder / "film.webp"))
        (folder / "pictures").mkdir()
        for i, image in enumerate(self.images()):
            about = {**self.record, "picture": self.record.get("first", 0) + i}
            name = f"{about['picture']:06d}"
            if self.labels is not None:
                about["class"] = self.classes[self.labels[i]]
                name += "-" + in_a_name(about["class"])
            image.save(folder / "pictures" / f"{name}.png", pnginfo=text_of(about))
        labels = None if self.labels is None else list(self.labels)
        write_json(folder / SAMPLES[0], {**self.record, "classes": list(self.classes), "labels": labels})
        if self.base is not None:
            (folder / "base").mkdir()
            self.base._write(folder / "base")


def check_out(folder: str | Path, made: tuple[str, ...] = SAMPLES, command: str = "ddpm sample") -> Path:
    """The folder, if it may be written: new, empty, or holding only what the command made before.

    made: the names in such a folder, the first of which is always there.
    """
    folder = Path(folder)
    check_place(folder)
    try:
        if folder.resolve() == Path.cwd():
            raise UserError(f"{folder}: is the folder you stand in; choose another --out")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: is a file; choose another --out")
        found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    except (OSError, RuntimeError) as error:  # it cannot be looked into, or is a link to itself
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{folder}: cannot be written ({reason}); choose another --out") from None
    if found and (made[0] not in found or found - set(made)):
        raise UserError(f"{folder}: is not empty and holds more than {command} wrote; choose another --out")
    return folder


@contextmanager
def written(folder: Path) -> Iterator[Path]:
    """A new folder to write into that takes the place of `folder` when all of it is there."""
    try:
        with new_folder(folder) as beside:
            yield beside
    except OSError as error:
        raise unwritable(folder, error) from None


def _pixels(path: Path) -> np.ndarray:
    """uint8 [C, H, W] of a PNG of ours."""
    with Image.open(path) as image:
        made = np.asarray(image)
    return made[None] if made.ndim == 2 else made.transpose(2, 0, 1)


def in_a_name(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", text).strip(".")


def text_of(record: dict[str, Any]) -> PngImagePlugin.PngInfo:
    """A record as the text fields of a PNG."""
    info = PngImagePlugin.PngInfo()
    for key, value in record.items():
        info.add_text(f"ddpm:{key}", json.dumps(value) if isinstance(value, dict) else str(value))
    return info
