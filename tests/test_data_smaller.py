"""Pictures made small: means over areas in whole grey levels, and the pairs an upsampler is shown with."""

import numpy as np
import pytest
import torch

from ddpm.data import Pairs, made_small, pairs, smaller
from ddpm.data.pictures import Cached, Ragged


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def means(whole, h, w):
    """By hand, of rectangles of whole pixels; halves to the even level."""
    n, c, height, width = whole.shape
    blocks = whole.reshape(n, c, h, height // h, w, width // w).astype(np.int64)
    total, count = blocks.sum(axis=(3, 5)), height // h * (width // w)
    return np.rint(total / count).astype(np.uint8)  # exact: a sum of few bytes by a power of two or nine


@pytest.mark.parametrize("size, small", [((8, 8), (2, 2)), ((8, 8), (4, 2)), ((9, 12), (3, 4)), ((16, 4), (1, 1))])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_means_over_areas(size, small, channels):
    whole = pixels(5, channels, *size)
    expected = means(whole, *small)
    whole.flags.writeable = False  # as a picture's pixels are
    assert np.array_equal(made_small(whole, small), expected)
    for dtype in (torch.float32, torch.float64):
        x = torch.from_numpy(whole.copy()).to(dtype) / 127.5 - 1
        made = smaller(x, small)
        assert made.dtype == dtype and np.array_equal(((made + 1) * 127.5).round().numpy(), expected)


def test_halves_go_to_the_even_level():
    """Of means of two pixels half lie halfway between two levels: those must not depend on the last bits of x."""
    a, b = np.meshgrid(np.arange(256), np.arange(256))
    whole = np.stack([a, b], axis=-1).reshape(-1, 1, 1, 2).astype(np.uint8)
    total = whole.astype(int).sum(axis=(1, 2, 3))
    expected = np.where(total % 2 == 0, total // 2, total // 2 + (total // 2 % 2))
    assert np.array_equal(made_small(whole, (1, 1)).ravel(), expected)


def test_areas_that_do_not_divide_overlap():
    """5 pixels in 2 areas: 0 … 2 and 2 … 4, as adaptive pooling has them."""
    whole = np.array([0, 10, 20, 110, 200], np.uint8).reshape(1, 1, 1, 5)
    assert made_small(whole, (1, 2)).ravel().tolist() == [10, 110]


def test_pairs_are_spread_over_the_set_and_the_same_every_time():
    whole, labels = pixels(10, 3, 8, 8), np.arange(10) % 3
    made = pairs(Cached(whole, labels, ("a", "b", "c"), "set", "f" * 64), 4, (2, 2))
    assert isinstance(made, Pairs)
    chosen = [0, 2, 5, 7]
    assert np.array_equal(made.whole, whole[chosen]) and np.array_equal(made.small, means(whole[chosen], 2, 2))
    assert made.labels.tolist() == [0, 2, 2, 1]
    assert len(pairs(Cached(whole, None, (), "set", "f" * 64), 99, (2, 2)).whole) == 10


def test_pairs_of_pictures_of_many_shapes_are_cut_first():
    """The small picture is that of the window, not of what was cut away."""
    flat = pixels(2 * 3 * 8 * 10)
    shapes = np.array([[8, 10], [8, 10]])
    made = pairs(Ragged(flat, shapes, (8, 8), 3, None, (), "set", "f" * 64), 2, (4, 4))
    window = flat.reshape(2, 3, 8, 10)[..., 1:9]
    assert np.array_equal(made.whole, window) and np.array_equal(made.small, means(window, 4, 4))
    assert made.labels is None
