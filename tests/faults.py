"""Trainings in processes of their own, to be killed, starved and parted, and then compared bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

import tiny
from ddpm.store import Run

TIMES = ("pictures_per_second", "seconds")
"""What of a line of the log may differ."""
# 20 pictures in batches of 7: the third batch crosses into the second epoch.
QUICK = [*tiny.NET, "--size", "8", "--batch", "7", "--device", "cpu", "--chain.steps", "20", "--net.dropout", "0"]
QUICK += ["--train.log-every", "1", "--train.preview-every", "0", "--seed", "3"]
PHOTOS = 20
# Before `ddpm.cli` runs: every flush takes a while, so that most moments of a training lie in a write.
SLOW = "import os, time; _flush = os.fsync; os.fsync = lambda handle: (time.sleep({seconds}), _flush(handle))[1]"
_RUN = "import sys; from ddpm.cli import main; sys.exit(main())"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a job that a shell script started beside itself; what is started here would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Left(NamedTuple):
    """How a process ended."""

    status: int
    out: str
    err: str


# -- starting --------------------------------------------------------------------------------------------------


def command(*arguments: Any, before: str = "") -> list[str]:
    """`ddpm …` by this Python; before: code that it runs first."""
    how = ["-c", f"{before}\n{_RUN}"] if before else ["-m", "ddpm.cli"]
    return [sys.executable, *how, *map(str, arguments)]


def start(
    *arguments: Any, before: str = "", env: Mapping[str, Any] | None = None, **how: Any
) -> subprocess.Popen[str]:
    """A `ddpm` of its own, on one core; env: variables besides."""
    return spawn(command(*arguments, before=before), env, **how)


def spawn(words: Sequence[str], env: Mapping[str, Any] | None = None, **how: Any) -> subprocess.Popen[str]:
    """Any command, likewise."""
    full = {**os.environ, "OMP_NUM_THREADS": "1", **{key: str(value) for key, value in (env or {}).items()}}
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how}
    return subprocess.Popen(words, env=full, **how)


def end(process: subprocess.Popen[str], seconds: float = 240) -> Left:
    """Waits for it; one that takes longer hangs, and that is an error."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"hangs: {process.args}\n{out}\n{err}") from None
    return Left(process.returncode, out or "", err or "")


def train(*arguments: Any, **how: Any) -> Left:
    """`ddpm train …` to its end."""
    return end(start("train", *arguments, **how))


def done(*arguments: Any, **how: Any) -> str:
    """The same, which must end well; what it printed."""
    left = train(*arguments, **how)
    assert left.status == 0, left
    return left.out


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def crew(count: int, *arguments: Any, **how: Any) -> list[subprocess.Popen[str]]:
    """`count` processes at one `ddpm …`, as a launcher starts them on one machine."""
    env = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [start(*arguments, env={**env, "RANK": rank, "LOCAL_RANK": rank}, **how) for rank in range(count)]


def together(processes: Sequence[subprocess.Popen[str]], seconds: float = 240) -> list[Left]:
    """How all of them ended; read side by side, as a full pipe would hold one up and so the others."""
    found: dict[int, Left | AssertionError] = {}

    def wait(i: int) -> None:
        try:
            found[i] = end(processes[i], seconds)
        except AssertionError as error:
            found[i] = error

    threads = [threading.Thread(target=wait, args=(i,)) for i in range(len(processes))]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    hanging = [one for one in found.values() if isinstance(one, AssertionError)]
    assert not hanging, "\n".join(map(str, hanging))
    return [found[i] for i in range(len(processes))]  # type: ignore[misc]


@contextmanager
def killed_after(*processes: subprocess.Popen[str]) -> Iterator[None]:
    """Nothing of them is left behind, whatever the test does."""
    try:
        yield
    finally:
        for one in processes:
            if one.poll() is None:
                one.send_signal(signal.SIGCONT)
                one.kill()
            one.wait()
            for pipe in (one.stdout, one.stderr):
                if pipe is not None:
                    pipe.close()


def until(process: subprocess.Popen[str], pattern: str) -> str:
    """Reads what it prints up to a line that begins so; all that was read."""
    seen = ""
    assert process.stdout is not None
    for line in process.stdout:
        seen += line
        if re.match(pattern, line):
            return seen
    raise AssertionError(f"ended without {pattern}:\n{seen}\n{process.communicate()[1]}")


