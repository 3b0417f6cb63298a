"""What was asked for is never touched, and every decision has its reason."""

from ddpm.config import Config
from ddpm.plan.decisions import Choices, Decision, Expected, Planned


def test_only_what_was_not_asked_for_is_picked():
    choices = Choices(Config(), {"net.channels": 48, "data.size": (8, 16)})
    assert choices.pick("net.channels", 64) == 48 and choices.pick("net.groups", 8) == 8
    assert (choices["net.channels"], choices["net.groups"], choices["data.size"]) == (48, 8, (8, 16))
    assert choices.config == Config().with_(net__channels=48, net__groups=8, data__size=(8, 16))


def test_reasons_tell_what_was_asked_for():
    choices = Choices(Config(), {"denoiser.predicts": "eps", "net.channels": 48})
    choices.say("width", 48, "wide", "net.channels")
    choices.say("target", "eps", "tried", "denoiser.predicts", "loss.weight")
    choices.say("batch", 32, "usual", "train.batch")
    assert [str(d) for d in choices.decisions] == [
        "width 48: asked for",
        "target eps: predicts asked for; tried",
        "batch 32: usual",
    ]


def test_nothing_asked_for_goes_unsaid_if_it_changes_something():
    asked = {"net.channels": 64, "train.keep": 5, "train.seed": 0, "data.path": ("p",), "chain.betas": (0.1, 0.2)}
    choices = Choices(Config(), asked)
    choices.say("width", 64, "", "net.channels")
    choices.say_the_rest()
    assert choices.decisions[1:] == [
        Decision("chain.betas", "0.1 0.2", "asked for"),
        Decision("train.keep", "5", "asked for"),
    ]


def test_a_run_keeps_decisions_and_notes_as_lines():
    decision = Decision("batch", "32", "usual on cpu")
    planned = Planned(Config(), (decision,), Expected(None, 1, 2), ("few pictures",), ("disk: full",))
    assert planned.reasons == ("batch 32: usual on cpu", "note: few pictures", "note: disk: full")
