"""Checkpoints written beside the training: the tensors are copied at once, and written while it goes on.

A write that fails, as on a full disk, leaves what was there before, and the training goes on to the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from ddpm.events import Saved, Unsaved
from ddpm.store import Description, Run


@final
class Saving:
    """One checkpoint at a time; `close` waits for it."""

    def __init__(self, run: Run):
        self.run = run
        self.failed: Unsaved | None = None
        """The last one, if it could not be written."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: tuple[int, Future[Path]] | None = None

    def start(
        self,
        description: Description,
        parts: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        **rule: Any,
    ) -> None:
        """Copies, and begins to write; the one before must be done.

        rule: which older ones stay, as of `Run.save`.
        """
        assert self._under_way is None
        copies = {part: {key: _copy(value) for key, value in tensors.items()} for part, tensors in parts.items()}
        write: Callable[..., Path] = self.run.save
        future = self._pool.submit(write, description, copies, dict(state), **rule)
        self._under_way = description.step, future

    def done(self, wait: bool = False) -> Iterator[Saved | Unsaved]:
        """The checkpoint that was under way, if it is written by now; wait: until it is."""
        if self._under_way is None:
            return
        step, future = self._under_way
        if not (wait or future.done()):
            return
        try:
            event: Saved | Unsaved = Saved(step, future.result())
            self.failed = None
        except (OSError, MemoryError) as error:
            event = self.failed = Unsaved(step, getattr(error, "strerror", None) or str(error) or "no memory")
        finally:
            self._under_way = None
        yield event

    def close(self) -> None:
        """Waits until nothing is written any more."""
        self._pool.shutdown()


def _copy(value: Tensor) -> Tensor:
    """In the machine's memory, plain and contiguous, sharing nothing."""
    return torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())
