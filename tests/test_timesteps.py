"""Time samplers against what they promise: uniform marginals, even batches, addresses, the published weights."""

import math
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from ddpm.errors import UserError
from ddpm.noise import Purpose, uniform
from ddpm.timesteps import LossSecondMoment, LowDiscrepancy, Uniform, make_time_sampler

SAMPLERS = [Uniform, LowDiscrepancy]


class Published:
    """improved-diffusion's LossSecondMomentResampler in plain lists: each t's last ten losses, oldest first."""

    def __init__(self, T: int):
        self.last = [[] for _ in range(T)]

    def update(self, t, loss):
        for level, value in zip(t.tolist(), loss.tolist(), strict=True):
            self.last[level - 1] = [*self.last[level - 1], value][-10:]

    def probabilities(self) -> list[float]:
        T = len(self.last)
        if any(len(losses) < 10 for losses in self.last):
            return [1.0 / T] * T
        roots = [math.sqrt(sum(loss**2 for loss in losses) / 10) for losses in self.last]
        return [(1 - 0.001) * root / sum(roots) + 0.001 / T for root in roots]


def falling_losses(t: torch.Tensor, step: int) -> torch.Tensor:
    """Losses that fall with t, each another in the same batch and at another step."""
    return (1.0 + torch.arange(len(t)) % 5 + step % 3) / t.float() ** 1.5


def taught(T: int, batch: int = 32, steps: int = 30, seed: int = 3) -> tuple[LossSecondMoment, Published]:
    sampler, published = LossSecondMoment(T, seed), Published(T)
    for step in range(steps):
        t, _ = sampler.draw(step, batch)
        loss = falling_losses(t, step)
        sampler.update(t, loss)
        published.update(t, loss.double())
    return sampler, published


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
    learning = make_time_sampler("loss-second-moment", 10, 4)
    assert isinstance(learning, LossSecondMoment) and learning.learns
    assert (learning.T, learning.seed, learning.losses.shape, learning.uniform_share) == (10, 4, (10, 10), 0.001)
    assert not Uniform(10, 4).learns and Uniform(10, 4).tensors() == {}
    with pytest.raises(UserError, match="low-discrepancy or loss-second-moment"):
        make_time_sampler("importance", 10, 4)


# -- from the losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 5, 12])
def test_probabilities_are_the_published_ones_at_every_step(T):
    sampler, published = LossSecondMoment(T, 0), Published(T)
    uneven = 0
    for step in range(60):
        np.testing.assert_allclose(sampler.probabilities(), published.probabilities(), rtol=1e-12)
        t, _ = sampler.draw(step, 8)
        loss = falling_losses(t, step)
        sampler.update(t, loss)
        published.update(t, loss.double())
        uneven += len(set(published.probabilities())) > 1
        for level, losses in enumerate(published.last):  # the same ten, in whatever order
            kept = sampler.losses[level][: min(10, len(losses))]
            assert sorted(kept.tolist()) == sorted(losses)
    assert uneven > 10 or T == 1


def test_levels_are_drawn_evenly_until_each_has_ten_losses():
    """One that has nine is enough for that; the losses so far do not matter."""
    sampler = LossSecondMoment(3, 0)
    sampler.update(torch.tensor([1, 2, 3] * 9 + [1, 2] * 4), torch.linspace(1, 500, 35))
    assert sampler.probabilities().tolist() == [1 / 3] * 3
    t, weight = sampler.draw(0, 3000)
    assert torch.all(weight == 1) and stats.chisquare(np.bincount(t, minlength=4)[1:]).pvalue > 1e-3
    sampler.update(torch.tensor([3]), torch.tensor([1.0]))
    assert len(set(sampler.probabilities().tolist())) == 3


def test_by_hand():
    sampler = LossSecondMoment(2, 0)
    sampler.update(torch.tensor([1] * 10 + [2] * 10), torch.tensor([3.0] * 10 + [1.0] * 10))
    np.testing.assert_allclose(sampler.probabilities(), [0.999 * 0.75 + 0.0005, 0.999 * 0.25 + 0.0005], rtol=1e-12)
    # two of the ten make way for larger ones: √((8·1 + 2·26)/10) = √6
    sampler.update(torch.tensor([2, 2]), torch.tensor([math.sqrt(26.0)] * 2))
    root = math.sqrt(6.0)
    np.testing.assert_allclose(sampler.probabilities()[1], 0.999 * root / (3 + root) + 0.0005, rtol=1e-6)


def test_the_oldest_of_ten_makes_way():
    sampler = LossSecondMoment(1, 0)
    sampler.update(torch.ones(23, dtype=torch.int64), torch.arange(1.0, 24.0))
    assert sorted(sampler.losses[0].tolist()) == list(range(14, 24))


