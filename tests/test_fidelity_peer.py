"""Scores against torch-fidelity's own, of the same pictures in the same Inception: `make test-fidelity`.

Inception's weights are random, drawn so that its features vary: the numbers mean nothing, but both must find the
same. torch-fidelity computes KID, precision, recall and means in float32, we in float64: hence the tolerances.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ddpm.cli import main
from ddpm.data import load, open_source
from ddpm.evaluate.features import open_features
from ddpm.evaluate.fidelity import reference_features, sample_features, scores
from ddpm.evaluate.scores import Moments, frechet, inception_score, kid, precision_recall

pytestmark = pytest.mark.fidelity

N = 150
SIZE = (40, 32)
INCEPTION = "inception-v3-compat"


def discs(count, seed, least):
    """uint8 [count, H, W, 3]: discs of radius `least` to 14 on a ground, with noise; all in random colours."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    made = []
    for _ in range(count):
        picture = np.ones((*SIZE, 3)) * rng.uniform(0, 255, 3)
        for _ in range(rng.integers(1, 5)):
            inside = (y - rng.uniform(0, SIZE[0])) ** 2 + (x - rng.uniform(0, SIZE[1])) ** 2 < rng.uniform(
                least, 14
            ) ** 2
            picture[inside] = rng.uniform(0, 255, 3)
        picture += rng.normal(0, rng.uniform(0, 30), picture.shape)
        made.append(picture.clip(0, 255).round().astype(np.uint8))
    return np.stack(made)


def folder(path, pictures):
    path.mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(path / f"{number:04d}.png")
    return path


class World(NamedTuple):
    """Folders of pictures, and a file of weights."""

    home: Path
    samples: Path
    real: Path
    weights: Path

    @property
    def spec(self):
        return f"inception:{self.weights}"

    def theirs(self, samples=None, real=None, **asked):
        """torch-fidelity's scores; features of a folder are computed once."""
        import torch_fidelity

        samples, real = samples or self.samples, real or self.real
        return torch_fidelity.calculate_metrics(
            input1=str(samples),
            input2=str(real),
            input1_cache_name=samples.name,
            input2_cache_name=real.name,
            cache_root=str(self.home / "theirs"),
            feature_extractor=INCEPTION,
            feature_extractor_weights_path=str(self.weights),
            cuda=False,
            save_cpu_ram=True,
            verbose=False,
            **asked,
        )

    def features(self, side, layer="2048"):
        """What torch-fidelity has kept of a folder."""
        path = self.home / "theirs" / f"{side.name}-{INCEPTION}-features-{layer}.pt"
        return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    home = tmp_path_factory.mktemp("peer")
    weights = home / "weights.pth"
    torch.save(random_inception(discs(32, 3, least=2)), weights)
    samples, real = discs(N, 1, least=3), discs(N, 2, least=1)
    return World(home, folder(home / "samples", samples), folder(home / "real", real), weights)


def random_inception(pictures):
    """A state_dict as torch-fidelity loads it: He's weights, and norms of these pictures: all layers vary."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    cls = module.FeatureExtractorInceptionV3
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        with mock.patch.object(cls, "load_state_dict"), mock.patch.object(module, "load_state_dict_from_url"):
            net = cls(INCEPTION, ["2048"])
        for part in net.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            elif isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0.0, 0.3)
                part.momentum = None
        nn.init.normal_(net.fc.weight, 0.0, 0.3)
        nn.init.normal_(net.fc.bias)
        net.train()(in_tensor(pictures))
    return net.state_dict()


def in_tensor(pictures):
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="module")
def theirs(world):
    return world.theirs(isc=True, fid=True, kid=True, prc=True, kid_subset_size=N, kid_subsets=3)


@pytest.fixture(scope="module")
def ours(world):
    """Samples and reference, of folders as ddpm opens them; kept where `ddpm evaluate` finds the reference."""
    net = open_features(world.spec)
    sets = [
        load(open_source(path, "none"), SIZE, 3, cache=world.home / "ours") for path in (world.samples, world.real)
    ]
    samples = sample_features(sets[0].rows(np.arange(N), None)[0], net)
    return samples, reference_features(sets[1], net, cache=world.home / "ours")


@pytest.fixture(scope="module")
def record(world, ours):
    """What `ddpm evaluate` writes of the two folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDPM_CACHE", str(world.home / "ours"))
        command = [
            "evaluate",
            world.samples,
            "--reference",
            world.real,
            "--metrics",
            "fid,kid,is,precision,recall",
        ]
        command += ["--features", world.spec, "--device", "cpu", "--out", world.home / "evaluation"]
        assert main([str(word) for word in command]) == 0
    (path,) = (world.home / "evaluation").glob("*/fidelity-*.json")
    return json.loads(path.read_text())


def test_features_are_the_same_numbers(world, theirs, ours):
    """The same net on the same pixels in the same batches: equal but for what threads may sum in another order."""
    for mine, side in zip(ours, (world.samples, world.real), strict=True):
        expected = world.features(side)
        assert expected.shape == (N, 2048)
        assert expected.std(dim=0).median() > 0.01  # which a net that hardly sees its pictures does not reach
        torch.testing.assert_close(torch.from_numpy(mine.pooled), expected, rtol=1e-5, atol=1e-5)
    logits = world.features(world.samples, "logits_unbiased")
    torch.testing.assert_close(torch.from_numpy(ours[0].logits), logits, rtol=1e-5, atol=1e-4)


