"""Bits of a batch of pictures: what is drawn, with which noise, and that an estimate estimates the sum."""

import math

import numpy as np
import pytest
import torch

from ddpm.chain import Chain, make_chain
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.evaluate.likelihood import bound_levels, estimate, level_probabilities, likelihood
from oracle import Mixture, OracleNet, cosine_betas, linear_betas, published_levels

MIXTURE = Mixture.of([0.3, 0.7], [[-0.5] * 4, [0.4] * 4], [0.2, 0.3])


def model(betas, variance="small", predicts="eps"):
    return Denoiser(OracleNet(MIXTURE, betas, predicts), Chain.from_betas(betas), predicts, variance)


def pictures(count, seed=0):
    """Exact pixel values [N, 1, 2, 2]."""
    pixels = np.clip(np.rint(127.5 * (MIXTURE.sample(count, seed) + 1)), 0, 255)
    return torch.from_numpy(pixels / 127.5 - 1).view(count, 1, 2, 2)


@pytest.mark.parametrize("draws", [1, 5])
@pytest.mark.parametrize("betas", [linear_betas(60), cosine_betas(40)], ids=["linear", "cosine"])
def test_an_estimate_is_the_sum_of_all_terms_in_the_mean(betas, draws):
    x0, numbers = pictures(1500), torch.arange(1500)
    whole, drawn = likelihood(model(betas), x0, numbers), estimate(model(betas), x0, numbers, draws)
    off = (drawn.total - whole.total).numpy()
    assert abs(off.mean()) < 4 * off.std() / math.sqrt(len(off))
    assert torch.equal(drawn.prior, whole.prior)
    assert torch.equal(drawn.total, drawn.prior + drawn.decoder + (drawn.weights * drawn.terms).sum(1))
    # What is drawn has the very noise that the whole chain has there.
    assert torch.allclose(drawn.decoder, whole.terms[:, 0], rtol=1e-9)
    assert torch.allclose(drawn.terms, whole.terms.gather(1, drawn.levels - 1), rtol=1e-6, atol=1e-12)
    assert torch.allclose(drawn.error, whole.error.gather(1, drawn.levels - 1), rtol=1e-6, atol=1e-12)


def test_more_draws_make_it_sharper():
    x0, numbers = pictures(400), torch.arange(400)
    whole = likelihood(model(linear_betas(60)), x0, numbers).total
    spread = [(estimate(model(linear_betas(60)), x0, numbers, m).total - whole).std() for m in (2, 8, 32)]
    assert spread[0] > 1.5 * spread[1] > 2.25 * spread[2]


@pytest.mark.parametrize("T, draws", [(3, 2), (40, 7), (1000, 32), (1000, 1)])
def test_levels_are_drawn_as_often_as_they_should(T, draws):
    """One in each of as many equally likely parts: so a level comes ⌊M p⌋ or ⌈M p⌉ times, M p in the mean."""
    chain = make_chain("cosine", T)
    count = 300 if T == 1000 else 4000

    class Nothing(torch.nn.Module):
        def forward(self, x, timestep):
            return torch.zeros_like(x)

    x0 = torch.zeros(count, 1, 1, 1)
    made = estimate(Denoiser(Nothing(), chain, "x0"), x0, torch.arange(count), draws)
    wanted = draws * level_probabilities(chain)
    assert made.levels.min() >= 2 and made.levels.max() <= T
    times = torch.stack([(made.levels == t).sum(1) for t in range(2, T + 1)], dim=1).numpy()
    assert (times >= np.floor(wanted - 1e-9)).all() and (times <= np.ceil(wanted + 1e-9)).all()
    # Up to any level a picture has ⌊.⌋ or ⌈.⌉ of what it should, so a deviation of at most 1/2.
    assert np.abs(times.mean(0).cumsum() - wanted.cumsum()).max() < 5 * 0.5 / math.sqrt(count)
    np.testing.assert_allclose(made.weights.numpy(), 1 / wanted[made.levels.numpy() - 2], rtol=1e-12)


def test_half_of_the_draws_is_even_and_half_follows_the_log_snr():
    bar = np.cumprod(1 - cosine_betas(50))
    log_snr = np.log(bar / (1 - bar))
    change = log_snr[:-1] - log_snr[1:]
    expected = 0.5 / 49 + 0.5 * change / change.sum()
    np.testing.assert_allclose(level_probabilities(make_chain("cosine", 50)), expected, rtol=1e-9)


def test_a_picture_is_the_same_in_any_batch():
    betas = linear_betas(30)
    x0, order = pictures(6), torch.tensor([4, 0, 5])
    numbers = torch.tensor([7, 3, 900, 12, 5, 1])
    for measured in (likelihood, lambda *a: estimate(*a, 4)):
        whole, part = measured(model(betas), x0, numbers), measured(model(betas), x0[order], numbers[order])
        assert all(torch.allclose(a[order], b, rtol=1e-6, atol=1e-12) for a, b in zip(whole, part, strict=True))


def test_a_respaced_chain_is_measured_on_the_same_noise():
    """Where it has two neighbours of the native chain, their term is the native one."""
    betas, x0, numbers = linear_betas(40), pictures(5), torch.arange(5)
    keep = [1, 2, 3, 10, 39, 40]
    native = likelihood(model(betas), x0, numbers)
    made = likelihood(model(betas).respace(keep), x0, numbers)
    assert made.terms.shape == (5, 6)
    assert torch.allclose(made.terms[:, [0, 1, 2, 5]], native.terms[:, [0, 1, 2, 39]], rtol=1e-6)
    assert torch.allclose(made.error, native.error[:, [t - 1 for t in keep]], rtol=1e-6, atol=1e-12)
    assert (made.terms[:, 3:5] > native.terms[:, [9, 38]]).all()  # longer steps cost more


def test_seeds_differ():
    x0, numbers = pictures(3), torch.arange(3)
    a, b = (likelihood(model(linear_betas(25)), x0, numbers, seed) for seed in (0, 1))
    assert not torch.allclose(a.total, b.total, rtol=1e-3)


def test_a_chain_of_one_step_has_nothing_to_draw():
    chain = Chain.from_betas([0.5])
    net = OracleNet(MIXTURE, np.array([0.5]))
    x0, numbers = pictures(4), torch.arange(4)
    drawn, whole = estimate(Denoiser(net, chain), x0, numbers, 8), likelihood(Denoiser(net, chain), x0, numbers)
    assert drawn.levels.shape == drawn.terms.shape == (4, 0)
    assert torch.allclose(drawn.total, whole.total)


def test_progress_counts_terms():
    told = []
    x0, numbers = pictures(2), torch.arange(2)
    likelihood(model(linear_betas(22)), x0, numbers, progress=lambda *a: told.append(a))
    estimate(model(linear_betas(22)), x0, numbers, 3, progress=lambda *a: told.append(a))
    assert told == [*((k, 22) for k in range(1, 23)), (1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("K, T", [(50, 1000), (100, 4000), (25, 4000), (7, 40), (40, 40), (30, 40), (2, 9)])
def test_the_levels_of_a_bound_of_K_steps(K, T):
    """Nichol & Dhariwal 2021: the stride, together with every t in 1 … T/K."""
    assert bound_levels(K, T) == sorted(set(published_levels(str(K), T)) | set(range(1, int(T / K) + 1)))


@pytest.mark.parametrize("K", [0, 41])
def test_there_are_not_so_many_levels(K):
    with pytest.raises(UserError, match="takes 1 to 40"):
        bound_levels(K, 40)
