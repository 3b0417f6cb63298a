"""Steps whose numbers go wrong: skipped, counted, gone back from once, and then the end."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import tiny
from ddpm.data import Pictures, load, open_source
from ddpm.errors import UserError
from ddpm.events import Began, Ended, Logged, Saved, WentBack
from ddpm.guard import Guard
from ddpm.store import Description, Run
from ddpm.train import LOWER, facts, fit
from ddpm.trainer import Trainer

CONFIG = tiny.config(
    train__log_every=2, train__checkpoint_every=5, train__preview_every=0, train__bad_steps=3, optimizer__warmup=1
)


@pytest.fixture
def pictures(tmp_path) -> Pictures:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", images=images)
    return load(open_source(tmp_path / "noise.npz"), (8, 8), 1, cache=tmp_path / "cache")


def trainer_of(pictures, config=CONFIG) -> Trainer:
    return Trainer(config, pictures, Accelerator(cpu=True))


def poison(trainer, wrong, value=math.nan):
    """The loss of step k is multiplied by `value` if wrong(k)."""
    loss, step, now = trainer.loss, trainer.step, [0]

    def spoilt(*given):
        terms = loss(*given)
        return terms._replace(loss=terms.loss * value) if wrong(now[0]) else terms

    def counted(k, stop=False):
        now[0] = k
        return step(k, stop)

    trainer.loss, trainer.step = spoilt, counted
    return trainer


def train(trainer, folder):
    run = Run(folder)
    description = Description(trainer.config, facts(trainer.pictures))
    if not run.exists():
        run = Run.create(folder, description)
    return list(fit(trainer, run, description, run.newest()[0])), run


def everything(trainer):
    return {f"{part} {name}": one.clone() for part, s in trainer.tensors().items() for name, one in s.items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("asks", [True, False])
def test_a_bad_step_changes_nothing(pictures, value, asks):
    """Neither weights nor averages nor moments, whether the device is asked or finds out by itself."""
    trainer = poison(trainer_of(pictures), lambda k: k == 1, value)
    trainer.asks = asks
    assert bool(trainer.step(0).good)
    before = everything(trainer)
    result = trainer.step(1)
    assert not bool(result.good) and equal(everything(trainer), before)
    assert trainer.guard.row == 1 and trainer.guard.skipped == 1
    trainer.step(2)
    assert trainer.guard.row == 0 and trainer.guard.skipped == 1 and not equal(everything(trainer), before)


def test_a_device_that_finds_out_by_itself_learns_the_same(pictures):
    """The fused optimizer's own way to skip, against asking."""
    one, other = (poison(trainer_of(pictures), lambda k: k == 1) for _ in range(2))
    other.asks = False
    for k in range(4):
        one.step(k), other.step(k)
    a, b = everything(one), everything(other)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-7)


def test_skipped_steps_are_counted_and_left_out_of_the_log(pictures, tmp_path):
    events, run = train(poison(trainer_of(pictures), lambda k: k in (2, 7)), tmp_path / "run")
    clean, _ = train(trainer_of(pictures), tmp_path / "clean")
    logged = [e for e in events if isinstance(e, Logged)]
    assert all(math.isfinite(e.loss) and math.isfinite(e.gradient) for e in logged)
    assert [e.skipped for e in logged] == [0, 1, 1, 2, 2, 2]
    assert [r.get("skipped", 0) for r in run.records()] == [0, 1, 1, 2, 2, 2]
    assert logged[0].loss == next(e.loss for e in clean if isinstance(e, Logged))
    assert "NaN" not in (run.folder / "log.jsonl").read_text()
    state = json.loads((run.newest()[0].folder / "state.json").read_text())
    assert state["guard"] == {"skipped": 2, "row": 0, "rate": 1.0}


def test_a_line_without_a_good_step_waits_for_one(pictures, tmp_path):
    events, _ = train(poison(trainer_of(pictures), lambda k: k in (2, 3)), tmp_path / "run")
    assert [e.step for e in events if isinstance(e, Logged)] == [2, 6, 8, 10, 12]


