"""Pictures between two: slerp against its closed form, the law of the result on a Gaussian, and what it writes."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial import geometric_slerp

import ddpm
import tiny
from ddpm.chain import Chain
from ddpm.config import DataConfig
from ddpm.data.given import brought
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.interpolation import LAMBDAS, between, interpolate, slerp
from ddpm.memory import AtOnce
from ddpm.noise import Purpose, normals
from ddpm.samplers import DDIM, Ancestral
from ddpm.store import Facts
from ddpm.walks import Walks
from oracle import Mixture, linear_betas
from test_draw_plots import check_layout
from test_walks import Placed

RNG = np.random.default_rng(0)
A, B = (RNG.integers(0, 256, (1, 8, 8), dtype=np.uint8) for _ in range(2))


def vector(seed, count=12):
    return torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# -- mixing ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 999), st.integers(0, 999), st.floats(0, 1))
def test_slerp_of_units_is_scipy_s_great_circle(seed, other, share):
    if seed == other:
        return
    a, b = (one / one.norm() for one in (vector(seed), vector(other)))
    ours = slerp(a.view(1, 3, 4), b.view(1, 3, 4), share)
    expected = geometric_slerp(a.numpy(), b.numpy(), share)
    np.testing.assert_allclose(ours.flatten(), expected, atol=1e-12)
    assert abs(ours.norm().item() - 1) < 1e-12


def test_slerp_by_hand():
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0])
    third = slerp(a, b, 1 / 3)
    torch.testing.assert_close(third, torch.tensor([2 * math.cos(math.pi / 6), 3 * math.sin(math.pi / 6)]))


@pytest.mark.parametrize("mode", ["linear", "slerp"])
def test_the_ends_are_the_ends(mode):
    a, b = vector(1), vector(2)
    torch.testing.assert_close(between(a, b, 0.0, mode), a, rtol=1e-15, atol=0)
    torch.testing.assert_close(between(a, b, 1.0, mode), b, rtol=1e-15, atol=0)
    torch.testing.assert_close(between(a, b, 0.3, mode), between(b, a, 0.7, mode))


@pytest.mark.parametrize("factor", [1.0, 2.5, -1.0, -0.5, 0.0])
def test_without_one_great_circle_it_is_the_line(factor):
    a = vector(3).float()
    torch.testing.assert_close(slerp(a, factor * a, 0.25), (0.75 + 0.25 * factor) * a)
    torch.testing.assert_close(slerp(factor * a, a, 0.25), (0.25 + 0.75 * factor) * a)


@given(st.floats(-6, -2))
def test_slerp_is_continuous_where_it_becomes_the_line(exponent):
    a = torch.tensor([1.0, 0.0], dtype=torch.float64)
    angle = 10.0**exponent
    b = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    exact = torch.tensor([math.cos(0.3 * angle), math.sin(0.3 * angle)], dtype=torch.float64)
    torch.testing.assert_close(slerp(a, b, 0.3), exact, rtol=0, atol=2e-9)


# -- the exact net of a Gaussian -------------------------------------------------------------------------------

BETAS = linear_betas(50)
BAR = np.concatenate([[1.0], np.cumprod(1.0 - BETAS)])
MEAN, STD = RNG.uniform(-0.3, 0.3, 64), RNG.uniform(0.1, 0.3, 64)


def exact(sampler, spec=range(1, 51), batch=64):
    data = Mixture.of([1.0], [MEAN], STD[None])
    model = Denoiser(Placed(data, BETAS), Chain.from_betas(BETAS), "eps", "small", clip=False).respace(spec)
    return Walks(model, sampler, 3, (1, 8, 8), AtOnce(batch))


def gain(t):
    return np.sqrt(BAR[t]) * STD**2 / (BAR[t] * STD**2 + 1 - BAR[t])


def grey(x):
    return np.clip(127.5 * (x + 1), 0, 255)


@pytest.mark.parametrize("t", [10, 30])
def test_ddim_between_two_pictures_is_the_flow_of_their_mean(t):
    """One noise for both: the line between x_t and x'_t holds the noised blends of the two pictures."""
    shares, keep = [0.0, 0.25, 1.0], [1, 2, 5, *range(7, 51, 3)]
    made = interpolate(exact(DDIM(), keep), (A, B), [t], shares, "linear", None, ())
    eps = normals(3, Purpose.WALK, torch.tensor([0]), torch.tensor([0]), (64,))[0, 0].double().numpy()
    levels = [0, *sorted({*(k for k in keep if k <= t), t})]
    for k, share in enumerate(shares):
        blend = ((1 - share) * A + share * B.astype(float)).ravel() / 127.5 - 1
        x = np.sqrt(BAR[t]) * blend + np.sqrt(1 - BAR[t]) * eps
        for now, before in zip(levels[:0:-1], levels[-2::-1], strict=True):  # Song et al. 2020, eq. 12
            seen = MEAN + gain(now) * (x - np.sqrt(BAR[now]) * MEAN)
            noise = (x - np.sqrt(BAR[now]) * seen) / np.sqrt(1 - BAR[now])
            x = np.sqrt(BAR[before]) * seen + np.sqrt(1 - BAR[before]) * noise
        assert np.abs(made.pixels[0, k].ravel() - grey(x)).max() < 0.51


