"""Guided pictures as a user asks for them: what is drawn, recorded and refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import ddpm
import tiny
from ddpm.build import build_net
from ddpm.errors import UserError
from ddpm.guide import Guide
from ddpm.noise import WalkNoise
from ddpm.store import Description, Facts, save_weights

NOTHING = Facts("zoo", 10)
MORE = Facts("others", 10, ("dog", "cat", "ant", "bee"), (0.25,) * 4)
QUICK = {"steps": 5, "seed": 3}


def classifier_run(folder, facts=tiny.ANIMALS, **changes):
    return tiny.run(folder, facts, train__task="classifier", **changes).folder


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Runs: a model with labels left out, one without, one without classes, and a classifier of the classes."""
    at = tmp_path_factory.mktemp("zoo")
    tiny.run(at / "dropped", train__label_drop=0.1)
    tiny.run(at / "kept")
    tiny.run(at / "plain", NOTHING)
    classifier_run(at / "judge")
    return at


@pytest.fixture(scope="module")
def dropped(zoo):
    return ddpm.load(zoo / "dropped", "cpu")


@pytest.fixture(scope="module")
def plain(zoo):
    return ddpm.load(zoo / "plain", "cpu")


@pytest.fixture(scope="module")
def judge(zoo):
    return ddpm.load_classifier(zoo / "judge", "cpu")


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Within one grey level at 99 % of the pixels: convolutions differ in the last bits by batch size."""
    assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
    return np.mean(np.abs(a.astype(int) - b.astype(int)) <= 1) >= 0.99


def differ(a: np.ndarray, b: np.ndarray) -> bool:
    return np.mean(np.abs(a.astype(int) - b.astype(int)) > 5) > 0.05


# -- off ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_off_is_bit_equal_to_without(dropped, judge, sampler):
    expected = dropped.sample(4, sampler=sampler, **QUICK)
    off = [
        Guide(),
        Guide(cfg_scale=1.0),
        Guide(cfg_interval=(3, 9)),
        Guide(classifier=judge, classifier_scale=0.0),
    ]
    for guide in off:
        made = dropped.sample(4, sampler=sampler, guide=guide, **QUICK)
        assert np.array_equal(made.pixels, expected.pixels)
        assert (
            made.record == expected.record and made.labels == expected.labels and made.classes == expected.classes
        )


def test_a_scale_of_1_needs_no_labels_left_out(zoo, plain):
    for model in (ddpm.load(zoo / "kept", "cpu"), plain):
        expected = model.sample(2, **QUICK)
        assert np.array_equal(model.sample(2, guide=Guide(cfg_scale=1.0), **QUICK).pixels, expected.pixels)


# -- on ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler, eta", [("ddim", 0.0), ("ddim", 0.7), ("ddpm", None)])
@pytest.mark.parametrize("kind", ["free", "by", "both"])
def test_a_guided_picture_is_the_same_in_any_company(dropped, judge, sampler, eta, kind):
    guide = {
        "free": Guide(cfg_scale=3.0, cfg_interval=(5, 35)),
        "by": Guide(classifier=judge, classifier_scale=4.0),
        "both": Guide(2.0, None, judge, 2.0),
    }[kind]
    how = {"sampler": sampler, **({} if eta is None else {"eta": eta}), **QUICK}
    options = {"guide": guide, **how}
    whole = dropped.sample(6, **options)
    assert differ(whole.pixels, dropped.sample(6, **how).pixels)
    for n, batch, first in [(2, None, 0), (6, 2, 0), (2, 1, 4), (6, 100, 0)]:
        part = dropped.sample(n, batch=batch, first=first, **options)
        assert part.labels == whole.labels[first : first + n]
        assert same(part.pixels, whole.pixels[first : first + n]), (n, batch, first)


def test_a_scale_of_0_is_the_model_that_is_told_no_class(dropped):
    """Whatever the class: its own ddim, written out with the label −1 in Song et al.'s form."""
    how = {"sampler": "ddim", **QUICK}
    made = [dropped.sample(3, guide=Guide(cfg_scale=0.0), label=k, **how).pixels for k in (0, 2)]
    assert np.array_equal(*made) and differ(made[0], dropped.sample(3, label=0, **how).pixels)
    short = dropped.denoiser.respace(5).eval()
    x = WalkNoise(3, torch.arange(3), (1, 8, 8))(0)
    with torch.no_grad():
        for k in range(5, 0, -1):
            gamma = short.chain.gamma[k - 1 : k + 1]
            bar = 1.0 / (1.0 + np.exp(gamma))
            told = torch.full((3,), float(short.chain.timestep[k]))
            v = short.net(x, told, torch.full((3,), -1))
            x0 = (math.sqrt(bar[1]) * x - math.sqrt(1 - bar[1]) * v).clamp(-1.0, 1.0)
            eps = (x - math.sqrt(bar[1]) * x0) / math.sqrt(1 - bar[1])
            x = math.sqrt(bar[0]) * x0 + math.sqrt(1 - bar[0]) * eps
    assert same(made[0], (x.clamp(-1, 1) + 1).mul(127.5).round().to(torch.uint8).numpy())


