"""What is read at all, and how much at a time."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.data import bounds, load, open_source
from ddpm.data.bounds import MOST, Room, check_size, most_inside, opened, read


def test_files_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a")
    assert read(tmp_path / "a") == read(tmp_path / "link") == b"content"
    with opened(tmp_path / "a") as file:
        assert file.read() == b"content"


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(MOST + 1)
    for name, says in {
        "pipe": "is a pipe, not a file",
        "device": "is a device, not a file",
        "empty": "an empty file",
        "folder": "Is a directory",
        "holes": r"too large a file \(1,073,741,825 bytes\)",
        "nothing": "No such file",
    }.items():
        for take in (opened, read):
            with pytest.raises(OSError, match=says):
                take(tmp_path / name)


def test_limits() -> None:
    check_size(MOST)
    with pytest.raises(OSError, match="too large"):
        check_size(MOST + 1)
    assert most_inside(0) == most_inside(1000) == 1 << 30
    assert most_inside(1 << 30) == 200 << 30


def test_room_for_large_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Threads wait for each other, and one too large for all the room is decoded alone."""
    room, at_once, most = Room(10), [0], [0]

    def work(amount: int) -> None:
        with room.taken(amount):
            at_once[0] += min(amount, 10)
            most[0] = max(most[0], at_once[0])
            time.sleep(0.005)
            at_once[0] -= min(amount, 10)

    threads = [threading.Thread(target=work, args=(amount,)) for amount in (3, 9, 4, 1, 25, 10, 6, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert most[0] <= 10
    monkeypatch.setattr(bounds, "decoding", Room(100))  # pictures of 480 pixels one by one
    (tmp_path / "pictures").mkdir()
    for k in range(20):
        pixels = np.random.default_rng(k).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{k}.png")
    assert len(load(open_source(tmp_path / "pictures"), (8, 8), 3, cache=tmp_path / "cache", workers=4)) == 20