def test_evaluate_finds_their_scores(theirs, record):
    got = {name: one["value"] for name, one in record["results"].items()}
    # Covariances of 150 pictures leave 1,900 eigenvalues that are 0 but for rounding, whose roots are summed.
    assert got["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert got["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5)
    assert got["precision"] == pytest.approx(theirs["precision"], abs=1e-6)
    assert got["recall"] == pytest.approx(theirs["recall"], abs=1e-6)
    assert 0 < got["recall"] < 1 and 0 < got["precision"] < 1 and got["precision"] != got["recall"]


def test_evaluate_finds_the_scores_of_its_own_functions(ours, record):
    """Of the record, but the distance, which takes long, and which torch-fidelity has confirmed."""
    made = scores(("kid", "is", "precision", "recall"), *ours)
    for name, value in made.items():
        assert record["results"][name]["value"] == pytest.approx(np.ravel(value)[0], rel=1e-6)


def test_inception_score_of_one_split(world, theirs, ours):
    expected = world.theirs(isc=True, isc_splits=1, samples_shuffle=False)
    got = inception_score(ours[0].logits, splits=1)
    assert expected["inception_score_mean"] > 1.5
    assert got.value == pytest.approx(expected["inception_score_mean"], rel=1e-6)


def test_inception_score_of_their_splits(world, theirs, ours):
    """In the order that our shuffling brings into theirs; of a deviation they divide by splits, we by one less."""
    order = np.random.RandomState(2020).permutation(N)
    logits = np.empty_like(ours[0].logits)
    logits[torch.randperm(N, generator=torch.Generator().manual_seed(5)).numpy()] = ours[0].logits[order]
    got = inception_score(logits, seed=5, splits=10)
    assert got.value == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert got.deviation == pytest.approx(theirs["inception_score_std"] * math.sqrt(10 / 9), rel=1e-5)


def test_kid_of_their_subsets(world, theirs, ours):
    expected = world.theirs(kid=True, kid_subsets=30, kid_subset_size=60)
    draw, found = np.random.RandomState(2020), []
    for _ in range(30):
        picked = [side.pooled[draw.choice(N, 60, replace=False)] for side in ours]
        found.append(kid(*picked, subsets=1, size=60).value)
    mean, deviation = expected["kernel_inception_distance_mean"], expected["kernel_inception_distance_std"]
    assert np.mean(found) == pytest.approx(mean, rel=1e-5)
    assert np.std(found) == pytest.approx(deviation, rel=1e-4)
    # Of subsets of our own the mean is another draw of the same.
    own = kid(ours[0].pooled, ours[1].pooled, seed=0, subsets=100, size=60)
    assert own.value == pytest.approx(mean, abs=4 * deviation * math.sqrt(1 / 30 + 1 / 100))
    assert own.deviation == pytest.approx(deviation, rel=0.5)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_precision_and_recall_at_k(world, theirs, ours, k):
    expected = world.theirs(prc=True, prc_neighborhood=k)
    got = precision_recall(ours[1].pooled, ours[0].pooled, k)
    assert got == pytest.approx((expected["precision"], expected["recall"]), abs=1e-6)


def test_frechet_of_more_pictures_than_features_and_of_unequal_sets(world, tmp_path):
    """The 64 features of an early layer, whose covariances have full rank; 80 pictures against 70."""
    folders = [folder(tmp_path / f"discs-{n}", discs(n, seed, least=seed)) for n, seed in ((80, 2), (70, 5))]
    expected = world.theirs(*folders, fid=True, feature_layer_fid="64")["frechet_inception_distance"]
    sides = [world.features(side, "64") for side in folders]
    assert [tuple(side.shape) for side in sides] == [(80, 64), (70, 64)]
    assert frechet(*map(Moments.of, sides)) == pytest.approx(expected, rel=1e-6)


def test_grey_pictures_are_theirs_in_colour(world, tmp_path):
    """Pillow's RGB of a grey file is what ours makes of one channel."""
    from torch_fidelity.datasets import ImagesPathDataset
    from torch_fidelity.utils import create_feature_extractor

    grey = discs(4, 4, least=2)[..., 0]
    path = folder(tmp_path / "grey", grey)
    files = ImagesPathDataset(sorted(map(str, path.iterdir())))
    net = create_feature_extractor(
        INCEPTION, ["2048"], cuda=False, verbose=False, feature_extractor_weights_path=str(world.weights)
    )
    expected = net(torch.stack([files[i] for i in range(4)]))[0]
    got = open_features(world.spec)(grey[:, None])
    torch.testing.assert_close(got.pooled, expected, rtol=1e-5, atol=1e-5)


def test_spatial_features_are_2023_numbers_of_the_graph(world, ours):
    """7 channels of 17 x 17, of a map that is looked for in the net here by its place, after its activation."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    for side in ours:
        assert side.spatial.mean.shape == (7 * 17 * 17,) == (2023,)
    net = FeatureExtractorInceptionV3(INCEPTION, ["2048"], feature_extractor_weights_path=str(world.weights))
    pixels = in_tensor(discs(2, 5, least=2))
    seen = []
    net.Mixed_6e.register_forward_pre_hook(lambda part, given: seen.append(given[0]))
    with torch.no_grad():
        net(pixels)
    spatial = open_features(world.spec)(pixels.numpy()).spatial
    assert seen[0].shape == (2, 768, 17, 17)
    assert spatial.min() >= 0 and spatial.std() > 0
    # What goes into Mixed_6e are Mixed_6d's branches side by side, and conv is the first.
    torch.testing.assert_close(spatial, seen[0][:, :7].flatten(1), rtol=1e-5, atol=1e-5)
