"""Tables of pictures, through the optional `datasets`: parquet files, what save_to_disk wrote, the hub's by id.

    hub:org/name@config:split    hub: and what follows @ and : may be left out; split may be cut, as train[:1000]

A table is mapped from disk as Arrow: parquet is unpacked once into <cache>/tables, the hub's sets into the
library's own cache.
"""

from __future__ import annotations

import glob
import hashlib
import io
import logging
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from ddpm.data import bounds, decode, digest
from ddpm.data.arrays import check_labels, check_names
from ddpm.data.cache import default_cache
from ddpm.data.entries import LABEL_KEYS
from ddpm.data.files import WHOLE, Part, located
from ddpm.data.lists import numbered
from ddpm.data.source import Source
from ddpm.errors import UserError, short
from ddpm.reading import check_file, read_json
from ddpm.units import counted, listed

PREFIX = "hub:"
PICTURE_KEYS = ("image", "img", "picture")
_ID = re.compile(r"(?P<id>\w[\w.-]*(?:/\w[\w.-]*)?)(?:@(?P<config>[\w.-]+))?(?::(?P<split>[^@]+))?")
_SAVED = ("dataset_info.json", "dataset_dict.json")  # a split, or several
_STATE = "state.json"


class Address(NamedTuple):
    """A data set of the hub."""

    id: str
    config: str | None
    split: str | None


def address(data: str) -> Address | None:
    """What DATA says of a data set of the hub; None if it does not look like one."""
    match = _ID.fullmatch(data.removeprefix(PREFIX))
    if match is None or not (data.startswith(PREFIX) or "/" in match["id"]):
        return None
    return Address(match["id"], match["config"], match["split"])


def is_saved(folder: Path) -> bool:
    """Whether save_to_disk wrote the folder."""
    one = all((folder / name).is_file() for name in (_SAVED[0], _STATE))
    return one or (folder / _SAVED[1]).is_file()


@dataclass(frozen=True)
class Tables:
    """The splits of a data set, as datasets.Dataset; one that has none goes by "". where: what the user gave;
    local: a file or folder, so that no split can be named there.
    """

    where: str
    name: str
    by_split: Mapping[str, Any]
    local: bool = True


def parquet(path: Path, name: str) -> Tables:
    """A file, or a folder of them, whose splits go by the names train, test, ... of files or folders in it."""
    place = glob.escape(str(path.absolute()))
    what = {"data_dir": place} if path.is_dir() else {"data_files": {"train": [place]}}
    with _library(str(path)) as library, _unreported(library):
        cache = str(default_cache() / "tables")
        found = library.load_dataset("parquet", cache_dir=cache, keep_in_memory=False, **what)
        return Tables(str(path), name, dict(found) if path.is_dir() else {"": found["train"]})


def saved(path: Path, name: str) -> Tables:
    """A folder that save_to_disk wrote; UserError if it names files elsewhere, or what are none."""
    _check_saved(path)
    with _library(str(path)) as library:
        found = library.load_from_disk(str(path), keep_in_memory=False)
        by_split = dict(found) if isinstance(found, Mapping) else {"": found}
        for table in by_split.values():
            table.data.validate(
                full=True
            )  # where a row begins is taken on trust later, and would be read anywhere
        return Tables(str(path), name, by_split)


def _check_saved(path: Path) -> None:
    """The library opens whatever the descriptions name, and would wait for a pipe."""
    folders = [path]
    if not (path / _SAVED[0]).is_file():
        folders = _inside(path, read_json(path / _SAVED[1]), "splits")
    for folder in folders:
        check_file(folder / _SAVED[0])
        entries = read_json(folder / _STATE)
        for file in _inside(folder, entries, "_data_files"):
            check_file(file)


def _inside(folder: Path, values: Any, key: str) -> list[Path]:
    """What a description lists, as names or in {"filename": name}; UserError unless all are plain names."""
    listed_here = values.get(key) if isinstance(values, dict) else None
    if not isinstance(listed_here, list):
        raise UserError(f"{folder}: damaged, its description lists no {key}: save it again with save_to_disk")
    files = []
    for each in listed_here:
        name = each.get("filename") if isinstance(each, dict) else each
        if not isinstance(name, str) or Path(name).name != name or "\0" in name:
            raise UserError(f"{folder}: {key} names {short(name)}, which is not in it: save it with save_to_disk")
        files.append(folder / name)
    return files


