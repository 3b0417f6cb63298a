"""Rate and distortion against the closed forms of Gaussian data, the paper's table, and numpy by hand."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddpm.chain import Chain
from ddpm.denoiser import Denoiser
from ddpm.evaluate.likelihood import Bits, likelihood
from ddpm.evaluate.rate import HEADINGS, RateDistortion, figure, table
from ddpm.gaussian import Gaussian
from oracle import Mixture, OracleNet, bars, cosine_betas, linear_betas
from test_draw_plots import check_layout

# Ho et al. 2020, table 4: reverse steps, rate in bits/dim, RMSE on 0 … 255
PUBLISHED = """\
1000 1.77581 0.95136
900 0.11994 12.02277
800 0.05415 18.47482
700 0.02866 24.43656
600 0.01507 30.80948
500 0.00716 38.03236
400 0.00282 46.12765
300 0.00081 54.18826
200 0.00013 60.97170
100 0.00000 67.60125"""

MEAN, STD = np.array([0.3, -0.5, 0.0]), np.array([0.4, 0.1, 0.9])


def means(terms, error, prior=0.0, **options):
    return RateDistortion.from_means(prior, np.asarray(terms, float), np.asarray(error, float), **options)


def random_bits(pictures, T, seed=0):
    rng = np.random.default_rng(seed)
    prior, terms, error = rng.gamma(1.0, size=pictures), rng.gamma(1.0, size=(pictures, T)), None
    error = rng.gamma(2.0, 0.01, size=(pictures, T))
    parts = (prior + terms.sum(1), prior, terms, error)
    return Bits(*(torch.from_numpy(part) for part in parts))


# -- Gaussian data, of which everything is known ---------------------------------------------------------------


def closed_form(bar, variance):
    """E of prior, terms and squared error in bits/dim and [−1, 1] units, for N(MEAN, STD²), ᾱ at 0 and the levels.

    Of x_0 given x_t only the variance V matters. Ho et al. eq. 6, 7: the means of q and p differ by
    √ᾱ_s β/(1 − ᾱ_t) (x_0 − x̂_0), and E(x_0 − x̂_0)² = V.
    """
    a, noise = bar[1:, None], 1.0 - bar[1:, None]
    V = STD**2 * noise / (a * STD**2 + noise)
    before = bar[:-1, None]
    beta = 1.0 - a / before
    small = (1.0 - before) / noise * beta
    first = small[1] if len(bar) > 2 else beta[0]  # of the last step, to x_0
    p = (small if variance == "small" else beta)[1:]
    apart = (np.sqrt(before) * beta / noise)[1:] ** 2 * V[1:]
    kl = 0.5 * (small[1:] / p - 1.0 - np.log(small[1:] / p) + apart / p)
    decoder = 0.5 * (np.log(2.0 * np.pi * first) + V[:1] / first)
    prior = 0.5 * (a[-1] * (MEAN**2 + STD**2) + noise[-1] - 1.0 - np.log(noise[-1]))
    terms = np.concatenate([decoder, kl])
    return prior.mean() / np.log(2), terms.mean(1) / np.log(2), V.mean(1)


def measured(betas, variance, spec=None, pictures=4000):
    data = Mixture.of([1.0], MEAN[None], STD[None])
    model = Denoiser(OracleNet(data, betas), Chain.from_betas(betas), "eps", variance, clip=False)
    if spec is not None:
        model = model.respace(spec)
    x0 = torch.from_numpy(data.sample(pictures, seed=1)).view(pictures, 1, 1, 3)
    bits = likelihood(model, x0, torch.arange(pictures), decoder=Gaussian.log_density)
    levels = model.native.places(model.chain)[1:].astype(np.int64)
    return RateDistortion.from_pictures(bits, levels), levels.tolist()


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize(
    "betas, spec",
    [
        (linear_betas(50), None),
        (linear_betas(50), "7"),
        (cosine_betas(60), "ddim12"),
        (cosine_betas(60), [1, 2, 30]),
        (linear_betas(50), "1"),
    ],
    ids=["linear", "linear-7", "cosine-ddim12", "cosine-short", "one-step"],
)
def test_gaussian_data_has_the_curve_of_the_closed_form(betas, spec, variance):
    curve, levels = measured(betas, variance, spec)
    prior, terms, error = closed_form(bars(betas, levels), variance)
    K = len(levels)
    assert curve.steps.tolist() == list(range(1, K + 1)) and curve.levels.tolist() == levels[::-1]
    for k in range(K):
        t = K - k  # of the chain itself: x_T after one step, x_1 after K
        received = prior + sum(terms[i - 1] for i in range(t + 1, K + 1))
        root = 127.5 * math.sqrt(error[t - 1])
        assert abs(curve.rate[k] - received) < 5 * curve.rate_se[k] + 1e-9
        assert abs(curve.rmse[k] - root) < 5 * curve.rmse_se[k]
        assert abs(curve.psnr[k] - 10 * math.log10(255**2 / root**2)) < 5 * curve.psnr_se[k]
        # Close enough for an index that is off by one to be seen.
        assert curve.rmse_se[k] < 0.02 * root and curve.rate_se[k] < 0.05 * received + 1e-9
    assert abs(curve.decoder - terms[0]) < 5 * curve.decoder_se
    assert abs(curve.lossless - prior - terms.sum()) < 5 * curve.lossless_se
    assert np.all(np.diff(curve.rate) > 0) and curve.pictures == 4000
    # x̂_0 gets better with each step, by more than the noise of neighbours' draws where x_t says anything.
    assert np.all(np.diff(curve.rmse) < 5 * curve.rmse_se[1:]) and np.all(np.diff(curve.rmse[-(K // 2 + 1) :]) < 0)


def test_on_a_fine_chain_the_rate_is_the_information_that_x_t_has_of_the_picture():
    """I(x_0; x_t) = ½ log(1 + STD² SNR); the rate is the Riemann sum over it, from above (Guo et al. 2005)."""
    excess = []
    for T in (500, 4000):
        betas = cosine_betas(T)
        bar = bars(betas, list(range(1, T + 1)))
        prior, terms, error = closed_form(bar, "small")
        curve = means(terms, error, prior)
        snr = bar[:0:-1, None] / (1.0 - bar[:0:-1, None])
        information = 0.5 * np.log2(1.0 + STD**2 * snr).mean(1)
        shown = (curve.rate > 0.01) & (curve.levels > T // 100)  # below T/100 even these steps are long
        assert np.all(curve.rate >= information)
        excess.append((curve.rate / information - 1.0)[shown].max())
    assert excess[1] < 0.02 and excess[1] < excess[0] / 4


# -- the paper's table -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
def test_the_published_numbers_come_out_in_the_published_layout(first):
    """The bits of each hundred steps all in their first or their last one; the decoder's 1.97 as in the text."""
    rows = [line.split() for line in PUBLISHED.splitlines()][::-1]
    terms, error, before, at = np.zeros(1000), np.full(1000, 7.0), 0.0, 1001
    for steps, rate, rmse in rows:
        t = 1000 - int(steps) + 1  # the table's T − t + 1
        sent_in = min(at, 1000) if first else t + 1
        terms[sent_in - 1] += float(rate) - before
        error[t - 1] = (float(rmse) / 127.5) ** 2
        before, at = float(rate), t
    terms[0] = 1.97
    curve = means(terms, error)
    shown = [row.cells() for row in table(curve)]
    assert [" ".join((steps, rate, rmse)) for steps, _, rate, rmse, _ in shown] == PUBLISHED.splitlines()
    assert [int(t) for _, t, *_ in shown] == list(range(1, 1001, 100))
    assert len(HEADINGS) == len(shown[0]) and shown[0][-1] == "48.56"
    assert curve.lossless == pytest.approx(3.74581) and curve.decoder == 1.97  # the paper's 3.75, in two parts


