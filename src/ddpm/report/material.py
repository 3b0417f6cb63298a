"""All that a report is made from: the run, its log, and what its model and data were asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ddpm.data import Pictures, pairs
from ddpm.data.stream import Streamed
from ddpm.draw.charts import Series
from ddpm.errors import UserError
from ddpm.loading import load
from ddpm.pipeline import Pipeline
from ddpm.report import looks
from ddpm.report.nearest import LOOKED
from ddpm.report.shown import number
from ddpm.report.trouble import Checks, check
from ddpm.store import Description, Run

State = Literal["running", "complete", "stopped"]
SAMPLES, STEPS = 40, 20  # pictures drawn to be shown, and the steps for each
UNOPENED = "the training pictures were not opened"
_TRIPLES = 24  # rows of what an upsampler made of a small picture, at the most
_STREAMED = 2_000  # pictures compared with samples where each has to be decoded for it
_TRIES, _PAUSE = 5, 0.5
_QUIET_SECONDS = 60.0


@dataclass(frozen=True)
class Material:
    """What is not there is None, and `without` says why, by "pictures" and "pipeline"."""

    run: Run
    description: Description
    records: Sequence[dict[str, Any]]
    state: State
    step: int
    pictures: Pictures | None
    pipeline: Pipeline | None
    without: dict[str, str]
    drawn: looks.Drawn | None
    denoising: looks.Denoising | None
    checks: Checks | None
    enlarged: looks.Enlarged | None = None

    def series(self, name: str, value: str | Callable[[dict[str, Any]], Any]) -> Series:
        """A value of the log's lines over their steps, by key or by a function of a line."""
        kept = [r for r in self.records if number(r.get("step")) is not None]
        values = [r.get(value) if isinstance(value, str) else value(r) for r in kept]
        return Series(name, tuple(float(r["step"]) for r in kept), tuple(number(one) for one in values))

    def last(self, key: str) -> float | None:
        """The last value of a key."""
        points = self.series(key, key).points()
        return points[-1][1] if points else None

    def lately(self, key: str) -> float | None:
        """The mean of a key over the last tenth of the lines that have it: for what jumps from line to line."""
        values = [y for _, y in self.series(key, key).points()]
        late = values[-max(1, len(values) // 10) :]
        return sum(late) / len(late) if late else None

    def speeds(self) -> list[float]:
        """Pictures a second, line by line."""
        return [y for _, y in self.series("speed", "pictures_per_second").points() if y > 0]

    def seconds(self) -> float | None:
        """Spent in training steps, whatever stood between them: from each line's pictures and speed."""
        total, before = 0.0, 0.0
        for record in self.records:
            images, speed = number(record.get("images")), number(record.get("pictures_per_second"))
            if images is not None and speed:
                total, before = total + (images - before) / speed, images
        return total or None


def gather(
    run: Run,
    pictures: Pictures | None,
    pipeline: Pipeline | None = None,
    device: str | torch.device | None = None,
    why: str = UNOPENED,
    state: State | None = None,
    samples: int = SAMPLES,
    steps: int = STEPS,
    looked: int = LOOKED,
    held_out: Pictures | None = None,
    thorough: bool = True,
) -> Material:
    """Reads the run, and asks its newest averaged net; the arguments are those of `ddpm.report.write`."""
    description = run.description()
    without = {} if pictures is not None else {"pictures": why}
    saved = 0
    if description.config.train.task == "classifier":
        checkpoint, _ = run.newest()
        without["pipeline"], saved = "a classifier draws no pictures", checkpoint.step if checkpoint else 0
    elif pipeline is None:
        pipeline, without["pipeline"] = newest(run, device)
    records = run.records()
    logged = [r["step"] for r in records if isinstance(r.get("step"), int)]
    step = max([*logged, pipeline.description.step if pipeline else saved])
    drawn = denoising = checks = enlarged = None
    if description.config.train.task == "upsampler":
        shown = pictures if held_out is None else held_out
        if pipeline is not None and shown is not None:
            small = description.config.data.small
            given = pairs(shown, min(samples, _TRIPLES), small)
            enlarged = looks.enlarge(pipeline, given, steps, shown is held_out)
            x0 = torch.from_numpy(given.whole[len(given.whole) // 2]).float() / 127.5 - 1.0
            label = None if enlarged.samples.labels is None else enlarged.samples.labels[len(given.whole) // 2]
            denoising = looks.denoise(pipeline.denoiser, x0, label, small=small)
    elif pipeline is not None:
        drawn = looks.draw(pipeline, samples, steps)
        denoising = looks.denoise(pipeline.denoiser, *_example(drawn, pictures, pipeline))
        if pictures is not None:
            most = min(looked, _STREAMED) if isinstance(pictures, Streamed) else looked
            checks = check(pipeline, description.config, pictures, held_out, drawn, steps, most, thorough)
    state = state or state_of(run, description, records, step)
    found = (drawn, denoising, checks, enlarged)
    return Material(run, description, records, state, step, pictures, pipeline, without, *found)


def newest(run: Run, device: str | torch.device | None) -> tuple[Pipeline | None, str]:
    """The newest checkpoint's averaged net, or why there is none.

    A training that goes on meanwhile removes old checkpoints: one that vanishes while it is read is no reason to
    give up.
    """
    reason = ""
    for _ in range(_TRIES):
        try:
            if run.newest() == (None, []):
                return None, "there is no checkpoint yet"
            return load(run.folder, device), ""
        except UserError as error:
            if "--device" in str(error):
                raise
            reason = str(error)
        except OSError as error:
            reason = str(error)
        time.sleep(_PAUSE)
    return None, reason


def _example(drawn: looks.Drawn, pictures: Pictures | None, pipeline: Pipeline) -> tuple[torch.Tensor, int | None]:
    """The picture whose denoising is shown, in [-1, 1], and its class: a real one, else the first sample."""
    if pictures is not None:
        x, labels = pictures.batch(torch.tensor([len(pictures) // 2]))
        return x[0], None if labels is None or not pipeline.classes else int(labels[0])
    x0 = torch.from_numpy(drawn.samples.pixels[0]).float() / 127.5 - 1.0
    return x0, None if drawn.samples.labels is None else drawn.samples.labels[0]


def state_of(run: Run, description: Description, records: Sequence[dict[str, Any]], step: int) -> State:
    """Running as long as something was logged or saved within five times what a line of the log takes."""
    train = description.config.train
    if step >= train.steps:
        return "complete"
    speeds = [v for r in records if (v := number(r.get("pictures_per_second")))]
    between = train.log_every * train.batch / speeds[-1] if speeds else 0.0
    # Not the folder itself: a report changes it.
    paths = [run.folder / name for name in ("config.json", "log.jsonl", "checkpoints", "samples")]
    touched = max((p.stat().st_mtime for p in paths if p.exists()), default=0.0)
    return "running" if time.time() - touched < max(_QUIET_SECONDS, 5 * between) else "stopped"
