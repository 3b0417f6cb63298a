"""Progressive generation: the walks of `sample` looked at on their way, and others from the same x_t."""

import math

import numpy as np
import pytest
import torch

import ddpm
import tiny
from ddpm.chain import Chain
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.memory import AtOnce
from ddpm.noise import Purpose, normals
from ddpm.progressive import Completions, Progressive, completions, progressive
from ddpm.samplers import DDIM, Ancestral
from ddpm.samples import Samples
from ddpm.store import Facts
from ddpm.walks import Walks
from oracle import Mixture, linear_betas
from test_draw_plots import check_layout
from test_walks import Placed


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ddpm.load(tiny.run(tmp_path_factory.mktemp("zoo") / "zoo").folder, "cpu")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    run = tiny.run(tmp_path_factory.mktemp("plain") / "plain", Facts("zoo", 10), data__channels=4)
    return ddpm.load(run.folder, "cpu")


def close(a, b):
    return a.shape == b.shape and np.mean(np.abs(a.astype(int) - b.astype(int)) <= 1) >= 0.999


# -- the exact net of a Gaussian -------------------------------------------------------------------------------

BETAS = linear_betas(50)
BAR = np.concatenate([[1.0], np.cumprod(1.0 - BETAS)])
RNG = np.random.default_rng(1)
MEAN, STD = RNG.uniform(-0.3, 0.3, 16), RNG.uniform(0.1, 0.25, 16)
KEEP = [1, 4, 10, 20, 35, 50]


def exact(sampler, seed=3):
    data = Mixture.of([1.0], [MEAN], STD[None])
    whole = Denoiser(Placed(data, BETAS), Chain.from_betas(BETAS), "eps", "small", clip=False)
    return Walks(whole.respace(KEEP), sampler, seed, (1, 4, 4), AtOnce(500))


def gain(t):
    return np.sqrt(BAR[t]) * STD**2 / (BAR[t] * STD**2 + 1 - BAR[t])


def grey(x):
    return np.clip(127.5 * (x + 1), 0, 255)


def test_along_the_walk_is_what_the_exact_net_sees():
    made = progressive(exact(DDIM()), 3, 7, None, (), 6)
    assert made.levels == tuple(KEEP[::-1])
    np.testing.assert_allclose(made.log_snr, np.log(BAR[KEEP[::-1]] / (1 - BAR[KEEP[::-1]])))
    x = normals(3, Purpose.WALK, torch.arange(7, 10), torch.tensor([0]), (16,))[0].double().numpy()
    for k, (now, before) in enumerate(zip(KEEP[::-1], [*KEEP[-2::-1], 0], strict=True)):
        seen = MEAN + gain(now) * (x - np.sqrt(BAR[now]) * MEAN)
        assert np.abs(made.xt[k].reshape(3, 16) - grey(x)).max() < 0.51
        assert np.abs(made.x0[k].reshape(3, 16) - grey(seen)).max() < 0.51
        noise = (x - np.sqrt(BAR[now]) * seen) / np.sqrt(1 - BAR[now])  # Song et al. 2020, eq. 12
        x = np.sqrt(BAR[before]) * seen + np.sqrt(1 - BAR[before]) * noise
    assert np.abs(made.samples.pixels.reshape(3, 16) - grey(x)).max() < 0.51


def test_completions_have_the_law_of_the_walk_from_their_x_t():
    """Affine in the noise: from the x_t that the seed's own walk passes, mean and variance are known."""
    count, levels = 1500, [20, 50]
    made = completions(exact(Ancestral()), count, levels, 2, None, ())
    assert made.levels == (20, 50) and made.pixels.shape == (2, count, 1, 4, 4)
    steps = torch.arange(len(KEEP) + 1)
    z = normals(3, Purpose.WALK, torch.tensor([2]), steps, (16,))[:, 0].double().numpy()
    x, at = z[0], {}
    for place in range(len(KEEP), 0, -1):
        now, before = KEEP[place - 1], [0, *KEEP][place - 1]
        at[now] = x
        slope, offset, noise = step(now, before)
        x = slope * x + offset + np.sqrt(noise) * z[place]
    assert np.abs(made.picture.ravel() - grey(x)).max() < 0.51
    for k, t in enumerate(levels):
        assert np.abs(made.xt[k].ravel() - grey(at[t])).max() < 0.51
        assert np.abs(made.x0[k].ravel() - grey(MEAN + gain(t) * (at[t] - np.sqrt(BAR[t]) * MEAN))).max() < 0.51
        m, v = at[t], np.zeros(16)
        for now, before in zip(KEEP[::-1], [*KEEP[-2::-1], 0], strict=True):
            if now <= t:
                slope, offset, noise = step(now, before)
                m, v = slope * m + offset, slope**2 * v + noise
        x = made.pixels[k].reshape(count, 16) / 127.5 - 1
        inside = np.abs(m) + 4 * np.sqrt(v) < 1
        assert inside.sum() > 8
        assert np.abs((x.mean(0) - m) / np.sqrt(v / count))[inside].max() < 4.5
        assert np.abs(x.var(0) / v - 1)[inside].max() < 4.5 * math.sqrt(2 / count)


