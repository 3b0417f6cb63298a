"""`ddpm img2img`: which picture, as which class, and what is written and said."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddpm
import tiny
from ddpm.store import Facts

PETS = Facts("pets", 10, ("dogs", "cats"), (0.5, 0.5))


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.photos(tmp_path / "photos", 6, grey=True)
    return tmp_path


def found(folder, name):
    return np.asarray(Image.open(f"{folder}/pictures/{name}.png"))


def test_a_picture_of_a_set(call):
    tiny.run("runs/pets", PETS)
    status, out, err = call("img2img", "runs/pets", "photos:5", "--t", 30, 10, "-n", 2, "--steps", 5)
    assert status == 0 and "drawing" in err
    assert "4 pictures of photos:5 as dogs by pets, t = 30, 10, seed 0, in " in out
    assert out.rstrip().endswith("open img2img/pets/img2img.png")
    source = np.asarray(Image.open("photos/dogs/05.png"))
    assert np.array_equal(found("img2img/pets", "source"), source)
    made = ddpm.load("runs/pets", "cpu").img2img(source[None], [30, 10], 2, steps=5, label="dogs")
    assert np.array_equal(found("img2img/pets", "t0010-000001-dogs"), made.pixels[1, 1, 0])
    record = json.loads(Path("img2img/pets/img2img.json").read_text())
    assert record["source"] == "photos:5" and record["t"] == [30, 10] and record["class"] == "dogs"
    again = call("img2img", "runs/pets", "photos:5", "-n", 1, "--steps", 2, "--class", "cats")
    assert again[0] == 0 and "as cats by pets, t = 20, " in again[1]
    assert "the pictures that were in img2img/pets are replaced" in again[1]


def test_options_reach_the_walk(call):
    tiny.run("runs/zoo", train__label_drop=0.1)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save("a.png")
    options = ["--sampler", "ddim", "--eta", 0.5, "--seed", 3, "--batch", 1, "--class", "cat", "--cfg-scale", 3]
    status, _, err = call("img2img", "runs/zoo", "a.png", "-n", 2, "--steps", 4, *options, "--out", "here")
    assert status == 0, err
    made = ddpm.load("runs/zoo", "cpu").img2img(
        pixels[None], None, 2, steps=4, sampler="ddim", eta=0.5, seed=3, batch=1, label="cat",
        guide=ddpm.Guide(cfg_scale=3.0),
    )  # fmt: skip
    assert np.array_equal(found("here", "t0020-000001-cat"), made.pixels[0, 1, 0])
    assert json.loads(Path("here/img2img.json").read_text())["cfg_scale"] == 3.0


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["nowhere.png"], "nowhere.png: no such file or folder"),
        (["photos"], "photos: a set of 6 pictures; say which one, as photos:0"),
        (["photos:0", "--t", 0], "--t 0: a level of noise of this model lies between 1 and 40"),
        (["photos:0", "--t", 41], "--t 41: a level"),
        (["photos:0", "-n", 0], "-n 0: draw at least one picture"),
        (["photos:0", "--out", "photos"], "photos: is not empty and holds more than ddpm img2img wrote"),
        (["photos:0", "--class", "cat"], "--class cat: plain was trained without classes"),
        (["photos:0", "--sampler", "ddpm", "--eta", 0.5], "--eta 0.5: belongs to the sampler ddim"),
    ],
)
def test_what_is_said_to_a_mistake(call, arguments, said):
    tiny.run("runs/plain", Facts("zoo", 10))
    status, _, err = call("img2img", "runs/plain", *arguments)
    assert status == 2 and err.startswith("ddpm: ") and err.count("\n") == 1 and said in err


def test_a_class_that_the_model_has_not(call):
    tiny.run("runs/zoo")
    status, _, err = call("img2img", "runs/zoo", "photos:0")
    assert status == 2
    assert "photos:0: zoo has no class cats; name one of its own with --class: ant, bee, cat" in err


def test_help(call):
    status, out, _ = call("img2img", "--help")
    assert status == 0 and "MODEL PICTURE" in out and "--t" in out and "--cfg-scale" in out