def test_what_is_recorded(dropped, judge):
    plain = dropped.sample(1, **QUICK).record
    free = dropped.sample(1, guide=Guide(cfg_scale=2.5), **QUICK).record
    assert free == {**plain, "cfg_scale": 2.5}
    within = dropped.sample(1, guide=Guide(cfg_scale=2.5, cfg_interval=(4, 30)), **QUICK).record
    assert within == {**free, "cfg_interval": [4, 30]}
    by = dropped.sample(1, guide=Guide(classifier=judge, classifier_scale=1.5), **QUICK).record
    assert by == {
        **plain,
        "classifier": "judge",
        "classifier_checkpoint": judge.checkpoint,
        "classifier_scale": 1.5,
    }
    assert len(judge.checkpoint) == 16 and int(judge.checkpoint, 16) >= 0


def test_a_classifier_names_the_classes_of_a_model_that_has_none(plain, judge):
    guide = Guide(classifier=judge)
    by_name = plain.sample(3, label="cat", guide=guide, **QUICK)
    assert by_name.labels == (2, 2, 2) and by_name.classes == ("ant", "bee", "cat")
    assert np.array_equal(by_name.pixels, plain.sample(3, label="2", guide=guide, **QUICK).pixels)
    assert differ(by_name.pixels, plain.sample(3, label="ant", guide=guide, **QUICK).pixels)
    # by default all as often, since the model's data knows nothing of them
    drawn = plain.sample(90, steps=1, guide=guide).labels
    assert all(20 < drawn.count(k) < 40 for k in range(3))
    with pytest.raises(UserError, match=r"^--class dog: no such class; there are 0 ant, 1 bee, 2 cat$"):
        plain.sample(1, label="dog", guide=guide)
    for without in (Guide(), Guide(classifier=judge, classifier_scale=0.0)):
        assert plain.sample(1, guide=without, **QUICK).labels is None
        with pytest.raises(UserError, match=r"^--class cat: plain was trained without classes"):
            plain.sample(1, label="cat", guide=without)


def test_classes_go_by_their_names_not_their_numbers(dropped, judge, tmp_path):
    """A classifier of more classes in another order, whose weights say the same of each: the same pictures."""
    state = {key: value.clone() for key, value in judge.model.net.state_dict().items()}
    theirs = [MORE.classes.index(name) for name in tiny.ANIMALS.classes]
    for key in ("pool.out.weight", "pool.out.bias"):
        rows = torch.full((4, *state[key].shape[1:]), -50.0 if key.endswith("bias") else 0.0)  # a dog is nothing
        rows[theirs] = state[key]
        state[key] = rows
    made = replace(judge.description, facts=MORE)
    save_weights(tmp_path / "more.safetensors", state, made)
    more = ddpm.load_classifier(tmp_path / "more.safetensors", "cpu")
    for label in ("ant", "bee", "cat"):
        ours, theirs = (
            dropped.sample(3, label=label, guide=Guide(classifier=one, classifier_scale=5.0), **QUICK)
            for one in (judge, more)
        )
        assert same(ours.pixels, theirs.pixels) and theirs.classes == tiny.ANIMALS.classes
    assert differ(ours.pixels, dropped.sample(3, label="cat", **QUICK).pixels)


def test_classes_without_names_are_in_the_same_order(dropped, judge):
    """As of IDX files, whose classes are 0, 1, 2: a classifier of as many goes by number."""
    numbered = replace(judge.description, facts=replace(tiny.ANIMALS, classes=("0", "1", "2")))
    unnamed = replace(judge, description=numbered)
    expected, made = (
        dropped.sample(3, label="cat", guide=Guide(classifier=one, classifier_scale=5.0), **QUICK)
        for one in (judge, unnamed)
    )
    assert np.array_equal(made.pixels, expected.pixels)
    fewer = replace(judge, description=replace(numbered, facts=replace(tiny.ANIMALS, classes=("0", "1"))))
    with pytest.raises(UserError, match=r"does not know the class ant of dropped; it knows 0, 1$"):
        dropped.sample(3, guide=Guide(classifier=fewer), **QUICK)


