"""What sampling writes, and from what a model can be loaded."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import ddpm
import tiny
from ddpm.errors import UserError
from ddpm.store import Description, Facts, Run, load_weights, save_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.run(tmp_path_factory.mktemp("zoo") / "zoo").folder


@pytest.fixture(scope="module")
def model(folder):
    return ddpm.load(folder, "cpu")


def listing(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# -- save ------------------------------------------------------------------------------------------------------


def test_the_files_and_what_they_say(model, tmp_path):
    samples = model.sample(
        3, sampler="ddim", steps="2,2", seed=6, eta=0.5, first=8, label=["cat", "ant", "ant"], frames=True
    )
    out = samples.save(tmp_path / "a" / "out")
    assert out == tmp_path / "a" / "out"
    pictures = ["pictures/000008-cat.png", "pictures/000009-ant.png", "pictures/000010-ant.png"]
    assert sorted(listing(out)) == ["film.webp", "grid.png", *pictures, "samples.json"]
    for i, name in enumerate(pictures):
        with Image.open(out / name) as image:
            assert np.array_equal(np.asarray(image), samples.pixels[i, 0])
            about = {"seed": "6", "sampler": "ddim", "steps": "4", "eta": "0.5", "model": "zoo"}
            about["class"] = ["cat", "ant", "ant"][i]
            assert {key: image.text[f"ddpm:{key}"] for key in about} == about
            assert image.text["ddpm:picture"] == str(8 + i) and len(image.text["ddpm:checkpoint"]) == 16
    with Image.open(out / "grid.png") as image:
        assert image.text["ddpm:seed"] == "6" and image.text["ddpm:sampler"] == "ddim"
    with Image.open(out / "film.webp") as image:
        assert image.n_frames == len(samples.frames) == 5
    record = json.loads((out / "samples.json").read_text())
    assert record["labels"] == [2, 0, 0] and record["classes"] == ["ant", "bee", "cat"]
    assert {key: record[key] for key in samples.record} == samples.record


def test_without_classes_and_frames(tmp_path):
    run = tiny.run(tmp_path / "plain", Facts("zoo", 10), data__channels=3)
    samples = ddpm.load(run.folder, "cpu").sample(2, steps=2)
    out = samples.save(str(tmp_path / "out"))
    assert sorted(listing(out)) == ["grid.png", "pictures/000000.png", "pictures/000001.png", "samples.json"]
    with Image.open(out / "pictures/000001.png") as image:
        assert np.array_equal(np.asarray(image), samples.pixels[1].transpose(1, 2, 0))
        assert "ddpm:class" not in image.text
    assert json.loads((out / "samples.json").read_text())["labels"] is None


def test_classes_that_are_no_file_names(tmp_path):
    facts = Facts("zoo", 4, ("t-shirt/top", "..", "ñandú 鳥", "a\0b"), (0.25,) * 4)
    samples = ddpm.load(tiny.run(tmp_path / "r", facts).folder, "cpu").sample(4, steps=2, label=[0, 1, 2, 3])
    out = samples.save(tmp_path / "out")
    assert len(list((out / "pictures").glob("*.png"))) == 4
    assert all(p.parent == out / "pictures" for p in tmp_path.glob("out/**/0*.png"))
    with Image.open(next((out / "pictures").glob("000002*.png"))) as image:
        assert image.text["ddpm:class"] == "ñandú 鳥"


def test_its_own_folder_is_replaced_whole(model, tmp_path):
    model.sample(5, steps=2, frames=True).save(tmp_path / "out")
    model.sample(2, steps=2).save(tmp_path / "out")
    assert len(listing(tmp_path / "out")) == 4
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["thesis.txt", ".hidden", "pictures/mine.png"])
def test_a_folder_of_something_else_is_left_alone(model, tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UserError, match="more than ddpm sample wrote; choose another --out"):
        model.sample(1, steps=2).save(tmp_path / "out")
    assert listing(tmp_path) == {f"out/{name}": b"mine"}


def test_a_file_of_one_s_own_beside_samples_is_not_lost(model, tmp_path):
    model.sample(1, steps=2).save(tmp_path / "out")
    model.sample(1, steps=2, seed=1).save(tmp_path / "out")
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="more than ddpm sample wrote; choose another --out"):
        model.sample(1, steps=2).save(tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_a_file_is_not_a_folder(model, tmp_path):
    (tmp_path / "out").write_text("mine")
    for place in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(UserError, match="--out"):
            model.sample(1, steps=2).save(place)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_place_that_cannot_be_written(model):
    with pytest.raises(UserError, match="/proc/nothing"):
        model.sample(1, steps=2).save("/proc/nothing/here")


def test_the_folder_one_stands_in(model, tmp_path, monkeypatch):
    """It cannot be replaced as a whole, and the shell that stands in it would be nowhere."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for place in (".", tmp_path / "here", "../here"):
        with pytest.raises(UserError, match="choose another --out"):
            model.sample(1, steps=2).save(place)
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]


@pytest.mark.parametrize("fails", ["PIL.Image.Image.save", "ddpm.samples.film", "ddpm.samples.write_json"])
@pytest.mark.parametrize("before", [True, False])
def test_nothing_half_written(model, tmp_path, monkeypatch, fails, before):
    samples = model.sample(2, steps=2, frames=True)
    if before:
        model.sample(1, steps=2).save(tmp_path / "out")
    old = listing(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fails, full)
    # Which of the two errors is not the point here.
    with pytest.raises((OSError, UserError)):
        samples.save(tmp_path / "out")
    assert listing(tmp_path) == old and [p.name for p in tmp_path.iterdir()] == ["out"] * before


