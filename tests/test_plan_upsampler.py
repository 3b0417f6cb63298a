"""What the plan decides for an upsampler: its small pictures, which the run then says."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import tiny
from ddpm.checking import check
from ddpm.commands.planning import PlanOptions, plan_for
from ddpm.config import Config
from ddpm.data import load, open_source
from ddpm.errors import UserError
from ddpm.plan import choose_small, for_data, plan
from ddpm.plan.decisions import Choices
from ddpm.plan.machine import Measured
from ddpm.plan.spending import GLANCE_SAMPLES, GLANCE_STEPS, _look_seconds
from ddpm.presets import PRESETS
from ddpm.preview import PREVIEW_STEPS
from ddpm.transfer import open_origin, settings

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))


def chosen(folder, **asked):
    named = {"train.task": "upsampler", **{name.replace("__", "."): value for name, value in asked.items()}}
    return for_data(open_source(folder), CPU, named, 300.0)


def said(choices, what):
    found = [decision for decision in choices.decisions if decision.what == what]
    assert len(found) == 1, what
    return f"{found[0].value}: {found[0].why}"


@pytest.mark.parametrize(
    "size, small",
    [((32, 32), (8, 8)), ((28, 28), (7, 7)), ((30, 20), (7, 5)), ((6, 4), (1, 1)), ((4, 64), (1, 16))],
)
def test_a_quarter_of_the_size(tmp_path, size, small):
    choices = chosen(tiny.photos(tmp_path / "p", 4), data__size=size)
    assert choices.config.data.low_size == choices.config.data.small == small and check(choices.config)
    assert said(choices, "task") == "upsampler: asked for"
    line = f"{small[0]} x {small[1]}: a quarter of the size; --data.low-size asks for another"
    assert said(choices, "small pictures") == line


def test_what_is_asked_for_is_left(tmp_path):
    """And is compared with the size only once that is known."""
    folder = tiny.photos(tmp_path / "p", 4, (64, 64))
    choices = chosen(folder, data__low_size=(32, 16), data__size=(64, 64))
    assert choices.config.data.low_size == (32, 16) and said(choices, "small pictures") == "32 x 16: asked for"
    assert chosen(folder, data__low_size=(31, 3)).config.data.low_size == (31, 3)
    large = for_data(
        open_source(folder), torch.device("cuda"), {"train.task": "upsampler", "data.low_size": (40, 40)}, 1e5
    )
    assert large.config.data.size == (64, 64) and check(large.config).data.low_size == (40, 40)


def test_other_tasks_have_none(tmp_path):
    choices = for_data(open_source(tiny.photos(tmp_path / "p", 4)), CPU, {}, 300.0)
    assert choices.config.data.low_size == (0, 0)
    assert not [one for one in choices.decisions if one.what == "small pictures"]


@pytest.mark.parametrize(
    "low, size, shown",
    [
        ((8, 8), (8, 8), "8 8"),
        ((8, 4), (8, 8), "8 4"),
        ((4, 9), (8, 8), "4 9"),
        ((0, 4), (8, 8), "0 4"),
        ((-1, 4), (8, 8), "-1 4"),
        ((0, 0), (3, 8), "0 2"),
    ],
)
def test_small_pictures_are_smaller_both_ways(low, size, shown):
    config = Config().with_(data__low_size=low, data__size=size, train__task="upsampler")
    rule = f"^--data.low-size {shown}: is at least 1 1, and less than the size, {size[0]} {size[1]}, in both"
    with pytest.raises(UserError, match=rule):
        check(config)


@pytest.mark.parametrize("task", ["image", "classifier"])
def test_only_upsamplers_have_small_pictures(task):
    config = Config().with_(data__low_size=(4, 4), train__task=task)
    with pytest.raises(UserError, match=r"^--data.low-size 4 4: is of upsamplers; add --task upsampler"):
        check(config)


@pytest.mark.parametrize("name", [name for name in PRESETS if "upsampler" in name])
def test_a_presets_are_its_own(name):
    choices = Choices(PRESETS[name](), {})
    choose_small(choices)
    published = PRESETS[name]().data.low_size
    assert choices.config.data.low_size == published and all(published)
    assert said(choices, "small pictures") == f"{published[0]} x {published[1]}: the preset's"


def test_a_preset_of_another_task_gets_a_quarter(tmp_path, capsys):
    from rich.console import Console

    folder = tiny.photos(tmp_path / "p", 4)
    asked = {
        "train.task": "upsampler",
        "data.size": (16, 16),
        "train.batch": 2,
        "train.steps": 1,
        "net.channels": 32,
    }
    options = PlanOptions(data=(str(folder),), preset="cifar10", out=tmp_path / "run")
    planned, _ = plan_for(options, asked, open_source(folder), Accelerator(cpu=True), Console(quiet=True), 0.0)
    assert planned.config.data.low_size == (4, 4) and planned.config.train.task == "upsampler"


def test_previews_cost_what_they_enlarge(tmp_path):
    folder = tiny.photos(tmp_path / "p", 4)
    choices = chosen(folder, data__size=(8, 8), train__batch=30)
    passes = 2 * PREVIEW_STEPS * 12 + GLANCE_STEPS * GLANCE_SAMPLES
    assert _look_seconds(choices, 1000, Measured(0.9, None)) == pytest.approx(1.0 + passes * 0.3 / 30)


def test_a_whole_plan(tmp_path):
    """A net that is told the small picture is counted and measured with it."""
    folder = tiny.photos(tmp_path / "p", 8)
    choices = chosen(folder, data__size=(8, 8), train__steps=60, train__label_drop=0.2, net__channels=8)
    pictures = load(open_source(folder), (8, 8), 3)
    planned = plan(choices, pictures, Accelerator(cpu=True), tmp_path / "run", None)
    lines = "\n".join(planned.reasons)
    assert planned.config.data.low_size == (2, 2) and "small pictures 2 x 2: a quarter" in lines
    assert "labels left out of 20 %" in lines and not planned.obstacles
    assert np.isfinite(planned.expected.seconds)


def test_fine_tuning_keeps_the_small_size_with_the_size(tmp_path):
    run = tiny.run(tmp_path / "up", train__task="upsampler", data__low_size=(4, 2))
    origin = open_origin(str(run.folder))
    for asked in ({}, {"data.size": (8, 8)}):
        made, _ = settings(origin, asked)
        assert (made["train.task"], made["data.size"], made["data.low_size"]) == ("upsampler", (8, 8), (4, 2))
    assert settings(origin, {"data.low_size": (2, 2)})[0]["data.low_size"] == (2, 2)
    assert "data.low_size" not in settings(origin, {"data.size": (16, 16)})[0]
    plain = open_origin(str(tiny.run(tmp_path / "plain").folder))
    with pytest.raises(UserError, match=r"--task upsampler: .* was trained with --task image"):
        settings(plain, {"train.task": "upsampler"})
