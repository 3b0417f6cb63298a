"""What stands around the net: noise and start-up."""

from __future__ import annotations

import subprocess
import sys

import nets
import torch
from page import Section
from rounds import in_turn

from ddpm.noise import Purpose, normals

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
        cost = times.faster("torch.randn", "ours")
        rows.append(
            (
                f"{batch} × 3 × 32 × 32", f"{times.median('ours') / 20 * 1e6:,.0f} µs",
                f"{times.median('torch.randn') / 20 * 1e6:,.0f} µs", str(cost),
            )
        )  # fmt: skip
    section.table(("", "ours", "torch.randn", "ours takes × as long"), rows)
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
        cost = "" if name == "import torch" else str(times.faster("import torch", name))
        rows.append((f"`{name}`", f"{times.median(name):.2f} s", cost))
    section.table(("", "seconds", "× import torch"), rows)
    for name in ("import ddpm", "import ddpm; ddpm.load"):
        ratio = times.faster("import torch", name)
        section.target(f"`{name}` ≤ 1.1 × import torch", str(ratio), ratio.median <= 1.1)
    return section


SUBJECTS = {"noise": noise, "startup": startup}
