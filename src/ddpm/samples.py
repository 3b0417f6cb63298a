"""Pictures a model drew, and the folders they are kept in."""

from __future__ import annotations

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

# What each command writes into its folder, its record first.
SAMPLES = ("samples.json", "grid.png", "film.webp", "pictures")


@dataclass(frozen=True)
class Samples:
    """Pictures a model drew: uint8 [N, C, H, W], a label each (or None), and how they were made.

    `frames` holds the walk of the first pictures, uint8 [M, C, H, W] each, if it was asked for.
    """

    pixels: np.ndarray
    labels: tuple[int, ...] | None
    classes: tuple[str, ...]
    record: dict[str, Any]
    frames: tuple[np.ndarray, ...] = field(default=(), repr=False)

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

        The folder appears whole or not at all. One that `save` wrote before is replaced; UserError for any
        other that is not empty. Each PNG carries the record in its text fields.
        """
        folder = check_out(folder)
        with written(folder) as beside:
            self.grid().save(beside / "grid.png", pnginfo=text_of(self.record))
            if self.frames:
                film([grid(frame, width=480) for frame in self.frames], str(beside / "film.webp"))
            (beside / "pictures").mkdir()
            for i, image in enumerate(self.images()):
                about = {**self.record, "picture": self.record["first"] + i}
                name = f"{about['picture']:06d}"
                if self.labels is not None:
                    about["class"] = self.classes[self.labels[i]]
                    name += "-" + in_a_name(about["class"])
                image.save(beside / "pictures" / f"{name}.png", pnginfo=text_of(about))
            labels = None if self.labels is None else list(self.labels)
            write_json(beside / SAMPLES[0], {**self.record, "classes": list(self.classes), "labels": labels})
        return folder


def check_out(folder: str | Path, made: tuple[str, ...] = SAMPLES, command: str = "ddpm sample") -> Path:
    """The folder, if it may be written: new, empty, or holding only what the command made before.

    made: the names in such a folder, the first of which is always there.
    """
    folder = Path(folder)
    if folder.resolve() == Path.cwd():
        raise UserError(f"{folder}: is the folder you stand in; choose another --out")
    if folder.is_file():
        raise UserError(f"{folder}: is a file; choose another --out")
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
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
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None


def in_a_name(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", text).strip(".")


def text_of(record: dict[str, Any]) -> PngImagePlugin.PngInfo:
    """A record as the text fields of a PNG."""
    info = PngImagePlugin.PngInfo()
    for key, value in record.items():
        info.add_text(f"ddpm:{key}", str(value))
    return info