def step(now, before):
    """x_s = slope x_t + offset + √noise z of Ho et al. 2020, algorithm 2, with β̃ and the exact net."""
    beta = 1 - BAR[now] / BAR[before]
    of_x0 = np.sqrt(BAR[before]) * beta / (1 - BAR[now])
    of_xt = np.sqrt(1 - beta) * (1 - BAR[before]) / (1 - BAR[now])
    noise = beta * (1 - BAR[before]) / (1 - BAR[now])
    return of_x0 * gain(now) + of_xt, of_x0 * (MEAN - gain(now) * np.sqrt(BAR[now]) * MEAN), noise


# -- along the walk --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampler": "ddpm", "first": 4},
        {"sampler": "ddim", "steps": 6, "eta": 0.5, "label": "cat", "batch": 2},
        {"sampler": "heun", "steps": 6, "grid": "quadratic"},
        {"steps": "3,4", "label": ["ant", "bee", "cat"], "seed": 9},
    ],
)
def test_the_walks_are_those_of_sample(model, options):
    seen = []
    made = model.progressive(3, progress=lambda *now: seen.append(now), **options)
    sample = model.sample(3, **options)
    assert np.array_equal(made.samples.pixels, sample.pixels)
    assert made.samples.record == sample.record and made.samples.labels == sample.labels
    assert np.array_equal(made.x0[-1], sample.pixels)  # the last step gives what the model sees at the last level
    total = sample.record["steps"] * (2 if "batch" in options else 1)
    assert seen == [(k, total) for k in range(1, total + 1)]


@pytest.mark.parametrize(
    "steps, shown, levels",
    [
        (5, 10, (40, 30, 21, 11, 1)),
        (5, 2, (40, 1)),
        (5, 3, (40, 21, 1)),
        ([3, 7, 12], 2, (12, 3)),
        (None, 4, (40, 27, 14, 1)),
        (1, 2, (40,)),
    ],
)
def test_levels_shown(model, steps, shown, levels):
    made = model.progressive(2, sampler="ddim", steps=steps, shown=shown)
    assert made.levels == levels
    assert made.xt.shape == made.x0.shape == (len(levels), 2, 1, 8, 8) and made.xt.dtype == np.uint8
    gamma = model.denoiser.native.gamma
    assert made.log_snr == tuple(-gamma[t] for t in levels)


def test_the_start_is_the_noise(model):
    noise = normals(2, Purpose.WALK, torch.arange(1, 3), torch.tensor([0]), (1, 8, 8))[0].numpy()
    made = model.progressive(2, first=1, seed=2, steps=4)
    assert np.abs(made.xt[0] - grey(noise)).max() < 0.51


def test_alike_in_any_batch(model):
    whole = model.progressive(5, sampler="ddpm", shown=4)
    parts = model.progressive(5, sampler="ddpm", shown=4, batch=2)
    assert close(whole.xt, parts.xt) and close(whole.x0, parts.x0)
    alone = model.progressive(1, sampler="ddpm", shown=4, first=3)
    assert close(whole.xt[:, 3:4], alone.xt)


# -- from one x_t ----------------------------------------------------------------------------------------------


def test_x_t_is_that_of_the_picture(model):
    made = model.completions([27, 14, 40], 3, first=2, seed=5)
    walk = model.progressive(1, sampler="ddpm", first=2, seed=5, shown=4)
    assert walk.levels == (40, 27, 14, 1)
    for k, at in enumerate((1, 2, 0)):
        assert np.array_equal(made.xt[k], walk.xt[at, 0]) and np.array_equal(made.x0[k], walk.x0[at, 0])
        assert made.log_snr[k] == walk.log_snr[at]
    assert np.array_equal(made.picture, walk.samples.pixels[0]) and made.label == walk.samples.labels[0]


def test_a_completion_is_the_same_among_any_others(model):
    whole = model.completions([30, 10], 5, first=1, label="cat")
    assert whole.label == 2 and whole.pixels.shape == (2, 5, 1, 8, 8)
    fewer = model.completions(10, 3, first=1, label="cat", batch=2)
    assert fewer.levels == (10,) and close(fewer.pixels[0], whole.pixels[1, :3])
    again = model.completions([30, 10], 5, first=1, label="cat")
    assert np.array_equal(again.pixels, whole.pixels)


def test_completions_differ_by_their_noise_the_less_the_lower_t(model):
    made = model.completions([38, 3], 6, label="ant")
    high, low = (np.mean([np.abs(a.astype(int) - b).mean() for a in row for b in row]) for row in made.pixels)
    assert 2 < low < high
    other = model.completions([38, 3], 6, label="ant", seed=1)
    assert not close(other.pixels[0], made.pixels[0])


