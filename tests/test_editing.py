"""A picture drawn again from noise: the law of the result on a Gaussian, both ends of t, and the files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import ddpm
import tiny
from ddpm.chain import Chain
from ddpm.denoiser import Denoiser
from ddpm.editing import Edits, edit
from ddpm.errors import UserError
from ddpm.guide import Guide
from ddpm.memory import AtOnce
from ddpm.noise import Purpose, normals
from ddpm.samplers import DDIM, Ancestral
from ddpm.store import Facts
from ddpm.walks import Walks
from oracle import Mixture, linear_betas
from test_draw_plots import check_layout
from test_walks import Placed

RNG = np.random.default_rng(0)
SOURCE = RNG.integers(0, 256, (1, 8, 8), dtype=np.uint8)

BETAS = linear_betas(50)
BAR = np.concatenate([[1.0], np.cumprod(1.0 - BETAS)])
MEAN, STD = RNG.uniform(-0.3, 0.3, 64), RNG.uniform(0.1, 0.3, 64)


def exact(sampler, spec, batch=64):
    data = Mixture.of([1.0], [MEAN], STD[None])
    model = Denoiser(Placed(data, BETAS), Chain.from_betas(BETAS), "eps", "small", clip=False).respace(spec)
    return Walks(model, sampler, 3, (1, 8, 8), AtOnce(batch))


def gain(t):
    return np.sqrt(BAR[t]) * STD**2 / (BAR[t] * STD**2 + 1 - BAR[t])


def test_the_law_of_the_result():
    """Algorithm 1 of Meng et al. with ancestral steps: affine in the noise, so mean and variance are known."""
    t, n, keep = 20, 400, [1, 3, 6, 10, 15, 20, 50]
    source = 96 + SOURCE // 4  # none so near to black or white that pixels would end there
    x = edit(exact(Ancestral(), keep), source, [t], n, None, ()).pixels.reshape(n, 64) / 127.5 - 1
    m = np.sqrt(BAR[t]) * (source.ravel() / 127.5 - 1)
    v = np.full(64, 1 - BAR[t])
    for now, before in ((20, 15), (15, 10), (10, 6), (6, 3), (3, 1), (1, 0)):
        beta = 1 - BAR[now] / BAR[before]
        of_x0 = np.sqrt(BAR[before]) * beta / (1 - BAR[now])
        of_xt = np.sqrt(1 - beta) * (1 - BAR[before]) / (1 - BAR[now])
        slope = of_x0 * gain(now) + of_xt
        m = slope * m + of_x0 * (MEAN - gain(now) * np.sqrt(BAR[now]) * MEAN)
        v = slope**2 * v + (beta * (1 - BAR[before]) / (1 - BAR[now]) if before else 0.0)
    inside = np.abs(m) + 4 * np.sqrt(v) < 1.0
    assert inside.sum() > 30
    z = ((x.mean(0) - m) / np.sqrt(v / n))[inside]
    assert np.abs(z).max() < 4.5 and abs(z.mean()) < 4 / np.sqrt(len(z))
    ratio = (x.var(0) / v)[inside]
    assert abs(ratio.mean() - 1) < 4 * np.sqrt(2 / n / len(ratio)) + 1 / n


def test_a_deterministic_walk_draws_as_many_pictures_as_there_are_noises():
    """DDIM follows x_t alone, by Song et al. 2020, eq. 12; the noise of picture k is the same at every level."""
    levels = (10, 30)
    made = edit(exact(DDIM(), range(1, 51), batch=2), SOURCE, levels, 3, None, ())
    noise = normals(3, Purpose.WALK, torch.arange(3), torch.tensor([0]), (64,))[0].double().numpy()
    for row, t in enumerate(levels):
        x = np.sqrt(BAR[t]) * (SOURCE.ravel() / 127.5 - 1) + np.sqrt(1 - BAR[t]) * noise
        for now in range(t, 0, -1):
            seen = MEAN + gain(now) * (x - np.sqrt(BAR[now]) * MEAN)
            eps = (x - np.sqrt(BAR[now]) * seen) / np.sqrt(1 - BAR[now])
            x = np.sqrt(BAR[now - 1]) * seen + np.sqrt(1 - BAR[now - 1]) * eps
        grey = np.clip(127.5 * (x + 1), 0, 255)
        assert np.abs(made.pixels[row].reshape(3, 64) - grey).max() < 0.51
    assert np.abs(np.diff(made.pixels[1].astype(int), axis=0)).mean() > 5


def test_little_noise_gives_the_picture_back():
    for sampler in (DDIM(), Ancestral()):
        made = edit(exact(sampler, range(1, 51)), SOURCE, [1], 2, None, ())
        off = np.abs(made.pixels[0].astype(int) - SOURCE).mean()
        assert BAR[1] > 0.99 and off < 127.5 * 1.5 * np.sqrt(1 - BAR[1])


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


@pytest.mark.parametrize("options", [{}, {"sampler": "ddpm", "steps": 7}, {"sampler": "ddim", "eta": 0.5}])
def test_at_t_T_it_is_a_sample_and_nothing_else(model, options):
    made = model.img2img(SOURCE, 40, 3, label="cat", seed=4, **options)
    sample = model.sample(3, label="cat", seed=4, **options)
    assert np.array_equal(made.pixels[0], sample.pixels)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_picture_is_the_same_in_any_company(model, sampler):
    options = {"label": "ant", "seed": 1, "sampler": sampler, "steps": 8}
    whole = model.img2img(SOURCE, [30, 12], 4, **options)
    assert whole.pixels.shape == (2, 4, 1, 8, 8) and whole.label == 0 and len(whole.images()) == 8
    assert close(model.img2img(SOURCE, [30, 12], 4, batch=3, **options).pixels, whole.pixels)
    # alone its level joins the grid by itself
    alone = model.img2img(SOURCE, 12, 2, **options).pixels[0]
    assert close(alone, model.img2img(SOURCE, [12], 4, batch=1, **options).pixels[0, :2])
    for a, b in ((whole.pixels[0], whole.pixels[1]), (whole.pixels[0, :2], whole.pixels[0, 2:])):
        assert not close(a, b)
    assert not close(model.img2img(SOURCE, 12, 2, **{**options, "seed": 2}).pixels[0], alone)


def test_defaults_progress_and_colour(plain):
    seen = []
    image = Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    made = plain.img2img(image, n=2, batch=1, progress=lambda *now: seen.append(now))
    assert seen == [(k, 20) for k in range(1, 21)]  # two batches of half of 20 steps
    assert made.levels == (20,) and made.label is None and made.record["sampler"] == "dpm++sde"
    assert np.array_equal(made.source, np.asarray(image).transpose(2, 0, 1))


def test_guidance_reaches_the_net(tmp_path):
    model = ddpm.load(tiny.run(tmp_path / "zoo", train__label_drop=0.1).folder, "cpu")
    options = {"t": 20, "n": 1, "steps": 6, "label": "cat"}
    one, guided = (model.img2img(SOURCE, guide=Guide(cfg_scale=scale), **options) for scale in (1.0, 4.0))
    assert not close(one.pixels, guided.pixels) and guided.record["cfg_scale"] == 4.0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"label": None}, "--class: zoo draws by class; give that of the picture, or another"),
        ({"label": "dog"}, "--class dog: no such class"),
        ({"t": 0}, "--t 0: a level of noise of this model lies between 1 and 40"),
        ({"t": [12, 41]}, "--t 41: a level"),
        ({"t": []}, "t: name at least one level of noise"),
        ({"n": 0}, "-n 0: draw at least one picture"),
        ({"batch": 0}, "--batch 0"),
        ({"sampler": "ddpm", "eta": 0.5}, "--eta 0.5: belongs to the sampler ddim"),
    ],
)
def test_what_cannot_be(model, options, message):
    with pytest.raises(UserError) as error:
        model.img2img(SOURCE, **{"label": 0, "n": 1, **options})
    assert message in str(error.value)


def test_an_upsampler_does_not(tmp_path):
    run = tiny.run(tmp_path / "up", Facts("zoo", 10), data__low_size=(4, 4), train__task="upsampler")
    with pytest.raises(
        UserError, match="up: enlarges small pictures; ddpm img2img takes a model that draws by it"
    ):
        ddpm.load(run.folder, "cpu").img2img(SOURCE)


def test_what_is_written(model, tmp_path):
    made = model.img2img(SOURCE, [30, 5], 2, label="cat", steps=8)
    folder = made.save(tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == {"img2img.json", "img2img.png", "pictures"}
    names = {f"t{t}-00000{k}-cat.png" for t in ("0030", "0005") for k in range(2)}
    assert {path.name for path in (folder / "pictures").iterdir()} == {"source.png", *names}
    assert np.array_equal(np.asarray(Image.open(folder / "pictures" / "source.png")), SOURCE[0])
    with Image.open(folder / "pictures" / "t0005-000001-cat.png") as image:
        assert np.array_equal(np.asarray(image), made.pixels[1, 1, 0])
        assert image.text["ddpm:t"] == "5" and image.text["ddpm:picture"] == "1"
        assert image.text["ddpm:class"] == "cat" and image.text["ddpm:model"] == "zoo"
    record = json.loads((folder / "img2img.json").read_text())
    assert record["t"] == [30, 5] and record["steps"] == 8 and record["class"] == "cat"
    made.save(folder)  # its own folder is replaced
    (folder / "mine.txt").write_text("")
    with pytest.raises(UserError, match="holds more than ddpm img2img wrote"):
        made.save(folder)


def test_the_figure():
    pixels = RNG.integers(0, 256, (7, 3, 6, 9), dtype=np.uint8)
    made = Edits(pixels[0], (900, 20), pixels[1:].reshape(2, 3, 3, 6, 9), 1, ("cat", "golden retriever"), {})
    figure = made.figure()
    shown = [np.asarray(axes.images[0].get_array()).transpose(2, 0, 1) for axes in figure.axes]
    expected = [pixels[k] for k in (0, 1, 2, 3, 0, 4, 5, 6)]
    assert all(np.array_equal(a, b) for a, b in zip(shown, expected, strict=True))
    words = [text.get_text() for text in figure.texts]
    assert words[:5] == ["golden retriever", "picture", "1", "2", "3"] and {"t = 900", "t = 20"} <= set(words)
    check_layout(figure)
