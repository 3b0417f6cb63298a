"""The nearest pictures and whether that is too near: against numpy by hand, scipy, and sets made of copies."""

import numpy as np
import pytest
import torch
from scipy import stats

from ddpm.data import load, open_source
from ddpm.evaluate.features import open_features
from ddpm.report import nearest
from ddpm.report.nearest import by_features, by_pixels, exceeds


def random_pixels(count, shape=(3, 6, 5), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.fixture
def made(tmp_path):
    """Makes pictures of exactly these pixels."""

    def make(pixels):
        np.savez(tmp_path / "set.npz", images=pixels.transpose(0, 2, 3, 1))
        source = open_source(tmp_path / "set.npz")
        return load(source, pixels.shape[2:], pixels.shape[1], cache=tmp_path / "cache")

    return make


def distances(samples, pixels):
    """Root mean square differences in grey levels, float64 [S, N]."""
    difference = samples[:, None].astype(float) - pixels[None].astype(float)
    return np.sqrt((difference**2).mean(axis=(2, 3, 4)))


def test_the_nearest_pictures_are_the_nearest(made):
    pixels, samples = random_pixels(700), random_pixels(9, seed=1)
    found = by_pixels(samples, made(pixels), mirrored=False)
    every = distances(samples, pixels)
    np.testing.assert_array_equal(found.index, every.argsort(1)[:, :3])
    np.testing.assert_allclose(found.distance, np.sort(every, 1)[:, :3], atol=1e-3)
    assert found.looked == 700 and not found.copied.any()


def test_training_pictures_are_compared_with_the_others_only(made):
    pixels = random_pixels(40)
    pixels[7] = pixels[3]  # a duplicate is another one
    found = by_pixels(random_pixels(2, seed=1), made(pixels), mirrored=False)
    every = distances(pixels, pixels)
    np.fill_diagonal(every, np.inf)
    np.testing.assert_allclose(np.sort(found.apart), np.sort(every.min(1)), atol=1e-3)


def test_a_copy_is_found_and_is_zero_apart(made):
    pixels, samples = random_pixels(300), random_pixels(4, seed=1)
    samples[2] = pixels[123]
    found = by_pixels(samples, made(pixels), mirrored=False)
    assert found.copied.tolist() == [False, False, True, False]
    assert found.index[2, 0] == 123 and found.distance[2, 0] == 0.0


def test_a_mirrored_copy_is_found_where_training_mirrored(made):
    pixels, samples = random_pixels(300), random_pixels(4, seed=1)
    samples[1] = pixels[200][..., ::-1]
    assert not by_pixels(samples, made(pixels), mirrored=False).copied.any()
    found = by_pixels(samples, made(pixels), mirrored=True)
    assert found.copied.tolist() == [False, True, False, False]
    assert found.index[1, 0] == 200 and found.distance[1, 0] == 0.0
    either = np.minimum(distances(samples, pixels), distances(samples[..., ::-1], pixels))
    np.testing.assert_allclose(found.distance[:, 0], either.min(1), atol=1e-3)


def test_a_likely_copy_follows_the_published_rule(made):
    """Nearer than half the mean distance to the 50 nearest."""
    pixels = random_pixels(200)
    samples = []
    for noise in (4.0, 30.0, 45.0, 60.0, 90.0):
        blurred = pixels[5] + np.random.default_rng(2).normal(0, noise, pixels[5].shape)
        samples.append(blurred.clip(0, 255).round().astype(np.uint8))
    samples = np.stack(samples)
    every = np.sort(distances(samples, pixels), 1)
    expected = every[:, 0] < 0.5 * every[:, :50].mean(1)
    assert 0 < expected.sum() < 5
    np.testing.assert_array_equal(by_pixels(samples, made(pixels), mirrored=False).copied, expected)


@pytest.mark.parametrize("count", [1, 2, 3, 30])
def test_a_few_pictures_are_no_trouble(made, count):
    found = by_pixels(random_pixels(5, seed=1), made(random_pixels(count)), mirrored=True)
    assert found.index.shape == (5, min(3, count)) and np.isfinite(found.distance).all()
    assert len(found.apart) == (0 if count == 1 else count)


def test_only_so_many_are_looked_at_spread_over_all(made):
    pixels = random_pixels(400)
    found = by_pixels(random_pixels(3, seed=1), made(pixels), mirrored=False, most=100)
    assert found.looked == 100
    assert set(found.index.ravel() % 4) == {0}


def test_large_pictures_are_compared_in_smaller_portions(made, monkeypatch):
    """With room for a few pictures at once, and for few in all, the result is that of the pictures looked at."""
    pixels, samples = random_pixels(300), random_pixels(3, seed=1)
    monkeypatch.setattr(nearest, "_CHUNK", 7 * 90 + 1)
    monkeypatch.setattr(nearest, "_NUMBERS", 150 * 90)
    found = by_pixels(samples, made(pixels), mirrored=False)
    assert found.looked == 150
    every = distances(samples, pixels[::2])
    np.testing.assert_array_equal(found.index, 2 * every.argsort(1)[:, :3])


@pytest.mark.parametrize("total, count", [(10, 3), (3, 10), (7, 7), (1, 1), (0, 4)])
def test_numbers_are_spread_evenly(total, count):
    chosen = nearest.spread_over(total, count)
    assert len(chosen) == min(total, count) == len(set(chosen.tolist()))
    assert all(0 <= k < total for k in chosen)
    if len(chosen) > 1:
        gaps = np.diff(chosen)
        assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("count, crowd", [(1, 1), (8, 8), (30, 10), (100, 25), (400, 50)])
def test_of_few_pictures_fewer_are_neighbours(made, count, crowd):
    pixels, samples = random_pixels(count), random_pixels(3, seed=1)
    found = by_pixels(samples, made(pixels), mirrored=False)
    every = np.sort(distances(samples, pixels), 1)
    assert found.crowd == crowd
    np.testing.assert_allclose(found.ratio, every[:, 0] / every[:, :crowd].mean(1), atol=1e-4)


def test_held_out_pictures_are_compared_with_training_pictures(made, tmp_path):
    pixels, others = random_pixels(300), random_pixels(30, seed=5)
    np.savez(tmp_path / "others.npz", images=others.transpose(0, 2, 3, 1))
    held_out = load(open_source(tmp_path / "others.npz"), (6, 5), 3, cache=tmp_path / "cache")
    found = by_pixels(random_pixels(4, seed=1), made(pixels), mirrored=False, held_out=held_out)
    every = np.sort(distances(others, pixels), 1)
    np.testing.assert_allclose(found.apart, every[:, 0], atol=1e-3)
    np.testing.assert_allclose(found.apart_ratio, every[:, 0] / every[:, :50].mean(1), atol=1e-4)
    np.testing.assert_array_equal(found.apart_index, distances(others, pixels).argmin(1))
    assert found.held_out and not by_pixels(random_pixels(4, seed=1), made(pixels), mirrored=False).held_out


# -- by features -----------------------------------------------------------------------------------------------


def means(pixels):
    """A net of four features, one of which is always the same."""
    x = pixels.float()
    return torch.stack([x[:, 0].mean((1, 2)), x[:, 1].std((1, 2)), 1e3 * x[:, 2, 0, 0], x[:, 0, 0, 0] * 0 + 7], 1)


def test_features_are_compared_in_their_own_deviations(made):
    pixels, samples = random_pixels(120), random_pixels(6, seed=1)
    net = open_features(means, key="means-1")
    found = by_features(samples, made(pixels), net, mirrored=False, also=np.array([3]))
    table, mine = (net(some).pooled.numpy().astype(float)[:, :3] for some in (pixels, samples))
    scale = table.std(0)
    # the fourth feature never varies: it counts, but adds nothing
    every = np.sqrt((((mine[:, None] - table[None]) / scale) ** 2).sum(2) / 4)
    np.testing.assert_array_equal(found.index, every.argsort(1)[:, :3])
    np.testing.assert_allclose(found.distance, np.sort(every, 1)[:, :3], rtol=1e-4)
    between = np.sqrt((((table[:, None] - table[None]) / scale) ** 2).sum(2) / 4)
    np.fill_diagonal(between, np.inf)
    ranked = np.sort(between, 1)
    np.testing.assert_allclose(found.apart_ratio, ranked[:, 0] / ranked[:, :30].mean(1), rtol=1e-3)
    assert found.cut == pytest.approx(np.median(ranked[:, 0] / ranked[:, :30].mean(1)) / 2, rel=1e-3)


def test_pictures_known_to_be_near_are_looked_at_by_features_too(made):
    pixels, samples = random_pixels(400), random_pixels(5, seed=1)
    samples[0] = pixels[333]
    net = open_features("random")
    assert by_features(samples, made(pixels), net, False, np.array([], np.int64), most=40).index[0, 0] != 333
    found = by_features(samples, made(pixels), net, False, np.array([333]), most=40)
    assert found.index[0, 0] == 333 and found.looked == 41 and found.copied.tolist() == [True] + [False] * 4


def test_a_mirrored_copy_is_found_by_features(made):
    pixels, samples = random_pixels(100), random_pixels(5, seed=1)
    samples[1] = pixels[20][..., ::-1]
    net, none = open_features("random"), np.array([], np.int64)
    assert by_features(samples, made(pixels), net, True, none).index[1, 0] == 20
    assert by_features(samples, made(pixels), net, True, none).copied[1]
    assert not by_features(samples, made(pixels), net, False, none).copied[1]


# -- verdicts ------------------------------------------------------------------------------------------------


def blobs(count, seed):
    """Smooth pictures of a few degrees of freedom, whose nearest ones are near: as real ones are."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:6, :5]
    centre, width = draw.uniform(0, 5, (count, 2, 1, 1)), draw.uniform(1, 3, (count, 1, 1))
    shape = np.exp(-((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2) / width**2)
    colour = draw.uniform(50, 250, (count, 3, 1, 1))
    noise = draw.normal(0, 4, (count, 3, 6, 5))
    return (colour * shape[:, None] + noise).clip(0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("by", ["pixels", "features"])
@pytest.mark.parametrize("share, told", [(0.0, False), (0.5, True), (1.0, True)])
def test_a_model_that_copies_is_told_and_one_that_does_not_is_not(made, by, share, told):
    pixels, samples = blobs(400, 0), blobs(40, 1)
    copies = int(share * len(samples))
    noise = np.random.default_rng(2).normal(0, 2, (copies, *pixels.shape[1:]))
    samples[:copies] = (pixels[:copies] + noise).clip(0, 255).round()
    if by == "pixels":
        found = by_pixels(samples, made(pixels), False)
    else:
        found = by_features(samples, made(pixels), open_features("random"), False, np.array([], np.int64))
    assert found.memorised() == told


def test_chance_is_no_trouble(made):
    """Of the same law as the training pictures, in any number, again and again."""
    data = made(blobs(300, 0))
    for seed in range(1, 21):
        assert not by_pixels(blobs((20, 40, 200)[seed % 3], seed), data, False).memorised()


def test_pictures_that_come_twice_in_the_data_excuse_samples(made):
    """Samples as near to training pictures as these are to each other copy nothing."""
    pixels = blobs(200, 0)
    twice = np.concatenate([pixels, pixels])
    samples = pixels[:40]
    found = by_pixels(samples, made(twice), False)
    assert found.copied.all() and found.others_copied.all() and not found.memorised()
    assert by_pixels(samples, made(pixels), False).memorised()


def test_how_often_a_sample_ranks_nearer_is_the_statistic_of_mann_and_whitney(made):
    found = by_pixels(blobs(30, 1), made(blobs(100, 0)), False)
    u = stats.mannwhitneyu(found.ratio, found.apart_ratio).statistic
    assert found.nearer() == pytest.approx(1 - u / (len(found.ratio) * len(found.apart_ratio)))


@pytest.mark.parametrize(
    "a, n, b, m", [(3, 40, 0, 200), (10, 200, 0, 200), (5, 20, 30, 64), (0, 5, 2, 9), (4, 4, 0, 1)]
)
def test_the_chance_of_so_many_is_fisher_s(a, n, b, m):
    expected = stats.fisher_exact([[a, n - a], [b, m - b]], alternative="greater").pvalue
    assert exceeds(a, n, b, m) == pytest.approx(expected, rel=1e-9)


def test_blank_pictures_are_copies_of_none(made):
    blank = np.zeros((60, 3, 6, 5), np.uint8)
    found = by_pixels(blank[:20], made(blank), mirrored=False)
    assert not found.copied.any() and found.nearer() == 0.5 and not found.memorised()
