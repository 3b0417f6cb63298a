"""`ddpm interpolate` and the pictures it is given: files, or DATA:K with its class."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddpm
import tiny
from ddpm.commands.picture import by_name, by_number
from ddpm.errors import UserError
from ddpm.store import Facts

PETS = Facts("pets", 10, ("dogs", "cats"), (0.5, 0.5))


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.photos(tmp_path / "photos", 6, grey=True)
    return tmp_path


def save(path, mode="L", size=(8, 8), seed=0):
    shape = size if mode == "L" else (*size, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def source(folder, name):
    return np.asarray(Image.open(f"{folder}/pictures/{name}.png"))


def test_pictures_of_a_set_with_their_classes(call):
    tiny.run("runs/pets", PETS)
    status, out, err = call("interpolate", "runs/pets", "photos:0", "photos:5", "--steps", 5, "--t", 30, 10)
    assert status == 0 and "interpolating" in err
    assert "22 pictures between photos:0 and photos:5 by pets, t = 30, 10, seed 0, in " in out
    assert out.rstrip().endswith("open interpolations/pets/interpolation.png")
    record = json.loads(Path("interpolations/pets/interpolation.json").read_text())
    assert record["a"] == "photos:0" and record["b"] == "photos:5" and record["t"] == [30, 10]
    assert record["lambdas"] == [k / 10 for k in range(11)] and record["classes"] == ["dogs", "cats"]
    # the set's own class 0 is cats, the model's class 1
    assert record["labels"] == [1] * 5 + [0] * 6
    a, b = (np.asarray(Image.open(f"photos/{name}.png")) for name in ("cats/00", "dogs/05"))
    assert np.array_equal(source("interpolations/pets", "a"), a)
    assert np.array_equal(source("interpolations/pets", "b"), b)
    model = ddpm.load("runs/pets", "cpu")
    made = model.interpolate(a[None], b[None], t=[30, 10], steps=5, label=["cats", "dogs"])
    assert np.array_equal(source("interpolations/pets", "t0010-03-lambda0.3-cats"), made.pixels[1, 3, 0])
    again = call("interpolate", "runs/pets", "photos:0", "photos:0", "--steps", 2, "--lambdas", 0.5)
    assert again[0] == 0 and "the pictures that were in interpolations/pets are replaced" in again[1]


def test_files_of_any_kind(call):
    tiny.run("runs/plain", Facts("zoo", 10), data__channels=3)
    grey = save("a.png", size=(16, 24))
    save("b.jpg", "RGB", (8, 8), 1)
    options = ["--t", 20, "--lambdas", 0, 1, "--mode", "slerp", "--sampler", "ddim", "--seed", 3, "--batch", 1]
    status, _, err = call("interpolate", "runs/plain", "a.png", "b.jpg", *options, "--out", "here")
    assert status == 0, err
    names = {"a.png", "b.png", "t0020-00-lambda0.png", "t0020-01-lambda1.png"}
    assert {path.name for path in Path("here/pictures").iterdir()} == names
    whole = Image.fromarray(grey).resize((8, 8), Image.Resampling.BICUBIC, box=(4, 0, 20, 16))
    assert np.array_equal(source("here", "a"), np.repeat(np.asarray(whole)[..., None], 3, axis=2))
    assert np.array_equal(source("here", "b"), np.asarray(Image.open("b.jpg")))
    a, b = (Image.open(name) for name in ("a.png", "b.jpg"))
    made = ddpm.load("runs/plain", "cpu").interpolate(
        a, b, t=20, lambdas=[0, 1], mode="slerp", sampler="ddim", seed=3, batch=1
    )
    assert np.array_equal(source("here", "t0020-01-lambda1").transpose(2, 0, 1), made.pixels[0, 1])


def test_a_class_for_all(call):
    tiny.run("runs/zoo")
    save("a.png")
    arguments = ["interpolate", "runs/zoo", "a.png", "photos:1", "--steps", 2, "--lambdas", 0, 1]
    assert call(*arguments, "--class", "cat")[0] == 0
    assert json.loads(Path("interpolations/zoo/interpolation.json").read_text())["labels"] == [2, 2]
    status, _, err = call(*arguments)
    assert status == 2 and err == (
        "ddpm: a.png: zoo draws by class, and this picture's is not known; name it with --class\n"
    )
    arguments[2] = "photos:0"
    status, _, err = call(*arguments)
    assert (
        status == 2 and "photos:0: zoo has no class cats; name one of its own with --class: ant, bee, cat" in err
    )


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["photos", "a.png"], "photos: a set of 6 pictures; say which one, as photos:0"),
        (["photos:6", "a.png"], "photos:6: photos has the pictures 0 to 5"),
        (["a.png", "nowhere.png"], "nowhere.png: no such file or folder"),
        (["a.png", "nowhere.png"], "or give one picture's file, or DATA:K as fashion:7"),
        (["a.png", "nowhere:3"], "nowhere: no such file or folder"),
        (["a.png", "broken.png"], "broken.png: cannot be decoded ("),
        (["words.png", "a.png"], "words.png: cannot be decoded (not a picture in a known format); give another"),
        (["a.png", "a.png", "--t", 0], "--t 0: a level of noise of this model lies between 1 and 40"),
        (["a.png", "a.png", "--t", 41], "--t 41: a level"),
        (["a.png", "a.png", "--lambdas", 2], "--lambdas 2: lies between 0"),
        (["a.png", "a.png", "--out", "photos"], "photos: is not empty and holds more than ddpm interpolate wrote"),
        (["a.png", "a.png", "--class", "cat"], "--class cat: plain was trained without classes"),
        (["a.png", "a.png", "--eta", 0.5], "--eta 0.5: belongs to the sampler ddim"),
    ],
)
def test_what_is_said_to_a_mistake(call, arguments, said):
    tiny.run("runs/plain", Facts("zoo", 10))
    save("a.png")
    save("broken.png", size=(60, 60))
    Path("words.png").write_text("words")
    Path("broken.png").write_bytes(Path("broken.png").read_bytes()[:2000])
    status, _, err = call("interpolate", "runs/plain", *arguments)
    assert status == 2 and err.startswith("ddpm: ") and err.count("\n") == 1 and said in err


def test_by_number_is_by_name():
    save("a.png")
    for chosen in (by_name("photos:4"), by_number("photos", 4)):
        assert chosen.of_class == "dogs"
        with chosen.opened() as image:
            assert np.array_equal(np.asarray(image), np.asarray(Image.open("photos/dogs/03.png")))
    assert by_name("a.png").of_class is None and by_number("a.png", 0).of_class is None
    with pytest.raises(UserError, match=r"--number 6: photos has the pictures 0 to 5"):
        by_number("photos", 6)
    with pytest.raises(UserError, match=r"--number 1: a.png is a single picture; leave it out"):
        by_number("a.png", 1)


def test_a_folder_of_one_class_the_model_knows_has_it(call):
    tiny.run("runs/pets", PETS)
    Path("one/cats").mkdir(parents=True)
    save("one/cats/0.png")
    assert by_name("one:0").of_class is None  # one folder alone is no class to those who know none
    status, _, err = call("interpolate", "runs/pets", "one:0", "photos:5", "--steps", 2, "--lambdas", 0, 1)
    assert status == 0, err
    record = json.loads(Path("interpolations/pets/interpolation.json").read_text())
    assert [record["classes"][k] for k in record["labels"]] == ["cats", "dogs"]


def test_a_file_with_a_colon_in_its_name():
    pixels = save("odd:7.png")
    Image.fromarray(pixels).save("photos:1", format="png")
    for name in ("odd:7.png", "photos:1"):
        with by_name(name).opened() as image:
            assert np.array_equal(np.asarray(image), pixels)


def test_help(call):
    status, out, _ = call("interpolate", "--help")
    assert status == 0 and "MODEL A B" in out and "--lambdas" in out
