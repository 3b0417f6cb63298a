"""`ddpm report RUN`: report.html, once or for as long as a training goes on elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from ddpm.commands.options import console, read, unset
from ddpm.errors import UserError

if TYPE_CHECKING:
    from ddpm.data import Pictures
    from ddpm.store import Description, Run

_DESCRIPTION = (
    "Writes report.html into a run's folder: what it was trained on, how it went, what it draws, what to try "
    "next. One file, which needs no network. --follow shows a training that goes on in another terminal."
)
_POLL_SECONDS = 1.0
_WRITES_ITSELF = 30.0  # seconds after a preview in which the training may write the report itself
_QUIET_SECONDS = 300.0


@dataclass(frozen=True)
class Options:
    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """A run's folder, as runs/flowers."""
    follow: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show what the training says, and write the report at each preview or, of a classifier, checkpoint, until it
    is complete or Ctrl-C."""
    samples: Annotated[int, tyro.conf.arg(metavar="N")] = 40
    """Pictures drawn for it."""
    steps: Annotated[int, tyro.conf.arg(metavar="N")] = 20
    """Steps for each, by the sampler that the run takes unless asked otherwise."""
    device: Annotated[str | None, unset("DEVICE", "a GPU if there is one")] = None
    """cpu, cuda or mps."""


def main(arguments: Sequence[str]) -> int:
    options = read(Options, "report", arguments, _DESCRIPTION)
    for name, value in (("samples", options.samples), ("steps", options.steps)):
        if value < 1:
            raise UserError(f"--{name} {value}: is at least 1")
    from ddpm.memory import keep_freed_memory
    from ddpm.report import write
    from ddpm.store import Run

    keep_freed_memory()
    out = console()
    run = Run(options.run)
    pictures, why = open_pictures(run.description())
    if why:
        out.print(f"note: {why}")
    held_out = open_held_out(run.description())

    def report() -> Path:
        return write(
            run,
            pictures,
            device=options.device,
            why=why,
            samples=options.samples,
            steps=options.steps,
            held_out=held_out,
        )

    if options.follow:
        return _follow(run, report, out)
    out.print(f"open {report()}")
    return 0


def open_pictures(description: Description) -> tuple[Pictures | None, str]:
    """What the run was trained on, if it is still there and still the same; else why not."""
    from ddpm.commands.planning import decoded
    from ddpm.data import open_sources

    config, facts = description.config, description.facts
    if not config.data.path:
        return None, "the run does not say where its pictures are"
    try:
        source, _ = open_sources(config.data.path, config.data.labels, config.data.holdout)
        pictures = decoded(source, config, Console(quiet=True))
    except UserError as error:
        return None, f"the training pictures cannot be opened ({error})"
    if pictures.fingerprint != facts.fingerprint:
        return None, f"{' '.join(config.data.path)} no longer holds the pictures it was trained on"
    return pictures, ""


def open_held_out(description: Description) -> Pictures | None:
    """The pictures held out of the run's training, if they are there and still the same."""
    from ddpm.commands.planning import decoded
    from ddpm.data import open_sources

    config, facts = description.config, description.facts
    if config.train.task == "classifier" or not config.data.path or not config.data.holdout:
        return None
    try:
        _, source = open_sources(config.data.path, config.data.labels, config.data.holdout)
        pictures = None if source is None else decoded(source, config, Console(quiet=True))
    except UserError:
        return None
    return pictures if pictures is not None and pictures.fingerprint == facts.held_out else None


def _follow(run: Run, report: Callable[[], Path], out: Console) -> int:
    """Tells the training's news and keeps the report as new as its newest preview."""
    from ddpm.commands.watch import watch
    from ddpm.events import Logged, Stepped
    from ddpm.report import NAME, Follower

    follower, path = Follower(run), run.folder / NAME
    heard, told, written = time.monotonic(), False, False
    try:
        with watch(out) as show:
            while True:
                for event in follower.news():
                    heard, told = time.monotonic(), False
                    show(event)
                    if isinstance(event, Logged):
                        show(Stepped(event.step))
                patience = 0.0 if follower.complete else _WRITES_ITSELF
                if not written or _outdated(path, follower.newest_look(), patience):
                    report()
                    if not written:
                        often = "preview" if follower.draws else "checkpoint"
                        out.print(f"open {path}; it is written anew at each {often}")
                    written = True
                if follower.complete:
                    break
                if time.monotonic() - heard > _QUIET_SECONDS and not told:
                    told = True
                    out.print(
                        "nothing new for 5 minutes; if the training was stopped, go on with: "
                        f"ddpm train --resume --out {run.folder}"
                    )
                time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        out.print("no longer following; the training is left as it is")
        raise
    out.print(f"complete; open {path}")
    return 0


def _outdated(report: Path, look: Path | None, patience: float) -> bool:
    """Whether a look is newer than the report, and older than the training needs to write the report itself."""
    try:
        drawn = 0.0 if look is None else look.stat().st_mtime
        return drawn > report.stat().st_mtime and time.time() - drawn >= patience
    except OSError:  # a resumed training takes previews back, any removes old checkpoints
        return False