def test_with_fewer_steps_the_levels_join_them(model):
    seen = []
    made = model.completions([33, 1], 3, steps=5, batch=2, progress=lambda *now: seen.append(now))
    # grid 1 11 21 30 33 40: the walk itself, then two batches from 33 (5 steps) and from 1
    assert seen[-1] == (6 + 2 * (5 + 1), 6 + 2 * (5 + 1)) and len(seen) == seen[-1][0]
    assert made.record["steps"] == 5 and made.record["t"] == [33, 1] and made.record["first"] == 0
    assert all(np.array_equal(one, made.pixels[1, 0]) for one in made.pixels[1])  # from t = 1 on nothing is drawn


def test_ddim_with_noise_has_completions_too(model):
    made = model.completions(30, 2, sampler="ddim", eta=1.0, steps=10)
    assert not close(made.pixels[0, 0], made.pixels[0, 1])


# -- figures ---------------------------------------------------------------------------------------------------


def shown(figure):
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


def words(figure):
    return [text.get_text() for text in figure.texts]


def test_the_figure_along_the_walk(model):
    made = model.progressive(2, sampler="ddim", steps=5, shown=3, label=["cat", "ant"])
    pictures = shown(made.figure())
    expected = [made.xt[:, 0], made.x0[:, 0], made.xt[:, 1], made.x0[:, 1]]
    assert len(pictures) == 12
    for ours, one in zip(pictures, np.concatenate(expected), strict=True):
        assert np.array_equal(ours[..., 0], one[0])
    said = words(made.figure())
    assert said[:4] == ["t", "40", "21", "1"] and "cat  $x_t$" in said and said.count(r"$\hat{x}_0$") == 2
    values = [f"{value:.1f}".replace("-", "−") for value in made.log_snr]
    assert said[-4:] == ["log SNR", *values]


def test_the_figure_of_completions(model):
    made = model.completions([30, 10], 2, label="cat")
    pictures = shown(made.figure())
    expected = [one for k in (0, 1) for one in (made.xt[k], made.x0[k], made.picture, *made.pixels[k])]
    assert len(pictures) == 10
    for ours, one in zip(pictures, expected, strict=True):
        assert np.array_equal(ours[..., 0], one[0])
    said = words(made.figure())
    assert said[:6] == ["cat", "$x_t$", r"$\hat{x}_0(x_t)$", "own $x_0$", "other 1", "2"]
    assert "t = 30" in said and f"log SNR {made.log_snr[1]:.1f}".replace("-", "−") in said


def test_no_text_covers_another():
    """For the narrowest pictures, those just too large to be enlarged."""
    along = np.zeros((10, 2, 1, 20, 67), np.uint8)
    samples = Samples(along[0], (0, 0), ("boot",), {})
    check_layout(Progressive(tuple(range(1000, 0, -100)), (-19.8,) * 10, along, along, samples).figure())
    one = np.zeros((1, 1, 20, 101), np.uint8)
    rows = one[:, None].repeat(8, axis=1)
    check_layout(Completions((1000,), (-19.8,), one, one, rows, one[0], 0, ("boot",), {}).figure())


def test_noise_is_seen_where_pictures_are_transparent(plain):
    made = plain.progressive(1, steps=3)
    noisy = shown(made.figure())[0]
    assert np.array_equal(noisy, made.xt[0, 0, :3].transpose(1, 2, 0))
    completed = plain.completions(20, 1, steps=3)
    assert completed.label is None and words(completed.figure())[0] == ""
    assert np.array_equal(shown(completed.figure())[0], completed.xt[0, :3].transpose(1, 2, 0))


# -- what cannot be --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n": 0}, "-n 0: draw at least one picture"),
        ({"first": -1}, "--first -1"),
        ({"shown": 1}, "--shown 1: show at least 2"),
        ({"label": "dog"}, "--class dog"),
        ({"batch": 0}, "--batch 0"),
    ],
)
def test_walks_that_cannot_be(model, options, message):
    with pytest.raises(UserError) as error:
        model.progressive(**{"n": 2, **options})
    assert message in str(error.value)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"t": 41}, "--share 41: a level of noise of this model lies between 1 and 40"),
        ({"t": [5, 0]}, "--share 0:"),
        ({"t": []}, "t: name at least one level of noise"),
        ({"sampler": "ddim"}, "--sampler ddim: draws no noise, all completions are one; take ddpm or dpm"),
        ({"n": 0}, "-n 0"),
        ({"first": -1}, "--first -1"),
    ],
)
def test_completions_that_cannot_be(model, options, message):
    with pytest.raises(UserError) as error:
        model.completions(**{"t": 20, "n": 2, **options})
    assert message in str(error.value)
