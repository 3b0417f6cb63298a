"""What a measurement comes to: means, errors and bins, against sums by hand."""

import json

import numpy as np
import pytest
import torch

from ddpm.chain import Chain, make_chain
from ddpm.denoiser import Denoiser
from ddpm.evaluate.likelihood import Bits, Estimate, estimate, level_probabilities, likelihood
from ddpm.evaluate.measuring import Measurement, choose
from ddpm.evaluate.summary import Mean, bins, figure, summarise
from oracle import Mixture, OracleNet, cosine_betas
from test_draw_plots import check_layout

MIXTURE = Mixture.of([0.3, 0.7], [[-0.5] * 4, [0.4] * 4], [0.2, 0.3])


def exact(T=50):
    betas = cosine_betas(T)
    return Denoiser(OracleNet(MIXTURE, betas), Chain.from_betas(betas))


def measured(model, count, draws=None):
    pixels = np.clip(np.rint(127.5 * (MIXTURE.sample(count, 1) + 1)), 0, 255)
    x0 = torch.from_numpy(pixels / 127.5 - 1).view(count, 1, 2, 2)
    numbers = torch.arange(count)
    return likelihood(model, x0, numbers) if draws is None else estimate(model, x0, numbers, draws)


def test_a_mean_and_its_error_by_hand():
    # 1, 2, 6: mean 3, sample variance (4 + 1 + 9)/2 = 7, over three pictures
    assert Mean.of(np.array([1.0, 2.0, 6.0])) == pytest.approx((3.0, (7 / 3) ** 0.5))
    assert Mean.of(np.array([4.0])) == (4.0, None)


def test_every_term_by_hand():
    prior = torch.tensor([0.5, 0.25], dtype=torch.float64)
    terms = torch.tensor([[4.0, 2.0, 1.0], [2.0, 1.0, 1.0]], dtype=torch.float64)
    bits = Bits(prior + terms.sum(1), prior, terms, terms / 10)
    model = Denoiser(torch.nn.Identity(), make_chain("cosine", 40)).respace([2, 7, 40])
    what = Measurement("respaced", model, steps="3")
    summary = summarise(what, bits)
    assert summary.pictures == 2
    assert summary.total == pytest.approx((5.875, 1.625)) and summary.prior == pytest.approx((0.375, 0.125))
    assert summary.decoder == pytest.approx((3.0, 1.0)) and summary.between == pytest.approx((2.5, 0.5))
    assert summary.terms.first.tolist() == summary.terms.last.tolist() == [2, 7, 40]
    assert summary.terms.mean.tolist() == [3.0, 1.5, 1.0]
    assert summary.terms.standard_error.tolist() == pytest.approx([1.0, 0.5, 0.0])
    assert summary.terms.error.tolist() == pytest.approx([0.3, 0.15, 0.1])


@pytest.mark.parametrize("draws", [None, 5])
def test_parts_and_terms_add_up(draws):
    model = exact()
    what = choose(model, "all" if draws is None else None, draws)
    summary = summarise(what, measured(model, 30, draws))
    parts = [mean.value for mean in summary.parts().values()]
    assert sum(parts) == pytest.approx(summary.total.value, rel=1e-12)
    assert summary.prior.value + summary.terms.total.sum() == pytest.approx(summary.total.value, rel=1e-12)
    assert summary.terms.total[0] == pytest.approx(summary.decoder.value, rel=1e-12)
    assert (summary.terms.error is None) == (draws is not None)


def test_bins_of_an_estimate_are_the_means_of_their_terms():
    """Within the error that is given for each."""
    model = exact(200)
    whole = summarise(choose(model, "all"), measured(model, 800))
    drawn = summarise(choose(model, None, 12), measured(model, 800, 12))
    assert 30 < len(drawn.terms.last) <= 41 and drawn.terms.steps.sum() == 200
    expected = np.add.reduceat(whole.terms.mean, drawn.terms.first - 1) / drawn.terms.steps
    off = (drawn.terms.mean - expected) / drawn.terms.standard_error
    assert np.abs(off).max() < 4 and np.abs(off[0]) < 1e-6


