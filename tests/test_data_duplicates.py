"""Hashes against scipy's DCT, correlations against numpy's, the search against comparing all with all."""

import itertools
import time

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.fft import dctn

from ddpm.data import duplicates
from ddpm.data.duplicates import MOST_BITS, contrast, correlation, near, perceptual_hash, thumbnail


def scenes(count, seed=0, side=32):
    """Smooth random pictures, uint8 [N, side, side], none like another."""
    small = np.random.default_rng(seed).integers(0, 256, (count, 6, 6), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in small]
    )


def bits(bands):
    return np.unpackbits(bands.view(np.uint8), axis=1)


def pairs(found):
    return set(zip(found.first.tolist(), found.second.tolist(), strict=True))


def test_hash_is_the_signs_of_scipys_dct():
    pictures = np.random.default_rng(1).integers(0, 256, (20, 32, 32), dtype=np.uint8)
    for picture, found in zip(pictures, bits(perceptual_hash(pictures)), strict=True):
        low = dctn(picture.astype(float), type=2)[1:9, 1:9].ravel()
        np.testing.assert_array_equal(found, low > np.median(low))


def test_hash_of_none_and_of_more_than_a_chunk(monkeypatch):
    pictures = scenes(11)
    whole = perceptual_hash(pictures)
    monkeypatch.setattr(duplicates, "_CHUNK", 4)
    np.testing.assert_array_equal(perceptual_hash(pictures), whole)
    assert perceptual_hash(pictures[:0]).shape == (0, 4)
    assert contrast(pictures[:0]).shape == (0,)
    np.testing.assert_allclose(contrast(pictures), [picture.std() for picture in pictures], rtol=1e-5)


def test_correlation_is_numpys():
    pictures = scenes(6)
    a, b = np.triu_indices(6, 1)
    wanted = [np.corrcoef(pictures[i].ravel(), pictures[j].ravel())[0, 1] for i, j in zip(a, b, strict=True)]
    np.testing.assert_allclose(correlation(pictures, a, b), wanted, atol=1e-5)


def test_a_flat_picture_correlates_with_nothing():
    pictures = np.concatenate([scenes(1), np.full((1, 32, 32), 200, np.uint8)])
    assert correlation(pictures, np.array([0, 1]), np.array([1, 1])).tolist() == [0.0, 0.0]


def test_candidates_are_those_of_comparing_all_with_all():
    """Every pair that differs in 3 bits at most, and of those up to 8 every one that shares a band; each once."""
    draw = np.random.default_rng(2)
    bands = draw.integers(0, 1 << 16, (60, 4)).astype(np.uint16)
    for i in range(30, 60):  # others with some bits turned
        turned = np.zeros(64, np.uint8)
        turned[draw.choice(64, i % 10, replace=False)] = 1
        bands[i] = bands[i - 30] ^ np.packbits(turned).view(np.uint16)
    found = []
    for a, b, differing in duplicates._candidates(bands):
        found += [(*sorted(pair), d) for *pair, d in zip(a.tolist(), b.tolist(), differing.tolist(), strict=True)]
    wanted = []
    for i, j in itertools.combinations(range(60), 2):
        differing = int((bits(bands[i : i + 1]) != bits(bands[j : j + 1])).sum())
        if differing <= MOST_BITS and (bands[i] == bands[j]).any():
            wanted.append((i, j, differing))
        assert differing > 3 or (bands[i] == bands[j]).any()
    assert sorted(found) == wanted and len({d for *_, d in wanted}) > 4


def test_near_finds_what_was_made_of_a_picture():
    """Saved badly, made larger, darker, with less contrast: each again, and nothing else."""
    large = scenes(40, side=96)
    pictures = [Image.fromarray(one) for one in large]
    original = pictures[7]
    changed = [
        original.resize((200, 150), Image.Resampling.LANCZOS),
        ImageEnhance.Brightness(original).enhance(0.6),
        ImageEnhance.Contrast(original).enhance(0.5),
    ]
    thumbnails = np.stack([thumbnail(image) for image in [*pictures, *changed]])
    found = near(thumbnails, np.arange(len(thumbnails)))
    assert pairs(found) == set(itertools.combinations([7, 40, 41, 42], 2))
    assert found.complete and (np.diff(found.correlation) <= 0).all()
    assert (found.correlation >= found.limit).all() and (found.bits <= MOST_BITS).all()


def test_near_looks_only_among_the_numbers_given():
    thumbnails = np.concatenate([scenes(5), scenes(5)])
    assert pairs(near(thumbnails, np.arange(10))) == {(i, i + 5) for i in range(5)}
    assert pairs(near(thumbnails, np.array([0, 6, 5, 2]))) == {(0, 5)}
    assert not len(near(thumbnails, np.array([3]))) and not len(near(thumbnails, np.empty(0, np.int64)))


def test_flat_pictures_are_not_compared():
    flat = np.zeros((50, 32, 32), np.uint8)
    flat[:, 0, 0] = np.arange(50)
    assert not len(near(flat, np.arange(50)))


def test_what_all_pictures_share_is_no_likeness():
    """One figure on black in fifty sizes of detail: photographs so alike would be copies, these are not."""
    draw = np.random.default_rng(3)
    figure = np.zeros((32, 32))
    figure[4:28, 8:24] = 200.0
    alike = figure + (figure > 0) * np.stack(
        [np.asarray(Image.fromarray(draw.normal(0, 22, (8, 8))).resize((32, 32))) for _ in range(200)]
    )
    alike = np.clip(alike, 0, 255).astype(np.uint8)
    first = correlation(alike, np.zeros(199, np.int64), np.arange(1, 200))
    assert np.median(first) > 0.9  # so the usual limit would take most pairs
    alike = np.concatenate([alike, np.clip(alike[:1] * 0.8, 0, 255).astype(np.uint8)])
    found = near(alike, np.arange(201))
    assert found.limit > 0.95 and pairs(found) == {(0, 200)}


def test_a_set_of_nothing_but_copies_ends():
    """A film whose frames are all alike: the search stops, and says so."""
    frames = np.repeat(scenes(1), 3000, axis=0)
    frames[np.arange(3000), np.arange(3000) % 32, np.arange(3000) // 32 % 32] += 1
    began = time.perf_counter()
    found = near(frames, np.arange(3000))
    assert not found.complete and len(found) >= 100_000 and time.perf_counter() - began < 30


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_thumbnail_of_each_mode(mode):
    image = Image.new(mode, (50, 20), "white")
    assert thumbnail(image).shape == (32, 32) and (thumbnail(image) == 255).all()


def test_thumbnail_puts_transparency_on_white():
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    assert (thumbnail(image) == 255).all()


def test_thumbnail_of_whole_factors_is_the_mean():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96), dtype=np.uint8)
    wanted = pixels.reshape(32, 2, 32, 3).mean((1, 3))
    np.testing.assert_allclose(thumbnail(Image.fromarray(pixels)).astype(float), wanted, atol=1.0)
