"""How long it takes to start: importing ddpm against importing torch, and `ddpm --help`, in turn.

    python benchmarks/startup.py [--rounds 7]

`import ddpm` alone imports no torch; "with load" is what a program that uses a model imports.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

CASES = {
    "import torch": "import torch",
    "import ddpm": "import ddpm",
    "import ddpm, with load": "import ddpm; ddpm.load",
    "ddpm --help": "import sys; sys.argv = ['ddpm', '--help']; from ddpm.cli import main; main()",
    "ddpm train --help": "import sys; sys.argv = ['ddpm', 'train', '--help']; from ddpm.cli import main; main()",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for i in range(given.rounds + 1):
        for name, code in CASES.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
            if i:  # the first round fills the system's file cache
                times[name].append(time.perf_counter() - start)
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, times["import torch"], strict=True))
        print(f"{name:24} {statistics.median(taken):6.2f} s   {ratio:5.2f} × import torch")


if __name__ == "__main__":
    main()
