"""What fits into time, memory and disk, with the machine's figures set by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import tiny
from ddpm.checking import check
from ddpm.config import Config
from ddpm.data.pictures import Cached
from ddpm.errors import UserError
from ddpm.plan import spending
from ddpm.plan.decisions import Choices
from ddpm.plan.machine import Load, Measured
from ddpm.plan.spending import plan
from ddpm.processes import ALONE, Processes

GB = 1_000_000_000
ASKED = {
    "optimizer.warmup": 77,
    "optimizer.ema": 0.123,
    "train.checkpoint_every": 13,
    "train.preview_every": 0,
    "train.log_every": 3,
}


@pytest.fixture
def machine(monkeypatch):
    """Sets the machine's figures; returns them to be changed."""
    figures = {
        "step": 0.5,
        "memory": 123_000_000,
        "free": 100 * GB,
        "disk": 100 * GB,
        "load": None,
        "measured": [],
    }
    count = spending.count

    def measure(config, load, pictures, accelerator, steps, processes):
        figures["measured"].append((config.train.accumulate, steps))
        return Measured(figures["step"], figures["memory"])

    monkeypatch.setattr(spending, "measure", measure)
    monkeypatch.setattr(spending, "free_memory", lambda device: figures["free"])
    monkeypatch.setattr(spending, "free_disk", lambda folder: figures["disk"])
    monkeypatch.setattr(spending, "count", lambda config, classes: figures["load"] or count(config, classes))
    return figures


def planned(seconds=None, asked=None, published=False, number=5000, crew=ALONE, largest=False, **changes):
    pictures = Cached(np.zeros((number, 1, 8, 8), np.uint8), None, (), "blank", "f" * 64)
    choices = Choices(tiny.config(optimizer__lr=1e-3, **changes), asked or {})
    folder, silent = Path("runs/blank"), lambda line: None
    return plan(choices, pictures, Accelerator(cpu=True), folder, seconds, published, silent, crew, largest)


def said(made, what):
    return [f"{d.value}: {d.why}" for d in made.decisions if d.what == what][-1]


# -- time ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.01, 0.5])
@pytest.mark.parametrize("asked", [{}, ASKED])
def test_the_steps_and_previews_fill_the_time(machine, step, asked):
    machine["step"] = step
    made = planned(1000.0, asked)
    train = check(made.config).train
    assert 700 < step * train.steps <= 950
    assert 900 < made.expected.seconds <= 955
    assert said(made, "steps").startswith(f"{train.steps:,}: at the {6 / step:,.0f} pictures a second")
    for name, value in asked.items():
        section, item = name.split(".")
        assert getattr(getattr(made.config, section), item) == value
    before = tiny.config()
    assert made.config.net == before.net and made.config.data == before.data and train.batch == before.train.batch


