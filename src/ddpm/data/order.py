"""Which pictures a step sees, and how, as a function of (seed, step) alone.

Position p of an endless stream is place p mod count of epoch p // count; an epoch is a permutation of all
pictures; step k takes positions k B ... (k + 1) B - 1. Whether a picture is mirrored and where a window is cut
from it belong to its position too. Nothing is dropped at the end of an epoch, the stream does not depend on B,
and a resumed run needs no saved state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from ddpm.data.pictures import Pictures
from ddpm.errors import UserError
from ddpm.noise import Purpose, bits, permutation, uniform

_EPOCHS_KEPT = 2  # a batch may lie across the end of an epoch


@final
class Order:
    """The data order of a seed for `count` pictures in batches of `batch`."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        if count < 1 or batch < 1:
            raise ValueError(f"count {count} and batch {batch} must be at least 1")
        self.count, self.batch, self.seed = count, batch, seed
        self._permutations: dict[int, Tensor] = {}
        self._flips: dict[int, Tensor] = {}
        self._places: dict[int, Tensor] = {}

    def index(self, step: int) -> Tensor:
        """int64 [batch], each in [0, count), for step = 0, 1, ..."""
        return self._slice(step, self._permutations, lambda epoch: permutation(self.seed, epoch, self.count))

    def flips(self, step: int) -> Tensor:
        """bool [batch]: which pictures of the step are mirrored, each with probability 1/2."""
        return self._slice(step, self._flips, self._epoch_flips)

    def places(self, step: int) -> Tensor:
        """float64 [batch, 2], uniform in (0, 1): where windows are cut, down and across (`data.pictures`)."""
        return self._slice(
            step,
            self._places,
            lambda epoch: uniform(self.seed, Purpose.CROP, torch.arange(self.count), epoch, 2),
        )

    def _epoch_flips(self, epoch: int) -> Tensor:
        words = bits(self.seed, Purpose.FLIP, torch.arange(self.count), epoch, 1)
        return words[:, 0] >= 1 << 31

    def _slice(self, step: int, kept: dict[int, Tensor], make: Callable[[int], Tensor]) -> Tensor:
        """Positions of the step, cut from the epochs they lie in."""
        position, end = step * self.batch, (step + 1) * self.batch
        pieces = []
        while position < end:
            epoch, place = divmod(position, self.count)
            if epoch not in kept:
                while len(kept) >= _EPOCHS_KEPT:
                    del kept[next(iter(kept))]
                kept[epoch] = make(epoch)
            pieces.append(kept[epoch][place : place + end - position])
            position += len(pieces[-1])
        return torch.cat(pieces)


def check_batch(pictures: Pictures, batch: int) -> None:
    """UserError unless there are `batch` pictures and batch is at least 1."""
    if batch < 1:
        raise UserError(f"--batch {batch}: must be at least 1")
    if len(pictures) < batch:
        most = 1 << (len(pictures).bit_length() - 1)
        raise UserError(
            f"{pictures.name}: {len(pictures)} usable pictures are fewer than a batch of {batch}: "
            f"add pictures or give --batch {most}"
        )
