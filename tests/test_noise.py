"""Noise against Random123's known answers, a slow Philox in Python integers, and float64 Box-Muller."""

import math
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ddpm.noise import Purpose, WalkNoise, bits, normals, normals_each, permutation, philox, uniform

WORD = st.integers(0, 2**32 - 1)
SEED = st.integers(-(2**63), 2**64 - 1)


def slow_philox(counter: list[int], key: list[int]) -> list[int]:
    """Salmon et al. 2011, section 3.3: ten rounds of (L, R) → (mulhi ⊕ key ⊕ R, mullo), in plain integers."""
    (x0, x1, x2, x3), (k0, k1) = counter, key
    for _ in range(10):
        left, right = divmod(x0 * 0xD2511F53, 2**32), divmod(x2 * 0xCD9E8D57, 2**32)
        x0, x1, x2, x3 = right[0] ^ x1 ^ k0, right[1], left[0] ^ x3 ^ k1, left[1]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [x0, x1, x2, x3]


def ours(counter: list[int], key: list[int]) -> list[int]:
    return [int(word) for word in philox([torch.tensor(c) for c in counter], (key[0], key[1]))]


def box_muller(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 normals of words[..., 4], and the radius of each."""
    u, v = (words[..., i::2].astype(np.float64) + 0.5 for i in (0, 1))
    radius = np.sqrt(-2.0 * np.log(u / 2**32))
    angle = 2.0 * np.pi * v / 2**32 - np.pi  # from −π, as documented
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
    return pairs.reshape(words.shape), np.repeat(radius, 2, -1)


# -- integers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [  # kat_vectors of Random123, philox4x32 10
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(counter, key, answer, device):
    words = [[int(word, 16) for word in text.split()] for text in (counter, key, answer)]
    made = philox([torch.tensor(c, device=device) for c in words[0]], tuple(words[1]))
    assert [int(word) for word in made] == words[2]
    assert slow_philox(words[0], words[1]) == words[2]


@given(st.lists(WORD, min_size=4, max_size=4), st.lists(WORD, min_size=2, max_size=2))
def test_philox_equals_integer_arithmetic(counter, key):
    assert ours(counter, key) == slow_philox(counter, key)


@given(SEED, st.sampled_from(list(Purpose)), st.lists(WORD, min_size=1, max_size=3), WORD, st.integers(1, 9))
def test_bits_are_philox_at_the_documented_address(seed, purpose, samples, step, count):
    """counter (block, step, sample, purpose), key (seed low, seed high); four numbers a block."""
    key = [seed % 2**32, seed // 2**32 % 2**32]
    made = bits(seed, purpose, torch.tensor(samples), step, count)
    assert made.shape == (len(samples), count)
    for row, sample in zip(made.tolist(), samples, strict=True):
        blocks = [slow_philox([block, step, sample, int(purpose)], key) for block in range(3)]
        assert row == list(chain.from_iterable(blocks))[:count]


@given(SEED, WORD)
def test_uniforms_are_the_middles_of_the_cells(seed, step):
    words = bits(seed, Purpose.LABELS, torch.arange(3), step, 5)
    u = uniform(seed, Purpose.LABELS, torch.arange(3), step, 5)
    assert u.dtype == torch.float64
    assert torch.equal(u, (words.double() + 0.5) / 2**32)


def test_seeds_purposes_samples_and_steps_differ():
    """Also seeds alike in their low 32 bits, and negative ones."""
    seeds = [0, 1, -1, 2**32, 2**32 + 1, -(2**32), 2**63, 2**64 - 2]
    rows = [tuple(bits(seed, Purpose.WALK, torch.tensor([7]), 3, 8)[0].tolist()) for seed in seeds]
    rows += [tuple(bits(5, purpose, torch.tensor([7]), 3, 8)[0].tolist()) for purpose in Purpose]
    rows += [tuple(row) for step in range(4) for row in bits(6, Purpose.WALK, torch.arange(4), step, 8).tolist()]
    assert len(set(rows)) == len(rows) == len(seeds) + len(Purpose) + 16
    assert bits(-1, Purpose.WALK, torch.tensor([7]), 3, 8).equal(
        bits(2**64 - 1, Purpose.WALK, torch.tensor([7]), 3, 8)
    )


# -- normals -----------------------------------------------------------------------------------------------


def test_normals_equal_float64_box_muller(device):
    """To 2e-6; only near zero does the logarithm of a float32 close to 1 cost more, 6e-8 over the radius."""
    made = normals(5, Purpose.WALK, torch.arange(500, device=device), torch.tensor([3, 4]), (20, 50))
    assert made.shape == (2, 500, 20, 50) and made.dtype == torch.float32 and made.device.type == device.type
    for i, step in enumerate((3, 4)):
        words = bits(5, Purpose.WALK, torch.arange(500), step, 1000).numpy().reshape(500, 250, 4)
        exact, radius = box_muller(words)
        error = np.abs(made[i].cpu().double().numpy().reshape(500, 250, 4) - exact)
        assert np.all(error < 2e-6 + 6e-8 / radius)
        assert error[radius > 0.1].max() < 2e-6
        assert math.sqrt(np.mean(error**2)) < 2e-7


def test_normals_keep_their_address_when_a_block_is_cut():
    """Five numbers take two blocks of four and leave three; a bigger shape starts with the same ones."""
    samples, steps = torch.tensor([9, 2]), torch.tensor([4])
    five = normals(1, Purpose.FLIP, samples, steps, (5,))
    assert torch.equal(five, normals(1, Purpose.FLIP, samples, steps, (4, 2)).flatten(2)[..., :5])


def test_normals_are_normal():
    x = normals(11, Purpose.TRAIN_NOISE, torch.arange(100), torch.arange(20), (100,))
    assert stats.kstest(x.flatten().numpy(), "norm").pvalue > 1e-3
    moments = [x.mean(), x.var() - 1, (x**3).mean(), (x**4).mean() - 3]
    for moment, spread in zip(moments, (1, math.sqrt(2), math.sqrt(15), math.sqrt(96)), strict=True):
        assert abs(moment.item()) < 4 * spread / math.sqrt(x.numel())


@pytest.mark.parametrize("between", ["numbers", "samples", "steps", "seeds", "purposes"])
def test_neighbouring_addresses_are_uncorrelated(between):
    def made(seed: int = 3, purpose: Purpose = Purpose.WALK) -> torch.Tensor:
        return normals(seed, purpose, torch.arange(60), torch.arange(50), (40,)).double()

    x = made()
    a, b = {
        "numbers": (x[..., :-1], x[..., 1:]),
        "samples": (x[:, :-1], x[:, 1:]),
        "steps": (x[:-1], x[1:]),
        "seeds": (x, made(seed=4)),
        "purposes": (x, made(purpose=Purpose.LABELS)),
    }[between]
    for f in (lambda v: v, lambda v: (v**2 - 1) / math.sqrt(2)):  # also in size, which Box-Muller pairs share
        assert abs((f(a) * f(b)).mean().item()) < 4 / math.sqrt(a.numel())


def test_a_sample_is_the_same_in_any_batch(device):
    steps, shape = torch.tensor([0, 5, 2**31]), (3, 5)
    whole = normals(2, Purpose.WALK, torch.arange(8, device=device), steps, shape)
    order = torch.tensor([6, 0, 3, 3], device=device)
    assert torch.equal(normals(2, Purpose.WALK, order, steps, shape), whole[:, order])
    assert torch.equal(normals(2, Purpose.WALK, order[:1], steps.flip(0), shape), whole.flip(0)[:, 6:7])


def test_normals_at_steps_of_their_own_are_those_of_each_step(device):
    samples, steps = torch.tensor([5, 0, 9, 5], device=device), torch.tensor([3, 700, 3, 0])
    made = normals_each(7, Purpose.BOUND, samples, steps, (1, 3, 3))
    for k, (sample, step) in enumerate(zip(samples, steps, strict=True)):
        assert torch.equal(made[k], normals(7, Purpose.BOUND, sample.view(1), step.view(1), (1, 3, 3))[0, 0])


@pytest.mark.parametrize("per_block", [1, 3, 8, 10_000])
@pytest.mark.parametrize("asked", [[0, *range(20, 0, -1)], [20, 18, 3, 2, 1], [4, 5, 5, 6, 9, 1, 0, 0, 30, 4]])
def test_walk_noise_is_the_noise_at_its_step(asked, per_block, device, dtype):
    """Whatever the order and the size of the blocks it is made in."""
    samples = torch.tensor([3, 1], device=device)
    noise = WalkNoise(7, samples, (2, 3), dtype)
    noise.steps_per_block = per_block
    for step in asked:
        expected = normals(7, Purpose.WALK, samples, torch.tensor([step]), (2, 3))[0]
        assert noise(step).dtype == dtype
        assert torch.equal(noise(step), expected.to(dtype))


def test_walk_noise_of_another_purpose():
    noise = WalkNoise(7, torch.tensor([3, 1]), (2, 3), purpose=Purpose.KNOWN)
    for step in (9, 8, 2):
        assert torch.equal(noise(step), normals(7, Purpose.KNOWN, noise.samples, torch.tensor([step]), (2, 3))[0])
        assert not torch.equal(
            noise(step), normals(7, Purpose.WALK, noise.samples, torch.tensor([step]), (2, 3))[0]
        )


def test_walk_noise_has_more_at_every_step(dtype):
    """For samplers that draw more than once at a level: noise of its own, the same in any batch and order."""
    noise = WalkNoise(7, torch.tensor([3, 1]), (2, 3), dtype)
    at = [(step, draw) for step in (0, 1, 2, 999) for draw in (0, 1, 2, 255)]
    made = {one: noise(*one) for one in at}
    assert all(one.dtype == dtype and one.shape == (2, 2, 3) for one in made.values())
    assert len(torch.stack(list(made.values())).flatten(2).flatten(0, 1).unique(dim=0)) == 2 * len(at)
    assert all(torch.equal(made[step, 0], noise(step)) for step in (0, 1, 2, 999))
    alone = WalkNoise(7, torch.tensor([1]), (2, 3), dtype)
    assert all(torch.equal(alone(*one)[0], made[one][1]) for one in reversed(at))


def test_more_noise_is_normal_and_independent_of_the_first():
    noise = WalkNoise(3, torch.arange(500), (40,))
    first, more, last = noise(5).double(), noise(5, 1).double(), noise(5, 255).double()
    for one in (more, last):
        assert stats.kstest(one.flatten().numpy(), "norm").pvalue > 1e-3
    for a, b in ((first, more), (more, last), (more, noise(6, 1).double())):
        assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 4 / math.sqrt(a.numel())


def test_walk_noise_is_made_in_blocks_that_stay_small():
    assert WalkNoise(0, torch.arange(64), (3, 256, 256)).steps_per_block == 1
    noise = WalkNoise(0, torch.arange(4), (1, 8, 8))
    assert noise.steps_per_block * 4 * 64 <= 1 << 17 and noise.steps_per_block > 100


# -- permutations ------------------------------------------------------------------------------------------


@given(SEED, st.integers(0, 2**32 - 1), st.integers(0, 200))
def test_permutation_is_one(seed, epoch, count):
    order = permutation(seed, epoch, count)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(count))
    assert torch.equal(order, permutation(seed, epoch, count))


def test_permutations_are_uniform():
    """All 24 orders of four, over epochs and over seeds, equally often."""
    for draws in (
        [permutation(3, epoch, 4) for epoch in range(600)],
        [permutation(seed, 0, 4) for seed in range(600)],
    ):
        code = torch.stack(draws) @ torch.tensor([64, 16, 4, 1])
        _, counts = torch.unique(code, return_counts=True)
        assert len(counts) == 24
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_permutation_places_every_picture_everywhere():
    draws = torch.stack([permutation(1, epoch, 7) for epoch in range(490)])
    table = torch.stack([(draws == value).sum(0) for value in range(7)]).numpy()
    chi2 = ((table - 70) ** 2 / 70).sum()
    assert stats.chi2.sf(chi2, 36) > 1e-3