@pytest.mark.parametrize(
    "T, rows, steps",
    [
        (1000, 10, list(range(1000, 0, -100))),
        (4000, 4, [4000, 3000, 2000, 1000]),
        (7, 10, [7, 6, 5, 4, 3, 2, 1]),
        (50, 5, [50, 40, 30, 20, 10]),
        (9, 2, [9, 4]),
        (1, 10, [1]),
        (100, 1, [100]),
    ],
)
def test_rows_are_at_evenly_spaced_steps(T, rows, steps):
    curve = means(np.arange(T), np.ones(T))
    assert [row.steps for row in table(curve, rows)] == steps
    assert [row.level for row in table(curve, rows)] == [T - k + 1 for k in steps]


@given(st.integers(1, 300), st.integers(1, 40))
def test_there_are_as_many_rows_as_asked_for_or_one_a_step(T, rows):
    steps = [row.steps for row in table(means(np.ones(T), np.ones(T)), rows)]
    assert len(steps) == min(T, rows) and steps[0] == T and steps[-1] >= 1
    assert np.ptp(np.diff([*steps, 0])) <= 2 and np.all(np.diff(steps) < 0)


# -- means and errors ----------------------------------------------------------------------------------------


def test_rate_is_what_was_sent_before():
    curve = means([100.0, 1.0, 20.0, 300.0], [0.01, 0.04, 0.09, 0.16], prior=4000.0)
    assert curve.rate.tolist() == [4000.0, 4300.0, 4320.0, 4321.0]
    assert (curve.decoder, curve.lossless) == (100.0, 4421.0)
    assert curve.rmse == pytest.approx([51.0, 38.25, 25.5, 12.75])
    assert curve.psnr[2] == pytest.approx(20.0)  # a tenth of 255
    assert curve.rate_se is None and curve.pictures is None and curve.lossless_se is None