def test_too_many_in_a_row_go_back_once_at_a_lower_rate(pictures, tmp_path):
    trainer = trainer_of(pictures)
    poison(trainer, lambda k: k >= 7 and trainer.guard.rate == 1.0)
    events, run = train(trainer, tmp_path / "run")
    assert [e for e in events if isinstance(e, WentBack)] == [WentBack(10, 5, LOWER)]
    assert isinstance(events[-1], Ended) and events[-1].complete
    records = run.records()
    (back,) = [r for r in records if "went_back_from" in r]
    assert back == {"step": 5, "went_back_from": 10, "rate": LOWER}
    assert [r["step"] for r in records] == [2, 4, 5, 6, 8, 10, 12]
    # The same from the checkpoint by hand: its weights, and half the rate.
    again = trainer_of(pictures)
    first, _ = train(trainer_of(pictures, CONFIG.with_(train__keep=9)), tmp_path / "clean")
    assert any(isinstance(e, Saved) and e.step == 5 for e in first)
    from ddpm.store import open_checkpoint

    again.restore(open_checkpoint(tmp_path / "clean" / "checkpoints" / "000000005"))
    again.guard.rate = LOWER
    for k in range(5, 12):
        again.step(k)
    assert equal(everything(again), everything(trainer))


def test_stopped_after_it_went_back_it_goes_on_as_if_it_had_not(pictures, tmp_path):
    """The lower rate outlives the process although the checkpoint gone back to is older."""

    def spoilt():
        trainer = trainer_of(pictures)
        return poison(trainer, lambda k: k >= 7 and trainer.guard.rate == 1.0)

    whole = spoilt()
    train(whole, tmp_path / "whole")
    killed = spoilt()
    description = Description(CONFIG, facts(pictures))
    run = Run.create(tmp_path / "parts", description)
    for event in (stream := fit(killed, run, description)):
        if isinstance(event, WentBack):
            break
    stream.close()
    resumed = spoilt()
    events, _ = train(resumed, tmp_path / "parts")
    assert isinstance(events[0], Began) and events[0].step == 5
    assert not any(isinstance(e, WentBack) for e in events)
    assert equal(everything(resumed), everything(whole))


def test_without_a_checkpoint_it_goes_back_to_the_beginning(pictures, tmp_path):
    trainer = trainer_of(pictures)
    poison(trainer, lambda k: trainer.guard.rate == 1.0 and k >= 1)
    events, _ = train(trainer, tmp_path / "run")
    assert WentBack(4, 0, LOWER) in events and events[-1].complete
    fresh = trainer_of(pictures)
    fresh.guard.rate = LOWER
    for k in range(12):
        fresh.step(k)
    assert equal(everything(fresh), everything(trainer))


def test_the_second_time_it_stops_with_the_reason(pictures, tmp_path):
    with pytest.raises(
        UserError, match=r"step 10: 3 steps in a row gave no number, although .* at 0.5 of the rate"
    ):
        train(poison(trainer_of(pictures), lambda k: k >= 7), tmp_path / "run")
    newest, damaged = Run(tmp_path / "run").newest()
    assert newest.step == 5 and not damaged


def test_weights_that_are_no_numbers_are_not_saved(pictures, tmp_path):
    """A rate of 1e30 leaves finite losses for a step; the checkpoint after it would be worthless."""
    config = CONFIG.with_(optimizer__lr=1e38, optimizer__clip=0.0, train__checkpoint_every=1)
    with pytest.raises(UserError, match=r"lower --lr"):
        train(trainer_of(pictures, config), tmp_path / "run")
    newest, _ = Run(tmp_path / "run").newest()
    assert newest is None or all(bool(v.isfinite().all()) for v in newest.tensors("model").values())


def test_no_checkpoint_is_made_in_a_bad_row(pictures, tmp_path):
    events, _ = train(poison(trainer_of(pictures), lambda k: k == 4), tmp_path / "run")
    assert [e.step for e in events if isinstance(e, Saved)] == [10, 12]


def test_counts_go_with_a_checkpoint():
    guard = Guard(torch.device("cpu"), 2)
    assert guard.state() == {}
    for good in (False, True, False, False):
        guard.take(torch.tensor(good))
    assert (guard.row, guard.skipped, guard.over(3)) == (2, 3, True)
    other = Guard(torch.device("cpu"), 2)
    other.restore(copy.deepcopy(guard.state()))
    assert (other.row, other.skipped) == (2, 3)
    other.restore({})
    assert (other.row, other.skipped, other.rate) == (0, 0, 1.0)


def test_a_step_s_highest_loss_is_told(pictures, tmp_path):
    """A spike of a single step that the mean of many would hide."""
    events, run = train(poison(trainer_of(pictures), lambda k: k == 4, 100.0), tmp_path / "run")
    third = [e for e in events if isinstance(e, Logged)][2]
    assert third.highest > 50 * third.loss / 51 * 1.5 and run.records()[2]["highest"] == third.highest
