"""Training as a stream of events: `fit` runs a Trainer to its last step and keeps the run's folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ddpm.data import Pictures
from ddpm.errors import UserError
from ddpm.evaluate.scorer import Scorer, scorer_of
from ddpm.events import (
    Began,
    Ended,
    Evaluated,
    Logged,
    Noted,
    Scored,
    Stepped,
    TrainEvent,
    Unsaved,
    WentBack,
)
from ddpm.heldout import held_out_error
from ddpm.preview import preview
from ddpm.saving import Saving
from ddpm.store import Checkpoint, Description, Facts, Run
from ddpm.trainer import Trainer, learning_rate
from ddpm.window import Window


def facts(pictures: Pictures, held_out: Pictures | None = None) -> Facts:
    """What the run keeps of its data."""
    frequencies = pictures.frequencies()
    return Facts(
        pictures.name,
        len(pictures),
        pictures.classes,
        () if frequencies is None else tuple(float(f) for f in frequencies),
        pictures.fingerprint,
        len(pictures.skipped),
        "" if held_out is None else held_out.fingerprint,
    )


def fit(
    trainer: Trainer,
    run: Run,
    description: Description,
    checkpoint: Checkpoint | None = None,
    stop: Callable[[], bool] = lambda: False,
    scorer: Scorer | None = None,
) -> Iterator[TrainEvent]:
    """Trains to the config's last step, from a checkpoint if one is given, writing into the run's folder.

    `stop` is asked at every step; once it says so, a checkpoint is written and training ends. Several processes
    all run this, with the same checkpoint, whose files only the main one reads; the main one writes. UserError
    where another training writes into the folder, the numbers stay wrong, or the last checkpoint could not be
    written.
    """
    crew = trainer.crew
    with run.locked() if crew.main else nullcontext():
        saving = Saving(run)
        try:
            yield from _fit(trainer, run, description, checkpoint, stop, scorer, saving)
        finally:
            saving.close()


def _fit(
    trainer: Trainer,
    run: Run,
    description: Description,
    checkpoint: Checkpoint | None,
    stop: Callable[[], bool],
    scorer: Scorer | None,
    saving: Saving,
) -> Iterator[TrainEvent]:
    config, crew = trainer.config, trainer.crew
    train, steps = config.train, config.train.steps
    classifies = train.task == "classifier"
    log = run.log if crew.main else lambda record: None
    window = Window(trainer.accelerator.device, trainer.model.chain.T, train.batch, crew)
    best: dict[str, float] | None = None  # the step of the least score so far, and that

    def go_from(start: Checkpoint | None) -> tuple[int, float]:
        """Everything as it was at a checkpoint; its step, and the seconds spent until it."""
        nonlocal best
        trainer.restore(start)
        step = start.step if start else 0
        if crew.main:
            run.rewind(step)
        rate = crew.told(lambda: _rate(run, step))
        trainer.guard.rate = trainer.guard.rate if rate is None else rate
        window.restore(step, start.state["window"] if start else None)
        best = start.state.get("best") if start else None
        if best and not crew.told(lambda: run.checkpoint(int(best["step"])).is_dir() if best else False):
            best = None  # somebody has removed it
        return step, float(start.state["seconds"]) if start else 0.0

    def save(step: int) -> Iterator[TrainEvent]:
        yield from saving.done(wait=True)
        state = {"images": step * train.batch, "seconds": time.perf_counter() - began, "window": window.state()}
        state |= trainer.state() | ({"best": best} if best else {})
        tensors, kept = trainer.tensors(), int(best["step"]) if best else None
        if crew.main:
            run.catch_up()  # what is saved stands in the log
            one = replace(description, step=step)
            saving.start(one, tensors, state, keep=train.keep, best=kept, every=train.keep_every)

    if checkpoint is not None or crew.told(lambda: next(run.each_record(), None) is not None):
        start, before = go_from(checkpoint)
    else:
        start, before = 0, 0.0
        if crew.main:
            run.rewind(0)
    yield Began(start, steps, sum(p.numel() for p in trainer.parameters), str(trainer.accelerator.device))
    began = time.perf_counter() - before
    scorer = scorer or scorer_of(train, trainer.pictures, trainer.accelerator.device)
    clock, clocked = time.perf_counter(), start
    saved = start if checkpoint else -1
    step, stopped = start, start < steps and crew.any(stop())
    lags = (
        trainer.accelerator.device.type == "cuda"
    )  # it is asked for the step before, so that nothing waits for it
    wanted = torch.zeros(())
    while step < steps and not stopped:
        parts = trainer.parts
        result = trainer.step(step, crew.count > 1 and stop())
        step += 1
        window.take(result)
        if crew.count == 1:
            stopped = stop()
        else:  # all of them after the same step
            stopped, wanted = bool(wanted if lags else result.stop), result.stop
        yield Stepped(step)
        yield from saving.done()
        if trainer.parts != parts:
            text = f"step {step:,}: out of memory; its pictures are computed in {trainer.parts} parts from here on"
            yield Noted(step, text)
        due = step % train.checkpoint_every == 0 or step == steps or stopped
        look = step % (train.preview_every or train.checkpoint_every) == 0 or step == steps
        score = scorer is not None and (step % train.evaluate_every == 0 or step == steps)
        over = trainer.guard.over(step)
        if over or ((due or look or score) and not trainer.sound()):
            yield from saving.done(wait=True)
            went = step
            last = _last(trainer, run, step, over)
            step, before = go_from(last)
            trainer.guard.rate *= LOWER
            log({"step": step, "went_back_from": went, "rate": trainer.guard.rate})
            yield WentBack(went, step, trainer.guard.rate)
            began, clock, clocked, saved = time.perf_counter() - before, time.perf_counter(), step, step
            continue
        if due and step < steps and not stopped and trainer.guard.row:
            due = False  # weights that gave no number are not worth a checkpoint until they do
        if (step % train.log_every == 0 or step == steps) and (means := window.read()) is not None:
            now = time.perf_counter()
            speed = (step - clocked) * train.batch / (now - clock)
            accuracies = tuple(None if one is None else 1.0 - one for one in means.quarters)
            logged = Logged(
                step,
                means.loss,
                None if classifies else means.error,
                accuracies if classifies else means.quarters,
                trainer.guard.rate * learning_rate(config.optimizer, step - 1, steps),
                means.gradient,
                speed,
                now - began,
                (steps - step) * train.batch / speed,
                means.vlb if result.terms.vlb is not None else None,
                1.0 - means.error if classifies else None,
                means.highest,
                trainer.guard.skipped,
            )
            log(_record(logged, train.batch))
            yield logged
            window.clear(step)
            clock, clocked = time.perf_counter(), step
        paused = time.perf_counter()
        # Looks come before the checkpoint: who is killed in between goes on from before both, and looks again.
        if score or (look and train.preview_every and not classifies):
            pipelines = trainer.pipelines(replace(description, step=step), run.folder.name)
        if scorer is not None and score:
            value = crew.told(partial(scorer.score, pipelines[0]))
            leads = best is None or value < best["fid"]
            if leads:
                best = {"step": step, "fid": value}
            scored = Scored(step, value, scorer.n, scorer.net.name, leads)
            log(_score(scored))
            yield scored
            due = due or leads
        if look:
            if (apart := held_out_error(trainer)) is not None:
                evaluated = Evaluated(step, *apart)
                log(_apart(evaluated))
                yield evaluated
            if train.preview_every and not classifies and crew.main:
                try:
                    yield preview(*pipelines, run, trainer.pairs())
                except OSError as error:
                    yield Noted(
                        step, f"the preview of step {step:,} could not be written: {error.strerror or error}"
                    )
        if due:
            yield from save(step)
            saved = step
        clock += time.perf_counter() - paused
    if step != saved:
        yield from save(step)
    yield from saving.done(wait=True)
    if crew.any(saving.failed is not None):
        yield from save(step)  # somebody may have made room
        yield from saving.done(wait=True)
    crew.told(partial(_check_written, run, saving.failed))
    yield Ended(step, complete=step == steps)


def _check_written(run: Run, failed: Unsaved | None) -> None:
    """UserError if the last checkpoint could not be written."""
    if failed is not None:
        raise UserError(
            f"{run.folder}: the checkpoint of step {failed.step:,} could not be written ({failed.reason}); make "
            f"room and go on from the last whole one with: ddpm train --resume --out {run.folder}"
        )


LOWER = 0.5
"""What the learning rate is multiplied by when training goes back."""


def _rate(run: Run, step: int) -> float | None:
    """What the rate was multiplied by when training went back to this step; None if it never did.

    It stands in the log, as the checkpoint of that step is older.
    """
    rates = [float(one["rate"]) for one in run.each_record() if "went_back_from" in one and one["step"] == step]
    return rates[-1] if rates else None


def _last(trainer: Trainer, run: Run, step: int, over: bool) -> Checkpoint | None:
    """Where training goes back to, the first time that its numbers went wrong; UserError the second time."""
    crew, train = trainer.crew, trainer.config.train
    what = f"{train.bad_steps} steps in a row gave no number" if over else "weights are no longer numbers"
    checkpoint = crew.told(lambda: run.newest()[0])
    if trainer.guard.rate != 1.0:
        half = "" if train.precision == "no" else ", or with --train.precision no"
        place = f"{checkpoint.folder} is the last good checkpoint" if checkpoint else "there is no checkpoint yet"
        raise UserError(
            f"step {step:,}: {what}, although training went back once and on at {trainer.guard.rate:g} of the "
            f"rate; {place}; start another run with a lower --lr{half}"
        )
    return checkpoint


def _record(logged: Logged, batch: int) -> dict[str, Any]:
    """A line of log.jsonl; a classifier's has `accuracy` in place of `mse`."""
    quarters = list(logged.quarters)
    if logged.accuracy is None:
        how = {"mse": logged.mse, "quarters": quarters}
    else:
        how = {"accuracy": logged.accuracy, "accuracy_quarters": quarters}
    return {
        "step": logged.step,
        "images": logged.step * batch,
        "loss": logged.loss,
        **how,
        **({} if logged.vlb is None else {"vlb": logged.vlb}),
        **({} if logged.highest is None else {"highest": logged.highest}),
        **({"skipped": logged.skipped} if logged.skipped else {}),
        "lr": logged.lr,
        "gradient": logged.gradient,
        "pictures_per_second": round(logged.pictures_per_second, 2),
        "seconds": round(logged.seconds, 1),
    }


def _score(scored: Scored) -> dict[str, Any]:
    """The line of a score of samples."""
    return {"step": scored.step, "fid": scored.fid, "samples": scored.n, "features": scored.features}


def _apart(evaluated: Evaluated) -> dict[str, Any]:
    """The line of a look at held-out pictures."""
    if not evaluated.held_out_quarters:
        return {"step": evaluated.step, "held_out": evaluated.held_out, "trained_on": evaluated.trained_on}
    return {
        "step": evaluated.step,
        "held_out_accuracy": evaluated.held_out,
        "held_out_quarters": list(evaluated.held_out_quarters),
        "trained_on_accuracy": evaluated.trained_on,
        "trained_on_quarters": list(evaluated.trained_on_quarters),
    }