@given(st.integers(1, 30), st.integers(0, 5))
def test_rate_never_falls(T, seed):
    bits = random_bits(3, T, seed)
    curve = RateDistortion.from_pictures(bits)
    assert np.all(np.diff(curve.rate) >= 0)
    assert curve.rate[0] == pytest.approx(bits.prior.mean().item())
    assert curve.lossless == pytest.approx(bits.total.mean().item())


def test_the_error_of_all_pixels_comes_before_its_root():
    """Two pictures with RMSE 3 and 4 on 0 … 255."""
    error = torch.tensor([[9.0], [16.0]], dtype=torch.float64) / 127.5**2
    none = torch.zeros(2, dtype=torch.float64)
    curve = RateDistortion.from_pictures(Bits(none, none, torch.zeros_like(error), error))
    assert curve.rmse == pytest.approx([math.sqrt(12.5)])
    assert curve.psnr == pytest.approx([10 * math.log10(255**2 / 12.5)])


def test_standard_errors_are_those_of_leaving_pictures_out():
    """The jackknife: no derivative of root or logarithm, and exact for means."""
    bits, n = random_bits(400, 5), 400
    curve = RateDistortion.from_pictures(bits)
    left = [
        RateDistortion.from_pictures(Bits(*(torch.cat([part[:i], part[i + 1 :]]) for part in bits)))
        for i in range(n)
    ]

    def jackknife(name):
        values = np.array([getattr(one, name) for one in left])
        return np.sqrt((n - 1) / n * ((values - values.mean(0)) ** 2).sum(0))

    for name, tolerance in (("rate", 1e-9), ("decoder", 1e-9), ("lossless", 1e-9), ("rmse", 0.02), ("psnr", 0.02)):
        assert getattr(curve, f"{name}_se") == pytest.approx(jackknife(name), rel=tolerance)
    cells = table(curve, 1)[0].cells()
    assert cells[2] == f"{curve.rate[-1]:.5f} ± {curve.rate_se[-1]:.5f}" and cells[4].count("±") == 1


