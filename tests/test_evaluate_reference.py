"""DATA as a model wants its pictures: exact pixels, its classes, an even choice, and what is said of it."""

import gzip
import shutil
import struct

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from ddpm.data import load, open_sources
from ddpm.errors import UserError
from ddpm.evaluate.reference import open_reference
from ddpm.loading import load as load_model
from ddpm.store import Facts

NONE = Facts("zoo", 10)
PETS = Facts("pets", 10, ("bird", "cats", "dogs"), (0.0, 0.5, 0.5))


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model(facts=NONE, **changes):
    """A run's model on the CPU."""
    tiny.run("run", facts, **changes)
    return load_model("run", "cpu")


def test_pixels_are_exact(workplace):
    tiny.photos(workplace / "photos", 6, grey=True)
    reference = open_reference("photos", model())
    assert len(reference) == 6 and reference.name == "photos" and reference.labels is None
    x0, labels = reference.batch(np.array([5, 0]))
    # Sorted by folder and name: 0 is cats/00, 5 is dogs/05; tiny.photos seeds picture i by i.
    expected = [np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8) / 127.5 - 1 for i in (5, 0)]
    assert x0.dtype == torch.float64 and labels is None
    assert np.array_equal(x0.numpy(), np.stack(expected)[:, None])


def test_pictures_are_brought_to_the_model_s_shape(workplace):
    tiny.photos(workplace / "photos", 4, (12, 10))
    made = model(data__size=(8, 16), data__channels=3, data__crop="pad", data__background="red")
    x0, _ = open_reference("photos", made).batch(np.array([0]))
    assert x0.shape == (1, 3, 8, 16)
    assert x0[0, :, 0, 0].tolist() == [1.0, -1.0, -1.0]  # padded with red


def test_random_crops_become_the_centre(workplace):
    ramp = np.tile(np.arange(16, dtype=np.uint8) * 16, (8, 1))
    (workplace / "wide").mkdir()
    Image.fromarray(ramp).save("wide/0.png")
    x0, _ = open_reference("wide", model(data__crop="random")).batch(np.array([0]))
    assert np.array_equal(x0[0, 0].numpy(), ramp[:, 4:12] / 127.5 - 1)


