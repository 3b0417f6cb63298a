"""Scores against closed formulas: scipy's sqrtm, Gaussians, kernels and neighbours written out in numpy."""

import math
import sys
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch

from ddpm.errors import UserError
from ddpm.evaluate.features import open_features
from ddpm.evaluate.scores import Moments, frechet, inception_score, kid, precision_recall

RNG = np.random.default_rng


def closed(a, b):
    """Fréchet distance as Heusel et al. write it, of features [n, F]."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    product = np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)
    traces = np.trace(np.cov(a, rowvar=False)) + np.trace(np.cov(b, rowvar=False))
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * np.trace(scipy.linalg.sqrtm(product).real)


def mmd(x, y):
    """Unbiased MMD² of the cubic kernel, term by term (Bińkowski et al. 2018, eq. 4)."""
    n, features = x.shape
    kernel = lambda a, b: (a @ b / features + 1) ** 3  # noqa: E731
    inner = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j)
    return inner / (n * (n - 1)) - 2 * sum(kernel(a, b) for a in x for b in y) / n**2


def by_pairs(real, fake, k):
    def inside(points, others):
        between = np.linalg.norm(others[:, None] - others[None], axis=2)
        radii = np.sort(between, axis=1)[:, k]
        return (np.linalg.norm(points[:, None] - others[None], axis=2) <= radii).any(axis=1).mean()

    return inside(fake, real), inside(real, fake)


# Moments and the Fréchet distance


def test_moments_are_those_of_numpy():
    x = RNG(0).normal(5.0, 2.0, (40, 6)).astype(np.float32)
    for given in (x, torch.from_numpy(x), torch.from_numpy(x).double()):
        moments = Moments.of(given)
        assert moments.n == 40
        assert moments.mean.dtype == moments.cov.dtype == np.float64
        np.testing.assert_allclose(moments.mean, x.astype(np.float64).mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.cov, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-9)


def test_frechet_is_the_closed_formula_for_pictures_in_a_feature_net():
    rng = RNG(1)
    pixels = rng.integers(0, 256, (300, 1, 8, 8), dtype=np.uint8)
    others = (rng.integers(0, 256, (200, 1, 8, 8)) // 2).astype(np.uint8)
    weights = torch.from_numpy(rng.normal(0, 0.1, (64, 12))).float()
    net = open_features(lambda x: torch.tanh(x.float().flatten(1) / 127.5 @ weights), key="tanh")
    a, b = net(pixels).pooled, net(others).pooled
    assert frechet(Moments.of(a), Moments.of(b)) == pytest.approx(closed(a, b), rel=1e-8)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_frechet_of_gaussians(offset):
    """|μ − μ'|² + Σ (σ − σ')² where the covariances commute; a common offset loses nothing."""
    mean, other = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 0.5])
    std, stds = np.array([1.0, 2.0, 0.1]), np.array([3.0, 2.0, 0.4])
    turn = scipy.linalg.qr(RNG(2).normal(size=(3, 3)))[0]
    a = Moments(1000, turn @ mean + offset, turn @ np.diag(std**2) @ turn.T)
    b = Moments(50, turn @ other + offset, turn @ np.diag(stds**2) @ turn.T)
    expected = ((mean - other) ** 2).sum() + ((std - stds) ** 2).sum()
    assert frechet(a, b) == pytest.approx(expected, rel=1e-7)
    assert frechet(b, a) == pytest.approx(expected, rel=1e-7)


def test_frechet_of_a_set_with_itself_is_zero():
    moments = Moments.of(RNG(3).normal(size=(100, 10)))
    assert 0 <= frechet(moments, moments) < 1e-9
    alike = Moments.of(np.full((5, 3), 0.7))
    assert frechet(alike, alike) == 0


def test_frechet_with_fewer_pictures_than_features():
    a, b = RNG(4).normal(size=(7, 20)), RNG(5).normal(1.0, 2.0, size=(5, 20))
    # The product's square root by its eigenvalues, as sqrtm warns of singular matrices
    first, second = (np.cov(x, rowvar=False) for x in (a, b))
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    crossed = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * crossed
    assert frechet(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-5)


# KID


def test_kid_of_whole_sets_is_the_unbiased_estimate():
    x, y = RNG(6).normal(size=(12, 5)), RNG(7).normal(0.5, 1.0, (12, 5))
    got = kid(x, y, seed=0, subsets=3, size=12)
    assert got.value == pytest.approx(mmd(x, y), rel=1e-10)
    assert got.deviation < 1e-12
    assert kid(x, y, size=1000).value == pytest.approx(mmd(x, y), rel=1e-10)  # there are no more than 12


def test_kid_of_subsets_has_the_expectation_of_the_whole():
    x, y = RNG(8).normal(size=(40, 3)), RNG(9).normal(0.7, 1.0, (30, 3))
    got = kid(x, y, seed=1, subsets=2000, size=10)
    # Of all pairs, each side by itself: what the mean over subsets tends to.
    kernel = lambda a, b: (a @ b.T / 3 + 1) ** 3  # noqa: E731
    off = lambda k: (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))  # noqa: E731
    whole = off(kernel(x, x)) + off(kernel(y, y)) - 2 * kernel(x, y).mean()
    assert got.value == pytest.approx(whole, abs=4 * got.deviation / math.sqrt(2000))
    assert kid(x, y, 1, 2000, 10) == got != kid(x, y, 2, 2000, 10)


# Inception Score


def test_inception_score_of_one_split():
    logits = RNG(10).normal(0, 3, (50, 7))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.exp((p * np.log(p / p.mean(axis=0))).sum(axis=1).mean())
    value, deviation = inception_score(logits, splits=1)
    assert value == pytest.approx(expected, rel=1e-10)
    assert math.isnan(deviation)


def test_inception_score_of_sure_pictures_is_their_number_of_classes():
    """Of one picture a split it is 1, since a picture tells nothing about others."""
    logits = 100.0 * np.eye(4)[np.arange(40) % 4]
    assert inception_score(logits, splits=1).value == pytest.approx(4.0)
    assert inception_score(logits, splits=40) == pytest.approx((1.0, 0.0))
    assert inception_score(np.zeros((20, 4))) == pytest.approx((1.0, 0.0))


def test_inception_score_over_splits_is_seeded():
    logits = torch.from_numpy(RNG(11).normal(0, 3, (60, 5)))
    first = inception_score(logits, seed=3)
    assert first == inception_score(logits, seed=3) != inception_score(logits, seed=4)
    assert 1 < first.value < 5
    assert first.deviation > 0


# Precision and recall


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("rounded", [False, True])
def test_precision_and_recall_are_those_of_all_pairs(k, rounded):
    """Rounded ones lie on edges of each other's neighbourhoods, and on each other."""
    real, fake = RNG(12).normal(size=(60, 3)), RNG(13).normal(0.8, 0.7, (45, 3))
    if rounded:
        real, fake = real.round(), fake.round()
    assert precision_recall(real, fake, k) == by_pairs(real, fake, k)


