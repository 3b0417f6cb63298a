"""`ddpm tune` as a user meets it: what it prints and keeps, how it goes on, what ddpm sample then takes."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import tiny
from ddpm.commands import tune as command
from ddpm.evaluate import tuning
from ddpm.loading import load
from ddpm.method import Method
from ddpm.store import Facts
from ddpm.tuned import read_tuned

NONE = Facts("zoo", 10)
OWN = Path("run/tuned.json")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny.photos(tmp_path / "photos", 12, grey=True)
    return tmp_path


@pytest.fixture
def tune(call):
    """ddpm tune MODEL --reference photos … with few pictures → status, output, errors."""
    few = ("--features", "random", "-n", "6", "--device", "cpu", "--grids", "uniform,edm")

    def tune(*options, model="run"):
        return call("tune", model, "--reference", "photos", *few, *options)

    return tune


def result(out="run/evaluation"):
    (path,) = Path(out).glob("photos-tune-*/tune-6.json")
    return json.loads(path.read_text())


def drawn(out):
    return int(re.search(r"(\d+) pictures? drawn", out)[1])


def test_a_run_is_tuned_and_sampled_with_the_winners(tune, call):
    tiny.run("run", NONE)
    status, out, err = tune("--evaluations", "4,3", "--samplers", "ddim,dpm++,heun")
    assert status == 0 and "evaluations " in err
    assert "run against 12 pictures of photos, Fréchet distance in features of random" in out
    # ddim with and without noise, dpm++ and heun, on two grids; heun's two steps are three evaluations
    assert "3 evaluations: 8 settings with 6 pictures, the best two with two more seeds" in out
    made, tuned = result(), read_tuned(OWN)
    assert [one["evaluations"] for one in made["contests"]] == [3, 4] and made["seeds"] == [0, 1, 2]
    assert tuned.seeds == (0, 1, 2) and tuned.n == 6 and tuned.checkpoint == load("run", "cpu").checkpoint
    for one, winner in zip(made["contests"], tuned.winners, strict=True):
        best = one["winners"][0]
        scores = [setting["distance"] for setting in one["full"]]
        assert len(scores) == 8 and scores == sorted(scores)
        first_two = sorted(w["scores"][0] for w in one["winners"])
        assert first_two == scores[:2]  # those that went on to more seeds
        assert sum(best["scores"]) <= sum(one["winners"][1]["scores"])
        assert winner.setting.evaluations == one["evaluations"] and list(winner.scores) == best["scores"]
        found = f"{winner.setting.words()}, {winner.score:.2f} ± {np.std(winner.scores, ddof=1):.2f}; next "
        assert f"{one['evaluations']} evaluations: {found}" in out
        ahead = all(a < b for a, b in zip(*(w["scores"] for w in one["winners"]), strict=True))
        by = np.mean(one["winners"][1]["scores"]) - winner.score
        assert (
            f"behind by {by:.2f}, " + ("with every seed" if ahead else "but not with every seed: as good") in out
        )
    usual = tuned.winners[1].setting  # 4 is nearer to 20
    assert (
        f"ddpm sample run takes {usual.words()}; with --steps 3, 4 the best of so many evaluations: {OWN}" in out
    )
    assert load("run", "cpu").chosen(Method(steps=3)) == tuned.winners[0].setting.method.resolved(40)
    picture = re.search(r"open (\S+);", out)[1]
    with Image.open(picture) as image:
        assert picture.endswith("tune-6.png") and image.size[0] > 300
    status, out, _ = call("sample", "run", "-n", "1", "--device", "cpu", "--no-film")
    assert status == 0 and ", tuned for 4 evaluations, seed 0" in out and "note" not in out


def test_the_same_command_goes_on(tune):
    tiny.run("run", NONE)
    asked = ("--samplers", "ddpm,dpm++", "--evaluations", "2,3")
    status, out, _ = tune(*asked, "--budget", "0s")
    assert status == 0 and "nothing was tried: the budget was over; the same command goes on" in out
    assert not OWN.exists()
    status, first, _ = tune(*asked)
    assert status == 0 and drawn(first) == 2 * (4 * 6 + 2 * 2 * 6)
    table = first[first.index("evaluations  ") :]
    winners = read_tuned(OWN).winners
    OWN.unlink()
    status, again, _ = tune(*asked)
    assert status == 0 and drawn(again) == 0 and again.endswith(table) and read_tuned(OWN).winners == winners
    status, _, _ = tune("--samplers", "ddpm,dpm++", "--evaluations", "4")
    assert status == 0 and [one.setting.evaluations for one in read_tuned(OWN).winners] == [2, 3, 4]


def test_a_budget_leaves_out_what_is_dear(tune, monkeypatch):
    """A clock that goes on by a second a look: the first number of evaluations is whole, the second is begun."""
    tiny.run("run", NONE)
    seconds = iter(range(10**6))
    monkeypatch.setattr(command, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))
    asked = ("--samplers", "dpm++", "--evaluations", "2,3", "--budget", "11s")
    status, out, _ = tune(*asked)
    # 2 settings in two rounds and 4 times more seeds are 8 looks; a ninth begins the next
    assert status == 0 and [one.setting.evaluations for one in read_tuned(OWN).winners] == [2]
    rest = r"3 evaluations: left out, as the budget was over \(\d of 2 settings tried, 0 with all pictures\)"
    assert re.search(rest + "; the same command goes on", out)
    assert not result()["contests"][1]["whole"]


def test_a_model_that_is_no_run_is_told_how_to_ask(tune, call, workplace):
    tiny.run("run", NONE)
    (file,) = Path("run").glob("checkpoints/*/ema.safetensors")
    file.rename("model.safetensors")
    status, out, _ = tune("--evaluations", "3", "--samplers", "ddim", model="model.safetensors")
    assert status == 0 and not OWN.exists()
    (kept,) = Path("evaluation/model").glob("photos-tune-*/tuned.json")
    asked = re.search(r"3 evaluations: ddpm (sample model.safetensors --sampler ddim .*)", out)[1].split()
    status, said, _ = call(*asked, "-n", "1", "--device", "cpu", "--no-film")
    assert status == 0 and "1 pictures of model, ddim with 3" in said
    model = load("model.safetensors", "cpu")
    assert f'model.tuned = Path("{kept}")' in out
    model.tuned = kept
    assert model.sample(1, steps=3).record["tuned"] == 3


def test_a_run_is_left_as_it_is(tune):
    tiny.run("run", NONE)
    for option in (("--out", "elsewhere"), ("--weights", "model")):
        status, out, _ = tune("--evaluations", "2", "--samplers", "ddim", *option)
        assert status == 0 and "run/tuned.json is left as it is (" in out and not OWN.exists()
        assert "2 evaluations: ddpm sample run --sampler ddim --steps 2" in out


def test_another_checkpoint_is_said_to_be_replaced(tune):
    tiny.run("run", NONE)
    assert tune("--evaluations", "2", "--samplers", "ddim")[0] == 0
    values = json.loads(OWN.read_text())
    OWN.write_text(json.dumps({**values, "checkpoint": "before"}))
    status, out, _ = tune("--evaluations", "3", "--samplers", "ddim")
    assert (
        status == 0
        and "run/tuned.json: replaces what was tuned for another checkpoint (2 evaluations: ddim" in out
    )
    assert len(read_tuned(OWN).winners) == 1
    OWN.write_text("{")
    status, out, _ = tune("--evaluations", "3", "--samplers", "ddim")
    assert status == 0 and "run/tuned.json: damaged, not JSON" in out and read_tuned(OWN).winners


def test_a_model_of_classes_needs_none_in_the_pictures(tune):
    """They are drawn as often as in its data."""
    tiny.run("run")
    Path("photos/cats").rename("cats")
    status, out, _ = tune("--evaluations", "2", "--samplers", "ddim")
    assert status == 0 and "against 6 pictures" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--evaluations", "5,ten"), "--evaluations 5,ten: takes numbers from 1, as 5,10,20,50"),
        (("--evaluations", "0"), "--evaluations 0: takes numbers from 1"),
        (("--evaluations", ","), "--evaluations ,: takes numbers from 1"),
        (("--evaluations", "81"), "--evaluations 81: run has 40 levels; take up to 80"),
        (("-n", "1"), "-n 1: a Fréchet distance is of 2 pictures at least"),
        (("--seed", "-1"), "--seed -1: lies in"),
        (("--batch", "0"), "--batch 0: is at least 1"),
        (("--budget", "soon"), "--budget soon: takes a time such as 20m"),
        (("--samplers", "euler"), "--samplers euler: no such sampler; there are ddpm, ddim"),
        (("--grids", "spiral"), "--grids spiral: no such grid; there are uniform"),
        (("--grids", "fitted"), "--grids fitted: run has no fitted grids yet"),
        (("--grids", "edm:x"), "--grid edm:x: takes a positive power"),
        (("--samplers", "pc", "--evaluations", "10"), "--evaluations 10: nothing to try with --samplers pc"),
        (("--out", "photos/cats/00.png"), "--out photos/cats/00.png: is a file; name a folder"),
        (("--features", "none.pt2"), "--features none.pt2: neither a file nor a net known by name"),
    ],
)
def test_mistakes(tune, options, message):
    tiny.run("run", NONE)
    status, _, err = tune(*options)
    assert status == 2 and f"ddpm: {message}" in err


def test_an_upsampler_is_refused(tune):
    tiny.run("run", NONE, data__low_size=(4, 4), train__task="upsampler")
    status, _, err = tune()
    assert status == 2 and "ddpm tune takes a model that draws by itself" in err


def test_a_stop_loses_nothing(tune, monkeypatch):
    """Stopped when the first number of evaluations has its winner, and then before anything has."""
    tiny.run("run", NONE)
    whole = tuning.frechet

    def stopped(a, b):
        if [*Path("run").rglob("tuned.json")]:
            raise KeyboardInterrupt
        return whole(a, b)

    monkeypatch.setattr(tuning, "frechet", stopped)
    status, out, err = tune("--evaluations", "2,3", "--samplers", "ddim")
    assert status == 130 and "what was drawn is kept in run/evaluation/photos-tune-" in out and "stopped" in err
    assert [one.setting.evaluations for one in read_tuned(OWN).winners] == [2] and "ddpm sample run takes" in out
    status, out, _ = tune("--evaluations", "3", "--samplers", "ddpm")
    assert status == 130 and "ddpm sample run takes" not in out
    assert [one.setting.evaluations for one in read_tuned(OWN).winners] == [2]
