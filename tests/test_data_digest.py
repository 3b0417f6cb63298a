from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from ddpm.data import digest


def test_parts_keep_their_order() -> None:
    parts = [bytes([k]) * 5000 for k in range(200)]
    told: list[tuple[int, int]] = []
    digests = digest.of_parts(200, parts.__getitem__, advance=lambda *at: told.append(at))
    assert digests == [hashlib.sha256(part).digest() for part in parts]
    assert told == sorted(told) and told[-1] == (200, 200) and len(told) > 1


def test_interrupted_hashing_reads_no_further() -> None:
    read: list[int] = []

    def slowly(i: int) -> bytes:
        read.append(i)
        time.sleep(0.002)
        return b""

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        digest.of_parts(1000, slowly, 1, interrupt)
    assert len(read) < 500


def test_files_by_content_and_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "_BLOCK", 10)

    def of(*contents: bytes) -> str:
        paths = []
        for k, content in enumerate(contents):
            paths.append(tmp_path / f"{k}-{len(contents)}")
            paths[-1].write_bytes(content)
        return digest.of_files(paths)

    long = bytes(range(95))
    assert of(long) == of(long)
    changed = bytearray(long)
    changed[57] ^= 1
    different = {
        of(long),
        of(bytes(changed)),
        of(long[:90]),
        of(long[:50], long[50:]),
        of(long[10:] + long[:10]),
    }
    assert len(different) == 5
    assert digest.workers_here() >= 1


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files, last changed an hour ago as far as mtime says."""
    paths = [tmp_path / "set" / name for name in ("a", "b", "c")]
    paths[0].parent.mkdir()
    for k, path in enumerate(paths):
        path.write_bytes(b"x" * (k + 1))
        os.utime(path, ns=(0, time.time_ns() - 3600 * 10**9))
    return paths


def of(paths: list[Path]) -> digest.Stamp:
    return digest.stamp((path.name, path) for path in paths)


def test_stamp_of_files_left_alone(files: list[Path]) -> None:
    before = of(files)
    assert len(before.names) == len(before.state) == 64
    assert before == of(files)
    files[0].read_bytes()
    assert before == of(files)
    assert abs(before.newest - time.time()) < 60  # the inode's change, which no utime sets back


@pytest.mark.parametrize("edit", ["size", "content", "content, mtime put back", "name", "gone", "order"])
def test_stamp_sees_edits(files: list[Path], edit: str) -> None:
    before = of(files)
    time.sleep(0.02)  # a tick of the file system's clock
    if edit == "size":
        files[1].write_bytes(b"xxx")
    elif edit == "content":
        files[1].write_bytes(b"yy")
    elif edit == "content, mtime put back":
        was = files[1].stat()
        files[1].write_bytes(b"yy")
        os.utime(files[1], ns=(was.st_atime_ns, was.st_mtime_ns))
    elif edit == "name":
        files[1] = files[1].rename(files[1].with_name("d"))
    elif edit == "gone":
        files[1].unlink()
    else:
        files.reverse()
    assert of(files).state != before.state
    assert (of(files).names != before.names) == ("content" not in edit)


def test_names_outlive_a_move(files: list[Path], tmp_path: Path) -> None:
    before = of(files)
    moved = tmp_path / "elsewhere"
    files[0].parent.rename(moved)
    after = of([moved / path.name for path in files])
    assert after.names == before.names and after.state != before.state


def test_parts_stand_in_for_an_archives_own_size(files: list[Path]) -> None:
    def packed(*parts: tuple[str, int]) -> digest.Stamp:
        return digest.stamp([("", files[0])], parts)

    assert packed(("a", 1), ("b", 2), ("c", 3)).names == of(files).names
    different = {packed(*parts).names for parts in ([("a", 1)], [("a", 2)], [("b", 1)], [("a", 1), ("b", 2)], [])}
    assert len(different) == 5
    states = {packed(*parts).state for parts in ([("a", 1)], [("a", 2)])}
    assert len(states) == 2


def test_stamps_together(files: list[Path]) -> None:
    a, b = of(files[:1]), of(files[1:])
    both = digest.together([a, b])
    assert both.newest == max(a.newest, b.newest)
    assert len({both.names, digest.together([b, a]).names, a.names, of(files).names}) == 4
    assert digest.together([a, b]) == both and digest.together([b, a]).state != both.state


def test_what_was_changed_just_before_may_be_changed_again_in_the_same_tick() -> None:
    stamp = digest.Stamp("", "", newest=1000.0)
    assert not stamp.settled(1001.0) and stamp.settled(1010.0)


def test_memo(tmp_path: Path) -> None:
    memo, hexes = tmp_path / "deep" / "memo", "0123456789abcdef" * 4
    assert digest.recall(memo) is None
    digest.remember(memo, hexes)
    assert digest.recall(memo) == hexes
    for damaged in ("", hexes, hexes[:-1] + "\n", hexes.upper() + "\n", hexes + "\n\n", "\xe4" * 64):
        memo.write_text(damaged, encoding="latin-1")
        assert digest.recall(memo) is None
    (tmp_path / "file").write_text("")
    digest.remember(tmp_path / "file" / "memo", hexes)  # costs time later, nothing else
