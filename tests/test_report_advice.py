"""Advice: each rule speaks when it should, and is silent when it should not."""

import shlex
from dataclasses import replace

import numpy as np
import pytest

from ddpm.report import words
from ddpm.report.advice import advise
from ddpm.report.shown import Shown
from ddpm.report.trouble import Sign
from ddpm.store import Facts
from tiny import config

FACTS = Facts("zoo", 60_000, ("ant", "bee"), (0.5, 0.5))


def records(mse=None, **values):
    """A log of a hundred lines; values are sequences by key."""
    mse = np.full(100, 0.1) if mse is None else mse
    return [
        {"step": 10 * (i + 1), "mse": float(one), **{key: float(v[i]) for key, v in values.items()}}
        for i, one in enumerate(mse)
    ]


def shown(**changes):
    """A run about which there is nothing to say."""
    made = config(train__steps=1000, train__batch=100)
    return replace(Shown("runs/zoo", "", made, FACTS, 1000, (), "complete", records()), **changes)


def advice(**changes):
    return {one.what: one for one in advise(shown(**changes))}


def test_a_good_run_is_told_how_to_draw_pictures():
    found = advice()
    assert set(found) == {"Draw pictures from it"}
    assert found["Draw pictures from it"].command == "ddpm sample runs/zoo -n 64 --class ant"
    assert "--class" not in advice(facts=Facts("zoo", 60_000))["Draw pictures from it"].command


def test_a_stopped_run_is_gone_on_with():
    found = advise(shown(state="stopped", step=600))
    assert found[0].command == "ddpm train --resume --out runs/zoo" and "400 steps" in found[0].why


def test_nothing_is_said_of_a_run_that_has_not_begun():
    assert advise(shown(step=0, records=[], state="running", signs=())) == []


@pytest.mark.parametrize("count, step, speaks", [(500, 1000, True), (60_000, 1000, False), (3_000, 10_000, True)])
def test_few_pictures_are_named(count, step, speaks):
    found = advice(facts=replace(FACTS, count=count), step=step)
    assert ("Give it more pictures" in found) == speaks


COPIES = Sign("copies", "Samples are nearer to single training pictures than held-out pictures are.")
HEART = Sign("by heart", "In the cleanest quarter of the noise levels the error is above.")
RISEN = Sign("risen", "In the noisiest quarter the error has risen.")
TINT = Sign("colour", "Samples are tinted red.")
SPREAD = Sign("spread", "Samples are all of much the same brightness.")
SIGNS = (COPIES, HEART, RISEN, TINT, SPREAD)


@pytest.mark.parametrize(
    "sign, what, command",
    [
        (COPIES, "Keep it from copying pictures", "--net.dropout 0.2"),
        (HEART, "Stop earlier, or regularise", "--net.dropout 0.2"),
        (RISEN, "Lower the learning rate", "--lr 1.0e-04"),
        (TINT, "Mend the brightness", "--optimizer.ema"),
        (SPREAD, "Mend the brightness", "--optimizer.ema"),
    ],
)
def test_every_sign_has_a_remedy(sign, what, command):
    made = config(train__steps=1000, train__batch=100, optimizer__lr=2e-4)
    found = advice(signs=(sign,), config=made)
    assert set(found) == {what, "Draw pictures from it"}
    assert sign.what in found[what].why and command in found[what].command


def test_a_remedy_is_what_is_not_done_yet():
    made = config(train__steps=1000, train__batch=100, data__channels=3)
    for changes, said in (
        ({"denoiser__predicts": "eps"}, "--denoiser.predicts v"),
        ({"denoiser__predicts": "v", "denoiser__clip": False}, "--denoiser.clip"),
        ({"denoiser__predicts": "v", "chain__schedule": "linear"}, "--chain.schedule cosine"),
        (
            {"denoiser__predicts": "v", "chain__schedule": "cosine", "optimizer__ema": 0.99},
            "--optimizer.ema 0.9975",
        ),
    ):
        one = advice(signs=(TINT, SPREAD), config=made.with_(**changes))["Mend the colours"]
        assert one.why.startswith(f"{TINT.what} {SPREAD.what}") and said in one.command
        assert "ddpm sample runs/zoo --steps 100" in one.why


