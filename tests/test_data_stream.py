from __future__ import annotations

import errno
import gc
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm.data import Order, Pictures, load, open_source, to_uint8
from ddpm.data import stream as stream_module
from ddpm.data.decode import Crop, Fit
from ddpm.data.digest import Stamp
from ddpm.data.pictures import Cached
from ddpm.data.source import Source
from ddpm.data.stream import Streamed
from ddpm.errors import UserError


def picture(k: int, shape: tuple[int, int] = (8, 8)) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """36 pictures of six shapes in classes a (even) and b (odd)."""
    for k in range(36):
        path = tmp_path / "set" / "ab"[k % 2] / f"{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = [(8, 10), (8, 25), (30, 10), (17, 23), (9, 11), (60, 80)][k % 6]
        Image.fromarray(picture(k, shape)).save(path)
    return tmp_path / "set"


def both(folder: Path, tmp_path: Path, channels: int = 3, **options: Any) -> tuple[Pictures, Streamed]:
    made = [
        load(open_source(folder), (8, 10), channels, cache=tmp_path / "c", keep=keep, **options)
        for keep in ("always", "never")
    ]
    assert isinstance(made[1], Streamed) and not isinstance(made[0], Streamed)
    return made[0], made[1]


def same(a: tuple[torch.Tensor, torch.Tensor | None], b: tuple[torch.Tensor, torch.Tensor | None]) -> bool:
    assert a[1] is not None and b[1] is not None
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


@pytest.mark.parametrize("crop", get_args(Crop))
@pytest.mark.parametrize(("channels", "workers"), [(1, 1), (3, 2), (4, 3)])
def test_batches_are_the_cached_ones(folder: Path, tmp_path: Path, crop: Any, channels: int, workers: int) -> None:
    kept, stream = both(folder, tmp_path, channels, crop=crop, workers=workers)
    for one in (kept, stream):
        assert (len(one), one.size, one.channels, one.classes, one.name) == (
            36,
            (8, 10),
            channels,
            ("a", "b"),
            "set",
        )
        assert one.skipped == ()
    assert kept.frequencies().tolist() == stream.frequencies().tolist() == [0.5, 0.5]  # type: ignore[union-attr]
    order = Order(36, 13, seed=2)
    for step in range(5):
        args = order.index(step), order.flips(step), order.places(step)
        assert same(kept.batch(*args), stream.batch(*args))
        stream.ahead(order.index(step + 1))
    last = torch.tensor([-1, 5, 5])
    assert same(kept.batch(last), stream.batch(last))


