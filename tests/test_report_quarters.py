"""Quarters of the noise levels: against errors by hand, and logs made to rise or not."""

import numpy as np
import pytest
import torch
from torch import nn

from ddpm.build import build_denoiser
from ddpm.data import load, open_source
from ddpm.pipeline import Pipeline
from ddpm.report.quarters import by_quarter, quarters_of, risen
from ddpm.store import Description, Facts
from tiny import config


def errors(count, seed, worse=(1.0, 1.0, 1.0, 1.0)):
    """Of pictures on either side, which differ by half among each other."""
    draw = np.random.default_rng(seed)
    mean = np.array([0.4, 0.2, 0.1, 0.05])
    held_out, trained_on = mean * draw.lognormal(0, 0.4, (2, count, 4))
    return quarters_of(held_out * np.array(worse), trained_on)


@pytest.mark.parametrize("k", range(4))
def test_a_quarter_that_is_learnt_by_heart_is_told(k):
    worse = np.ones(4)
    worse[k] = 1.4
    found = errors(256, 0, tuple(worse))
    assert [found.apart(i) for i in range(4)] == [i == k for i in range(4)]


def test_chance_and_trifles_are_not():
    for seed in range(200):
        assert not any(errors(64, seed).apart(k) for k in range(4))
    # surely worse, but by 3 %
    same = np.random.default_rng(0).lognormal(0, 0.4, (256, 4))
    assert not any(quarters_of(1.03 * same, same).apart(k) for k in range(4))
    assert all(quarters_of(1.15 * same, same).apart(k) for k in range(4))


def test_one_picture_tells_nothing():
    assert not any(errors(1, 0, (9.0,) * 4).apart(k) for k in range(4))


class Knowing(nn.Module):
    """Says v of the picture that it knows, at any level: it cannot be wrong about that one alone."""

    def __init__(self, x0, chain):
        super().__init__()
        self.x0, self.chain, self.asked = nn.Parameter(x0), chain, []

    def forward(self, x, timestep, **cond):
        self.asked += timestep.tolist()
        t = timestep.long() + 1
        alpha, sigma = self.chain.alpha(t, x), self.chain.sigma(t, x)
        return (alpha * x - self.x0) / sigma


def test_a_net_that_knows_its_picture_alone_is_wrong_about_others(tmp_path):
    def pictures(name, pixels):
        np.savez(tmp_path / f"{name}.npz", images=pixels)
        return load(open_source(tmp_path / f"{name}.npz"), (8, 8), 1, cache=tmp_path / "cache")

    known = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)
    own = pictures("own", np.stack([known] * 20))
    others = pictures("others", np.random.default_rng(1).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8))
    made = config()
    model = build_denoiser(made, nn.Identity())
    model.net = Knowing(own.batch(torch.tensor([0]))[0][0], model.chain)
    found = by_quarter(Pipeline(model, Description(made, Facts()), "one"), made, own, others)
    assert found.count == 12 and max(found.trained_on) < 1e-6
    # where σ is tiny twelve pictures differ too much to be sure
    assert [found.apart(k) for k in range(4)] == [False, True, True, True]
    # v = α ε − σ x_0 is off by (x̂_0 − x_0)/σ: the squared difference over 1 − ᾱ
    rows = np.arange(12)
    x0, x = own.batch(torch.tensor([0]))[0].double(), others.batch(torch.from_numpy(rows))[0].double()
    apart = (x - x0).square().mean((1, 2, 3)).numpy()
    golden = (np.sqrt(5) - 1) / 2
    for k in range(4):
        t = np.floor((rows * golden % 1 + k) / 4 * 40).astype(int) + 1
        assert t.min() > 10 * k and t.max() <= 10 * (k + 1)
        variance = 1 - np.array([float(model.chain.alpha(int(one), x)) ** 2 for one in t])
        assert found.held_out[k] == pytest.approx((apart / variance).mean(), rel=1e-3)
    assert sorted(model.net.asked[: len(model.net.asked) // 2]) == sorted(
        model.net.asked[len(model.net.asked) // 2 :]
    )


# -- over the training ---------------------------------------------------------------------------------------


def log(curves, noise=0.02, seed=0):
    """Lines whose quarters follow four curves, each line off by a share."""
    draw = np.random.default_rng(seed)
    values = np.stack(curves, 1) * (1 + draw.normal(0, noise, (len(curves[0]), 4)))
    return [{"step": 10 * (i + 1), "quarters": line.tolist()} for i, line in enumerate(values)]


FALLING = 0.1 + 0.9 * np.exp(-np.arange(100) / 15)


def test_a_quarter_that_gets_worse_is_told_with_where_it_was_best():
    rising = np.where(np.arange(100) < 60, FALLING, 0.12 + 0.002 * (np.arange(100) - 60))
    found = risen(log([FALLING, FALLING, FALLING, rising]))
    assert [one.k for one in found] == [3] and found[0].step == 600
    assert found[0].now > 1.1 * found[0].before


def test_a_training_that_goes_well_is_not():
    for seed in range(100):
        assert risen(log([FALLING, 0.5 * FALLING, np.full(100, 0.1), FALLING**2], 0.05, seed)) == []


def test_a_log_that_is_short_or_broken_tells_nothing():
    rising = np.linspace(0.1, 1, 24)
    assert risen(log([rising] * 4)) == [] and risen([]) == []
    lines = log([np.linspace(0.1, 1, 60)] * 4)
    assert len(risen(lines)) == 4
    for line in lines[::2]:
        line["quarters"] = [None, 0.1, 0.1, 0.1]
    lines += [{"step": 700}, {"quarters": [1, 1, 1, 1]}, {"step": 710, "quarters": [1.0, float("nan"), 1.0, 1.0]}]
    assert len(risen(lines)) == 4
