"""OpenAI's files against their nets in plain torch (openai_nets.py): keys, shapes, and what a state computes."""

import math
import re

import pytest
import torch
import torch.nn.functional as F

from ddpm.build import build_net
from ddpm.config import Config
from ddpm.convert import openai
from ddpm.errors import UserError
from ddpm.nets.blocks import time_embedding
from ddpm.store import Facts
from openai_nets import Net, attend, outputs, random_state

CHAIN = {"chain.schedule": "cosine", "chain.steps": 4000, "chain.rescale": True}
IMAGE = {**CHAIN, "denoiser.predicts": "eps", "data.size": (16, 16)}
ALL = {**IMAGE, "net.heads": 4, "net.qkv": "legacy", "denoiser.variance": "large"}

# name: their net, and what its file cannot say
NETS = {
    "improved-diffusion": (
        Net(32, (1, 2, 2), 1, (1, 2), out=6, updown=False),
        {**IMAGE, "net.heads": 4, "net.qkv": "legacy"},
    ),
    "added time, one head, grey": (
        Net(32, (1, 2), 2, (1,), into=1, out=1, heads=1, scale_shift=False, updown=False),
        {**IMAGE, "net.heads": 1, "denoiser.variance": "small"},
    ),
    "split order": (
        Net(32, (1, 2), 2, (0, 1), out=6, classes=7, head_channels=16, split=True),
        {**IMAGE, "net.head_channels": 16, "net.qkv": "split"},
    ),
    "fixed heads at widths that differ": (
        Net(32, (1, 1, 3), 1, (0, 2), out=6, classes=3),
        {**IMAGE, "net.heads": 4, "net.qkv": "legacy"},
    ),
    "half a multiple": (
        Net(64, (0.5, 1, 1.5), 1, (2,), head_channels=32, classes=2),
        {**IMAGE, "net.head_channels": 32, "net.qkv": "legacy", "denoiser.variance": "large"},
    ),
    "one level": (
        Net(32, (2,), 2, (0,), into=4, out=8),
        {**IMAGE, "net.heads": 4, "net.qkv": "legacy"},
    ),
    "upsampler": (
        Net(32, (1, 2), 1, (1,), into=6, out=6, classes=5, head_channels=16, upsampler=True),
        {**IMAGE, "net.head_channels": 16, "net.qkv": "legacy", "data.low_size": (4, 4)},
    ),
    "grey upsampler": (
        Net(32, (1, 1), 1, (), into=2, out=1, updown=False, upsampler=True),
        {**IMAGE, "net.heads": 4, "net.qkv": "legacy", "data.low_size": (8, 8), "denoiser.variance": "small"},
    ),
    "classifier": (
        Net(32, (1, 2, 2), 2, (1, 2), out=9, head_channels=16, pool=4),
        {**CHAIN, "net.head_channels": 16, "net.qkv": "legacy"},
    ),
    "classifier, split order, convolutions": (
        Net(32, (1, 2), 1, (1,), into=1, out=2, head_channels=32, split=True, updown=False, pool=8),
        {**CHAIN, "net.head_channels": 32, "net.qkv": "split"},
    ),
}


