"""Spikes of the loss: found where there is one, and not in the noise of a training."""

import numpy as np
import pytest

from ddpm.spikes import Spike, spike, spikes


def lines(seed=0, count=400, noise=0.1):
    """A falling loss whose steps differ by so much, the highest of fifty a line."""
    rng = np.random.default_rng(seed)
    mean = 0.05 + np.exp(-np.arange(count) / 20.0)
    highest = (mean[:, None] * np.exp(noise * rng.standard_normal((count, 50)))).max(1)
    return [(50 * (i + 1), float(value)) for i, value in enumerate(highest)]


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.5, 1.0])
def test_a_training_without_one_has_none(noise):
    found = [len(spikes(lines(seed, noise=noise))) for seed in range(20)]
    assert sum(found) <= 8, found  # of 8,000 lines


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.5])
def test_one_is_found_and_named(noise):
    made = lines(noise=noise)
    step, value = made[300]
    made[300] = (step, 30 * value)
    (found,) = [one for one in spikes(made) if one.step == step]
    assert found.highest == 30 * value and 0.3 * value < found.usual < 3 * value


def test_too_few_lines_tell_nothing():
    assert spike(5, 1e9, [1.0] * 4) is None
    assert spike(5, 1e9, [1.0] * 5) == Spike(5, 1e9, 1.0)
    assert spike(5, 1.9, [1.0] * 5) is None and spike(5, float("inf"), [1.0] * 5) is None
    assert spike(5, 3.0, [0.0] * 20) is None
