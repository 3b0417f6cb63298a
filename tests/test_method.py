"""Sampler, steps and grid as they are asked for, and what is taken where they are not."""

import numpy as np
import pytest

from ddpm.chain import make_chain
from ddpm.errors import UserError
from ddpm.grids import Grid
from ddpm.method import DEFAULT, USUAL, Method
from ddpm.respacing import GRIDS
from ddpm.samplers import DDIM, SAMPLERS, Heun, make_sampler

NATIVE = make_chain("cosine", 400)
STEPS, GRID = USUAL[DEFAULT]
OF_DEFAULT = make_sampler(DEFAULT)


def taken(method: Method, T: int = 1000):
    made = method.resolved(T)
    return made.sampler, made.steps, made.grid


def none_fitted(steps, grid):
    raise AssertionError(f"a fitted grid was asked for: {steps} {grid}")


def test_there_is_a_usual_method_of_every_sampler():
    assert (
        set(USUAL) == set(SAMPLERS) and DEFAULT in SAMPLERS and {grid for _, grid in USUAL.values()} <= set(GRIDS)
    )
    for name, (steps, grid) in USUAL.items():
        assert taken(Method(name)) == (name, steps or 1000, grid)
    assert Method().resolved(1000) == Method(DEFAULT).resolved(1000) and Method().resolved(9).make() == OF_DEFAULT


@pytest.mark.parametrize(
    "method, expected",
    [
        (Method("ddpm"), ("ddpm", 1000, "uniform")),
        (Method("pc"), ("pc", 1000, "uniform")),
        (Method("ddim"), ("ddim", 50, "uniform")),
        (Method(steps=7), (DEFAULT, 7, GRID)),
        (Method(steps=" 7 "), (DEFAULT, 7, GRID)),
        (Method(grid="quadratic"), (DEFAULT, STEPS, "quadratic")),
        (Method(grid="edm:3", steps=5), (DEFAULT, 5, "edm:3")),
        (Method("ddpm", grid="edm"), ("ddpm", 1000, "edm")),
        # a spec that is no number goes with the grid that takes it
        (Method(steps="10,15,20"), (DEFAULT, "10,15,20", "uniform")),
        (Method("heun", "ddim25"), ("heun", "ddim25", "uniform")),
        (Method(steps=[1, 5, 9]), (DEFAULT, (1, 5, 9), "uniform")),
        (Method(steps=iter([1, 5, 9])), (DEFAULT, (1, 5, 9), "uniform")),
        # of a fitted grid there are 50 steps of whatever takes all of the chain
        (Method("ddpm", grid="fitted"), ("ddpm", 50, "fitted")),
        (Method("ddim", grid="mine.json"), ("ddim", 50, "mine.json")),
        (Method(grid="fitted"), (DEFAULT, STEPS, "fitted")),
    ],
    ids=str,
)
def test_what_is_left_out_is_chosen(method, expected):
    assert taken(method) == expected
    again = method.resolved(1000)
    assert again.resolved(1000) == again


def test_no_more_steps_than_the_chain_has():
    assert [taken(Method(name), 8)[1] for name in SAMPLERS] == [8] * len(SAMPLERS)
    assert taken(Method("ddim", 90), 8)[1] == 90  # what is asked for is refused by the chain, not mended
    with pytest.raises(UserError, match="steps"):
        Method("ddim", 90).resolved(8).chain(make_chain("cosine", 8), none_fitted)


@pytest.mark.parametrize(
    "method, said",
    [
        (Method("euler"), "--sampler euler: takes ddpm"),
        (Method(options={"eta": 0.5}), "--eta 0.5: belongs to the sampler ddim"),
        (Method("ddim", options={"eta": 2.0}), "--eta 2.0: lies between"),
        (Method("ddpm", options={"churn": 1.0}), "--churn 1.0: belongs to the sampler heun"),
    ],
    ids=str,
)
def test_what_does_not_go_together(method, said):
    with pytest.raises(UserError, match=said):
        method.resolved(1000)


def test_what_was_tuned_is_taken_where_nothing_else_is_asked_for():
    asked = []

    def tuned(steps):
        asked.append(steps)
        return Method("heun", 5, "edm", {"churn": 2.0}) if steps in (None, 10) else None

    assert Method().resolved(1000, tuned) == Method("heun", 5, "edm", {"churn": 2.0})
    assert Method(steps="10").resolved(1000, tuned).make() == Heun(2.0)
    assert Method(steps=11).resolved(1000, tuned) == Method(DEFAULT, 11, GRID)
    assert asked == [None, 10, 11]
    for method in (
        Method("dpm++"),
        Method(grid="edm"),
        Method(steps="5,5"),
        Method(steps=[10]),
        Method("heun", options={"churn": 1.0}),
    ):
        assert method.resolved(1000, tuned) == method.resolved(1000) and len(asked) == 3


def test_as_pipelines_are_asked():
    assert Method.of("ddim", 5, eta=0.5) == Method("ddim", 5, None, {"eta": 0.5})
    assert Method.of("ddim", 5, eta=0.5).make() == DDIM(0.5)
    assert Method().open and Method(steps=5).open and not Method(options={"eta": 0.0}).open


@pytest.mark.parametrize("grid", GRIDS)
def test_the_chain_is_the_grid(grid):
    method = Method("ddim", 12, grid).resolved(400)
    expected = NATIVE.respace(12, grid)
    chain = method.chain(NATIVE, none_fitted)
    assert np.array_equal(chain.gamma, expected.gamma) and np.array_equal(chain.timestep, expected.timestep)
    listed = Method(steps=[3, 50, 400]).resolved(400).chain(NATIVE, none_fitted)
    assert listed.timestep.tolist() == [-1.0, 2.0, 49.0, 399.0]


def test_a_fitted_grid_is_looked_for():
    def fitted(steps, grid):
        assert (steps, grid) == (3, "mine.json")
        return Grid((7, 90, 400), 1.0, 1.1)

    method = Method("ddim", "3", "mine.json").resolved(400)
    chain = method.chain(NATIVE, fitted)
    assert method.fitted and chain.timestep.tolist() == [-1.0, 6.0, 89.0, 399.0]
    about = method.about(NATIVE, chain)
    assert about == {
        "sampler": "ddim", "steps": 3, "evaluations": 3, "eta": 0.0, "grid": "mine.json", "levels": [7, 90, 400]
    }  # fmt: skip


def test_an_unknown_grid_is_taken_for_a_file():
    assert Method(grid="even").resolved(400).fitted and not Method(grid="edm:5").resolved(400).fitted


def test_what_a_record_says():
    def said(method: Method):
        made = method.resolved(400)
        return made.about(NATIVE, made.chain(NATIVE, none_fitted))

    assert said(Method("ddim", 6, options={"eta": 0.5})) == {
        "sampler": "ddim", "steps": 6, "evaluations": 6, "eta": 0.5
    }  # fmt: skip
    assert said(Method("heun", 6, "edm", {"churn": 2.0, "churn_range": (0.1, 9.0)})) == {
        "sampler": "heun", "steps": 6, "evaluations": 11, "grid": "edm", "churn": 2.0, "churn_range": [0.1, 9.0]
    }  # fmt: skip
    assert said(Method("pc", "ddim40", options={"corrections": 2})) == {
        "sampler": "pc", "steps": 40, "evaluations": 120, "spec": "ddim40", "corrections": 2
    }  # fmt: skip
    assert said(Method(steps=[1, 9, 400]))["levels"] == [1, 9, 400]
