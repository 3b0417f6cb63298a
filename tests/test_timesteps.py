"""Time samplers against what they promise: uniform marginals, even batches, addresses."""

import numpy as np
import pytest
import torch
from scipy import stats

from ddpm.errors import UserError
from ddpm.noise import Purpose, uniform
from ddpm.timesteps import LowDiscrepancy, Uniform, make_time_sampler

SAMPLERS = [Uniform, LowDiscrepancy]


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("T", [1, 2, 7, 1000])
def test_levels_are_whole_and_in_the_chain(kind, T):
    draws = [kind(T, 5).draw(step, 64) for step in range(60)]
    t = torch.cat([t for t, _ in draws])
    assert t.dtype == torch.int64 and t.shape == (60 * 64,)
    assert (t.min() == 1 and t.max() == T) if T < 1000 else (1 <= t.min() < 10 and 990 < t.max() <= T)
    assert all(weight.dtype == torch.float32 and torch.all(weight == 1) for _, weight in draws)


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("T", [10, 7])
def test_every_level_is_as_likely(kind, T):
    """Over steps, at one place of the batch: low-discrepancy draws within a batch are not independent."""
    draws = torch.stack([kind(T, 1).draw(step, 5)[0] for step in range(700)]).numpy()
    for place in (0, 4):
        assert stats.chisquare(np.bincount(draws[:, place], minlength=T + 1)[1:]).pvalue > 1e-3


def test_uniform_draws_are_independent_within_a_batch():
    t = torch.stack([Uniform(4, 2).draw(step, 2)[0] for step in range(800)]) - 1
    pairs = np.bincount((4 * t[:, 0] + t[:, 1]).numpy(), minlength=16)
    assert stats.chisquare(pairs).pvalue > 1e-3


@pytest.mark.parametrize("batch", [1, 2, 7, 64, 128, 1000])
@pytest.mark.parametrize("T", [1000, 16])
def test_low_discrepancy_covers_the_chain_evenly(batch, T):
    """Of the u behind t = ⌊uT⌋ + 1 each of `batch` equal bins has one, so a count of t is off by under 1."""
    for step in range(8):
        t = LowDiscrepancy(T, 9).draw(step, batch)[0]
        for edge in range(batch + 1):
            level = edge * T // batch
            assert abs(int((t <= level).sum()) - batch * level / T) < 1 + 1e-9
        bins = np.histogram(t.numpy() - 0.5, bins=np.linspace(0, T, min(batch, T) + 1))[0]
        share = batch / min(batch, T)
        assert bins.min() >= share - 2 and bins.max() <= share + 2
        if T % batch == 0:
            assert bins.tolist() == [1] * batch


def test_low_discrepancy_offsets_differ_between_steps():
    first = torch.tensor([int(LowDiscrepancy(1000, 9).draw(step, 4)[0][0]) for step in range(100)])
    assert len(first.unique()) > 80


@pytest.mark.parametrize("kind", SAMPLERS)
def test_draws_are_addressed(kind):
    """The same step gives the same levels, whatever was drawn or learned before, and another step others."""
    one, two = kind(1000, 3), kind(1000, 3)
    for step in (5, 0, 9):
        t, _ = two.draw(step, 16)
        two.update(t, torch.rand(16))
    torch.rand(3)
    assert torch.equal(one.draw(7, 16)[0], two.draw(7, 16)[0])
    assert not torch.equal(one.draw(7, 16)[0], one.draw(8, 16)[0])
    assert not torch.equal(one.draw(7, 16)[0], kind(1000, 4).draw(7, 16)[0])


def test_a_place_of_the_batch_is_the_same_in_a_longer_batch():
    assert torch.equal(Uniform(1000, 3).draw(2, 8)[0], Uniform(1000, 3).draw(2, 64)[0][:8])


def test_uniform_is_the_addressed_uniform_number():
    u = uniform(3, Purpose.TRAIN_TIME, torch.arange(32), 11)[:, 0]
    assert torch.equal(Uniform(1000, 3).draw(11, 32)[0], torch.ceil(u * 1000).long())


def test_samplers_by_name():
    assert make_time_sampler("uniform", 10, 4) == Uniform(10, 4)
    assert make_time_sampler("low-discrepancy", 10, 4) == LowDiscrepancy(10, 4)
    with pytest.raises(UserError, match="low-discrepancy"):
        make_time_sampler("importance", 10, 4)
