"""The best grids: predicted bounds against those measured step by step, and against every grid there is."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from ddpm.chain import make_chain
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.evaluate.likelihood import bound_levels, likelihood
from ddpm.evaluate.spacing import (
    Costs,
    best_grids,
    costs,
    figure,
    first_levels,
    fit_grids,
    grids_of,
    measure,
)
from ddpm.gaussian import Gaussian
from ddpm.grids import Grid, Grids
from test_draw_plots import check_layout

VARIANCES = ("small", "large", "learned_range", "learned")
NUMBERS = torch.tensor([3, 11, 12, 40, 7])


class Net(nn.Module):
    """A smooth function of x, t and label that predicts v badly; its variance output differs by pixel."""

    def __init__(self, variance: str):
        super().__init__()
        self.variance = variance

    def forward(self, x, t, label=None):
        shape = (-1, 1, 1, 1)
        mean = -0.6 * x * torch.sin(t / 40).view(shape)
        if label is not None:
            mean = mean + 0.1 * label.view(shape)
        if self.variance in ("small", "large"):
            return mean
        wave = torch.tanh(3 * x.flip(-1) + t.view(shape) / 30)
        # a place between −0.1 and 1.1; or log-variances about the chain's own, on both sides of its limits
        return torch.cat([mean, 1.2 * wave if self.variance == "learned_range" else 2 * wave - 5], 1)


def model(variance, T, schedule="cosine", predicts="v"):
    return Denoiser(Net(variance), make_chain(schedule, T), predicts, variance)


@pytest.fixture(scope="module")
def x0():
    """Pictures of 1 x 6 x 6 with black and white borders, whose bins are open."""
    pixels = torch.randint(0, 256, (5, 1, 6, 6), generator=torch.Generator().manual_seed(0))
    pixels[:, :, 0], pixels[:, :, -1] = 0, 255
    return pixels.double() / 127.5 - 1.0


def measured(made, x0, grid, **options):
    """The bound of the respaced model, step by step."""
    return likelihood(made.respace(list(grid)), x0, NUMBERS, **options).total.mean().item()


# -- against every grid --------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("schedule, predicts", [("cosine", "v"), ("sigmoid", "mean")])
def test_of_all_grids_the_one_of_the_least_bound_is_found(x0, variance, schedule, predicts):
    T = 7
    made = model(variance, T, schedule, predicts)
    found = fit_grids(made, [(x0, NUMBERS, {})])
    predicted = costs(measure(made, x0, NUMBERS), made.chain)
    # all levels of a learned variance are the chain itself, which has no limits for it, unlike any other grid
    assert [grid.steps for grid in found.grids] == list(range(1, T if variance == "learned" else T + 1))
    for grid in found.grids:
        every = {
            (*below, T): measured(made, x0, (*below, T))
            for below in itertools.combinations(range(1, T), grid.steps - 1)
        }
        best = min(every, key=every.get)
        assert grid.levels == best and grid.bits == pytest.approx(every[best], abs=1e-8)
        # every other grid too is predicted as it is measured
        assert [predicted.bound(levels) for levels in every] == pytest.approx([*every.values()], rel=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_dynamic_programming_is_the_least_over_all_subsets(seed):
    T, rng = 9, np.random.default_rng(seed)
    lower = np.tril(np.ones((T + 1, T + 1), bool), -1)
    lower[:, 0] = False
    steps = np.where(lower, rng.random((T + 1, T + 1)), np.inf)
    decoder = np.where(lower, 3 * rng.random((T + 1, T + 1)), np.inf)
    decoder[:, 3] = np.inf  # a level that no grid may start from
    made = Costs(0.25, steps, decoder, 2.0)
    found = best_grids(made, [5, 1, T - 1, 2])
    assert list(found) == [1, 2, 5, T - 1] and found[1] == (T,) and made.bound(found[1]) == 2.25
    for k in (2, 5, T - 1):
        sums = {}
        for below in itertools.combinations(range(1, T), k - 1):
            levels = (*below, T)
            pairs = zip(levels[1:], levels, strict=False)
            sums[levels] = 0.25 + decoder[levels[1], levels[0]] + sum(steps[t, s] for t, s in pairs)
        assert found[k] == min(sums, key=sums.get)
        assert made.bound(found[k]) == pytest.approx(min(sums.values()), abs=1e-12)


# -- on longer chains ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule, variance",
    [("linear", "small"), ("cosine", "large"), ("cosine", "learned_range"), ("linear", "learned")],
)
def test_what_is_predicted_is_what_is_measured_and_no_even_grid_is_better(x0, schedule, variance):
    T = 90
    made = model(variance, T, schedule)
    predicted = costs(measure(made, x0, NUMBERS, seed=5), made.chain)
    other = {k: list(bound_levels(k, T)) for k in (4, 10, 20)}
    found = best_grids(predicted, [1, 2, 5, 10, 20, *map(len, other.values())])
    # the shortest and the longest steps, where interpolation has the most to bridge
    extreme = [[1, T], [1, 2, T], [75, T], [1, 80, 81, T], [*range(1, T - 1), T]]
    for grid in (*found.values(), *extreme, *other.values()):
        assert predicted.bound(grid) == pytest.approx(measured(made, x0, grid, seed=5), rel=1e-6)
    for k in (2, 5, 10, 20):
        even = [0, *np.round(np.linspace(1, T, k)).astype(int).tolist()][1:]
        assert predicted.bound(found[k]) <= predicted.bound(even)
    for grid in other.values():  # all of 1 … T/K and K even ones
        assert predicted.bound(found[len(grid)]) <= predicted.bound(grid)


def test_another_decoder_labels_and_a_respaced_model(x0):
    label = torch.tensor([0, 1, 2, 1, 0])
    made = model("learned", 60).respace(list(range(3, 61, 3)))
    predicted = costs(measure(made, x0, NUMBERS, 2, Gaussian.log_density, label=label), made.chain)
    assert predicted.T == 20
    for grid in ([20], [4, 9, 20], [1, 2, 3, 20], range(1, 21)):
        bits = measured(made, x0, grid, seed=2, decoder=Gaussian.log_density, label=label)
        assert predicted.bound(list(grid)) == pytest.approx(bits, rel=1e-6)


def test_the_shortest_chain_has_two_grids_and_one_step_leaves_no_choice(x0):
    made = model("small", 2)
    found = fit_grids(made, [(x0, NUMBERS, {})])
    assert [grid.levels for grid in found.grids] == [(2,), (1, 2)]
    for grid in found.grids:
        assert grid.bits == grid.even == pytest.approx(measured(made, x0, grid.levels), abs=1e-12)
    with pytest.raises(UserError, match="a chain of one step leaves nothing to choose"):
        fit_grids(model("small", 1), [(x0, NUMBERS, {})])


def test_levels_to_start_from_are_all_low_ones_and_2_percent_apart_above():
    for T in (1, 2, 10, 75, 80, 1000, 4000):
        found = first_levels(T)
        assert found[0] == 1 and found[-1] == T and found[: min(T, 75)] == list(range(1, min(T, 75) + 1))
        assert all(0 < b - a <= max(1.0, 0.02 * a + 0.5) for a, b in itertools.pairwise(found))
    assert len(first_levels(4000)) < 300


# -- pictures in batches -------------------------------------------------------------------------------------


def test_batches_add_up_whatever_their_size_and_say_how_far_they_are(x0):
    made, told = model("learned_range", 12), []
    whole = fit_grids(made, [(x0, NUMBERS, {})])
    parts = [(x0[:2], NUMBERS[:2], {}), (x0[2:], NUMBERS[2:], {})]
    split = fit_grids(made, iter(parts), progress=lambda *now: told.append(now), count=2)
    assert told == [(k, 24) for k in range(1, 25)]
    assert whole.pictures == split.pictures == 5 and whole.variance == "learned_range" and whole.T == 12
    assert [grid.levels for grid in split.grids] == [grid.levels for grid in whole.grids]
    for a, b in zip(whole.grids, split.grids, strict=True):
        assert (a.bits, a.even) == pytest.approx((b.bits, b.even), abs=1e-12)
    without = []
    fit_grids(made, parts, progress=lambda *now: without.append(now))
    assert without[0] == (1, 12) and without[-1] == (24, 24)


def test_which_numbers_of_steps_are_kept(x0):
    def kept(T, *most):
        made = model("small", T)
        sums = measure(made, x0[:1], NUMBERS[:1])
        return [[grid.steps for grid in grids_of(sums, made, k).grids] for k in most]

    assert kept(9, 100, 4) == [list(range(1, 10)), [1, 2, 3, 4]]
    assert kept(130, 100, 3) == [[*range(1, 101), 125], [1, 2, 3, 125]]


def test_the_seed_makes_the_noise(x0):
    made = model("large", 12)
    a, b, again = (fit_grids(made, [(x0, NUMBERS, {})], seed=seed) for seed in (0, 1, 0))
    assert a == again and a.seed == 0 and a.grids[3].bits != b.grids[3].bits


class Broken(nn.Module):
    def forward(self, x, t):
        return x * math.nan


def test_what_cannot_be_fitted(x0):
    made = model("small", 6)
    with pytest.raises(UserError, match="there are no pictures"):
        fit_grids(made, [])
    with pytest.raises(UserError, match="number of steps 0: is at least 1"):
        fit_grids(made, [(x0, NUMBERS, {})], most=0)
    with pytest.raises(UserError, match="not a finite number"):
        fit_grids(Denoiser(Broken(), make_chain("cosine", 6)), [(x0, NUMBERS, {})])
    predicted = costs(measure(made, x0, NUMBERS), made.chain)
    for counts in ([], [0, 2], [2, 7]):
        with pytest.raises(UserError, match="lie between 1 and 6"):
            best_grids(predicted, counts)


# -- the figure ----------------------------------------------------------------------------------------------


def test_the_figure_shows_both_bounds_and_the_levels():
    grids = Grids(20, (Grid((20,), 5.0, 5.0), Grid((3, 20), 4.0, 6.0), Grid((2, 7, 20), 3.5, 5.5)), "small", 8, 0)
    above, below = figure(grids, shown=(2, 3, 50)).axes
    fitted, even = above.lines
    assert fitted.get_xdata().tolist() == even.get_xdata().tolist() == [1, 2, 3]
    assert fitted.get_ydata().tolist() == [5.0, 4.0, 3.5] and even.get_ydata().tolist() == [5.0, 6.0, 5.5]
    assert [text.get_text() for text in above.texts] == ["fitted", "even"]
    assert [text.get_text() for text in below.texts] == ["2 steps", "3 steps"]
    dots = [line.get_xdata().tolist() for line in below.lines if line.get_linestyle() == "None"]
    assert dots == [[3, 20], [2, 7, 20]] and below.get_xscale() == "log"
    drawn = figure(grids, shown=(), about="fashion on 8 pictures of flowers, evenly spread over its 1,000.")
    check_layout(drawn)
    assert len(drawn.axes) == 1
    under = drawn.texts[0].get_text()
    assert under.count("\n") >= 1 and under.replace("\n", " ").endswith(
        "1,000. Even: K evenly spaced levels alone."
    )
