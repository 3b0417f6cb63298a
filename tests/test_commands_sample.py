"""`ddpm sample` with upsamplers: cascades, and small pictures that are given."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddpm
import faults
import tiny
from ddpm.samples import Samples
from ddpm.store import Facts

ZOO = Facts("zoo", 10, ("ant", "bee", "cat"), (0.5, 0.0, 0.5))
PETS = Facts("pets", 10, ("cats", "dogs"), (0.5, 0.5))
PLAIN = Facts("zoo", 10)
DDIM = ("--sampler", "ddim", "--upsample-sampler", "ddim")
FEW = ["--steps", 3, "--device", "cpu", "--no-film"]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def base(name="base", facts=ZOO, **changes):
    tiny.run(Path(name), facts, **changes)
    return name


def up(name="up", facts=PLAIN, **changes):
    """Grey pictures of 8 x 8 to 16 x 16, unless told otherwise."""
    made = {"data__size": (16, 16), "data__low_size": (8, 8), "train__task": "upsampler", **changes}
    tiny.run(Path(name), facts, **made)
    return name


def pictures(folder):
    return [np.asarray(Image.open(path)) for path in sorted(Path(folder, "pictures").iterdir())]


def refused(call, *arguments):
    status, out, err = call("sample", *arguments, "--device", "cpu")
    assert status == 2 and not out and err.startswith("ddpm: ") and err.count("\n") == 1, (status, out, err)
    return err


# -- cascades --------------------------------------------------------------------------------------------------


def test_a_cascade(call):
    base(), up()
    status, out, err = call(
        "sample", "base", "--upsample", "up", "-n", 5, "--seed", 3, "--steps", 4, "--device", "cpu", *DDIM
    )
    assert status == 0, err
    assert "sampling 4/4" in err and "enlarging to 16 x 16 40/40" in err
    assert out.startswith("5 pictures of base, ddim with 4 steps, seed 3, enlarged from 8 x 8 to 16 x 16 by up, ")
    assert "by up, ddim with 40 steps, in " in out
    assert out.endswith(
        "open samples/up/grid.png or samples/up/film.webp; the small ones are in samples/up/base\n"
    )
    small = ddpm.load("base", "cpu").sample(5, sampler="ddim", steps=4, seed=3)
    large = ddpm.load("up", "cpu").upsample(small, sampler="ddim")
    kept, made = pictures("samples/up/base"), pictures("samples/up")
    assert all(np.array_equal(a, b[0]) for a, b in zip(kept, small.pixels, strict=True))
    assert all(np.array_equal(a, b[0]) for a, b in zip(made, large.pixels, strict=True))
    record = json.loads(Path("samples/up/samples.json").read_text())
    assert (record["model"], record["base"]["model"]) == ("up", "base")
    for name, one in (("up", record), ("base", record["base"])):
        assert one["checkpoint"] == ddpm.load(name, "cpu").checkpoint and one["seed"] == 3
    assert record["classes"] == list(ZOO.classes) and record["labels"] == list(small.labels)
    with Image.open("samples/up/film.webp") as film, Image.open("samples/up/grid.png") as grid:
        assert film.n_frames > 30 and grid.width > 3 * 16


def test_the_same_in_two_steps(call):
    """What a base has drawn, enlarged later, is what the cascade draws, and no stage repeats another's noise."""
    base(), up()
    assert (
        call("sample", "base", "--upsample", "up", "-n", 4, "--seed", 3, "--upsample-steps", 3, *DDIM, *FEW)[0]
        == 0
    )
    assert call("sample", "base", "-n", 4, "--seed", 3, "--out", "small", *DDIM[:2], *FEW)[0] == 0
    status, out, err = call("sample", "up", "--low", "small", "--out", "large", *DDIM[:2], *FEW)
    assert status == 0 and out.startswith(
        "4 pictures of base, ddim with 3 steps, seed 3, enlarged from 8 x 8 to"
    ), err
    for a, b in zip(pictures("samples/up"), pictures("large"), strict=True):
        assert np.array_equal(a, b)
    once = Samples.load("samples/up")
    assert Samples.load("large").record == once.record and once.record["seed"] == 3


