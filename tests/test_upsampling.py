"""Small pictures enlarged: exactly, with noise of their own, of the classes they have; and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ddpm
import tiny
from ddpm.build import build_denoiser
from ddpm.classifier import Classifier
from ddpm.errors import UserError
from ddpm.guide import Guide, NoisyClassifier
from ddpm.pipeline import Pipeline
from ddpm.samples import Samples
from ddpm.store import Description, Facts
from ddpm.upsampling import stage_seed

PLAIN = Facts("zoo", 10)
PETS = Facts("pets", 10, ("dog", "cat"), (0.5, 0.5))


class Enlarges(nn.Module):
    """A net that sees x_0 at once: what it is told, each pixel as a square, darker by the label's share of white.

    It keeps the first x it is shown of every walk.
    """

    def __init__(self, chain_T):
        super().__init__()
        self.unused, self.first, self.T, self.labels = nn.Parameter(torch.zeros(1)), [], chain_T, []

    def forward(self, x, timestep, label=None, low=None):
        if timestep[0] == timestep.new_tensor(self.T - 1):
            self.first.append(x.clone())
            self.labels.append(label)
        return F.interpolate(low, x.shape[2:], mode="nearest")


class Stays(Enlarges):
    """A net that says nothing of x, whatever it is told."""

    def forward(self, x, timestep, label=None, low=None):
        super().forward(x, timestep, label, torch.zeros_like(x) if low is None else low)
        return torch.zeros_like(x)


def upsampler(facts=PLAIN, net=Enlarges, size=(8, 8), low=(4, 4), channels=3, **changes):
    config = tiny.config(
        data__size=size,
        data__low_size=low,
        data__channels=channels,
        train__task="upsampler",
        denoiser__predicts="x0",
        **changes,
    )
    return Pipeline(build_denoiser(config, net(config.chain.steps)), Description(config, facts), "up", "c" * 16)


def drawn(count, facts=PLAIN, size=(4, 4), channels=3, labels=None, seed=0, **record):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, channels, *size), dtype=np.uint8)
    return Samples(pixels, labels, facts.classes, {"model": "base", "seed": 5, "first": 0, **record})


# -- what is drawn ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler, options, steps", [("ddim", {}, 5), ("ddim", {"eta": 1.0}, 7), ("ddpm", {}, None)]
)
def test_a_net_that_knows_gives_the_enlarged_picture_exactly(sampler, options, steps):
    up, of = upsampler(), drawn(5)
    made = up.upsample(of, sampler=sampler, steps=steps, batch=2, **options)
    assert np.array_equal(made.pixels, of.pixels.repeat(2, axis=2).repeat(2, axis=3))
    assert made.base is of and made.labels is None and made.record["base"] == of.record
    assert made.record["model"] == "up" and made.record["base"]["model"] == "base"


def test_enlarging_need_not_be_by_the_same_factor_in_both_directions():
    up, of = upsampler(size=(8, 12), low=(4, 3), channels=1), drawn(2, size=(4, 3), channels=1)
    assert np.array_equal(up.upsample(of, steps=3).pixels, of.pixels.repeat(2, axis=2).repeat(4, axis=3))


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A small real net, whose classes are ant, bee and cat."""
    folder = tmp_path_factory.mktemp("up") / "up"
    run = tiny.run(folder, train__task="upsampler", data__low_size=(4, 4), train__label_drop=0.1)
    return ddpm.load(run.folder, "cpu")


def test_a_picture_is_the_same_in_any_company(real):
    low = drawn(6, channels=1).pixels
    options = {"steps": 6, "sampler": "ddpm", "seed": 3, "label": "cat"}
    whole = real.sample(6, low=low, **options).pixels
    assert whole.std() > 10
    for n, batch, first in [(3, None, 0), (6, 2, 0), (2, None, 4), (3, 1, 2)]:
        part = real.sample(n, batch=batch, first=first, low=low[first : first + n], **options).pixels
        apart = np.abs(part.astype(int) - whole[first : first + n])
        assert np.mean(apart <= 1) >= 0.999
    other = real.sample(6, low=low, **{**options, "seed": 4}).pixels
    turned = real.sample(6, low=low[::-1].copy(), **options).pixels
    assert not np.array_equal(other, whole) and not np.array_equal(turned, whole)


