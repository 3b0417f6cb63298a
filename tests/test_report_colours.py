"""Colours of samples against data: sets of a known tint are told, noise is not."""

import numpy as np
import pytest

from ddpm.data import load, open_source
from ddpm.report.colours import compare, hue


def scenes(count, seed, brightness=40.0, channels=3, side=6, label=None):
    """uint8 [N, C, side, side]: pictures that differ much in brightness, somewhat in hue."""
    draw = np.random.default_rng(seed)
    level = draw.normal(120, brightness, (count, 1, 1, 1))
    tone = draw.normal(0, 12, (count, channels, 1, 1)) if channels > 1 else 0.0
    texture = draw.normal(0, 20, (count, 1, side, side))
    extra = 0.0 if label is None else np.array([0.0, 60.0])[label][:, None, None, None]
    return (level + tone + texture + extra).clip(0, 255).round().astype(np.uint8)


def tinted(pixels, *levels):
    return (pixels + np.array(levels)[:, None, None]).clip(0, 255).round().astype(np.uint8)


@pytest.fixture
def made(tmp_path):
    def make(pixels, labels=None):
        arrays = {"images": pixels.transpose(0, 2, 3, 1)}
        if labels is not None:
            arrays["labels"] = labels
        np.savez(tmp_path / "set.npz", **arrays)
        source = open_source(tmp_path / "set.npz")
        return load(source, pixels.shape[2:], pixels.shape[1], cache=tmp_path / "cache")

    return make


def quiet(found):
    values = (found.brightness, found.contrast, *found.tint, *([found.saturation] if found.saturation else []))
    return not any(one.off for one in values) and not found.narrow and not found.tinted


@pytest.mark.parametrize("count", [40, 200])
@pytest.mark.parametrize("tint, name", [((10, 0, 0), "red"), ((0, 0, 10), "blue"), ((0, -10, 0), "magenta")])
def test_a_tint_of_ten_levels_is_told(made, count, tint, name):
    found = compare(tinted(scenes(count, 1, 25), *tint), None, made(scenes(600, 0, 25)))
    assert found.tinted and hue(tuple(one.difference for one in found.tint)) == name
    for one, level in zip(found.tint, tint, strict=True):
        assert one.difference == pytest.approx(level - np.mean(tint), abs=4 * one.error)


def test_one_level_of_noise_is_not(made):
    data = made(scenes(600, 0))
    for seed in range(1, 13):
        draw = np.random.default_rng(seed)
        assert quiet(compare(tinted(scenes(40, seed), *draw.normal(0, 1, 3)), None, data))
        noisy = scenes(200, seed + 50) + draw.normal(0, 1, (200, 3, 6, 6))
        assert quiet(compare(noisy.clip(0, 255).round().astype(np.uint8), None, data))


def test_chance_tells_nothing_of_one_in_many_sets(made):
    """Of the same law: 300 sets of 40 samples, of which none is told."""
    data = made(scenes(600, 0))
    assert all(quiet(compare(scenes(40, seed), None, data)) for seed in range(1, 301))


def test_brightness_is_told_where_samples_are_many_enough_for_it(made):
    data = made(scenes(600, 0))
    few, many = (compare(tinted(scenes(n, 1), 16, 16, 16), None, data) for n in (20, 400))
    assert not few.brightness.off and many.brightness.off and not many.tinted
    assert many.brightness.difference == pytest.approx(16, abs=4 * many.brightness.error)


def test_grey_pictures_have_brightness_and_contrast(made):
    pixels = scenes(600, 0, 10, channels=1)
    samples = scenes(60, 1, 10, channels=1).astype(float)
    flat = samples.mean((2, 3), keepdims=True) + 0.5 * (samples - samples.mean((2, 3), keepdims=True))
    found = compare(flat.round().astype(np.uint8), None, made(pixels))
    assert found.contrast.off and found.contrast.difference < 0 and not found.brightness.off
    assert found.channels == found.tint == () and found.saturation is None
    assert found.contrast.data == pytest.approx(pixels.std((2, 3)).mean(), rel=1e-9)


