"""`ddpm train DATA`: what will be trained, then the training, live."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from ddpm.commands.info import config_table, parameters
from ddpm.commands.options import parse_size, progress, read
from ddpm.commands.planning import (
    PlanOptions,
    accelerator_for,
    asked_for,
    data_of,
    decoded,
    make_accelerator,
    plan_for,
    show_plan,
    show_skipped,
)
from ddpm.commands.processes import console_of
from ddpm.config import Config
from ddpm.errors import UserError
from ddpm.presets import preset
from ddpm.units import counted

if TYPE_CHECKING:
    from torch import Tensor

    from ddpm.evaluate.scorer import Scorer
    from ddpm.processes import Processes
    from ddpm.report import Material
    from ddpm.store import Checkpoint, Description, Run
    from ddpm.trainer import Trainer

_DESCRIPTION = (
    "Trains a model on pictures. With nothing but DATA it picks size, net, batch and rate for the data and this "
    "machine and says what it picked. Ctrl-C saves and leaves; --resume goes on exactly there."
)


@dataclass(frozen=True)
class Options(PlanOptions):
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out, exactly where it was."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show what would be trained, and leave."""


def main(arguments: Sequence[str]) -> int:
    started = time.perf_counter()
    options = read(Options, "train", arguments, _DESCRIPTION)
    given = asked_for(options, arguments)
    from ddpm.processes import left_alone, processes

    crew = processes(options.device)
    try:
        if options.resume:
            status = _resume(options, given, crew)
        else:
            status = _begin(options, given, arguments, started, crew)
        crew.leave()
    except RuntimeError as error:
        if crew.count > 1 and left_alone(error):
            raise UserError(
                f"process {crew.index} of {crew.count} stops, as another one has ({_line(error)}); start them all "
                "again with --resume"
            ) from error
        raise
    return status


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _begin(
    options: Options, given: dict[str, Any], arguments: Sequence[str], started: float, crew: Processes
) -> int:
    """A new run."""
    out = console_of(crew)
    paths = data_of(options, given)
    if not paths:
        raise UserError("ddpm train DATA: give a folder or .zip of pictures, or the embedded set fashion")
    from ddpm.data import open_sources
    from ddpm.memory import keep_freed_memory
    from ddpm.store import Description, Run

    keep_freed_memory()
    usual = preset(options.preset).data.labels if options.preset else "auto"
    with crew.first():
        source, held = open_sources(paths, given.get("data.labels", usual), given.get("data.holdout", ""))
    run = Run(options.out or Path("runs") / source.name)
    if not options.dry_run:
        crew.told(run.check_free)
    for note in (*source.notes, *(held.notes if held else ())):
        out.print(note)
    accelerator = accelerator_for(options, given, run.folder)
    planned, pictures = plan_for(options, given, source, accelerator, out, started, crew)
    config = planned.config
    out.print(
        f"\n{len(pictures):,} pictures of {source.name}, {parameters(config, len(source.classes)):,} parameters"
    )
    show_plan(planned, out)
    if options.dry_run:
        out.print()
        out.print(config_table(config))
        return 0
    if planned.obstacles:
        raise UserError(planned.obstacles[0])
    from ddpm.train import facts
    from ddpm.trainer import Trainer

    held_out = None if held is None else decoded(held, config, out, crew)
    weights = _weights(config, pictures.classes, out) if config.train.init_from else None
    trainer = Trainer(config, pictures, accelerator, held_out, weights, crew)
    command = "ddpm train " + shlex.join(arguments)
    description = Description(config, facts(pictures, held_out), plan=planned.reasons, command=command)
    scorer = _scorer(trainer)
    with ExitStack() as stack:
        crew.told(partial(stack.enter_context, run.locked()))
        crew.told(partial(run.begin, description))
        return _follow(trainer, run, description, None, out, scorer)


def _weights(config: Config, classes: Sequence[str], out: Console) -> dict[str, Tensor]:
    """Those that fine-tuning starts from."""
    from ddpm.transfer import open_origin, starting_weights

    weights, notes = starting_weights(config, classes, open_origin(config.train.init_from))
    for line in notes:
        out.print(f"note: {line}")
    return weights