# -- load ------------------------------------------------------------------------------------------------------


def test_run_checkpoint_and_file_are_the_same_model(folder, model, tmp_path):
    checkpoint = folder / "checkpoints/000000007"
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((checkpoint / "ema.safetensors").read_bytes())
    expected = model.sample(2, steps=3)
    for given in (str(folder), checkpoint, checkpoint / "ema.safetensors", alone):
        other = ddpm.load(given, "cpu")
        assert np.array_equal(other.sample(2, steps=3).pixels, expected.pixels)
        assert other.checkpoint == model.checkpoint and other.notes == []
        assert other.description == model.description and other.classes == ("ant", "bee", "cat")
    assert (ddpm.load(alone, "cpu").name, model.name) == ("alone", "zoo")


def test_averaged_and_plain_weights(folder, model):
    plain = ddpm.load(folder, "cpu", weights="model")
    expected, _ = load_weights(folder / "checkpoints/000000007/model.safetensors")
    assert all(torch.equal(value, expected[key]) for key, value in plain.denoiser.net.state_dict().items())
    averaged = model.denoiser.net.state_dict()
    assert not any(torch.equal(value, expected[key]) for key, value in averaged.items())
    assert not np.array_equal(plain.sample(2, steps=3).pixels, model.sample(2, steps=3).pixels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_file(tmp_path, model, dtype):
    state = {key: value.to(dtype) for key, value in model.denoiser.net.state_dict().items()}
    save_weights(tmp_path / "half.safetensors", state, model.description)
    half = ddpm.load(tmp_path / "half.safetensors", "cpu")
    for key, value in half.denoiser.net.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, state[key].float())
    assert half.sample(2, steps=3).pixels.shape == (2, 1, 8, 8)


def test_nothing_trains_in_a_loaded_model(model):
    assert not model.denoiser.net.training and not any(p.requires_grad for p in model.denoiser.parameters())


def test_a_path_before_an_embedded_name(tmp_path, monkeypatch):
    tiny.run(tmp_path / "fashion")
    monkeypatch.chdir(tmp_path)
    assert ddpm.load("fashion", "cpu").description.facts == tiny.ANIMALS


def test_the_embedded_model(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model = ddpm.load("fashion", "cpu")
    assert model.name == "fashion" and len(model.classes) == 10 and model.size == (28, 28)
    pictures = model.sample(2, steps=8, label=["sneaker", "trouser"]).pixels.astype(float) / 255.0
    # Garments stand before black: the corners are dark and the middle is not.
    assert pictures[:, :, :2, :2].mean() < 0.1 < pictures[:, :, 10:18, 8:20].mean()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda at: None, r"there is no such file, folder or embedded model; there are fashion"),
        (lambda at: at.mkdir(), "holds no run"),
        (lambda at: at.write_text("x"), r"not a model; give a run's folder or a \.safetensors file"),
        (lambda at: tiny.photos(at, 2), "holds no run"),
        (lambda at: Run.create(at, Description(tiny.config(), tiny.ANIMALS)), "first one"),
    ],
)
def test_what_is_no_model(tmp_path, monkeypatch, make, message):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "thing")
    with pytest.raises(UserError, match=message) as error:
        ddpm.load("thing", "cpu")
    assert str(error.value).startswith("thing: ")


def test_a_near_name_is_suggested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="did you mean fashion"):
        ddpm.load("fashoin")
    tiny.run(tmp_path / "runs" / "flowers")
    with pytest.raises(UserError, match="did you mean runs/flowers"):
        ddpm.load("runs/flower")


@pytest.mark.parametrize("part", ["state.json", "ema.safetensors"])
def test_a_damaged_checkpoint_given_by_itself(tmp_path, part):
    checkpoint = tiny.run(tmp_path / "r").folder / "checkpoints/000000007"
    (checkpoint / part).write_bytes((checkpoint / part).read_bytes()[:-9])
    with pytest.raises(UserError, match="damaged") as error:
        ddpm.load(checkpoint, "cpu")
    assert part in str(error.value)
    with pytest.raises(UserError, match=r"no whole checkpoint \(.*damaged"):
        ddpm.load(tmp_path / "r", "cpu")


def test_weights_of_another_net(tmp_path):
    made = tiny.config()
    state = tiny.weights(made.with_(net__channels=16), 3, 0)
    save_weights(tmp_path / "w.safetensors", state, Description(made, tiny.ANIMALS))
    with pytest.raises(UserError, match="its weights are not those of the net it describes") as error:
        ddpm.load(tmp_path / "w.safetensors", "cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"weights": "best"}, {"device": "gpu"}, {"device": "cuda:99"}])
def test_options_that_cannot_be(folder, options):
    with pytest.raises(UserError, match="|".join(options)):
        ddpm.load(folder, **options)


# -- ddpm.… ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ddpm.__all__)
def test_every_exported_name_is_there(name):
    value = getattr(ddpm, name)
    assert name == "__version__" or value.__name__ == name


def test_exported_names_are_listed_for_completion():
    assert set(ddpm.__all__) <= set(dir(ddpm))


def test_no_other_name_is():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ddpm.nonsense
