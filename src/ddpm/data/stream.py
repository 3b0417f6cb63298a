"""Pictures decoded when a batch needs them: nothing is kept, however large the set.

A pool of threads decodes a batch's pictures side by side; told the next one (`ahead`), it begins while the net
still computes. At most two batches are in memory. A batch is the same as from the cache, bit by bit.

Nobody has looked at the files beforehand. The place of a picture that cannot be decoded is taken by the next one
that can, so a batch stays a function of the files and its index.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ddpm.data import decode
from ddpm.data.pictures import Pictures, window
from ddpm.data.source import Source
from ddpm.errors import UserError

MOST_IN_A_ROW = 1000
"""Unreadable pictures one after the other that end training: the disk is gone, or this is no picture set."""
_PER_TASK = 8

_Decoded = list[tuple[npt.NDArray[np.uint8], int]]  # pictures [C, H, W] and their numbers


@final
class Streamed(Pictures):
    """A source's pictures, brought to `to` when they are asked for. One thread may ask."""

    def __init__(
        self, source: Source, to: decode.Fit, fingerprint: str, workers: int, notes: tuple[str, ...] = ()
    ) -> None:
        """workers: threads that decode. UserError if the first pictures cannot be decoded."""
        super().__init__(
            len(source), to.size, to.channels, source.labels, source.classes, source.name, fingerprint, notes
        )
        self._source, self._to, self._workers = source, to, workers
        self._pool = ThreadPoolExecutor(workers, "decode")
        self._broken: dict[int, tuple[str, str]] = {}
        self._hinted: npt.NDArray[np.int64] | None = None
        self._tasks: list[Future[_Decoded]] = []
        self._readable(0)

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        return tuple(entry for _, entry in sorted(self._broken.copy().items()))

    def rows(
        self, index: npt.NDArray[np.int64], place: npt.NDArray[np.float64] | None
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        if self._hinted is not None and np.array_equal(self._hinted, index):
            tasks, self._hinted, self._tasks = self._tasks, None, []
        else:
            tasks = self._begin(index)
        pixels = np.empty((len(index), self.channels, *self.size), np.uint8)
        numbers = np.empty(len(index), np.int64)
        k = 0
        try:
            for task in tasks:
                for picture, number in task.result():
                    pixels[k] = window(picture, self.size, None if place is None else place[k])
                    numbers[k] = number
                    k += 1
        finally:
            _cancel(tasks)  # after an error or Ctrl-C nobody waits for the rest
        return pixels, numbers

    def ahead(self, index: Tensor) -> None:
        wanted = index.cpu().numpy() % len(self)
        if self._hinted is None or not np.array_equal(self._hinted, wanted):
            _cancel(self._tasks)
            self._hinted, self._tasks = wanted.copy(), self._begin(wanted)

    def _begin(self, index: npt.NDArray[np.int64]) -> list[Future[_Decoded]]:
        # Small tasks, so that no thread waits for the others' last one; not so small that handing over costs.
        some = max(1, min(_PER_TASK, len(index) // (4 * self._workers)))
        return [self._pool.submit(self._decoded, index[k : k + some]) for k in range(0, len(index), some)]

    def _decoded(self, index: npt.NDArray[np.int64]) -> _Decoded:
        return [self._readable(i) for i in index.tolist()]

    def _readable(self, i: int) -> tuple[npt.NDArray[np.uint8], int]:
        """Picture i, or the first one after it that can be decoded, and its number."""
        tries = min(len(self), MOST_IN_A_ROW)
        for number in ((i + k) % len(self) for k in range(tries)):
            if number in self._broken:
                continue
            try:
                return self._source.fitted(number, self._to), number
            except Exception as error:  # PIL's readers raise almost anything for a broken file
                name = self._source.describe(number)
                self._broken[number] = name, decode.fault(error, name)
        name, why = self._broken[i]
        which = f"none of its {tries:,} pictures" if tries == len(self) else f"none of {tries:,} pictures in a row"
        raise UserError(
            f"{self.name}: {which} can be decoded (first: {name}: {why}): check that the files are all there, or "
            "give other DATA"
        )


def _cancel(tasks: list[Future[_Decoded]]) -> None:
    for task in tasks:
        task.cancel()