def test_one_picture_has_no_standard_error():
    curve = RateDistortion.from_pictures(random_bits(1, 4))
    assert curve.pictures == 1 and curve.rate_se is None and curve.lossless_se is None
    assert not any("±" in cell for cell in table(curve)[0].cells())


def test_what_does_not_belong_together_is_refused():
    for terms, error, levels in ((3, 2, 3), (3, 3, 2), (0, 0, 0)):
        with pytest.raises(ValueError, match="need one of each a step"):
            means(np.ones(terms), np.ones(error), levels=np.arange(levels))
    with pytest.raises(ValueError, match="need one of each a step"):
        RateDistortion.from_pictures(random_bits(3, 4), np.arange(1, 4))
    with pytest.raises(ValueError, match="rows 0: is at least 1"):
        table(means([1.0], [1.0]), 0)


# -- written and drawn -----------------------------------------------------------------------------------------


def test_the_record_is_plain_json():
    curve = RateDistortion.from_pictures(random_bits(3, 4), np.array([1, 5, 7, 9]))
    read = json.loads(json.dumps(curve.to_json(), allow_nan=False))
    assert read["levels"] == [9, 7, 5, 1] and read["steps"] == [1, 2, 3, 4]
    for name in ("rate", "rmse", "psnr", "rate_se", "rmse_se", "psnr_se", "decoder", "lossless", "pictures"):
        assert np.array_equal(read[name], getattr(curve, name))


def test_no_error_at_all_is_infinite_quality():
    bits = random_bits(3, 4)
    curve = RateDistortion.from_pictures(bits._replace(error=bits.error * torch.tensor([0.0, 1.0, 1.0, 1.0])))
    row = table(curve)[0]
    assert row.psnr == math.inf and row.cells()[3:] == ("0.00000 ± 0.00000", "∞")
    assert json.loads(json.dumps(curve.to_json(), allow_nan=False))["psnr"][-1] is None
    assert figure(curve).axes[2].lines[0].get_xdata().tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("T", [1, 2, 20, 1000])
def test_the_figure_has_the_curve_in_every_panel(T):
    curve = means(np.exp(-np.arange(T) / 20), np.linspace(1e-4, 0.3, T), 1e-5)
    drawn = figure(curve)
    check_layout(drawn)
    over_steps, over_rate = [curve.rmse, curve.rate, curve.psnr], [curve.rmse, curve.psnr]
    expected = [(curve.steps, y) for y in over_steps] + [(curve.rate, y) for y in over_rate]
    assert len(drawn.axes) == len(expected)
    for axes, (x, y) in zip(drawn.axes, expected, strict=True):
        line, dots = axes.lines
        assert np.array_equal(line.get_xydata(), np.stack([x, y], 1))
        assert len(dots.get_xdata()) == (10 if T == 1000 else T)
        assert {*map(tuple, dots.get_xydata())} <= {*map(tuple, line.get_xydata())}
        assert axes.get_xlabel() and axes.get_ylabel()
    assert any(f"{curve.lossless:.2f} bits/dim" in text.get_text() for text in drawn.texts)


def test_the_bands_are_two_standard_errors():
    curve = RateDistortion.from_pictures(random_bits(5, 30))
    measured = [(curve.rmse, curve.rmse_se), (curve.rate, curve.rate_se), (curve.psnr, curve.psnr_se)]
    drawn = figure(curve, "A model on 5 pictures.")
    check_layout(drawn)
    said = " ".join(text.get_text().replace("\n", " ") for text in drawn.texts)
    assert "A model on 5 pictures. Bands: ± 2 standard errors." in said
    for axes, (y, se) in zip(drawn.axes, measured, strict=False):
        (band,) = axes.collections
        corners = {(x, round(edge, 9)) for x, edge in band.get_paths()[0].vertices.tolist()}
        for x, low, high in zip(curve.steps, y - 2 * se, y + 2 * se, strict=True):
            assert {(x, round(low, 9)), (x, round(high, 9))} <= corners
