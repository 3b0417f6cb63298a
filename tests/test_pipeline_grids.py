"""Sampling on a fitted grid: its levels are walked, the record says so, and another net's grid is noted."""

import json
import shutil

import numpy as np
import pytest

import ddpm
import tiny
from ddpm.errors import UserError
from ddpm.grids import Grid, Grids, write_grids

LEVELS = {1: (40,), 3: (4, 11, 40), 5: (2, 3, 9, 17, 40)}


def grids(checkpoint="", variance="large", T=40):
    fitted = tuple(Grid((*levels[:-1], T), 4.0, 5.0) for levels in LEVELS.values())
    return Grids(T, fitted, variance, 10, 0, model="other", checkpoint=checkpoint, weights="ema")


@pytest.fixture
def run(tmp_path):
    return tiny.run(tmp_path / "zoo").folder


@pytest.fixture
def model(run):
    made = ddpm.load(run, "cpu")
    write_grids(run / "grids.json", grids(made.checkpoint))
    return made


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_the_levels_of_the_grid_are_walked(model, run, tmp_path, sampler):
    options = {"sampler": sampler, "seed": 4}
    fitted = model.sample(2, steps=5, grid="fitted", **options)
    given = model.sample(2, steps=LEVELS[5], **options)
    assert np.array_equal(fitted.pixels, given.pixels)
    assert not np.array_equal(fitted.pixels, model.sample(2, steps=5, **options).pixels)
    assert fitted.record == {**given.record, "grid": "fitted"}
    assert fitted.record["levels"] == list(LEVELS[5])
    assert model.notes == []
    shutil.move(run / "grids.json", tmp_path / "mine.json")
    named = model.sample(2, steps="5", grid=tmp_path / "mine.json", **options)
    assert np.array_equal(named.pixels, fitted.pixels) and named.record["grid"] == str(tmp_path / "mine.json")


def test_a_uniform_grid_is_none(model):
    a, b = (model.sample(2, steps=5, sampler="ddim", grid=grid) for grid in (None, "uniform"))
    assert np.array_equal(a.pixels, b.pixels) and a.record == b.record and "grid" not in a.record


def test_a_number_is_a_number_and_a_spec_has_its_own_name(model):
    assert model.sample(2, steps="5").record == model.sample(2, steps=5).record
    record = model.sample(2, steps="2,3").record
    assert record["spec"] == "2,3" and record["steps"] == 5 and "grid" not in record and "levels" not in record


def test_by_default_50_steps_or_all_of_fewer(model):
    with pytest.raises(
        UserError, match="--steps 40: no grid of so many steps was fitted; there are those of 1, 3, 5"
    ):
        model.sample(1, grid="fitted", sampler="ddpm")


def test_a_checkpoint_finds_the_grids_of_its_run(model, run):
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert ddpm.load(checkpoint, "cpu").fitted(3).levels == LEVELS[3]


def test_a_grid_fitted_to_something_else_is_noted_once(model, run):
    plain = ddpm.load(run, "cpu", weights="model")
    for _ in range(2):
        assert plain.sample(1, steps=3, grid="fitted").record["levels"] == list(LEVELS[3])
    (note,) = plain.notes
    assert "fitted to another checkpoint (other, " in note and "ddpm evaluate" in note
    write_grids(run / "grids.json", grids(model.checkpoint, "small"))
    model.fitted(3)
    (note,) = model.notes
    assert "variance small, the model has large" in note


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 4}, "--steps 4: no grid of so many steps was fitted; there are those of 1, 3, 5"),
        ({"steps": "2,3"}, "--steps 2,3: a fitted grid takes a number of steps"),
        ({"steps": "ddim4"}, "--steps ddim4: a fitted grid takes a number of steps"),
        ({"steps": [4, 40]}, "a fitted grid takes a number of steps"),
        ({"steps": -3}, "--steps -3: a fitted grid takes a number of steps"),
        ({"steps": 3, "grid": "best"}, "--grid best: takes uniform, .*, fitted, or the path of a grids.json"),
    ],
)
def test_grids_there_are_not(model, options, message):
    with pytest.raises(UserError, match=message):
        model.sample(1, **{"grid": "fitted", **options})


def test_models_without_grids(run, tmp_path):
    with pytest.raises(UserError, match="zoo has no fitted grids yet; `ddpm evaluate MODEL"):
        ddpm.load(run, "cpu").sample(1, steps=3, grid="fitted")
    file = shutil.copy(next(run.glob("checkpoints/*/ema.safetensors")), tmp_path / "alone.safetensors")
    with pytest.raises(UserError, match=r"alone is no run; name a grids\.json"):
        ddpm.load(file, "cpu").sample(1, steps=3, grid="fitted")
    write_grids(tmp_path / "long.json", grids(T=50))
    with pytest.raises(UserError, match="its grids are of 50 levels, and alone has 40"):
        ddpm.load(file, "cpu").sample(1, steps=3, grid=tmp_path / "long.json")


def test_on_the_command_line(call, run, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = ["sample", "zoo", "-n", "2", "--no-film", "--device", "cpu", "--grid"]
    status, out, _ = call(*quick, "fitted", "--steps", "3")
    assert status == 0 and "dpm++sde with 3 fitted steps" in out and "note" not in out
    record = json.loads((tmp_path / "samples/zoo/samples.json").read_text())
    assert (record["grid"], record["steps"], record["levels"]) == ("fitted", 3, list(LEVELS[3]))
    write_grids(tmp_path / "g.json", grids("0" * 16))
    status, out, _ = call(*quick, "g.json", "--steps", "5")
    assert status == 0 and out.startswith("note: g.json: its grids were fitted to another checkpoint")
    assert out.count("note: ") == 1
    status, out, err = call(*quick, "fitted", "--steps", "7")
    assert status == 2 and not out and err.startswith("ddpm: --steps 7: no grid") and err.count("\n") == 1
