"""Configs: complete, readable back, and refused with the option's name when they are wrong."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from ddpm.build import build_net
from ddpm.checking import check
from ddpm.config import (
    ChainConfig,
    Config,
    DataConfig,
    DenoiserConfig,
    LossConfig,
    NetConfig,
    OptimizerConfig,
    TrainConfig,
    from_json,
    meaningless,
    to_json,
)
from ddpm.errors import UserError
from ddpm.presets import PRESETS

# No field has its default, so that a field that is lost on the way shows.
OTHER = Config(
    DataConfig(("photos", "more"), (48, 64), 1, "pad", "#102030", "none", "0.1", False, "never", (12, 16)),
    NetConfig(64, (1, 1.5, 5), 3, (0, 2), 0.25, 16, 2, "openai", 4, 16, "split", True, "block"),
    ChainConfig("betas", 3, (0.1, 0.2, 0.3), True),
    DenoiserConfig("mean", "small", clip=False),
    LossConfig("hybrid", 0.01, "huber", "p2", 4.0, 2.0, 0.5, 0.1, "low-discrepancy"),
    OptimizerConfig(1e-3, 7, "cosine", 0.8, 0.99, 0.01, 0.0, 0.5),
    TrainConfig(
        *(100, 12, 3, 9, "bf16", True, True, "runs/a", ("wandb",), 1, 0, 10, 5, "upsampler", 0.1),
        *(7, 50, "x.pt2", 1000, 4, True, 2, False),
    ),
)
SECTIONS = [f.name for f in dataclasses.fields(Config)]


def through_json(config):
    return from_json(type(config), json.loads(json.dumps(to_json(config))))


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_of_a_section_survives_json(section):
    values, default = getattr(OTHER, section), getattr(Config(), section)
    for item in dataclasses.fields(values):
        assert getattr(values, item.name) != getattr(default, item.name), f"{item.name} does not test anything"
    back = through_json(values)
    assert back == values and type(back) is type(values)
    # tuples come back as tuples: a list would not be hashable
    assert isinstance(hash(back), int)


@pytest.mark.parametrize("config", [Config(), OTHER, *[make() for make in PRESETS.values()]])
def test_whole_configs_survive_json(config):
    assert through_json(config) == config


def test_missing_keys_take_their_defaults():
    config = from_json(Config, {"net": {"channels": 64}, "train": {}})
    assert config == Config(net=NetConfig(channels=64))
    assert from_json(Config, {}) == Config()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"nett": {}}, "config.nett: no such setting; did you mean net?"),
        ({"net": {"chanels": 4}}, "config.net.chanels: no such setting; did you mean channels?"),
        ({"train": {"qqq": 4}}, "config.train.qqq: no such setting"),
        ({"net": {"channels": "128"}}, "config.net.channels: holds '128'; takes int"),
        ({"net": {"channels": 128.0}}, "config.net.channels: holds 128.0; takes int"),
        ({"net": {"channels": True}}, "config.net.channels: holds True; takes int"),
        ({"net": {"channels": None}}, "config.net.channels: holds None; takes int"),
        ({"net": {"multipliers": [1, "2"]}}, "config.net.multipliers: holds '2'; takes int"),
        ({"net": {"dropout": "high"}}, "config.net.dropout: holds 'high'; takes float"),
        ({"net": {"dropout": True}}, "config.net.dropout: holds True; takes float"),
        ({"data": {"flip": 1}}, "config.data.flip: holds 1; takes bool"),
        ({"data": {"size": [32]}}, "config.data.size: holds [32]; takes"),
        ({"data": {"size": 32}}, "config.data.size: holds 32; takes"),
        ({"data": {"path": 3}}, "config.data.path: holds 3; takes str"),
        (
            {"denoiser": {"predicts": "noise"}},
            "config.denoiser.predicts: holds 'noise'; takes eps or x0 or v or mean",
        ),
        ({"net": 3}, "config.net: holds 3; it is a table of settings"),
        ([1], "config: holds [1]; it is a table of settings"),
    ],
)
def test_what_does_not_fit_is_named_with_its_path(values, message):
    with pytest.raises(UserError) as error:
        from_json(Config, values)
    assert str(error.value).startswith(message), str(error.value)


def test_whole_numbers_are_floats_where_floats_are_wanted():
    dropout = from_json(Config, {"net": {"dropout": 0}}).net.dropout
    assert dropout == 0.0 and isinstance(dropout, float)


RULES = [
    ("data__size", (0, 4), "--data.size"),
    ("data__size", (4, -1), "--data.size"),
    ("data__channels", 2, "--data.channels"),
    ("net__channels", 3, "--net.channels"),
    ("net__blocks", 0, "--net.blocks"),
    ("net__dropout", 1.0, "--net.dropout"),
    ("net__dropout", -0.1, "--net.dropout"),
    ("chain__steps", 0, "--chain.steps"),
    ("optimizer__lr", 0.0, "--optimizer.lr"),
    ("optimizer__lr", float("nan"), "--optimizer.lr"),
    ("optimizer__ema", 1.0, "--optimizer.ema"),
    ("optimizer__ema", -0.5, "--optimizer.ema"),
    ("optimizer__warmup", -1, "--optimizer.warmup"),
    ("optimizer__clip", -1.0, "--optimizer.clip"),
    ("train__steps", 0, "--steps"),
    ("train__batch", 0, "--batch"),
    ("train__accumulate", 0, "--train.accumulate"),
    ("train__accumulate", 129, "--train.accumulate"),
    ("train__log_every", 0, "--train.log-every"),
    ("train__preview_every", -1, "--train.preview-every"),
    ("train__checkpoint_every", 0, "--checkpoint-every"),
    ("train__keep", 0, "--train.keep"),
    # values that a net, a schedule or Adam cannot work with, and would only say so in their own words
    ("net__channels", 5, "--net.channels"),
    ("net__groups", 0, "--net.groups"),
    ("net__multipliers", (), "--net.multipliers"),
    ("net__multipliers", (1, 0), "--net.multipliers"),
    ("net__patch", 0, "--net.patch"),
    ("net__attention", (4,), "--net.attention"),
    ("optimizer__beta1", 1.0, "--optimizer.beta1"),
    ("optimizer__beta2", 2.0, "--optimizer.beta2"),
    ("optimizer__weight_decay", -1.0, "--optimizer.weight-decay"),
    ("loss__huber_delta", 0.0, "--loss.huber-delta"),
    ("loss__kind", "hybrid", "--loss.kind"),  # the variance is fixed
    ("denoiser__variance", "learned", "--denoiser.variance"),  # the loss is simple
    ("denoiser__variance", "learned_range", "--denoiser.variance"),
    ("loss__vlb_weight", 0.0, "--loss.vlb-weight"),
    ("net__heads", 0, "--net.heads"),
    ("net__head_channels", -1, "--net.head-channels"),
    ("train__seed", 2**64, "--seed"),
]


@pytest.mark.parametrize("field, value, option", RULES)
def test_every_rule_names_option_value_and_rule(field, value, option):
    with pytest.raises(UserError) as error, torch.device("meta"):
        build_net(check(Config().with_(**{field: value})), 0)  # the net checks its own sizes
    named, _, rule = str(error.value).partition(": ")
    assert named.startswith(f"{option} ")
    for one in value if isinstance(value, tuple) else [value]:
        assert str(one) in named
    assert len(rule) > 5


@pytest.mark.parametrize(
    "changes",
    [
        {"train__accumulate": 128},
        {"net__dropout": 0.0},
        {"net__channels": 4, "net__groups": 4},
        {"optimizer__ema": 0.0},
        {"optimizer__warmup": 0, "optimizer__clip": 0.0},
        {"train__preview_every": 0, "train__keep": 1, "train__log_every": 1, "train__steps": 1},
        {"data__size": (1, 1), "data__channels": 1},
        {"loss__kind": "vlb"},  # of a fixed variance too
        {"loss__kind": "vlb", "denoiser__variance": "learned"},
        {"loss__kind": "hybrid", "denoiser__variance": "learned_range", "loss__vlb_weight": 1e-9},
        {"loss__times": "loss-second-moment", "chain__rescale": True},
        {"loss__kind": "vlb", "denoiser__variance": "learned_range", "denoiser__predicts": "mean"},
    ],
)
def test_the_edges_of_the_rules_are_inside(changes):
    config = Config().with_(**changes)
    assert check(config) == config


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"loss__kind": "hybrid"},
            "--loss.kind hybrid: teaches a variance; take --denoiser.variance learned_range",
        ),
        (
            {"denoiser__variance": "learned"},
            "--denoiser.variance learned: is taught by the bound alone; take --loss.kind hybrid or vlb",
        ),
        (
            {"loss__weight": "p2", "denoiser__predicts": "mean"},
            "--loss.weight p2: needs a net that predicts eps, x0 or v",
        ),
    ],
)
def test_what_does_not_go_together_is_said_with_its_mend(changes, message):
    with pytest.raises(UserError) as error:
        check(Config().with_(**changes))
    assert str(error.value) == message


CLASSIFIER = {"train__task": "classifier"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data__labels": "none"}, "--labels none: a classifier learns classes; leave it out"),
        ({"loss__kind": "hybrid"}, "--loss.kind hybrid: is of models of pictures; a classifier has logits"),
        ({"loss__error": "l1"}, "--loss.error l1: is of models of pictures"),
        ({"loss__weight": "p2"}, "--loss.weight p2: is of models of pictures"),
        ({"denoiser__predicts": "v"}, "--denoiser.predicts v: is of models of pictures"),
        ({"denoiser__variance": "learned"}, "--denoiser.variance learned: is of models of pictures"),
        ({"train__label_drop": 0.1}, "--label-drop 0.1: is of models of pictures"),
    ],
)
def test_a_classifier_refuses_what_only_models_of_pictures_have(changes, message):
    with pytest.raises(UserError) as error:
        check(Config().with_(**CLASSIFIER, **changes))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("changes", [{}, {"loss__times": "uniform"}, {"optimizer__weight_decay": 0.05}])
def test_a_classifier_of_the_rest_is_fine(changes):
    config = Config().with_(**CLASSIFIER, **changes)
    assert check(config) == config


def test_what_means_nothing_for_a_task_is_known():
    every = {f"{s}.{item.name}" for s in SECTIONS for item in dataclasses.fields(getattr(Config(), s))}
    scored = {"train.evaluate_every", "train.evaluate_samples", "train.evaluate_features"}
    assert meaningless(Config().with_(train__task="upsampler")) == scored
    assert meaningless(Config()) == {"data.low_size"}
    of_classifiers = meaningless(Config().with_(**CLASSIFIER))
    assert of_classifiers < every
    assert {"denoiser.predicts", "loss.kind", "train.label_drop", "data.low_size"} < of_classifiers
    assert not {"loss.times", "chain.steps", "net.dropout", "train.preview_every"} & of_classifiers


def test_with_changes_only_what_is_named():
    config = Config().with_(net__channels=64, train__steps=5)
    assert (config.net.channels, config.train.steps) == (64, 5)
    assert config.with_(net__channels=128, train__steps=800_000) == Config()


@pytest.mark.parametrize(
    "code",
    [
        "import ddpm, ddpm.errors, ddpm.config, ddpm.presets",
        "import ddpm.cli; assert ddpm.cli.main(['--help']) == 0",
        "import ddpm.cli; assert ddpm.cli.main(['--version']) == 0 and ddpm.cli.main(['trian']) == 2",
        "import ddpm.cli, sys\ntry: ddpm.cli.main(['train', '--help'])\nexcept SystemExit: pass",
    ],
)
def test_torch_is_not_imported_for(code):
    code += "\nimport sys; assert 'torch' not in sys.modules, 'torch was imported'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
