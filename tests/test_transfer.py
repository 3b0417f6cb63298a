"""Fine-tuning: what is taken from the model, what is refused, and that a start is the model it came from."""

import pytest
import torch

import ddpm
import tiny
from ddpm.build import build_chain, build_denoiser, build_net
from ddpm.checking import check
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


def learning(folder, variance, **changes):
    kind = {} if variance in ("small", "large") else {"loss__kind": "hybrid", "loss__vlb_weight": 0.002}
    return open_origin(str(tiny.run(folder, PLAIN, denoiser__variance=variance, **kind, **changes).folder))


def reverse(config, weights, x, t):
    """p(x_s|x_t) for s = t − 1, and the net's own output."""
    net = build_net(config, 0).eval()
    net.load_state_dict(weights)
    model = build_denoiser(config, net)
    with torch.no_grad():
        return model.reverse(x, t, t - 1, model(x, t)), model.output(x, t)


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("before", ["small", "large"])
def test_a_fixed_variance_becomes_a_learned_one(tmp_path, before, patch):
    """The mean stays; the log-variance starts halfway between log β̃ and log β, from the chain's own tables."""
    origin = learning(tmp_path / "zoo", before, net__patch=patch)
    had = origin.description.config
    config = had.with_(denoiser__variance="learned_range", loss__kind="hybrid")
    weights, notes = starting_weights(config, (), origin)
    assert notes == ("the model knows no learned_range variance: it starts at the middle of its range",)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    chain = build_chain(config)
    for t in (2, 17, 40):
        (mean, _), _ = reverse(had, origin.weights, x, t)
        (now, logvar), output = reverse(config, weights, x, t)
        assert output.shape == (3, 2, 8, 8) and torch.equal(output[:, 1:], torch.zeros(3, 1, 8, 8))
        torch.testing.assert_close(now, mean, rtol=1e-6, atol=1e-6)
        middle = (chain.log_small(t, t - 1) + chain.log_large(t, t - 1)) / 2
        torch.testing.assert_close(logvar, torch.full_like(logvar, middle))
    config = had.with_(denoiser__variance="learned", loss__kind="vlb")
    weights, notes = starting_weights(config, (), origin)
    assert notes == ("the model knows no learned variance: it starts at 1, whatever the level",)
    _, logvar = reverse(config, weights, x, 17)[0]
    assert torch.equal(logvar.expand_as(x), torch.zeros_like(x))


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("before", ["learned", "learned_range"])
def test_a_learned_variance_becomes_a_fixed_one(tmp_path, before, patch):
    origin = learning(tmp_path / "zoo", before, net__patch=patch)
    had = origin.description.config
    config = had.with_(denoiser__variance="small", loss__kind="simple")
    weights, notes = starting_weights(config, (), origin)
    assert notes == ("the model's learned variance is left out: small takes its place",)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    (mean, _), both = reverse(had, origin.weights, x, 17)
    (now, logvar), output = reverse(config, weights, x, 17)
    torch.testing.assert_close(output, both[:, :1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(now, mean, rtol=1e-6, atol=1e-6)
    assert float(logvar) == pytest.approx(float(build_chain(config).log_small(17, 16)))


def test_a_variance_learned_otherwise_starts_over(tmp_path):
    origin = learning(tmp_path / "zoo", "learned")
    config = origin.description.config.with_(denoiser__variance="learned_range")
    weights, notes = starting_weights(config, (), origin)
    assert notes == ("the model knows no learned_range variance: it starts at the middle of its range",)
    assert torch.equal(weights["conv_out.weight"][:1], origin.weights["conv_out.weight"][:1])
    assert not weights["conv_out.weight"][1:].any() and not weights["conv_out.bias"][1:].any()
    assert len(weights["conv_out.bias"]) == 2


@pytest.mark.parametrize(("before", "after"), [("small", "large"), ("large", "small"), ("learned", "learned")])
def test_the_same_outputs_are_taken_as_they_are(tmp_path, before, after):
    origin = learning(tmp_path / "zoo", before)
    config = origin.description.config.with_(denoiser__variance=after)
    weights, notes = starting_weights(config, (), origin)
    assert notes == () and all(torch.equal(weights[key], value) for key, value in origin.weights.items())


def test_what_taught_a_variance_goes_on_teaching_it(tmp_path):
    origin = learning(tmp_path / "zoo", "learned_range")
    values, _ = settings(origin, {})
    assert (values["loss.kind"], values["loss.vlb_weight"]) == ("hybrid", 0.002)
    values, _ = settings(origin, {"loss.kind": "vlb", "denoiser.variance": "learned"})
    assert (values["loss.kind"], values["denoiser.variance"]) == ("vlb", "learned")
    values, _ = settings(origin, {"denoiser.variance": "large"})
    assert "loss.kind" not in values
    values, _ = settings(learning(tmp_path / "fixed", "large"), {})
    assert "loss.kind" not in values and values["denoiser.variance"] == "large"


def test_the_loss_asked_for_brings_the_variance_it_needs(zoo, tmp_path):
    assert zoo.description.config.denoiser.variance == "large"
    assert settings(zoo, {"loss.kind": "hybrid"})[0]["denoiser.variance"] == "learned_range"
    assert settings(zoo, {"loss.kind": "vlb"})[0]["denoiser.variance"] == "learned_range"
    learned = {"denoiser__variance": "learned_range", "loss__kind": "hybrid"}
    origin = open_origin(str(tiny.run(tmp_path / "learned", **learned).folder))
    assert settings(origin, {"loss.kind": "simple"})[0]["denoiser.variance"] == "large"
    assert settings(origin, {"loss.kind": "vlb"})[0]["denoiser.variance"] == "learned_range"


def test_attention_s_options_are_the_weights_own(tmp_path):
    """They leave no trace in the weights' shapes, so only the description can refuse."""
    origin = open_origin(str(tiny.run(tmp_path / "zoo", net__heads=2, net__style="openai").folder))
    for name, value, message in (
        ("net.heads", 4, "--net.heads 4: .*zoo was trained with 2"),
        ("net.qkv", "split", "--net.qkv split: .*zoo was trained with legacy"),
        ("net.style", "ho", "--net.style ho: .*zoo was trained with openai"),
        ("chain.rescale", True, "--chain.rescale True: .*zoo was trained with False"),
    ):
        with pytest.raises(UserError, match=message):
            settings(origin, {name: value})


# -- tasks -----------------------------------------------------------------------------------------------------

CLASSIFIER = {"train__task": "classifier", "denoiser__predicts": "eps"}  # of a classifier nothing of it is asked


def classifier(folder, facts=tiny.ANIMALS, **changes):
    return open_origin(str(tiny.run(folder, facts, **CLASSIFIER, **changes).folder))


def made_of(values):
    return Config().with_(**{name.replace(".", "__"): value for name, value in values.items()})


def logits(config, weights, classes):
    net = build_net(config, classes).eval()
    net.load_state_dict(weights)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return net(x, torch.tensor([0.0, 7.0, 30.0]))


def test_a_classifier_starts_from_a_classifier_class_by_class(tmp_path):
    origin = classifier(tmp_path / "zoo")
    values, reasons = settings(origin, {})
    config = made_of(values)
    assert config.train.task == "classifier" and check(config) == config
    assert reasons[0].endswith("net, chain and channels are its own")
    had = logits(origin.description.config, origin.weights, 3)
    weights, notes = starting_weights(config, ("cat", "dog", "ant"), origin)
    has = logits(config, weights, 3)
    torch.testing.assert_close(has[:, [2, 0]], had[:, [0, 2]])
    torch.testing.assert_close(has[:, 1], had.mean(1))  # logits are linear in the rows
    assert notes == (
        "new classes, which start as the mean of the model's: dog",
        "classes of the model that are not in the data: bee",
    )


def test_a_classifier_starts_from_the_way_down_of_a_model_of_pictures(tmp_path, zoo):
    """Its features after the middle are the model's as it sees half ants and half cats, its mean class."""
    values, reasons = settings(zoo, {"train.task": "classifier"})
    config = made_of(values)
    assert config.train.task == "classifier" and check(config) == config and config.net == tiny.config().net
    assert reasons == (f"starts from the way down of {zoo.name}: net, chain and channels are its own",)
    weights, notes = starting_weights(config, ("x", "y"), zoo)
    assert notes == (
        "the model's 3 classes are averaged: a classifier is told none",
        "its way up is left out; what pools its features to classes starts afresh",
    )
    mixed = dict(zoo.weights)
    mixed["label.weight"] = ((mixed["label.weight"][0] + mixed["label.weight"][2]) / 2).repeat(3, 1)
    features = []
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0.0, 7.0, 30.0])
    for net, state in ((build_net(config, 2), weights), (build_net(tiny.config(), 3), mixed)):
        net.load_state_dict(state)
        net.middle2.register_forward_hook(lambda module, inputs, output: features.append(output))
        with torch.no_grad():
            net.eval()(x, t, **({"label": torch.zeros(3).long()} if len(features) else {}))
    torch.testing.assert_close(features[0], features[1], rtol=1e-5, atol=1e-5)
    fresh = build_net(config, 2).state_dict()
    assert all(torch.equal(weights[key], fresh[key]) for key in fresh if key.startswith(("pool.", "norm_out.")))