def test_colours_of_a_model_that_saw_little_are_a_matter_of_time():
    found = advice(signs=(TINT,), step=100, config=config(train__steps=1000, train__batch=100), state="running")
    assert TINT.what in found["Train for longer"].why and not found["Train for longer"].command
    stopped = advice(signs=(TINT,), step=100, config=config(train__steps=100, train__batch=100))
    assert stopped["Train for longer"].command and "Mend the brightness" not in stopped


def test_what_two_rules_advise_is_said_once():
    held = [{"step": s, "held_out": v, "trained_on": 0.1} for s, v in [(100, 0.5), (200, 0.3), (300, 0.4)]]
    found = [one.what for one in advise(shown(records=[*records(), *held], signs=(HEART, RISEN, COPIES)))]
    assert found == [
        "Keep it from copying pictures",
        "Stop earlier, or regularise",
        "Lower the learning rate",
        "Draw pictures from it",
    ]


def test_a_rising_error_on_held_out_pictures_is_named():
    held = [{"step": s, "held_out": v, "trained_on": 0.1} for s, v in [(100, 0.5), (200, 0.3), (300, 0.4)]]
    found = advice(records=[*records(), *held])["Stop earlier, or regularise"]
    assert "step 200" in found.why and "0.3000" in found.why and "0.4000" in found.why
    falling = [{**r, "held_out": v} for r, v in zip(held, (0.5, 0.4, 0.3), strict=True)]
    assert "Stop earlier, or regularise" not in advice(records=[*records(), *falling])


def test_a_falling_error_asks_for_more_steps_and_noise_does_not():
    noise = np.random.default_rng(0).normal(0, 0.01, 100)
    falling = advice(records=records(np.linspace(1.0, 0.1, 100) + noise))["Train for longer"]
    assert "--steps 2000" in falling.command and "--out runs/zoo-longer" in falling.command
    for seed in range(20):
        flat = 0.5 + np.random.default_rng(seed).normal(0, 0.02, 100)
        assert "Train for longer" not in advice(records=records(flat))
    assert "Train for longer" not in advice(records=records(np.linspace(1.0, 0.1, 100)), state="running")


def test_what_is_learnt_by_heart_is_no_reason_to_go_on():
    falling = records(np.linspace(1.0, 0.1, 100) + np.random.default_rng(0).normal(0, 0.01, 100))
    assert "Train for longer" in advice(records=falling, signs=(RISEN,))
    for sign in (COPIES, HEART):
        assert "Train for longer" not in advice(records=falling, signs=(sign,))
    held = [{"step": s, "held_out": v, "trained_on": 0.1} for s, v in [(100, 0.5), (200, 0.3), (300, 0.4)]]
    assert "Train for longer" not in advice(records=[*falling, *held])


def test_of_the_bound_it_is_the_bound_that_counts():
    """Its squared error, a by-product weighted by importance, may do what it will."""
    made = config(train__steps=1000, train__batch=100, loss__kind="vlb", denoiser__variance="learned_range")
    noise = np.random.default_rng(0).normal(0, 0.01, 100)
    flat, falling = 4.0 + noise, np.linspace(6.0, 4.0, 100)
    found = advice(config=made, records=records(flat, vlb=falling))["Train for longer"]
    # a fifth of the fall is 0.4 bits, from a mean of 4.6 in the fifth before
    assert found.why.startswith("The bound still fell, by 8.8%")
    assert "Train for longer" not in advice(config=made, records=records(falling, vlb=flat))
    # its gradient is long because T terms are summed, not because steps are too large
    assert "Lower the learning rate" not in advice(config=made, records=records(flat, gradient=np.full(100, 9.0)))
    hybrid = made.with_(loss__kind="hybrid")
    assert "Train for longer" in advice(config=hybrid, records=records(falling, vlb=flat))
    assert "Lower the learning rate" in advice(config=hybrid, records=records(gradient=np.full(100, 9.0)))


@pytest.mark.parametrize("kind", ["simple", "hybrid", "vlb"])
@pytest.mark.parametrize("holdout, reference", [("", "zoo"), ("0.1", "held-out")])
def test_a_model_of_the_bound_is_to_be_measured(kind, holdout, reference):
    made = config(train__steps=1000, train__batch=100, loss__kind=kind, data__holdout=holdout)
    found = advice(config=made)
    assert ("Measure its bits/dim" in found) == (kind != "simple")
    if kind != "simple":
        command = f"ddpm evaluate runs/zoo --reference {reference} --metrics nll"
        assert found["Measure its bits/dim"].command == command
        assert "Measure its bits/dim" not in advice(config=made, state="running")


