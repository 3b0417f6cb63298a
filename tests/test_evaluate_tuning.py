"""The tournament that `ddpm tune` is: what is tried, who goes on, and that a score is what it is said to be."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch

import tiny
from ddpm.errors import UserError
from ddpm.evaluate.features import open_features
from ddpm.evaluate.scores import Moments
from ddpm.evaluate.tuning import Bench, Contest, Refused, Rounds, by_sampler, contest, figure, front, settings
from ddpm.grids import Grid, Grids, write_grids
from ddpm.loading import load
from ddpm.respacing import GRIDS
from ddpm.samplers import SAMPLERS, make_sampler
from ddpm.store import Facts
from ddpm.tuned import Setting

NONE = Facts("zoo", 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuning")
    tiny.run(folder / "run", NONE)
    return folder


@pytest.fixture
def model(folder):
    return load(folder / "run", "cpu")


def some(count, evaluations=8):
    """Settings that differ in their churn alone."""
    steps = (evaluations + 1) // 2
    return [Setting(evaluations, "heun", steps, "edm", (("churn", float(k)),)) for k in range(count)]


def churn(one):
    return dict(one.options)["churn"]


# -- what is tried ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("evaluations", [1, 2, 5, 10, 20, 50])
def test_every_setting_takes_as_many_steps_as_the_evaluations_allow(model, evaluations):
    found = settings(model, evaluations)
    assert found and [one.cost for one in found] == sorted(one.cost for one in found)
    for one in found:
        sampler = make_sampler(one.sampler, **dict(one.options))
        assert one.evaluations == evaluations and sampler.evaluations(one.steps) == one.cost <= evaluations
        assert one.steps == 40 or sampler.evaluations(one.steps + 1) > evaluations
    walks = [(one.kind, one.method.chain(model.denoiser.native, model.fitted).gamma.tobytes()) for one in found]
    assert len(set(walks)) == len(walks)


def test_all_samplers_on_all_grids_with_what_makes_sense(model):
    found = settings(model, 20)
    for sampler in ("ddpm", "ddim", "dpm++", "dpm++sde", "heun"):
        assert {one.grid for one in found if one.kind == sampler} == set(GRIDS)
    assert {one.sampler for one in found} == set(SAMPLERS)
    assert {one.grid for one in found if one.sampler == "pc"} == {"uniform", "trailing"}
    (steps,) = {one.steps for one in found if one.sampler == "heun"}
    assert steps == 10 and "heun churn 1.5" in {one.kind for one in found}  # 0.15 a step
    few = settings(model, 10)
    assert "pc" not in {one.sampler for one in few} and "churn" not in " ".join(one.kind for one in few)


def test_ddim_with_noise_is_tried_where_it_is_not_ancestral_sampling(folder):
    small, large = (load(folder / "run", "cpu") for _ in range(2))
    small.denoiser, large.denoiser = small.denoiser.with_variance("small"), large.denoiser.with_variance("large")
    kinds = [{one.kind for one in settings(model, 5)} for model in (small, large)]
    assert kinds[1] - kinds[0] == {"ddim eta 1"} and not kinds[0] - kinds[1]


def test_a_walk_through_all_levels_is_tried_once(model):
    found = settings(model, 40, samplers=["ddim"], grids=["uniform", "trailing"])
    assert [(one.kind, one.grid, one.steps) for one in found] == [
        ("ddim", "uniform", 40),
        ("ddim eta 1", "uniform", 40),
    ]


def test_fitted_grids_are_tried_where_there_are_such(tmp_path):
    tiny.run(tmp_path / "run", NONE)
    model = load(tmp_path / "run", "cpu")
    levels = {3: (2, 17, 40), 5: (1, 4, 9, 20, 40)}
    assert not [one for one in settings(model, 5) if one.grid == "fitted"]
    write_grids(
        tmp_path / "run" / "grids.json",
        Grids(40, tuple(Grid(g, 1.0, 2.0) for g in levels.values()), "small", 9, 0),
    )
    found = [one for one in settings(model, 5) if one.grid == "fitted"]
    assert {one.sampler: one.steps for one in found} == {
        "ddpm": 5,
        "ddim": 5,
        "dpm++": 5,
        "dpm++sde": 5,
        "heun": 3,
    }
    assert not [one for one in settings(model, 6) if one.grid == "fitted" and one.sampler != "heun"]


# -- the tournament ---------------------------------------------------------------------------------------------


class Told:
    """Distances that are told in advance, of (setting, pictures, seed); keeps what was asked."""

    def __init__(self, distance):
        self.distance, self.asked = distance, []

    def __call__(self, one, n, seed):
        self.asked.append((one, n, seed))
        return self.distance(one, n, seed)


def test_who_goes_on():
    told = Told(lambda one, n, seed: abs(churn(one) - 4.0) + 100.0 / n)
    made = contest(8, some(10), Rounds(500, 7), told, lambda: True)
    few, full, again = told.asked[:10], told.asked[10:14], told.asked[14:]
    assert [churn(one) for one, _, _ in few] == list(range(10)) and {(n, s) for _, n, s in few} == {(100, 7)}
    assert sorted(churn(one) for one, _, _ in full) == [3, 4, 5, 6] or sorted(
        churn(one) for one, _, _ in full
    ) == [2, 3, 4, 5]  # 2 and 6 are as near
    assert {(n, s) for _, n, s in full} == {(500, 7)}
    assert [(n, s) for _, n, s in again] == [(500, 8), (500, 9)] * 2
    assert made.whole and churn(made.ranked[0].setting) == 4.0 and churn(made.ranked[1].setting) in (3.0, 5.0)
    assert made.ranked[0].scores == (0.2, 0.2, 0.2) and made.ranked[0].tried == 10 and made.sure
    assert list(made.few.values()) == sorted(made.few.values()) and next(iter(made.full.values())) == 0.2


def test_more_seeds_may_turn_it_round():
    table = {0.0: (1.0, 5.0, 5.0), 1.0: (2.0, 2.0, 2.0), 2.0: (9.0, 0.0, 0.0)}
    made = contest(8, some(3), Rounds(10), lambda one, n, seed: table[churn(one)][seed], lambda: True)
    assert [churn(one.setting) for one in made.ranked] == [1.0, 0.0] and not made.sure
    assert made.ranked[0].score == 2.0 and made.ranked[1].score == pytest.approx(11 / 3)


def test_few_pictures_are_drawn_once_only():
    """Below 200 there is no first round of few, which are never less than 100."""
    told = Told(lambda one, n, seed: churn(one))
    contest(8, some(6), Rounds(199), told, lambda: True)
    assert (
        {n for _, n, _ in told.asked} == {199}
        and Rounds(199).few == 199
        and Rounds(200).few == Rounds(500).few == 100
    )
    assert Rounds(199).third(6) == 6 and Rounds(200).third(6) == 2 and Rounds(200).third(1) == 1
    assert Rounds(1000).third(31) == 11


def test_one_alone_wins():
    made = contest(8, some(1), Rounds(10), lambda one, n, seed: 1.0, lambda: True)
    assert made.whole and made.sure and len(made.ranked) == 1


@pytest.mark.parametrize("stop", range(15))
def test_nothing_is_begun_once_the_budget_is_over(stop):
    """10 with few, 4 with all, then 2 times 2 again: whole after 18."""
    left = itertools.count()
    told = Told(lambda one, n, seed: churn(one))
    made = contest(8, some(10), Rounds(500), told, lambda: next(left) < stop)
    assert len(told.asked) == stop and not made.whole and not made.ranked
    assert len(made.few) == min(stop, 10) and len(made.full) == max(0, min(stop - 10, 4))


def test_what_cannot_be_walked_is_left_out():
    def distance(one, n, seed):
        if churn(one) == 0.0:
            raise Refused("no such walk")
        return churn(one)

    made = contest(8, some(4), Rounds(10), distance, lambda: True)
    assert list(made.refused.values()) == ["no such walk"] and made.ranked[0].tried == 3
    none = contest(8, some(1), Rounds(10), distance, lambda: True)
    assert not none.whole and not none.ranked


def test_the_work_is_what_it_will_be():
    told = Told(lambda one, n, seed: churn(one))
    rounds = Rounds(500)
    contest(8, some(10), rounds, told, lambda: True)
    drawn = {}
    for one, n, seed in told.asked:
        drawn[one, seed] = max(n, drawn.get((one, seed), 0))  # those of the first round are among the others
    assert rounds.work(some(10)) == 7 * sum(drawn.values())


def test_seeds_wrap():
    assert Rounds(10, 2**64 - 1).seeds == (2**64 - 1, 0, 1)


def test_the_front_is_what_none_beats():
    rng = np.random.default_rng(3)
    points = [
        (Setting(50, "ddim", int(k), "uniform"), float(score))
        for k, score in zip(rng.integers(1, 12, 60), rng.integers(1, 30, 60), strict=True)
    ]
    found = front(points)
    for one, score in points:
        beaten = any((a.cost <= one.cost and b <= score) and (a.cost < one.cost or b < score) for a, b in points)
        assert beaten != ((one.cost, score) in [(a.cost, b) for a, b in found])
    assert [one.cost for one, _ in found] == sorted({one.cost for one, _ in found})


def ended(evaluations, few, full):
    """A contest by distances of (sampler, grid)."""
    of = {
        key: Setting(evaluations, key[0], (evaluations + 1) // 2 if key[0] == "heun" else evaluations, key[1])
        for key in few
    }
    made = Contest(evaluations, tuple(of.values()))
    made.few = {of[key]: value for key, value in sorted(few.items(), key=lambda item: item[1])}
    made.full = {of[key]: value for key, value in sorted(full.items(), key=lambda item: item[1])}
    return made


FEW = {("ddim", "uniform"): 9.0, ("ddim", "edm"): 8.0, ("heun", "edm"): 7.0, ("ddpm", "uniform"): 99.0}


def test_of_each_sampler_the_best():
    contests = [
        ended(10, FEW, {("ddim", "edm"): 6.0, ("heun", "edm"): 5.0}),
        ended(5, FEW, {("ddim", "edm"): 16.0, ("ddim", "uniform"): 15.0}),
    ]
    found = by_sampler(contests, "full")
    assert list(found) == ["ddim", "heun"]
    assert [(one.evaluations, one.grid, score) for one, score in found["ddim"]] == [
        (5, "uniform", 15.0),
        (10, "edm", 6.0),
    ]
    assert [one.cost for one, _ in found["heun"]] == [9]
    assert list(by_sampler(contests, "few")) == ["ddpm", "ddim", "heun"]


def test_the_figure_has_a_row_for_each_number_of_pictures():
    contests = [
        ended(5, FEW, {("ddim", "edm"): 6.0}),
        ended(10, FEW, {("ddim", "edm"): 3.0, ("heun", "edm"): 2.0}),
    ]
    made = figure(contests, Rounds(1000), "of a test")
    words = " ".join(text.get_text() for text in made.texts)
    assert "1,000 pictures each, the best third" in words and "200 pictures each, all settings" in words
    full, few = made.axes
    assert [text.get_text() for text in full.texts] == ["Pareto front", "ddim", "heun"]
    assert [text.get_text() for text in few.texts] == ["Pareto front", "ddim", "heun", "ddpm"]
    assert [text.get_color() for text in few.texts[:3]] == [text.get_color() for text in full.texts]
    made.canvas.draw()
    assert [text.get_text() for text in full.get_xticklabels()] == ["5", "10"]
    np.testing.assert_array_equal(full.lines[0].get_xydata(), [(5, 6.0), (9, 2.0)])
    assert len(figure(contests, Rounds(100)).axes) == 1


# -- a score ----------------------------------------------------------------------------------------------------


def features(pixels):
    """Three numbers of a picture."""
    x = pixels.float() / 255.0
    return torch.stack([x.mean((1, 2, 3)), x[..., :4].mean((1, 2, 3)), x.var((1, 2, 3))], dim=1)


@pytest.fixture
def bench(model, tmp_path):
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(50, 3))

    def made(**options):
        net = open_features(features, key="three-1")
        return Bench(model, net, Moments.of(reference), tmp_path / "settings", {"checkpoint": "x"}, **options)

    made.reference = reference
    return made


ONE = Setting(5, "ddim", 5, "quadratic")


def by_hand(model, reference, n, seed, **asked):
    """The Fréchet distance with scipy's square root, of pictures as a user draws them."""
    x = features(torch.from_numpy(model.sample(n, seed=seed, **asked).pixels)).double().numpy()
    a, b = np.cov(x.T), np.cov(reference.T)
    root = scipy.linalg.sqrtm(a @ b).real
    return ((x.mean(0) - reference.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)


@pytest.mark.parametrize(
    ("one", "asked"),
    [
        (ONE, {"sampler": "ddim", "steps": 5, "grid": "quadratic"}),
        (
            Setting(7, "heun", 4, "edm", (("churn", 0.6),)),
            {"sampler": "heun", "steps": 4, "grid": "edm", "churn": 0.6},
        ),
    ],
)
def test_a_score_is_the_distance_of_what_a_user_would_get(model, bench, one, asked):
    for n, seed in ((9, 0), (12, 3)):
        assert bench(batch=4)(one, n, seed) == pytest.approx(
            by_hand(model, bench.reference, n, seed, **asked), rel=1e-5
        )


def test_pictures_are_drawn_once(bench, tmp_path):
    told = []
    first = bench(batch=4, tell=told.append)
    few = first(ONE, 6, 0)
    assert first.drawn == 6 and told[-1] == 6 * 5 and told == sorted(told)
    full = first(ONE, 10, 0)
    assert first.drawn == 10 and told[-1] == 10 * 5 == first.done
    first(ONE, 10, 1)
    assert first.drawn == 20 and first.done == 100
    again = bench()
    assert (again(ONE, 6, 0), again(ONE, 10, 0)) == (few, full) and again.drawn == 0 and again.done == 50
    assert again(Setting(5, "ddim", 5, "uniform"), 6, 0) != few and again.drawn == 6


def test_what_is_damaged_is_drawn_again(bench, tmp_path):
    right = bench(batch=4)(ONE, 10, 0)
    (folder,) = (tmp_path / "settings").iterdir()
    (folder / "score-10.json").write_text('{"distance": "near"}')
    assert bench()(ONE, 10, 0) == right
    (folder / "score-10.json").unlink()
    part = sorted((folder / "parts").iterdir())[1]
    part.write_bytes(part.read_bytes()[:100])
    mended = bench(batch=4)
    assert mended(ONE, 10, 0) == pytest.approx(right, rel=1e-6) and mended.drawn == 4


def test_another_key_is_another_folder(bench, tmp_path):
    bench()(ONE, 4, 0)
    other = bench()
    other.key = {"checkpoint": "y"}
    other(ONE, 4, 0)
    assert other.drawn == 4 and len(list((tmp_path / "settings").iterdir())) == 2


def test_a_walk_that_is_refused_says_which(bench):
    with pytest.raises(Refused, match=r"^ddim eta 2, 5 steps, uniform: --eta 2.0: lies between 0"):
        bench()(Setting(5, "ddim", 5, "uniform", (("eta", 2.0),)), 4, 0)
    assert issubclass(Refused, UserError)
