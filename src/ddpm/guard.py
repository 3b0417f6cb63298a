"""Steps whose numbers went wrong: skipped, counted, and not too many in a row.

A step whose loss or gradient is no number changes neither weights nor averages nor Adam's moments. The counts stay
on the device: a GPU is asked for them now and then, since asking waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor


@final
class Guard:
    """Counts of bad steps: in a row, and in all; and what the learning rate is multiplied by since they came."""

    def __init__(self, device: torch.device, most: int):
        self.most = most
        self.rate = 1.0
        self._row, self._skipped = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))
        self._pause = most if device.type == "cuda" else 1

    def take(self, good: Tensor) -> None:
        """Whether a step was good, bool []."""
        self._skipped += ~good
        self._row = torch.where(good, 0, self._row + 1)

    @property
    def row(self) -> int:
        """Bad steps since the last good one."""
        return int(self._row)

    @property
    def skipped(self) -> int:
        """Bad steps in all."""
        return int(self._skipped)

    def over(self, step: int) -> bool:
        """Whether too many in a row were bad, as far as was looked after this step."""
        return step % self._pause == 0 and self.row >= self.most

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it; nothing, where nothing went wrong."""
        made = {"skipped": self.skipped, "row": self.row, "rate": self.rate}
        return {"guard": made} if made["skipped"] or self.rate != 1.0 else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to what a checkpoint kept; with nothing of it, to the beginning."""
        kept = state.get("guard", {})
        self._skipped.fill_(int(kept.get("skipped", 0)))
        self._row.fill_(int(kept.get("row", 0)))
        self.rate = float(kept.get("rate", 1.0))
