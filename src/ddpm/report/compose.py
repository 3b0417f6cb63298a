"""Lays a run's material out as one page, and writes it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import torch

from ddpm.atomic import write_bytes
from ddpm.data import Pictures
from ddpm.draw import page
from ddpm.errors import UserError
from ddpm.pipeline import Pipeline
from ddpm.report import checks, classes, enlarging, parts
from ddpm.report.material import SAMPLES, STEPS, UNOPENED, Material, State, gather
from ddpm.report.nearest import LOOKED
from ddpm.store import Run
from ddpm.version import __version__

NAME = "report.html"
GLANCE_SAMPLES, GLANCE_STEPS = 20, 15  # while training, where every second is the training's


def write(
    run: Run,
    pictures: Pictures | None,
    *,
    pipeline: Pipeline | None = None,
    device: str | torch.device | None = None,
    why: str = UNOPENED,
    state: State | None = None,
    samples: int = SAMPLES,
    steps: int = STEPS,
    looked: int = LOOKED,
    held_out: Pictures | None = None,
    thorough: bool = True,
) -> Path:
    """Writes the run's report.html, whole or not at all, and returns its path.

    It draws about `samples` pictures in `steps` steps, by the sampler that the run takes unless asked otherwise,
    passes one picture at twelve levels through the net, and compares the samples with at most `looked` training
    pictures: less than the cost of a preview. Of a classifier nothing is asked but its log.

    Args:
        pictures: what the run is trained on, or None; `why` they are not there is then said in the report.
        held_out: pictures that it never trained on, to compare with, or of an upsampler to show in place of those.
        thorough: looks for trouble at more samples, and by what costs more passes: up to a minute (see `trouble`).
        pipeline: the averaged net; by default the newest checkpoint's, on `device`.
        state: by default complete after the last step, else stopped when the log has been quiet for a while.

    UserError if there is no run. A run that someone else is training is only read.
    """
    return publish(gather(run, pictures, pipeline, device, why, state, samples, steps, looked, held_out, thorough))


def publish(made: Material) -> Path:
    """Writes the page of what was gathered, whole or not at all, and returns its path."""
    path = made.run.folder / NAME
    try:
        write_bytes(path, lay_out(made).encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); check the folder's permissions") from None
    return path


def publish_stopped(made: Material) -> Path:
    """The same page once more when a training was told to stop: with its whole log, and no longer as running."""
    records = made.run.records()
    step = max([made.step, *(r["step"] for r in records if isinstance(r.get("step"), int))])
    return publish(replace(made, records=records, step=step, state="stopped"))


def lay_out(made: Material) -> str:
    """The page."""
    facts, train = made.description.facts, made.description.config.train
    now = datetime.now().astimezone().strftime("%d %B %Y, %H:%M").lstrip("0")
    name = made.run.folder.resolve().name
    classifies, enlarges = train.task == "classifier", train.task == "upsampler"
    what = {"classifier": "A classifier of noisy pictures", "upsampler": "An upsampler"}.get(train.task)
    what = what or "A diffusion model"
    head = page.heading(name, made.state, f"{what} of {facts.name or 'pictures'} · written {now}")
    head += page.bar(made.step, train.steps, f"step {made.step:,} of {train.steps:,}")
    head += page.numbers(parts.numbers(made))
    drawn = [
        ("Previews", "How its pictures changed", parts.previews(made)),
        ("Step by step", "How a picture is denoised", parts.denoising(made)),
    ]
    if enlarges:
        drawn.append(("Samples", "What it makes of small pictures", enlarging.samples(made)))
    else:
        drawn.append(("Samples", "What it draws", parts.samples(made)))
        drawn.append(("Nearest", "Has it learnt pictures by heart?", checks.nearest(made)))
        drawn.append(("Trouble", "Is something off?", checks.trouble(made)))
    told = [("By noise", "What it knows at each level of noise", classes.by_quarter(made))]
    sections = [
        ("Data", "What it was trained on", parts.data(made)),
        ("Model", "How it was made", parts.model(made)),
        ("Curves", "How the training went", (classes.curves if classifies else parts.curves)(made)),
        *(told if classifies else drawn),
        ("Speed", "Speed", parts.speed(made)),
        ("Next", "What to try next", parts.next(made)),
    ]
    foot = f"Written by ddpm {__version__}. This page is one file: it can be sent or kept as it is."
    return page.document(f"{name}: ddpm report", head, sections, foot)