def test_a_run_that_saw_few_pictures_is_told_how_many_it_takes():
    found = advice(step=100, config=config(train__steps=100, train__batch=100))["Train for longer"]
    assert "10,000 pictures" in found.why and "--steps 500" in found.command


@pytest.mark.parametrize("length, speaks", [(0.5, False), (1.5, True)])
def test_gradients_that_are_mostly_clipped_ask_for_a_lower_rate(length, speaks):
    found = advice(records=records(gradient=np.full(100, length)))
    assert ("Lower the learning rate" in found) == speaks
    if speaks:
        assert "--lr 1.0e-04" in found["Lower the learning rate"].command
        unclipped = config(train__steps=1000, train__batch=100, optimizer__clip=0.0)
        assert "Lower the learning rate" not in advice(records=records(gradient=np.full(100, 9)), config=unclipped)


@pytest.mark.parametrize("shares, speaks", [((0.5, 0.5), False), ((0.8, 0.2), False), ((0.9, 0.1), True)])
def test_a_rare_class_is_named(shares, speaks):
    found = advice(facts=replace(FACTS, frequencies=shares))
    assert ("Even out the classes" in found) == speaks
    if speaks:
        assert found["Even out the classes"].why.startswith("bee has 10.0%")


def test_unreadable_pictures_are_checked():
    found = advice(facts=replace(FACTS, skipped=3))
    assert found["Mend the unreadable pictures"].command == "ddpm check zoo"


def test_a_larger_size_is_for_pictures_that_are_larger(tmp_path):
    """Said where the plan said so: the words are its own."""
    import torch
    from PIL import Image

    from ddpm.data import open_source
    from ddpm.plan import for_data

    for side, speaks in ((200, True), (32, False)):
        folder = tmp_path / str(side)
        folder.mkdir()
        for i in range(4):
            Image.new("RGB", (side, side), (i, 9, 9)).save(folder / f"{i}.png")
        choices = for_data(open_source(folder), torch.device("cpu"), {"data.path": (str(folder),)}, 60.0)
        found = advice(plan=tuple(map(str, choices.decisions)))
        assert ("Go larger" in found) == speaks
        if speaks:
            assert "--size 16" in found["Go larger"].command  # twice the 8 x 8 of the run at hand
    wide = config(data__size=(8, 12), train__steps=1000, train__batch=100)
    assert "--size 16x24" in advice(plan=("--size asks for more",), config=wide)["Go larger"].command


def test_every_command_is_one_a_shell_reads_back():
    made = config(train__steps=1000, train__batch=10, data__path=("my photos", "b'c"))
    found = advise(
        shown(
            folder="my runs/zoo",
            config=made,
            state="stopped",
            step=900,
            facts=Facts("my photos", 100, ("a b", "c"), (0.99, 0.01), skipped=2),
            signs=SIGNS,
            records=records(np.linspace(1, 0.1, 100), gradient=np.full(100, 7)),
        )
    )
    commands = [shlex.split(one.command) for one in found if one.command]
    assert len(commands) >= 5
    for command in commands:
        assert command[0] == "ddpm" and command[1] in ("train", "sample", "check")
        if command[1] == "train" and "--resume" not in command:
            assert command[2:4] == ["my photos", "b'c"]
        if "--out" in command:
            assert command[command.index("--out") + 1].startswith("my runs/zoo")


@pytest.mark.parametrize(
    "made, again",
    [
        ("", "ddpm train zoo --steps 500 --out runs/zoo-longer"),
        ("ddpm train zoo --budget 3m --out runs/zoo", "ddpm train zoo --steps 500 --out runs/zoo-longer"),
        (
            "ddpm train --out=a --data.holdout 0.05 'my zoo' --steps=7 --lr 1e-3 --train.compile",
            "ddpm train --data.holdout 0.05 'my zoo' --lr 1e-3 --train.compile --steps 500 --out runs/zoo-longer",
        ),
        (
            "ddpm train zoo --out a --net.multipliers 1 2 --steps 9",
            "ddpm train zoo --net.multipliers 1 2 --steps 500 --out runs/zoo-longer",
        ),
    ],
)
def test_another_run_is_made_as_this_one_was_but_for_the_change(made, again):
    found = advice(step=100, config=config(train__steps=100, train__batch=100), command=made)
    assert found["Train for longer"].command == again