def kill_after(process: subprocess.Popen[str], seconds: float) -> bool:
    """SIGKILL after so many seconds; False if it had ended before."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


# -- looking ---------------------------------------------------------------------------------------------------


def log_of(folder: Path | str) -> list[dict[str, Any]]:
    """The log's lines but for what depends on the clock; every one must be whole."""
    lines = (Path(folder) / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def tensors_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """A safetensors file by its format: where its tensors lie, and their bytes. Its description is left out."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__")
    assert len(data) == 8 + length + max(one["data_offsets"][1] for one in header.values())
    return header, data[8 + length :]


def checkpoint_of(folder: Path) -> dict[str, Any]:
    """All of a checkpoint that a resumed training must have in common with one that was never stopped."""
    state = json.loads((folder / "state.json").read_text())
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted([*state.pop("sha256"), "state.json"])
    del state["seconds"], state["checksum"]
    return {"state": state, **{name: tensors_of(folder / name) for name in names if name.endswith(".safetensors")}}


def check_whole(folder: Path | str) -> list[int]:
    """The steps of a run's checkpoints. Nothing under a final name is half-written, whenever it was killed."""
    folder = Path(folder)
    root = folder / "checkpoints"
    found = sorted(path for path in root.iterdir() if not path.name.startswith(".")) if root.is_dir() else []
    for one in found:
        assert re.fullmatch(r"\d{9}", one.name), one
        state = json.loads((one / "state.json").read_text())
        assert {"model.safetensors", "ema.safetensors", "optimizer.safetensors"} <= set(state["sha256"])
        for name, checksum in state["sha256"].items():
            assert hashlib.sha256((one / name).read_bytes()).hexdigest() == checksum, one / name
    for path in folder.glob("*.json"):
        json.loads(path.read_text())
    if (folder / "log.jsonl").exists():
        log_of(folder)
    for path in folder.glob("samples/*.png"):
        with Image.open(path) as picture:
            picture.load()
    if (page := folder / "report.html").exists():
        assert page.read_text().rstrip().endswith("</html>")
    if (folder / "config.json").exists() or found:
        newest, damaged = Run(folder).newest()
        assert not damaged and (newest is None) == (not found)
        assert newest is None or newest.step == int(found[-1].name)
    return [int(one.name) for one in found]


def check_same(folder: Path | str, other: Path | str) -> None:
    """A run is, bit for bit, the other: its checkpoints, previews and log, but for the time it took."""
    folder, other = Path(folder), Path(other)
    assert check_whole(folder) == check_whole(other)
    for mine, theirs in zip(*(sorted((one / "checkpoints").iterdir()) for one in (folder, other)), strict=True):
        a, b = checkpoint_of(mine), checkpoint_of(theirs)
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == b[name], (mine / name, theirs / name)
    assert log_of(folder) == log_of(other)
    pictures = [{p.name: p.read_bytes() for p in one.glob("samples/*.png")} for one in (folder, other)]
    assert pictures[0] == pictures[1]
    assert not list(folder.rglob("*.tmp")) and not (folder / ".owner").exists()


def check_near(folder: Path | str, other: Path | str, rtol: float = 1e-4) -> None:
    """The same to the order in which floats were added: every number of the log, and every tensor's distance."""
    logs = [log_of(one) for one in (folder, other)]
    assert [list(one) for one in logs[0]] == [list(one) for one in logs[1]]
    for a, b in zip(*logs, strict=True):
        for key in a:
            mine, theirs = (np.array(one[key], dtype=float) for one in (a, b))  # None becomes NaN
            np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=1e-6, err_msg=f"{key} of step {a['step']}")
    ends = [Run(one).newest()[0] for one in (folder, other)]
    assert ends[0] is not None and ends[1] is not None and ends[0].step == ends[1].step
    for part in ("model", "ema", "optimizer"):
        mine_, theirs_ = (one.tensors(part) for one in ends)
        assert {k: (v.shape, v.dtype) for k, v in mine_.items()} == {
            k: (v.shape, v.dtype) for k, v in theirs_.items()
        }
        for key, value in mine_.items():
            torch.testing.assert_close(
                value, theirs_[key], rtol=30 * rtol, atol=30 * rtol, msg=lambda m, k=key: f"{k}: {m}"
            )


def line_of(err: str) -> str:
    """The one line that a mistake or fault is told in; there is no stack trace."""
    assert "Traceback" not in err, err
    lines = [line for line in err.splitlines() if line.startswith("ddpm: ")]
    assert len(lines) == 1, err
    return lines[0]


def elapsed(since: float) -> float:
    return time.monotonic() - since