def test_three_stages_and_the_first_that_knows_the_class(call):
    base(facts=PLAIN), up(), up("again", ZOO, data__size=(32, 32), data__low_size=(16, 16))
    arguments = ["base", "--upsample", "up", "again", "-n", 2, "--class", "cat", "--upsample-sampler", "ddpm"]
    status, out, err = call("sample", *arguments, "--upsample-steps", "3", *FEW)
    assert status == 0, err
    assert "by up, ddpm with 3 steps, enlarged from 16 x 16 to 32 x 32 by again, ddpm with 3 steps" in out
    made = Samples.load("samples/again")
    assert made.pixels.shape == (2, 1, 32, 32) and made.labels == (2, 2) and made.base.labels is None
    assert made.base.base.pixels.shape == (2, 1, 8, 8)


def test_a_class_is_the_bases_where_it_has_some(call):
    base(), up(facts=Facts("more", 9, ("dog", "cat", "ant")))
    status, _, err = call("sample", "base", "--upsample", "up", "-n", 2, "--class", "cat", *FEW)
    assert status == 0, err
    made = Samples.load("samples/up")
    assert made.labels == (1, 1) and made.base.labels == (2, 2)  # each by its own number


def test_what_cannot_be_a_cascade_is_refused_before_anything_is_drawn(call):
    base(), up(), base("grey", PLAIN), base("colour", data__channels=3)
    assert "up: enlarges pictures of 8 x 8 with one channel, and those of base are 16 x 16" in refused(
        call, "base", "--upsample", "up", "--size", 16
    )
    assert "those of colour are 8 x 8 with 3 channels; " in refused(call, "colour", "--upsample", "up")
    assert "base: is no upsampler" in refused(call, "base", "--upsample", "base")
    up("pets", PETS)
    # bee is never drawn, but ant and cat are
    assert "pets: does not know the class ant of base; it knows cats, dogs" in refused(
        call, "base", "--upsample", "pets"
    )
    assert "--class bird: no such class" in refused(call, "grey", "--upsample", "pets", "--class", "bird")
    assert "--class: pets draws by class" in refused(call, "grey", "--upsample", "pets")
    assert "--class cats: grey was trained without" in refused(call, "grey", "--upsample", "up", "--class", "cats")
    assert "up: enlarges small pictures; give them with --low" in refused(call, "up")
    assert "--upsample-steps 5: say which" in refused(call, "base", "--upsample-steps", 5)
    assert "--upsample-sampler ddpm: say which" in refused(call, "base", "--upsample-sampler", "ddpm")
    assert not Path("samples").exists()


# -- given pictures --------------------------------------------------------------------------------------------


def brought(path, size=(16, 16)):
    """A grey file of the large size, made small by hand: means of 2 x 2, halves to the even level."""
    large = np.asarray(Image.open(path)).astype(int)
    assert large.shape == size
    return np.rint(large.reshape(8, 2, 8, 2).sum(axis=(1, 3)) / 4)


def test_a_set_with_its_classes(call):
    tiny.photos(Path("photos"), 10, (16, 16), grey=True)
    up(facts=PETS)
    status, out, err = call("sample", "up", "--low", "photos", "-n", 4, *DDIM[:2], *FEW)
    assert status == 0 and out.startswith(
        "4 pictures of photos, enlarged from 8 x 8 to 16 x 16 by up, ddim with 3"
    ), err
    made = Samples.load("samples/up")
    files = sorted(Path("photos").rglob("*.png"))
    assert made.base.record == {"data": "photos", "numbers": [0, 2, 5, 7], "first": 0}
    assert made.labels == (0, 0, 1, 1) and made.classes == PETS.classes
    for one, k in zip(made.base.pixels, (0, 2, 5, 7), strict=True):
        assert np.array_equal(one[0], brought(files[k]))
    again = ddpm.load("up", "cpu").upsample(made.base, sampler="ddim", steps=3)
    assert np.array_equal(again.pixels, made.pixels)
    # all of a small set, unless told otherwise; a class for all
    assert call("sample", "up", "--low", "photos", "--class", "dogs", *FEW)[0] == 0
    assert Samples.load("samples/up").labels == (1,) * 10


def test_pictures_of_the_small_size_are_left_as_they_are(call):
    tiny.photos(Path("photos"), 3, (8, 8), grey=True)
    up()
    assert call("sample", "up", "--low", "photos", *FEW)[0] == 0
    files = sorted(Path("photos").rglob("*.png"))
    for one, file in zip(Samples.load("samples/up").base.pixels, files, strict=True):
        assert np.array_equal(one[0], np.asarray(Image.open(file)))


