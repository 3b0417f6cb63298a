"""Following a run: what appears in its folder is told once, in order, and nothing there is touched."""

import os
import time

import pytest

from ddpm.errors import UserError
from ddpm.events import Began, Ended, Evaluated, Logged, Previewed, Saved
from ddpm.report import Follower
from ddpm.store import Description, Run
from test_report import log, preview
from tiny import ANIMALS, config, run


@pytest.fixture
def made(tmp_path):
    """A run of 12 steps that has not begun, a preview every 6."""
    return Run.create(tmp_path / "zoo", Description(config(train__preview_every=6), ANIMALS))


def checkpoint(made, step):
    folder = made.folder / "checkpoints" / f"{step:09d}"
    folder.mkdir(parents=True)
    return folder


def kinds(events):
    return [(type(event), event.step) for event in events]


def test_news_are_told_once_and_in_order(made):
    follower = Follower(made)
    assert follower.news() == [Began(0, 12, 0, "")]
    log(made, (2,))
    (event,) = follower.news()
    assert event == Logged(2, 0.5, 0.45, (0.1, None, 0.3, 0.4), 1e-3, 0.5, 12.0, 0.0, 10 * 6 / 12.0)
    assert follower.news() == []
    log(made, (4, 6))
    made.log({"step": 6, "held_out": 0.5, "trained_on": 0.25})
    path = checkpoint(made, 6)
    preview(made, 6)
    events = follower.news()
    assert kinds(events) == [(Logged, 4), (Logged, 6), (Evaluated, 6), (Saved, 6), (Previewed, 6)]
    assert events[2] == Evaluated(6, 0.5, 0.25) and events[3].path == path
    assert follower.newest_look() == made.folder / "samples" / "000000006.png"
    assert not follower.complete and follower.news() == []


def test_the_bound_of_a_line_is_told(made):
    follower = Follower(made)
    log(made, (2,), vlb=4.5)
    log(made, (4,), vlb="?")
    assert [event.vlb for event in follower.news() if isinstance(event, Logged)] == [4.5, None]


def test_what_was_before_is_told_in_short(made):
    log(made, range(1, 9))
    checkpoint(made, 6)
    preview(made, 6)
    events = Follower(made).news()
    assert kinds(events) == [(Began, 8), (Logged, 6), (Logged, 7), (Logged, 8)]


def test_it_is_complete_with_the_last_checkpoint_and_its_preview(made):
    follower = Follower(made)
    log(made, (12,))
    checkpoint(made, 12)
    follower.news()
    assert not follower.complete
    preview(made, 12)
    assert kinds(follower.news())[-1] == (Ended, 12) and follower.complete


def test_a_last_preview_that_never_comes_is_not_waited_for(made):
    old = time.time() - 100
    os.utime(checkpoint(made, 12), (old, old))
    follower = Follower(made)
    follower.news()
    assert follower.complete


def test_without_previews_the_last_checkpoint_is_the_end(tmp_path):
    follower = Follower(run(tmp_path / "zoo", step=12, train__preview_every=0))
    follower.news()
    assert follower.complete


def test_a_resumed_training_takes_lines_back(made):
    follower = Follower(made)
    log(made, (2, 4, 6, 8))
    follower.news()
    checkpoint(made, 4)
    follower.news()
    made.rewind(4)
    assert follower.news() == []
    log(made, (6,))
    assert kinds(follower.news()) == [(Logged, 6)]


def test_lines_that_are_cut_off_or_strange_are_waited_for_or_left_out(made):
    follower = Follower(made)
    follower.news()
    made.log({"step": 1, "loss": "nan"})
    made.log({"nothing": 1})
    with (made.folder / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "loss": 0.5, "mse": 0.4')
    assert follower.news() == []
    with (made.folder / "log.jsonl").open("a") as file:
        file.write(', "lr": 0.1, "gradient": 1, "pictures_per_second": 3}\n')
    (event,) = follower.news()
    assert event.step == 2 and event.quarters == ()


def test_nothing_is_touched(made):
    log(made, (2, 4))
    preview(made, 4)
    before = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")}
    follower = Follower(made)
    follower.news()
    follower.news()
    assert {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")} == before


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        Follower(Run(tmp_path))


def test_a_classifier_s_news(tmp_path):
    """Accuracies in place of errors, and a checkpoint where others have a preview."""
    made = Run.create(tmp_path / "zoo", Description(config(train__task="classifier"), ANIMALS))
    follower = Follower(made)
    follower.news()
    line = {"step": 6, "loss": 1.5, "accuracy": 0.5, "accuracy_quarters": [0.75, None, 0.5, 0.25]}
    made.log({**line, "lr": 1e-3, "gradient": 2.0, "pictures_per_second": 12.0, "seconds": 3.0})
    looked = {"held_out_accuracy": 0.4, "held_out_quarters": [0.5, 0.5, 0.4, 0.2]}
    made.log({"step": 6, **looked, "trained_on_accuracy": 0.45, "trained_on_quarters": [0.6, 0.5, 0.5, 0.2]})
    made.log({"step": 6, "held_out_accuracy": 0.4})  # not a whole one
    path = checkpoint(made, 6)
    first, second, third = follower.news()
    assert first == Logged(6, 1.5, None, (0.75, None, 0.5, 0.25), 1e-3, 2.0, 12.0, 3.0, 3.0, None, 0.5)
    assert second == Evaluated(6, 0.4, 0.45, (0.5, 0.5, 0.4, 0.2), (0.6, 0.5, 0.5, 0.2))
    assert third == Saved(6, path) and follower.newest_look() == path
    checkpoint(made, 12)
    assert [type(event) for event in follower.news()] == [Saved, Ended] and follower.complete
