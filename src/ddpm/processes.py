"""Several processes at one task, as torchrun or accelerate start them: whose rows are whose, what all must know.

    torchrun --nproc-per-node 4 -m ddpm.cli train ./photos

Nothing here is drawn or counted differently for their number: rows of a batch are dealt in their order, sums are
taken over all. Each lets the others know that it is there; one that has not been heard of for a while ends the
others, which would wait for it for ever.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, final

from ddpm.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from accelerate import PartialState
    from torch import Tensor

T = TypeVar("T")
# others may wait for one that decodes a large set; one that is gone is found out below
_PATIENCE = timedelta(days=7)
_MEETING = 600.0  # seconds within which all have to come
_LEFT = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
_PIECE = 1 << 26  # bytes that are sent at once
_BEAT, _BEATS = 4.0, 10  # seconds between two signs of life; as many without one, and a process counts as gone


@final
@dataclass(frozen=True)
class Processes:
    """This one of `count`, numbered from 0. device: what --device is for it, None to choose."""

    index: int = 0
    count: int = 1
    device: str | None = None
    state: PartialState | None = None
    _leaving: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)
    _looked: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    @property
    def main(self) -> bool:
        """Whether this is the one that prints, and does what is done once."""
        return self.index == 0

    @property
    def of_machine(self) -> int:
        """How many of them are on this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.count > 1 else 1

    def wait(self) -> None:
        """Until all have come here."""
        if self.state is not None:
            self.state.wait_for_everyone()

    @contextmanager
    def first(self, of_machine: bool = False) -> Iterator[None]:
        """The main one goes through before the others begin: what it finds wrong is said once.

        of_machine: one of each machine, since what it makes may lie on a disk of its own.
        """
        leads = self.main if self.state is None or not of_machine else self.state.is_local_main_process
        if not leads:
            self.wait()
        yield
        if leads:
            self.wait()

    def rows(self, n: int) -> slice:
        """Which of n rows are this one's: dealt in order, as evenly as can be, what is over to the first."""
        each, over = divmod(n, self.count)
        start = self.index * each + min(self.index, over)
        return slice(start, start + each + (self.index < over))

    def added(self, tensor: Tensor) -> Tensor:
        """The sum over all, in place; every one gets the same bits."""
        if self.count > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether any of them says so."""
        if self.count == 1:
            return flag
        import torch

        device = "cpu" if self.state is None else self.state.device
        return bool(self.added(torch.tensor(float(flag), device=device)))

    def joined(self, part: Tensor, n: int) -> Tensor:
        """[n, *]: the rows of all in their order, of which part [len(rows(n)), *] is this one's."""
        if self.count == 1:
            return part
        whole = part.new_zeros(n, *part.shape[1:])
        whole[self.rows(n)] = part
        return self.added(whole)

    def told(self, make: Callable[[], T]) -> T:
        """What the main one makes, for all; a UserError of it is one of every process, said by the main one."""
        if self.count == 1:
            return make()
        import torch.distributed as dist

        box: list[Any] = [None]
        if self.main:
            try:
                box = [(make(), None)]
            except UserError as error:
                box = [(None, str(error))]
        dist.broadcast_object_list(box, src=0)
        value, wrong = box[0]
        if wrong is not None:
            raise UserError(wrong) if self.main else SystemExit(2)
        made: T = value
        return made

    def tensors(self, own: Mapping[str, Tensor] | None, device: Any) -> dict[str, Tensor]:
        """The main one's tensors by name, for all; the others give None. They travel by way of `device`."""
        if self.count == 1:
            return dict(own or {})
        import torch
        import torch.distributed as dist

        said = self.told(lambda: [(name, one.shape, one.dtype) for name, one in (own or {}).items()])
        made = {}
        for name, shape, dtype in said:
            one = own[name].to(device) if own is not None else torch.empty(shape, dtype=dtype, device=device)
            one = one.contiguous()
            dist.broadcast(one, src=0)
            made[name] = one.cpu()
        return made

    def leave(self) -> None:
        """To be called when the others are not needed any more; waits for them, who may have more to do."""
        self.wait()
        self._leaving.set()
        if self.state is not None:
            self.state.destroy_process_group()


ALONE = Processes()
"""One process, as commands usually are."""