def test_previews_take_a_tenth_of_the_time_at_the_most(machine, monkeypatch):
    machine["step"] = 1.0
    monkeypatch.setattr(spending, "_look_seconds", lambda *_: 40.0)
    for made in (planned(1000.0), planned(None, {"train.steps": 950})):
        train = made.config.train
        previews = -(-train.steps // train.preview_every)  # the last step always makes one
        assert previews == 2 and train.steps > 800
        assert made.expected.seconds == pytest.approx(train.steps + 40 * previews, rel=0.01)
    assert planned(1000.0).expected.seconds <= 951


def test_previews_and_checkpoints_asked_for_are_paid_from_the_budget(machine, monkeypatch):
    """100 steps of a second, ten previews of 20 s, 50 checkpoints of 2 s: 4 s a step."""
    machine["step"], machine["load"] = 1.0, Load(25_000_000, 1000, 1000)
    monkeypatch.setattr(spending, "_look_seconds", lambda *_: 20.0)
    made = planned(1000.0, {"train.preview_every": 20, "train.checkpoint_every": 1})
    assert made.config.train.steps == pytest.approx(950 / (1 + 20 / 20 + 2), abs=2)
    assert made.expected.seconds == pytest.approx(950, rel=0.03)


CLASSIFIER = {"train.task": "classifier", "denoiser.predicts": "eps", "data.holdout": "0.1"}


def test_a_classifier_s_looks_are_paid_for(machine, monkeypatch):
    """950 s less checkpoints with a look, of 6 s each, as many as a twentieth of it has; or one every 20 steps."""
    machine["step"], machine["load"] = 1.0, Load(1000, 1000, 1000)
    monkeypatch.setattr(spending, "_look_seconds", lambda *_: 6.0)
    made = planned(1000.0, {**CLASSIFIER, "train.preview_every": 0})
    assert made.config.train.steps == pytest.approx(950 - 7 * 6, abs=3)
    assert made.expected.seconds == pytest.approx(950, rel=0.03)
    assert "preview" not in said(made, "time") and "preview" not in said(made, "disk")
    assert said(made, "accuracy").startswith("every checkpoint: ")
    assert not [d for d in made.decisions if d.what == "previews"]
    made = planned(1000.0, {**CLASSIFIER, "train.preview_every": 20})
    assert made.config.train.steps == pytest.approx(950 / (1 + 6 / 20), abs=3)
    assert "37 held-out looks of about 6 s" in said(made, "time") and "look" not in said(made, "disk")


def test_a_look_is_of_held_out_pictures_at_every_quarter(machine):
    """256 of either kind at four levels, a third of a step's work each, and a second for the page."""
    measured = Measured(0.6, None)
    choices = Choices(tiny.config(), CLASSIFIER)
    assert spending._look_seconds(choices, 3, measured) == pytest.approx(1 + 2 * 256 * 4 * 0.6 / 3 / 6)
    choices = Choices(tiny.config(), {**CLASSIFIER, "data.holdout": ""})
    assert spending._look_seconds(choices, 3, measured) == 1.0


@pytest.mark.parametrize("seconds", [0.001, 2.0, -5.0, 0.0])
def test_too_little_time_is_refused(machine, seconds):
    machine["step"] = 0.25
    with pytest.raises(UserError, match=r"--budget: leaves time for [0-7] steps of 0\.25 s each; give more time"):
        planned(seconds)


def test_the_time_of_fixed_steps_is_told_unless_they_are_few(machine):
    machine["step"] = 1.5
    made = planned(None, {"train.steps": 50, "train.preview_every": 0})
    assert made.expected.seconds == pytest.approx(75, rel=0.01)
    assert said(made, "time") == "75 s: 50 steps of 1.5 s measured here, 1 checkpoint"
    assert machine["measured"] == [(1, 50)] and made.config.train.steps == 50
    made = planned(None, {"train.steps": 49})
    assert made.expected.seconds is None and said(made, "time").startswith("not measured: fewer than 50 steps")
    assert len(machine["measured"]) == 1


def test_a_paper_s_course_is_left_alone(machine):
    before = tiny.config(optimizer__lr=1e-3, train__steps=700)
    made = planned(None, published=True, train__steps=700)
    assert made.config == before and said(made, "steps") == "700: the paper's"
    assert "warm-up: 5,000 of 700 steps, more than a fifth" in made.warnings[0]
    # given a time, its steps follow, and what depends on them
    made = planned(1000.0, published=True)
    assert made.config.optimizer.warmup == made.config.train.steps // 20
    assert made.config.optimizer.lr == 1e-3


def test_the_batch_is_no_more_than_could_be_decoded(machine):
    made = planned(None, {"train.steps": 3}, number=4)
    assert made.config.train.batch == 4
    # the rate goes down with the root: 4 pictures instead of 32, 8 channels instead of 32
    assert planned(None, {"train.steps": 3}, number=4).config.optimizer.lr == pytest.approx(4e-3 * (4 / 8) ** 0.5)


# -- memory ----------------------------------------------------------------------------------------------------


def test_a_batch_is_computed_in_as_few_parts_as_fit(machine):
    """10 MB a picture, at half as much again at the peak; 40 MB of weights; 64 MiB beside."""
    machine["load"], beside = Load(2_000_000, 10_000_000, 1), 1 << 26
    for batch, room, parts in ((6, 6, 1), (6, 5, 2), (6, 3, 2), (6, 2, 3), (7, 2, 4), (6, 1, 6)):
        machine["free"] = int((40e6 + beside + 15e6 * (room + 0.5)) / 0.75)
        made = planned(None, {"train.steps": 3, "train.batch": batch})
        assert check(made.config).train.accumulate == parts and not made.obstacles
        assert ("75% is the most" in said(made, "computed in")) == (parts > 1)
    # over three quarters, but not over what there is
    machine["free"] = int(40e6 + beside + 16e6)
    assert planned(None, {"train.steps": 3}).config.train.accumulate == 6
    assert planned(None, {"train.steps": 3, "train.accumulate": 2}).config.train.accumulate == 2


def test_what_no_memory_holds_is_an_obstacle_and_not_measured(machine):
    machine["load"], machine["free"] = Load(2_000_000, 10_000_000, 1), 100_000_000
    for made in (planned(None, {"train.steps": 500}), planned(1000.0)):
        assert len(made.obstacles) == 1 and made.expected.seconds is None and not made.warnings
        assert made.obstacles[0].startswith(
            "memory: 1 pictures at once take about 122 MB, and 100 MB are free; take"
        )
    assert machine["measured"] == [] and said(made, "steps").startswith("unknown")
    machine["free"] = None
    made = planned(None, {"train.steps": 500})
    assert (
        not made.obstacles and made.config.train.accumulate == 1 and "cannot be told" in said(made, "computed in")
    )


def test_memory_is_the_measured_one_or_an_estimate(machine):
    made = planned(None, {"train.steps": 500})
    assert made.expected.memory == 123_000_000 and said(made, "memory").startswith("123 MB: measured; ")
    made = planned(None, {"train.steps": 3})
    assert made.expected.memory > 1e6 and ": estimated; " in said(made, "memory")


def test_a_gpu_that_proves_too_small_takes_more_parts(machine, monkeypatch):
    tried = []

    def measure(config, load, pictures, accelerator, steps, processes):
        tried.append(config.train.accumulate)
        if config.train.accumulate < enough:
            raise torch.OutOfMemoryError("out of memory")
        return Measured(0.5, 7)

    monkeypatch.setattr(spending, "measure", measure)
    enough = 4
    made = planned(None, {"train.steps": 500})
    assert tried == [1, 2, 4] and made.config.train.accumulate == 4 and not made.obstacles
    assert "did not fit" in said(made, "computed in")
    enough = 7
    assert "too small even to measure" in planned(None, {"train.steps": 500}).obstacles[0]
    tried.clear()
    assert planned(None, {"train.steps": 500, "train.accumulate": 1}).obstacles and tried == [1]


@pytest.mark.parametrize(("free", "count"), [(1, 1), (2, 1), (2, 4)])
def test_the_largest_batch_fits_into_the_free_memory(machine, monkeypatch, free, count):
    """And twice as many would not; of several processes on a CPU each has its share of both."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(count))
    load = machine["load"] = Load(1000, 1_000_000, 1)
    machine["free"] = free * 100_000_000 * count
    made = planned(None, {"train.steps": 500}, crew=Processes(0, count), largest=True)
    batch, room = made.config.train.batch, 0.75 * free * 100_000_000
    assert batch % count == 0 and made.config.train.accumulate == 1
    assert load.peak(made.config, batch // count) <= room < load.peak(made.config, 2 * batch // count)
    assert said(made, "batch").startswith(f"{batch}: the largest power of two within 75% of {free}00 MB free")


def test_the_largest_batch_is_no_larger_than_the_data_and_halved_where_it_proves_too_large(machine, monkeypatch):
    assert planned(None, {"train.steps": 500}, number=100, largest=True).config.train.batch == 64

    def measure(config, load, pictures, accelerator, steps, processes):
        if config.train.batch > 16:
            raise torch.OutOfMemoryError("out of memory")
        return Measured(0.5, 7)

    monkeypatch.setattr(spending, "measure", measure)
    made = planned(None, {"train.steps": 500}, number=100, largest=True)
    assert made.config.train.batch == 16 and made.config.train.accumulate == 1
    assert said(made, "batch") == "16: twice as many did not fit into the GPU's memory when tried"
    machine["free"] = None
    assert "usual batch is taken" in planned(None, {"train.steps": 3}, largest=True).warnings[0]


# -- disk and precision ----------------------------------------------------------------------------------------


def test_the_disk_holds_one_checkpoint_more_than_are_kept(machine):
    """A parameter takes 16 bytes in one: weight, average, two moments."""
    machine["load"] = Load(10_000_000, 1000, 1)
    two, five = (planned(None, {"train.steps": 3, "train.keep": keep}).expected.disk for keep in (2, 5))
    assert five - two == 3 * 160_000_000 and 480_000_000 < two < 520_000_000
    machine["disk"] = 480_000_000
    made = planned(None, {"train.steps": 3})
    assert made.obstacles[0].startswith("disk: the run takes about 49") and "--train.keep" in made.obstacles[0]
    machine["disk"] = None
    assert not planned(None, {"train.steps": 3}).obstacles


def test_precision_is_full_on_a_cpu_and_what_the_accelerator_has(machine):
    assert spending.precision(torch.device("cpu")) == spending.precision(torch.device("mps")) == "no"
    made = planned(None, {"train.steps": 3})
    assert made.config.train.precision == "no" and said(made, "precision").startswith("no: everything in 32 bits")
    choices = Choices(Config(), {"train.precision": "bf16"})
    spending._precision(choices, Accelerator(cpu=True))
    assert choices["train.precision"] == "bf16" and choices.decisions[0].why == "asked for"


@pytest.mark.parametrize("capability, precision", [((7, 5), "no"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_half_precision_where_a_gpu_has_it(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert spending.precision(torch.device("cuda")) == precision


def test_every_part_of_the_course_is_decided_with_a_reason(machine):
    made = planned(1000.0)
    names = {decision.what for decision in made.decisions}
    assert names >= {"computed in", "precision", "steps", "learning rate", "warm-up", "decay", "EMA"}
    assert names >= {"previews", "checkpoints", "log", "time", "memory", "disk"}
    assert all(decision.value and decision.why for decision in made.decisions)