@pytest.mark.parametrize("n", [1, 3, 7, 10])
def test_pictures_are_evenly_spread(workplace, n):
    tiny.photos(workplace / "photos", 10)
    numbers = open_reference("photos", model()).spread(n)
    assert numbers.tolist() == [k * 10 // n for k in range(n)]
    assert set(np.diff([*numbers, 10 + numbers[0]])) <= {10 // n, -(-10 // n)}


@pytest.mark.parametrize("n", [0, 11])
def test_there_are_not_so_many_pictures(workplace, n):
    tiny.photos(workplace / "photos", 10)
    with pytest.raises(UserError, match=f"-n {n}: photos has 10 pictures; take 1 to all of them"):
        open_reference("photos", model()).spread(n)


# -- classes ---------------------------------------------------------------------------------------------------


def test_classes_are_matched_by_name(workplace):
    tiny.photos(workplace / "photos", 6)
    reference = open_reference("photos", model(PETS))
    assert reference.labels.tolist() == [1, 1, 1, 2, 2, 2]  # the model's numbers, not those of DATA
    assert reference.batch(np.array([4, 1]))[1].tolist() == [2, 1]


def test_one_folder_with_a_class_s_name_is_enough(workplace):
    tiny.photos(workplace / "photos", 6)
    for path in (workplace / "photos" / "cats").iterdir():
        path.unlink()
    (workplace / "photos" / "cats").rmdir()
    assert open_reference("photos", model(PETS)).labels.tolist() == [2, 2, 2]


def save_idx(folder, labels):
    """MNIST's way: pictures and numbers."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8), dtype=np.uint8)
    with gzip.open(folder / "test-images-idx3-ubyte.gz", "wb") as file:
        file.write(struct.pack(">IIII", 0x803, len(labels), 8, 8) + pixels.tobytes())
    with gzip.open(folder / "test-labels-idx1-ubyte.gz", "wb") as file:
        file.write(struct.pack(">II", 0x801, len(labels)) + bytes(labels))


def test_classes_that_are_but_numbers_are_taken_as_the_model_s_numbers(workplace):
    save_idx(workplace / "set", [2, 0, 2, 1])
    reference = open_reference("set", model(PETS))
    assert reference.labels.tolist() == [2, 0, 2, 1]
    assert "classes by number: 0 is bird, and so on" in reference.notes


def test_a_number_beyond_the_model_s_classes(workplace):
    save_idx(workplace / "set", [2, 0, 3, 1])
    with pytest.raises(UserError, match=r"set: .*3 not among the classes of run \(bird, cats, dogs\)"):
        open_reference("set", model(PETS))


def test_a_strange_class(workplace):
    tiny.photos(workplace / "photos", 4)
    (workplace / "photos" / "cats").rename(workplace / "photos" / "cows")
    with pytest.raises(UserError, match=r"photos: cows not among the classes of run .*take these pictures"):
        open_reference("photos", model(PETS))


def test_no_classes_where_the_model_needs_them(workplace):
    tiny.photos(workplace / "photos", 4)
    with pytest.raises(
        UserError, match=r"no classes, but the model needs them; name folders .*\(bird, fish, dogs\)"
    ):
        open_reference("photos/cats", model(Facts("pets", 10, ("bird", "fish", "dogs"))))


def test_no_data(workplace):
    with pytest.raises(UserError, match="nowhere: no such file"):
        open_reference("nowhere", model())


def test_a_model_without_classes_takes_no_notice_of_them(workplace):
    tiny.photos(workplace / "photos", 4)
    reference = open_reference("photos", model())
    assert reference.labels is None and reference.pictures.classes == ()


# -- whose pictures they are -----------------------------------------------------------------------------------


def test_it_is_said_when_the_model_was_trained_on_them(workplace):
    tiny.photos(workplace / "photos", 6, grey=True)
    source, _ = open_sources("photos", "none")
    pictures = load(source, (8, 8), 1)
    made = model(Facts("photos", 6, fingerprint=pictures.fingerprint))
    said = "these are the pictures run was trained on, and no measure of others"
    assert said in open_reference("photos", made).notes
    tiny.photos(workplace / "other", 7, grey=True)
    assert said not in open_reference("other", made).notes


@pytest.mark.parametrize("data", ["photos", "./photos", "photos/", "absolute", ".", "photos/cats", "link"])
def test_any_spelling_of_a_path_is_the_same_pictures(workplace, data):
    tiny.photos(workplace / "photos", 6, grey=True)
    (workplace / "link").symlink_to(workplace / "photos")
    made = model(data__path=("more.npz", "photos"))
    shutil.rmtree("run")  # which would be DATA, too, in "."
    data = str(workplace / "photos") if data == "absolute" else data
    said = f"{data} may hold pictures run was trained on, and then is no measure of others"
    assert said in open_reference(data, made).notes
    tiny.photos(workplace / "photos2", 6, grey=True)
    assert not any("trained on" in note for note in open_reference("photos2", made).notes)


def test_a_folder_that_was_held_out_was_not_trained_on(workplace):
    tiny.photos(workplace / "photos" / "train", 6, grey=True)
    tiny.photos(workplace / "photos" / "test", 6, grey=True)
    made = model(data__path=("photos",), data__holdout="test", data__labels="none")
    for data in ("photos/test", "photos/test/cats", "./photos/test/"):
        assert not any("trained on" in note for note in open_reference(data, made).notes)
    for data in ("photos", "photos/train/cats"):
        assert any("--reference held-out takes the others" in note for note in open_reference(data, made).notes)


def test_the_embedded_set_is_a_part_of_what_the_embedded_model_was_trained_on(workplace):
    said = "the set fashion is a part of the 60,000 pictures fashion was trained on, and no measure of others"
    embedded = load_model("fashion", "cpu")
    assert said in open_reference("fashion", embedded).notes
    assert not any("trained on" in note for note in open_reference("fashion", model()).notes)


def test_the_pictures_held_out_of_the_training(workplace):
    tiny.photos(workplace / "photos", 20, grey=True)
    made = model(data__path=("photos",), data__holdout="0.2", data__labels="none")
    _, held = open_sources(("photos",), "none", "0.2")
    reference = open_reference("held-out", made)
    assert len(reference) == 4 == len(held) and reference.name == "photos-held-out"
    expected = load(held, (8, 8), 1).batch(torch.arange(4))[0]
    assert torch.allclose(reference.batch(np.arange(4))[0].float(), expected)
    notes = open_reference("photos", made).notes
    assert any(
        "photos may hold pictures run was trained on; --reference held-out takes the others" in n for n in notes
    )
    tiny.photos(workplace / "held-out", 3, grey=True)  # a path comes first
    assert len(open_reference("held-out", made)) == 3


def test_nothing_was_held_out(workplace):
    with pytest.raises(
        UserError, match="--reference held-out: run held no pictures out of its training; give DATA"
    ):
        open_reference("held-out", model())


def test_the_pictures_held_out_are_gone(workplace):
    made = model(data__path=("gone",), data__holdout="0.2")
    with pytest.raises(UserError, match="--reference held-out: gone: no such file"):
        open_reference("held-out", made)