def on_hub(data: str) -> Tables:
    """DATA that `address` knows, from the hub, or from the library's cache of it."""
    here = address(data)
    if here is None:
        raise UserError(f"{data}: no address of a data set: give it as hub:org/name@config:split")
    with _library(data) as library:
        if not data.startswith(PREFIX):
            print(f"{data}: no such file or folder; looking for it on the Hugging Face hub", file=sys.stderr)
        found = library.load_dataset(here.id, here.config, split=here.split, keep_in_memory=False)
        name = here.id.rpartition("/")[2]
        by_split = dict(found) if isinstance(found, Mapping) else {here.split or "": found}
        return Tables(data, name, by_split, local=False)


@final
class TableSource(Source):
    """The rows of a table: a picture file in each, or the path of one."""

    def __init__(
        self,
        table: Any,
        column: str,
        name: str,
        shown: str,
        classes: tuple[str, ...],
        labels: npt.NDArray[np.int64] | None,
        notes: tuple[str, ...],
    ) -> None:
        """table: a datasets.Dataset; shown: what the rows are called after, with the split."""
        super().__init__(name, classes, labels, notes)
        self._count = len(table)
        self._rows = table.select_columns([column]).with_format("arrow")
        self._files = [Path(part["filename"]) for part in table.cache_files]
        self._shown = shown

    def __len__(self) -> int:
        return self._count

    @contextmanager
    def opened(self, i: int) -> Iterator[Image.Image]:
        with decode.opened(io.BytesIO(self.stored(i))) as image:
            yield image

    def describe(self, i: int) -> str:
        return f"{self._shown}[{i}]"

    def stored(self, i: int) -> bytes:
        # Arrow maps the table: a row is found without reading the others, by any thread.
        cell = self._rows[i].column(0)[0].as_py()
        data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, Mapping) else (cell, None)
        if data is None and path:
            return bounds.read(Path(path))
        if data is None:
            raise ValueError("no picture in this row")
        return bytes(data)

    def place(self, i: int) -> Path | None:
        return None

    @property
    def filed(self) -> bool:
        return True

    def stamp(self) -> digest.Stamp:
        files = digest.stamp((file.name, file) for file in self._files)
        # One file may hold several splits and columns.
        part = hashlib.sha256(f"{self._shown} {self._rows.column_names} {self._count}".encode()).digest()
        names, state = (digest.combined([bytes.fromhex(half), part]) for half in (files.names, files.state))
        return digest.Stamp(names, state, files.newest)


def open_table(tables: Tables, labels: str, part: Part = WHOLE) -> TableSource:
    """The pictures of the split `part` is within, else of train, else of the only one that it is not without.

    UserError if there is no such split, or no picture in it. labels: auto or none.
    """
    usable = [split for split in tables.by_split if not part.without or split != part.without]
    split = part.within or ("train" if "train" in usable else usable[0] if usable else "")
    if split not in usable or (len(usable) > 1 and split not in (part.within, "train")):
        rest = f" but {part.without}" if part.without else ""
        raise UserError(
            f"{tables.where}: no split train{rest}, only {', '.join(tables.by_split)}: {_choice(tables)}"
        )
    notes: list[str] = []
    others = [other for other in usable if other != split]
    if others and not part.within:
        notes = [f"split {split} taken, {', '.join(others)} left; --holdout {others[-1]} measures on that one"]
    table = tables.by_split[split]
    if not len(table):
        raise UserError(f"{tables.where}: no rows: give another file or split")
    column, others = _picture_column(table, tables.where)
    if others:
        notes.append(f"pictures from column {column}; {listed(others)} left alone")
    none: tuple[tuple[str, ...], None, str] = (), None, "no classes"
    classes, index, note = none if labels == "none" else _classes(table, tables.where, part.known)
    shown = f"{tables.name}:{split}" if split else tables.name
    return TableSource(table, column, tables.name, shown, classes, index, (*notes, note))


def _choice(tables: Tables) -> str:
    """How one of several splits is chosen."""
    splits = list(tables.by_split)
    if not tables.local:
        return f"name one, as in {PREFIX}{tables.where.removeprefix(PREFIX)}:{splits[0]}"
    other = f", or hold the other out (--holdout {splits[1]})" if len(splits) == 2 else ""
    return f"give the files of one of them{other}"