def _resume(options: Options, given: dict[str, Any], crew: Processes) -> int:
    """Goes on with a run from its newest whole checkpoint; its config is the one it has."""
    out = console_of(crew)
    from ddpm.data import open_sources
    from ddpm.memory import keep_freed_memory
    from ddpm.store import Run

    keep_freed_memory()
    if options.out is None and not options.data:
        raise UserError("ddpm train --resume: say which run, as --out runs/flowers")
    run = Run(options.out or Path("runs") / open_sources(options.data)[0].name)
    crew.told(partial(_check_there, run))
    with ExitStack() as stack:
        if not options.dry_run:
            crew.told(partial(stack.enter_context, run.locked()))
        return _go_on(options, given, run, crew, out)


def _check_there(run: Run) -> None:
    if not run.exists():
        raise UserError(f"{run.folder}: holds no run to go on with (there is no config.json in it)")


def _go_on(options: Options, given: dict[str, Any], run: Run, crew: Processes, out: Console) -> int:
    from ddpm.data import open_sources
    from ddpm.trainer import Trainer

    description = crew.told(run.description)  # which the main one alone need have on its disk
    config = description.config
    changed = [name for name in ("budget", "preset") if getattr(options, name) is not None]
    if (size := parse_size(options.size)) is not None:
        given["data.size"] = size
    changed += [name for name, value in given.items() if value != _field(config, name)]
    if changed:
        raise UserError(
            f"{run.folder}: --resume goes on with the run's own config, which --{changed[0]} would change; "
            "leave it out, or start another run"
        )
    checkpoint, damaged = crew.told(run.newest)
    for line in damaged:
        out.print(f"note: {line}; an older checkpoint is used")
    if checkpoint is None and damaged:
        raise UserError(f"{run.folder}: no checkpoint of this run is whole; start it anew with another --out")
    if checkpoint and checkpoint.step >= config.train.steps:
        _tell_best(run, out)
        out.print(f"{run.folder}: complete at step {checkpoint.step:,}; {_use(config, run)}")
        return 0
    if options.dry_run:
        out.print(f"{run.folder}: would go on after step {checkpoint.step if checkpoint else 0:,}")
        out.print(config_table(config))
        return 0
    before = checkpoint.state.get("processes", 1) if checkpoint else crew.count
    if before != crew.count:
        dropout = "; dropout, which every process draws for itself, differs" if config.net.dropout else ""
        out.print(
            f"note: {counted(before, 'process', 'processes')} trained this run until now, {crew.count} from here "
            f"on: pictures, levels and noise stay the same, sums are rounded otherwise{dropout}"
        )
    paths = options.data or config.data.path
    with crew.first():
        source, held = open_sources(paths, config.data.labels, config.data.holdout)
    pictures = decoded(source, config, out, crew)
    if pictures.fingerprint != description.facts.fingerprint:
        raise UserError(
            f"{' '.join(paths)}: not the pictures this run was started with; bring them back, or start another run"
        )
    held_out = None if held is None else decoded(held, config, out, crew)
    if held_out is not None and held_out.fingerprint != description.facts.held_out:
        raise UserError(
            f"--holdout {config.data.holdout}: not the pictures that were held out when this run was started; "
            "bring them back, or start another run"
        )
    accelerator = make_accelerator(options.device, config.train.precision, config.train.trackers, run.folder)
    fresh = checkpoint is None and config.train.init_from
    weights = _weights(config, pictures.classes, out) if fresh else None
    trainer = Trainer(config, pictures, accelerator, held_out, weights, crew)
    return _follow(trainer, run, description, checkpoint, out, _scorer(trainer))


def _field(config: Config, name: str) -> Any:
    section, _, item = name.partition(".")
    return getattr(getattr(config, section), item)


class _Signals:
    """Inside `with`, Ctrl-C, SIGTERM or a closed terminal stop training after its step, a second one at once."""

    def __enter__(self) -> _Signals:
        self.received = 0
        numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
        self._before = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number
        print("\nsaving and leaving; once more to leave at once", file=sys.stderr, flush=True)