@pytest.mark.parametrize(
    ("had", "asked", "message"),
    [
        ("classifier", {"train.task": "image"}, "--task image: .*zoo was trained with --task classifier"),
        ("classifier", {"data.size": (16, 16)}, "--size 16 16: .*zoo was trained with 8 8"),
        ("classifier", {"train.task": "upsampler"}, "--task upsampler: .*zoo was trained with --task classifier"),
        ("upsampler", {"train.task": "classifier"}, "--task classifier: .*zoo was trained with --task upsampler"),
        ("upsampler", {"train.task": "image"}, "--task image: .*zoo was trained with --task upsampler"),
        ("image", {"train.task": "upsampler"}, "--task upsampler: .*zoo was trained with --task image"),
        ("image", {"train.task": "classifier", "net.style": "openai"}, "--net.style openai: .*trained with ho"),
    ],
)
def test_another_task_is_refused(tmp_path, had, asked, message):
    changes = {} if had == "classifier" else {"train__task": had}
    made = classifier(tmp_path / "zoo") if had == "classifier" else None
    origin = made or open_origin(str(tiny.run(tmp_path / "zoo", **changes).folder))
    with pytest.raises(UserError, match=message):
        settings(origin, asked)


def test_labels_left_out_for_the_first_time_start_as_the_mean_class(tmp_path, zoo):
    """With a class the model draws as before; without, as one whose embedding is the mean: half ant, half cat."""
    config = tiny.config(train__label_drop=0.1)
    values, _ = settings(zoo, {"train.label_drop": 0.1})
    assert made_of(values).train.label_drop == 0.1
    weights, notes = starting_weights(config, tiny.ANIMALS.classes, zoo)
    assert notes == ("the model drew with a class alone: without one it starts as with the mean of its classes",)
    mixed = dict(zoo.weights)
    mixed["label.weight"] = ((mixed["label.weight"][0] + mixed["label.weight"][2]) / 2).repeat(3, 1)
    for label in ([0, 1, 2], [2, 2, 0]):
        torch.testing.assert_close(
            output(config, weights, 3, label), output(config, zoo.weights, 3, label), rtol=1e-5, atol=1e-5
        )
    torch.testing.assert_close(
        output(config, weights, 3, [-1, -1, -1]), output(config, mixed, 3, [0, 0, 0]), rtol=1e-5, atol=1e-5
    )
    knows = open_origin(str(tiny.run(tmp_path / "knows", train__label_drop=0.2).folder))
    weights, notes = starting_weights(config, tiny.ANIMALS.classes, knows)
    assert notes == () and torch.equal(weights["label.weight"], knows.weights["label.weight"])