def test_it_goes_on_with_the_seed_and_the_numbers_of_what_it_enlarges(real):
    low = drawn(4, channels=1).pixels
    whole = real.upsample(Samples(low, None, (), {"seed": 5}), steps=4).pixels
    part = real.upsample(Samples(low[2:], None, (), {"seed": 5, "first": 2}), steps=4)
    assert np.mean(np.abs(part.pixels.astype(int) - whole[2:]) <= 1) >= 0.999
    assert part.record["seed"] == 5 and part.record["first"] == 2
    assert np.array_equal(real.upsample(Samples(low, None, (), {}), steps=4, seed=5).pixels, whole)


# -- noise -----------------------------------------------------------------------------------------------------


def start(pipeline, seed, **options):
    """x_T of the first walk."""
    net = pipeline.denoiser.net
    net.first.clear()
    pipeline.sample(64, steps=1, seed=seed, batch=64, **options)
    return net.first[0].flatten(1).double().numpy()


def test_no_stage_shares_a_number_with_another():
    """Of one seed: x_T of a base of 4 x 4, of an upsampler to 8 x 8, and of one from there to 16 x 16."""
    config = tiny.config(data__size=(4, 4), data__channels=3, denoiser__predicts="x0")
    base = Pipeline(build_denoiser(config, Stays(config.chain.steps)), Description(config, PLAIN), "base")
    first, second = upsampler(net=Stays), upsampler(net=Stays, size=(16, 16), low=(8, 8))
    noises = [
        start(base, 7),
        start(first, 7, low=drawn(64).pixels),
        start(second, 7, low=drawn(64, size=(8, 8)).pixels),
    ]
    for a in range(3):
        assert abs(noises[a].mean()) < 5 / np.sqrt(noises[a].size) and abs(noises[a].var() - 1) < 0.1
        for b in range(a):
            mine, other = noises[a][:, : noises[b].shape[1]].ravel(), noises[b].ravel()
            assert not np.isclose(mine, other, rtol=0, atol=1e-6).any()
            assert abs(np.corrcoef(mine, other)[0, 1]) < 4 / np.sqrt(len(other))
    assert np.array_equal(start(first, 7, low=drawn(64).pixels), noises[1])
    assert not np.array_equal(start(first, 8, low=drawn(64).pixels), noises[1])


def test_the_seed_of_a_stage():
    seeds = {stage_seed(seed, size) for seed in (0, 1, 2**64 - 1) for size in ((8, 8), (8, 9), (9, 8), (256, 256))}
    assert len(seeds) == 12 and all(0 <= seed < 2**64 for seed in seeds)
    assert len({seed >> 32 for seed in seeds}) == 12 and stage_seed(3, (8, 8)) == stage_seed(3, (8, 8))


def test_the_record_has_the_seed_that_was_asked_for():
    assert upsampler().upsample(drawn(1), steps=1).record["seed"] == 5
    assert upsampler().upsample(drawn(1), steps=1, seed=9).record["seed"] == 9


# -- classes ---------------------------------------------------------------------------------------------------


def told(pipeline):
    labels = pipeline.denoiser.net.labels[-1]
    return None if labels is None else labels.tolist()


def test_classes_are_followed_by_name():
    """The same classes in another order, with one that only the upsampler knows."""
    up = upsampler(Facts("zoo", 9, ("cat", "cow", "dog")))
    made = up.upsample(drawn(3, PETS, labels=(0, 1, 0)), steps=2)
    assert told(up) == [2, 0, 2]
    assert [made.classes[k] for k in made.labels] == ["dog", "cat", "dog"]
    up.upsample(drawn(3, PETS, labels=(0, 1, 0)), steps=2, label="cow")
    assert told(up) == [1, 1, 1]


def test_an_upsampler_without_classes_keeps_those_there_are():
    up = upsampler()
    made = up.upsample(drawn(3, PETS, labels=(0, 1, 0)), steps=2)
    assert told(up) is None and made.labels == (0, 1, 0) and made.classes == PETS.classes


def test_without_a_class_one_is_never_made_up():
    up = upsampler(PETS)
    with pytest.raises(UserError, match="draws by class, and that of these small pictures is not known; name one"):
        up.upsample(drawn(2), steps=1)
    with pytest.raises(UserError, match="--label-drop"):
        up.sample(2, low=drawn(2).pixels, steps=1)
    free = upsampler(PETS, train__label_drop=0.2)
    made = free.upsample(drawn(2), steps=1)
    assert told(free) == [-1, -1] and made.labels is None
    free.upsample(drawn(2), steps=1, label=["cat", 0])
    assert told(free) == [1, 0]