def inputs(net: Net, batch: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    colours = net.into // 2 if net.upsampler else net.into
    given = {"x": torch.randn(batch, colours, 16, 16, generator=generator)}
    given["timestep"] = torch.tensor([0.0, 17.25, 999.0])
    if net.classes:
        given["label"] = torch.tensor([0, net.classes - 1, 1])
    if net.upsampler:
        given["low"] = torch.randn(batch, colours, 4, 4, generator=generator)
    return given


def with_weights(foreign) -> torch.nn.Module:
    made = build_net(foreign.description.config, len(foreign.description.facts.classes))
    made.load_state_dict(foreign.weights)
    return made.eval()


@pytest.mark.parametrize("name", NETS)
def test_outputs_are_those_of_their_net(name):
    net, given = NETS[name]
    state = random_state(net)
    foreign = openai.read(state, "model.pt", given)
    assert foreign.kind == "openai" and foreign.notes == ()
    assert all(value.dtype == torch.float32 for value in foreign.weights.values())
    x = inputs(net)
    with torch.no_grad():
        expected, actual = outputs(state, net, **x), with_weights(foreign)(**x)
        assert expected.shape == actual.shape and expected.std() > 0.05
        assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()
        # what is compared sees what no shape tells
        if given.get("net.heads") != 1:
            for other in ({"head_channels": 8 if net.head_channels else 32}, {"split": not net.split}):
                wrong = outputs(state, net._replace(**other), **x)
                assert (wrong - expected).abs().max() > 1e-3 * expected.abs().max()


@pytest.mark.parametrize("name", NETS)
def test_there_and_back_is_bit_equal(name):
    net, given = NETS[name]
    state = random_state(net)
    foreign = openai.read(state, "ema_0.9999_000321.pt", given)
    assert foreign.description.step == 321
    back = openai.write(foreign.weights, foreign.description)
    assert set(back) == set(state)
    assert all(torch.equal(back[key], value) and back[key].shape == value.shape for key, value in state.items())

    again = openai.read(back, "ema_0.9999_000321.pt", openai.from_flags(openai.flags(foreign.description)))
    assert again.description.config == foreign.description.config.with_(
        loss__kind=again.description.config.loss.kind, loss__vlb_weight=again.description.config.loss.vlb_weight
    )
    assert again.description.facts == foreign.description.facts
    assert set(again.weights) == set(foreign.weights)
    assert all(torch.equal(again.weights[key], value) for key, value in foreign.weights.items())


def test_what_the_shapes_say():
    config = openai.read(
        random_state(NETS["half a multiple"][0]), "x.pt", NETS["half a multiple"][1]
    ).description.config
    assert (config.net.channels, config.net.multipliers, config.net.blocks) == (64, (0.5, 1, 1.5), 1)
    assert [type(multiple) for multiple in config.net.multipliers] == [float, int, float]
    assert (config.net.attention, config.net.scale_shift, config.net.resample) == ((2,), True, "block")
    assert (config.net.style, config.net.groups, config.net.patch, config.net.dropout) == ("openai", 32, 1, 0.0)
    assert (config.data.channels, config.train.task, config.denoiser.variance) == (3, "image", "large")

    net, given = NETS["classifier"]
    read = openai.read(random_state(net), "x.pt", given).description
    assert (read.config.train.task, read.config.data.size, read.config.net.blocks) == ("classifier", (16, 16), 2)
    assert read.facts == Facts(classes=("0", "1", "2", "3", "4", "5", "6", "7", "8"))

    net, given = NETS["improved-diffusion"]
    read = openai.read(random_state(net), "x.pt", given).description
    assert (read.config.denoiser.variance, read.config.loss.kind) == ("learned_range", "hybrid")
    assert (read.config.data.labels, read.facts.classes, read.step) == ("none", (), 0)


def test_halves_are_read_as_float32():
    state = random_state(NETS["one level"][0])
    halves = {key: value.half() for key, value in state.items()}
    weights = openai.read(halves, "x.pt", NETS["one level"][1]).weights
    assert torch.equal(weights["conv_in.weight"], state["input_blocks.0.0.weight"].half().float())


@pytest.mark.parametrize(
    ("name", "missing", "needed"),
    [
        (
            "improved-diffusion",
            [],
            "--net.heads 4 or --net.head-channels 64|--net.qkv legacy|--chain.schedule linear or cosine|"
            "--chain.steps 1000 or 4000|--chain.no-rescale|--denoiser.predicts eps|--data.size 64 64",
        ),
        (
            "grey upsampler",
            [],
            "--net.heads|--net.qkv|--chain.schedule|--chain.steps|--chain.no-rescale|--denoiser.predicts|"
            "--denoiser.variance large, or small|--data.size|--data.low-size 16 16",
        ),
        (
            "classifier",
            [],
            "--net.head-channels 64 as in|--net.qkv|--chain.schedule|--chain.steps|--chain.no-rescale",
        ),
        ("split order", ["net.qkv"], "--net.qkv"),
        ("split order", ["net.head_channels"], "--net.heads"),
        ("upsampler", ["data.low_size", "chain.rescale"], "--chain.no-rescale|--data.low-size"),
    ],
)
def test_what_cannot_be_known_is_asked_for(name, missing, needed):
    net, given = NETS[name]
    given = {key: value for key, value in given.items() if missing and key not in missing}
    with pytest.raises(UserError) as error:
        openai.read(random_state(net), "model000010.pt", given)
    start, asked = str(error.value).split("beside it: ")
    assert start == (
        "model000010.pt: these weights fit several models; give what its training's flags said, as options or as "
        "JSON in model000010.pt.json "
    )
    parts, wanted = asked.split("; "), needed.split("|")
    assert len(parts) == len(wanted)
    assert all(part.startswith(want) for part, want in zip(parts, wanted, strict=True))


def test_with_single_heads_the_order_is_not_asked_for():
    net = Net(32, (1, 1), 1, (1,), head_channels=32, updown=False)
    given = {**IMAGE, "net.head_channels": 32, "denoiser.variance": "large"}
    assert openai.read(random_state(net), "x.pt", given).description.config.net.head_channels == 32
    wide = Net(32, (1, 2), 1, (), head_channels=32, updown=False)  # the middle has attention, and two heads
    with pytest.raises(UserError, match=r"--net\.qkv legacy"):
        openai.read(random_state(wide), "x.pt", given)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "split order",
            {"net.blocks": 3},
            "x.pt: its shapes say otherwise than what is given: net.blocks is 2, not 3",
        ),
        ("split order", {"net.multipliers": (1, 3)}, "net.multipliers is 1 2, not 1 3"),
        ("split order", {"net.attention": ()}, "net.attention is 0 1, not none; leave that out"),
        ("split order", {"denoiser.variance": "small"}, "denoiser.variance is learned_range, not small"),
        (
            "half a multiple",
            {"denoiser.variance": "learned_range"},
            "denoiser.variance is fixed, not learned_range",
        ),
        ("upsampler", {"train.task": "image"}, "train.task is upsampler, not image"),
        ("classifier", {"data.size": (32, 32)}, "data.size is 16 16, not 32 32"),
        ("split order", {"net.head_channels": 24}, "x.pt: --net.head-channels 24: must divide the width"),
        ("split order", {"chain.steps": 0}, "--chain.steps 0: is at least 1"),
        ("split order", {"chain.steps": "many"}, "x.pt: config.chain.steps: holds 'many'; takes int"),
    ],
)
def test_what_is_given_must_fit(name, changes, message):
    net, given = NETS[name]
    with pytest.raises(UserError, match=re.escape(message)):
        openai.read(random_state(net), "x.pt", {**given, **changes})


