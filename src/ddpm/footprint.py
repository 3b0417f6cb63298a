"""What a computation takes of memory: the tensors it makes that live at the same time, counted and not measured.

So it is the same number on every device and in every run. Not in it: what a kernel takes for itself while it runs,
and what an allocator loses between tensors.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, final

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


def footprint(compute: Callable[[], object]) -> int:
    """The most bytes of tensors made by `compute` that live at once."""
    with _Counting() as counting:
        compute()
    return int(counting.most)


@final
class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Adds a storage when an operation makes it, and takes it off when it is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.most = self._now = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(one)._cdata for one in tree_iter((args, kwargs)) if isinstance(one, Tensor)}
        made = function(*args, **(kwargs or {}))
        for one in tree_iter(made):
            if isinstance(one, Tensor) and _storage(one)._cdata not in given:
                self._add(_storage(one))
        return made

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def freed(_: Any) -> None:
            self._now -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, freed)
        self._now += size
        self.most = max(self.most, self._now)


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()