def test_samples_of_one_brightness_are_told(made):
    data = made(scenes(600, 0))
    found = compare(scenes(200, 1, brightness=15.0), None, data)
    assert found.narrow and found.spread < 0.6 and not found.brightness.off
    expected = scenes(600, 0).mean((1, 2, 3)).std()
    assert found.deviation == pytest.approx(expected, rel=1e-9)
    assert not compare(scenes(200, 1, brightness=80.0), None, data).narrow  # more varied is no loss


def test_colourless_samples_are_told(made):
    pixels = scenes(600, 0)
    grey = scenes(100, 1).mean(1, keepdims=True).repeat(3, 1).round().astype(np.uint8)
    found = compare(grey, None, made(pixels))
    assert found.saturation.off and found.saturation.samples == 0.0
    assert found.saturation.data == pytest.approx((pixels.max(1).astype(float) - pixels.min(1)).mean(), rel=1e-9)


def test_the_error_is_that_of_two_means(made):
    pixels, samples = scenes(500, 0), scenes(50, 1)
    found = compare(samples, None, made(pixels))
    mine, theirs = samples.mean((1, 2, 3)), pixels.mean((1, 2, 3))
    assert found.brightness.error == pytest.approx(np.sqrt(mine.var(ddof=1) / 50 + theirs.var(ddof=1) / 500))
    assert found.brightness.difference == pytest.approx(mine.mean() - theirs.mean())
    assert [sum(shares) for shares in found.brightness.shares] == pytest.approx([1, 1])


def test_how_samples_are_divided_over_the_classes_is_no_drift(made):
    """Nine tenths of the data are dark, half of the samples are bright as their class is."""
    labels = np.array([0] * 900 + [1] * 100)
    kinds = np.array([0, 1] * 40)
    data = made(scenes(1000, 0, 8, label=labels), labels)
    samples = scenes(80, 1, 8, label=kinds)
    found = compare(samples, kinds, data)
    assert quiet(found) and found.classes
    # within a class there is little to doubt: what the classes differ in is no noise
    assert found.brightness.error < 1.5
    assert compare(samples, None, data).brightness.off
    assert compare(tinted(samples, 8, 8, 8), kinds, data).brightness.off


def test_a_class_without_pictures_is_left_out(made):
    data = made(scenes(100, 0), np.array([0, 1] * 50))
    found = compare(scenes(30, 1), np.array([0, 1, 2] * 10), data)
    assert found.count == 20 and found.looked == 100


def test_one_sample_a_class_is_measured_by_the_data(made):
    labels = np.arange(300) % 30
    found = compare(scenes(30, 1), np.arange(30), made(scenes(300, 0), labels))
    assert quiet(found) and 2 < found.brightness.error < 20


def test_transparency_is_put_on_white(made):
    pixels = np.concatenate([scenes(100, 0), np.full((100, 1, 6, 6), 255, np.uint8)], 1)
    clear = pixels.copy()
    clear[:, 3] = 0
    found = compare(clear[:40], None, made(pixels))
    assert found.brightness.samples == 255.0 and found.brightness.off
    assert found.brightness.data == pytest.approx(pixels[:, :3].mean())


def test_a_few_samples_tell_nothing_and_flat_data_have_no_spread(made):
    assert compare(scenes(7, 1), None, made(scenes(50, 0))) is None
    flat = np.full((50, 1, 6, 6), 80, np.uint8)
    found = compare(flat[:20], None, made(flat))
    assert quiet(found) and found.spread == 1.0


@pytest.mark.parametrize(
    "levels, name", [((5, -2, -3), "red"), ((-5, 2, 3), "cyan"), ((1, 1, -2), "yellow"), ((-1, 2, -1), "green")]
)
def test_hues_have_their_names(levels, name):
    assert hue(tuple(map(float, levels))) == name
