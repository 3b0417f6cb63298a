"""Ctrl-C, SIGTERM and a closed terminal as one exception, so that what is half-made is cleared away."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, final

_ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_MOMENT = 0.05  # seconds until an exception that was lost is raised once more


@final
class Stopped(KeyboardInterrupt):
    """A signal asks to leave; a KeyboardInterrupt, as whoever clears up after Ctrl-C does so after the others."""


class Stoppable:
    """Inside `with`, such a signal raises `Stopped` in the main thread; afterwards all is as it was.

    A signal that somebody has a handler of, or ignores, as nohup does, is left alone; outside of the main thread
    all are. `number`: the first that came, 0 without.
    """

    def __init__(self, leaving: bool = False) -> None:
        """leaving: afterwards the interpreter ends, and Ctrl-C is to end it at once, in place of a stack trace."""
        self.number = 0
        self._leaving = leaving
        self._before: dict[int, Any] = {}
        self._hook: Callable[[Any], object] | None = None

    def __enter__(self) -> Stoppable:
        if threading.current_thread() is threading.main_thread():
            self._hook, sys.unraisablehook = sys.unraisablehook, self._unraised
            for number in _ASKING:
                before = signal.getsignal(number)
                if before in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = before
                    signal.signal(number, self._stop)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_DFL if self._leaving else before)
        if self._hook is not None:
            sys.unraisablehook = self._hook

    def enough(self) -> None:
        """From here on a signal changes nothing: what is left is to say what happened."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number
        raise Stopped

    def _unraised(self, lost: Any) -> None:
        """Nothing can be raised out of a destructor or a callback of the garbage collector: so a moment later."""
        if not issubclass(lost.exc_type, Stopped):
            assert self._hook is not None
            self._hook(lost)
            return
        again = threading.Timer(_MOMENT, _thread.interrupt_main, [self.number])
        again.daemon = True
        again.start()
