"""Feature nets: Inception by a stand-in, the random net, callables, and what is said of pictures not taken."""

import hashlib
import sys
import types
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ddpm.errors import UserError
from ddpm.evaluate.features import DEFAULT, RandomNet, in_colour, open_features

RNG = np.random.default_rng


def pictures(*shape, seed=0):
    return RNG(seed).integers(0, 256, shape, dtype=np.uint8)


# Random weights


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 40), (4, 9, 5), (2, 1, 1), (3, 100, 70)])
def test_random_takes_pictures_of_any_shape(shape):
    made = open_features("random")(pictures(3, *shape))
    assert made.pooled.shape == (3, 256)
    assert made.spatial.shape == (3, 343)
    assert made.logits is None
    assert made.pooled.dtype == made.spatial.dtype == torch.float32


def test_random_gives_the_same_for_any_batch():
    """130 pictures are more than are computed at once."""
    pixels, net = pictures(130, 1, 16, 16), open_features("random")
    pixels.flags.writeable = False  # as pictures on disk are
    whole = net(pixels)
    torch.testing.assert_close(net(pixels), whole, rtol=0, atol=0)
    for first, last in ((0, 1), (60, 70), (129, 130)):
        piece = open_features("random")(pixels[first:last])
        torch.testing.assert_close(piece.pooled, whole.pooled[first:last], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(piece.spatial, whole.spatial[first:last], rtol=1e-5, atol=1e-5)


def test_random_weights_are_addressed_numbers_of_he_variance():
    """Bit by bit the same before and after anything else was drawn, and of any order of asking."""
    net, other = RandomNet(torch.device("cpu")), RandomNet(torch.device("cpu"))
    net(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    torch.rand(100)
    for number, given, made in ((4, 64, 128), (0, 3, 32)):
        weight = other._weight(number, given, made)
        assert torch.equal(weight, net._weight(number, given, made))
        assert weight.var().item() == pytest.approx(2 / (9 * given), rel=0.1)
        assert weight.mean().item() == pytest.approx(0, abs=0.02)
    assert not torch.equal(other._weight(1, 32, 32), other._weight(2, 32, 32))


def test_random_tells_noise_blur_and_missing_pictures_apart_by_their_amount():
    import ddpm
    from ddpm.evaluate.scores import Moments, frechet

    with np.load(Path(ddpm.__file__).parent / "assets" / "fashion.npz") as arrays:
        pixels = arrays["images"][:, None]
    order = RNG(1).permutation(len(pixels))
    net = open_features("random")
    reference, rest = pixels[order[:300]], pixels[order[300:600]]
    of = Moments.of(net(reference).pooled)

    def distance(set_of):
        return frechet(of, Moments.of(net(set_of).pooled))

    def noised(deviation):
        return (rest + RNG(2).normal(0, deviation, rest.shape)).round().clip(0, 255).astype(np.uint8)

    def blurred(times):
        x = rest.astype(np.float64)
        for _ in range(times):
            x = (x + np.roll(x, 1, 2) + np.roll(x, 1, 3) + np.roll(x, (1, 1), (2, 3))) / 4
        return x.round().astype(np.uint8)

    least = distance(rest)
    for ladder in (
        [noised(30), noised(100)],
        [blurred(1), blurred(4)],
        [np.repeat(rest[:20], 15, 0), np.repeat(rest[:4], 75, 0)],
    ):
        little, much = map(distance, ladder)
        assert 1.3 * least < little < much


# Callables


def test_a_callable_gives_what_it_gives():
    pixels = pictures(70, 1, 4, 4)
    flat = torch.from_numpy(pixels).flatten(1).float()

    def mine(x):
        x = x.float()
        return {"features": x.flatten(1), "spatial": x[:, 0, :2], "logits": x[:, 0, 0].double()}

    net = open_features(mine, key="mine-1")
    made = net(pixels)
    assert net.name == "mine"
    assert torch.equal(made.pooled, flat)
    assert torch.equal(made.spatial, flat[:, :8])
    assert torch.equal(made.logits, flat[:, :4])
    for result, spatial, logits in (
        (lambda x: x.flatten(1), None, None),
        (lambda x: (x.flatten(1),), None, None),
        (lambda x: (x.flatten(1), None, x[:, 0, 0]), None, flat[:, :4]),
        (lambda x: [x.flatten(1), x], flat, None),
    ):
        made = open_features(result, key="one")(pixels)
        assert torch.equal(made.pooled, flat)
        for got, expected in ((made.spatial, spatial), (made.logits, logits)):
            assert (got is None and expected is None) or torch.equal(got, expected)


def test_keys_tell_nets_apart():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    key = open_features(net).key
    assert key == open_features(net).key != open_features("random").key
    with torch.no_grad():
        net[1].bias[0] += 1e-3
    assert open_features(net).key != key
    one, two = (open_features(lambda x: x, key=word).key for word in ("a", "b"))
    assert one != two
    for word in (key, one, two, open_features("random").key):
        assert len(word) == 64
        int(word, 16)
    with pytest.raises(UserError, match="<lambda>: a callable needs a key"):
        open_features(lambda x: x)


def test_a_module_is_put_in_evaluation():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.9)).train()
    floats = type("Floats", (nn.Module,), {"forward": lambda self, x: x.float()})()
    pixels = pictures(5, 1, 2, 2)
    made = open_features(nn.Sequential(floats, net))(pixels)
    assert torch.equal(made.pooled, torch.from_numpy(pixels).flatten(1).float())


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (lambda x: x.float().mean((1, 2, 3)), r"its features for 5 pictures are of shape \[5\]"),
        (lambda x: x.float(), r"its features are of shape \[5, 1, 2, 2\]"),
        (lambda x: x.flatten(1)[:1], r"its features for 5 pictures are of shape \[1, 4\]"),
        (lambda x: None, "its features for 5 pictures are a NoneType"),
        (lambda x: (), "gives 0 results"),
        (lambda x: (x,) * 4, "gives 4 results"),
        (lambda x: {"pool": x}, "gives a dict of pool; a feature net gives features"),
        (lambda x: (x.flatten(1), None, x), r"its logits are of shape \[5, 1, 2, 2\]"),
        (lambda x: x.flatten(1) / 0.0, "its features are not finite"),
        (lambda x: (x.flatten(1), x.flatten(1) * float("inf")), "its spatial are not finite"),
        (
            lambda x: nn.functional.conv2d(x.float(), torch.zeros(1, 3, 1, 1)),
            "does not take uint8 pictures of 1x2x2",
        ),
    ],
)
def test_what_is_no_feature_net_is_said(result, words):
    with pytest.raises(UserError, match=words):
        open_features(result, key="k")(pictures(5, 1, 2, 2) | 1)