def processes(device: str | None = None) -> Processes:
    """Those that were started together; device: the one asked for, of which each gets one of its own."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes(device=device)
    # torch's C++ warns of one that left with a stack trace, beside the line that says so
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch
    from accelerate import PartialState

    # accelerate joins processes on a CPU only if it is told that they are there
    cpu = device == "cpu" or not torch.cuda.is_available()
    here = Processes(int(os.environ.get("RANK", "0")), int(os.environ["WORLD_SIZE"]))
    late = threading.Timer(_MEETING, _end, (here, f"not all have come within {_MEETING / 60:.0f} min"))
    late.daemon = True
    late.start()
    state = PartialState(cpu=cpu, timeout=_PATIENCE)
    late.cancel()
    own = str(state.device) if device in (None, state.device.type) else device
    made = Processes(state.process_index, state.num_processes, own, state)
    if made.count > 1:
        for task in (_watch, _attend):
            threading.Thread(target=task, args=(made,), name="signs of life", daemon=True).start()
    return made


def gathered(crew: Processes, own: Sequence[np.ndarray] | None) -> list[np.ndarray]:
    """Arrays of which every process has some rows, [own, *] each, with the rows of all in their order.

    own: None of a process that has no row; one at least has some. They travel in pieces, by way of the device.
    """
    if crew.count == 1:
        return list(own or ())
    import numpy as np
    import torch
    import torch.distributed as dist

    device = "cpu" if crew.state is None else crew.state.device
    said: list[Any] = [None] * crew.count
    dist.all_gather_object(said, None if own is None else [(one.shape, one.dtype.str) for one in own])
    like = next(one for one in said if one is not None)
    made = []
    for k, (shape, dtype) in enumerate(like):
        counts = [0 if one is None else one[k][0][0] for one in said]
        whole, end = np.empty((sum(counts), *shape[1:]), np.dtype(dtype)), 0
        rows = max(1, _PIECE // max(1, whole[:1].nbytes))
        for source, count in enumerate(counts):
            start, end = end, end + count
            for at in range(start, end, rows):
                piece = slice(at, min(end, at + rows))
                if source == crew.index and own is not None:
                    whole[piece] = own[k][at - start : piece.stop - start]
                sent = torch.from_numpy(whole[piece]).to(device)
                dist.broadcast(sent, src=source)
                whole[piece] = sent.cpu().numpy()
        made.append(whole)
    return made


def left_alone(error: BaseException) -> bool:
    """Whether this is how torch says that another process has left."""
    if type(error).__name__ in ("DistNetworkError", "DistBackendError"):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _LEFT)


def _watch(crew: Processes) -> None:
    """Gives a sign of life, and ends this process where another one has given none for too long.

    Looks are counted, not seconds: a machine that slept has missed no look.
    """
    from torch.distributed import distributed_c10d

    store = distributed_c10d._get_default_store()
    if clone := getattr(store, "clone", None):  # newer than torch 2.6
        with suppress(RuntimeError, NotImplementedError):
            store = clone()  # a connection of its own: another's call may wait for long
    seen, silent = [0] * crew.count, [0] * crew.count
    while not crew._leaving.wait(_BEAT):
        try:
            store.add(f"ddpm/alive/{crew.index}", 1)
            now = [store.add(f"ddpm/alive/{i}", 0) for i in range(crew.count)]
        except Exception:  # the store went with the process that kept it
            if crew._leaving.wait(_BEAT):
                return
            _end(crew, "the processes' meeting place is gone")
        crew._looked.set()
        silent = [0 if a != b else s + 1 for a, b, s in zip(now, seen, silent, strict=True)]
        seen = now
        for i, looks in enumerate(silent):
            if looks >= _BEATS and not crew._leaving.is_set():
                _end(crew, f"process {i} has not been heard of for {_BEAT * _BEATS:.0f} s")


def _attend(crew: Processes) -> None:
    """Ends this process where `_watch` asks in vain: a machine without power answers nothing, not even no."""
    unanswered = 0
    while not crew._leaving.wait(_BEAT):
        unanswered = 0 if crew._looked.is_set() else unanswered + 1
        crew._looked.clear()
        if unanswered >= _BEATS:
            _end(crew, f"the processes' meeting place has not answered for {_BEAT * _BEATS:.0f} s")


def _end(crew: Processes, why: str) -> None:
    """Leaves at once: the main thread may be waiting for the one that is gone."""
    print(
        f"ddpm: process {crew.index} of {crew.count} stops: {why}; start them all again, training with --resume",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)
