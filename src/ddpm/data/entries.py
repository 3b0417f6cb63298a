"""A list of picture files, as text -> its entries:

    CSV (comma, tab or semicolon)    file,label               or without a header: cat/1.png,cat
    JSON                             [{"file": "cat/1.png", "label": "cat"}, ...], ["1.png", ...],
                                     {"cat/1.png": "cat", ...}, {"labels": [["cat/1.png", 3], ...]}
    JSONL                            {"file_name": "cat/1.png", "label": "cat"}   a line

Columns and keys go by their names; other ones are left alone. A label is a name or an integer.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddpm.data.files import SUFFIXES
from ddpm.data.source import unsuitable
from ddpm.errors import UserError, short
from ddpm.units import listed

FILE_KEYS = ("file", "path", "image", "file_name", "filename")
LABEL_KEYS = ("label", "class", "category", "target")
_FORM = 'give [{"file": "1.png", "label": "cat"}, ...] or {"1.png": "cat", ...}'


@dataclass(frozen=True)
class Entry:
    """One picture of a list; at: where in the list it stands, as "line 7"."""

    file: str
    label: str | None
    at: str


def parse(data: bytes, suffix: str, where: str) -> list[Entry]:
    """The entries of a list; UserError with the line or entry where it cannot be understood."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text (byte {error.start:,}): save it as UTF-8") from None
    if suffix in (".csv", ".tsv"):
        entries = _csv(text, where)
    elif suffix == ".jsonl":
        lines = [(f"line {k}", line) for k, line in enumerate(text.split("\n"), 1) if line.strip()]
        entries = [_entry(_json(line, where, at), where, at) for at, line in lines]
    else:
        entries = _items(_json(text, where, ""), where)
    if not entries:
        raise UserError(f"{where}: an empty list: list a picture a line, or give the folder of the pictures")
    return entries


def _csv(text: str, where: str) -> list[Entry]:
    """Rows by their header, or of one or two columns without one, the first of which are picture files."""
    at, first = next(((k, line) for k, line in enumerate(text.splitlines(), 1) if line.strip()), (1, ""))
    if len(first) > csv.field_size_limit():
        raise UserError(f"{where}, line {at}: {len(first):,} characters long: give a picture a line")
    widest = sorted("\t;,", key=lambda mark: len(_row(first, mark)), reverse=True)
    for mark in widest:
        header = [_key(cell) for cell in _row(first, mark)]
        if (column := _column(header, FILE_KEYS)) is not None:
            return _rows(text, mark, column, _column(header, LABEL_KEYS), len(header), where)
    alone = len(_row(first, widest[0])) == 1  # "cat,1.png" is no file of that name
    for mark in widest:
        rows = _read(text, mark, where)
        width = len(rows[0][1]) if rows else 0
        plain = all(len(cells) == width and cells[0].lower().endswith(SUFFIXES) for _, cells in rows)
        if (width == 2 or alone) and plain:
            return _rows(text, mark, 0, 1 if width == 2 else None, width, where, header=False)
    if not first:
        return []
    raise UserError(
        f"{where}: its first line ({first[:60]}) names no column {', '.join(FILE_KEYS[:-1])} or {FILE_KEYS[-1]}: "
        "begin with a line such as file,label"
    )


def _rows(
    text: str, mark: str, file: int, label: int | None, width: int, where: str, header: bool = True
) -> list[Entry]:
    entries = []
    for number, cells in _read(text, mark, where)[1 if header else 0 :]:
        at = f"line {number}"
        if len(cells) > width:
            raise UserError(
                f'{where}, {at}: {len(cells)} columns, not {width}: put names that hold "{mark}" in quotes'
            )
        name = cells[file].strip() if file < len(cells) else ""
        if not name:
            raise UserError(f"{where}, {at}: names no file: fill it in, or take the line out")
        text_of_label = cells[label].strip() if label is not None and label < len(cells) else ""
        entries.append(_checked(Entry(name, text_of_label or None, at), where))
    return entries


def _read(text: str, mark: str, where: str) -> list[tuple[int, list[str]]]:
    """(line, cells) of all rows that are not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise UserError(
            f"{where}, line {reader.line_num}: not readable as CSV ({error}): mend its quotes"
        ) from None


def _row(line: str, mark: str) -> list[str]:
    return next(csv.reader([line], delimiter=mark), [])


def _json(text: str, where: str, at: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        place = at or f"line {getattr(error, 'lineno', 1)}"
        raise UserError(f"{where}, {place}: not JSON ({getattr(error, 'msg', error)}): mend it there") from None


def _items(values: Any, where: str) -> list[Entry]:
    """Entries of a whole JSON file."""
    if isinstance(values, dict) and "labels" in values and isinstance(values["labels"], (list, type(None))):
        values = values["labels"] or []  # as StyleGAN and EDM write it
    if isinstance(values, dict):
        values = list(values.items())
    if not isinstance(values, list):
        raise UserError(f"{where}: holds no list: {_FORM}")
    return [_entry(value, where, f"entry {k}") for k, value in enumerate(values, 1)]


def _entry(value: Any, where: str, at: str) -> Entry:
    """One entry: a file, a pair of file and label, or an object."""
    file, label = value, None
    if isinstance(value, (list, tuple)) and len(value) == 2:
        file, label = value
    elif isinstance(value, Mapping):
        keys = list(value)
        names = [_key(key) for key in keys]
        found, chosen = _column(names, FILE_KEYS), _column(names, LABEL_KEYS)
        if found is None:
            raise UserError(f"{where}, {at}: none of its keys ({listed(keys)}) is {', '.join(FILE_KEYS)}: {_FORM}")
        file, label = value[keys[found]], None if chosen is None else value[keys[chosen]]
    if not isinstance(file, str) or not file.strip():
        raise UserError(f"{where}, {at}: {_short(file)} is no file name: {_FORM}")
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if label is not None and (isinstance(label, bool) or not isinstance(label, (str, int))):
        raise UserError(f"{where}, {at}: the label {_short(label)} is neither a name nor an integer: {_FORM}")
    return _checked(Entry(file.strip(), None if label is None else str(label).strip() or None, at), where)


def _checked(entry: Entry, where: str) -> Entry:
    """UserError for what no file can be called, and no class."""
    try:
        # Bytes that are not UTF-8 may be in a file's name, and stand for themselves as in Python.
        writable = b"\0" not in entry.file.encode("utf-8", "surrogateescape") + (entry.label or "").encode()
    except UnicodeEncodeError:
        writable = False
    if not writable:
        raise UserError(f"{where}, {entry.at}: a zero byte or half a character in file or label: take it out")
    if why := unsuitable(entry.label or ""):
        raise UserError(f"{where}, {entry.at}: the label {_short(entry.label)} {why}: give it another name")
    return entry


def _column(header: Sequence[str], wanted: Sequence[str]) -> int | None:
    """Where the first of the wanted names stands that is there at all."""
    return next((header.index(name) for name in wanted if name in header), None)


def _key(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _short(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        text = short(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
