"""`ddpm check DATA|RUN`: what would be trained on, and how, or what became of it; before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ddpm.commands.options import console, read, unset
from ddpm.commands.planning import PlanOptions, asked_for, data_of
from ddpm.errors import UserError

_DESCRIPTION = (
    "Looks at every picture of DATA: counts, sizes, kinds, classes, copies, what cannot be read. With an option "
    "of ddpm train, as --budget 20m, also what the training would be and take. For a RUN: whether its checkpoints "
    "are whole and its data the same, how it goes, what to change. Exit status 2 if it cannot be trained so, or "
    "the run cannot be used."
)


@dataclass(frozen=True)
class Options(PlanOptions):
    out: Annotated[Path | None, unset("DIR", "check/NAME-OF-THE-DATA")] = None
    """Where the contact sheet and the record of everything found go."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Look at 2,000 pictures only, spread evenly."""


def main(arguments: Sequence[str]) -> int:
    options = read(Options, "check", arguments, _DESCRIPTION)
    given = asked_for(options, arguments)
    paths = data_of(options, given)
    if not paths:
        raise UserError("ddpm check DATA|RUN: give a folder or archive of pictures, or a run's folder")
    from ddpm.memory import keep_freed_memory
    from ddpm.store import Run

    keep_freed_memory()
    run = Run(paths[0])
    if len(paths) == 1 and run.exists():
        from ddpm.commands.check_run import check_run

        if given or any((options.budget, options.preset, options.device, options.out, options.quick)):
            raise UserError(f"ddpm check {paths[0]}: a run has its config already; leave the options out")
        return check_run(run, console())
    from ddpm.commands.check_data import check_data

    return check_data(options, given, paths, console(), options.quick)