def test_every_command_is_one_that_ddpm_has():
    import importlib

    import tyro

    from ddpm.cli import COMMANDS

    made = config(train__steps=1000, train__batch=10)
    few = Facts("zoo", 100, ("a b", "c"), (0.99, 0.01), skipped=2)
    log = records(np.linspace(1, 0.1, 100), gradient=np.full(100, 7))
    found = advise(
        shown(
            config=made,
            facts=few,
            signs=SIGNS,
            records=log,
            plan=("--size asks for more",),
        )
    )
    found += advise(shown(state="stopped"))
    found += advise(shown(config=made.with_(loss__kind="hybrid", denoiser__variance="learned_range")))
    commands = [shlex.split(one.command) for one in found if one.command]
    assert {command[1] for command in commands} == {"train", "sample", "check", "evaluate"}
    for _, name, *arguments in commands:
        options = importlib.import_module(COMMANDS[name][0]).Options
        assert tyro.cli(options, args=arguments)


# -- words ---------------------------------------------------------------------------------------------------


def test_the_words_are_those_of_the_config():
    made = config(
        net__attention=(1,), net__patch=2, loss__weight="min-snr", loss__min_snr=4.0, data__flip=True,
        train__steps=1000, train__batch=30, optimizer__ema=0.99, optimizer__decay="cosine",
    )  # fmt: skip
    text = words.model(made, 1_520_000)
    for part in ("1.5 million", "2 levels", "8, 16 channels", "1 residual block ", "self-attention on 1 level",
                 "2 × 2", "predicts v", "40 levels", "cosine"):  # fmt: skip
        assert part in text
    assert "cap 4" in words.objective(made)
    course = words.course(made, FACTS)
    for part in ("1,000 steps", "30 pictures", "30,000 pictures", "0.5 passes", "2.0e-04", "100 steps", "cosine"):
        assert part in course
    data = words.data(made, replace(FACTS, skipped=7))
    for part in ("60,000 pictures of zoo", "2 classes", "8 × 8", "grey", "mirrored", "7 could not"):
        assert part in data


@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "mean"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid", "betas"])
@pytest.mark.parametrize("weight", ["simple", "min-snr", "p2"])
def test_every_choice_has_its_words(predicts, schedule, weight):
    made = config(denoiser__predicts=predicts, chain__schedule=schedule, loss__weight=weight)
    assert words.model(made, 10) and "{" not in words.objective(made)


@pytest.mark.parametrize("times", ["uniform", "low-discrepancy", "loss-second-moment"])
@pytest.mark.parametrize("kind", ["simple", "hybrid", "vlb"])
def test_every_objective_has_its_words(kind, times):
    text = words.objective(config(loss__kind=kind, loss__times=times, loss__weight="min-snr"))
    assert ("squared error" in text) == ("min-SNR" in text) == (kind != "vlb")
    assert ("variational bound" in text) == (kind != "simple")
    assert ("0.001 times" in text) == (kind == "hybrid")
    assert ("spread evenly" in text) == (times == "low-discrepancy")
    assert ("more often" in text) == (times == "loss-second-moment")


@pytest.mark.parametrize("variance", ["small", "large", "learned", "learned_range"])
def test_a_learned_variance_has_its_words(variance):
    text = words.model(config(denoiser__variance=variance), 10)
    assert ("second output" in text) == (variance in ("learned", "learned_range"))
    assert ("between" in text) == (variance == "learned_range")


