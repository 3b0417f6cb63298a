"""The probability-flow ODE's density against the analytic one of noised mixtures, at the method's order."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from ddpm.chain import Chain
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.evaluate.ode import Density, Flow, bits_per_dim, density, dequantised, summarise
from oracle import Mixture, cosine_betas, linear_betas

GAUSSIAN = Mixture.of([1.0], [[0.0, 0.0, 0.0]], [[0.5, 0.2, 0.9]])
# Means are 0, so that what is left of them at the end of a linear chain does not count: x_T is taken for N(0, 1).
MIXTURE = Mixture.of([0.5, 0.3, 0.2], [[0.4, 0.0, -0.2], [-0.6, 0.4, 0.2], [-0.1, -0.6, 0.2]], [0.3, 0.2, 0.25])
CHAINS = {"linear": linear_betas(1000), "cosine": cosine_betas(1000)}


class SmoothOracle(nn.Module):
    """The perfect net of a mixture in torch, so that it has derivatives; between two levels log SNR is linear.

    Written from the posterior of each component, as OracleNet is: E[x_0|x_t], and ε̂ or v̂ from it.
    """

    def __init__(self, mixture, betas, predicts="eps"):
        super().__init__()
        self.weights, self.means, self.stds = (torch.from_numpy(np.asarray(a)) for a in vars(mixture).values())
        bar = np.cumprod(1.0 - betas)
        self.log_snr, self.predicts, self.batches = np.log(bar / (1.0 - bar)), predicts, []

    def forward(self, x, timestep, label=None):
        assert torch.all(timestep == timestep[0])
        self.batches.append(len(x))
        log_snr = np.interp(float(timestep[0]), np.arange(len(self.log_snr)), self.log_snr)
        alpha, sigma = math.sqrt(1.0 / (1.0 + math.exp(-log_snr))), math.sqrt(1.0 / (1.0 + math.exp(log_snr)))
        flat = x.flatten(1).double()
        variance = (alpha * self.stds) ** 2 + sigma**2
        off = flat[:, None] - alpha * self.means
        parts = self.weights.log() - 0.5 * (off**2 / variance + variance.log()).sum(-1)
        if label is not None:  # component k is class k
            parts = parts.masked_fill(torch.arange(len(self.weights)) != label[:, None], -torch.inf)
        shares = parts.softmax(1)[..., None]
        x0 = (shares * (self.means + alpha * self.stds**2 / variance * off)).sum(1)
        eps = (shares * sigma * off / variance).sum(1)
        return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[self.predicts].view(x.shape).to(x)


def model(mixture, betas, predicts="eps", clip=False):
    return Denoiser(SmoothOracle(mixture, betas, predicts), Chain.from_betas(betas), predicts, "small", clip)


def analytic(mixture, betas, x0):
    """log p of x_0 under the law of x_1/α_1: the data with noise of deviation σ_1/α_1."""
    bar = 1.0 - betas[0]
    return mixture.noised(1.0, math.sqrt((1.0 - bar) / bar)).log_density(x0.flatten(1).numpy())


def drawn(mixture, count, seed=0):
    return torch.from_numpy(mixture.sample(count, seed))


def of(made):
    return made.log_p.numpy()


@pytest.mark.parametrize(
    "predicts, chain", [("eps", "linear"), ("x0", "linear"), ("eps", "cosine"), ("v", "cosine")]
)
@pytest.mark.parametrize("mixture", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_it_is_the_analytic_density_of_the_noised_data(mixture, chain, predicts):
    betas, x0 = CHAINS[chain], drawn(mixture, 50)
    made = density(model(mixture, betas, predicts), x0, torch.arange(50), Flow(48, 0))
    off = of(made) - analytic(mixture, betas, x0)
    assert np.abs(off).max() < 1e-3


@pytest.mark.parametrize("chain", CHAINS)
def test_off_centre_it_is_the_law_that_the_flow_makes_of_noise(chain):
    """Of one Gaussian the flow is affine: z − m grows as √(d² + u²), and z_T is taken for N(0, 1/α_T²)."""
    betas, mean, std = CHAINS[chain], np.array([0.6, -0.4, 0.8]), np.array([0.5, 0.2, 0.9])
    data = Mixture.of([1.0], [mean], [std])
    x0, bar = drawn(data, 30), np.cumprod(1.0 - betas)[[0, -1]]
    u = np.sqrt((1.0 - bar) / bar)
    grown = np.sqrt((std**2 + u[1] ** 2) / (std**2 + u[0] ** 2)) * math.sqrt(bar[1])
    top = math.sqrt(bar[1]) * mean + grown * (x0.numpy() - mean)
    expected = (-0.5 * top**2 - 0.5 * math.log(2 * math.pi) + np.log(grown)).sum(1)
    made = density(model(data, betas), x0, torch.arange(30), Flow(64, 0))
    np.testing.assert_allclose(of(made), expected, atol=3e-4)
    np.testing.assert_allclose(made.prior, (-0.5 * top**2 - 0.5 * math.log(2 * math.pi)).sum(1), atol=3e-4)
    assert torch.equal(made.log_p, made.prior + made.volume)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("mixture", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_probes_are_right_in_the_mean(mixture, chain):
    """One picture under many numbers, so many probes."""
    betas, n = CHAINS[chain], 20 if mixture is GAUSSIAN else 2000
    x0 = drawn(mixture, 1, seed=3).expand(n, -1)
    made = density(model(mixture, betas), x0, torch.arange(n), Flow(32, 1))
    off = of(made) - of(density(model(mixture, betas), x0[:1], torch.arange(1), Flow(32, 0)))
    if mixture is GAUSSIAN:  # whose derivative is diagonal: signs square to 1, and nothing is left to chance
        assert np.abs(off).max() < 1e-4
    else:
        assert off.std() > 1e-2 and abs(off.mean()) < 4 * off.std() / math.sqrt(n)


@pytest.mark.parametrize("chain", CHAINS)
def test_the_error_falls_at_the_method_s_order_and_is_told(chain):
    betas, x0 = CHAINS[chain], drawn(MIXTURE, 60)
    runs = {K: density(model(MIXTURE, betas), x0, torch.arange(60), Flow(K, 0)) for K in (16, 32, 64)}
    errors = {K: np.abs(of(runs[K]) - of(runs[64])).mean() for K in (16, 32)}
    assert errors[16] / errors[32] > 2**3.3
    for K in (16, 32):
        assert 0.4 < float(runs[K].error.mean()) / errors[K] < 2.5
    assert torch.allclose(runs[32].coarse, runs[16].log_p, atol=1e-6)


def test_the_steps_by_hand():
    """The same steps in numpy from the mixture's score, and their derivative by finite differences."""
    betas, flow = linear_betas(50), Flow(12, 0)
    mixture = Mixture.of([0.5, 0.5], [[0.3, 0.1], [-0.3, -0.1]], [0.3, 0.4])
    bar = np.cumprod(1.0 - betas)
    low, high = np.log(1 / bar[[0, -1]] - 1)
    gamma = np.linspace(low, high, 25)

    def rate(x, g):
        alpha, sigma = 1 / math.sqrt(1 + math.exp(g)), 1 / math.sqrt(1 + math.exp(-g))
        score = mixture.noised(alpha, sigma).score(x)
        eps = -sigma * score
        return 0.5 * alpha * sigma * (alpha * eps - sigma * (x - sigma * eps) / alpha)

    def top(x):
        for k in range(0, 24, 2):
            h = gamma[k + 2] - gamma[k]
            a = rate(x, gamma[k])
            b = rate(x + h / 2 * a, gamma[k + 1])
            c = rate(x + h / 2 * b, gamma[k + 1])
            x = x + h / 6 * (a + 2 * b + 2 * c + rate(x + h * c, gamma[k + 2]))
        return x

    x0 = mixture.sample(3, 1)
    end = top(math.sqrt(bar[0]) * x0)
    made = density(model(mixture, betas), torch.from_numpy(x0), torch.arange(3), flow)
    expected = -0.5 * (end**2).sum(1) - math.log(2 * math.pi)
    np.testing.assert_allclose(made.prior, expected, atol=1e-5)
    # What the steps make of a volume, but for their error.
    d = 1e-5 * np.eye(2)
    columns = [(top(math.sqrt(bar[0]) * (x0 + e)) - top(math.sqrt(bar[0]) * (x0 - e))) / 2e-5 for e in d]
    by_map = np.log(np.abs(np.linalg.det(np.stack(columns, -1))))
    np.testing.assert_allclose(made.volume, by_map, atol=1e-3)

    def divergence(x, g, d=1e-5):
        each = [(rate(x + e, g) - rate(x - e, g)) / (2 * d) for e in d * np.eye(2)]
        return each[0][:, 0] + each[1][:, 1]

    alpha, sigma2 = math.sqrt(bar[0]), 1 - bar[0]
    start = divergence(alpha * x0, gamma[0])
    np.testing.assert_allclose(made.noise[:, 0], sigma2 + start, atol=1e-5)  # 2/D = 1
    assert made.noise.shape == (3, 12)


