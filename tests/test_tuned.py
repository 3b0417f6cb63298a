"""What was found best for a run: which method it stands for, when it is taken, and what a damaged file says."""

import json
from dataclasses import replace

import numpy as np
import pytest

import tiny
from ddpm.errors import UserError
from ddpm.loading import load
from ddpm.method import DEFAULT, Method
from ddpm.samples import Samples
from ddpm.store import Facts
from ddpm.tuned import Setting, Tuned, Winner, read_tuned, resolved, write_tuned

NONE = Facts("zoo", 10)
FIVE = Winner(Setting(5, "heun", 3, "edm"), (3.0, 4.0, 5.0), 9)
TEN = Winner(Setting(10, "heun", 5, "log-snr", (("churn", 1.5),)), (2.0, 2.0, 2.0), 9)
FIFTY = Winner(Setting(50, "ddim", 40, "quadratic", (("eta", 1.0),)), (1.0, 1.0, 4.0), 9)
TUNED = Tuned(40, (FIVE, TEN, FIFTY), 100, (0, 1, 2), "random", checkpoint="abc", model="run")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "tuned.json"


@pytest.fixture
def run(tmp_path, monkeypatch, path):
    """A run of 40 levels with its tuned.json."""
    monkeypatch.chdir(tmp_path)
    tiny.run("run", NONE)
    write_tuned(path, TUNED)
    return "run"


# -- settings and winners ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "cost", "words", "arguments"),
    [
        (FIVE.setting, 5, "heun, 3 steps, edm", "--sampler heun --steps 3 --grid edm"),
        (
            TEN.setting,
            9,
            "heun churn 1.5, 5 steps, log-snr",
            "--sampler heun --steps 5 --grid log-snr --churn 1.5",
        ),
        (Setting(7, "pc", 3, "uniform"), 6, "pc, 3 steps, uniform", "--sampler pc --steps 3 --grid uniform"),
        (Setting(1, "dpm++", 1, "trailing"), 1, "dpm++, 1 step, trailing", None),
    ],
)
def test_a_setting_tells_what_it_costs_and_how_to_ask_for_it(setting, cost, words, arguments):
    assert (setting.cost, setting.words()) == (cost, words)
    assert arguments is None or setting.arguments() == arguments


def test_a_score_is_the_mean_over_seeds():
    assert FIFTY.score == 2.0


@pytest.mark.parametrize(
    ("there", "asked", "found"),
    [
        ((5, 10, 50), 10, 10),
        ((5, 10, 50), 11, None),
        ((5, 20, 50), None, 20),
        ((5, 10, 50), None, 10),  # a half of 20, which 50 is two and a half times
        ((10, 40), None, 10),  # as near: the cheaper
        ((1,), None, 1),
    ],
)
def test_the_winner_of_so_many_evaluations(there, asked, found):
    winners = tuple(Winner(Setting(count, "ddim", count, "uniform"), (1.0,), 1) for count in there)
    winner = Tuned(100, winners, 10, (0,), "random").winner(asked)
    assert (winner and winner.setting.evaluations) == found


# -- when it is taken -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [5, "5", " 5 "])
def test_a_number_of_steps_alone_is_a_number_of_evaluations(path, run, steps):
    method, winner = resolved(Method.of(steps=steps), 40, path, "abc", [])
    assert winner == FIVE and (method.sampler, method.steps, method.grid) == ("heun", 3, "edm")


def test_without_a_number_it_is_the_usual_one(path, run):
    method, winner = resolved(Method(), 40, path, "abc", [])
    assert winner == TEN and method.options == {"churn": 1.5} and method.make().churn == 1.5


@pytest.mark.parametrize(
    "asked",
    [
        {"sampler": "ddim"},
        {"sampler": "ddpm", "steps": 5},
        {"grid": "uniform", "steps": 5},
        {"steps": "5,5"},
        {"steps": [1, 20, 40]},
        {"steps": 6},
    ],
)
def test_what_is_asked_for_is_not_touched(path, run, asked):
    method, winner = resolved(Method.of(**asked), 40, path, "abc", [])
    assert winner is None and method == Method.of(**asked).resolved(40)


def test_without_a_file_nothing_changes(tmp_path):
    for path in (None, tmp_path / "none.json"):
        assert resolved(Method(), 40, path, "abc", []) == (Method().resolved(40), None)


def test_another_checkpoint_is_said_once(path, run):
    notes = ["one before"]
    for steps in (5, 10, None):
        resolved(Method.of(steps=steps), 40, path, "new", notes)
    assert len(notes) == 2 and "best for another checkpoint (run, abc)" in notes[1] and "ddpm tune" in notes[1]
    resolved(Method.of(steps=5), 40, path, "abc", empty := [])
    assert not empty


def test_pictures_of_a_run_are_those_of_its_winner(run):
    model = load(run, "cpu")
    tuned, asked = model.sample(2, steps=5), model.sample(2, sampler="heun", steps=3, grid="edm")
    np.testing.assert_array_equal(tuned.pixels, asked.pixels)
    assert tuned.record["tuned"] == 5 and "tuned" not in asked.record
    assert {k: v for k, v in tuned.record.items() if k != "tuned"} == asked.record
    assert model.chosen(Method()) == TEN.setting.method.resolved(40)
    model.tuned = None
    assert model.chosen(Method()) == Method().resolved(40)