def test_ancestral_between_two_pictures_has_the_law_of_the_gaussian():
    """Ho et al. 2020, algorithm 2 with β̃ from x̄_t: affine in the noise, so its mean and variance are known."""
    t, share, count, keep = 20, 0.25, 300, [1, 3, 6, 10, 15, 20]
    a, b = (96 + one // 4 for one in (A, B))  # none so near to black or white that pixels would end there
    made = exact(Ancestral(), keep)
    x = np.array(
        [
            interpolate(replace(made, seed=seed), (a, b), [t], [share], "linear", None, ()).pixels.ravel()
            for seed in range(count)
        ]
    )
    x = x / 127.5 - 1
    m = np.sqrt(BAR[t]) * (((1 - share) * a + share * b.astype(float)).ravel() / 127.5 - 1)
    v = np.full(64, 1 - BAR[t])
    for now, before in zip(keep[::-1], [*keep[-2::-1], 0], strict=True):
        beta = 1 - BAR[now] / BAR[before]
        of_x0 = np.sqrt(BAR[before]) * beta / (1 - BAR[now])
        of_xt = np.sqrt(1 - beta) * (1 - BAR[before]) / (1 - BAR[now])
        slope = of_x0 * gain(now) + of_xt
        m = slope * m + of_x0 * (MEAN - gain(now) * np.sqrt(BAR[now]) * MEAN)
        v = slope**2 * v + (beta * (1 - BAR[before]) / (1 - BAR[now]) if before else 0.0)
    inside = np.abs(m) + 4 * np.sqrt(v) < 1.0
    assert inside.sum() > 30
    z = ((x.mean(0) - m) / np.sqrt(v / count))[inside]
    assert np.abs(z).max() < 4.5 and abs(z.mean()) < 4 / math.sqrt(len(z))
    ratio = (x.var(0) / v)[inside]
    assert abs(ratio.mean() - 1) < 4 * math.sqrt(2 / count / len(ratio)) + 1 / count


def test_a_deterministic_walk_from_little_noise_gives_the_pictures_back():
    made = interpolate(exact(DDIM()), (A, B), [1], [0.0, 1.0], "slerp", None, ())
    # at t = 1 the model sees E[x_0|x_1], which is off by the noise: σ_1/α_1 of it, and a little towards the mean
    assert BAR[1] > 0.99
    for picture, source in zip(made.pixels[0], (A, B), strict=True):
        assert np.abs(picture.astype(int) - source).mean() < 127.5 * 1.5 * np.sqrt(1 - BAR[1])


# -- as a user sees it -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ddpm.load(tiny.run(tmp_path_factory.mktemp("zoo") / "zoo").folder, "cpu")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    run = tiny.run(tmp_path_factory.mktemp("plain") / "plain", Facts("zoo", 10), data__channels=3)
    return ddpm.load(run.folder, "cpu")


def close(a, b):
    return a.shape == b.shape and np.mean(np.abs(a.astype(int) - b.astype(int)) <= 1) >= 0.999


@pytest.mark.parametrize("options", [{}, {"sampler": "ddim", "steps": 7}, {"steps": "5,5", "mode": "slerp"}])
def test_at_t_T_it_is_a_sample_and_nothing_else(model, options):
    made = model.interpolate(A, B, t=40, lambdas=(0, 0.3, 1), label="cat", seed=4, **options)
    drawn = {key: value for key, value in options.items() if key != "mode"}
    sample = model.sample(1, seed=4, label="cat", **{"sampler": "ddpm", **drawn})
    for picture in made.pixels[0]:
        assert close(picture, sample.pixels[0])
    other = model.interpolate(B, A, t=40, lambdas=(0.5,), label="cat", seed=4, **options)
    assert close(other.pixels[0, 0], sample.pixels[0])


@pytest.mark.parametrize("mode", ["linear", "slerp"])
def test_a_picture_is_the_same_among_any_others(model, mode):
    options = {"mode": mode, "label": "ant", "seed": 1}
    whole = model.interpolate(A, B, t=[30, 12], lambdas=(0, 0.2, 0.5, 0.9, 1), **options)
    assert whole.pixels.shape == (2, 5, 1, 8, 8) and whole.pixels.std() > 20
    alone = model.interpolate(A, B, t=12, lambdas=(0.9, 0.2), batch=1, **options)
    assert close(alone.pixels[0], whole.pixels[1, [3, 1]])
    turned = model.interpolate(B, A, t=12, lambdas=(0.8,), **options)
    assert np.mean(np.abs(turned.pixels[0, 0].astype(int) - whole.pixels[1, 1]) <= 1) > 0.98
    assert not close(whole.pixels[0], whole.pixels[1])
    other = model.interpolate(A, B, t=12, lambdas=(0.9,), **{**options, "seed": 2})
    assert not close(other.pixels[0, 0], whole.pixels[1, 3])


def test_classes_change_half_way(model):
    shares = (0, 0.49, 0.5, 1)
    made = model.interpolate(A, B, t=20, lambdas=shares, label=["cat", 0])
    assert made.labels == (2, 2, 0, 0) and made.classes == ("ant", "bee", "cat")
    for label, some in ((2, slice(0, 2)), (0, slice(2, 4))):
        alone = model.interpolate(A, B, t=20, lambdas=shares[some], label=label)
        assert close(alone.pixels[0], made.pixels[0, some]) and alone.labels == (label, label)


def test_defaults_and_progress(plain):
    seen = []
    a = Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    made = plain.interpolate(a, A, batch=4, progress=lambda *now: seen.append(now))
    assert made.levels == (20,) and made.lambdas == tuple(k / 10 for k in range(11)) and made.labels is None
    assert seen == [(k, 60) for k in range(1, 61)]
    assert made.sources.shape == (2, 3, 8, 8) and len(made.images()) == 11
    assert np.array_equal(made.sources[1], np.repeat(A, 3, axis=0))
    expected = np.asarray(a.resize((8, 8), Image.Resampling.BICUBIC, box=(5, 0, 25, 20))).transpose(2, 0, 1)
    assert np.array_equal(made.sources[0], expected)


def test_sources_are_brought_as_the_data_was():
    image = Image.new("RGBA", (4, 8), (255, 0, 0, 0))
    red = brought(image, DataConfig(size=(4, 4), channels=3, background="blue"), "it")
    assert np.array_equal(red, np.broadcast_to(np.array([0, 0, 255], np.uint8)[:, None, None], (3, 4, 4)))
    tall = np.zeros((1, 8, 4), np.uint8)
    padded = brought(tall, DataConfig(size=(8, 8), channels=1, crop="pad"), "it")
    assert (padded[0, :, 2:6] == 0).all() and (padded[0, :, :2] == 255).all()
    assert brought(tall, DataConfig(size=(8, 8), channels=1, crop="random"), "it").shape == (1, 8, 8)
    kept = RNG.integers(0, 256, (4, 5, 6), dtype=np.uint8)
    assert np.array_equal(brought(kept, DataConfig(size=(5, 6), channels=4), "it"), kept)


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "--class: zoo draws by class; give one, or that of each of the two pictures"),
        ({"label": ["cat"] * 3}, "3 labels for 2 pictures"),
        ({"label": "dog"}, "--class dog: no such class"),
        ({"label": 0, "t": 0}, "--t 0: a level of noise of this model lies between 1 and 40"),
        ({"label": 0, "t": [12, 41]}, "--t 41:"),
        ({"label": 0, "t": []}, "t: name at least one level of noise"),
        ({"label": 0, "lambdas": [0.5, 1.5]}, "--lambdas 1.5: lies between 0"),
        ({"label": 0, "lambdas": [math.nan]}, "--lambdas nan: lies between 0"),
        ({"label": 0, "lambdas": []}, "--lambdas: name at least one"),
        ({"label": 0, "batch": 0}, "--batch 0"),
        ({"label": 0, "eta": 0.5}, "--eta 0.5: belongs to the sampler ddim"),
    ],
)
def test_what_cannot_be(model, options, message):
    with pytest.raises(UserError) as error:
        model.interpolate(A, B, **options)
    assert message in str(error.value)