def test_clip_is_left_out():
    """It would be felt: the oracle's pictures lie partly outside of [−1, 1]."""
    wide = Mixture.of([1.0], [[0.0, 0.0]], [[1.5, 0.8]])
    x0, numbers = drawn(wide, 20), torch.arange(20)
    clipped, plain = (density(model(wide, linear_betas(200), clip=clip), x0, numbers) for clip in (True, False))
    assert torch.equal(clipped.log_p, plain.log_p) and (x0.abs() > 1).any()


def test_a_conditional_model_has_the_density_of_the_class():
    betas, label = CHAINS["cosine"], torch.arange(3).repeat(10)
    x0, centre = drawn(MIXTURE, 30), MIXTURE.means[label.numpy()]
    x0 = torch.from_numpy(0.2 * x0.numpy() + centre)
    made = density(model(MIXTURE, betas), x0, torch.arange(30), Flow(48, 0), label=label)
    for k in range(3):
        rows = label == k
        expected = analytic(MIXTURE.part(np.array([k])), betas, x0[rows])
        assert np.abs(of(made)[rows.numpy()] - expected).max() < 1e-3


@pytest.mark.parametrize("probes", [0, 2])
def test_a_picture_is_the_same_in_any_batch(probes):
    betas, x0, numbers = linear_betas(60), drawn(MIXTURE, 5), torch.tensor([7, 3, 900, 12, 5])
    order = torch.tensor([4, 0, 2])
    whole, part = (
        density(model(MIXTURE, betas), x0[rows], numbers[rows], Flow(6, probes))
        for rows in (torch.arange(5), order)
    )
    assert all(torch.allclose(a[order], b, rtol=1e-9, atol=1e-9) for a, b in zip(whole, part, strict=True))
    again = density(model(MIXTURE, betas), x0, numbers, Flow(6, probes), seed=1)
    assert torch.equal(whole.log_p, again.log_p) is (probes == 0)  # nothing is drawn for the exact one


