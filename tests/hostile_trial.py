"""Tries DATA in a process of its own, as `ddpm train` would read it, so that a hang or a crash is an outcome too.

    with Trial(cache) as trial:
        outcome = trial(case)

The process may take so much memory and no more; what it writes to stderr is part of the outcome.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostile import Case

ROOM = 3 << 30
"""Bytes that the process may take beyond what it has when it begins."""
PATIENCE = 60.0
"""Seconds."""


@dataclass(frozen=True)
class Outcome:
    """kind: error, skipped, fine; or trace, hang, crash. text: the message or reasons; grown: bytes of memory."""

    kind: str
    text: str = ""
    stderr: str = ""
    grown: int = 0
    seconds: float = 0.0


class Trial:
    """A child process that is asked case by case, and begun anew after one that was its end.

    user: whom it becomes, by number; for root alone.
    """

    def __init__(self, cache: Path, user: int | None = None, patience: float = PATIENCE) -> None:
        self._cache, self._user, self._patience = cache, user, patience
        self._child: subprocess.Popen[str] | None = None
        self._stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._stderr.close()

    def __call__(self, case: Case) -> Outcome:
        child = self._child = self._child or self._begun()
        self._stderr.seek(0)
        self._stderr.truncate()
        started = time.monotonic()
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(json.dumps([str(case.path), case.crop, str(self._cache)]) + "\n")
        child.stdin.flush()
        ready, _, _ = select.select([child.stdout], [], [], self._patience)
        line = child.stdout.readline() if ready else ""
        seconds = time.monotonic() - started
        self._stderr.seek(0)
        stderr = self._stderr.read()
        if line:
            return Outcome(*json.loads(line)[:2], stderr, json.loads(line)[2], seconds)
        self._end()
        kind = "crash" if ready else "hang"
        return Outcome(kind, f"status {child.returncode}", stderr, seconds=seconds)

    def _begun(self) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, __file__, *([] if self._user is None else [str(self._user)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            cwd=self._cache.parent,
            env={**os.environ, "DDPM_CACHE": str(self._cache), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n", self._stderr.read()
        return child

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


def tried(path: str, crop: Any, cache: Path) -> tuple[str, str]:
    """DATA opened, decoded into the cache and read once: (kind, text) of the outcome."""
    import torch

    from ddpm.data import load, open_sources
    from ddpm.errors import UserError

    try:
        source, _ = open_sources(path)
        source.look()
        pictures = load(source, (8, 8), 3, crop=crop, cache=cache)
        x, label = pictures.batch(torch.arange(min(len(pictures), 64)))
    except UserError as error:
        return "error", str(error)
    except Exception:
        return "trace", traceback.format_exc()
    assert len(pictures) + len(pictures.skipped) == len(source)
    assert torch.isfinite(x).all() and x.abs().max() <= 1
    assert label is None or 0 <= int(label.min()) <= int(label.max()) < len(pictures.classes)
    told = "; ".join([*(f"{name}: {reason}" for name, reason in pictures.skipped), *pictures.notes])
    return "skipped" if pictures.skipped else "fine", told


def main() -> None:
    """Answers each line [path, crop, cache] with one: [kind, text, bytes of memory more than at the beginning].

    As the user whose number is the argument, if there is one, who need not be able to read this project.
    """
    import torch  # noqa: F401
    from PIL import Image

    import ddpm.data  # noqa: F401

    if len(sys.argv) > 1:
        Image.init()  # which imports its readers
        os.setgid(int(sys.argv[1]))
        os.setuid(int(sys.argv[1]))

    pages = Path("/proc/self/statm")
    size = int(pages.read_text().split()[0]) * resource.getpagesize() if pages.exists() else 0
    if size:
        resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed is no answer
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        path, crop, cache = json.loads(line)
        kind, text = tried(path, crop, Path(cache))
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        print(json.dumps([kind, text, grown]), file=answers, flush=True)


if __name__ == "__main__":
    main()
