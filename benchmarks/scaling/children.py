"""What is measured in processes of its own, whose memory is theirs alone; each prints its numbers as JSON.

python benchmarks/scaling/children.py set 100000 30
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measure import FAR, config, median, noise_set, trainer_of

from ddpm.memory import keep_freed_memory
from ddpm.processes import processes
from ddpm.report import gather, publish
from ddpm.store import Description, Run
from ddpm.train import facts, fit


def own_memory() -> int:
    """Bytes of this process that no file stands behind: mapped pixels are the system's to forget."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def of_set(count: int, rounds: int) -> dict[str, float]:
    """A step and a batch of a set of so many pictures; memory that they take; the longest step, a new epoch's."""
    made = config(size=16, batch=64, width=16)
    with tempfile.TemporaryDirectory() as folder:
        pictures = noise_set(count, 16, path=Path(folder) / "pixels.u8")
        trainer = trainer_of(made, pictures)
        before = own_memory()
        start = time.perf_counter()
        trainer.order.index(0), trainer.order.flips(0)
        epoch = time.perf_counter() - start
        trainer.step(0)
        grown = own_memory() - before
        return {
            "step": median(trainer.step, rounds),
            "far": median(trainer.step, rounds, FAR),
            "batch": median(lambda k: pictures.batch(trainer.order.index(k), trainer.order.flips(k)), 4 * rounds),
            "epoch": epoch,
            "memory": float(grown),
        }


def of_run(lines: int, rounds: int) -> dict[str, float]:
    """Steps, log lines and checkpoints of a run that has logged so many lines; its start, and its report."""
    made = config(size=16, batch=16, width=16).with_(
        train__steps=6 * rounds, train__log_every=2, train__checkpoint_every=3 * rounds
    )
    line = {"step": 0, "images": 0, "loss": 0.1234567, "mse": 0.1234567, "quarters": [0.1, 0.2, 0.3, 0.4]}
    line |= {"lr": 2e-4, "gradient": 0.1234567, "pictures_per_second": 123.45, "seconds": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(made)
        description = Description(made, facts(trainer.pictures))
        run = Run.create(Path(folder) / "run", description)
        with (run.folder / "log.jsonl").open("w") as file:
            file.writelines(itertools.repeat(json.dumps(line) + "\n", lines))
        clock = time.perf_counter()
        taken: list[float] = []
        for _ in fit(trainer, run, description):
            now = time.perf_counter()
            taken.append(now - clock)
            clock = now
        clock = time.perf_counter()
        publish(gather(run, None, trainer.pipelines(description, "run")[0], samples=4, steps=4, thorough=False))
        report = time.perf_counter() - clock
    return {
        "start": taken[0],
        "step": statistics.median(taken[3:]),
        "all": sum(taken[3:]),
        "report": report,
    }


def of_processes(batch: int, rounds: int) -> dict[str, float]:
    """Under torchrun: a step with so many pictures a process, each on a core of its own."""
    torch.set_num_threads(1)
    crew = processes("cpu")
    made = config(batch=batch * crew.count)
    trainer = trainer_of(made, crew=crew)
    step = median(trainer.step, rounds)
    gradient = torch.cat([p.reshape(-1) for p in trainer.parameters])
    added = median(lambda k: crew.added(gradient), rounds) if crew.count > 1 else 0.0
    crew.leave()
    return {"count": crew.count, "step": step, "added": added, "bytes": 4.0 * len(gradient), "index": crew.index}


KINDS: dict[str, Callable[[int, int], dict[str, float]]] = {
    "set": of_set,
    "run": of_run,
    "processes": of_processes,
}


def main() -> None:
    keep_freed_memory()
    kind, value, rounds = sys.argv[1:]
    found = KINDS[kind](int(value), int(rounds))
    if not found.get("index"):
        print(json.dumps(found))


if __name__ == "__main__":
    main()
