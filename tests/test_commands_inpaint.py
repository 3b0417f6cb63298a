"""`ddpm inpaint`: which picture, which mask, and what is written and said."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddpm
import tiny
from ddpm.store import Facts

PETS = Facts("pets", 10, ("dogs", "cats"), (0.5, 0.5))
QUICK = ["-n", 2, "--steps", 4, "--jump", 2, "--resample", 2]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.photos(tmp_path / "photos", 6, grey=True)
    return tmp_path


def save(path, shape=(8, 8), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def save_mask(path, size=(8, 8)):
    mask = np.zeros(size, np.uint8)
    mask[size[0] // 4 : size[0] // 2, size[1] // 2 :] = 255
    Image.fromarray(mask).save(path)
    return mask > 0


def found(folder, name):
    return np.asarray(Image.open(f"{folder}/pictures/{name}.png"))


def test_a_picture_of_a_set_and_a_mask(call):
    tiny.run("runs/pets", PETS)
    hole = save_mask("hole.png")
    status, out, err = call("inpaint", "runs/pets", "photos:5", "--mask", "hole.png", *QUICK)
    assert status == 0 and "painting" in err
    assert "2 pictures of photos:5 as dogs by pets, 12 % painted anew, 4 steps walked 2 times, seed 0, in " in out
    assert out.rstrip().endswith("open inpaintings/pets/inpainting.png")
    source = np.asarray(Image.open("photos/dogs/05.png"))
    assert np.array_equal(found("inpaintings/pets", "source"), source)
    assert np.array_equal(found("inpaintings/pets", "mask") == 255, hole)
    made = ddpm.load("runs/pets", "cpu").inpaint(source[None], hole, 2, steps=4, jump=2, resample=2, label="dogs")
    for k in range(2):
        picture = found("inpaintings/pets", f"00000{k}-dogs")
        assert np.array_equal(picture, made.pixels[k, 0]) and np.array_equal(picture[~hole], source[~hole])
        assert not np.array_equal(picture[hole], source[hole])
    record = json.loads(Path("inpaintings/pets/inpainting.json").read_text())
    assert record["source"] == "photos:5" and record["mask"] == "hole.png" and record["invert"] is False
    assert record["class"] == "dogs" and record["resample"] == 2 and record["sampler"] == "ddim"
    again = call("inpaint", "runs/pets", "photos:5", "--mask", "left", "--class", "cats", *QUICK)
    assert again[0] == 0 and "as cats" in again[1]
    assert "the pictures that were in inpaintings/pets are replaced" in again[1]


def test_options_reach_the_walk(call):
    tiny.run("runs/zoo", train__label_drop=0.1)
    pixels = save("a.png")
    options = ["--sampler", "ddpm", "--seed", 3, "--batch", 1, "--class", "cat", "--cfg-scale", 3, "--invert"]
    status, _, err = call("inpaint", "runs/zoo", "a.png", "--mask", "top", *QUICK, *options, "--out", "here")
    assert status == 0, err
    made = ddpm.load("runs/zoo", "cpu").inpaint(
        pixels[None], "bottom", 2, steps=4, jump=2, resample=2, sampler="ddpm", seed=3, batch=1, label="cat",
        guide=ddpm.Guide(cfg_scale=3.0),
    )  # fmt: skip
    assert np.array_equal(found("here", "000001-cat"), made.pixels[1, 0])
    assert json.loads(Path("here/inpainting.json").read_text())["cfg_scale"] == 3.0


def test_a_large_picture_with_its_mask_or_its_transparency(call):
    tiny.run("runs/plain", Facts("zoo", 10), data__channels=3)
    pixels = save("a.png", (32, 48, 3))
    hole = save_mask("hole.png", (32, 48))
    clear = np.dstack([pixels, np.where(hole, 0, 255).astype(np.uint8)])
    Image.fromarray(clear).save("clear.png")
    for arguments in (["a.png", "--mask", "hole.png"], ["clear.png"]):
        status, _, err = call("inpaint", "runs/plain", *arguments, *QUICK)
        assert status == 0, err
        expected = np.zeros((8, 8), bool)
        expected[2:4, 4:] = True  # of the 32 columns in the middle the right half
        assert np.array_equal(found("inpaintings/plain", "mask") == 255, expected)
        source = found("inpaintings/plain", "source")
        picture = found("inpaintings/plain", "000000")
        assert np.array_equal(picture[~expected], source[~expected])
    # what a run wrote is good enough to go on with
    arguments = ["inpaintings/plain/pictures/source.png", "--mask", "inpaintings/plain/pictures/mask.png"]
    assert call("inpaint", "runs/plain", *arguments, *QUICK, "--out", "again")[0] == 0
    assert np.array_equal(found("again", "mask"), found("inpaintings/plain", "mask"))


def test_a_file_beats_an_area_and_a_set_may_hold_masks(call):
    tiny.run("runs/plain", Facts("zoo", 10))
    save("a.png")
    hole = save_mask("masks.png")
    Image.open("masks.png").save("left", format="png")
    Path("masks").mkdir()
    Image.open("masks.png").save("masks/0.png")
    for mask in ("left", "masks:0"):
        assert call("inpaint", "runs/plain", "a.png", "--mask", mask, *QUICK)[0] == 0
        assert np.array_equal(found("inpaintings/plain", "mask") == 255, hole)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["a.png"], "--mask: a.png has no transparency that could be one; give a picture that is white where to"),
        (["a.png", "--mask", "nowhere.png"], "--mask nowhere.png: no such picture or area; give a picture"),
        (["a.png", "--mask", "lefft"], "--mask lefft: no such picture or area; did you mean left?"),
        (["a.png", "--mask", "photos"], "photos: a set of 6 pictures; say which one, as photos:0"),
        (["a.png", "--mask", "photos:6"], "photos:6: photos has the pictures 0 to 5"),
        (["a.png", "--mask", "box:0,0,0,1"], "--mask box:0,0,0,1: X, Y, W and H are shares"),
        (["a.png", "--mask", "black.png"], "black.png: leaves nothing to paint; --invert paints what it keeps"),
        (["a.png", "--mask", "wide.png"], "wide.png: is 8 x 20 (height x width), and a.png 8 x 8; give a mask of"),
        (["a.png", "--mask", "words.png"], "words.png: cannot be decoded (not a picture in a known format)"),
        (["a.png", "--mask", "broken.png"], "broken.png: cannot be decoded ("),
        (["broken.png", "--mask", "left"], "broken.png: cannot be decoded ("),
        (["photos", "--mask", "left"], "photos: a set of 6 pictures; say which one, as photos:0"),
        (["a.png", "--mask", "left", "--class", "cat"], "--class cat: plain was trained without classes"),
        (
            ["a.png", "--mask", "left", "--jump", 50],
            "--jump 50: a walk of 40 steps has no two levels as far apart",
        ),
        (["a.png", "--mask", "left", "--resample", 0], "--resample 0: is at least 1"),
        (["a.png", "--mask", "left", "--out", "photos"], "photos: is not empty and holds more than ddpm inpaint"),
        (["a.png", "--mask", "left", "--cfg-scale", 2], "--cfg-scale 2: plain was trained without classes"),
    ],
)
def test_what_is_said_to_a_mistake(call, arguments, said):
    tiny.run("runs/plain", Facts("zoo", 10))
    save("a.png")
    save("broken.png", (60, 60))
    Path("words.png").write_text("words")
    Path("broken.png").write_bytes(Path("broken.png").read_bytes()[:2000])
    Image.new("L", (8, 8)).save("black.png")
    Image.new("L", (20, 8), 255).save("wide.png")
    status, _, err = call("inpaint", "runs/plain", *arguments)
    assert status == 2 and err.startswith("ddpm: ") and err.count("\n") == 1 and said in err


def test_a_class_that_is_not_known(call):
    tiny.run("runs/zoo")
    save("a.png")
    status, _, err = call("inpaint", "runs/zoo", "a.png", "--mask", "left")
    assert (
        status == 2 and "a.png: zoo draws by class, and this picture's is not known; name it with --class" in err
    )


def test_help(call):
    status, out, _ = call("inpaint", "--help")
    assert status == 0 and "MODEL PICTURE" in out and "--mask" in out and "--cfg-scale" in out