def test_precision_and_recall_in_several_pieces(monkeypatch):
    import ddpm.evaluate.scores as scores

    real, fake = RNG(14).normal(size=(50, 4)), RNG(15).normal(1.0, 1.0, (37, 4))
    monkeypatch.setattr(scores, "_ROWS", 16)
    assert precision_recall(real, fake, 2) == by_pairs(real, fake, 2)


def test_precision_and_recall_of_constructed_sets():
    line = np.arange(10.0)[:, None]
    assert precision_recall(line, line) == (1.0, 1.0)
    assert precision_recall(line, line + 100) == (0.0, 0.0)
    # Two of four samples lie far off; the others' neighbourhoods reach over all of it by way of those.
    assert precision_recall(line, np.array([[4.0], [5.0], [1000.0], [1001.0]]), k=1)[0] == 0.5
    # Half of what is real is never drawn.
    halves = np.concatenate([line / 10, line / 10 + 50])
    assert precision_recall(halves, line / 10) == (1.0, 0.5)


def test_copies_are_inside_and_near_copies_are_not():
    """Where all of a set is one point its radius is 0: rounding must not decide, far from the origin either."""
    point = RNG(16).normal(1e3, 1.0, (1, 200))
    same = np.repeat(point, 9, axis=0)
    assert precision_recall(same, same.copy()) == (1.0, 1.0)
    assert precision_recall(same, same + 1e-6) == (0.0, 0.0)


# What cannot be scored


def test_what_is_too_few_is_said():
    one, two = np.zeros((1, 3)), RNG(17).normal(size=(2, 3))
    with pytest.raises(UserError, match="1 picture: a Fréchet distance needs at least 2"):
        Moments.of(one)
    with pytest.raises(UserError, match="no pictures to score"):
        Moments.of(np.zeros((0, 3)))
    with pytest.raises(UserError, match="1 picture in 100 subsets: KID needs 2"):
        kid(one, two)
    with pytest.raises(UserError, match="2 pictures: IS in 10 splits"):
        inception_score(two)
    for k in (0, 2, 5):
        with pytest.raises(UserError, match=f"k = {k}: neighbours are counted among 2 pictures"):
            precision_recall(two, RNG(18).normal(size=(9, 3)), k)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_said(value):
    whole, off = np.ones((12, 3)), np.ones((12, 3))
    off[4, 1] = value
    for score in (
        lambda: Moments.of(off),
        lambda: kid(whole, off),
        lambda: inception_score(off),
        lambda: precision_recall(off, whole),
    ):
        with pytest.raises(UserError, match=r"features of picture 4 are not finite \(NaN or inf\)"):
            score()


def test_sides_of_other_nets_are_refused():
    a, b = RNG(19).normal(size=(12, 3)), RNG(20).normal(size=(12, 4))
    for score in (
        lambda: frechet(Moments.of(a), Moments.of(b)),
        lambda: kid(a, b),
        lambda: precision_recall(a, b),
    ):
        with pytest.raises(UserError, match="3 and 4 features a picture"):
            score()


def test_nothing_else_is_touched():
    """The global generator stays where it is, and torchmetrics' warnings are not shown."""
    x = RNG(21).normal(size=(30, 3))
    before = torch.get_rng_state()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        kid(x, x), inception_score(x), inception_score(x, splits=1), frechet(Moments.of(x), Moments.of(x))
    assert not seen
    assert torch.equal(torch.get_rng_state(), before)


def test_torchmetrics_is_loaded_when_a_score_is_asked_for():
    import subprocess

    code = "import sys, ddpm.evaluate.scores; print('torchmetrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