def test_windows_are_the_same_for_any_batch_and_after_resuming(folder: Path, tmp_path: Path) -> None:
    def pixels(batch: int, first: int = 0) -> torch.Tensor:
        _, stream = both(folder, tmp_path, crop="random")
        order, out = Order(36, batch, seed=4), []
        for step in range(first, 72 // batch):
            out.append(stream.batch(order.index(step), order.flips(step), order.places(step))[0])
            stream.ahead(order.index(step + 1))
        return torch.cat(out)

    whole = pixels(6)
    assert torch.equal(pixels(24), whole) and torch.equal(pixels(1), whole)
    assert torch.equal(pixels(6, first=7), whole[42:])
    assert not torch.equal(whole[:36], whole[36:])


class Slow(Source):
    """Pictures of one value each, their number; counts what is decoded and may be held up."""

    def __init__(self, count: int, broken: tuple[int, ...] = ()) -> None:
        super().__init__("slow", ("low", "high"), np.arange(count) // ((count + 1) // 2))
        self.count, self.broken, self.asked = count, broken, list[int]()
        self.gate = threading.Event()
        self.gate.set()

    def __len__(self) -> int:
        return self.count

    @contextmanager
    def opened(self, i: int) -> Iterator[Image.Image]:
        self.asked.append(i)
        self.gate.wait(10)
        if i in self.broken:
            raise OSError(f"no picture {i}")
        yield Image.new("L", (4, 4), i)

    def describe(self, i: int) -> str:
        return f"number {i}"

    def stored(self, i: int) -> bytes:
        raise AssertionError("a stream decodes, it does not copy")

    def place(self, i: int) -> Path | None:
        return None

    def fingerprint(self, advance: Any = None) -> str:
        raise AssertionError("a stream is not read beforehand")

    def stamp(self) -> Stamp:
        return Stamp("0" * 64, "0" * 64, 0.0)


def streamed(source: Slow, workers: int = 2) -> Streamed:
    out = load(source, (4, 4), 1, keep="never", workers=workers)
    assert isinstance(out, Streamed)
    source.asked.clear()
    return out


def values(out: Streamed, *index: int) -> list[int]:
    x, label = out.batch(torch.tensor(index))
    numbers = to_uint8(x)[:, 0, 0, 0].tolist()
    assert label is not None and label.tolist() == [int(k >= (len(out) + 1) // 2) for k in numbers]
    return numbers


def until(what: Any) -> None:
    end = time.monotonic() + 10
    while not what():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_ahead_decodes_before_it_is_asked() -> None:
    source = Slow(100)
    out = streamed(source)
    wanted = torch.arange(40, 60)
    out.ahead(wanted)
    until(lambda: len(source.asked) == 20)
    out.ahead(wanted.clone())  # the same hint again is no new one
    assert values(out, *range(40, 60)) == list(range(40, 60))
    assert len(source.asked) == 20
    assert values(out, *range(40, 60)) == list(range(40, 60))  # a hint serves once
    assert len(source.asked) == 40


def test_other_batches_may_come_in_between() -> None:
    source = Slow(100)
    out = streamed(source)
    out.ahead(torch.arange(20))
    until(lambda: len(source.asked) == 20)
    assert values(out, 70, 3) == [70, 3]  # a preview's, say
    assert values(out, *range(20)) == list(range(20))
    assert len(source.asked) == 22


def test_a_hint_replaced_is_dropped() -> None:
    """Threads hang in the first pictures: what they have not begun of the old hint is never decoded."""
    source = Slow(200)
    out = streamed(source, workers=2)
    source.gate.clear()
    out.ahead(torch.arange(100))
    until(lambda: len(source.asked) == 2)
    out.ahead(torch.arange(100, 110))
    source.gate.set()
    assert values(out, *range(100, 110)) == list(range(100, 110))
    assert len(source.asked) <= 2 * 8 + 10


def test_memory_holds_two_batches_at_most() -> None:
    """Counted by live arrays: after many hints nothing of the old batches is left."""
    source = Slow(200)
    out = streamed(source)
    for step in range(20):
        out.ahead(torch.arange(10 * step, 10 * step + 10) % 200)
        if step % 3:
            values(out, *range(10 * (step - 1), 10 * step))
    until(lambda: all(task.done() for task in out._tasks))
    assert len(out._tasks) <= 10
    assert sum(len(task.result()) for task in out._tasks) == 10


def test_threads_end_with_the_stream() -> None:
    def threads() -> int:
        return sum(thread.name.startswith("decode") for thread in threading.enumerate())

    gc.collect()
    until(lambda: threads() == 0)
    out = streamed(Slow(50), workers=3)
    values(out, *range(50))
    assert threads() == 3
    del out
    gc.collect()
    until(lambda: threads() == 0)


def test_the_next_readable_picture_takes_a_broken_ones_place() -> None:
    broken = (0, 5, 6, 48, 49)
    source = Slow(50, broken)
    out = load(source, (4, 4), 1, keep="never", workers=2)
    assert isinstance(out, Streamed) and len(out) == 50
    assert [name for name, _ in out.skipped] == ["number 0"]  # found at the start, the others as they come
    assert values(out, 4, 5, 6, 7, 48, 49, 24, 25) == [4, 7, 7, 7, 1, 1, 24, 25]
    assert out.skipped == tuple((f"number {k}", f"no picture {k}") for k in broken)
    source.asked.clear()
    assert values(out, 6, 48) == [7, 1]
    assert sorted(source.asked) == [1, 7]  # what is known to be broken is not tried again
    again = streamed(Slow(50, broken), workers=1)
    assert values(again, 49, 5) == [1, 7]  # whatever was asked before
    assert [name for name, _ in again.skipped] == ["number 0", "number 5", "number 6", "number 49"]


def test_a_broken_file(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "a" / "04.png").read_bytes()
    (folder / "a" / "04.png").write_bytes(whole[: len(whole) // 2])
    (folder / "a" / "34.png").unlink()
    (folder / "a" / "34.png").write_bytes(b"junk")
    out = load(open_source(folder), (8, 10), 3, keep="never", crop="none")
    index = torch.tensor([2, 17, 3, 18])  # a/04, a/34, a/06, b/01
    x, label = out.batch(index)
    assert label is not None and label.tolist() == [0, 1, 0, 1]  # a/34 is the last of its class
    assert torch.equal(x[0], x[2]) and torch.equal(x[1], x[3])
    assert [name for name, _ in out.skipped] == ["a/04.png", "a/34.png"]
    assert out.skipped[1][1] == "not a picture in a known format"


def test_nothing_readable() -> None:
    with pytest.raises(
        UserError, match=r"slow: none of its 3 pictures can be decoded \(first: number 0: no picture 0\)"
    ):
        load(Slow(3, (0, 1, 2)), (4, 4), 1, keep="never")


def test_a_long_row_of_broken_pictures_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MOST_IN_A_ROW", 10)
    out = streamed(Slow(60, tuple(range(20, 29)) + tuple(range(40, 50))))
    assert values(out, 20) == [29]
    with pytest.raises(UserError, match=r"slow: none of 10 pictures in a row can be decoded \(first: number 40: "):
        values(out, 3, 40)
    assert values(out, 3, 4) == [3, 4]


def test_files_that_go_while_training(folder: Path, tmp_path: Path) -> None:
    out = load(open_source(folder), (8, 10), 3, keep="never")
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"set: none of its 36 pictures can be decoded .* are all there") as caught:
        out.batch(torch.arange(8))
    assert "\n" not in str(caught.value)


def test_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    out = load(open_source(folder), (8, 10), 3, cache=tmp_path / "c", keep="never")
    out.batch(torch.arange(8))
    assert not (tmp_path / "c").exists()


def test_arrays_stream_too(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (20, 8, 10), dtype=np.uint8)
    np.save(tmp_path / "a.npy", array)
    out = load(open_source(tmp_path / "a.npy"), (8, 10), 1, keep="never")
    np.testing.assert_array_equal(to_uint8(out.batch(torch.arange(20))[0]).numpy()[:, 0], array)
    assert out.frequencies() is None


def test_index_out_of_bounds() -> None:
    out = streamed(Slow(10))
    with pytest.raises(IndexError, match="of 10"):
        out.batch(torch.tensor([10]))
    assert values(out, -1, -10) == [9, 0]
    assert Streamed(Slow(4), Fit((4, 4), 1), "key", 1).fingerprint == "key"
    assert not isinstance(out, Cached)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_an_error_that_passes_leaves_no_picture_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(self: Source, i: int, to: Fit) -> np.ndarray:
        raise error

    source = open_source(folder)
    with monkeypatch.context() as broken:
        broken.setattr(Source, "fitted", fail)
        with pytest.raises(UserError, match=r"\.png: cannot be read now \((Input|out of memory)"):
            load(source, (8, 8), 3, cache=tmp_path / "c", keep="never")
    assert load(source, (8, 8), 3, cache=tmp_path / "c", keep="never").skipped == ()