def test_an_unknown_mode():
    from ddpm.interpolation import check_shares

    with pytest.raises(UserError, match="--mode cubic: takes linear or slerp"):
        check_shares([0.5], "cubic")


@pytest.mark.parametrize("bad", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8))])
def test_arrays_that_are_no_pictures(model, bad):
    with pytest.raises(UserError, match=r"the second picture: an array of .* takes uint8 \[C, H, W\]"):
        model.interpolate(A, bad, label=0)


def test_a_broken_picture(model, tmp_path):
    Image.fromarray(RNG.integers(0, 256, (50, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with Image.open(tmp_path / "a.png") as image, pytest.raises(UserError, match="the first picture: cannot be"):
        model.interpolate(image, B, label=0)


def test_what_is_written(model, tmp_path):
    made = model.interpolate(A, B, t=[30, 5], lambdas=(0, 0.25, 1), label=["cat", "ant"], steps=8)
    folder = made.save(tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == {"interpolation.json", "interpolation.png", "pictures"}
    names = ["00-lambda0-cat", "01-lambda0.25-cat", "02-lambda1-ant"]
    expected = {"a.png", "b.png", *(f"t{t}-{name}.png" for t in ("0030", "0005") for name in names)}
    assert {path.name for path in (folder / "pictures").iterdir()} == expected
    assert np.array_equal(np.asarray(Image.open(folder / "pictures" / "b.png")), B[0])
    with Image.open(folder / "pictures" / "t0005-01-lambda0.25-cat.png") as image:
        assert np.array_equal(np.asarray(image), made.pixels[1, 1, 0])
        assert image.text["ddpm:lambda"] == "0.25" and image.text["ddpm:t"] == "5"
        assert image.text["ddpm:class"] == "cat" and image.text["ddpm:model"] == "zoo"
    record = json.loads((folder / "interpolation.json").read_text())
    assert record["t"] == [30, 5] and record["lambdas"] == [0, 0.25, 1] and record["mode"] == "linear"
    assert record["steps"] == 8 and record["sampler"] == "ddpm" and record["labels"] == [2, 2, 0]
    made.save(folder)  # its own folder is replaced
    (folder / "mine.txt").write_text("")
    with pytest.raises(UserError, match="holds more than ddpm interpolate wrote"):
        made.save(folder)


def test_the_figure_has_the_sources_at_both_ends(model):
    made = model.interpolate(A, B, t=[30, 5], lambdas=(0, 1), label=["cat", "ant"], steps=8)
    figure = made.figure()
    shown = [np.asarray(axes.images[0].get_array())[..., 0] for axes in figure.axes]
    expected = [one for row in made.pixels for one in (A, *row, B)]
    assert len(shown) == 8 and all(np.array_equal(x, y[0]) for x, y in zip(shown, expected, strict=True))
    words = [text.get_text() for text in figure.texts]
    assert words[:5] == ["λ", "A", "0", "1", "B"] and "t = 30" in words and "t = 5" in words
    assert words[-5:] == ["class", "", "cat", "ant", ""]
    made = replace(
        made, labels=(1,) * 11, lambdas=LAMBDAS, pixels=np.zeros((1, 11, 1, 40, 81), np.uint8), levels=(7,)
    )
    made = replace(made, sources=np.zeros((2, 1, 40, 81), np.uint8), classes=("cat", "golden retriever"))
    assert [text.get_text() for text in made.figure().texts].count("golden retriever") == 1  # where it begins
    check_layout(made.figure())
