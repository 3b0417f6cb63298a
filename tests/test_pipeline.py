"""Sampling as a user sees it: the same picture for the same number, the files written, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import ddpm
import tiny
from ddpm.chain import Chain
from ddpm.config import ChainConfig, DenoiserConfig
from ddpm.errors import UserError
from ddpm.loading import EMBEDDED
from ddpm.noise import Purpose, normals
from ddpm.samples import Samples
from ddpm.store import Description, Facts, save_weights

UNCONDITIONAL = Facts("zoo", 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.run(tmp_path_factory.mktemp("zoo") / "zoo").folder


@pytest.fixture(scope="module")
def model(folder):
    return ddpm.load(folder, "cpu")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A model without classes, of 3 channels."""
    run = tiny.run(tmp_path_factory.mktemp("plain") / "plain", UNCONDITIONAL, data__channels=3)
    return ddpm.load(run.folder, "cpu")


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Within one grey level at 99.9 % of the pixels: convolutions differ in the last bits by batch size."""
    assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
    return np.mean(np.abs(a.astype(int) - b.astype(int)) <= 1) >= 0.999


# -- picture k of a seed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler, eta", [("ddim", 0.0), ("ddim", 0.7), ("ddpm", None)])
def test_a_picture_is_the_same_in_any_company(model, sampler, eta):
    options = {"sampler": sampler, "steps": 6, "seed": 3, **({} if eta is None else {"eta": eta})}
    whole = model.sample(7, **options)
    assert whole.pixels.shape == (7, 1, 8, 8) and whole.pixels.std() > 20 and len(set(whole.labels)) == 2
    for n, batch, first in [(3, None, 0), (7, 2, 0), (7, 3, 0), (2, None, 5), (4, 1, 2), (7, 100, 0)]:
        part = model.sample(n, batch=batch, first=first, **options)
        assert part.labels == whole.labels[first : first + n]
        assert same(part.pixels, whole.pixels[first : first + n]), (n, batch, first)


def test_seeds_and_numbers_give_other_pictures(model):
    a, b = (model.sample(4, steps=4, seed=seed, label=0).pixels.astype(int) for seed in (0, 1))
    pictures = [*a, *b]
    for i, one in enumerate(pictures):
        for other in pictures[:i]:
            assert np.mean(np.abs(one - other) > 5) > 0.3


def test_sampling_again_is_bit_equal_and_leaves_torch_s_generator_alone(model):
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    a = model.sample(3, steps=4, sampler="ddpm")
    assert torch.equal(torch.rand(2), expected)
    assert np.array_equal(a.pixels, model.sample(3, steps=4, sampler="ddpm").pixels)


# -- against formulas written out -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ho(tmp_path_factory):
    """An ε-model on given betas that clips nothing, and its ᾱ_0 … ᾱ_T in Ho's notation."""
    betas = np.linspace(1e-3, 0.05, 30)
    chain, denoiser = ChainConfig("betas", 30, tuple(betas)), DenoiserConfig("eps", "large", clip=False)
    made = replace(tiny.config(), chain=chain, denoiser=denoiser)
    path = tmp_path_factory.mktemp("ho") / "ho.safetensors"
    # Smaller weights: what is not clipped must not run away.
    state = {key: 0.5 * value for key, value in tiny.weights(made, 3, 4).items()}
    save_weights(path, state, Description(made, tiny.ANIMALS, 1))
    return ddpm.load(path, "cpu"), np.cumprod(np.concatenate([[1.0], 1.0 - betas]))


def net_says(model, x, timestep, label):
    with torch.no_grad():
        told = torch.full((len(x),), float(timestep))
        return model.denoiser.net(torch.from_numpy(x).float(), told, torch.full((len(x),), label)).numpy()


def noise(seed, step):
    return normals(seed, Purpose.WALK, torch.arange(3), torch.tensor([step]), (1, 8, 8))[0].numpy().astype(float)


def grey(x):
    return np.clip(np.rint((x + 1.0) * 127.5), 0, 255)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_is_song_s_formula(ho, eta):
    """Song et al. 2020, eq. 12 and 16, where α is Ho's ᾱ; the net is told t − 1 of the chain it was trained on."""
    model, bar = ho
    levels = [2, 9, 17, 30]
    x = noise(5, 0)
    for k in range(len(levels), 0, -1):
        now, before = bar[levels[k - 1]], bar[levels[k - 2]] if k > 1 else 1.0
        eps = net_says(model, x, levels[k - 1] - 1, 2)
        picture = (x - np.sqrt(1 - now) * eps) / np.sqrt(now)
        sigma = eta * np.sqrt((1 - before) / (1 - now)) * np.sqrt(1 - now / before)
        x = np.sqrt(before) * picture + np.sqrt(max(0.0, 1 - before - sigma**2)) * eps
        if k > 1:
            x += sigma * noise(5, k)
    drawn = model.sample(3, sampler="ddim", eta=eta, steps=levels, seed=5, label="cat").pixels.astype(float)
    assert np.abs(drawn - grey(x)).max() <= 1 and np.mean(drawn == grey(x)) > 0.98
    assert np.mean((drawn > 0) & (drawn < 255)) > 0.25


