"""What a report measures: against numpy by hand, and against formulas."""

import numpy as np
import pytest
import torch
from torch import nn

from ddpm.chain import make_chain
from ddpm.data import load, open_source
from ddpm.denoiser import Denoiser
from ddpm.loading import load as load_model
from ddpm.report import looks
from tiny import run


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
    found = looks.nearest(samples, made(pixels), mirrored=False)
    every = distances(samples, pixels)
    np.testing.assert_array_equal(found.index, every.argsort(1)[:, :3])
    np.testing.assert_allclose(found.distance, np.sort(every, 1)[:, :3], atol=1e-3)
    assert found.looked == 700 and not found.copied.any()


def test_training_pictures_are_compared_with_the_others_only(made):
    pixels = random_pixels(40)
    pixels[7] = pixels[3]  # a duplicate is another one
    found = looks.nearest(random_pixels(2, seed=1), made(pixels), mirrored=False)
    every = distances(pixels, pixels)
    np.fill_diagonal(every, np.inf)
    np.testing.assert_allclose(np.sort(found.apart), np.sort(every.min(1)), atol=1e-3)


def test_a_copy_is_found_and_is_zero_apart(made):
    pixels, samples = random_pixels(300), random_pixels(4, seed=1)
    samples[2] = pixels[123]
    found = looks.nearest(samples, made(pixels), mirrored=False)
    assert found.copied.tolist() == [False, False, True, False]
    assert found.index[2, 0] == 123 and found.distance[2, 0] == 0.0


def test_a_mirrored_copy_is_found_where_training_mirrored(made):
    pixels, samples = random_pixels(300), random_pixels(4, seed=1)
    samples[1] = pixels[200][..., ::-1]
    assert not looks.nearest(samples, made(pixels), mirrored=False).copied.any()
    found = looks.nearest(samples, made(pixels), mirrored=True)
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
    np.testing.assert_array_equal(looks.nearest(samples, made(pixels), mirrored=False).copied, expected)


@pytest.mark.parametrize("count", [1, 2, 3, 30])
def test_a_few_pictures_are_no_trouble(made, count):
    found = looks.nearest(random_pixels(5, seed=1), made(random_pixels(count)), mirrored=True)
    assert found.index.shape == (5, min(3, count)) and np.isfinite(found.distance).all()
    assert len(found.apart) == (0 if count == 1 else count)


def test_only_so_many_are_looked_at_spread_over_all(made):
    pixels = random_pixels(400)
    found = looks.nearest(random_pixels(3, seed=1), made(pixels), mirrored=False, most=100)
    assert found.looked == 100
    assert set(found.index.ravel() % 4) == {0}


def test_large_pictures_are_compared_in_smaller_portions(made, monkeypatch):
    """With room for a few pictures at once, and for few in all, the result is that of the pictures looked at."""
    pixels, samples = random_pixels(300), random_pixels(3, seed=1)
    monkeypatch.setattr(looks, "_CHUNK", 7 * 90 + 1)
    monkeypatch.setattr(looks, "_NUMBERS", 150 * 90)
    found = looks.nearest(samples, made(pixels), mirrored=False)
    assert found.looked == 150
    every = distances(samples, pixels[::2])
    np.testing.assert_array_equal(found.index, 2 * every.argsort(1)[:, :3])


@pytest.mark.parametrize("total, count", [(10, 3), (3, 10), (7, 7), (1, 1), (0, 4)])
def test_numbers_are_spread_evenly(total, count):
    chosen = looks.spread_over(total, count)
    assert len(chosen) == min(total, count) == len(set(chosen.tolist()))
    assert all(0 <= k < total for k in chosen)
    if len(chosen) > 1:
        gaps = np.diff(chosen)
        assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


# -- denoising -----------------------------------------------------------------------------------------------


class Constant(nn.Module):
    """A net that says the same of everything, and keeps what it was asked."""

    def __init__(self, value):
        super().__init__()
        self.value, self.asked = nn.Parameter(torch.tensor(value)), []

    def forward(self, x, timestep, **cond):
        self.asked.append((x, timestep, cond))
        return self.value.expand_as(x)


def grey(x):
    return np.clip(np.round((x + 1) * 127.5), 0, 255)


