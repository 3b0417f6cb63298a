"""What stands around the net: noise, pictures, start-up, checkpoints, memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nets
import numpy as np
import torch
from page import Section
from rounds import in_turn
from training import Ours, pictures

from ddpm.data import Order
from ddpm.noise import Purpose, normals
from ddpm.saving import Saving
from ddpm.store import Description, Run
from ddpm.train import facts

SHAPE = (3, 32, 32)


def noise(rounds: int, quick: bool) -> Section:
    section = Section("Noise")
    section.say("Addressed normals (Philox4x32-10 by tensor operations) beside `torch.randn`, a call each.")
    rows = []
    for batch in (1, 64):
        numbers, step = (
            torch.arange(batch, device=nets.DEVICE),
            torch.ones(1, dtype=torch.int64, device=nets.DEVICE),
        )

        def ours(numbers: torch.Tensor = numbers, step: torch.Tensor = step) -> None:
            for _ in range(20):
                normals(0, Purpose.WALK, numbers, step, SHAPE)

        def theirs(batch: int = batch) -> None:
            for _ in range(20):
                torch.randn(batch, *SHAPE, device=nets.DEVICE)

        times = in_turn({"ours": ours, "torch.randn": theirs}, rounds)
        cost = 1.0 / times.faster("ours", "torch.randn").median
        rows.append(
            (
                f"{batch} × 3 × 32 × 32", f"{times.median('ours') / 20 * 1e6:,.0f} µs",
                f"{times.median('torch.randn') / 20 * 1e6:,.0f} µs", f"{cost:.1f}",
            )
        )  # fmt: skip
    section.table(("", "ours", "torch.randn", "ours takes × as long"), rows)
    return section


def data(rounds: int, quick: bool) -> Section:
    section = Section("Cached pictures")
    config = nets.config(nets.PAPER)
    made, _ = pictures(config, 4096)
    order = Order(len(made), 128, 0)

    def batches() -> None:
        for k in range(32):
            made.batch(order.index(k), order.flips(k), None)

    times = in_turn({"batches": batches}, rounds)
    rate = 32 * 128 / times.median("batches")
    section.say(
        "Batches of 128 from the cache in random order with flips, 3 × 32 × 32, ready for the net: "
        f"{rate:,.0f} pictures a second. Building the cache against others' decoding: benchmarks/data.py."
    )
    section.target("≥ 50,000 cached pictures a second", f"{rate:,.0f}", rate >= 50_000)
    return section


def startup(rounds: int, quick: bool) -> Section:
    section = Section("Start-up")
    program = "import sys; sys.argv = ['ddpm', {}]; from ddpm.cli import main; main()"
    code = {
        "import torch": "import torch",
        "import ddpm": "import ddpm",
        "import ddpm; ddpm.load": "import ddpm; ddpm.load",
        "import diffusers (DDPMPipeline)": "from diffusers import DDPMPipeline",
        "ddpm --help": program.format("'--help'"),
        "ddpm train --help": program.format("'train', '--help'"),
    }

    def run(text: str) -> None:
        subprocess.run([sys.executable, "-c", text], check=True, stdout=subprocess.DEVNULL)

    times = in_turn({name: (lambda text=text: run(text)) for name, text in code.items()}, rounds)
    rows = []
    for name in code:
        cost = 1.0 / times.faster(name, "import torch").median
        rows.append((f"`{name}`", f"{times.median(name):.2f} s", f"{cost:.2f}"))
    section.table(("", "seconds", "× import torch"), rows)
    for name in ("import ddpm", "import ddpm; ddpm.load"):
        cost = 1.0 / times.faster(name, "import torch").median
        section.target(f"`{name}` ≤ 1.1 × import torch", f"{cost:.2f}", cost <= 1.1)
    return section


def checkpoints(rounds: int, quick: bool) -> Section:
    section = Section("Checkpoints")
    name = nets.SMALL if quick else nets.PAPER
    own = Ours(name, 2)
    own()
    trainer, folder = own.trainer, Path(tempfile.mkdtemp())
    description = Description(trainer.config, facts(trainer.pictures, None), step=1)
    run, saving, step = Run.create(folder / "run", description), None, 0
    size = sum(v.nbytes for part in trainer.tensors().values() for v in part.values())

    def ours() -> None:
        nonlocal step
        step += 1
        run.save(Description(trainer.config, description.facts, step=step), trainer.tensors(), {}, keep=1)

    def theirs() -> None:
        state = {"net": trainer.plain.state_dict(), "ema": trainer.ema.state_dict()}
        torch.save({**state, "optimizer": trainer.optimizer.state_dict()}, folder / "plain.pt")

    def ours_back() -> None:
        newest = run.newest()[0]
        assert newest is not None
        for part in ("model", "ema", "optimizer"):
            newest.tensors(part)

    def theirs_back() -> None:
        torch.load(folder / "plain.pt", weights_only=True)

    times = in_turn(
        {"save, ours": ours, "save, torch.save": theirs, "load, ours": ours_back, "load, torch.load": theirs_back},
        min(rounds, 4),
    )
    pauses = []
    for k in range(min(rounds, 3)):
        saving = Saving(run)
        start = time.perf_counter()
        saving.start(Description(trainer.config, description.facts, step=1000 + k), trainer.tensors(), {}, keep=1)
        pauses.append(time.perf_counter() - start)
        list(saving.done(wait=True))
        saving.close()
    section.say(
        f"{name}: weights, averages and Adam's moments, {size / 1e6:,.0f} MB. Ours are written whole or not at "
        "all, flushed to the disk, with SHA-256 sums compared on reading; `torch.save` does none of it."
    )
    section.table(("", "seconds"), [(case, f"{times.median(case):.2f}") for case in times.taken])
    pause, every = float(np.median(pauses)), trainer.config.train.checkpoint_every
    seconds = in_turn({"step": own}, min(3, rounds)).median("step") * trainer.config.train.batch
    share = pause / (pause + every * seconds)
    section.say(f"Training itself waits {pause:.2f} s for a copy; the file is written beside it.")
    section.target(
        f"checkpoints < 1 % of training time (one every {every} steps of batch 2 at this speed)",
        f"{share:.3%}", share < 0.01,
    )  # fmt: skip
    return section


_PEAK = """
import sys
sys.path.insert(0, {here!r})
import nets, training
from ddpm.memory import keep_freed_memory
keep_freed_memory()
one = training.{kind}(nets.{name}, {batch})
for _ in range(2):
    one()
# getrusage's figure would be the parent's, where that was larger
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def memory(rounds: int, quick: bool) -> Section:
    section = Section("Peak memory")
    section.say(
        "Of a process that trains two steps, the interpreter and torch included (the resident set at its most)."
    )
    rows = []
    for name, key in ((nets.SMALL, "SMALL"),) if quick else ((nets.PAPER, "PAPER"), (nets.SMALL, "SMALL")):
        batch = training_batch(name)
        peaks = []
        for kind in ("Ours", "Diffusers"):
            code = _PEAK.format(here=str(Path(__file__).parent), kind=kind, name=key, batch=batch)
            done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            peaks.append(int(done.stdout.split()[-1]) / 2**20)
        rows.append((name, batch, *(f"{peak:.2f} GiB" for peak in peaks), f"{peaks[0] / peaks[1]:.2f}"))
    section.table(("", "batch", "ours", "diffusers", "ours / diffusers"), rows)
    return section


def training_batch(name: str) -> int:
    from training import BATCH

    return BATCH[name]


SUBJECTS = {"noise": noise, "data": data, "startup": startup, "checkpoints": checkpoints, "memory": memory}