@pytest.mark.parametrize("T", [1, 2, 3, 30, 1000, 4000])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_bins_cover_every_level_once(T, schedule):
    if schedule == "linear" and T < 21:
        return
    chain = make_chain(schedule, T)
    last = bins(chain)
    first = np.array([1, *(last[:-1] + 1)])
    assert last[0] == 1 and last[-1] == T and (np.diff(last) > 0).all() and len(last) <= 41
    if T > 1:
        share = np.add.reduceat(level_probabilities(chain), first[1:] - 2)
        assert (share < 1 / 40 + level_probabilities(chain).max() + 1e-9).all()


def test_one_picture_has_no_error():
    model = exact()
    for what in (choose(model, "all"), choose(model, None, 4)):
        summary = summarise(what, measured(model, 1, what.draws or None))
        assert summary.total.standard_error is None and summary.terms.standard_error is None
        assert json.loads(json.dumps(summary.to_json(), allow_nan=False))["terms"]["standard_error"] is None
        figure(what, summary)


def test_the_record_is_whole():
    model = exact()
    values = json.loads(json.dumps(summarise(choose(model, "all"), measured(model, 4)).to_json(), allow_nan=False))
    assert set(values) == {"bits_per_dim", "parts", "terms"}
    assert set(values["parts"]) == {"prior", "between", "decoder"}
    assert all(set(part) == {"mean", "standard_error"} for part in values["parts"].values())
    assert all(len(column) == 50 for column in values["terms"].values())


@pytest.mark.parametrize("draws", [None, 5])
def test_the_figure_shows_the_terms_and_their_sum(draws):
    model = exact()
    what = choose(model, "all" if draws is None else None, draws)
    summary = summarise(what, measured(model, 20, draws))
    about = "fashion on 20 pictures of flowers, evenly spread over its 1,000. Every term, variance large."
    made = figure(what, summary, about)
    check_layout(made)
    terms, total = made.axes
    assert (
        terms.get_xscale() == terms.get_yscale() == total.get_xscale() == "log" and total.get_yscale() == "linear"
    )
    x, y = terms.lines[0].get_data()
    there = summary.terms.mean > 0
    np.testing.assert_allclose(y, summary.terms.mean[there])
    np.testing.assert_allclose(x, np.sqrt(summary.terms.first * summary.terms.last)[there])
    assert total.lines[0].get_ydata()[-1] == pytest.approx(summary.total.value - summary.prior.value)
    under, said = (text.get_text() for text in made.texts)
    assert said.startswith("Bound of" if draws is None else "Estimate of the bound of")
    total = summary.total
    assert f"{total.value:.3f} ± {total.standard_error:.3f} (standard error) bits/dim" in said
    assert under.replace("\n", " ") == f"{about} Band: ± 2 standard errors."
    (band,) = terms.collections
    high = summary.terms.mean + 2 * summary.terms.standard_error
    edges = band.get_paths()[0].vertices[:, 1]
    assert all(np.isclose(edges, value, rtol=1e-9).any() for value in high[there])


def test_a_chain_of_one_step():
    what = choose(Denoiser(torch.nn.Identity(), make_chain("cosine", 1)))
    one = torch.tensor([3.0, 5.0], dtype=torch.float64)
    none = torch.zeros(2, 0, dtype=torch.float64)
    for bits in (Bits(one, one - one, one[:, None], one[:, None]),):
        summary = summarise(what, bits)
        assert summary.between.value == 0.0 and summary.decoder.value == summary.total.value == 4.0
        figure(what, summary)
    drawn = summarise(what, Estimate(one, one - one, one, none.long(), none, none, none))
    assert drawn.total.value == 4.0 and drawn.terms.total.tolist() == [4.0]