def test_denoising_shows_what_the_formulas_say():
    """x_t = α x_0 + σ ε, ε̂ = (x_t − α x̂_0)/σ, and the posterior's mean by Ho et al.'s equation 7."""
    chain = make_chain("linear", 100)
    net = Constant(0.25)
    x0 = torch.linspace(-0.9, 0.9, 12).view(1, 3, 4)
    seen = looks.denoise(Denoiser(net, chain, "x0"), x0, label=1, count=5)
    assert seen.levels == (100, 75, 50, 26, 1)
    (xt, timestep, cond), alpha_bar = (
        net.asked[0],
        np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-3, 0.2, 100))]),
    )
    assert timestep.tolist() == [99, 74, 49, 25, 0] and cond["label"].tolist() == [1] * 5
    noise = None
    for i, t in enumerate(seen.levels):
        s = (*seen.levels, 0)[i + 1]
        x = xt[i].numpy().astype(float)
        at, as_ = alpha_bar[t], alpha_bar[s]
        np.testing.assert_allclose(seen.log_snr[i], np.log(at / (1 - at)), rtol=1e-6)
        eps = (x - np.sqrt(at) * x0.numpy()) / np.sqrt(1 - at)
        noise = eps if noise is None else noise
        np.testing.assert_allclose(eps, noise, atol=2e-3)  # the same noise at every level
        beta = 1 - at / as_
        mean = np.sqrt(as_) * beta / (1 - at) * 0.25 + np.sqrt(at / as_) * (1 - as_) / (1 - at) * x
        told = (x - np.sqrt(at) * 0.25) / np.sqrt(1 - at)
        for shown, exact in (
            (seen.xt, x),
            (seen.eps, told / 3),
            (seen.mean, mean),
            (seen.predicted, 0 * x + 0.25),
        ):
            assert np.abs(shown[i] - grey(exact)).max() <= 1
    np.testing.assert_array_equal(seen.x0, grey(x0.numpy()))
    assert 0.5 < noise.std() < 1.5


@pytest.mark.parametrize("steps, levels", [(1, 1), (2, 2), (5, 5), (40, 12)])
def test_a_short_chain_shows_all_of_its_levels(steps, levels):
    net = Denoiser(Constant(0.0), make_chain("cosine", steps), "v")
    seen = looks.denoise(net, torch.zeros(1, 4, 4), None)
    assert len(seen.levels) == levels and seen.levels[0] == steps and seen.levels[-1] == 1
    assert net.net.asked[0][2] == {}


# -- samples -------------------------------------------------------------------------------------------------


def test_samples_are_those_of_their_class(tmp_path):
    model = load_model(run(tmp_path / "run").folder, "cpu")
    drawn = looks.draw(model, 12, 3)
    assert drawn.labels == (0, 1, 2) and drawn.samples.labels == (0,) * 4 + (1,) * 4 + (2,) * 4
    again = model.sample(12, steps=3, label=[0] * 4 + [1] * 4 + [2] * 4)
    np.testing.assert_array_equal(drawn.of(1), again.pixels[4:8])
    assert drawn.seconds > 0


@pytest.mark.parametrize("count, each", [(1, 2), (6, 2), (300, 8)])
def test_every_class_has_some_and_not_too_many(tmp_path, count, each):
    model = load_model(run(tmp_path / "run").folder, "cpu")
    assert len(looks.draw(model, count, 1).of(2)) == each


def test_the_most_frequent_classes_are_shown():
    shares = (0.1, 0.0, 0.5, 0.4)
    assert looks.most_frequent(shares, 4, 2) == (2, 3)
    assert looks.most_frequent(shares, 4) == (0, 1, 2, 3)
    assert looks.most_frequent((), 120) == tuple(range(100))
    assert looks.most_frequent((), 0) == ()


def test_noise_in_the_transparency_is_not_shown():
    """Of pictures with transparency only what is meant as one, x_0 and its estimate, lets the page through."""
    net = Denoiser(Constant(-1.0), make_chain("cosine", 40), "x0")
    seen = looks.denoise(net, torch.full((4, 6, 6), -1.0), None)
    for shown in (seen.xt, seen.eps, seen.mean):
        assert (shown[:, 3] == 255).all()
    assert (seen.predicted[:, 3] == 0).all() and (seen.x0[3] == 0).all()
    assert seen.xt[:, :3].std() > 10
