"""What training and sampling cost as things grow, on one page with plots: docs/scaling.md.

    python benchmarks/scaling [--quick] [--out docs/scaling.md]

Measured: a step of training against picture size and batch, sampling and training against T; a step against the
number of pictures and the length of the run; steps of several processes. What is too long for this machine comes
from a model, seconds = overhead + FLOPs / rate, whose two numbers are fitted to what was measured (`cost.py`). In
the plots a dot is measured and a line is the model; tables say which is which.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cost import Cost, fitted, with_processes
from measure import FAR, Point, config, sampling, steps_of, trainer_of

from ddpm.draw.plots import Line, Panel, curves, write
from ddpm.memory import keep_freed_memory
from ddpm.plan.machine import count

HERE = Path(__file__).parent
NOT = "not measured"


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    sizes: tuple[int, ...] = (32, 64, 128, 256)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    steps: tuple[int, ...] = (10, 30, 100, 300, 1000, 4000)
    sampled_to: int = 100
    sets: tuple[int, ...] = (1000, 10_000, 100_000, 1_000_000)
    lines: tuple[int, ...] = (100, 10_000, 1_000_000)
    processes: tuple[int, ...] = (1, 2)


QUICK = Plan(2, (32, 64), (1, 2), (3, 6, 9), 6, (1000, 2000), (100, 1000))


def child(kind: str, value: int, rounds: int, processes: int = 1) -> dict[str, float]:
    """What a process of its own measured, or several under torchrun."""
    runner = [sys.executable]
    if kind == "processes":
        runner += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*runner, str(HERE / "children.py"), kind, str(value), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def levels_of(chains: Sequence[int], rounds: int) -> dict[int, float]:
    """A step of training by T: a step of each in turn, since they are to be compared."""
    trainers = {T: trainer_of(config(levels=T)) for T in chains}
    taken: dict[int, list[float]] = {T: [] for T in chains}
    for k in range(rounds + 2):
        for T, trainer in trainers.items():
            start = time.perf_counter()
            trainer.step(k)
            taken[T].append(time.perf_counter() - start)
    return {T: statistics.median(of[2:]) for T, of in taken.items()}


def children(kind: str, values: Sequence[int], rounds: int) -> dict[int, dict[str, float]]:
    """Two processes each, there and back, and the lesser of what they found, which others slowed less."""
    there = {value: child(kind, value, rounds) for value in values}
    back = {value: child(kind, value, rounds) for value in reversed(values)}
    return {value: {key: min(one, back[value][key]) for key, one in there[value].items()} for value in values}


# -- the page ------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---:|" * len(head), *lines[1:]])


def duration(seconds: float) -> str:
    for unit, one in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= one:
            return f"{seconds / one:,.3g} {unit}" if seconds < 100 * one else f"{seconds / one:,.0f} {unit}"
    return f"{seconds * 1e6:,.0f} µs"


def compared(points: Sequence[Point], cost: Cost, what: str) -> str:
    """A row a point: FLOPs, measured, model, and how far they are apart."""
    rows = []
    for p in points:
        model = float(cost.seconds(p.flops))
        apart = f"{p.seconds / model - 1:+.0%}" if p.seconds else ""
        memory = "" if p.memory is None else f"{p.memory / 2**20:,.0f} MiB"
        seen = duration(p.seconds) if p.seconds else NOT
        rows.append((f"{p.x:,}", f"{p.flops / 1e9:,.1f}", seen, duration(model), apart, memory))
    head = (what, "GFLOP", "measured", "model", "measured is off it by", "tensors in memory")
    keep = len(head) if any(p.memory for p in points) else len(head) - 1
    return table(head[:keep], [row[:keep] for row in rows])


def panel(title: str, points: Sequence[Point], cost: Cost, x_label: str) -> Panel:
    """Dots that were measured, the model's line through all."""
    x = np.array([p.x for p in points], np.float64)
    seen = [p for p in points if p.seconds]
    dots = np.array([p.x for p in seen], np.float64), np.array([p.seconds for p in seen], np.float64)
    return Panel(title, [Line("", x, cost.seconds([p.flops for p in points]), dots)], x_label, "seconds", "xy")


