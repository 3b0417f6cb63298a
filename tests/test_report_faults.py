"""What a report says of steps that went wrong."""

from ddpm.config import Config
from ddpm.report.faults import note, sentences, shaken
from ddpm.report.shown import Shown
from ddpm.store import Facts


def records(count=30, **changed):
    made = [{"step": 10 * (i + 1), "loss": 0.1, "highest": 0.2} for i in range(count)]
    for place, value in changed.items():
        made[int(place[1:])] |= value
    return made


def shown(made):
    return Shown("runs/x", "ddpm train photos --lr 1e-3", Config(), Facts(), 300, (), "complete", made)


def test_a_log_without_faults_says_nothing():
    assert sentences(records()) == [] and note(records()) == "" and shaken(shown(records())) is None


def test_skipped_steps_and_spikes_are_told():
    made = records(_9={"skipped": 1}, _20={"highest": 9.0}, _25={"skipped": 3, "highest": 7.0})
    first, second = sentences(made)
    assert first.startswith("3 steps were skipped, as the loss or the gradient was no number")
    jumps = "9 by step 210; 7 by step 260, where up to 0.2 was usual."
    assert second == f"The loss of a single step jumped 2 times: {jumps}"
    assert note(made).count("<p") == 2
    assert shaken(shown(made)).what == "Lower the learning rate" and "jumped 2 times" in shaken(shown(made)).why
    assert sentences(records(_3={"skipped": 1}))[0].startswith("1 step was skipped")


def test_going_back_is_told():
    made = [*records(5), {"step": 50, "went_back_from": 73, "rate": 0.5}]
    assert sentences(made) == [
        "At step 73 nothing but such steps came, so training went back to the checkpoint of step 50 and on at 0.5 "
        "of the learning rate."
    ]
    assert "--lr" in shaken(shown(made)).command
    assert "the beginning" in sentences([{"step": 0, "went_back_from": 7, "rate": 0.5}])[0]