def test_names_that_are_no_net_are_said(tmp_path):
    with pytest.raises(UserError, match="--features vgg: neither a file nor a net known by name; take inception"):
        open_features("vgg")


# Inception


def test_pictures_in_colour():
    grey = torch.from_numpy(pictures(2, 1, 3, 3))
    assert torch.equal(in_colour(grey), torch.cat([grey] * 3, dim=1))
    colour = torch.from_numpy(pictures(2, 3, 3, 3))
    assert torch.equal(in_colour(colour), colour)
    clear = torch.tensor([10, 200, 0, 51], dtype=torch.uint8).view(1, 4, 1, 1)  # a fifth opaque, on white
    assert in_colour(clear).flatten().tolist() == [206, 244, 204]
    whole = torch.cat([colour, torch.full_like(colour[:, :1], 255)], dim=1)
    assert torch.equal(in_colour(whole), colour)
    with pytest.raises(UserError, match="1, 3 or 4 channels, not 2"):
        in_colour(torch.zeros(1, 2, 3, 3, dtype=torch.uint8))


class StandIn(nn.Module):
    """What is asked of torch-fidelity's class; its weights are a 3 x 2 matrix, from a file or "fetched"."""

    fetched = True

    def __init__(self, name, features_list, feature_extractor_weights_path=None):
        super().__init__()
        assert features_list == ["2048", "logits_unbiased"]
        self.fc = nn.Linear(3, 2, bias=False)
        self.Mixed_6d = nn.Module()
        self.Mixed_6d.branch1x1 = nn.Upsample(scale_factor=1)
        if feature_extractor_weights_path is not None:
            self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))
        elif not self.fetched:
            raise urllib.error.URLError("no way out")

    def forward(self, pixels):
        assert pixels.dtype == torch.uint8
        assert not self.training
        many = pixels.float().repeat(1, 4, 1, 1)
        self.Mixed_6d.branch1x1(many)
        pooled = pixels.float().mean((2, 3))
        return pooled, self.fc(pooled)


