"""What a training says while it goes on: a line an event, and a bar that fits a narrow terminal."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ddpm.commands.watch import brief, describe, watch
from ddpm.events import Began, Ended, Evaluated, Logged, Previewed, Saved, Stepped


def logged(step):
    return Logged(step, 0.1234, 0.2, (0.1, None, 0.3, 0.25), 1e-3, 0.5, 1234.5, 60.0, 90.0)


def test_lines():
    told = io.StringIO()
    console = Console(file=told, width=200, soft_wrap=True)
    with watch(console) as show:
        show(Began(0, 100, 5, "cpu"))
        show(Stepped(1))
        show(logged(50))
        show(Evaluated(50, 0.25, 0.2))
        show(Previewed(50, Path("p.png")))
        show(Saved(50, Path("c")))
        show(Ended(100, True))
    assert told.getvalue().splitlines() == [
        "training on cpu: 100 steps",
        "step 50/100  loss 0.1234  by t 0.100 - 0.300 0.250  gradient 0.50  1,234 pictures/s  90 s left",
        "held-out pictures: error 0.2500, as many trained on: 0.2000",
        "preview p.png",
        "saved c",
    ]


def test_the_bar_moves_with_every_step_and_fits_eighty_columns():
    told = io.StringIO()
    console = Console(file=told, width=80, force_terminal=True, highlight=False)
    with watch(console) as show:
        show(Began(0, 36_800, 5, "cpu"))
        for step in range(12_001, 12_004):
            show(Stepped(step))
        assert show.bar.tasks[0].completed == 12_003 and show.bar.tasks[0].total == 36_800
        show(logged(12_300))
    line = brief(logged(12_300), 36_800)
    assert line == "12,300/36,800  loss 0.1234  1,234/s  90 s left" and line in told.getvalue()


@pytest.mark.parametrize(
    "loss, vlb, said",
    [(4.25, 4.25, "4.250 bits/dim"), (0.1234, 4.256, "loss 0.1234"), (0.1234, None, "loss 0.1234")],
    ids=["vlb", "hybrid", "simple"],
)
def test_the_bound_is_said_where_it_is_known(loss, vlb, said):
    event = replace(logged(12_300), loss=loss, vlb=vlb)
    assert brief(event, 36_800) == f"12,300/36,800  {said}  1,234/s  90 s left"
    assert describe(event, 36_800).startswith(f"step 12,300/36,800  {said}  by t ")
    told = io.StringIO()
    with watch(Console(file=told, width=80, force_terminal=True, highlight=False)) as show:
        show(Began(0, 36_800, 5, "cpu"))
        show(event)
    bars = [line for line in told.getvalue().splitlines() if brief(event, 36_800) in line]
    assert bars and all("\N{BOX DRAWINGS HEAVY HORIZONTAL}" in line for line in bars)


def test_a_classifier_is_told_by_how_often_it_is_right():
    event = replace(logged(50), mse=None, accuracy=0.625)
    assert brief(event, 100) == "50/100  loss 0.1234  accuracy 62.5%  1,234/s  90 s left"
    assert describe(event, 100).startswith(
        "step 50/100  loss 0.1234  accuracy 62.5%  by t 10.0% - 30.0% 25.0%  gradient 0.50"
    )
    looked = Evaluated(50, 0.5, 0.625, (0.75, 0.5, 0.5, 0.25), (0.75, None, 0.5, 0.5))
    assert describe(looked, 100) == (
        "held-out pictures: accuracy 50.0%, by t 75.0% 50.0% 50.0% 25.0%; as many trained on: 62.5%, "
        "by t 75.0% - 50.0% 50.0%"
    )


def test_the_live_view_keeps_a_tenth_of_the_log():
    told = io.StringIO()
    with watch(Console(file=told, width=120, force_terminal=True, highlight=False)) as show:
        show(Began(0, 100, 5, "cpu"))
        for step in range(1, 101):
            show(logged(step))
    lines = {describe(logged(step), 100) for step in range(10, 101, 10)}
    assert all(line in told.getvalue() for line in lines) and describe(logged(11), 100) not in told.getvalue()
