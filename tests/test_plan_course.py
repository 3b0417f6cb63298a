"""What follows from the steps, the width and the batch; and what is said of a course that does not fit."""

import math

import numpy as np
import pytest
import torch

from ddpm.checking import check
from ddpm.config import Config
from ddpm.plan.course import choose_rate, events, follow_steps, horizons
from ddpm.plan.decisions import Choices

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def following(steps, asked=(), **known):
    """The config that follows from so many steps; asked: names and values."""
    choices = Choices(Config().with_(train__steps=steps), dict(asked))
    follow_steps(choices, **known)
    return choices


# -- from the steps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 9, 10, 19, 499, 100_000])
def test_the_rest_follows_from_the_steps(steps):
    choices = following(steps)
    config = check(choices.config)
    train, optimizer = config.train, config.optimizer
    assert train.steps == steps and 1 <= optimizer.warmup <= max(1, steps // 20) and 0.9 <= optimizer.ema < 1.0
    for every in (train.checkpoint_every, train.preview_every, train.log_every):
        assert 1 <= every <= steps
    # The last step always makes one; more than ten or eleven would take time and say nothing new.
    assert 1 <= events(steps, train.preview_every) <= 11 and events(steps, train.checkpoint_every) <= 11
    shown = {decision.what: decision.value for decision in choices.decisions}
    every = train.checkpoint_every
    assert shown["checkpoints"].startswith("every step" if every == 1 else f"every {every:,} steps")
    assert horizons(config) == []


ASKED = {
    "optimizer.warmup": 77,
    "optimizer.ema": 0.123,
    "train.checkpoint_every": 13,
    "train.preview_every": 0,
    "train.log_every": 3,
}


@pytest.mark.parametrize("name", ASKED)
def test_what_was_asked_for_stays(name):
    choices = following(1000, {name: ASKED[name]})
    assert choices[name] == ASKED[name]
    assert [d.why for d in choices.decisions].count("asked for") == 1
    for other in set(ASKED) - {name}:
        assert choices[other] != Choices(Config(), {})[other], other


def test_checkpoints_go_by_the_clock():
    # one in ten minutes: 600 steps of a second
    assert following(100_000, seconds=1.0)["train.checkpoint_every"] == 600
    # writing takes 60 s: a twentieth of the time at the most, so one in 1,200 s
    assert following(100_000, seconds=1.0, saving=60.0)["train.checkpoint_every"] == 1200
    assert following(100_000, seconds=0.001, saving=0.001)["train.checkpoint_every"] == 10_000
    assert following(100_000, seconds=2.0)["train.log_every"] == 2


@pytest.mark.parametrize("levels", [50, 1000])
def test_a_course_too_short_for_the_history_of_every_level_says_so(levels):
    """Against levels really drawn evenly until each has had ten: a line if that is over half of the steps."""
    needed = []
    for seed in range(5):
        draw, counts, drawn = np.random.default_rng(seed), np.zeros(levels, int), 0
        while counts.min() < 10:
            counts += np.bincount(draw.integers(0, levels, levels // 10), minlength=levels)
            drawn += levels // 10
        needed.append(drawn / 32)
    config = Config().with_(train__batch=32, chain__steps=levels, loss__kind="vlb")

    def told(steps, **changes):
        course = {"train__steps": steps, "optimizer__warmup": 1, "optimizer__ema": 0.9, "optimizer__lr": 1e-3}
        lines = horizons(config.with_(**course, **changes))
        return [line for line in lines if "loss-second-moment" in line]

    steps = int(np.mean(needed))
    (line,) = told(steps, loss__times="loss-second-moment")
    about = int(line.split("about ")[1].split(" steps")[0].replace(",", ""))
    assert about == pytest.approx(steps, rel=0.15) and "--chain.steps" in line
    assert told(3 * steps, loss__times="loss-second-moment") == told(steps) == []


@pytest.mark.parametrize("steps, every, count", [(10, 5, 2), (10, 3, 4), (10, 10, 1), (10, 11, 1), (10, 0, 0)])
def test_events_are_counted_as_training_makes_them(steps, every, count):
    assert events(steps, every) == count
    assert count == sum(1 for step in range(1, steps + 1) if every and (step % every == 0 or step == steps))


# -- learning rate ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "device, channels, batch, rate",
    [
        (CPU, 32, 32, 4e-3),
        (CPU, 128, 32, 2e-3),  # a quarter of the root
        (CPU, 48, 32, 4e-3 * math.sqrt(2 / 3)),
        (CPU, 32, 8, 2e-3),
        (CPU, 32, 128, 4e-3),  # never higher than was tried
        (GPU, 128, 128, 2e-4),
        (GPU, 32, 128, 4e-4),
        (GPU, 128, 32, 1e-4),
    ],
)
def test_the_rate_follows_width_and_batch(device, channels, batch, rate):
    choices = Choices(Config(), {"net.channels": channels, "train.batch": batch})
    choose_rate(choices, device)
    assert choices["optimizer.lr"] == pytest.approx(rate)
    why = choices.decisions[0].why
    assert ("for the width" in why) == (channels not in (32, 128) or (device, channels) in [(CPU, 128), (GPU, 32)])
    assert ("for the small batch" in why) == (batch < (32 if device == CPU else 128))


def test_a_rate_asked_for_stays():
    choices = Choices(Config(), {"optimizer.lr": 0.1, "net.channels": 64, "optimizer.decay": "none"})
    choose_rate(choices, CPU)
    assert (choices["optimizer.lr"], choices["optimizer.decay"]) == (0.1, "none")
    assert {decision.why for decision in choices.decisions} == {"asked for"}


# -- what does not fit -----------------------------------------------------------------------------------------


def lines(pictures=None, **changes):
    sound = following(10_000).config.with_(optimizer__lr=1e-3, train__batch=10)
    return horizons(sound.with_(**changes), pictures)


def test_a_sound_course_leaves_nothing_to_say():
    assert lines(5000) == [] and lines() == []


@pytest.mark.parametrize(
    "changes, pictures, words",
    [
        ({"optimizer__warmup": 2001}, None, ["warm-up: 2,001 of 10,000 steps", "--optimizer.warmup 2000"]),
        # decay 0.9999 averages over 10,000 steps; (1 + k)/(10 + k) at k = 9,999 over 10,009/9 = 1,112
        ({"optimizer__ema": 0.9999}, None, ["EMA: its horizon of 10,000 steps", "1,112 at the end", "0.998"]),
        ({"train__preview_every": 10_001}, None, ["previews: every 10,001 steps"]),
        ({"train__checkpoint_every": 20_000}, None, ["checkpoints: every 20,000 steps"]),
        # 8e-3 was tried at 32 channels; a quarter of the root for 128
        ({"optimizer__lr": 0.0041}, None, ["learning rate 0.0041", "128 channels (4.0e-03)", "--lr 2.0e-03"]),
        ({"train__batch": 40}, 30, ["batch 40: more than the 30 pictures", "--batch 30", "seen 13,333 times"]),
        ({}, 499, ["each of the 499 pictures is seen 200 times"]),
        ({}, 1_000_000, ["only 10% of the pictures are seen at all in 10,000 steps of 10"]),
    ],
)
def test_what_does_not_fit_is_said_with_its_mend(changes, pictures, words):
    said = lines(pictures, **changes)
    assert 1 <= len(said) <= 2 and all(word in " ".join(said) for word in words), said


@pytest.mark.parametrize(
    "changes, pictures",
    [
        ({"optimizer__warmup": 2000}, None),
        ({"optimizer__ema": 1 - 1 / 1999}, None),
        ({"train__preview_every": 0}, None),
        ({"optimizer__lr": 0.0039}, None),
        ({}, 501),
        ({"train__steps": 1_000_000}, 2000),
        ({}, 99_999),
    ],
)
def test_what_just_fits_is_not(changes, pictures):
    assert lines(pictures, **changes) == []


# -- classifiers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "device, channels, rate, why",
    [
        (CPU, 32, 1e-3, "high, for few steps: 1e-3 for 32 channels"),
        (CPU, 128, 5e-4, "high, for few steps: 1e-3 for 32 channels, by √(32/128) for the width"),
        (GPU, 128, 3e-4, "ADM's classifiers' 3e-4 for 128 channels"),
    ],
)
def test_a_classifier_s_rate_and_weight_decay(device, channels, rate, why):
    asked = {"net.channels": channels, "train.batch": 128, "train.task": "classifier"}
    choices = Choices(Config(), asked)
    choose_rate(choices, device)
    assert choices["optimizer.lr"] == pytest.approx(rate) and choices["optimizer.weight_decay"] == 0.05
    told = {decision.what: decision.why for decision in choices.decisions}
    assert told["learning rate"] == why and "by heart" in told["weight decay"]
    choices = Choices(Config(), {**asked, "optimizer.weight_decay": 0.2})
    choose_rate(choices, device)
    assert choices["optimizer.weight_decay"] == 0.2
    choices = Choices(Config(), {})
    choose_rate(choices, device)
    assert choices["optimizer.weight_decay"] == 0.0


def test_a_classifier_without_held_out_pictures_is_told_of_them():
    choices = following(1000, {"train.task": "classifier"})
    (told,) = [d for d in choices.decisions if d.what == "accuracy"]
    assert told.value == "of training batches" and "--holdout 0.05" in told.why
    assert choices["train.preview_every"] == 0
    lines = horizons(choices.config.with_(train__steps=100_000), 500)
    assert any("know them by heart" in line and "--data.crop random" in line for line in lines)
    assert not any("draw" in line for line in lines)