def test_ddpm_is_ho_s_algorithm_2(ho):
    model, bar = ho
    x = noise(5, 0)
    for t in range(30, 0, -1):
        beta = 1.0 - bar[t] / bar[t - 1]
        x = (x - beta / np.sqrt(1 - bar[t]) * net_says(model, x, t - 1, 0)) / np.sqrt(1 - beta)
        if t > 1:
            x += np.sqrt(beta) * noise(5, t)
    drawn = model.sample(3, sampler="ddpm", seed=5, label="ant").pixels.astype(float)
    assert np.abs(drawn - grey(x)).max() <= 1 and np.mean(drawn == grey(x)) > 0.98
    assert np.mean((drawn > 0) & (drawn < 255)) > 0.25


# -- steps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec, count",
    [(5, 5), ("5", 5), ("3,4", 7), ("ddim10", 10), ([1, 20, 40], 3), ((40,), 1), (1, 1), (40, 40), (None, 20)],
)
def test_steps(model, spec, count):
    seen = []
    samples = model.sample(3, steps=spec, batch=2, progress=lambda *now: seen.append(now))
    assert samples.record["steps"] == count
    assert seen == [(k, 2 * count) for k in range(1, 2 * count + 1)]


def test_by_default_20_steps_ddim_50_heun_10_and_ddpm_all(tmp_path):
    model = ddpm.load(tiny.run(tmp_path / "r", chain__steps=60).folder, "cpu")
    steps = {"ddim": 50, "heun": 10, "ddpm": 60, "pc": 60, None: 20}
    assert {name: model.sample(1, sampler=name).record["steps"] for name in steps} == steps


@pytest.mark.parametrize("spec", [0, -1, 41, "0", "41", "30,30", "ddim39", "fast", "", [], [0, 5], [5, 5], [41]])
def test_steps_that_are_none(model, spec):
    with pytest.raises(UserError, match=r"steps|levels"):
        model.sample(1, steps=spec)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n": 0}, "at least one"),
        ({"n": -3}, "at least one"),
        ({"sampler": "euler"}, r"takes ddpm, ddim, dpm\+\+, dpm\+\+sde, heun or pc"),
        ({"sampler": "ddim", "eta": 1.5}, "between 0"),
        ({"sampler": "ddim", "eta": -0.1}, "between 0"),
        ({"eta": 0.5}, r"belongs to the sampler ddim; dpm\+\+.* has none, take --sampler ddim"),
        ({"batch": 0}, "batch"),
        ({"batch": -5}, "batch"),
        ({"size": (9, 8)}, "multiples of 2; the nearest are 8 × 8 and 10 × 8"),
        ({"size": (0, 8)}, "size"),
        ({"size": (-2, 8)}, "size"),
        ({"first": -1}, "first"),
    ],
)
def test_options_that_cannot_be(model, options, message):
    with pytest.raises(UserError, match=message):
        model.sample(**{"n": 1, "steps": 2, **options})


@pytest.mark.parametrize("size", [(16, 8), (2, 4), (12, 12)])
def test_another_size_than_trained(model, plain, size):
    assert model.sample(2, steps=3, size=size).pixels.shape == (2, 1, *size)
    assert plain.sample(2, steps=3, size=size).pixels.shape == (2, 3, *size)


# -- classes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "label, expected",
    [(2, (2, 2, 2)), ("2", (2, 2, 2)), ("bee", (1, 1, 1)), (["cat", 0, "1"], (2, 0, 1)), ((0, 1, 2), (0, 1, 2))],
)
def test_labels_given(model, label, expected):
    assert model.sample(3, steps=2, label=label).labels == expected


def test_the_label_matters_and_each_picture_gets_its_own(model):
    mixed = model.sample(3, steps=4, label=[0, 1, 2]).pixels
    for k in range(3):
        alike = [same(mixed[i], model.sample(3, steps=4, label=k).pixels[i]) for i in range(3)]
        assert alike == [i == k for i in range(3)]


