"""What the next line of the log will be the mean of; part of a checkpoint, so that resuming keeps the log.

Sums over steps, kept on the device: nothing waits for a GPU until a line is due. Each of several processes sums
its own pictures, and the sums are added when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch

from ddpm.processes import Processes
from ddpm.trainer import QUARTERS, Result

_LOSS, _ERROR, _NORM, _VLB, _GOOD = 0, 1, 2, 3 + QUARTERS, 4 + QUARTERS
_SUMS = 5 + QUARTERS


@dataclass(frozen=True)
class Means:
    """Over the good steps of a window; `quarters` are of the error, None where no level was drawn."""

    loss: float
    error: float
    gradient: float
    quarters: tuple[float | None, ...]
    vlb: float
    highest: float


@final
class Window:
    """The steps after `since`."""

    def __init__(self, device: torch.device, T: int, batch: int, crew: Processes):
        self.T, self.batch, self.crew = T, batch, crew
        self.since = 0
        # loss, error, gradient, errors by quarter, bound, good steps; then the weights drawn by quarter
        self.sums = torch.zeros(_SUMS + QUARTERS, device=device)
        self.highest = torch.zeros((), device=device)

    def take(self, result: Result) -> None:
        """A step; a bad one counts for nothing.

        Weighted, the means are over levels drawn evenly, whatever drew them.
        """
        terms, device = result.terms, self.sums.device
        even = result.weight.to(device, non_blocking=True)
        quarter = ((result.t - 1) * QUARTERS // self.T).to(device, non_blocking=True)
        own = torch.zeros_like(self.sums)
        own[_LOSS], own[_ERROR] = (even * terms.loss).sum() / self.batch, (even * terms.error).sum() / self.batch
        if terms.vlb is not None:
            own[_VLB] = (even * terms.vlb).sum() / self.batch
        own[3:_VLB].index_add_(0, quarter, even * terms.error)
        own[_SUMS:].index_add_(0, quarter, even)
        if self.crew.main:  # what is known of all already is added once
            own[_NORM], own[_GOOD] = result.gradient.to(device).nan_to_num(posinf=0.0), 1.0
        self.sums += torch.where(result.good, own, 0.0)
        self.highest = torch.where(result.good, torch.maximum(self.highest, result.loss), self.highest)

    def read(self) -> Means | None:
        """The means so far, of all processes, all of which must call this; None where no step was good."""
        sums = self.crew.added(self.sums.clone()).tolist()
        good = sums[_GOOD]
        if not good:
            return None
        errors, levels = sums[3:_VLB], sums[_SUMS:]
        quarters = tuple(one / n if n else None for one, n in zip(errors, levels, strict=True))
        loss, error, norm, vlb = (sums[i] / good for i in (_LOSS, _ERROR, _NORM, _VLB))
        return Means(loss, error, norm, quarters, vlb, float(self.highest))

    def clear(self, step: int) -> None:
        """Begins anew after a step."""
        self.since = step
        self.sums.zero_()
        self.highest.zero_()

    def state(self) -> dict[str, Any]:
        """For a checkpoint, of all processes, all of which must call this."""
        sums = self.crew.added(self.sums.clone()).tolist()
        return {
            "since": self.since,
            "sums": sums[:_SUMS],
            "levels": sums[_SUMS:],
            "highest": float(self.highest),
        }

    def restore(self, step: int, state: Mapping[str, Any] | None) -> None:
        """Goes back to what a checkpoint of a step kept; None begins anew after it."""
        self.clear(step)
        if state is None:
            return
        self.since = int(state["since"])
        self.highest.fill_(float(state.get("highest", 0.0)))
        if not self.crew.main:  # whose sums hold those of all
            return
        kept = [*state["sums"], *([step - self.since] if len(state["sums"]) < _SUMS else [])]
        self.sums.copy_(torch.tensor([*kept, *state["levels"]]))