def test_a_checkpoint_of_a_run_takes_it_a_file_of_it_does_not(run, path):
    checkpoint = next(path.parent.glob("checkpoints/*"))
    assert load(checkpoint, "cpu").chosen(Method(steps=5)).sampler == "heun"
    assert load(checkpoint / "ema.safetensors", "cpu").chosen(Method(steps=5)).sampler == DEFAULT


def test_the_command_says_what_it_takes(run, path, call):
    write_tuned(path, replace(TUNED, checkpoint=load(run, "cpu").checkpoint))
    status, out, _ = call("sample", run, "-n", "2", "--steps", "10", "--device", "cpu", "--no-film")
    assert status == 0 and "heun with 5 log-snr steps, tuned for 10 evaluations, seed 0" in out
    assert "note" not in out
    tuned = Samples.load("samples/run").pixels
    status, out, _ = call(
        "sample", run, "-n", "2", *TEN.setting.arguments().split(), "--device", "cpu", "--no-film"
    )
    assert status == 0 and "tuned" not in out
    np.testing.assert_array_equal(Samples.load("samples/run").pixels, tuned)
    write_tuned(path, TUNED)
    status, out, _ = call("sample", run, "-n", "2", "--device", "cpu", "--no-film")
    assert status == 0 and "note: run/tuned.json: its methods were found best for another checkpoint" in out


# -- the file ---------------------------------------------------------------------------------------------------


def test_the_file_as_it_stands(path):
    write_tuned(path, TUNED)
    values = json.loads(path.read_text())
    assert values["format"] == "ddpm-tuned/1" and values["T"] == 40 and values["seeds"] == [0, 1, 2]
    assert values["winners"][1] == {
        "setting": {
            "evaluations": 10,
            "sampler": "heun",
            "steps": 5,
            "grid": "log-snr",
            "options": [["churn", 1.5]],
        },
        "scores": [2.0, 2.0, 2.0],
        "tried": 9,
    }
    assert read_tuned(path) == TUNED == read_tuned(path, 40)


def test_winners_found_on_the_same_join():
    newer = replace(TUNED, winners=(replace(TEN, scores=(1.0, 1.0, 1.0)),))
    assert newer.merged(TUNED).winners == (FIVE, newer.winners[0], FIFTY)
    for other in (
        {"checkpoint": "new"},
        {"n": 99},
        {"features": "net.pt2"},
        {"fingerprint": "x"},
        {"seeds": (3, 4, 5)},
    ):
        assert newer.merged(replace(TUNED, **other)) == newer


def spoil(path, **changes):
    values = json.loads(path.read_text())
    winner, setting = changes.pop("winner", {}), changes.pop("setting", {})
    values.update(changes)
    if values.get("winners"):
        values["winners"][0].update(winner)
        values["winners"][0]["setting"].update(setting)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "ddpm-grids/1"}, r"holds no tuned methods \(its format is not ddpm-tuned/1\)"),
        ({"n": "many"}, r"\.n: holds 'many'; takes int"),
        ({"what": 1}, r"\.what: no such setting"),
        ({"winners": []}, r"its numbers of evaluations \[\] do not rise"),
        ({"setting": {"evaluations": 10}}, r"its numbers of evaluations \[10, 10, 50\] do not rise"),
        ({"setting": {"sampler": "euler"}}, r"a winner's --sampler euler: takes ddpm"),
        ({"setting": {"options": [["eta", 1.0]]}}, r"a winner's --eta 1.0: belongs to the sampler ddim"),
        ({"setting": {"grid": "spiral"}}, r"a winner's grid is spiral"),
        ({"setting": {"steps": 4}}, r"heun, 4 steps, edm is none of 5 evaluations and 40 levels"),
        ({"setting": {"steps": 0}}, r"heun, 0 steps, edm is none of 5"),
        ({"winner": {"scores": [1.0]}}, r"the scores of heun, 3 steps, edm are \[1.0\]"),
        ({"winner": {"scores": [1.0, float("nan"), 1.0]}}, r"winners\.scores: holds nan; takes finite float"),
        ({"T": 41}, r"was tuned for a model of 41 levels, and this one has 40"),
    ],
)
def test_a_wrong_file_is_named_with_its_mend(path, changes, message):
    write_tuned(path, TUNED)
    spoil(path, **changes)
    with pytest.raises(UserError, match=rf"tuned.json.*{message}.*; remove it, or `ddpm tune"):
        read_tuned(path, 40)


def test_a_file_that_lacks_something(path):
    write_tuned(path, TUNED)
    values = json.loads(path.read_text())
    del values["T"]
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"tuned.json: damaged, settings are missing from it; remove it"):
        read_tuned(path)
    path.write_text("{")
    with pytest.raises(UserError, match=r"tuned.json: damaged, not JSON .*; remove it, or"):
        read_tuned(path)
    with pytest.raises(UserError, match=r"none.json: missing, there is no such file$"):
        read_tuned(path.with_name("none.json"))


def test_a_damaged_file_is_no_obstacle_to_what_is_asked_for(run, path):
    path.write_text("{")
    model = load(run, "cpu")
    assert model.chosen(Method(sampler="ddim", steps=4)).steps == 4
    with pytest.raises(UserError, match="damaged, not JSON"):
        model.chosen(Method())


def test_where_it_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written \(.*\); choose another --out"):
        write_tuned(tmp_path / "file" / "tuned.json", TUNED)
