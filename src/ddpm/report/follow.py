"""A training that goes on elsewhere, told from what appears in its folder; nothing there is touched."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, final

from ddpm.events import Began, Ended, Evaluated, Logged, Previewed, Saved, Scored, TrainEvent
from ddpm.report.shown import number
from ddpm.store import Run

_TOLD_AT_FIRST = 3  # lines of the log from before it was followed
_LAST_PREVIEW = 60.0  # seconds after the last checkpoint until its preview is no longer waited for


@final
class Follower:
    """Asked again and again for its news, it tells them as the training itself would, until it is complete."""

    def __init__(self, run: Run):
        """UserError if there is no run."""
        self.run, self.train = run, run.description().config.train
        self.draws = self.train.task != "classifier" and self.train.preview_every > 0
        self.complete = False
        self._size, self._step, self._best = -1, 0, math.inf
        self._saved, self._previewed = self._numbers("checkpoints"), self._numbers("samples")
        self._began = False

    def news(self) -> list[TrainEvent]:
        """What happened since it was last asked; the first time, where the training is."""
        events = self._logged()
        if not self._began:
            self._began = True
            first: list[TrainEvent] = [Began(self._step, self.train.steps, 0, "")]
            events = first + events[-_TOLD_AT_FIRST:]
        saved, previewed = self._numbers("checkpoints"), self._numbers("samples")
        events += [Saved(step, path) for step, path in saved.items() if step not in self._saved]
        events += [Previewed(step, path) for step, path in previewed.items() if step not in self._previewed]
        self._saved, self._previewed = saved, previewed
        last = self.train.steps
        if last in saved and (not self.draws or last in previewed or _age(saved[last]) > _LAST_PREVIEW):
            self.complete = True
            events.append(Ended(last, complete=True))
        return events

    def newest_look(self) -> Path | None:
        """The newest preview there is, or, of a training that draws none, the newest checkpoint."""
        looks = self._previewed if self.draws else self._saved
        return looks[max(looks)] if looks else None

    def _logged(self) -> list[TrainEvent]:
        path = self.run.folder / "log.jsonl"
        size = path.stat().st_size if path.exists() else -1
        if size == self._size:
            return []
        records = [r for r in self.run.records() if isinstance(r.get("step"), int)]
        if size < self._size:  # resumed from an earlier checkpoint, which took lines back
            self._step = records[-1]["step"] if records else 0
        self._size = size
        before = [fid for r in records if r["step"] <= self._step and (fid := _fid(r)) is not None]
        self._best = min(before, default=math.inf)
        new = [event for r in records if r["step"] > self._step and (event := self._event(r)) is not None]
        self._step = max([self._step, *(r["step"] for r in records)])
        return new

    def _event(self, record: dict[str, Any]) -> TrainEvent | None:
        """A line of the log as the event it was; None if it lacks what an event has."""
        step = record["step"]
        if (evaluated := _evaluated(record)) is not None:
            return evaluated
        if (fid := _fid(record)) is not None:
            best, self._best = fid < self._best, min(fid, self._best)
            return Scored(step, fid, int(record.get("samples", 0)), str(record.get("features", "")), best)
        keys = ("loss", "lr", "gradient", "pictures_per_second")
        values = [number(record.get(key)) for key in keys]
        loss, rate, gradient, speed = values
        mse, accuracy = number(record.get("mse")), number(record.get("accuracy"))
        if loss is None or rate is None or gradient is None or not speed:
            return None
        if mse is None and accuracy is None:
            return None
        left = (self.train.steps - step) * self.train.batch / speed
        return Logged(
            step,
            loss,
            mse,
            _quarters(record, "quarters" if accuracy is None else "accuracy_quarters"),
            rate,
            gradient,
            speed,
            number(record.get("seconds")) or 0.0,
            left,
            number(record.get("vlb")),
            accuracy,
        )

    def _numbers(self, name: str) -> dict[int, Path]:
        """The checkpoints or previews there are, by step."""
        folder = self.run.folder / name
        found = list(folder.iterdir()) if folder.is_dir() else []
        return {int(path.stem): path for path in sorted(found) if path.stem.isdecimal()}


def _evaluated(record: dict[str, Any]) -> Evaluated | None:
    """A look at held-out pictures, if the line is one."""
    for keys in (("held_out", "trained_on"), ("held_out_accuracy", "trained_on_accuracy")):
        held_out, trained_on = (number(record.get(key)) for key in keys)
        if held_out is not None and trained_on is not None:
            quarters = (_quarters(record, f"{name}_quarters") for name in ("held_out", "trained_on"))
            return Evaluated(record["step"], held_out, trained_on, *quarters)
    return None


def _fid(record: dict[str, Any]) -> float | None:
    """The score of some samples, if the line is one."""
    return number(record.get("fid"))


def _quarters(record: dict[str, Any], key: str) -> tuple[float | None, ...]:
    values = record.get(key)
    return tuple(number(one) for one in values) if isinstance(values, list) else ()


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
