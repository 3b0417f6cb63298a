"""Peak memory of training and sampling, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nets
from page import Section
from training import BATCH

_PEAK = """
import sys
sys.path.insert(0, {here!r})
import time
import nets, sampling, torch, training
from rounds import wait
from ddpm.memory import keep_freed_memory
keep_freed_memory()
one = {made}
for _ in range(2):
    start = time.perf_counter()
    one()
    wait()
print(time.perf_counter() - start)
if torch.cuda.is_available():
    print(torch.cuda.max_memory_allocated() // 1024)
else:  # getrusage's figure would be the parent's, where that was larger
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def memory(rounds: int, quick: bool) -> Section:
    section = Section("Peak memory")
    section.say(
        "Of a process that trains or samples twice: on a GPU what torch took of it; on a CPU the resident set at "
        "its most, the interpreter and its packages included (*import*: of one that has imported torch and ours)."
    )
    if nets.DEVICE.type == "cpu" and not Path("/proc/self/status").exists():
        section.say("Not measured: this system does not tell a process's peak.")
        return section
    rows: list[tuple[object, ...]] = [("import", "", told(peak("int")[0]), "", "")]
    for name, key in ((nets.SMALL, "SMALL"),) if quick else ((nets.PAPER, "PAPER"), (nets.SMALL, "SMALL")):
        batch = BATCH[name]
        rows.append(_row(f"training, {name}", batch, f"training.{{}}(nets.{key}, {batch})", ("Ours", "Diffusers")))
        for batch in (1,) if quick else (16, 64):
            made = f"sampling.{{}}(nets.{key}, {batch})"
            rows.append(_row(f"sampling, {name}", batch, made, ("ours", "theirs")))
    section.table(("", "batch", "ours", "diffusers", "ours / diffusers"), rows)
    return section


def _row(what: str, batch: int, made: str, kinds: tuple[str, str]) -> tuple[object, ...]:
    ours, theirs = (peak(made.format(kind))[0] for kind in kinds)
    return what, batch, told(ours), told(theirs), f"{ours / theirs:.2f}"


def peak(made: str) -> tuple[float, float]:
    """GiB of a process that makes a thing and calls it twice; seconds of the second time."""
    code = _PEAK.format(here=str(Path(__file__).parent), made=made)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{made}: {done.stderr.strip().splitlines()[-1]}")
    seconds, most = done.stdout.split()[-2:]
    return int(most) / 2**20, float(seconds)


def told(gib: float) -> str:
    return f"{gib:.2f} GiB"


SUBJECTS = {"memory": memory}