def changed(**changes):
    """A state of the net with residual resampling: {key: shape}, None to leave a key out."""
    state = random_state(NETS["split order"][0])
    for key, shape in changes.items():
        state.pop(key, None)
        if shape is not None:
            state[key] = torch.zeros(shape)
    return state


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time_embed.0.weight": None}, "x.pt: not a whole net of OpenAI's: it lacks time_embed.0.weight"),
        ({"out.0.bias": None}, "x.pt: not a whole net of OpenAI's: it lacks out.0.bias"),
        (
            {"middle_block.1.norm.bias": None, "middle_block.0.mystery.weight": (1,)},
            "it lacks middle_block.1.norm.bias, and 1 more such keys",
        ),
        (
            {"input_blocks.1.1.transformer_blocks.0.norm1.weight": (32,)},
            "it has input_blocks.1.1.transformer_blocks.0.norm1.weight, for which there is no place",
        ),
        (
            {"middle_block.1.qkv.weight": (96, 64, 1)},
            "x.pt: not a net of OpenAI's: middle_block.1.qkv.weight is 96 × 64 × 1 numbers, 192 × 64 × 1 in a net "
            "with its other shapes",
        ),
        ({"input_blocks.0.0.weight": (32, 5, 3, 3)}, "takes 5 channels and gives 6; no model of pictures does"),
        (
            {"input_blocks.0.0.weight": (32, 2, 3, 3), "out.2.weight": (4, 32, 3, 3)},
            "takes 2 channels and gives 4",
        ),
        (
            {"input_blocks.0.0.weight": (32, 5, 3, 3), "out.2.weight": (5, 32, 3, 3)},
            "takes 5 channels; pictures have 1, 3 or 4",
        ),
        ({"input_blocks.99.0.op.weight": (1,)}, "its 6 input blocks are no levels of equally many"),
        (
            {"input_blocks.1.0.out_layers.3.weight": (48, 48, 3, 3)},
            "x.pt: --net.groups 32: must divide the width of every level, and one is 48 wide",
        ),
    ],
)
def test_what_is_no_net_of_theirs_is_refused(changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        openai.read(changed(**changes), "x.pt", NETS["split order"][1])


def test_other_classifiers_are_refused():
    state = random_state(NETS["classifier"][0])
    adaptive = {key: value for key, value in state.items() if not key.startswith("out.2")}
    with pytest.raises(UserError, match=r"x.pt: a classifier that does not pool by attention \(classifier_pool\)"):
        openai.read({**adaptive, "out.3.weight": torch.zeros(9, 64, 1, 1)}, "x.pt", NETS["classifier"][1])
    state["out.2.positional_embedding"] = torch.zeros(64, 9)
    with pytest.raises(UserError, match="its pool knows 8 places, which are no square"):
        openai.read(state, "x.pt", NETS["classifier"][1])


def test_a_classifier_whose_blocks_fit_several_nets_is_asked_about():
    net = Net(32, (1, 1), 2, (), out=3, head_channels=32, pool=8)  # as well three levels of one block
    state, given = random_state(net), {**CHAIN, "net.head_channels": 32}
    message = (
        "x.pt: its blocks fit 1 levels of 5 (pictures of 8) or 2 levels of 2 (pictures of 16) or 3 levels of 1 "
        "(pictures of 32); give one of them by --net.blocks"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        openai.read(state, "x.pt", given)
    for told in ({"net.blocks": 2}, {"data.size": (16, 16)}):
        read = openai.read(state, "x.pt", {**given, **told})
        assert (read.description.config.net.blocks, read.description.config.data.size) == (2, (16, 16))
        x = inputs(net)
        with torch.no_grad():
            expected, actual = outputs(state, net, **x), with_weights(read)(**x)
        assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_an_optimizer_s_state_is_refused():
    state = {"state": {}, "param_groups": []}
    assert openai.recognises(state, "logs/opt020000.pt") and not openai.recognises(state, "adam.pt")
    message = "logs/opt020000.pt: .* not a model; take ema_0.9999_020000.pt .* or model020000.pt beside it"
    with pytest.raises(UserError, match=message):
        openai.read(state, "logs/opt020000.pt")


def test_recognises_their_keys():
    assert openai.recognises(random_state(NETS["classifier"][0]), "x.pt")
    assert not openai.recognises({"conv_in.weight": torch.zeros(1)}, "x.pt")


@pytest.mark.parametrize(
    ("name", "step"),
    [("model000500.pt", 500), ("a/ema_0.9999_1200000.pt", 1_200_000), ("best_500K.pt", 0), ("opt000500.pt", 0)],
)
def test_the_step_stands_in_the_name(name, step):
    net, given = NETS["one level"]
    description = openai.read(random_state(net), name, given).description
    assert description.step == step
    assert description.config.train.steps == (step or Config().train.steps)


def test_other_weights_than_described_are_refused():
    foreign = openai.read(random_state(NETS["one level"][0]), "x.pt", NETS["one level"][1])
    weights = dict(foreign.weights)
    del weights["norm_out.bias"]
    with pytest.raises(UserError, match="not those of the net that it describes"):
        openai.write(weights, foreign.description)


def test_the_reference_is_the_textbook_s():
    """The attention that the outputs are compared with, against torch's own, in both orders."""
    qkv = torch.randn(2, 3 * 32, 5, generator=torch.Generator().manual_seed(0))
    q, k, v = qkv.view(2, 3, 4, 8, 5).unbind(1)
    split = F.scaled_dot_product_attention(*(part.transpose(2, 3) for part in (q, k, v))).transpose(2, 3)
    torch.testing.assert_close(attend(qkv, 4, True), split.reshape(2, 32, 5))
    q, k, v = qkv.view(2, 4, 3, 8, 5).unbind(2)
    weights = torch.einsum("bhct,bhcs->bhts", q, k).div(math.sqrt(8)).softmax(3)
    torch.testing.assert_close(
        attend(qkv, 4, False), torch.einsum("bhts,bhcs->bhct", weights, v).reshape(2, 32, 5)
    )


@pytest.mark.parametrize("width", [96, 128, 192])
def test_late_timesteps_are_embedded_bit_for_bit(width):
    """In float32 the last bits of the rates are 1e-4 of the angle at t = 3999: too much for equal outputs."""
    t = torch.tensor([0.0, 249.75, 999.0, 3999.0])
    rates = torch.exp(-math.log(10_000) * torch.arange(width // 2, dtype=torch.float32) / (width // 2))
    angles = t[:, None] * rates
    assert torch.equal(time_embedding(t, width, "openai"), torch.cat([angles.cos(), angles.sin()], 1))
