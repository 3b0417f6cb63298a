"""From the choices and the decoded pictures to the whole plan: what fits into memory, time and disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator

from ddpm.checking import check
from ddpm.data import Pictures
from ddpm.data.pictures import Cached
from ddpm.errors import UserError
from ddpm.heldout import HELD_OUT
from ddpm.method import DEFAULT, USUAL
from ddpm.plan.course import PREVIEWS, choose_rate, events, follow_steps, horizons
from ddpm.plan.decisions import Choices, Decision, Expected, Planned
from ddpm.plan.machine import (
    SAVED_BYTES,
    STATE_BYTES,
    Load,
    Measured,
    count,
    free_disk,
    free_memory,
    measure,
    taken_memory,
)
from ddpm.preview import PREVIEW_STEPS, preview_count, preview_layout
from ddpm.processes import ALONE, Processes
from ddpm.report.compose import GLANCE_SAMPLES, GLANCE_STEPS
from ddpm.report.looks import MOST_CLASSES
from ddpm.trainer import QUARTERS, check_share
from ddpm.units import amount, counted, duration

DEFAULT_BUDGET = 3600.0
_RESERVE = 0.95  # of the budget: the machine may be slower later than while it was measured
_MEMORY_SHARE = 0.75  # of the memory that is free, at the most
_WRITTEN = 2e8  # bytes of a checkpoint written a second, checksums and all: assumed
_PAGE_SECONDS = 1.0  # of laying out a report, and looking for the nearest pictures
_WORTH_MEASURING = 50  # steps; fewer are over sooner than they are measured
_PREVIEW_BYTES, _REPORT_BYTES, _LINE_BYTES = 1_500_000, 10_000_000, 400  # at the most, or about


def plan(
    choices: Choices,
    pictures: Pictures,
    accelerator: Accelerator,
    folder: Path,
    seconds: float | None,
    published: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    crew: Processes = ALONE,
    largest: bool = False,
) -> Planned:
    """The whole plan for a training into `folder`, its steps filling so many seconds unless they are given (None).

    published: the course is a paper's; tell is called before what takes some seconds. crew: the processes that
    will train together, which all plan. largest: the batch is the largest that fits into memory at once.
    UserError if the budget is too short for ten steps.
    """
    began = time.perf_counter()
    classes = len(pictures.classes)
    load = count(choices.config, classes)
    if largest:
        _largest(choices, load, len(pictures), accelerator.device, crew)
    if not published:
        choices.pick("train.batch", min(choices["train.batch"], len(pictures)))
        choose_rate(choices, accelerator.device)
    _precision(choices, accelerator)
    _accumulation(choices, load, accelerator.device, crew)
    check(choices.config)
    measured = None
    if seconds is not None or choices["train.steps"] >= _WORTH_MEASURING:
        tell("measuring the speed of this machine ...")
        most = None if seconds is not None else choices["train.steps"]
        measured = _measure(choices, load, pictures, accelerator, most, crew, largest)
    saving = SAVED_BYTES * load.parameters / _WRITTEN
    glance = _look_seconds(choices, classes, measured)
    if not choices["train.preview_every"] and choices["train.task"] == "classifier":
        saving, glance = saving + glance, 0.0  # it looks when it saves
    step = measured.seconds if measured else None
    if seconds is not None and step is not None:
        left = seconds * _RESERVE - (time.perf_counter() - began)
        previews = _fill(choices, left, step, glance, saving)
        reason = f"at the {choices['train.batch'] / step:,.0f} pictures a second measured here they fill"
        choices.say("steps", f"{choices['train.steps']:,}", f"{reason} {duration(seconds)}")
        follow_steps(choices, step, saving, previews)
    elif seconds is not None:
        choices.decisions.append(Decision("steps", "unknown", "nothing can be measured where this will not work"))
    elif published:
        choices.say("steps", f"{choices['train.steps']:,}", "the paper's", "train.steps")
    else:
        choices.say("steps", f"{choices['train.steps']:,}", "", "train.steps")
        whole = choices["train.steps"] * step if step else 0.0
        follow_steps(choices, step, saving, _previews(whole, glance) if measured else 1)
    choices.say_the_rest()
    expected = _expect(choices, load, measured, glance, saving, pictures, accelerator.device, folder, crew)
    if not choices.obstacles:
        choices.warnings += horizons(choices.config, len(pictures))
    return Planned(
        check(choices.config),
        tuple(choices.decisions),
        expected,
        tuple(choices.warnings),
        tuple(choices.obstacles),
    )


def precision(device: torch.device) -> str:
    """The mixed precision the plan takes on a device: bf16 where a GPU has it, else none."""
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bf16" if fast else "no"


def _precision(choices: Choices, accelerator: Accelerator) -> None:
    """What the accelerator was made with; it decides, and the config tells."""
    value = choices.pick("train.precision", str(accelerator.mixed_precision))
    why = "weights, averages and sums stay in 32 bits" if value != "no" else "everything in 32 bits"
    if value == "no" and accelerator.device.type != "cuda":
        why += f": a {accelerator.device.type} is rarely faster with fewer"
    choices.say("precision", value, why, "train.precision")


def _accumulation(choices: Choices, load: Load, device: torch.device, crew: Processes) -> None:
    """As few parts as let a process's pictures of a batch fit into a share of the free memory."""
    check_share(choices["train.batch"], 1, crew.count)
    batch, free = -(-choices["train.batch"] // crew.count), _free(device, crew)
    config = choices.config
    if free is None:
        parts, why = 1, "how much memory is free cannot be told here"
    else:
        fixed, room = load.peak(config, 0), _MEMORY_SHARE * free
        each = max(1, load.peak(config, 1) - fixed)
        rows = max(1, min(batch, int((room - fixed) / each)))
        parts = -(-batch // rows)
        why = f"{rows} pictures at once take about {amount(load.peak(config, rows))} of {amount(free)} free"
        why += f"; {_MEMORY_SHARE:.0%} is the most" if parts > 1 else ""
    parts = choices.pick("train.accumulate", parts)
    rows = -(-batch // max(1, parts))
    choices.say("computed in", f"{parts} part{'s' * (parts > 1)}", why, "train.accumulate")
    if free is not None and load.peak(config, rows) > free:
        choices.obstacles.append(
            f"memory: {rows} pictures at once take about {amount(load.peak(config, rows))}, and {amount(free)} "
            "are free; take a smaller --size or --net.channels, --train.checkpoint-activations, or another machine"
        )


def _largest(choices: Choices, load: Load, pictures: int, device: torch.device, crew: Processes) -> None:
    """The largest power of two that fits into a share of the free memory, of all processes, in one part."""
    free = _free(device, crew)
    if free is None:
        choices.warnings.append(
            "--batch auto: how much memory is free cannot be told here; the usual batch is taken"
        )
        return
    batch = crew.count
    while 2 * batch <= pictures and load.peak(choices.config, 2 * batch // crew.count) <= _MEMORY_SHARE * free:
        batch *= 2
    before = [one for one in choices.decisions if one.what == "batch"]
    for one in before:
        choices.decisions.remove(one)
    choices.pick("train.batch", batch)
    limit = (
        "the pictures there are" if 2 * batch > pictures else f"{_MEMORY_SHARE:.0%} of {amount(free)} free memory"
    )
    choices.say("batch", str(batch), f"the largest power of two within {limit}", "train.batch")


def _free(device: torch.device, crew: Processes) -> int | None:
    """Bytes free to this process: those on a CPU share the machine's."""
    free = free_memory(device)
    return free if free is None or device.type != "cpu" else free // crew.of_machine


def _measure(
    choices: Choices,
    load: Load,
    pictures: Pictures,
    accelerator: Accelerator,
    steps: int | None,
    crew: Processes,
    largest: bool,
) -> Measured | None:
    """Measures; where a GPU's memory is too small after all, in more parts, or for the largest batch with half."""
    if choices.obstacles:
        return None
    while True:
        try:
            return measure(choices.config, load, pictures, accelerator, steps, crew.count)
        except torch.OutOfMemoryError:
            parts = choices["train.accumulate"]
            if "train.accumulate" in choices.asked or parts >= choices["train.batch"]:
                choices.obstacles.append("memory: the GPU's is too small even to measure a step; smaller --size")
                return None
        accelerator.free_memory()
        torch.cuda.empty_cache()
        if largest and choices["train.batch"] >= 2 * crew.count:
            half = choices.pick("train.batch", choices["train.batch"] // 2)
            choices.say("batch", str(half), "twice as many did not fit into the GPU's memory when tried")
            continue
        parts = choices.pick("train.accumulate", min(choices["train.batch"], 2 * parts))
        choices.say("computed in", f"{parts} parts", "fewer did not fit into the GPU's memory when tried")


def _look_seconds(choices: Choices, classes: int, measured: Measured | None) -> float:
    """A forward pass is about a third of a training step's work; two nets draw a preview, one the report.

    One more looks at held-out pictures, and at as many others; a classifier's does no more, but at every quarter.
    """
    reported = max(GLANCE_SAMPLES, min(classes, MOST_CLASSES))
    passes, looks = 2 * PREVIEW_STEPS * preview_layout(classes)[0] + GLANCE_STEPS * reported, 1
    if choices["train.task"] == "upsampler":
        passes = 2 * PREVIEW_STEPS * preview_count(choices["data.size"]) + GLANCE_STEPS * GLANCE_SAMPLES
    if choices["train.task"] == "classifier":
        passes, looks = 0, QUARTERS
    passes += 2 * looks * HELD_OUT if choices["data.holdout"] else 0
    return _PAGE_SECONDS + passes * measured.seconds / 3 / choices["train.batch"] if measured else 0.0


def _score_seconds(choices: Choices, step: float) -> float:
    """What drawing takes of a score, as in `_look_seconds`; the features besides are cheap."""
    steps = USUAL[DEFAULT][0] or 0
    return int(choices["train.evaluate_samples"]) * steps * step / 3 / int(choices["train.batch"])


def _previews(seconds: float, glance: float) -> int:
    """Ten at the most, and a tenth of the time at the most."""
    return min(PREVIEWS, int(0.1 * seconds / glance)) if glance > 0 else PREVIEWS


def _fill(choices: Choices, left: float, step: float, glance: float, saving: float) -> int:
    """Sets the steps that fill `left` seconds together with previews and checkpoints; returns the previews."""
    every = choices["train.preview_every"] if "train.preview_every" in choices.asked else None
    previews, each = 0, step
    if every is None:
        previews = max(1, _previews(left, glance))  # the last one is always drawn
    elif every:
        each += glance / every
    if scores := choices["train.evaluate_every"]:
        each += _score_seconds(choices, step) / scores
    if "train.checkpoint_every" in choices.asked:
        each += saving / choices["train.checkpoint_every"]
        saves = 1
    else:
        saves = max(1, min(max(10, int(left / 600)), int(left / 20 / saving))) if saving > 0 else 1
    steps = int((left - previews * glance - saves * saving) / each)
    if steps < 10:
        raise UserError(
            f"--budget: leaves time for {max(0, steps)} steps of {step:.2f} s each; give more time, or a smaller "
            "--size, --batch or --net.channels"
        )
    choices.pick("train.steps", steps)
    return previews


def _expect(
    choices: Choices,
    load: Load,
    measured: Measured | None,
    glance: float,
    saving: float,
    pictures: Pictures,
    device: torch.device,
    folder: Path,
    crew: Processes,
) -> Expected:
    """Time, memory and disk, a line each."""
    train = choices["train.steps"], choices["train.preview_every"], choices["train.checkpoint_every"]
    steps, previews, saves = train[0], events(train[0], train[1]), events(train[0], train[2])
    draws = choices["train.task"] != "classifier"
    look = "preview" if draws else "held-out look"
    seconds = None
    if measured:
        scores, score = events(steps, choices["train.evaluate_every"]), _score_seconds(choices, measured.seconds)
        seconds = steps * measured.seconds + previews * glance + saves * saving + scores * score
        each = f"{measured.seconds:.2g}" if measured.seconds < 99 else f"{measured.seconds:,.0f}"
        why = f"{steps:,} steps of {each} s measured here"
        why += _several(previews, look, glance) + _several(saves, "checkpoint", saving)
        why += _several(scores, "score", score)
        choices.decisions.append(Decision("time", duration(seconds), why))
    elif not choices.obstacles:
        why = f"fewer than {_WORTH_MEASURING} steps are over sooner than they are measured"
        choices.decisions.append(Decision("time", "not measured", why))
    rows = -(-choices["train.batch"] // choices["train.accumulate"] // crew.count)
    state = amount(STATE_BYTES * load.parameters)
    picture = load.peak(choices.config, 1) - load.peak(choices.config, 0)
    why = (
        f"{load.parameters:,} parameters with gradients, averages and Adam's moments take {state}, a picture at "
        f"work about {amount(picture)}, {rows} at once"
    )
    memory = measured.memory if measured else None
    how = "measured" if memory else "estimated"
    memory = memory or taken_memory(device) + load.peak(choices.config, rows)
    choices.decisions.append(Decision("memory", amount(memory), f"{how}; {why}"))
    disk = _disk(choices, load, previews if draws else 0, pictures, folder)
    return Expected(seconds, memory, disk)


def _several(number: int, what: str, seconds: float) -> str:
    each = f" of about {duration(seconds)}" if seconds >= 1 else ""
    return f", {counted(number, what)}{each}" if number else ""


def _disk(choices: Choices, load: Load, previews: int, pictures: Pictures, folder: Path) -> int:
    """Bytes the run has in its folder at the most: one checkpoint more than are kept, while it is written."""
    kept, one = choices["train.keep"] + 1, SAVED_BYTES * load.parameters
    if every := choices["train.keep_every"]:
        kept += choices["train.steps"] // every
    if choices["train.evaluate_every"]:
        kept += 1  # the best
    lines = choices["train.steps"] // choices["train.log_every"] * _LINE_BYTES
    disk = kept * one + previews * _PREVIEW_BYTES + _REPORT_BYTES + lines
    free = free_disk(folder)
    why = f"{kept} checkpoints of {amount(one)}{_several(previews, 'preview', 0.0)}, report, log"
    if free is not None:
        why += f"; {amount(free)} are free"
    if isinstance(pictures, Cached):
        why += f"; the decoded pictures are in the cache already, {amount(pictures.pixels.nbytes)}"
    choices.decisions.append(Decision("disk", amount(disk), why))
    if free is not None and disk > free:
        choices.obstacles.append(
            f"disk: the run takes about {amount(disk)}, and {amount(free)} are free at {folder}; take a smaller "
            "--train.keep, or another --out"
        )
    return int(disk)