def test_weights_that_are_not_the_net_described(zoo):
    zoo.weights["conv_in.weight"] = torch.zeros(4, 1, 3, 3)
    with pytest.raises(UserError, match=r"conv_in.weight is \[4, 1, 3, 3\] and this net's \[8, 1, 3, 3\]"):
        starting_weights(tiny.config(), ("ant",), zoo)


def test_an_embedded_name_and_one_that_is_not_there():
    assert open_origin("fashion").description.facts.classes == ddpm.load("fashion", "cpu").classes
    with pytest.raises(UserError, match="no such file, folder or embedded model"):
        open_origin("fashon")


def test_labels_go_on_being_left_out(tmp_path):
    """Fine-tuning a model that draws with and without a class keeps both, unless something else is asked for."""
    origin = open_origin(str(tiny.run(tmp_path / "free", train__label_drop=0.2).folder))
    values, reasons = settings(origin, {}, classed=True)
    assert (
        values["train.label_drop"] == 0.2 and reasons[-1] == "labels go on being left out, as in its own training"
    )
    assert settings(origin, {"train.label_drop": 0.0}, classed=True)[0]["train.label_drop"] == 0.0
    assert "train.label_drop" not in settings(origin, {}, classed=False)[0]
    config = tiny.config()
    weights, notes = starting_weights(config, (), origin)
    assert notes == ("the model's 3 classes are left out: it knows how to do without",)
    torch.testing.assert_close(
        output(config, weights, 0, None), output(config, origin.weights, 3, [-1, -1, -1]), rtol=1e-5, atol=1e-5
    )