def _follow(
    trainer: Trainer,
    run: Run,
    description: Description,
    checkpoint: Checkpoint | None,
    out: Console,
    scorer: Scorer | None,
) -> int:
    """Trains, and shows it."""
    from ddpm.commands.track import Tracked
    from ddpm.commands.watch import watch
    from ddpm.events import Ended, Previewed, Saved
    from ddpm.report import publish_stopped
    from ddpm.train import fit

    complete, told, made, crew = False, set(trainer.pictures.skipped), None, trainer.crew
    draws = trainer.config.train.task != "classifier"
    trackers = trainer.config.train.trackers if crew.main else ()
    track = Tracked(
        trainer.accelerator, run, trainer.config, trackers, checkpoint.step if checkpoint else 0, out.print
    )
    with _Signals() as signals, watch(out) as show:
        for event in fit(trainer, run, description, checkpoint, lambda: bool(signals.received), scorer):
            show(event)
            track(event)
            if crew.main and not trainer.shards and isinstance(event, Previewed if draws else Saved):
                made = _report(trainer, run, replace(description, step=event.step), out) or made
            complete = isinstance(event, Ended) and event.complete
    status = 0 if complete else 128 + (signals.received or signal.SIGTERM)  # which another process was sent
    if not crew.main:
        return status
    # A stream finds out only when it gets there.
    late = [one for one in trainer.pictures.skipped if one not in told]
    show_skipped(late, "pictures could not be read; the next ones stood in", out)
    if not complete:
        if made is not None:
            publish_stopped(made)
        out.print(f"stopped; go on with: ddpm train --resume --out {shlex.quote(str(run.folder))}")
        return status
    if draws and not trainer.config.train.preview_every and not trainer.shards:
        _report(trainer, run, replace(description, step=trainer.config.train.steps), out)
    _tell_best(run, out)
    # Sharded weights are no net that a report could draw from while the others train on.
    look = (
        f"ddpm report {shlex.quote(str(run.folder))}"
        if trainer.shards
        else f"look at {run.folder / 'report.html'}"
    )
    out.print(f"done; {look}, {_use(trainer.config, run)}")
    return 0


def _scorer(trainer: Trainer) -> Scorer | None:
    """What scores the training, ready; UserError where there is no such feature net, before a run is made."""
    from ddpm.evaluate.scorer import scorer_of

    scorer = scorer_of(trainer.config.train, trainer.pictures, trainer.accelerator.device)
    if scorer is not None and trainer.crew.main:
        with progress("features of the pictures") as advance:
            scorer.prepare(advance)
    return scorer


def _tell_best(run: Run, out: Console) -> None:
    """Says which checkpoint drew what is nearest to the pictures, where that is not the last."""
    newest, _ = run.newest()
    best = newest.state.get("best") if newest else None
    if best and newest and best["step"] < newest.step:
        path = shlex.quote(str(run.checkpoint(int(best["step"]))))
        out.print(f"nearest to the pictures: step {best['step']:,}, at {best['fid']:.4g}; ddpm sample {path}")


def _use(config: Config, run: Run) -> str:
    """What to do with a trained model."""
    name = shlex.quote(str(run.folder))
    if config.train.task == "classifier":
        return f"guide a model of these classes with: ddpm sample MODEL --classifier {name}"
    if config.train.task == "upsampler":
        return f"enlarge pictures with: ddpm sample {name} --low DATA, or ddpm sample BASE --upsample {name}"
    return f"draw pictures with: ddpm sample {name}"


def _report(trainer: Trainer, run: Run, description: Description, out: Console) -> Material | None:
    """Refreshes report.html with the weights at hand; what it was made from."""
    from ddpm.report import GLANCE_SAMPLES, GLANCE_STEPS, SAMPLES, STEPS, gather, publish

    draws = description.config.train.task != "classifier"
    averaged = trainer.pipelines(description, run.folder.name)[0] if draws else None
    complete = description.step >= trainer.config.train.steps
    state: Literal["running", "complete"] = "complete" if complete else "running"
    samples, steps = (SAMPLES, STEPS) if complete else (GLANCE_SAMPLES, GLANCE_STEPS)
    try:
        made = gather(
            run,
            trainer.pictures,
            averaged,
            state=state,
            samples=samples,
            steps=steps,
            held_out=trainer.held_out,
            thorough=complete,
        )
        publish(made)
        return made
    except Exception as error:  # nothing that goes wrong in a report is worth a training's night
        out.print(f"note: report.html could not be written ({type(error).__name__}: {error})")
        return None
