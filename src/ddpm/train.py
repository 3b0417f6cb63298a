"""Training as a stream of events: `fit` runs a Trainer to its last step and keeps the run's folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from ddpm.data import Pictures
from ddpm.errors import UserError
from ddpm.evaluate.scorer import Scorer, scorer_of
from ddpm.events import Began, Ended, Evaluated, Logged, Saved, Scored, Stepped, TrainEvent
from ddpm.preview import preview
from ddpm.store import Checkpoint, Description, Facts, Run
from ddpm.trainer import QUARTERS, Trainer, learning_rate


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

    `stop` is asked after every step; once it says so, a checkpoint is written and training ends.
    """
    config = trainer.config
    train, steps = config.train, config.train.steps
    classifies = train.task == "classifier"
    start = 0
    if checkpoint:
        start = checkpoint.step
        trainer.restore(checkpoint)
    run.rewind(start)
    yield Began(start, steps, sum(p.numel() for p in trainer.parameters), str(trainer.accelerator.device))

    # What the next line of the log will be the mean of; part of a checkpoint, so that resuming keeps the log.
    device = trainer.accelerator.device
    sums, levels = torch.zeros(3 + QUARTERS + 1, device=device), torch.zeros(QUARTERS, dtype=torch.float64)
    since, before = start, 0.0
    best: dict[str, float] | None = None  # the step of the least score so far, and that
    if checkpoint:
        window = checkpoint.state["window"]
        since, levels = window["since"], levels.new_tensor(window["levels"])
        sums[: len(window["sums"])] = sums.new_tensor(window["sums"])
        before = float(checkpoint.state["seconds"])
        best = checkpoint.state.get("best")
        if best and not run.checkpoint(int(best["step"])).is_dir():  # somebody has removed it
            best = None
    began = time.perf_counter() - before

    def check_finite(step: int) -> None:
        if not sums[:3].isfinite().all():
            raise _diverged(step)

    def save(step: int) -> Saved:
        window = {"since": since, "sums": sums.tolist(), "levels": levels.tolist()}
        seconds = time.perf_counter() - began
        state = {"images": step * train.batch, "seconds": seconds, "window": window, **trainer.state()}
        state |= {"best": best} if best else {}
        kept = int(best["step"]) if best else None
        return Saved(step, run.save(replace(description, step=step), trainer.tensors(), state, train.keep, kept))

    scorer = scorer or scorer_of(train, trainer.pictures, trainer.accelerator.device)
    clock, clocked = time.perf_counter(), start
    saved = start if checkpoint else -1
    step, stopped = start, start < steps and stop()
    while step < steps and not stopped:
        terms, gradient, t, weight = trainer.step(step)
        step += 1
        if trainer.accelerator.scaler is not None:  # it skips a gradient that overflows in half precision
            gradient = torch.where(gradient.isfinite(), gradient, 0.0)
        # Weighted, they are means over levels drawn evenly, whatever drew them. What goes to the device is not
        # waited for: the next batch is made while a GPU still works on this one.
        even = weight.to(device, non_blocking=True)
        loss, error = (even * terms.loss).mean(), (even * terms.error).mean()
        sums[:3] += torch.stack([loss, error, gradient.to(device)])
        if terms.vlb is not None:
            sums[-1] += (even * terms.vlb).mean()
        quarter = (t - 1) * QUARTERS // trainer.model.chain.T
        sums[3:-1].index_add_(0, quarter.to(device, non_blocking=True), even * terms.error)
        levels += torch.bincount(quarter, weights=weight.double(), minlength=QUARTERS)
        stopped = stop()
        yield Stepped(step)
        if step % train.log_every == 0 or step == steps:
            check_finite(step)
            loss, error, norm, *errors, vlb = sums.tolist()
            error /= step - since
            quarters = tuple(one / n if n else None for one, n in zip(errors, levels.tolist(), strict=True))
            if classifies:
                quarters = tuple(None if one is None else 1.0 - one for one in quarters)
            now = time.perf_counter()
            speed = (step - clocked) * train.batch / (now - clock)
            logged = Logged(
                step,
                loss / (step - since),
                None if classifies else error,
                quarters,
                learning_rate(config.optimizer, step - 1, steps),
                norm / (step - since),
                speed,
                now - began,
                (steps - step) * train.batch / speed,
                vlb / (step - since) if terms.vlb is not None else None,
                1.0 - error if classifies else None,
            )
            run.log(_record(logged, train.batch))
            yield logged
            sums.zero_()
            levels.zero_()
            since = clocked = step
            clock = time.perf_counter()
        paused = time.perf_counter()
        due = step % train.checkpoint_every == 0 or step == steps
        look = step % (train.preview_every or train.checkpoint_every) == 0 or step == steps
        score = scorer is not None and (step % train.evaluate_every == 0 or step == steps)
        if due or look or score:
            check_finite(step)
        # Looks come before the checkpoint: who is killed in between goes on from before both, and looks again.
        if scorer is not None and score:
            value = scorer.score(trainer.pipelines(replace(description, step=step), run.folder.name)[0])
            leads = best is None or value < best["fid"]
            if leads:
                best = {"step": step, "fid": value}
            scored = Scored(step, value, scorer.n, scorer.net.name, leads)
            run.log(_score(scored))
            yield scored
            due = due or leads
        if look:
            if (apart := trainer.evaluate()) is not None:
                evaluated = Evaluated(step, *apart)
                run.log(_apart(evaluated))
                yield evaluated
            if train.preview_every and not classifies:
                pipelines = trainer.pipelines(replace(description, step=step), run.folder.name)
                yield preview(*pipelines, run, trainer.pairs())
        if due:
            yield save(step)
            saved = step
        clock += time.perf_counter() - paused
    if step != saved:
        check_finite(step)
        yield save(step)
    yield Ended(step, complete=step == steps)


def _diverged(step: int) -> UserError:
    return UserError(
        f"step {step}: the loss is no longer a number, and nothing was saved since it was; start another run with "
        "a lower --lr, or with --train.precision no"
    )


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
