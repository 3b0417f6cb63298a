"""Fine-tuning: what is taken from the model, what is refused, and that a start is the model it came from."""

import pytest
import torch

import ddpm
import tiny
from ddpm.build import build_net
from ddpm.config import Config
from ddpm.errors import UserError
from ddpm.store import Facts
from ddpm.transfer import open_origin, settings, starting_weights

PLAIN = Facts("plain", 5, (), (), "0" * 64)


@pytest.fixture
def zoo(tmp_path):
    return open_origin(str(tiny.run(tmp_path / "zoo").folder))


def test_net_prediction_chain_channels_and_size_are_the_models(zoo):
    values, reasons = settings(zoo, {"train.batch": 7})
    config = Config().with_(**{name.replace(".", "__"): value for name, value in values.items()})
    theirs = tiny.config()
    assert (config.net, config.denoiser, config.chain) == (theirs.net, theirs.denoiser, theirs.chain)
    assert (config.data.channels, config.data.size, config.train.batch) == (1, (8, 8), 7)
    assert len(reasons) == 1 and "starts from the weights of" in reasons[0]


def test_what_was_asked_for_stays(zoo):
    asked = {"data.size": (16, 12), "net.dropout": 0.3, "denoiser.clip": False}
    values, reasons = settings(zoo, asked)
    assert asked.items() <= values.items() and values["net.channels"] == 8
    assert any("8 8" in r for r in reasons)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("net.channels", 16, "--net.channels 16: .*zoo was trained with 8"),
        ("net.multipliers", (1, 4), "--net.multipliers 1 4: .*zoo was trained with 1 2"),
        ("denoiser.predicts", "x0", "--denoiser.predicts x0: .*zoo was trained with v"),
        ("chain.steps", 100, "--chain.steps 100: .*zoo was trained with 40"),
        ("data.channels", 3, "--channels 3: .*zoo was trained with 1"),
    ],
)
def test_what_the_weights_do_not_allow_is_refused(zoo, name, value, message):
    with pytest.raises(UserError, match=message):
        settings(zoo, {name: value})


def test_asking_for_what_the_model_has_is_no_conflict(zoo):
    settings(zoo, {"net.channels": 8, "denoiser.predicts": "v", "data.channels": 1, "data.size": (8, 8)})


def output(config, weights, classes, label):
    net = build_net(config, classes).eval()
    net.load_state_dict(weights)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return net(x, torch.tensor([0.0, 7.0, 30.0]), **({} if label is None else {"label": torch.tensor(label)}))


def test_known_classes_draw_as_before_whatever_their_order(zoo):
    before = output(tiny.config(), zoo.weights, 3, [0, 2, 0])  # ant cat ant
    weights, notes = starting_weights(tiny.config(), ("cat", "dog", "ant"), zoo)
    assert torch.equal(output(tiny.config(), weights, 3, [2, 0, 2]), before)
    torch.testing.assert_close(weights["label.weight"][1], zoo.weights["label.weight"].mean(0))
    assert notes == (
        "new classes, which start as the mean of the model's: dog",
        "classes of the model that are not in the data: bee",
    )


def test_a_model_without_classes_starts_alike_for_all(tmp_path):
    plain = open_origin(str(tiny.run(tmp_path / "plain", PLAIN).folder))
    before = output(tiny.config(), plain.weights, 0, None)
    weights, notes = starting_weights(tiny.config(), ("cat", "dog"), plain)
    for label in ([0, 0, 0], [1, 0, 1]):
        assert torch.equal(output(tiny.config(), weights, 2, label), before)
    assert notes == ("the model had no classes: all 2 start alike",)
    same, notes = starting_weights(tiny.config(), (), plain)
    assert notes == () and torch.equal(output(tiny.config(), same, 0, None), before)


def test_pictures_without_classes_start_from_the_average_embedding(zoo):
    """Half ant, half cat, no bee: as a class whose embedding is their mean."""
    weights, notes = starting_weights(tiny.config(), (), zoo)
    mixed = dict(zoo.weights)
    mixed["label.weight"] = ((mixed["label.weight"][0] + mixed["label.weight"][2]) / 2).repeat(3, 1)
    torch.testing.assert_close(
        output(tiny.config(), weights, 0, None), output(tiny.config(), mixed, 3, [0, 0, 0]), rtol=1e-5, atol=1e-5
    )
    assert notes == ("the model's 3 classes are averaged: these pictures have none",)


def test_weights_that_are_not_the_net_described(zoo):
    zoo.weights["conv_in.weight"] = torch.zeros(4, 1, 3, 3)
    with pytest.raises(UserError, match=r"conv_in.weight is \[4, 1, 3, 3\] and this net's \[8, 1, 3, 3\]"):
        starting_weights(tiny.config(), ("ant",), zoo)


def test_an_embedded_name_and_one_that_is_not_there():
    assert open_origin("fashion").description.facts.classes == ddpm.load("fashion", "cpu").classes
    with pytest.raises(UserError, match="no such file, folder or embedded model"):
        open_origin("fashon")
