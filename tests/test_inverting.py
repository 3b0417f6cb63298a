"""From a picture to its noise and back: the round trip, the noise against a closed form, what is written."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ddpm
import tiny
from ddpm.chain import Chain
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.inverting import MADE, invert
from ddpm.memory import AtOnce
from ddpm.samplers import DDIM
from ddpm.walks import Walks
from oracle import Mixture, OracleNet, linear_betas


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_of_one_gaussian_the_noise_is_known():
    """The exact ODE of N(m, d²) maps x_s to x_t with (x_t − α_t m)/s_t = (x_s − α_s m)/s_s, s² = α²d² + σ²."""
    mean, std = np.linspace(-0.5, 0.5, 16), np.full(16, 0.3)
    betas = linear_betas(1000)
    net = OracleNet(Mixture.of([1.0], mean[None], std[None]), betas)
    model = Denoiser(net, Chain.from_betas(betas), "eps", "small", clip=False)
    model.net.register_parameter("none", torch.nn.Parameter(torch.zeros(1)))
    sources = np.random.default_rng(0).integers(60, 190, (5, 1, 4, 4), dtype=np.uint8)
    made = invert(Walks(model, DDIM(), 0, (1, 4, 4), AtOnce(2)), sources, 1, None, ())
    x0 = sources.reshape(5, 16) / 127.5 - 1.0
    bar = np.prod(1.0 - betas)
    spread = np.sqrt(bar * std**2 + 1.0 - bar)
    expected = np.sqrt(bar) * mean + spread * (x0 - mean) / std
    assert np.abs(made.noise.reshape(5, 16) - expected).max() < 0.03
    assert made.error.max() < 1e-6 and np.abs(made.rebuilt.astype(int) - sources).max() <= 1


def test_the_embedded_model_gives_pictures_back(call, workplace):
    """The mean squared error on [0, 1] that 100 steps may have is 1e-3."""
    status, out, err = call("invert", "fashion", "fashion:7", "fashion:12", "--out", "here", "--device", "cpu")
    assert status == 0, err
    record = json.loads(Path("here", MADE[0]).read_text())
    assert len(record["error"]) == 2 and max(record["error"]) < 1e-3 and record["steps"] == 100
    assert f"fashion:7: comes back with a mean squared error of {record['error'][0]:.1e} on [0, 1]" in out
    noise = np.load(Path("here", MADE[2]))
    assert noise.shape == (2, 1, 28, 28) and noise.dtype == np.float32 and 0.7 < noise.std() < 1.1
    assert len(record["labels"]) == 2 and set(record["labels"]) <= set(range(10))
    with Image.open(Path("here", MADE[1])) as figure:
        assert figure.width > figure.height


@pytest.fixture
def zoo(workplace):
    tiny.run(Path("zoo"))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save("a.png")
    return ddpm.load("zoo", "cpu")


def test_alike_in_any_company_and_better_with_refinements(zoo):
    pictures = [np.random.default_rng(k).integers(0, 256, (1, 8, 8), dtype=np.uint8) for k in range(3)]
    options = {"steps": 10, "label": ["ant", "bee", "cat"]}
    whole, parts = zoo.invert(pictures, **options), zoo.invert(pictures, batch=2, **options)
    assert np.abs(whole.noise - parts.noise).max() < 1e-4 and whole.labels == (0, 1, 2)
    alone = zoo.invert(pictures[2], steps=10, label="cat")
    assert np.abs(alone.noise[0] - whole.noise[2]).max() < 1e-4
    finer = zoo.invert(pictures, refinements=3, **options)
    assert finer.error.mean() < whole.error.mean() and finer.record["evaluations"] == 50


def test_mistakes(call, zoo):
    for arguments, said in (
        (["zoo", "a.png", "--class", "ant", "--refinements", -1], "--refinements -1: is not negative"),
        (["zoo"], "PICTURE: name at least one"),
        (["zoo", "a.png", "--steps", 99, "--class", "ant"], 'steps "99": takes 1 to 40'),
        (["zoo", "a.png"], "--class"),
        (["zoo", "b.png", "--class", "ant"], "b.png"),
    ):
        status, _, err = call("invert", *arguments, "--device", "cpu")
        assert status == 2 and said in err, (arguments, err)
    with pytest.raises(UserError, match="--class: zoo draws by class"):
        zoo.invert(np.zeros((1, 8, 8), np.uint8))
    up = tiny.run(Path("up"), train__task="upsampler", data__size=(16, 16), data__low_size=(8, 8))
    with pytest.raises(UserError, match="takes a model that draws by itself"):
        ddpm.load(up.folder, "cpu").invert(np.zeros((1, 16, 16), np.uint8), label="ant")