def test_the_score_is_that_of_the_class_asked_for(dropped, judge):
    """One step of ddpm from pure noise: the mean moves by Σ·∇ log p(y|x), taken here by finite differences."""
    guide = Guide(classifier=judge, classifier_scale=1.0)
    guided = dropped.denoiser.guided(guide.guidance("zoo", dropped.description, (8, 8), 40))
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([2, 0])
    with torch.no_grad():
        score = guided(x, 30, label=label).score
        direction = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(2))
        at = [judge.model.output(x + step * direction, 30).log_softmax(1)[[0, 1], label] for step in (1e-2, -1e-2)]
    slope = (at[0] - at[1]) / 2e-2
    torch.testing.assert_close((score * direction).sum((1, 2, 3)), slope, rtol=0.02, atol=1e-3)
    assert slope.abs().min() > 1e-2


# -- refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf])
def test_scales_that_are_none(scale):
    with pytest.raises(UserError, match=rf"^--cfg-scale {scale:g}: is 0 or more$"):
        Guide(cfg_scale=scale)
    with pytest.raises(UserError, match=rf"^--classifier-scale {scale:g}: is 0 or more$"):
        Guide(classifier_scale=scale)


@pytest.mark.parametrize("interval", [(0, 5), (5, 4), (1, 41), (-3, -1), (41, 41)])
def test_intervals_that_are_none(dropped, interval):
    with pytest.raises(UserError, match=r"^--cfg-interval .*: takes two levels, from 1 to 40, the smaller first$"):
        dropped.sample(1, guide=Guide(cfg_scale=2.0, cfg_interval=interval), **QUICK)


def test_models_that_cannot_be_guided_without_a_classifier(zoo, plain):
    with pytest.raises(UserError, match=r"^--cfg-scale 2: plain was trained without classes; leave it out$"):
        plain.sample(1, guide=Guide(cfg_scale=2.0))
    kept = ddpm.load(zoo / "kept", "cpu")
    with pytest.raises(
        UserError, match=r"^--cfg-scale 0: kept was .*ddpm train DATA --init-from MODEL --label-drop"
    ):
        kept.sample(1, guide=Guide(cfg_scale=0.0))


def test_classifiers_that_cannot_guide_a_model(dropped, tmp_path):
    large = ddpm.load_classifier(classifier_run(tmp_path / "large", data__size=(16, 8)), "cpu")
    with pytest.raises(
        UserError, match=r"^--classifier large: knows pictures of 16 x 8 .* dropped draws 8 x 8 .*--size 8x8$"
    ):
        dropped.sample(1, guide=Guide(classifier=large))
    with pytest.raises(UserError, match=r"knows pictures of 16 x 8 .* dropped draws 8 x 16 .*--size 8x16$"):
        dropped.sample(1, size=(8, 16), guide=Guide(classifier=large))
    assert dropped.sample(1, size=(16, 8), guide=Guide(classifier=large), **QUICK).pixels.shape == (1, 1, 16, 8)
    colour = ddpm.load_classifier(classifier_run(tmp_path / "colour", data__channels=3), "cpu")
    with pytest.raises(UserError, match=r"colour: knows .* with 3 channels, and dropped draws 8 x 8 with 1;"):
        dropped.sample(1, guide=Guide(classifier=colour))
    few = replace(tiny.ANIMALS, classes=("ant", "cat"), frequencies=(0.5, 0.5))
    fewer = ddpm.load_classifier(classifier_run(tmp_path / "fewer", few), "cpu")
    with pytest.raises(UserError, match=r"fewer: does not know the class bee of dropped; it knows ant, cat$"):
        dropped.sample(1, guide=Guide(classifier=fewer))


def test_a_model_is_no_classifier_and_a_classifier_no_model(zoo):
    with pytest.raises(UserError, match=r"^--classifier .*kept: is a model of pictures; train a classifier with"):
        ddpm.load_classifier(zoo / "kept", "cpu")
    with pytest.raises(UserError, match=r"^judge: is a classifier.*ddpm sample MODEL --classifier .*judge$"):
        ddpm.load(zoo / "judge", "cpu")


def test_a_classifier_is_loaded_as_it_was_kept(zoo, judge):
    """Averaged weights, in evaluation, with nothing to learn."""
    made = tiny.config(train__task="classifier")
    assert judge.classes == tiny.ANIMALS.classes and judge.name == "judge"
    expected = build_net(made, 3).eval()
    expected.load_state_dict(tiny.weights(made, 3, 2))  # what tiny.run keeps as its averages
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            judge.model.output(x, 7), expected(x, torch.full((2,), 6.0)), rtol=1e-4, atol=1e-4
        )
    assert not judge.model.training and not any(p.requires_grad for p in judge.model.parameters())
    assert isinstance(judge.description, Description)
