"""Both sides of a comparison: what is kept of pictures, the cache of a reference, scores, and doubts."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from ddpm.data import load, open_source
from ddpm.data.pictures import Cached
from ddpm.errors import UserError
from ddpm.evaluate import fidelity
from ddpm.evaluate.features import Features, open_features
from ddpm.evaluate.fidelity import (
    Collected,
    Gathering,
    caveats,
    check_counts,
    check_net,
    fid,
    reference_features,
    sample_features,
    scores,
)
from ddpm.evaluate.scores import Mean, Moments


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Corners:
    """The grey levels of the four corners; spatial: the first row; logits: corners by 100. Counts pictures."""

    def __init__(self, spatial=True, logits=True):
        self.seen, self.spatial, self.logits = 0, spatial, logits

    def __call__(self, pixels):
        self.seen += len(pixels)
        x = pixels.float()
        corners = x[:, 0][:, [0, 0, -1, -1], [0, -1, 0, -1]]
        return corners, x[:, :, 0] if self.spatial else None, corners / 100.0 if self.logits else None


def net_of(made, key="corners"):
    return open_features(made, key=key)


def pixels(n, seed=0, side=5):
    return np.random.default_rng(seed).integers(0, 256, (n, 1, side, side), dtype=np.uint8)


def corners(x):
    return x[:, 0][:, [0, 0, -1, -1], [0, -1, 0, -1]].astype(np.float64)


def pictures(x, fingerprint="f" * 64):
    return Cached(x, None, (), "set", fingerprint)


# -- what is kept ----------------------------------------------------------------------------------------------


def test_moments_are_those_of_all_features_at_once():
    x = pixels(2600)  # more than are multiplied at once, several times over
    told = []
    made = sample_features(x, net_of(Corners()), lambda done, of: told.append((done, of)))
    expected, row = corners(x), x[:, 0, 0].astype(np.float64)
    assert made.n == 2600 and made.moments.n == 2600
    assert_allclose(made.moments.mean, expected.mean(0), rtol=1e-12)
    assert_allclose(made.moments.cov, np.cov(expected.T), rtol=1e-10)
    assert made.spatial is not None and made.logits is not None
    assert_allclose(made.spatial.cov, np.cov(row.T), rtol=1e-9, atol=1e-8)
    assert_allclose(made.pooled, expected)
    assert_allclose(made.logits, expected / 100, rtol=1e-6)
    assert told[0] == (256, 2600) and told[-1] == (2600, 2600)


def test_little_is_lost_far_from_zero():
    x = (1e4 + np.random.default_rng(0).normal(size=(3000, 3))).astype(np.float32)
    gathering = Gathering(3000)
    for first in range(0, 3000, 100):
        gathering.add(np.arange(first, first + 100), Features(torch.from_numpy(x[first : first + 100])))
    assert_allclose(gathering.collected().moments.cov, np.cov(x.astype(np.float64).T), rtol=1e-9, atol=1e-12)


def test_pictures_come_in_any_order(monkeypatch):
    monkeypatch.setattr(fidelity, "KEPT", 7)
    x = pixels(40)
    net, gathering = net_of(Corners()), Gathering(40)
    order = np.random.default_rng(1).permutation(40)
    for places in np.split(order, [3, 19, 20]):
        gathering.add(places, net(x[places]))
    made = gathering.collected()
    assert_allclose(made.pooled, corners(x)[[0, 5, 11, 17, 22, 28, 34]])  # k * 40 // 7
    assert_allclose(made.logits, corners(x) / 100, rtol=1e-6)
    assert_allclose(made.moments.cov, np.cov(corners(x).T), rtol=1e-12)


def test_fewer_than_two_pictures_have_no_covariance():
    with pytest.raises(UserError, match="1 picture to score: take at least 2"):
        sample_features(pixels(1), net_of(Corners()))


def test_what_a_net_does_not_give_is_not_there():
    made = sample_features(pixels(9), net_of(Corners(spatial=False, logits=False)))
    assert made.spatial is None and made.logits is None


def test_more_features_than_a_covariance_is_taken_of(monkeypatch):
    monkeypatch.setattr(fidelity, "MOST", 4)
    made = sample_features(pixels(9, side=5), net_of(Corners()))  # 4 pooled, 5 spatial ones
    assert made.spatial is None
    monkeypatch.setattr(fidelity, "MOST", 3)
    with pytest.raises(UserError, match=r"gives 4 features a picture.* at most 3; average them"):
        sample_features(pixels(9), net_of(Corners()))


# -- the cache ---------------------------------------------------------------------------------------------------


def same(a, b):
    for one, other in ((a.moments, b.moments), (a.spatial, b.spatial)):
        assert one.n == other.n and np.array_equal(one.mean, other.mean) and np.array_equal(one.cov, other.cov)
    return a.n == b.n and np.array_equal(a.pooled, b.pooled)


def test_a_reference_is_computed_once(home):
    corner, told, x = Corners(), [], pixels(30)
    first = reference_features(pictures(x), net_of(corner), lambda done, of: told.append((done, of)))
    seen = corner.seen
    again = reference_features(pictures(x), net_of(corner), lambda done, of: told.append("no"))
    assert corner.seen == seen == 30 and told == [(30, 30)] and same(first, again)
    assert first.logits is None is again.logits
    assert len(list((home / "features").iterdir())) == 1
    assert_allclose(again.pooled, corners(x))


@pytest.mark.parametrize("change", ["net", "data", "count"])
def test_what_decides_the_features_is_in_the_key(change):
    corner, x = Corners(), pixels(30)
    reference_features(pictures(x), net_of(corner))
    other = pictures(x[:29] if change == "count" else x, "e" * 64 if change == "data" else "f" * 64)
    reference_features(other, net_of(corner, "another" if change == "net" else "corners"))
    assert corner.seen == 59 if change == "count" else 60


def test_a_stream_whose_names_and_sizes_are_the_same_is_looked_at(tmp_path):
    made = []
    for seed in (0, 1):
        np.save(tmp_path / "set.npy", pixels(20, seed)[:, 0])
        streamed = load(open_source(tmp_path / "set.npy"), (5, 5), 1, keep="never")
        made.append((streamed.fingerprint, reference_features(streamed, net_of(Corners()))))
    assert made[0][0] == made[1][0]
    assert_allclose(made[1][1].pooled, corners(pixels(20, 1)))


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "foreign", "lacking"])
def test_a_damaged_file_is_computed_again(home, damage):
    corner, x = Corners(), pixels(30)
    first = reference_features(pictures(x), net_of(corner))
    (path,) = (home / "features").iterdir()
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(first.pooled[5]).tobytes())] ^= 1
    if damage == "lacking":
        np.savez(path, pooled=first.pooled)
    else:
        whole = path.read_bytes()
        path.write_bytes({"cut": whole[:-40], "empty": b"", "flipped": data, "foreign": b"none"}[damage])
    assert same(first, reference_features(pictures(x), net_of(corner))) and corner.seen == 60
    assert same(first, reference_features(pictures(x), net_of(corner))) and corner.seen == 60  # mended


def test_without_a_cache(home, tmp_path):
    corner, x = Corners(), pixels(30)
    reference_features(pictures(x), net_of(corner), cache=False)
    assert not home.exists()
    home.write_text("in the way: nothing can be written")
    reference_features(pictures(x), net_of(corner))
    reference_features(pictures(x), net_of(corner), cache=tmp_path / "other")
    reference_features(pictures(x), net_of(corner), cache=tmp_path / "other")
    assert corner.seen == 90


def test_windows_are_cut_from_the_centre():
    made = reference_features(open_photo(), net_of(Corners(spatial=False)))
    assert_allclose(made.pooled[0], [11, 12, 21, 22])


def open_photo():
    """Two pictures of 4 x 4 with windows of 2 x 2, cut at random in training: 10 i + j at row i, column j."""
    from ddpm.data.pictures import Ragged

    one = (10 * np.arange(4)[:, None] + np.arange(4)).astype(np.uint8).ravel()
    return Ragged(np.concatenate([one, one]), np.full((2, 2), 4), (2, 2), 1, None, (), "wide", "a" * 64)


# -- scores ---------------------------------------------------------------------------------------------------


def collected(x, logits=None, spatial=None):
    x = np.asarray(x, np.float32)
    return Collected(len(x), x, Moments.of(x), None if spatial is None else Moments.of(spatial), logits)


def normal(n, seed, mean=0.0, scale=1.0, width=2):
    return np.random.default_rng(seed).normal(mean, scale, (n, width)).astype(np.float32)


def test_fid_in_one_dimension_is_the_closed_form():
    a, b = normal(500, 0, width=1), normal(700, 1, 3.0, 2.0, width=1)
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert fid(collected(a), collected(b)) == pytest.approx(expected, rel=1e-5)


def test_sfid_is_of_the_spatial_features():
    a, b = normal(500, 0, width=1), normal(700, 1, 3.0, 2.0, width=1)
    same = normal(600, 2)
    made = scores(("sfid",), collected(same[:500], spatial=a), collected(np.r_[same, same[:100]], spatial=b))
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert made == {"sfid": pytest.approx(expected, rel=1e-5)}


def test_kid_of_whole_sets_is_the_unbiased_mmd():
    a, b = normal(40, 0).astype(np.float64), normal(40, 1, 0.5).astype(np.float64)

    def kernel(x, y):
        return (x @ y.T / 2 + 1) ** 3

    within = [(kernel(x, x).sum() - np.trace(kernel(x, x))) / (40 * 39) for x in (a, b)]
    expected = sum(within) - 2 * kernel(a, b).mean()
    made = scores(("kid",), collected(a), collected(b))["kid"]
    assert isinstance(made, Mean) and made.value == pytest.approx(expected, rel=1e-4)
    assert made.deviation == pytest.approx(0, abs=1e-4)  # every subset is all of it


def test_precision_is_of_the_samples_and_recall_of_the_reference():
    wide, narrow = normal(300, 0), normal(300, 1, scale=0.1)
    made = scores(("recall", "precision"), collected(narrow), collected(wide))
    assert list(made) == ["recall", "precision"] and made["precision"] > 0.95 and made["recall"] < 0.2
    assert scores(("precision",), collected(wide), collected(narrow))["precision"] < 0.2


def test_inception_score_of_sure_and_even_classes_is_their_number():
    logits = np.full((400, 4), -50, np.float32)
    logits[np.arange(400), np.arange(400) % 4] = 50
    made = scores(("is",), collected(normal(400, 0), logits), collected(normal(9, 1)))["is"]
    assert isinstance(made, Mean) and 3.8 < made.value <= 4.0 and made.deviation < 0.2


def test_a_seed_draws_the_same_subsets_again(monkeypatch):
    a, b = collected(normal(1100, 0)), collected(normal(1100, 1))
    first, again, other = (scores(("kid",), a, b, seed)["kid"] for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize(("metric", "n"), [("fid", 1), ("kid", 1), ("is", 9), ("precision", 3), ("recall", 3)])
def test_too_few_pictures(metric, n):
    with pytest.raises(UserError, match=rf"^{n} pictures? to score: {metric} takes at least {n + 1}$"):
        check_counts((metric,), n, 100)
    check_counts((metric,), n + 1, 100)
    if metric == "is":
        check_counts((metric,), 100, 1)
        return
    with pytest.raises(UserError, match=rf"^{n} pictures? to score against: {metric} takes at least {n + 1}$"):
        scores((metric,), collected(normal(100, 0)), collected_few(n))


def collected_few(n):
    return Collected(n, np.zeros((n, 2), np.float32), Moments(n, np.zeros(2), np.eye(2)))


def test_what_a_net_has_to_give():
    net = net_of(Corners(spatial=False, logits=False))
    made = net(pixels(2))
    check_net(("fid", "kid", "precision", "recall"), net, made)
    with pytest.raises(UserError, match="--metrics sfid: Corners gives no spatial features; random and inception"):
        check_net(("fid", "sfid"), net, made)
    with pytest.raises(UserError, match=r"--metrics is: Corners gives no logits; inception does, .*\.pt2"):
        check_net(("is",), net, made)
    with pytest.raises(UserError, match=r"--metrics sfid: Corners gives 9,000 spatial features.* at most 8,192"):
        check_net(("sfid",), net, Features(torch.zeros(1, 4), torch.zeros(1, 9000)))
    few = collected(normal(9, 0))
    with pytest.raises(UserError, match="sfid: the feature net gives no spatial features"):
        scores(("sfid",), few, few)
    with pytest.raises(UserError, match="is: the feature net gives no logits"):
        scores(("is",), collected(normal(10, 0)), collected(normal(10, 0)))


# -- doubts ---------------------------------------------------------------------------------------------------


def of(n, width=64):
    """What there is to doubt of n pictures: nothing but numbers."""
    moments = Moments(n, np.zeros(width), np.eye(width))
    return Collected(n, np.zeros((1, width), np.float32), moments, Moments(n, np.zeros(2), np.eye(2)))


ALL = ("fid", "sfid", "kid", "is", "precision", "recall")


def test_enough_pictures_are_not_doubted():
    assert caveats(ALL, of(10_000), of(10_000)) == {}


def test_the_smaller_side_counts_but_for_the_inception_score():
    assert set(caveats(ALL, of(50_000), of(9_999))) == {"fid", "sfid"}
    assert set(caveats(ALL, of(9_999), of(50_000))) == {"fid", "sfid", "is"}
    assert set(caveats(ALL, of(999), of(50_000))) == set(ALL)
    assert set(caveats(("kid",), of(50_000), of(1000))) == set()


def test_fewer_pictures_than_features():
    made = caveats(("fid", "sfid"), of(64), of(10_000))
    assert "of 64 pictures in 64 features comes out far too large" in made["fid"] and "kid" in made["fid"]
    assert "of 64 pictures comes out too large" in made["sfid"]  # which has two
    assert "far" not in caveats(("fid",), of(65), of(10_000))["fid"]


def test_fid_comes_out_too_large_as_is_said():
    """Of the same law, in 20 features, where it ought to be 0; KID is, in the mean."""
    x = normal(6000, 0, width=20)
    every = collected(x)
    few, more = (fid(collected(normal(n, 1, width=20)), every) for n in (30, 1000))
    assert few > 10 * more > 0
    means = [scores(("kid",), collected(normal(30, seed, width=20)), every)["kid"].value for seed in range(40)]
    assert abs(np.mean(means)) < 3 * np.std(means) / math.sqrt(40)
