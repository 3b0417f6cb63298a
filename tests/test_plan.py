"""What is decided when nobody asked: it fits the data and the time, and what was asked for is never touched."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

import tiny
from ddpm import plan
from ddpm.config import Config, check
from ddpm.data import load, open_source
from ddpm.errors import UserError
from ddpm.plan import duration, fixed_steps, for_data, parse_duration, within
from ddpm.train import Trainer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path):
    return load(open_source(tiny.photos(tmp_path / "photos", 12, grey=True)), (8, 8), 1)


def planned(folder, device=CPU, size=None, seconds=300.0):
    return for_data(open_source(folder), device, str(folder), size, seconds)


def trains_a_step(folder, config):
    """The config, with a narrower net of the same levels: a step of it ends with weights that are numbers."""
    config = check(config.with_(net__channels=8, net__groups=4, net__blocks=1, train__steps=1))
    source = open_source(folder)
    trainer = Trainer(config, load(source, config.data.size, config.data.channels), Accelerator(cpu=True))
    terms, _ = trainer.step(0)
    assert torch.isfinite(terms.loss).all() and all(torch.isfinite(p).all() for p in trainer.parameters)


# -- for_data --------------------------------------------------------------------------------------------------


SIZES = [(28, 28), (32, 12), (4, 20), (30, 20), (20, 30), (27, 27), (25, 40), (33, 33), (64, 9), (10, 6), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("device", ["cpu", "mps", "cuda"])
@pytest.mark.parametrize("seconds", [60.0, 36000.0])
def test_every_size_the_plan_picks_can_be_trained(tmp_path, size, device, seconds):
    folder = tiny.photos(tmp_path / "p", 4, size)
    config = planned(folder, torch.device(device), seconds=seconds).config
    if max(size) <= 32 and size[0] % 4 == size[1] % 4 == 0:
        assert config.data.size == size
    trains_a_step(folder, config)


@pytest.mark.parametrize(
    "sizes, device, hours, side",
    [
        ([(40, 50), (60, 40), (40, 40), (33, 90)], "cpu", 0.1, 32),
        ([(20, 50), (60, 21), (17, 40)], "cpu", 0.1, 16),
        ([(300, 400)] * 3, "cpu", 0.1, 32),
        ([(300, 400)] * 3, "cpu", 8, 64),
        ([(300, 400)] * 3, "cuda", 0.1, 64),
        ([(500, 400), (300, 400), (70, 70)], "cuda", 8, 64),
        ([(8, 9), (9, 8), (7, 7)], "cpu", 8, 16),
    ],
)
def test_mixed_and_large_pictures_are_brought_to_a_square(tmp_path, sizes, device, hours, side):
    (tmp_path / "p").mkdir()
    for i, (high, wide) in enumerate(sizes):
        Image.fromarray(np.full((high, wide, 3), 9 * i, np.uint8)).save(tmp_path / "p" / f"{i}.png")
    made = planned(tmp_path / "p", torch.device(device), seconds=3600.0 * hours)
    assert made.config.data.size == (side, side)
    assert any(reason.startswith(f"size {side} x {side}: ") for reason in made.reasons)


@pytest.mark.parametrize("grey", [True, False])
def test_grey_pictures_stay_grey_and_are_not_mirrored(tmp_path, grey):
    made = planned(tiny.photos(tmp_path / "p", 4, grey=grey))
    assert made.config.data.channels == (1 if grey else 3) and made.config.data.flip is not grey
    assert any("grey" in reason for reason in made.reasons) is grey
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "p/cats/colour.png")
    assert planned(tmp_path / "p").config.data.channels == 3


def test_no_more_pictures_a_step_than_there_are(tmp_path):
    assert planned(tiny.photos(tmp_path / "few", 5)).config.train.batch == 5
    assert planned(tiny.photos(tmp_path / "many", 40)).config.train.batch == 32
    assert planned(tmp_path / "few").config.data.path == (str(tmp_path / "few"),)


@pytest.mark.parametrize("size", [(64, 96), (20, 20), (36, 36), (50, 30), (7, 7), (24, 25)])
def test_a_size_asked_for_is_kept_and_works_or_is_refused_clearly(tmp_path, size):
    folder = tiny.photos(tmp_path / "p", 4)
    config = planned(folder, size=size).config
    assert config.data.size == size
    try:
        trains_a_step(folder, config)
    except UserError as error:
        assert "must be multiples of" in str(error) and "the nearest are" in str(error)
        assert size not in [(64, 96), (20, 20), (36, 36)], "this can be halved"


def test_pictures_that_cannot_be_read_at_all(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"none of the 1 pictures .* a\.png"):
        planned(tmp_path / "p")


def test_more_time_a_wider_net(tmp_path):
    folder = tiny.photos(tmp_path / "p", 4)
    short, long = (planned(folder, seconds=s).config.net.channels for s in (60.0, 8 * 3600.0))
    assert short < long


# -- fixed_steps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 9, 10, 19, 499, 100_000])
def test_the_rest_follows_from_the_steps(steps):
    made = fixed_steps(Config().with_(train__steps=steps), ())
    config = check(made.config)
    train, optimizer = config.train, config.optimizer
    assert train.steps == steps and 1 <= optimizer.warmup <= max(1, steps // 20) and 0.9 <= optimizer.ema < 1.0
    for every in (train.checkpoint_every, train.preview_every, train.log_every):
        assert 1 <= every <= steps
    # The last step always makes one; more than ten or eleven would take time and say nothing new.
    assert 1 <= -(-steps // train.preview_every) <= 11 and -(-steps // train.checkpoint_every) <= 11
    assert len(made.reasons) >= 4
    assert any(f"every {train.checkpoint_every} steps" in reason for reason in made.reasons)


ASKED = {
    "optimizer.warmup": 77,
    "optimizer.ema": 0.123,
    "train.checkpoint_every": 13,
    "train.preview_every": 0,
    "train.log_every": 3,
}


@pytest.mark.parametrize("name", ASKED)
def test_what_was_asked_for_stays(name):
    section, item = name.split(".")
    config = Config().with_(train__steps=1000, **{f"{section}__{item}": ASKED[name]})
    made = fixed_steps(config, [name]).config
    assert getattr(getattr(made, section), item) == ASKED[name]
    for other in set(ASKED) - {name}:
        section, item = other.split(".")
        assert getattr(getattr(made, section), item) != getattr(getattr(Config(), section), item), other


# -- within ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.01, 0.5])
@pytest.mark.parametrize("asked", [[], list(ASKED)])
def test_the_steps_and_previews_fill_the_time(pictures, monkeypatch, step, asked):
    monkeypatch.setattr(plan, "measure", lambda trainer: step)
    config = tiny.config(**{name.replace(".", "__"): ASKED[name] for name in asked})
    made = within(config, pictures, Accelerator(cpu=True), 1000.0, asked)
    train = check(made.config).train
    assert 700 < step * train.steps <= 950
    assert f"{train.steps} steps" in made.reasons[0]
    for name in asked:
        section, item = name.split(".")
        assert getattr(getattr(made.config, section), item) == ASKED[name]
    # nothing of the rest of the config changes
    assert made.config.net == config.net and made.config.data == config.data and train.batch == config.train.batch


def test_previews_take_a_tenth_of_the_time_at_the_most(pictures, monkeypatch):
    monkeypatch.setattr(plan, "measure", lambda trainer: 1.0)
    monkeypatch.setattr(plan, "_preview_seconds", lambda trainer, step: 40.0)
    train = within(tiny.config(), pictures, Accelerator(cpu=True), 1000.0, ()).config.train
    previews = -(-train.steps // train.preview_every)  # the last step always makes one
    assert previews == 2 and train.steps + 40 * previews <= 950 and train.steps > 800


@pytest.mark.parametrize("seconds", [0.001, 2.0, -5.0])
def test_too_little_time_is_refused(pictures, monkeypatch, seconds):
    monkeypatch.setattr(plan, "measure", lambda trainer: 0.25)
    with pytest.raises(UserError, match=r"--budget: leaves time for [0-7] steps of 0\.25 s each; give more time"):
        within(tiny.config(), pictures, Accelerator(cpu=True), seconds, ())


def test_measuring_takes_the_median_of_real_steps(pictures, monkeypatch):
    trainer = Trainer(tiny.config(), pictures, Accelerator(cpu=True))
    clock = [0.0]
    numbers, step = [], trainer.step

    def slow(k):
        numbers.append(k)
        # the first two are slow, and one later on is
        clock[0] += {0: 50.0, 1: 50.0, 4: 9.0}.get(k, 0.5)
        return step(k)

    monkeypatch.setattr(trainer, "step", slow)
    monkeypatch.setattr(plan.time, "perf_counter", lambda: clock[0])
    assert plan.measure(trainer, 1.0) == 0.5
    assert numbers == [0, 1, 2, 3, 4]


# -- times -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, seconds",
    [("90s", 90), ("20m", 1200), ("20", 1200), ("1.5", 90), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400)],
)
def test_times_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5m", "soon", "5 minutes", "1h30", "1..5h", "5w", "1e3", "nan", "inf"])
def test_what_is_no_time(text):
    with pytest.raises(UserError) as error:
        parse_duration(text)
    assert str(error.value).startswith(f"--budget {text}: takes a time such as 20m")


@pytest.mark.parametrize(
    "seconds, text",
    [
        (-1.0, "0 s"),
        (45.2, "45 s"),
        (180.0, "3 min"),
        (7500.0, "2 h 5 min"),
        (7200.0, "2 h"),
        (3 * 86400 + 4 * 3600.0, "3 d 4 h"),
    ],
)
def test_times_are_written(seconds, text):
    assert duration(seconds) == text