def test_a_class_named_like_a_number(tmp_path):
    facts = Facts("digits", 3, ("7", "0", "1"), (0.4, 0.3, 0.3))
    model = ddpm.load(tiny.run(tmp_path / "r", facts).folder, "cpu")
    # names come first: "0" is the class called 0, and 2 can only be a number
    assert [model.class_number(label) for label in ("7", "0", 1, "2")] == [0, 1, 2, 2]


@pytest.mark.parametrize("label", ["bea", 3, "3", -1, "", "²"])
def test_a_class_there_is_not(model, label):
    with pytest.raises(UserError) as error:
        model.class_number(label)
    message = str(error.value)
    assert message.startswith(f"--class {label}: no such class") and "0 ant, 1 bee, 2 cat" in message
    assert ("did you mean bee?" in message) == (label == "bea")


def test_as_many_labels_as_pictures(model):
    with pytest.raises(UserError, match="2 labels for 3 pictures"):
        model.sample(3, label=[0, 1])


def test_an_unconditional_model_has_no_classes(plain):
    assert plain.sample(2, steps=2).labels is None
    for label in (0, "cat", [0, 1]):
        with pytest.raises(UserError, match="plain was trained without classes"):
            plain.sample(2, label=label)


@pytest.mark.parametrize("shares", [(0.5, 0.0, 0.3, 0.2), (0.0, 0.9, 0.1, 0.0), (1.0, 0.0, 0.0, 0.0), ()])
def test_labels_come_as_often_as_in_the_data(tmp_path, shares):
    facts = Facts("zoo", 10, ("a", "b", "c", "d"), shares)
    model = ddpm.load(tiny.run(tmp_path / "r", facts).folder, "cpu")
    labels = model.known_classes().labels(20_000, 0, 9)
    counts = torch.bincount(labels, minlength=4).numpy()
    expected = 20_000 * np.array(shares or (0.25,) * 4)
    assert np.all(counts[expected == 0] == 0)
    some = expected > 0
    # 3 degrees of freedom at the most: 16.3 is passed by one seed in a thousand
    assert np.sum((counts[some] - expected[some]) ** 2 / expected[some]) < 16.3
    assert torch.equal(model.known_classes().labels(50, 120, 9), labels[120:170])
    assert shares == (1.0, 0.0, 0.0, 0.0) or not torch.equal(model.known_classes().labels(50, 0, 10), labels[:50])


# -- frames ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 7, 40])
def test_frames_go_from_noise_to_the_picture(model, steps):
    samples = model.sample(5, steps=steps, frames=True, batch=3)
    start = normals(0, Purpose.WALK, torch.arange(5), torch.tensor([0]), (1, 8, 8))[0].numpy()
    assert np.array_equal(samples.frames[0], grey(start).astype(np.uint8))
    assert np.array_equal(samples.frames[-1], samples.pixels)
    assert len(samples.frames) == min(40, steps) + 1
    assert model.sample(5, steps=steps, batch=3).frames == ()


def test_a_film_is_of_the_first_pictures_in_any_batch(model):
    samples = model.sample(70, steps=1, frames=True, batch=40)
    assert len(samples) == 70 and [len(one) for one in samples.frames] == [64] * 2
    assert np.array_equal(samples.frames[1], samples.pixels[:64])


def test_a_long_walk_keeps_few_frames(tmp_path):
    model = ddpm.load(tiny.run(tmp_path / "r", chain__steps=130).folder, "cpu")
    assert len(model.sample(1, sampler="ddpm", frames=True).frames) == 41


# -- what comes back -------------------------------------------------------------------------------------------


def test_the_record_says_how(model):
    record = model.sample(2, sampler="ddim", steps="3,4", seed=11, first=4, eta=0.5).record
    expected = {"model": "zoo", "seed": 11, "sampler": "ddim", "steps": 7, "eta": 0.5, "spec": "3,4", "first": 4}
    assert {key: record[key] for key in expected} == expected
    assert len(record["checkpoint"]) == 16 and json.dumps(record)
    assert "eta" not in model.sample(1, sampler="ddpm", steps=3).record


def test_images_and_grid(plain):
    samples = plain.sample(3, steps=2)
    assert len(samples) == 3 and [image.size for image in samples.images()] == [(8, 8)] * 3
    assert isinstance(samples, Samples) and isinstance(samples.grid(), Image.Image)
    assert np.array_equal(np.asarray(samples.images()[1]), samples.pixels[1].transpose(1, 2, 0))
    assert isinstance(plain.denoiser.chain, Chain) and plain.size == (8, 8) and plain.classes == ()
    assert set(EMBEDDED) == {"fashion"}
