"""Hostile DATA on the command line: one line and exit status 2, or a skip that is counted and listed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hostile
import tiny
from hostile import encoded, noise, written
from hostile_archives import Entry, deflated_zeros, raw_zip
from hostile_pictures import png_header
from hostile_tables import Payload, lying_npy, npz


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def files(folder: Path) -> dict[Path, int]:
    """All that is in a folder but runs, with sizes."""
    return {path: path.lstat().st_size for path in folder.rglob("*") if "runs" not in path.parts}


def mixed(folder: Path) -> Path:
    """Eight pictures and four that are none."""
    for k in range(8):
        written(folder / f"{k}.png", encoded(noise(seed=k)))
    written(folder / "cut.jpg", encoded(noise(), "JPEG")[:-200])
    written(folder / "text\nof two lines.png", b"text")
    written(folder / "bomb.png", png_header(30_000, 30_000))
    os.mkfifo(folder / "pipe.png")
    return folder


def test_check_lists_what_cannot_be_read(call: Any, workplace: Path) -> None:
    mixed(workplace / "photos")
    status, out, err = call("check", "photos")
    assert (status, err) == (0, "looking 12/12\n")
    assert "12 to train on; 4 cannot be read" in out
    for line in (
        "bomb.png: too many pixels to decode: make it smaller",
        "cut.jpg: image file is truncated",
        "pipe.png: is a pipe, not a file",
        r"text\nof two lines.png: not a picture in a known format",
        "4 pictures (33.3%) cannot be read and would be left out: mend or delete them",
    ):
        assert line in out
    assert {path.name for path in workplace.iterdir()} <= {"photos", "check", "cache"}


def test_train_leaves_out_what_cannot_be_read(call: Any, workplace: Path) -> None:
    mixed(workplace / "photos")
    status, out, _ = call("train", "photos", *tiny.QUICK, "--steps", "2", "--chain.steps", "10")
    assert status == 0
    assert "4 of 12 pictures could not be read and are left out:\n  bomb.png: too many pixels" in out
    assert {path.name for path in workplace.iterdir()} == {"photos", "runs", "cache"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("objects.npz", "Python objects, which are never unpickled: save the pictures as a uint8 array"),
        ("huge.npy", "not a readable .npy array (1,280 bytes where shape"),
        (
            "bomb.zip",
            "unpacks to 3.2 GB of pictures, and so small an archive to 1.1 GB at the most: give the folder",
        ),
        ("empty.zip", "not a whole zip archive (File is not a zip file): copy or download it again"),
        ("pipe.npz", "is a pipe; name a file"),
        ("list.csv", "list.csv: none of its 1 file is there"),
        ("text.idx3-ubyte", "a damaged IDX file"),
        ("no pictures", "can be read, as a.png (not a picture in a known format); give others"),
        ("gone\x1b[31m.npz", r"gone\x1b[31m.npz: no such file or folder"),
    ],
)
@pytest.mark.parametrize("command", [("check",), ("train", *tiny.QUICK, "--steps", "2")])
def test_one_line_and_status_2(command: tuple[str, ...], name: str, says: str, call: Any, workplace: Path) -> None:
    hostile_data(workplace / "given", name)
    before = files(workplace)
    status, out, err = call(command[0], workplace / "given" / name, *command[1:])
    if command[0] == "check" and name == "no pictures":  # is what a check is there to find
        assert status == 2 and "none of the 2 pictures looked at can be read" in out
        return
    assert status == 2
    assert err.startswith("ddpm: ") and err.count("\n") == 1 and err.endswith("\n") and says in err
    assert files(workplace) == before
    assert not list(workplace.rglob(hostile.SENTINEL))


def hostile_data(folder: Path, name: str) -> None:
    data = {
        "objects.npz": lambda: npz(images=np.array([Payload(folder)], dtype=object)),
        "huge.npy": lambda: lying_npy("(1000000000000, 8, 8, 3)"),
        "bomb.zip": lambda: raw_zip([Entry("a.png", 8, deflated_zeros(3 << 10), 3 << 30)]),
        "empty.zip": lambda: b"",
        "list.csv": lambda: b"file\nnowhere.png\n",
        "text.idx3-ubyte": lambda: b"text",
    }
    folder.mkdir()
    if name in data:
        written(folder / name, data[name]())
    elif name == "pipe.npz":
        os.mkfifo(folder / name)
    elif name == "no pictures":
        written(folder / name / "a.png", b"text")
        written(folder / name / "b.png", bytes(100))