@pytest.fixture
def fidelity(monkeypatch, tmp_path):
    """torch_fidelity, stood in for; gives a file of weights."""
    package, module = types.ModuleType("torch_fidelity"), types.ModuleType("feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = StandIn
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)
    file = tmp_path / "weights.pth"
    torch.save({"fc.weight": torch.arange(6.0).view(2, 3)}, file)
    return file


def test_inception_gives_pool_map_and_logits(fidelity):
    net = open_features(f"inception:{fidelity}")
    pixels = pictures(70, 1, 5, 5)
    made = net(pixels)
    means = torch.from_numpy(pixels).float().mean((1, 2, 3))
    assert net.name == DEFAULT
    torch.testing.assert_close(made.pooled, means[:, None].repeat(1, 3))
    torch.testing.assert_close(made.logits, made.pooled @ torch.arange(6.0).view(2, 3).T)
    seven = torch.from_numpy(pixels).float().repeat(1, 7, 1, 1)
    assert torch.equal(made.spatial, seven.flatten(1))  # the first 7 of the 12 channels of the hooked map


def test_inception_is_known_by_its_weights(fidelity, tmp_path):
    other = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.ones(2, 3)}, other)
    keys = {open_features(f"inception:{file}").key for file in (fidelity, fidelity, other)}
    assert len(keys) == 2
    torch.manual_seed(1)
    assert open_features("inception").key not in keys


def test_inception_that_cannot_be_had_is_said(fidelity, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"inception:nowhere\.pth: no such file"):
        open_features("inception:nowhere.pth")
    broken, foreign = tmp_path / "broken.pth", tmp_path / "foreign.pth"
    broken.write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"broken\.pth: damaged, or not a file of PyTorch; fetch it again"):
        open_features(f"inception:{broken}")
    torch.save({"fc.weight": torch.ones(3, 3)}, foreign)
    with pytest.raises(
        UserError, match=r"inception:.*foreign\.pth: not Inception's weights as torch-fidelity has them"
    ):
        open_features(f"inception:{foreign}")
    monkeypatch.setattr(StandIn, "fetched", False)
    with pytest.raises(
        UserError, match=r"could not be fetched \(<urlopen error no way out>\); .* inception:FILE, or"
    ):
        open_features("inception")


class Trap:
    """What touches a file once it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_inception_weights_run_no_code(fidelity, tmp_path):
    """torch-fidelity itself, as its stand-in, unpickles whatever there is."""
    torch.save({"fc.weight": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    with pytest.raises(
        UserError, match=r"trap\.pth: not read, since it is a pickle that would run code on loading"
    ):
        open_features(f"inception:{tmp_path / 'trap.pth'}")
    assert not (tmp_path / "sprung").exists()


def test_without_torch_fidelity_it_is_said_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(
        UserError, match=r"pip install 'ddpm\[eval\]', or --features random, or an exported net"
    ) as told:
        open_features(DEFAULT)
    assert "\n" not in str(told.value)


def test_a_torchvision_of_another_torch_is_said(monkeypatch, tmp_path):
    package = tmp_path / "torch_fidelity"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch_fidelity", raising=False)
    with pytest.raises(
        UserError, match=r"cannot be imported \(operator torchvision::nms does not exist\); install the"
    ):
        open_features("inception")


# Programs; what is in them is looked at in test_evaluate_exported.py


def test_a_program_is_known_by_its_file(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    floats = type("Floats", (nn.Module,), {"forward": lambda self, x: net(x.float())})
    module = floats()
    module.net = net
    example = (torch.zeros(2, 1, 2, 2, dtype=torch.uint8),)
    program = torch.export.export(module.eval(), example, dynamic_shapes=({0: torch.export.Dim("batch")},))
    path = tmp_path / "net.pt2"
    torch.export.save(program, path)
    made = open_features(str(path))
    pixels = pictures(67, 1, 2, 2)
    torch.testing.assert_close(made(pixels).pooled, net(torch.from_numpy(pixels).float()).detach())
    assert made.name == "net.pt2"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert made.key == hashlib.sha256(f"program\0{digest}".encode()).hexdigest()
    for shape in ((3, 2, 2), (1, 3, 3)):
        with pytest.raises(
            UserError, match=rf"net.pt2: does not take uint8 pictures of {'x'.join(map(str, shape))}"
        ):
            made(pictures(2, *shape))