def _picture_column(table: Any, where: str) -> tuple[str, list[str]]:
    """The column of picture files, or of structs of their bytes and path as hub data sets have it; other such."""
    found = []
    for field in table.features.arrow_schema:
        # as "binary" or "struct<bytes: binary, path: string>"
        if re.fullmatch(r"(large_)?binary(_view)?|struct<(.*, )?bytes: (large_)?binary\b.*>", str(field.type)):
            found.append(field.name)
    if not found:
        columns = ", ".join(f"{field.name} ({field.type})" for field in table.features.arrow_schema)
        raise UserError(f"{where}: no column holds picture files, only {columns}: store PNG or JPEG bytes in one")
    column = next((name for name in PICTURE_KEYS if name in found), found[0])
    return column, [name for name in found if name != column]


def _classes(
    table: Any, where: str, known: Collection[str]
) -> tuple[tuple[str, ...], npt.NDArray[np.int64] | None, str]:
    """Classes, labels and a note, from a column called as labels are, else from the first that has class names."""
    features = table.features
    named = [name for name in (*LABEL_KEYS, "labels") if name in features]
    column = next(iter([*named, *(n for n, f in features.items() if hasattr(f, "names"))]), None)
    if column is None:
        return (), None, f"no classes: none of the columns {listed(list(features))} has labels"
    feature, kind = features[column], str(features.arrow_schema.field(column).type)
    if not re.fullmatch(r"u?int\d+|(large_)?string(_view)?", kind):
        return (), None, f"no classes: {column} holds {kind}, neither names nor integers"
    values = table.with_format(None)[column][:]
    if None in values:
        raise UserError(
            f"{where}: row {values.index(None)} has no {column}, as {values.count(None):,} of {len(values):,} "
            "have none: label every picture, or turn classes off (--labels none)"
        )
    classes: tuple[str, ...]
    if hasattr(feature, "names"):
        index, classes = check_labels(f"{where}: {column}", np.array(values), len(values), feature.names, known)
        if index is None:
            return (), None, f"no classes: {column} has but one"
    else:
        classes, numbers = numbered([str(value) for value in values], known)
        if numbers is None:
            return (), None, f"no classes: {column} is {values[0]} in every row"
        check_names(f"{where}: {column}", classes)
        index = numbers
    return classes, index, f"{counted(len(classes), 'class', 'classes')} from column {column}: {listed(classes)}"


@contextmanager
def _library(where: str) -> Iterator[Any]:
    """The optional library; inside `with` it shows only progress on a terminal, and its errors are ours."""
    here = where.startswith(PREFIX) or located(where).exists()
    missing = f"{where}: " + ("" if here else "no such file or folder, and ")
    try:
        import datasets as library
        from datasets import load_dataset  # noqa: F401  (a folder of that name would do for the first line)
    except ImportError:
        raise UserError(
            f"{missing}parquet files and data sets of the hub need an extra: pip install 'ddpm[hub]'"
        ) from None
    level, bars = library.logging.get_verbosity(), not library.are_progress_bars_disabled()
    quiet = bars and not sys.stderr.isatty()
    library.logging.set_verbosity(library.logging.CRITICAL)
    # It warns of every attempt to connect, of which there are many.
    client = logging.getLogger("huggingface_hub")
    client_level = client.level
    client.setLevel(logging.CRITICAL)
    if quiet:
        library.disable_progress_bars()
    try:
        yield library
    except ConnectionError as error:
        raise UserError(
            f"{missing}the Hugging Face hub cannot be asked for it ({_line(error)}): check the name, or the "
            "connection"
        ) from None
    except library.exceptions.DatasetNotFoundError as error:
        raise UserError(
            f"{missing}no data set on the Hugging Face hub that you may read ({_line(error)}): check the name; a "
            "private or gated one needs hf auth login"
        ) from None
    except Exception as error:  # whatever a library of its size raises for a damaged file or a wrong name
        inner: BaseException = error
        while inner.__cause__ is not None:
            inner = inner.__cause__
        raise UserError(f"{where}: cannot be read by datasets ({_line(inner)}): mend or choose another") from None
    finally:
        library.logging.set_verbosity(level)
        client.setLevel(client_level)
        if quiet:
            library.enable_progress_bars()


@contextmanager
def _unreported(library: Any) -> Iterator[None]:
    """The library tells its makers of each file it opens: what is here concerns nobody."""
    before = library.config.HF_UPDATE_DOWNLOAD_COUNTS
    library.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        yield
    finally:
        library.config.HF_UPDATE_DOWNLOAD_COUNTS = before


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
