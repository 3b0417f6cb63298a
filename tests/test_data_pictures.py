from __future__ import annotations

import numpy as np
import pytest
import torch

from ddpm.data import Pictures, check_batch, to_uint8
from ddpm.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 6), dtype=np.uint8)
PIXELS.flags.writeable = False


def pictures(labelled: bool = True) -> Pictures:
    labels = np.array([0] * 5 + [2] * 15, dtype=np.int64) if labelled else None
    return Pictures(PIXELS, labels, ("a", "b", "c") if labelled else (), "some", "key")


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
    x, _ = Pictures(grid, None, (), "grid", "key").batch(torch.tensor([0]))
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


def test_too_few_for_a_batch() -> None:
    check_batch(pictures(), 20)
    with pytest.raises(UserError, match=r"some: 20 usable pictures are fewer than a batch of 21: .*--batch 16"):
        check_batch(pictures(), 21)
    with pytest.raises(UserError, match="--batch 0: must be at least 1"):
        check_batch(pictures(), 0)
