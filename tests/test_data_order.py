from __future__ import annotations

import pytest
import torch

from ddpm.data import Order


@pytest.mark.parametrize(("count", "batch"), [(10, 10), (10, 3), (7, 5), (1, 1), (4, 9), (64, 16)])
def test_every_picture_once_an_epoch(count: int, batch: int) -> None:
    order = Order(count, batch, seed=1)
    steps = -(-3 * count // batch)
    stream = torch.cat([order.index(step) for step in range(steps)])
    assert stream.dtype == torch.int64 and len(stream) == steps * batch
    for epoch in range(3):
        assert sorted(stream[epoch * count : (epoch + 1) * count].tolist()) == list(range(count))


def test_the_stream_does_not_depend_on_the_batch() -> None:
    def stream(batch: int, what: str) -> torch.Tensor:
        order = Order(31, batch, seed=5)
        return torch.cat([getattr(order, what)(step) for step in range(-(-120 // batch))])[:120]

    for what in ("index", "flips", "places"):
        for batch in (1, 8, 31, 50):
            assert torch.equal(stream(batch, what), stream(7, what))


def test_any_step_at_any_time() -> None:
    order = Order(20, 6, seed=3)
    forwards = [(order.index(step), order.flips(step), order.places(step)) for step in range(40)]
    for step in (39, 0, 17, 18, 3, 39):
        fresh = Order(20, 6, seed=3)
        for each in (order, fresh):
            assert torch.equal(each.index(step), forwards[step][0])
            assert torch.equal(each.flips(step), forwards[step][1])
            assert torch.equal(each.places(step), forwards[step][2])


def test_seeds_and_epochs_differ() -> None:
    epochs = {tuple(Order(50, 50, seed).index(step).tolist()) for seed in (0, 1) for step in (0, 1)}
    assert len(epochs) == 4
    flips = {tuple(Order(50, 50, seed).flips(step).tolist()) for seed in (0, 1) for step in (0, 1)}
    assert len(flips) == 4


def test_flips_are_fair_and_tell_nothing_of_the_order() -> None:
    order = Order(20_000, 20_000, seed=0)
    flips = order.flips(0)
    assert flips.dtype == torch.bool
    assert abs(flips.double().mean() - 0.5) < 0.02  # 5.6 deviations
    low = order.index(0) < 10_000
    assert abs(flips[low].double().mean() - 0.5) < 0.03


def test_places_are_uniform_and_independent() -> None:
    """Mean 1/2, variance 1/12, and no correlation with anything: within 5 deviations."""
    order = Order(20_000, 20_000, seed=0)
    places = order.places(0)
    assert places.dtype == torch.float64 and places.shape == (20_000, 2)
    assert places.min() > 0 and places.max() < 1
    assert (places.mean(0) - 0.5).abs().max() < 5 * (1 / 12 / 20_000) ** 0.5
    columns = [*places.T, *order.places(1).T, order.flips(0).double(), order.index(0).double()]
    others = torch.corrcoef(torch.stack(columns)) - torch.eye(6)
    assert others.abs().max() < 5 / 20_000**0.5
    assert (places[:, 0].var() - 1 / 12).abs() < 5 * (1 / 180 / 20_000) ** 0.5


def test_few_epochs_are_kept() -> None:
    order = Order(5, 2, seed=0)
    for step in range(100):
        order.index(step)
        order.flips(step)
        order.places(step)
    assert all(len(kept) <= 2 for kept in (order._permutations, order._flips, order._places))


def test_order_needs_pictures() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Order(0, 1, seed=0)
