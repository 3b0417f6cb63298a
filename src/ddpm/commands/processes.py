"""What of several processes is seen: the main one prints, and the others do not."""

from __future__ import annotations

from rich.console import Console

from ddpm.commands.options import console
from ddpm.processes import Processes


def console_of(crew: Processes) -> Console:
    """Where this one prints: nowhere, unless it is the main one."""
    return console() if crew.main else Console(quiet=True)
