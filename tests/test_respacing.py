"""Grids of levels against their formulas, written again; the specs of `levels` are in test_chain.py."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from ddpm.chain import Chain, make_chain
from ddpm.errors import UserError
from ddpm.respacing import GRIDS, known, spaced
from oracle import cosine_betas, linear_betas

CHAINS = {"linear": linear_betas(1000), "cosine": cosine_betas(1000), "short": linear_betas(30)}
BETWEEN = ("quadratic", "log-snr", "edm")


def gammas(name: str) -> np.ndarray:
    """γ_1 … γ_T, from Ho et al.'s ᾱ."""
    bar = np.cumprod(1.0 - CHAINS[name])
    return np.log((1.0 - bar) / bar)


def chain_of(name: str) -> Chain:
    return Chain.from_betas(CHAINS[name])


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 30])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", CHAINS)
def test_every_grid_has_so_many_levels_within_the_chain(name, grid, steps):
    native, chain = chain_of(name), chain_of(name).respace(steps, grid)
    assert steps == chain.T and chain.gamma[0] == -math.inf and chain.timestep[0] == native.timestep[0]
    assert np.all(np.diff(chain.gamma) > 0) and np.all(np.diff(chain.timestep) > 0)
    assert native.gamma[1] - 1e-9 <= chain.gamma[1] and chain.gamma[-1] <= native.gamma[-1] + 1e-9
    told = np.interp(chain.gamma[1:], native.gamma[1:], native.timestep[1:])
    np.testing.assert_allclose(chain.timestep[1:], told, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("grid", ["uniform", "trailing", "quadratic"])
@pytest.mark.parametrize("name", CHAINS)
def test_grids_in_t_begin_at_the_top(name, grid):
    native = chain_of(name)
    for steps in (1, 2, 9, native.T):
        assert native.respace(steps, grid).gamma[-1] == native.gamma[-1]
    assert native.respace(1, grid).timestep[1] == native.T - 1.0
    whole = native.respace(native.T, grid)
    if grid != "quadratic":
        np.testing.assert_array_equal(whole.gamma, native.gamma)


def test_trailing_is_that_of_diffusers():
    """Theirs adds up T/K: of many steps it rounds a half otherwise, or has one step too many."""
    native = chain_of("linear")
    for steps in [*range(1, 48), 50, 100, 125, 200, 250, 500, 1000]:
        scheduler = DDIMScheduler(num_train_timesteps=1000, timestep_spacing="trailing")
        scheduler.set_timesteps(steps)
        assert native.respace(steps, "trailing").timestep[:0:-1].tolist() == scheduler.timesteps.tolist()


def test_quadratic_begins_at_the_top_whatever_rounding_makes_of_the_root():
    for T in range(21, 60):
        native = Chain.from_betas(linear_betas(T))
        assert native.respace(5, "quadratic").timestep[-1] == native.timestep[-1]


@pytest.mark.parametrize("name", CHAINS)
def test_quadratic_grows_as_a_square(name):
    """√t is even, from 1 to √T."""
    native = chain_of(name)
    for steps in (2, 8, 20):
        t = native.respace(steps, "quadratic").timestep[1:] + 1.0
        gaps = np.diff(np.sqrt(t))
        # γ is linear between levels, and t with it: places are as asked for to less than rounding
        np.testing.assert_allclose(gaps, (math.sqrt(native.T) - 1.0) / (steps - 1), rtol=1e-6)
        assert t[0] == pytest.approx(1.0) and t[-1] == pytest.approx(native.T)


@pytest.mark.parametrize("name", CHAINS)
def test_log_snr_is_even_in_log_snr_up_to_a_ratio_of_80(name):
    gamma = gammas(name)
    top = min(gamma[-1], 2.0 * math.log(80.0))
    for steps in (2, 8, 20):
        expected = np.linspace(gamma[0], top, steps)
        np.testing.assert_allclose(chain_of(name).respace(steps, "log-snr").gamma[1:], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "grid, rho", [("edm", 7.0), ("edm:7", 7.0), ("edm:3", 3.0), ("edm:1", 1.0), ("edm:0.5", 0.5)]
)
@pytest.mark.parametrize("name", CHAINS)
def test_edm_is_equation_5_of_karras_et_al(name, grid, rho):
    u = np.exp(0.5 * gammas(name))
    low, high = u[0], min(u[-1], 80.0)
    for steps in (2, 8, 20):
        i = np.arange(steps)
        sigma = (high ** (1 / rho) + i / (steps - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        ours = np.exp(0.5 * chain_of(name).respace(steps, grid).gamma[:0:-1])
        np.testing.assert_allclose(ours, sigma, rtol=1e-8)


@pytest.mark.parametrize("grid", BETWEEN)
def test_a_walk_of_one_step_starts_from_pure_noise(grid):
    assert chain_of("cosine").respace(1, grid).timestep[1] == 999.0


def test_the_top_of_a_cosine_chain_is_left_out_where_there_is_nothing_to_see():
    native = chain_of("cosine")
    assert math.exp(0.5 * native.gamma[-1]) > 19_000
    for grid in ("log-snr", "edm"):
        assert math.exp(0.5 * native.respace(20, grid).gamma[-1]) == pytest.approx(80.0)


def test_a_chain_of_one_level_is_its_own_grid():
    native = Chain.from_betas([0.5])
    assert all(native.respace(1, grid).gamma.tolist() == native.gamma.tolist() for grid in GRIDS)


def test_a_chain_wholly_above_a_ratio_of_80():
    """Every grid still has so many levels of it."""
    native = Chain.from_betas([0.9999, 0.5, 0.5])
    for grid in GRIDS:
        for steps in (1, 2, 3):
            made = native.respace(steps, grid)
            assert steps == made.T and made.gamma[1] >= native.gamma[1] and made.gamma[-1] <= native.gamma[-1]


@pytest.mark.parametrize(
    "spec, grid, said",
    [
        (0, "edm", "--steps 0: the chain has 30 levels; take 1 to 30"),
        (31, "trailing", "--steps 31: the chain has 30 levels; take 1 to 30"),
        ("10,5", "log-snr", "--steps 10,5: --grid log-snr takes a number of steps, as 20"),
        ("ddim10", "edm:5", "--steps ddim10: --grid edm:5 takes a number"),
        ([1, 2], "quadratic", r"--steps \[1, 2\]: --grid quadratic takes a number"),
        (-3, "trailing", "--steps -3: --grid trailing takes a number"),
        (
            5,
            "even",
            r"--grid even: takes uniform, trailing, quadratic, log-snr, edm, as in edm:7, fitted, or a file",
        ),
        (5, "EDM", "--grid EDM: takes uniform"),
        (5, "edm:0", "--grid edm:0: takes a positive power, as edm:7"),
        (5, "edm:-2", "--grid edm:-2: takes a positive power"),
        (5, "edm:x", "--grid edm:x: takes a positive power"),
        (5, "edm:inf", "--grid edm:inf: takes a positive power"),
        (5, "edm:nan", "--grid edm:nan: takes a positive power"),
        (5, "log-snr:4", "--grid log-snr:4: takes uniform, trailing"),
        (5, "uniform:4", "--grid uniform:4: takes uniform, trailing"),
        (5, "edm:", "--grid edm:: takes a positive power"),
        (1, "edm:x", "--grid edm:x: takes a positive power"),
    ],
)
def test_grids_there_are_not(spec, grid, said):
    with pytest.raises(UserError, match=said):
        chain_of("short").respace(spec, grid)


def test_which_names_are_known():
    assert all(known(grid) for grid in (*GRIDS, "edm:5")) and not any(
        known(text) for text in ("fitted", "g/grids.json", "", "Edm", "even", "log-snr:3")
    )


def test_spaced_is_float64():
    assert all(spaced(chain_of("short").gamma, 5, grid).dtype == np.float64 for grid in GRIDS[1:])


# -- levels between levels ------------------------------------------------------------------------------------


def test_between_tells_the_net_a_timestep_between():
    native = make_chain("cosine", 50, rescale=True)
    middle = 0.5 * (native.gamma[20] + native.gamma[21])
    quarter = 0.75 * native.gamma[3] + 0.25 * native.gamma[4]
    chain = native.between([native.gamma[1], quarter, middle, native.gamma[-1]])
    np.testing.assert_allclose(chain.timestep, [-20.0, 0.0, 45.0, 390.0, 980.0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(native.places(chain), [0.0, 1.0, 3.25, 20.5, 50.0], rtol=0, atol=1e-9)
    like = torch.zeros(1, 1, dtype=torch.float64)
    alpha, sigma = float(chain.alpha(3, like)), float(chain.sigma(3, like))
    assert math.log(sigma**2 / alpha**2) == pytest.approx(middle) and alpha**2 + sigma**2 == pytest.approx(1.0)


def test_between_levels_of_a_chain_that_is_spaced_already():
    native = Chain.from_betas(linear_betas(100))
    chain = native.respace("10").between([native.respace("10").gamma[4]])
    assert chain.timestep[1] == native.respace("10").timestep[4] and native.places(chain)[1] == pytest.approx(34.0)


def test_nothing_lies_beyond_the_ends():
    native = chain_of("short")
    for beyond in (native.gamma[1] - 1e-3, native.gamma[-1] + 1e-3):
        with pytest.raises(ValueError, match="the chain's levels reach from"):
            native.between([beyond])
    assert native.between([native.gamma[-1] + 1e-12]).timestep[1] == 29.0  # rounding


def test_places_of_whole_levels():
    native = chain_of("short")
    assert native.places(native.respace([2, 9, 30])).tolist() == [0.0, 2.0, 9.0, 30.0]
    assert native.places(native).tolist() == [*range(31)]
