from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ddpm.data import Order, Pictures, check_batch, to_uint8
from ddpm.data.pictures import Cached, Ragged, window
from ddpm.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 6), dtype=np.uint8)
PIXELS.flags.writeable = False


def pictures(labelled: bool = True) -> Cached:
    labels = np.array([0] * 5 + [2] * 15, dtype=np.int64) if labelled else None
    return Cached(PIXELS, labels, ("a", "b", "c") if labelled else (), "some", "key")


def test_batch_values_are_exact() -> None:
    index = torch.tensor([3, 19, 3, 0])
    x, label = pictures().batch(index)
    assert x.dtype == torch.float32 and x.shape == (4, 3, 4, 6)
    expected = PIXELS[[3, 19, 3, 0]].astype(np.float32) / np.float32(127.5) - np.float32(1)
    np.testing.assert_array_equal(x.numpy(), expected)
    assert label is not None and label.dtype == torch.int64 and label.tolist() == [0, 2, 0, 0]
    assert pictures(labelled=False).batch(index)[1] is None


def test_flips_mirror_left_to_right() -> None:
    index = torch.tensor([1, 2, 3])
    plain, _ = pictures().batch(index)
    flipped, label = pictures().batch(index, torch.tensor([True, False, True]))
    for k, mirrored in enumerate([True, False, True]):
        expected = plain[k].numpy()[:, :, ::-1] if mirrored else plain[k].numpy()
        np.testing.assert_array_equal(flipped[k].numpy(), expected)
    assert label is not None and label.tolist() == [0, 0, 0]
    assert not np.array_equal(plain[0].numpy(), plain[0].numpy()[:, :, ::-1])


def test_a_batch_may_be_written_to() -> None:
    """Batches are copies: the cache must not change under a net that works in place."""
    before = PIXELS.copy()
    x, label = pictures().batch(torch.arange(20))
    x.zero_()
    assert label is not None
    label.zero_()
    np.testing.assert_array_equal(PIXELS, before)
    assert pictures().batch(torch.arange(20))[1].tolist()[-1] == 2  # type: ignore[union-attr]


def test_all_values_come_back() -> None:
    grid = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    x, _ = Cached(grid, None, (), "grid", "key").batch(torch.tensor([0]))
    assert x.min() == -1 and x.max() == 1
    np.testing.assert_array_equal(to_uint8(x).numpy(), grid)
    np.testing.assert_array_equal(to_uint8(x.double()).numpy(), grid)


def test_to_uint8_rounds_and_clamps() -> None:
    x = torch.tensor([-7.0, -1.0, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5, 0.001, 1.0, 9.0])
    given = x.clone()
    out = to_uint8(x)
    assert out.dtype == torch.uint8 and out.tolist() == [0, 0, 0, 1, 128, 255, 255]
    assert torch.equal(x, given)


def test_frequencies_and_shape() -> None:
    frequencies = pictures().frequencies()
    assert frequencies is not None and frequencies.tolist() == [0.25, 0.0, 0.75]
    assert pictures(labelled=False).frequencies() is None
    assert (len(pictures()), pictures().size, pictures().channels) == (20, (4, 6), 3)


SHAPES = np.array([[4, 6], [4, 9], [7, 6], [8, 11]])
WHOLE = [np.random.default_rng(k).integers(0, 256, (3, *shape), dtype=np.uint8) for k, shape in enumerate(SHAPES)]


def ragged() -> Ragged:
    flat = np.concatenate([one.ravel() for one in WHOLE])
    return Ragged(flat, SHAPES, (4, 6), 3, np.array([0, 1, 1, 0]), ("a", "b"), "some", "key")


def test_windows_of_pictures_of_any_shape() -> None:
    """Each window is looked for in its picture: it must be there, and where its place says."""
    out = ragged()
    assert (len(out), out.size, out.channels) == (4, (4, 6), 3)
    for k, one in enumerate(WHOLE):
        np.testing.assert_array_equal(out.whole(k), one)
    assert np.shares_memory(out.whole(2), out._flat)
    index = torch.tensor([3, 0, 2, 1, 3])
    place = torch.tensor([[0.0, 0.0], [0.5, 0.999], [0.26, 0.7], [0.999, 0.74], [0.999999, 0.999999]]).double()
    corners = [(0, 0), (0, 0), (1, 0), (0, 2), (4, 5)]  # rows floor(u (H - 3)), columns floor(v (W - 5))
    x, label = out.batch(index, None, place)
    assert label is not None and label.tolist() == [0, 0, 1, 1, 0]
    for k, (top, left) in enumerate(corners):
        np.testing.assert_array_equal(to_uint8(x[k]).numpy(), WHOLE[index[k]][:, top : top + 4, left : left + 6])
    centre, _ = out.batch(index[:1])
    np.testing.assert_array_equal(to_uint8(centre[0]).numpy(), WHOLE[3][:, 2:6, 2:8])
    flipped, _ = out.batch(index, torch.ones(5, dtype=torch.bool), place)
    assert torch.equal(flipped, x.flip(-1))


def test_every_window_is_as_likely() -> None:
    """Chi-squared over the 5 x 6 corners a window can have: mean 29, deviation 7.6."""
    size, one = (4, 6), WHOLE[3]
    rows, columns = np.indices(one.shape[1:])
    numbered = np.stack([rows, columns]).astype(np.uint8)
    counts = np.zeros((5, 6), int)
    for place in Order(30_000, 30_000, seed=0).places(0).numpy():
        counts[tuple(window(numbered, size, place)[:, 0, 0])] += 1
    assert ((counts - 1000) ** 2 / 1000).sum() < 29 + 5 * 7.6


def test_places_do_nothing_to_what_fits() -> None:
    place = torch.rand(20, 2, dtype=torch.float64)
    assert torch.equal(pictures().batch(torch.arange(20), None, place)[0], pictures().batch(torch.arange(20))[0])


@pytest.mark.parametrize("make", [pictures, ragged])
def test_index_out_of_bounds(make: Callable[[], Pictures]) -> None:
    out = make()
    last = out.batch(torch.tensor([len(out) - 1]))[0]
    assert torch.equal(out.batch(torch.tensor([-1]))[0], last)
    for bad in (len(out), -len(out) - 1):
        with pytest.raises(IndexError, match=f"of {len(out)}"):
            out.batch(torch.tensor([0, bad]))
    x, label = out.batch(torch.tensor([], dtype=torch.int64))
    assert x.shape == (0, 3, 4, 6) and label is not None and len(label) == 0


def test_too_few_for_a_batch() -> None:
    check_batch(pictures(), 20)
    with pytest.raises(UserError, match=r"some: 20 usable pictures are fewer than a batch of 21: .*--batch 16"):
        check_batch(pictures(), 21)
    with pytest.raises(UserError, match="--batch 0: must be at least 1"):
        check_batch(pictures(), 0)