def test_more_probes_are_sharper():
    betas, x0, numbers = linear_betas(60), drawn(MIXTURE, 1).expand(1000, -1), torch.arange(1000)
    spread = [density(model(MIXTURE, betas), x0, numbers, Flow(8, m)).log_p.std() for m in (1, 4)]
    assert spread[0] / spread[1] == pytest.approx(2.0, rel=0.2)


def test_what_is_computed_and_told():
    betas, told = linear_betas(60), []
    of_model, flow = model(MIXTURE, betas), Flow(6, 1)
    with torch.no_grad():  # as a command may have it
        made = density(of_model, drawn(MIXTURE, 2), torch.arange(2), flow, progress=lambda *a: told.append(a))
    assert of_model.net.batches == [2] * 36 and flow.evaluations == 36
    assert told == [(k, 36) for k in range(1, 37)]
    assert not any(values.requires_grad for values in made)


def test_pixels_get_uniform_noise_of_their_own_width():
    pixels = torch.tensor([0.0, 255.0, 17.0] * 400, dtype=torch.float64).view(1, 1200) / 127.5 - 1
    x0 = pixels.expand(20, -1)
    made = dequantised(x0, torch.arange(20), seed=4)
    u = ((made - x0) * 127.5 + 0.5).flatten().sort().values
    assert u.min() > 0 and u.max() < 1
    ideal = (torch.arange(len(u)) + 0.5) / len(u)
    assert (u - ideal).abs().max() < 1.95 / math.sqrt(len(u))  # Kolmogorov's test at 1 in 1,000
    assert torch.equal(dequantised(x0[:3], torch.tensor([5, 0, 19]), 4), made[[5, 0, 19]])
    assert not torch.equal(dequantised(x0, torch.arange(20), seed=5), made)


def test_bits_of_pixels_that_are_all_as_likely():
    """Uniform on the 256 values: 8 bits each, of a density 1/2 · 255/256 on [−1 − 1/255, 1 + 1/255]."""
    assert bits_per_dim(np.array([12 * math.log(127.5 / 256)]), 12) == pytest.approx([8.0])


def test_the_summary_adds_up():
    generator = torch.Generator().manual_seed(0)
    prior, volume = torch.randn(2, 6, dtype=torch.float64, generator=generator) * 20
    coarse = prior + volume + torch.tensor([3.0, -1.5, 0, 0, 0, 0])
    noise = torch.rand(6, 4, dtype=torch.float64, generator=generator)
    made = Density(prior + volume, prior, volume, coarse, noise)
    summary = summarise(model(MIXTURE, linear_betas(60)), Flow(4, 1), made, 10)
    assert summary.prior.value + summary.volume.value + summary.pixels == pytest.approx(summary.total.value)
    each = -(prior + volume).numpy() / 10 / math.log(2) + math.log2(127.5)
    assert summary.total == pytest.approx((each.mean(), each.std(ddof=1) / math.sqrt(6)))
    assert summary.worst_error == pytest.approx(0.2 / 10 / math.log(2))
    assert summary.error == pytest.approx(0.3 / 6 / 10 / math.log(2))
    assert summary.log_p.value == pytest.approx(float((prior + volume).mean()))
    gamma = np.log(1 / np.cumprod(1 - linear_betas(60))[[0, -1]] - 1)
    np.testing.assert_allclose(summary.gamma, np.linspace(*gamma, 5)[:-1], rtol=1e-9)
    np.testing.assert_allclose(summary.noise, noise.mean(0))


@pytest.mark.parametrize("steps", [0, -2, 1, 7])
def test_steps_are_even(steps):
    with pytest.raises(UserError, match=f"--ode-steps {steps}: takes an even number from 2"):
        Flow(steps)


@pytest.mark.parametrize("probes", [-1, 2**16])
def test_there_are_not_so_many_probes(probes):
    with pytest.raises(UserError, match=f"--probes {probes}: takes a number from 1 to 65535, or exact"):
        Flow(2, probes)


def test_a_chain_of_one_step():
    of_model = Denoiser(SmoothOracle(MIXTURE, np.array([0.5])), Chain.from_betas([0.5]))
    with pytest.raises(UserError, match="a chain of one step"):
        density(of_model, drawn(MIXTURE, 2), torch.arange(2))
