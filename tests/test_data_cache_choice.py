"""Of the cache: what is read again, and what is not kept."""

from __future__ import annotations

import io
import os
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm.data import Source, bounds, decode, digest, load, open_source, open_sources
from ddpm.data import cache as cache_module
from ddpm.data.cache import decoded_bytes
from ddpm.data.decode import Fit
from ddpm.data.files import FileSource
from ddpm.data.pictures import Cached, Ragged
from ddpm.data.several import Several
from ddpm.data.stream import Streamed


def picture(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 pictures of 8 x 8 in classes even and odd."""
    for k in range(40):
        path = tmp_path / "set" / ("odd" if k % 2 else "even") / f"{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(k)).save(path)
    return tmp_path / "set"


# -- what is read again ----------------------------------------------------------------------------------------


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are opened, one after another."""
    reads: list[str] = []
    opened = bounds.opened

    def counted(path: str | Path) -> io.BufferedReader:
        reads.append(Path(path).name)
        return opened(path)

    monkeypatch.setattr(bounds, "opened", counted)
    return reads


@pytest.fixture
def sets(folder: Path, tmp_path: Path) -> dict[str, Source]:
    """Pictures by hook and by crook, some of them broken, one that is not there, one of nothing."""
    whole = (folder / "odd" / "05.png").read_bytes()
    (folder / "odd" / "05.png").write_bytes(whole[: len(whole) // 2])
    (folder / "even" / "06.png").write_bytes(b"not a picture")
    (folder / "even" / "08.png").write_bytes(b"")
    Image.fromarray(picture(7)).resize((300, 200)).save(folder / "odd" / "07.jpg")
    listed = ["file", *sorted(str(path) for path in folder.rglob("*.*")), str(folder / "gone.png")]
    (tmp_path / "list.csv").write_text("\n".join(listed))
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder))
        archive.writestr("odd/99.png", b"junk")
    kept, held = open_sources([folder], holdout="0.25")
    both, _ = open_sources([tmp_path / "list.csv", tmp_path / "set.zip"], labels="none")
    assert held is not None and isinstance(both, Several)
    return {
        "folder": open_source(folder),
        "zip": open_source(tmp_path / "set.zip"),
        "list": open_source(tmp_path / "list.csv"),
        "part": kept,
        "both": both,
    }


@pytest.mark.parametrize("kind", ["folder", "zip", "list", "part", "both"])
def test_hashed_as_they_are_decoded_they_are_what_they_are_hashed_before(
    sets: dict[str, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source = sets[kind]
    assert source.filed
    stages: set[str] = set()
    monkeypatch.setattr(cache_module, "_QUIET_SECONDS", 0.0)
    at_once = load(source, (8, 8), 3, cache=tmp_path / "one", progress=lambda *at: stages.add(at[0]))
    assert stages == {"decoding"}
    monkeypatch.setattr(type(source), "filed", False)
    in_turn = load(source, (8, 8), 3, cache=tmp_path / "two", progress=lambda *at: stages.add(at[0]))
    assert stages == {"reading", "decoding"}
    assert isinstance(at_once, Cached) and isinstance(in_turn, Cached) and len(at_once) > 20
    np.testing.assert_array_equal(at_once.pixels, in_turn.pixels)
    assert at_once.skipped == in_turn.skipped and len(at_once.skipped) >= 2
    assert at_once.fingerprint == in_turn.fingerprint
    places = [{path.name for path in (tmp_path / cache / "pictures").iterdir()} for cache in ("one", "two")]
    assert places[0] == places[1] and len(places[0]) == 1


@pytest.mark.parametrize("change", ["touched", "moved", "packed"])
def test_what_is_there_already_is_hashed_and_not_decoded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    first = load(open_source(folder), (8, 8), 3, cache=tmp_path / "c")
    if change == "touched":
        os.utime(folder / "odd" / "01.png", (1e9, 1e9))
    elif change == "moved":
        folder = folder.rename(tmp_path / "elsewhere")
    else:
        folder = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
    monkeypatch.setattr(decode, "fit", lambda *_: pytest.fail("decoded again"))
    again = load(open_source(folder), (8, 8), 3, cache=tmp_path / "c")
    assert again.fingerprint == first.fingerprint


def test_unchanged_files_are_not_read_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "_SETTLED_SECONDS", 0.0)
    time.sleep(0.02)
    reads = count_reads(monkeypatch)

    def pixels() -> np.ndarray:
        out = load(open_source(folder), (8, 8), 3, cache=tmp_path / "c")
        assert isinstance(out, Cached)
        return out.pixels

    first = pixels()
    assert sorted(reads) == [f"{k:02}.png" for k in range(40)]  # once each
    np.testing.assert_array_equal(pixels(), first)
    assert len(reads) == 40
    time.sleep(0.02)
    Image.fromarray(picture(99)).save(folder / "odd" / "39.png")
    np.testing.assert_array_equal(pixels()[-1], picture(99).transpose(2, 0, 1))
    assert set(reads[40:]) == set(reads[:40])
    (memo, *_) = (tmp_path / "c" / "digests").iterdir()
    assert len(memo.read_text()) == 65


def test_files_changed_just_now_are_read_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their times cannot tell a second edit in the same tick of the clock."""
    reads = count_reads(monkeypatch)
    for times in (1, 2):
        load(open_source(folder), (8, 8), 3, cache=tmp_path / "c")
        assert len(reads) == 40 * times


def test_a_set_that_changes_while_it_is_read_is_not_remembered(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "_SETTLED_SECONDS", 0.0)
    time.sleep(0.02)
    stored = FileSource.stored

    def edited(source: FileSource, i: int) -> bytes:
        data = stored(source, i)
        if i == 0:
            (folder / "even" / "00.png").write_bytes(data + b"more")
        return data

    monkeypatch.setattr(FileSource, "stored", edited)
    load(open_source(folder), (8, 8), 3, cache=tmp_path / "c")
    reads = count_reads(monkeypatch)
    load(open_source(folder), (8, 8), 3, cache=tmp_path / "c")
    assert len(set(reads)) == 40


def test_long_reading_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_QUIET_SECONDS", 0.0)
    seen: list[tuple[str, int, int]] = []
    load(open_source(folder), (8, 8), 3, cache=tmp_path / "c")  # from now on known by names and sizes
    load(open_source(folder), (4, 4), 3, cache=tmp_path / "c", progress=lambda *at: seen.append(at))
    assert seen[0] == ("reading", 40, 40) and seen[-1] == ("decoding", 40, 40)


# -- what is not kept ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "free", "kept"),
    [
        ("auto", 2 * 40 * 192, True),
        ("auto", 2 * 40 * 192 - 1, False),
        ("always", 40 * 192, True),
        ("never", 1 << 60, False),
    ],
)
def test_half_of_the_free_space(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: Any, free: int, kept: bool
) -> None:
    """40 pictures of 8 x 8 x 3 = 192 bytes, where the cache will be but is not yet."""
    asked: list[Path] = []

    def usage(path: Path) -> Any:
        asked.append(path)
        return shutil._ntuple_diskusage(1 << 62, 0, free)  # type: ignore[attr-defined]

    monkeypatch.setattr(shutil, "disk_usage", usage)
    out = load(open_source(folder), (8, 8), 3, cache=tmp_path / "not" / "yet", keep=keep)
    assert isinstance(out, Cached if kept else Streamed)
    assert (tmp_path / "not").exists() == kept
    assert set(asked) == ({tmp_path} if keep == "auto" else set())
    if not kept:
        why = f"0.0 MB, more than half of the 0.0 MB free at {tmp_path}" if keep == "auto" else "asked for"
        assert out.notes[-1].startswith("decoded at every step instead of once: ") and why in out.notes[-1]


def test_what_is_kept_already_is_used(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "_SETTLED_SECONDS", 0.0)
    time.sleep(0.02)
    load(open_source(folder), (8, 8), 3, cache=tmp_path / "c")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))  # type: ignore[attr-defined]
    assert isinstance(load(open_source(folder), (8, 8), 3, cache=tmp_path / "c"), Cached)
    assert isinstance(load(open_source(folder), (4, 4), 3, cache=tmp_path / "c"), Streamed)


def test_space_is_known_beforehand(tmp_path: Path) -> None:
    """All shapes are looked at here, so the estimate for windows is exact but for the broken picture."""
    (tmp_path / "mixed").mkdir()
    for k in range(30):
        shape = [(8, 10), (8, 25), (30, 10), (17, 23), (9, 11), (60, 80)][k % 6]
        Image.new("RGB", shape[::-1]).save(tmp_path / "mixed" / f"{k:02}.png")
    (tmp_path / "mixed" / "07.png").write_bytes(b"junk")
    source = open_source(tmp_path / "mixed")
    assert decoded_bytes(source, Fit((8, 10), 3)) == 30 * 240
    out = load(source, (8, 10), 4, cache=tmp_path / "c", crop="random")
    (entry,) = (tmp_path / "c" / "pictures").iterdir()
    real = (entry / "pixels.u8").stat().st_size
    assert isinstance(out, Ragged) and real > 29 * 4 * 80
    assert decoded_bytes(source, Fit((8, 10), 4, "random")) == round(real * 30 / 29)


def test_streamed_fingerprint_is_of_names_and_sizes(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(FileSource, "stored", lambda *_: pytest.fail("all of a file is read"))

    def fingerprint(labels: str = "auto", **options: Any) -> str:
        source = open_source(folder, labels)
        return load(source, (8, 8), 3, cache=tmp_path / "c", keep="never", **options).fingerprint

    first = fingerprint()
    shutil.move(folder, tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", folder)
    assert fingerprint() == first
    keys = [first, fingerprint(labels="none"), fingerprint(crop="pad"), fingerprint(background="red")]
    with (folder / "odd" / "01.png").open("ab") as file:
        file.write(b"x")
    keys.append(fingerprint())
    (folder / "odd" / "01.png").rename(folder / "odd" / "02.png")
    keys.append(fingerprint())
    assert len(set(keys)) == 6
