"""Walks that begin anywhere: the levels that join a grid, and the law of what they end in."""

import numpy as np
import pytest
import torch

import tiny
from ddpm.chain import Chain
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.memory import AtOnce
from ddpm.noise import Purpose, normals
from ddpm.samplers import DDIM, Ancestral
from ddpm.walks import Walks, covering, film_count, log_snr, pixels
from oracle import Mixture, OracleNet, linear_betas

BETAS = linear_betas(40)
BAR = np.concatenate([[1.0], np.cumprod(1.0 - BETAS)])
ONE = Mixture.of([1.0], [[0.3, -0.2, 0.0, 0.1]], [[0.5, 0.2, 0.9, 1.0]])


def seen_in(t, x):
    """E[x_0|x_t = x] of the Gaussian."""
    mean, variance, a = ONE.means[0], ONE.stds[0] ** 2, np.sqrt(BAR[t])
    return mean + a * variance / (BAR[t] * variance + 1 - BAR[t]) * (x - a * mean)


class Placed(OracleNet):
    """An exact net that has parameters, and so a place."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.nothing = torch.nn.Parameter(torch.zeros(1))


def walks(spec=range(1, 41), sampler=None, batch=3, predicts="eps", variance="large"):
    model = Denoiser(Placed(ONE, BETAS, predicts), Chain.from_betas(BETAS), predicts, variance, clip=False)
    return Walks(model.respace(spec), sampler or Ancestral(), 5, (1, 2, 2), AtOnce(batch))


@pytest.mark.parametrize("predicts", ["eps", "mean"])
@pytest.mark.parametrize(
    "spec, joined, levels",
    [
        ("5", [21], [0, 1, 11, 21, 30, 40]),
        ("5", [17, 39], [0, 1, 11, 17, 21, 30, 39, 40]),
        ([7, 9], [8, 40], [0, 7, 8, 9, 40]),
        ([7, 9], [3, 3, 9], [0, 3, 7, 9]),
        (range(1, 41), [1, 25], range(41)),
    ],
)
def test_levels_join_the_grid(spec, joined, levels, predicts):
    through = walks(spec, predicts=predicts).through(*joined)
    assert list(through.levels) == list(levels)
    assert [through.place(t) for t in joined] == [list(levels).index(t) for t in joined]
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(-through.model.chain.gamma, np.log(BAR / (1 - BAR))[list(levels)], rtol=1e-12)
    x = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    for place, t in enumerate(levels):
        if t:  # the net is told the level it was trained at, and read as it was
            seen = through.model(x, place).x0
            np.testing.assert_allclose(seen.flatten(), seen_in(t, np.ones(4)), rtol=1e-6)
            assert through.model.net.calls[-1].tolist() == [t - 1.0]


@pytest.mark.parametrize("t", [0, -1, 41])
def test_a_level_the_model_has_not(t):
    with pytest.raises(UserError, match=f"t = {t}: a level of noise of this model lies between 1 and 40"):
        walks().through(20, t)


@pytest.mark.parametrize("sampler, eta", [(DDIM(), 0.0), (DDIM(1.0), 1.0), (Ancestral(), None)])
@pytest.mark.parametrize("start", [1, 12, 40])
def test_the_law_of_a_walk_from_any_level(sampler, eta, start):
    """Affine in where it starts and in its noise: impulses give the mean and variance of where it ends."""
    through = walks("8", sampler, variance="small" if eta else "large").through(start)
    place, kept = through.place(start), list(through.levels)
    x = torch.zeros(place + 1, 1, 2, 2, dtype=torch.float64)
    x[0] += 0.7

    def noise(t):
        z = torch.zeros_like(x)
        z[t] = 1.0
        return z

    x[1:] += 0.7
    *_, last = through.down(x, noise, None, place)
    # Song et al. 2020, eq. 12 and 16, of which Ho et al.'s β̃ is η = 1; β in place of β̃ for the large variance
    m, v = np.full(4, 0.7), np.zeros(4)
    for k in range(place, 0, -1):
        now, before = BAR[kept[k]], BAR[kept[k - 1]]
        beta = 1 - now / before
        tilde = (1 - before) / (1 - now) * beta
        tau = tilde if eta is None else eta**2 * tilde
        rest = np.sqrt(max(0.0, 1 - before - tau))
        of_x0, of_xt = np.sqrt(before) - rest * np.sqrt(now / (1 - now)), rest / np.sqrt(1 - now)
        slope = (seen_in(kept[k], np.ones(4)) - seen_in(kept[k], np.zeros(4))) * of_x0 + of_xt
        m = of_x0 * seen_in(kept[k], m) + of_xt * m
        v = slope**2 * v + ((beta if eta is None else tau) if k > 1 else 0.0)
    moved = (last.x[1:] - last.x[0]).flatten(1)
    np.testing.assert_allclose(last.x[0].flatten(), m, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(moved.square().sum(0), v, rtol=1e-6, atol=1e-12)


def test_batches_and_their_noise():
    made, seen, told = walks(batch=3), [], []
    whole = normals(5, Purpose.WALK, torch.arange(10, 17), torch.tensor([0, 4]), (1, 2, 2))

    def compute(rows, tick):
        seen.append((rows.start, rows.stop))
        noise = made.noise(10, rows)
        assert torch.equal(noise(4), whole[1, rows]) and torch.equal(noise(0), whole[0, rows])
        tick(), tick()
        return np.arange(7)[rows], whole[0, rows].numpy()

    passes = made.passes(lambda *now: told.append(now), (7, 2), (3, 1))
    numbers, start = passes.run(compute)
    assert seen == [(0, 3), (3, 6), (6, 7)] and numbers.tolist() == [*range(7)]
    assert np.array_equal(start, whole[0].numpy())
    assert told == [(k, 7) for k in range(1, 7)]  # of the second pass one step is to come
    passes.run(lambda rows, tick: (tick(), (np.zeros(3),))[1])
    assert told[-1] == (7, 7)


def test_a_film_of_large_pictures_is_of_fewer():
    counts = [film_count(n, size) for n, size in ((5, (8, 8)), (99, (64, 64)), (99, (256, 256)), (9, (2048, 512)))]
    assert counts == [5, 64, 4, 1]


def test_pixels_and_numbers():
    assert pixels(torch.tensor([[[-1.0, 0.0, 1.0, 3.0]]])).tolist() == [[[0, 128, 255, 255]]]
    clear = np.arange(32, dtype=np.uint8).reshape(1, 4, 2, 4)
    assert np.array_equal(covering(clear)[:, :3], clear[:, :3]) and (covering(clear)[:, 3] == 255).all()
    assert covering(clear[:, :3]) is not None and np.array_equal(covering(clear[:, :3]), clear[:, :3])
    assert [log_snr(x) for x in (-19.84, -0.04, 0.0, 1.26)] == ["−19.8", "0.0", "0.0", "1.3"]


def test_the_tiny_model_is_left_on_its_own_grid(tmp_path):
    import ddpm

    model = ddpm.load(tiny.run(tmp_path / "zoo").folder, "cpu")
    before = model.denoiser.chain
    model.completions([7], 2, steps=5)
    assert model.denoiser.chain is before and model.denoiser.chain.T == 40