def test_one_picture_several_times(call):
    """A file or DATA:K, each time with other noise."""
    tiny.photos(Path("photos"), 4, (16, 16), grey=True)
    up(facts=PETS)
    for given in ("photos:3", "photos/dogs/03.png"):
        status, _, err = call("sample", "up", "--low", given, "-n", 3, "--class", "dogs", *FEW)
        assert status == 0, err
        made = Samples.load("samples/up")
        assert made.base.record == {"data": given, "first": 0}
        assert (made.base.pixels == brought("photos/dogs/03.png")).all() and made.labels == (1, 1, 1)
        assert len({one.tobytes() for one in made.pixels}) == 3
    assert call("sample", "up", "--low", "photos:3", *FEW)[0] == 0  # its own class, and once
    assert Samples.load("samples/up").labels == (1,)
    assert "--class: up draws by class, and that of these" in refused(call, "up", "--low", "photos/dogs/03.png")


def test_samples_of_another_size_are_brought(call):
    base("large", PLAIN, data__size=(16, 16)), up()
    assert call("sample", "large", "-n", 3, "--out", "drawn", *FEW)[0] == 0
    assert call("sample", "up", "--low", "drawn", "-n", 5, *FEW)[0] == 0
    made, given = Samples.load("samples/up"), Samples.load("drawn")
    assert made.base.record == {**given.record, "brought_from": [16, 16]}
    by_hand = np.rint(given.pixels.astype(int).reshape(3, 1, 8, 2, 8, 2).sum(axis=(3, 5)) / 4)
    assert np.array_equal(made.base.pixels, by_hand[[0, 1, 2, 0, 1]])
    assert not np.array_equal(made.pixels[0], made.pixels[3])


def test_upsamplers_of_given_pictures(call):
    tiny.photos(Path("photos"), 2, (16, 16), grey=True)
    up(), up("again", data__size=(32, 32), data__low_size=(16, 16))
    status, out, err = call(
        "sample", "up", "--low", "photos", "--upsample", "again", "--upsample-steps", 2, *DDIM, *FEW
    )
    assert status == 0, err
    assert (
        "enlarged from 8 x 8 to 16 x 16 by up, ddim with 3 steps, enlarged from 16 x 16 to 32 x 32 by again" in out
    )
    assert Samples.load("samples/again").base.base.record["data"] == "photos"


def test_what_cannot_be_given(call):
    tiny.photos(Path("photos"), 2, (16, 16), grey=True)
    base(), up(facts=ZOO)
    assert "base: is no upsampler" in refused(call, "base", "--low", "photos")
    assert "up: does not know the class cats of photos; it knows ant, bee, cat" in refused(
        call, "up", "--low", "photos"
    )
    assert "--size 32: an upsampler draws the size it was" in refused(call, "up", "--low", "photos", "--size", 32)
    err = refused(call, "up", "--low", "nothing")
    assert "nothing: no such file or folder" in err and "or a folder that ddpm sample wrote" in err
    assert "photos:9: photos has the pictures 0 to 1" in refused(call, "up", "--low", "photos:9")
    Path("photos/cats/00.png").write_bytes(b"no picture")
    assert "cats/00.png: cannot be decoded" in refused(call, "up", "--low", "photos", "--class", "ant")
    Path("drawn").mkdir()
    Path("drawn/samples.json").write_text("{}")
    assert "drawn: not whole as ddpm sample writes it" in refused(call, "up", "--low", "drawn")


# -- from pictures to a cascade --------------------------------------------------------------------------------


def test_both_are_trained_and_drawn_from(call):
    tiny.photos(Path("photos"), 12, (16, 16))
    net = [*tiny.NET, "--batch", 4, "--device", "cpu", "--steps", 2]
    status, out, err = call(
        "train", "photos", "--task", "upsampler", "--size", 16, *net, "--holdout", 0.25, "--out", "up"
    )
    assert status == 0, err
    assert "small pictures  4 x 4 " in out and "a quarter of the size; --data.low-size asks for another" in out
    assert "enlarge pictures with: ddpm sample up --low DATA, or ddpm sample BASE --upsample up\n" in out
    config = json.loads(Path("up/config.json").read_text())["config"]
    assert config["data"]["low_size"] == [4, 4] and config["train"]["task"] == "upsampler"
    report = Path("up/report.html").read_text()
    assert "What it makes of small pictures" in report and "Has it learnt pictures by heart?" not in report
    assert "pictures it never trained on" in report and "ddpm sample up --low DATA" in report
    status, _, err = call(
        "train", "photos", "--size", "4x4", *tiny.NET[:-3], "1", *net[-4:], "--batch", 4, "--out", "base"
    )
    assert status == 0, err
    status, out, err = call("sample", "base", "--upsample", "up", "-n", 2, *FEW)
    assert status == 0 and Samples.load("samples/up").pixels.shape == (2, 3, 16, 16), err
    status, out, err = call("sample", "up", "--low", "photos", *FEW)
    assert status == 0, err
    status, out, err = call(
        "evaluate", "up", "--reference", "held-out", "--metrics", "nll", "--steps", 3, "--device", "cpu"
    )
    assert status == 0 and ", each given what it is in 4 x 4" in out, err
    record = json.loads(next(Path("up/evaluation").rglob("nll-*.json")).read_text())
    assert record["reference"]["given_small"] == [4, 4] and record["results"]["bits_per_dim"]["mean"] > 0


