from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm.data import Order, Pictures, decode, default_cache, load, open_source, to_uint8
from ddpm.data.pictures import Cached, Ragged
from ddpm.errors import UserError


def picture(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 pictures, k.png holding picture(k), in classes even and odd."""
    for k in range(40):
        path = tmp_path / "set" / ("odd" if k % 2 else "even") / f"{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(k)).save(path)
    return tmp_path / "set"


ORDER = [*range(0, 40, 2), *range(1, 40, 2)]


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "fit", lambda *_: pytest.fail("decoded again"))


def entries(cache: Path) -> list[Path]:
    return list((cache / "pictures").iterdir())


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_pixels_and_labels(folder: Path, tmp_path: Path, workers: int | None) -> None:
    seen: list[tuple[str, int, int]] = []
    out = load(
        open_source(folder),
        (8, 8),
        3,
        cache=tmp_path / "c",
        workers=workers,
        progress=lambda *a: seen.append(a),
    )
    assert isinstance(out, Cached)
    assert (len(out), out.size, out.channels, out.name) == (40, (8, 8), 3, "set")
    np.testing.assert_array_equal(out.pixels, np.stack([picture(k).transpose(2, 0, 1) for k in ORDER]))
    assert out.labels is not None and out.labels.tolist() == [0] * 20 + [1] * 20
    assert (out.skipped, out.classes) == ((), ("even", "odd"))
    assert not out.pixels.flags.writeable
    assert seen == sorted(seen) and seen[-1] == ("decoding", 40, 40) and len(seen) > 1


def test_second_load_decodes_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(open_source(folder), (8, 8), 3, cache=tmp_path / "c")
    forbid(monkeypatch)
    again = load(open_source(folder), (8, 8), 3, cache=tmp_path / "c", progress=lambda *_: pytest.fail("progress"))
    np.testing.assert_array_equal(again.pixels, first.pixels)
    assert again.fingerprint == first.fingerprint and len(first.fingerprint) == 64


def test_everything_that_matters_has_its_own_entry(folder: Path, tmp_path: Path) -> None:
    def key(size: tuple[int, int] = (8, 8), channels: int = 3, **options: Any) -> str:
        return load(open_source(folder), size, channels, cache=tmp_path / "c", **options).fingerprint

    keys = [key(), key(size=(8, 4)), key(size=(4, 8)), key(channels=1), key(channels=4)]
    keys += [key(crop=crop) for crop in ("random", "pad", "none")] + [key(background="black")]
    Image.fromarray(picture(99)).save(folder / "odd" / "01.png")
    keys.append(key())
    (folder / "odd" / "01.png").rename(folder / "odd" / "99.png")
    keys.append(key())
    assert len(set(keys)) == 11 == len(entries(tmp_path / "c"))
    assert key(background="#ffffff") == key(background="White") == keys[-1]


def test_classes_are_no_reason_to_decode_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They change the fingerprint that a run is compared by, not the entry."""
    first = load(open_source(folder), (8, 8), 3, cache=tmp_path / "c")
    forbid(monkeypatch)
    off = load(open_source(folder, "none"), (8, 8), 3, cache=tmp_path / "c")
    assert off.labels is None and len(entries(tmp_path / "c")) == 1
    other = open_source(folder)
    assert other.labels is not None
    other.labels[3] = 1
    moved = load(other, (8, 8), 3, cache=tmp_path / "c")
    assert len({one.fingerprint for one in (first, off, moved)}) == 3
    np.testing.assert_array_equal(off.pixels, first.pixels)


def test_changed_content_is_decoded(folder: Path, tmp_path: Path) -> None:
    load(open_source(folder), (8, 8), 3, cache=tmp_path / "c")
    Image.fromarray(picture(99)).save(folder / "even" / "00.png")
    out = load(open_source(folder), (8, 8), 3, cache=tmp_path / "c")
    np.testing.assert_array_equal(out.pixels[0], picture(99).transpose(2, 0, 1))


@pytest.mark.parametrize("harm", ["truncate", "longer", "no pixels", "no index", "bad index", "other index"])
def test_damaged_entry_is_rebuilt(folder: Path, tmp_path: Path, harm: str) -> None:
    cache = tmp_path / "c"
    first = np.array(load(open_source(folder), (8, 8), 3, cache=cache).pixels)
    (entry,) = entries(cache)
    if harm == "truncate":
        os.truncate(entry / "pixels.u8", first.size - 1)
    elif harm == "longer":
        os.truncate(entry / "pixels.u8", first.size + 1)
    elif harm == "no pixels":
        (entry / "pixels.u8").unlink()
    elif harm == "no index":
        (entry / "index.json").unlink()
    else:
        (entry / "index.json").write_text("{" if harm == "bad index" else '{"skipped": [], "shape": [1, 3, 8, 8]}')
    out = load(open_source(folder), (8, 8), 3, cache=cache)
    np.testing.assert_array_equal(out.pixels, first)
    assert entries(cache) == [entry]
    assert (entry / "pixels.u8").stat().st_size == first.size
    assert sorted(path.name for path in entry.iterdir()) == ["index.json", "pixels.u8"]


@pytest.fixture
def with_broken(folder: Path) -> Path:
    (folder / "even" / "06.png").write_bytes(b"not a picture")
    whole = (folder / "odd" / "05.png").read_bytes()
    (folder / "odd" / "05.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (64, 64)).save(folder / "odd" / "07.png")
    return folder


def test_broken_pictures_are_listed(with_broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 64 pixels pass, 4,096 are a bomb

    def check(out: Pictures) -> None:
        assert [name for name, _ in out.skipped] == ["even/06.png", "odd/05.png", "odd/07.png"]
        reasons = [reason for _, reason in out.skipped]
        assert reasons[0] == "not a picture in a known format"
        assert "truncated" in reasons[1] or "broken" in reasons[1]
        assert "too many pixels" in reasons[2]
        kept = [k for k in ORDER if k not in (5, 6, 7)]
        assert out.labels is not None and out.labels.tolist() == [k % 2 for k in kept]
        np.testing.assert_array_equal(out.pixels, np.stack([picture(k).transpose(2, 0, 1) for k in kept]))
        assert out.notes[-1] == "3 of 40 pictures could not be decoded and are left out"

    check(load(open_source(with_broken), (8, 8), 3, cache=tmp_path / "c"))
    forbid(monkeypatch)
    check(load(open_source(with_broken), (8, 8), 3, cache=tmp_path / "c"))


def test_no_usable_picture(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for k in range(3):
        (tmp_path / "set" / f"{k}.jpg").write_bytes(b"junk")
    with pytest.raises(
        UserError, match=r"set: none of its 3 pictures can be decoded \(first: 0.jpg: not a picture"
    ):
        load(open_source(tmp_path / "set"), (8, 8), 3, cache=tmp_path / "c")
    assert entries(tmp_path / "c") == []


def test_interrupt_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(open_source(folder), (8, 8), 3, cache=tmp_path / "c", progress=interrupt)
    assert entries(tmp_path / "c") == []


def test_two_builders_of_one_entry(folder: Path, tmp_path: Path) -> None:
    """The other one finishes while this one still decodes."""
    inner: list[Cached] = []

    def other(stage: str, done: int, total: int) -> None:
        if not inner:
            inner.append(load(open_source(folder), (8, 8), 3, cache=tmp_path / "c"))

    outer = load(open_source(folder), (8, 8), 3, cache=tmp_path / "c", progress=other)
    np.testing.assert_array_equal(outer.pixels, inner[0].pixels)
    assert len(entries(tmp_path / "c")) == 1


def test_leftovers_of_the_killed_are_swept(folder: Path, tmp_path: Path) -> None:
    old, new = (tmp_path / "c" / "pictures" / f"{name}.partial" for name in ("old", "new"))
    for path in (old, new):
        path.mkdir(parents=True)
        (path / "pixels.u8").write_bytes(b"x")
    yesterday = time.time() - 2 * 24 * 3600
    for path in (old / "pixels.u8", old):
        os.utime(path, (yesterday, yesterday))
    load(open_source(folder), (8, 8), 3, cache=tmp_path / "c")
    assert not old.exists() and new.exists()


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DDPM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache() == tmp_path / "home" / ".cache" / "ddpm"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "ddpm"
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "own"))
    assert default_cache() == tmp_path / "own"


def test_default_cache_is_used(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "own"))
    load(open_source(folder), (8, 8), 3)
    assert len(entries(tmp_path / "own")) == 1


def test_cache_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "c").write_text("a file where the cache should be")
    with pytest.raises(UserError, match=r"decoded pictures cannot be written .* DDPM_CACHE"):
        load(open_source(folder), (8, 8), 3, cache=tmp_path / "c")