def flat(title: str, x: Sequence[int], y: Sequence[float], x_label: str) -> Panel:
    """Measured alone: dots, joined, over nothing: what does not grow is level."""
    places, seconds = np.array(x, np.float64), np.array(y, np.float64)
    return Panel(title, [Line("", places, seconds, (places, seconds))], x_label, "seconds", "x", from_zero=True)


def tell(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Found:
    """All that was measured, and the costs fitted to it."""

    sizes: list[Point]
    batches: list[Point]
    training: Cost
    walks: list[Point]
    walking: Cost
    levels: dict[int, float]
    sets: dict[int, dict[str, float]]
    runs: dict[int, dict[str, float]]
    crews: dict[int, dict[str, float]]


def measured(plan: Plan) -> Found:
    tell("picture sizes and batches")
    sizes = steps_of([(size, config(size, batch=4)) for size in plan.sizes], plan.rounds)
    batches = steps_of([(batch, config(batch=batch)) for batch in plan.batches], plan.rounds)
    seen = [p for p in (*sizes, *batches) if p.seconds is not None]
    training = fitted([p.flops for p in seen], [p.seconds or 0.0 for p in seen])
    tell("steps of sampling")
    walks = sampling(plan.steps, 4, plan.sampled_to)
    walked = [p for p in walks if p.seconds is not None]
    walking = fitted([p.flops for p in walked], [p.seconds or 0.0 for p in walked])
    levels = levels_of(plan.steps, 4 * plan.rounds)
    tell("sizes of the set")
    sets = children("set", plan.sets, 20 * plan.rounds)
    tell("lengths of the run")
    runs = children("run", plan.lines, 4 * plan.rounds)
    tell("processes")
    crews = {n: child("processes", 8, 4 * plan.rounds, n) for n in plan.processes}
    return Found(sizes, batches, training, walks, walking, levels, sets, runs, crews)


def drawn(found: Found, plot: Path) -> None:
    """Six panels: above what costs more as it grows, below what should not."""
    sets, runs = found.sets, found.runs
    size = "height and width, pixels"
    above = [
        panel("a step, by picture size", found.sizes, found.training, size),
        panel("a step, by batch", found.batches, found.training, "pictures"),
        panel("a walk, by its steps", found.walks, found.walking, "steps"),
    ]
    below = [
        flat("a step, by levels T", list(found.levels), list(found.levels.values()), "T"),
        flat("a step, by size of the set", list(sets), [one["step"] for one in sets.values()], "pictures"),
        flat("a step, by the log's length", list(runs), [one["step"] for one in runs.values()], "lines logged"),
    ]
    titles = ["Grows with what is asked for", "Does not grow with what is there"]
    write(curves([above, below], titles, "Dots are measured, lines above are the model.", False), plot)


def page(found: Found, plot: str) -> str:
    made, training, walking = config(), found.training, found.walking
    parameters = count(made, 10).parameters
    say = [
        "# How cost grows",
        "Written by `python benchmarks/scaling` ([source](../benchmarks/scaling)), not by hand: "
        f"{datetime.date.today().isoformat()}, {machine()}. A small net of {parameters / 1e6:.1f}M parameters, "
        "3 channels, attention at 1/8 of the size; times are medians, and of a machine that others may have used.",
        f"![Cost against size, batch, steps, and what does not grow]({plot})",
        "**The model** is seconds = overhead + FLOPs / rate. FLOPs are counted layer by layer, the way back as "
        "twice the way there; overhead and rate are fitted to the measured steps of the next two tables together, "
        "by least relative squares: "
        f"{duration(training.overhead)} a step and {training.rate / 1e9:,.0f} GFLOP/s in training, and for walks "
        f"{duration(walking.overhead)} and {walking.rate / 1e9:,.0f} GFLOP/s. Where it says *{NOT}*, the number "
        "beside it is the model's alone.",
        "## Picture size",
        "A step of training, batch 4. Convolutions grow with the number of pixels, attention with its square.",
        compared(found.sizes, training, "size"),
        "## Batch",
        "A step of training at 32 × 32.",
        compared(found.batches, training, "batch"),
        "## Steps of sampling",
        "Ancestral walks of 4 pictures of 32 × 32, noise and all. A step of training does not know T:",
        compared(found.walks, walking, "steps"),
        table(("T", "a step of training, batch 8"), [(f"{T:,}", duration(s)) for T, s in found.levels.items()]),
        "## Size of the set",
        "Pictures of 3 × 16 × 16 in a file, as the cache keeps them; batch 64, a smaller net. A step late in a "
        f"run is number {FAR:,}. The order of an epoch is made when it begins: a permutation and the mirrorings "
        "of all its pictures, once in so many pictures. Memory is what the process took for itself from before "
        "the first step to after it, the step's own tensors included; the pictures stay in the file. Here and in "
        "the next section a row is of two processes, one early and one late, and the lesser of what they found.",
        of_sets(found.sets),
        "## Length of the run",
        "A run goes on that has logged so many lines already. A step is the median time between two events of the "
        "training, log lines written; *all* is the sum of them, checkpoints written and old ones removed. The "
        "log is read when a training starts and when a report is written.",
        of_runs(found.runs),
        "## Processes",
        of_processes(found.crews),
    ]
    return "\n\n".join(say) + "\n"


def of_sets(sets: dict[int, dict[str, float]]) -> str:
    rows = [
        (
            f"{n:,}",
            duration(one["step"]),
            duration(one["far"]),
            duration(one["batch"]),
            f"{64 / one['batch']:,.0f}",
            duration(one["epoch"]),
            f"{one['epoch'] / n * 1e6:.2f} µs",
            f"{one['memory'] / 2**20:,.0f} MiB",
        )
        for n, one in sets.items()
    ]
    head = ("pictures", "a step", "a late step", "its batch", "pictures/s of batches", "an epoch's order")
    return table((*head, "of that a picture", "memory"), rows)


def of_runs(runs: dict[int, dict[str, float]]) -> str:
    rows = [
        (f"{n:,}", duration(one["step"]), duration(one["all"]), duration(one["start"]), duration(one["report"]))
        for n, one in runs.items()
    ]
    return table(("lines logged before", "a step", "all", "to start", "a report"), rows)


def of_processes(crews: dict[int, dict[str, float]]) -> str:
    """What was measured, and a ring of devices of their own beyond."""
    alone, most = crews[min(crews)], crews[max(crews)]
    n = int(most["count"])
    bandwidth = 2 * (n - 1) / n * most["bytes"] / most["added"]
    rows = []
    for count_ in (1, 2, 4, 8, 16, 32, 64):
        model = float(with_processes(alone["step"], count_, most["bytes"], bandwidth))
        seen = duration(crews[count_]["step"]) if count_ in crews else NOT
        rows.append(
            (str(count_), seen, duration(model), f"{8 * count_ / model:,.0f}", f"{alone['step'] / model:.0%}")
        )
    said = (
        "8 pictures of 32 × 32 a process, one core and one thread each, gradients added by gloo "
        f"({most['bytes'] / 1e6:.1f} MB of them, alone {duration(most['added'])} for {n} processes: "
        f"{bandwidth / 1e9:.2g} GB/s). The model is a step alone and 2 (n − 1)/n of the gradient's bytes at that "
        "speed, every process on a core and a link of its own; two on one machine share its memory."
    )
    head = ("processes", "a step, measured", "a step, model", "pictures/s, model", "efficiency, model")
    return f"{said}\n\n{table(head, rows)}"


def machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    threads = f"{cores} cores, {torch.get_num_threads()} threads in the first four sections"
    return (
        f"{platform.machine()}, {threads}, {card}, torch {torch.__version__}, Python {platform.python_version()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="little of everything: does it run at all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "docs" / "scaling.md")
    given = parser.parse_args()
    keep_freed_memory()
    plan = QUICK if given.quick else Plan(given.rounds)
    found = measured(plan)
    plot = given.out.with_suffix(".png")
    drawn(found, plot)
    given.out.write_text(page(found, plot.name), encoding="utf-8")
    print(f"{given.out} and {plot}")


if __name__ == "__main__":
    main()