# -- several processes, and how many pictures at once ----------------------------------------------------------


@pytest.mark.slow
def test_several_processes_draw_what_one_draws(call):
    """Five pictures by three; the last of them draws one, and saves nothing."""
    base(), up()
    options = ["base", "--upsample", "up", "-n", 5, "--seed", 3, "--steps", 4, "--device", "cpu", *DDIM]
    assert call("sample", *options, "--out", "one")[0] == 0
    crew = faults.crew(3, "sample", *options, "--out", "three")
    with faults.killed_after(*crew):
        left = faults.together(crew)
    assert [one.status for one in left] == [0, 0, 0], left
    assert "on 3 processes" in left[0].out and not any(one.out + one.err for one in left[1:]), left
    names = [str(path.relative_to("one")) for path in sorted(Path("one").rglob("*")) if path.is_file()]
    assert "film.webp" in names and "base/samples.json" in names
    assert names == [str(path.relative_to("three")) for path in sorted(Path("three").rglob("*")) if path.is_file()]
    for name in set(names) - {"film.webp"}:  # whose frames before the last show the rounding of another batch
        assert Path("one", name).read_bytes() == Path("three", name).read_bytes(), name
    with Image.open("three/film.webp") as three, Image.open("one/film.webp") as one:
        assert three.n_frames == one.n_frames


@pytest.mark.slow
def test_several_processes_and_what_is_wrong(call):
    """The first says what in a line; the other, that it stops."""
    base()
    both = faults.crew(2, "sample", "base", "--class", "dog", "--device", "cpu")
    with faults.killed_after(*both):
        left = faults.together(both)
    assert [one.status for one in left] == [2, 2], left
    assert "--class dog: no such class" in faults.line_of(left[0].err)
    assert "process 1 of 2 stops, as another one has" in faults.line_of(left[1].err)


def test_the_largest_batch_that_fits(call, monkeypatch):
    """Twice the memory, twice the pictures at once; not more than are asked for, and the same ones."""
    base(), up()
    options = ["base", "--upsample", "up", "-n", 40, "--steps", 2, "--device", "cpu", "--no-film", *DDIM]
    options += ["--upsample-steps", 2]
    assert call("sample", *options, "--out", "usual")[0] == 0
    said = {}
    for megabytes in (1, 2, 1000):
        monkeypatch.setattr("ddpm.plan.machine.free_memory", lambda device, free=megabytes << 20: free)
        status, out, err = call("sample", *options, "--batch", "auto", "--out", "auto")
        assert status == 0, err
        said[megabytes] = [
            int(n) for n in re.findall(r"--batch auto: (\d+) pictures? of (?:base|up) at once", out)
        ]
        assert np.array_equal(pictures("usual"), pictures("auto"))
    assert said[1000] == [40, 40]
    assert said[2] == [2 * n for n in said[1]] and said[1][1] < said[1][0] < 20, said


def test_where_free_memory_cannot_be_told_the_usual_batch_is_taken(call, monkeypatch):
    base()
    monkeypatch.setattr("ddpm.plan.machine.free_memory", lambda device: None)
    status, out, err = call("sample", "base", "-n", 3, *FEW, "--batch", "auto", "--out", "s")
    assert status == 0 and "note: --batch auto: how much memory is free cannot be told here" in out, out + err


@pytest.mark.parametrize("batch", ["0", "-3", "many", "1.5", "²"])
def test_no_batch(call, batch):
    base()
    assert "--batch" in refused(call, "base", f"--batch={batch}")