def test_arguments(folder: Path, tmp_path: Path) -> None:
    source = open_source(folder)
    with pytest.raises(UserError, match="channels 2: give 1"):
        load(source, (8, 8), 2, cache=tmp_path / "c")
    with pytest.raises(UserError, match="size 0x8: give height"):
        load(source, (0, 8), 3, cache=tmp_path / "c")
    with pytest.raises(UserError, match="background mauve-ish: not a colour"):
        load(source, (8, 8), 3, cache=tmp_path / "c", background="mauve-ish")
    with pytest.raises(UserError, match="workers 0: give at least 1"):
        load(source, (8, 8), 3, cache=tmp_path / "c", workers=0)


# -- what the pictures are fitted to ---------------------------------------------------------------------------


def banner(size: tuple[int, int]) -> Image.Image:
    """(h, w) pixels of which each is its own column in red and its own row in green, half of them transparent."""
    rows, columns = np.indices(size).astype(np.uint8)
    alpha = np.where(columns < size[1] // 2, 0, 255).astype(np.uint8)
    return Image.fromarray(np.stack([columns, rows, 0 * rows, alpha], -1))


def test_crop_and_background_reach_the_pixels(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    banner((8, 16)).save(tmp_path / "set" / "a.png")
    source = open_source(tmp_path / "set")

    def pixels(channels: int = 3, **options: Any) -> np.ndarray:
        return load(source, (8, 8), channels, cache=tmp_path / "c", **options).pixels[0]

    cut = pixels(background="blue")
    assert (cut[:, :, :4] == np.array([0, 0, 255])[:, None, None]).all()
    assert (cut[0, :, 4:] == np.arange(8, 12)).all()
    kept = pixels(channels=4)
    assert kept.shape == (4, 8, 8) and (kept[3] == [0, 0, 0, 0, 255, 255, 255, 255]).all()
    padded = pixels(crop="pad", background="red")
    assert (padded[:, :2] == np.array([255, 0, 0])[:, None, None]).all() and (padded[2, 2:6, 4:] == 0).all()
    assert pixels(crop="none").shape == (3, 8, 8)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """30 pictures of random pixels in six shapes around 8 x 10, and a broken one."""
    (tmp_path / "mixed").mkdir()
    rng = np.random.default_rng(0)
    for k in range(30):
        shape = [(8, 10), (8, 25), (30, 10), (17, 23), (9, 11), (60, 80)][k % 6]
        pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "mixed" / f"{k:02}.png")
    (tmp_path / "mixed" / "07.png").write_bytes(b"junk")
    return tmp_path / "mixed"


def test_random_windows_are_cut_from_the_pictures(mixed: Path, tmp_path: Path) -> None:
    """The 8 x 25 and 30 x 10 pictures are not scaled: any window of theirs must be found in the file itself."""
    out = load(open_source(mixed), (8, 10), 3, cache=tmp_path / "c", crop="random")
    assert isinstance(out, Ragged)
    assert (len(out), out.size, out.skipped[0][0]) == (29, (8, 10), "07.png")
    order = Order(len(out), 29, seed=0)
    names = [k for k in range(30) if k != 7]
    corners = set()
    for step in range(40):
        index, places = order.index(step), order.places(step)
        x, _ = out.batch(index, None, places)
        for k, i in enumerate(index.tolist()):
            shape = [(8, 10), (8, 25), (30, 10)][names[i] % 6] if names[i] % 6 < 3 else None
            if shape is None:
                continue
            with Image.open(mixed / f"{names[i]:02}.png") as image:
                whole = np.asarray(image).transpose(2, 0, 1)
            views = np.lib.stride_tricks.sliding_window_view(whole, (3, 8, 10))[0]
            found = np.argwhere((views == to_uint8(x[k]).numpy()).all(axis=(-3, -2, -1)))
            assert len(found) == 1
            corners.add((shape, *found[0].tolist()))
    assert corners == {
        ((8, 10), 0, 0),
        *(((8, 25), 0, left) for left in range(16)),
        *(((30, 10), top, 0) for top in range(23)),
    }


def test_random_windows_from_the_cache_again(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def batch() -> torch.Tensor:
        out = load(open_source(mixed), (8, 10), 3, cache=tmp_path / "c", crop="random")
        return out.batch(torch.arange(29), None, Order(29, 29, seed=1).places(0))[0]

    first = batch()
    (entry,) = entries(tmp_path / "c")
    shapes = (entry / "shapes.i4").read_bytes()
    for harm in (shapes[:-4], b"\1\0\0\0" + shapes[4:], b"\x7f\0\0\0" + shapes[4:], b""):
        (entry / "shapes.i4").write_bytes(harm)
        assert torch.equal(batch(), first)
        assert (entry / "shapes.i4").read_bytes() == shapes
    forbid(monkeypatch)
    assert torch.equal(batch(), first)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_an_error_that_passes_leaves_no_picture_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> np.ndarray:
        raise error

    source = open_source(folder)
    with monkeypatch.context() as broken:
        broken.setattr(decode, "fit", fail)
        with pytest.raises(UserError, match=r"\.png: cannot be read now \((Input|out of memory)"):
            load(source, (8, 8), 3, cache=tmp_path / "c")
    assert load(source, (8, 8), 3, cache=tmp_path / "c").skipped == ()
