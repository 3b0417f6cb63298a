"""What of several processes is seen: the main one prints, and the others do not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from ddpm.commands.options import console
from ddpm.errors import UserError
from ddpm.processes import Processes, left_alone, processes


def console_of(crew: Processes) -> Console:
    """Where this one prints: nowhere, unless it is the main one."""
    return console() if crew.main else Console(quiet=True)


@contextmanager
def together(device: str | None) -> Iterator[Processes]:
    """Those that were started together, each on a device of its own; one that is left alone says so in a line."""
    crew = processes(device)
    try:
        yield crew
    except RuntimeError as error:
        if crew.count == 1 or not left_alone(error):
            raise
        raise UserError(
            f"process {crew.index} of {crew.count} stops, as another one has; start them all again"
        ) from error


def noting(crew: Processes, out: Console) -> Callable[[str], None]:
    """What prints a note; of another process than the main one among the errors, with its number."""

    def note(text: str) -> None:
        if crew.main:
            out.print(f"note: {text}")
        else:
            print(f"note: process {crew.index} of {crew.count}: {text}", file=sys.stderr, flush=True)

    return note