def test_a_class_that_is_not_known():
    up = upsampler(Facts("zoo", 9, tuple(f"c{k}" for k in range(25))))
    with pytest.raises(
        UserError, match=r"up: does not know the class dog of base; it knows c0, .*, c19 and 5 more"
    ):
        up.upsample(drawn(2, PETS, labels=(1, 0)), steps=1)
    up.upsample(drawn(2, PETS, labels=(1, 0)), steps=1, label=3)
    assert told(up) == [3, 3]


def test_a_classifier_guides_to_a_class_that_is_named():
    """An unconditional upsampler that was taught to draw without: the classifier still needs a class."""
    config = tiny.config(data__channels=3, train__task="classifier")

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x, timestep):
            return torch.stack([x.mean((1, 2, 3)), -x.mean((1, 2, 3))], 1)

    model = upsampler()
    classifier = NoisyClassifier(
        Classifier(Flat(), model.denoiser.native), Description(config, PETS), "judge", "j" * 16
    )
    guide = Guide(classifier=classifier)
    with pytest.raises(UserError, match="name one for all"):
        model.upsample(drawn(2), steps=2, guide=guide)
    made = model.upsample(drawn(2), steps=2, guide=guide, label="cat")
    assert made.labels == (1, 1) and made.classes == PETS.classes and told(model) is None


# -- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, channels, said",
    [
        ((4, 5), 3, "those of base are 4 x 5 with 3 channels; .* ddpm train DATA --size 4x4$"),
        ((8, 8), 3, "enlarges pictures of 4 x 4 with 3 channels, and those of base are 8 x 8"),
        ((4, 4), 1, "those of base are 4 x 4 with one channel; .* --size 4x4 --channels 3$"),
    ],
)
def test_pictures_of_another_kind(size, channels, said):
    with pytest.raises(UserError, match=said):
        upsampler().upsample(drawn(2, size=size, channels=channels))


def test_a_model_that_is_none():
    config = tiny.config(data__channels=3)
    model = Pipeline(build_denoiser(config, Enlarges(40)), Description(config, PLAIN), "zoo")
    for call in (lambda: model.upsample(drawn(1)), lambda: model.sample(1, low=drawn(1).pixels)):
        with pytest.raises(
            UserError, match="zoo: is no upsampler; train one with ddpm train DATA --task upsampler"
        ):
            call()


def test_small_pictures_have_to_be_there():
    up = upsampler()
    with pytest.raises(
        UserError, match="give them with --low DATA, or have them drawn: ddpm sample BASE --upsample"
    ):
        up.sample(4)
    for low in (drawn(3).pixels, drawn(4).pixels.astype(np.float32), drawn(4, channels=1).pixels):
        with pytest.raises(UserError, match=r"takes small pictures as uint8 \[4, 3, 4, 4\], one for each"):
            up.sample(4, low=low)


@pytest.mark.parametrize(
    "call",
    [
        lambda up: up.progressive(2),
        lambda up: up.completions(20, 2),
        lambda up: up.interpolate(drawn(1).pixels[0], drawn(1).pixels[0]),
        lambda up: up.inpaint(drawn(1).pixels[0], "left"),
        lambda up: up.img2img(drawn(1).pixels[0]),
    ],
)
def test_what_needs_a_model_that_draws_by_itself(call):
    with pytest.raises(
        UserError, match=r"up: enlarges small pictures; ddpm .* takes a model that draws by itself"
    ):
        call(upsampler())


# -- cascades --------------------------------------------------------------------------------------------------


def test_three_stages():
    first, second = upsampler(), upsampler(size=(32, 32), low=(8, 8))
    of = drawn(3, PETS, labels=(1, 0, 1))
    made = second.upsample(first.upsample(of, steps=2), steps=3)
    assert np.array_equal(made.pixels, of.pixels.repeat(8, axis=2).repeat(8, axis=3))
    assert made.labels == (1, 0, 1) and made.base.base is of
    assert made.record["base"]["base"] == of.record and made.record["seed"] == 5


def test_the_film_is_of_the_pictures_themselves():
    made = upsampler().upsample(replace(drawn(3), frames=(drawn(3).pixels,)), steps=4, frames=True)
    assert len(made.frames) == 5 and all(frame.shape == (3, 3, 8, 8) for frame in made.frames)
    assert np.array_equal(made.frames[-1], made.pixels)