def test_weights_keep_the_loss_unbiased():
    """Σ p w = 1, and any function of t has its plain mean over t = 1 … T in expectation."""
    sampler, _ = taught(6)
    p = sampler.probabilities()
    weights = torch.full((6,), math.nan)
    for step in range(1000, 1040):
        t, weight = sampler.draw(step, 32)
        weights[t - 1] = weight
    assert p.sum().item() == pytest.approx(1.0, abs=1e-12) and p.max() > 3 * p.min()
    torch.testing.assert_close(weights.double(), 1.0 / (6 * p), rtol=1e-6, atol=0)
    assert (p * weights).sum().item() == pytest.approx(1.0, rel=1e-6)
    f = torch.tensor([3.0, -1.0, 4.0, 1.0, -5.0, 9.0])
    assert (p * weights * f).sum().item() == pytest.approx(f.mean().item(), rel=1e-6)
    t, weight = sampler.draw(7, 10_000)
    values = weight * f[t - 1]
    assert abs(values.mean() - f.mean()) < 4 * values.std() / math.sqrt(len(t))


def test_levels_are_drawn_as_often_as_the_probabilities_say():
    sampler, published = taught(9)
    t = torch.cat([sampler.draw(step, 500)[0] for step in range(200, 220)])
    assert t.dtype == torch.int64 and t.min() == 1 and t.max() == 9
    expected = np.array(published.probabilities()) * len(t)
    assert stats.chisquare(np.bincount(t, minlength=10)[1:], expected).pvalue > 1e-3
    assert stats.chisquare(np.bincount(t, minlength=10)[1:]).pvalue < 1e-9
    assert not torch.equal(sampler.draw(3, 64)[0], sampler.draw(4, 64)[0])
    assert torch.equal(sampler.draw(3, 64)[0][:8], sampler.draw(3, 8)[0])


def test_the_uniform_share_forgets_no_level():
    sampler = LossSecondMoment(4, 0)
    sampler.update(
        torch.arange(1, 5).repeat_interleave(10), torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat_interleave(10)
    )
    np.testing.assert_allclose(sampler.probabilities(), [0.999 + 0.00025] + [0.00025] * 3, rtol=1e-12)
    sampler.update(torch.ones(10, dtype=torch.int64), torch.zeros(10))  # nothing to learn from
    assert sampler.probabilities().tolist() == [0.25] * 4


def test_a_loss_that_is_no_number_is_not_remembered():
    sampler = LossSecondMoment(1, 0)
    sampler.update(torch.ones(3, dtype=torch.int64), torch.tensor([math.inf, 2.0, math.nan]))
    assert sampler.counts.tolist() == [1] and sampler.losses[0, 0] == 2.0


def test_it_goes_on_from_its_saved_state_as_if_never_stopped():
    whole, _ = taught(7, batch=8, steps=40)
    first, _ = taught(7, batch=8, steps=17)
    saved = {name: tensor.clone() for name, tensor in first.tensors().items()}
    second = LossSecondMoment(7, 3)
    second.restore(saved)
    for step in range(17, 40):
        t, _ = second.draw(step, 8)
        second.update(t, falling_losses(t, step))
    assert {k: v.tolist() for k, v in second.tensors().items()} == {
        k: v.tolist() for k, v in whole.tensors().items()
    }
    for a, b in zip(second.draw(40, 64), whole.draw(40, 64), strict=True):
        assert torch.equal(a, b)
    for name, tensor in saved.items():  # what was restored from is left alone
        assert torch.equal(tensor, first.tensors()[name])


def test_a_loss_on_the_way_back_is_not_kept_alive():
    sampler, loss = LossSecondMoment(2, 0), torch.ones(2, requires_grad=True) * 3.0
    sampler.update(torch.tensor([1, 2]), loss)
    assert not sampler.losses.requires_grad and sampler.losses.dtype == torch.float64


ONE_OF_TWO = """
import sys, torch
from accelerate import Accelerator
from ddpm.timesteps import LossSecondMoment
accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
sampler, rank = LossSecondMoment(4, 3), accelerator.process_index
for step in range(20):
    t, _ = sampler.draw(step, 8)
    loss = (1.0 + torch.arange(8) % 5 + step % 3) / t.float() ** 1.5
    sampler.update(t, accelerator.gather(loss[4 * rank : 4 * rank + 4].clone()))
torch.save(sampler.tensors(), f"{sys.argv[1]}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_two_processes_end_with_the_history_of_one(tmp_path):
    """Two real ones with half of each batch, which gather their losses as a training does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meet = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, str(tmp_path)],
            env={**os.environ, **meet, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for one in both:
        errors = one.communicate(timeout=120)[1]
        assert one.returncode == 0, errors
    alone = LossSecondMoment(4, 3)
    for step in range(20):
        t, _ = alone.draw(step, 8)
        alone.update(t, falling_losses(t, step))
    assert alone.counts.min() >= 10
    for rank in range(2):
        theirs = torch.load(tmp_path / f"{rank}.pt")
        for name, tensor in alone.tensors().items():
            assert torch.equal(theirs[name], tensor)
