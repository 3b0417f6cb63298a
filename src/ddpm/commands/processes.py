"""Several processes at one command, as torchrun or accelerate start them: who this one is, and waiting for all.

torchrun --nproc-per-node 4 -m ddpm.cli evaluate MODEL --reference DATA --metrics fid -n 50000
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console

from ddpm.commands.options import console

if TYPE_CHECKING:
    from accelerate import PartialState

_PATIENCE = timedelta(days=7)  # others may wait for one that decodes a large set; a dead one ends them all anyway


@dataclass(frozen=True)
class Processes:
    """This one of `count`, numbered from 0. device: what --device is for it, None to choose."""

    index: int = 0
    count: int = 1
    device: str | None = None
    state: PartialState | None = None

    @property
    def main(self) -> bool:
        """Whether this is the one that prints, and does what is done once."""
        return self.index == 0

    def wait(self) -> None:
        """Until all have come here."""
        if self.state is not None:
            self.state.wait_for_everyone()

    @contextmanager
    def first(self) -> Iterator[None]:
        """The main one goes through before the others begin: what it finds wrong is said once."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()

    def console(self) -> Console:
        """Where the main one prints, and the others do not."""
        return console() if self.main else Console(quiet=True)

    def leave(self) -> None:
        """To be called when the others are not needed any more."""
        if self.state is not None:
            self.state.destroy_process_group()


def processes(device: str | None) -> Processes:
    """Those that were started together; device: the one asked for, of which each gets one of its own."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes(device=device)
    import torch
    from accelerate import PartialState

    # accelerate joins processes on a CPU only if it is told that they are there
    cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=cpu, timeout=_PATIENCE)
    own = str(state.device) if device in (None, state.device.type) else device
    return Processes(state.process_index, state.num_processes, own, state)
