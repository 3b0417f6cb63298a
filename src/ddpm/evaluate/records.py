"""What is kept of an evaluation: measured batches, so that it can be stopped and gone on with, and results.

    OUT/fashion-estimate-3f2a91c0/       all that shares the key
      key.json                           what decides the numbers: checkpoint, pictures, seed, what is measured
      parts/0000000-5d41402a.npz         what was measured of a batch of pictures, and their numbers
      nll-1000.json, nll-1000.png        results over 1,000 pictures

The folder's name holds a hash of the key, so that other settings have their own and nothing is ever mixed. Of a
picture that is in two parts the first counts; a part that cannot be read counts as not there, once it is noticed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from ddpm.atomic import write_bytes, write_json
from ddpm.errors import UserError

_NUMBER = "number"
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)

Part = dict[str, np.ndarray]


class Records:
    """The folder of one key in OUT, made when it is first written to; arrays are read back as they were given."""

    def __init__(self, out: Path, name: str, key: Mapping[str, Any]):
        """name: what a person calls it, the first part of the folder's name. key: plain JSON values."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        named = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "evaluation"
        self.folder, self.key = out / f"{named}-{digest[:8]}", dict(key)
        self._damaged: set[Path] = set()

    def parts(self) -> Iterator[tuple[Int64[np.ndarray, "B"], Part]]:
        """The batches that were measured: numbers of the pictures, and the arrays."""
        for arrays in self._loaded():
            yield arrays.pop(_NUMBER), arrays

    def _loaded(self, only: str | None = None) -> Iterator[Part]:
        """Each part's arrays, or one alone; a part that is found damaged is left out from then on."""
        for path in sorted({*(self.folder / "parts").glob("[0-9]*.npz")} - self._damaged):
            try:
                with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                    arrays = {name: archive[name] for name in archive.files if only in (None, name)}
            except _DAMAGED:
                arrays = {}
            if _NUMBER in arrays:
                yield arrays
            else:
                self._damaged.add(path)

    def there(self) -> set[int]:
        """Numbers of the pictures that have been measured; what was measured of them is not read."""
        return {number for arrays in self._loaded(_NUMBER) for number in arrays[_NUMBER].tolist()}

    def add(self, numbers: Int64[np.ndarray, "B"], arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps what was measured of some pictures; UserError if it cannot be written."""
        data = io.BytesIO()
        np.savez(data, **{_NUMBER: numbers, **arrays})  # type: ignore[arg-type]
        which = hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest()[:8]
        self._damaged.discard(self._write(f"parts/{int(numbers[0]):07d}-{which}.npz", data.getvalue()))

    def read(self, numbers: Int64[np.ndarray, "B"]) -> Part:
        """Arrays with a row a picture, put together in this order; KeyError for one that was not measured."""
        wanted = {number: row for row, number in enumerate(numbers.tolist())}
        made: Part = {}
        for there, arrays in self.parts():
            rows = [(wanted.pop(number), row) for row, number in enumerate(there.tolist()) if number in wanted]
            to, of = [row for row, _ in rows], [row for _, row in rows]
            for name, values in arrays.items():
                made.setdefault(name, np.empty((len(numbers), *values.shape[1:]), values.dtype))[to] = values[of]
        if wanted:
            raise KeyError(min(wanted))
        return made

    def look(self, numbers: Int64[np.ndarray, "B"]) -> tuple[Part | None, Int64[np.ndarray, "missing"]]:
        """What `read` reads, or None, and the numbers of the pictures that have not been measured."""
        there = self.there()
        missing = np.array([number for number in numbers.tolist() if number not in there], dtype=np.int64)
        if len(missing):
            return None, missing
        try:
            return self.read(numbers), missing
        except KeyError:  # a damaged part, known for one from now on
            return self.look(numbers)

    def prepare(self) -> None:
        """Makes the folder; UserError if it cannot be written, which is better known before measuring."""
        self._write("key.json", (json.dumps(self.key, indent=2) + "\n").encode())

    def path(self, name: str) -> Path:
        """Where a result of that name lies."""
        return self.folder / name

    def write_result(self, name: str, values: Mapping[str, Any]) -> Path:
        """Writes a result, whole or not at all; UserError if it cannot be written."""
        return self._write(name, (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())

    def _write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "key.json").is_file():
                write_json(self.folder / "key.json", self.key)
            write_bytes(path, data)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written ({error.strerror}); choose another --out") from None
        return path
