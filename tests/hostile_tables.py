"""Hostile arrays, IDX files, lists and tables: objects that run when unpickled, headers that lie, odd labels."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hostile import SENTINEL, Case, encoded, noise, written
from hostile_archives import Entry, deflated_zeros, raw_zip

GOOD = encoded(noise())
PICTURES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


class Payload:
    """Makes the sentinel when it is unpickled."""

    def __init__(self, root: Path) -> None:
        self._path = str(root / SENTINEL)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")


def wholes(root: Path) -> dict[str, bytes]:
    """A small whole one of each kind; those of `datasets` only where it is there."""
    made = {
        "a.npz": npz(images=PICTURES, labels=LABELS),
        "packed.npz": npz(np.savez_compressed, images=PICTURES, labels=LABELS, classes=np.array(["a", "b", "c"])),
        "a.npy": _npy(PICTURES),
        "a-idx3-ubyte": idx(PICTURES[..., 0]),
        "a-idx3-ubyte.gz": gzip.compress(idx(PICTURES[..., 0]), mtime=0),
        "a.csv": b"file,label\ngood.png,cat\n./good.png,dog\n",
        "a.tsv": b"file\tlabel\ngood.png\tcat\n./good.png\tdog\n",
        "a.json": json.dumps([{"file": "good.png", "label": "cat"}, {"file": "./good.png", "label": 3}]).encode(),
        "a.jsonl": b'{"file_name": "good.png", "label": 1}\n{"file_name": "./good.png", "label": 2}\n',
    }
    try:
        import datasets
    except ImportError:
        return made
    table = datasets.Dataset.from_dict({"image": [GOOD, encoded(noise(seed=1))], "label": [0, 1]})
    stream = io.BytesIO()
    table.to_parquet(stream)
    made["a.parquet"] = stream.getvalue()
    shutil.rmtree(root / "saved", ignore_errors=True)
    table.save_to_disk(str(root / "saved"))
    made |= {f"saved/{path.name}": path.read_bytes() for path in sorted((root / "saved").iterdir())}
    return made


def arrays(root: Path) -> Iterator[Case]:
    """Pickles, headers that lie, values that are no pixels, labels that misfit."""
    for name, data in {"empty": b"", "text": b"text", "zeros": bytes(200), "magic": b"\x93NUMPY"}.items():
        for suffix in (".npy", ".npz"):
            yield Case(f"{name}{suffix}", written(root / f"{name}{suffix}", data), "error")
    payload = np.array([Payload(root)], dtype=object)
    pickles = {
        "objects.npy": _npy(payload),
        "objects.npz": npz(images=payload),
        "labels.npz": npz(images=PICTURES, labels=payload),
        "classes.npz": npz(images=PICTURES, labels=LABELS, classes=payload),
        "pickle.npy": pickle.dumps(Payload(root)),
        "pickle.npz": pickle.dumps(Payload(root)),
        "inside.npz": _members({"images.npy": pickle.dumps(Payload(root))}),
        "beside.npz": _members({"images": pickle.dumps(Payload(root)), "images.npy": pickle.dumps(Payload(root))}),
    }
    for name, data in pickles.items():
        yield Case(name, written(root / name, data), "error")
    headers = {
        "huge": "(1000000000000, 8, 8, 3)",
        "overflow": "(4611686018427387904, 4611686018427387904, 8)",
        "wraps to nothing": "(4294967296, 4294967296, 16)",
        "beyond integers": f"({10**30}, 8, 8)",
        "negative": "(-6, 8, 8, 3)",
        "two negative": "(-6, -8, 8, 3)",
        "zero": "(0, 8, 8, 3)",
        "fraction": "(6.5, 8, 8, 3)",
        "truth": "(True, 8, 8, 3)",
        "words": "('6', 8, 8, 3)",
        "many axes": f"({'1, ' * 500})",
        "nested": f"{'(' * 3000}{')' * 3000}",
        "call": "__import__('os').mkdir('sentinel')",
        "sum": "(6, 8, 8, 1+1+1)",
        "longer than there is": "(7, 8, 8, 3)",
    }
    for name, shape in headers.items():
        data = lying_npy(shape)
        yield Case(f"{name}.npy", written(root / f"{name}.npy", data), "error")
        yield Case(f"{name}.npz", written(root / f"{name}.npz", _members({"images.npy": data})), "error")
        labels = _members({"images.npy": _npy(PICTURES), "labels.npy": lying_npy(shape, "<i8")})
        yield Case(f"{name} labels", written(root / f"{name}-labels.npz", labels), "error")
    kinds = {
        "'|V99999999999'": "bytes",
        "'|O'": "objects",
        "'<U99999999'": "text",
        "'(99999,99999)u1'": "sub-array",
    }
    for kind, name in kinds.items():
        data = lying_npy("(6, 8, 8, 3)", kind, quoted=True)
        yield Case(f"{name}.npy", written(root / f"{name}-kind.npy", data), "error")
        yield Case(f"{name}.npz", written(root / f"{name}-kind.npz", _members({"images.npy": data})), "error")
    head = b"\x93NUMPY\x02\0" + struct.pack("<I", 2**32 - 1) + b"{'descr': '|u1', "
    for suffix, data in ((".npy", head), (".npz", _members({"images.npy": head}))):
        yield Case(f"head{suffix}", written(root / f"head{suffix}", data), "error")
    values = {
        "nan": np.full((6, 8, 8, 3), np.nan, np.float32),
        "infinite": np.full((6, 8, 8, 3), np.inf),
        "wide": PICTURES.astype(np.int64),
        "complex": PICTURES.astype(complex),
        "text": np.array(["a"]),
        "records": np.zeros(6, [("a", "u1"), ("b", "f4")]),
        "dates": np.zeros((6, 8, 8), "M8[s]"),
        "one number": np.uint8(3),
        "flat": PICTURES.reshape(-1),
        "five axes": PICTURES[None],
        "two channels": PICTURES[..., :2],
    }
    for name, value in values.items():
        yield Case(f"{name}.npy", written(root / f"{name}.npy", _npy(value)), "error")
        yield Case(f"{name}.npz", written(root / f"{name}.npz", npz(images=value)), "error")
    for name, given in {
        "out of range": {"labels": LABELS + 1, "classes": np.array(["a", "b", "c"])},
        "negative": {"labels": LABELS - 1},
        "too few": {"labels": LABELS[:5]},
        "fractions": {"labels": LABELS + 0.5},
        "not a number": {"labels": np.full(6, np.nan)},
        "wrapped": {"labels": np.full(6, 2**64 - 1, np.uint64)},
        "one each": {"labels": np.eye(6)},
        "truths": {"labels": LABELS > 0},
        "lines": {"labels": LABELS, "classes": np.array(["a\nb", "\x1b[2J", "c"])},
        "half characters": {"labels": LABELS, "classes": np.array(["\ud800", "b", "c"])},
        "the same": {"labels": LABELS, "classes": np.array(["a", "a", "b"])},
    }.items():
        path = written(root / f"{name}-labels.npz", npz(images=PICTURES, **given))
        yield Case(f"{name} labels", path, "error")
    yield Case("no picture", written(root / "other.npz", npz(weights=PICTURES)), "error", "holds weights")
    bomb = [Entry("images.npy", 8, deflated_zeros(3 << 10), 3 << 30)]
    yield Case("bomb.npz", written(root / "bomb.npz", raw_zip(bomb)), "error")
    lying = lying_npy("(1048576, 32, 32, 3)")
    squeezed = io.BytesIO()
    with zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", lying + bytes(1 << 20))
    yield Case("lying.npz", written(root / "lying.npz", squeezed.getvalue()), "error")


def idx_files(root: Path) -> Iterator[Case]:
    """Sizes that lie, and labels beside that misfit."""
    pictures = PICTURES[..., 0]
    lying = {
        "huge": struct.pack(">I", 0x803) + struct.pack(">III", *[2**32 - 1] * 3) + bytes(100),
        "many": struct.pack(">I", 0x803) + struct.pack(">III", 2**31, 28, 28) + bytes(100),
        "none": struct.pack(">I", 0x803) + struct.pack(">III", 0, 28, 28),
        "cut": idx(pictures)[:-5],
        "more": idx(pictures) + b"more",
        "head": idx(pictures)[:9],
        "empty": b"",
        "other": struct.pack(">I", 0xD03) + bytes(100),
    }
    for name, data in lying.items():
        # That bytes are missing shows as soon as it is opened; packed, as soon as it is read.
        yield Case(name, written(root / f"{name}-idx3-ubyte", data), "error")
        packed = gzip.compress(data)
        yield Case(f"{name}.gz", written(root / f"{name}-idx3-ubyte.gz", packed), "error")
    start = gzip.compress(struct.pack(">IIII", 0x803, 1 << 20, 64, 64) + bytes(100))
    zeros = gzip.compress(bytes(1 << 26)) * 64
    yield Case("bomb.gz", written(root / "bomb-idx3-ubyte.gz", start + zeros), "error")
    yield Case("longer.gz", written(root / "longer-idx3-ubyte.gz", gzip.compress(idx(pictures)) + zeros), "error")
    yield Case("text.gz", written(root / "text-idx3-ubyte.gz", b"text"), "error")
    for name, labels in {
        "too few": np.arange(5),
        "too many": np.arange(7),
        "a bomb": np.zeros(1 << 25, np.uint8),
    }.items():
        folder = root / name
        written(folder / "train-images-idx3-ubyte", idx(pictures))
        data = gzip.compress(idx(labels.astype(np.uint8)), 1)
        written(folder / "train-labels-idx1-ubyte.gz", data)
        yield Case(f"{name} labels", folder, "error")


def lists(root: Path) -> Iterator[Case]:
    """Files that are missing, elsewhere, or none, and text that is no list."""
    (root / "folder.png").mkdir()
    os.mkfifo(root / "pipe.png")
    written(root / "good.png", GOOD)
    written(root.parent / "outside list.png", GOOD)
    entries = {
        "missing": ("nowhere.png", "skipped"),
        "up": ("../outside list.png", "fine"),
        "absolute": (str(root / "good.png"), "fine"),
        "folder": ("folder.png", "skipped"),
        "itself": (".", "skipped"),
        "pipe": ("pipe.png", "skipped"),
        "device": ("/dev/zero", "skipped"),
        "waiting": ("/dev/tty", "skipped"),
        "kernel": ("/proc/kmsg", "skipped"),
        "long": ("n" * 5000 + ".png", "skipped"),
        "zero": ("a\0b.png", "error"),
        "empty": ("", "error"),
        "newline": ("two\nlines.png", "skipped"),
        "terminal": ("\x1b[2J.png", "skipped"),
        "half": ("\ud800.png", "error"),
        "not-utf8": ("caf\udce9.png", "skipped"),
    }
    for name, (file, expected) in entries.items():
        rows = [{"file": "good.png"}, {"file": file}]
        yield Case(f"{name}.json", written(root / f"{name}.json", json.dumps(rows).encode()), expected)
        lines = "\n".join(map(json.dumps, rows)).encode()
        yield Case(f"{name}.jsonl", written(root / f"{name}.jsonl", lines), expected)
        if file and file.isprintable():
            data = f'file\ngood.png\n"{file}"\n'.encode()
            yield Case(f"{name}.csv", written(root / f"{name}.csv", data), expected)
    texts = {
        "all missing.csv": b"file\nx.png\ny.png\n",
        "blank.csv": b"\n\n\n",
        "zeros.csv": bytes(3000),
        "zeros.json": bytes(3000),
        "bytes.csv": bytes(range(256)) * 20,
        "bytes.jsonl": bytes(range(256)) * 20,
        "long line.csv": b"file," + b"x" * 3_000_000 + b"\n",
        "long cell.csv": b"file,label\ngood.png," + b"x" * 3_000_000 + b"\n",
        "quote.csv": b'file,label\n"good.png,cat\n',
        "wide.csv": b"file,label\ngood.png,a,b,c\n",
        "some labels.csv": b"file,label\ngood.png,cat\n./good.png,\n",
        "zero.csv": b"file,label\ngood.png,c\0at\n",
        "nested.json": b"[" * 200_000,
        "nested.jsonl": b'{"a":' * 200_000,
        "number.json": b"7",
        "words.json": b'"good.png"',
        "pairs.json": b'[["good.png", "cat", 3]]',
        "list label.json": b'[{"file": "good.png", "label": ["cat"]}]',
        "nan label.json": b'[{"file": "good.png", "label": NaN}]',
        "infinite label.json": b'[{"file": "good.png", "label": 1e999}]',
        "digits.json": b'[{"file": "good.png", "label": ' + b"9" * 100_000 + b"}]",
        "number file.json": b'[{"file": 7}]',
        "no file.json": b'[{"picture": "good.png"}]',
        "utf16.csv": "file,label\ngood.png,cat\n".encode("utf-16"),
        "half label.json": b'[{"file": "good.png", "label": "\\ud800"}]',
        "terminal label.json": b'[{"file":"good.png","label":"\\u001b[2J"},{"file":"./good.png","label":"b"}]',
    }
    for name, data in texts.items():
        yield Case(name, written(root / name, data), "error")


def tables(root: Path) -> Iterator[Case]:
    """Parquet and what save_to_disk writes, where `datasets` is there to read them."""
    try:
        import datasets
        import pyarrow
    except ImportError:
        return
    data = wholes(root / "whole")["a.parquet"]
    garbage = {"empty": b"", "text": b"text", "magic": b"PAR1PAR1", "zeros": bytes(500), "head": data[:100]}
    footer = data[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1"
    for name, content in {**garbage, "tail": data[100:], "footer": footer}.items():
        yield Case(name, written(root / f"{name}.parquet", content), "error")
    struct_of = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    os.mkfifo(root / "pipe")
    written(root / "outside.png", GOOD)
    for name, (cell, expected) in {
        "text cell": ({"bytes": b"text", "path": None}, "skipped"),
        "null cell": (None, "skipped"),
        "empty cell": ({"bytes": b"", "path": None}, "skipped"),
        "no picture": ({"bytes": None, "path": None}, "skipped"),
        "missing": ({"bytes": None, "path": "/nowhere/x.png"}, "skipped"),
        "zero": ({"bytes": None, "path": "a\0b"}, "skipped"),
        "device": ({"bytes": None, "path": "/dev/zero"}, "skipped"),
        "pipe": ({"bytes": None, "path": str(root / "pipe")}, "skipped"),
        "folder": ({"bytes": None, "path": str(root)}, "skipped"),
    }.items():
        cells = pyarrow.array([{"bytes": GOOD, "path": None}, cell], struct_of)
        path = root / f"{name}.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"image": cells}), path)
        yield Case(name, path, expected)
    for name, labels in {
        "negative labels": datasets.Dataset.from_dict({"image": [GOOD] * 2, "label": [-1, 5]}).data.table,
        "null labels": pyarrow.table({"image": [GOOD] * 2, "label": [None, 1]}),
        "no column": pyarrow.table({"label": [1, 2]}),
        "no rows": pyarrow.table({"image": pyarrow.array([], pyarrow.binary())}),
    }.items():
        pyarrow.parquet.write_table(labels, root / f"{name}.parquet")
        yield Case(name, root / f"{name}.parquet", "fine" if name == "negative labels" else "error")
    for name, (file, content) in {
        "no state": ("state.json", b"{}"),
        "text state": ("state.json", b"text"),
        "nested state": ("state.json", b"[" * 100_000),
        "away": ("state.json", b'{"_data_files": [{"filename": "../../../../etc/passwd"}]}'),
        "device file": ("state.json", b'{"_data_files": [{"filename": "/dev/zero"}]}'),
        "pipe file": ("state.json", b'{"_data_files": [{"filename": "../pipe"}]}'),
        "features": ("dataset_info.json", b'{"features": {"image": {"_type": "Payload"}}}'),
        "text info": ("dataset_info.json", b"text"),
        "arrow": ("data-00000-of-00001.arrow", b"text"),
        "no arrow": ("data-00000-of-00001.arrow", b""),
        "splits": ("dataset_dict.json", b'{"splits": ["../../.."]}'),
        "no splits": ("dataset_dict.json", b'{"splits": 7}'),
    }.items():
        shutil.copytree(root / "whole" / "saved", root / name)
        if "splits" in name:
            (root / name / "state.json").unlink()
        written(root / name / file, content)
        yield Case(name, root / name, "error")


FAMILIES = {"arrays": arrays, "idx": idx_files, "lists": lists, "tables": tables}


def idx(values: np.ndarray[Any, Any]) -> bytes:
    return (
        struct.pack(">I", 0x800 + values.ndim) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    )


def _npy(value: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value, allow_pickle=True)
    return stream.getvalue()


def npz(save: Any = np.savez, **values: Any) -> bytes:
    stream = io.BytesIO()
    save(stream, **values)
    return stream.getvalue()


def _members(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def lying_npy(shape: str, kind: str = "|u1", quoted: bool = False) -> bytes:
    """The pictures behind a header that says something else."""
    descr = kind if quoted else repr(kind)
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head + PICTURES.tobytes()