@pytest.mark.parametrize("crop", ["centre", "random", "pad", "none"])
@pytest.mark.parametrize("decay", ["none", "linear", "cosine"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_other_choice_has_its_words_too(crop, decay, channels):
    made = config(data__crop=crop, optimizer__decay=decay, data__channels=channels, train__accumulate=2)
    assert words.data(made, Facts()) and "in 2 parts" in words.course(made, Facts())


@pytest.mark.parametrize(
    "value, text", [(0.42, "0.4"), (7.0, "7"), (312.4, "312"), (1500.0, "1,500"), (1.5e6, "1.5 million")]
)
def test_amounts_are_as_a_person_says_them(value, text):
    assert words.amount(value) == text


@pytest.mark.parametrize("holdout, said", [("0.05", ": 5 % of all."), ("test", ": test."), ("", "")])
def test_what_is_held_out_is_said(holdout, said):
    text = words.data(config(data__holdout=holdout, data__flip=False), FACTS)
    assert text.endswith(said) and ("Held out" in text) == bool(holdout)


# -- classifiers -----------------------------------------------------------------------------------------------


def classifier(looks=(), **changes):
    """Of a run with held-out pictures; looks: (step, held out, trained on)."""
    made = config(train__steps=1000, train__batch=100, train__task="classifier", data__holdout="0.1")
    lines = [{"step": 10 * (i + 1), "loss": 0.1, "accuracy": 0.9} for i in range(100)]
    lines += [{"step": s, "held_out_accuracy": a, "trained_on_accuracy": b} for s, a, b in looks]
    return advice(**{"config": made, "records": lines, "signs": (), **changes})


def test_a_good_classifier_is_told_how_to_guide():
    found = classifier([(300, 0.6, 0.6), (600, 0.7, 0.71), (1000, 0.75, 0.76)])
    assert set(found) == {"Guide a model with it"}
    command = "ddpm sample MODEL -n 64 --class ant --classifier runs/zoo --classifier-scale 1"
    assert found["Guide a model with it"].command == command and "8 x 8" in found["Guide a model with it"].why


@pytest.mark.parametrize(
    "looks, speaks",
    [
        ([(300, 0.7, 0.7), (600, 0.68, 0.75), (1000, 0.65, 0.8)], True),  # one falls, the other rises
        ([(300, 0.7, 0.7), (600, 0.72, 0.75), (1000, 0.73, 0.83)], True),  # apart
        ([(300, 0.7, 0.7), (600, 0.72, 0.75), (1000, 0.69, 0.74)], False),  # within chance
        ([(300, 0.7, 0.7), (1000, 0.5, 0.9)], False),  # too few looks to say
        ([], False),
    ],
)
def test_a_classifier_that_learns_by_heart_is_told_what_helps(looks, speaks):
    found = classifier(looks)
    assert ("Keep it from learning pictures by heart" in found) == speaks
    if speaks:
        one = found["Keep it from learning pictures by heart"]
        assert f"{looks[-1][1]:.1%} of held-out pictures" in one.why and f"{looks[-1][2]:.1%}" in one.why
        assert "--crop random" in one.why and "--optimizer.weight-decay 0.05" in one.command


def test_what_helps_is_what_is_not_done_yet():
    looks = [(300, 0.7, 0.7), (600, 0.68, 0.75), (1000, 0.65, 0.8)]
    made = config(train__steps=1000, train__batch=100, train__task="classifier", data__holdout="0.1")
    made = made.with_(data__crop="random", data__flip=True, optimizer__weight_decay=0.1)
    one = classifier(looks, config=made)["Keep it from learning pictures by heart"]
    assert "--crop" not in one.why and "--data.flip" not in one.why and "more weight decay (0.2)" in one.why
    assert "--crop" not in one.command


def test_a_classifier_without_held_out_pictures_is_asked_to_hold_some_out():
    made = config(train__steps=1000, train__batch=100, train__task="classifier")
    found = classifier(config=made, command="ddpm train zoo --task classifier --budget 5m")
    command = "ddpm train zoo --task classifier --steps 1000 --holdout 0.05 --out runs/zoo-held-out"
    assert found["Hold some pictures out"].command == command


def test_a_classifier_is_not_told_of_pictures_it_cannot_draw():
    shares = Facts("zoo", 1_000, ("ant", "bee"), (0.95, 0.05), skipped=3)
    plan = ("size 8 x 8: sized for 60 s on cpu; --size asks for more",)
    noise = np.random.default_rng(0).normal(0, 0.01, 100)
    lines = [
        {"step": 10 * (i + 1), "loss": v, "accuracy": 0.5, "gradient": 9.0}
        for i, v in enumerate(np.linspace(2.0, 1.0, 100) + noise)
    ]
    found = classifier(facts=shares, plan=plan, records=lines)
    assert {"Give it more pictures", "Even out the classes", "Mend the unreadable pictures"} < set(found)
    assert "recognised the least" in found["Even out the classes"].why
    assert found["Train for longer"].why.startswith("The loss still fell")
    text = " ".join(f"{name} {one.why} {one.command}" for name, one in found.items())
    assert "its samples" not in text and "-lower-rate" not in text and "Go larger" not in found
