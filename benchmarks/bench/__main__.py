"""Ours and what else there is, side by side: `make bench`, or

    python benchmarks/bench [--only training,sampling,...] [--rounds 8] [--quick] [--out docs/performance.md]

All that is compared runs in turn within each round, A B C A B C, so that a busy machine slows all of it; ratios
are medians over the rounds' own ratios, with their quartiles. Peers that are not installed are left out and named.
Each subject is a section of the page, written when it is measured, with the machine and versions it was measured
with; the sections of other subjects stay.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import batches
import beside
import checkpoints
import feeding
import overhead
import peaks
import peers
import sampling
import training
from page import Page

from ddpm.memory import keep_freed_memory

FILES = (training, sampling, overhead, beside, feeding, checkpoints, peaks, batches, peers)
SUBJECTS = {name: subject for file in FILES for name, subject in file.SUBJECTS.items()}
USUAL = [name for name in SUBJECTS if name not in peers.SUBJECTS]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(USUAL), help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="two rounds of little: does it run at all")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "docs" / "performance.md")
    given = parser.parse_args()
    page, names = Page(given.out, tuple(SUBJECTS)), given.only.split(",")
    for name in names:
        if name not in SUBJECTS:
            parser.error(f"--only {name}: there are {', '.join(SUBJECTS)}")
    os.environ["DDPM_CACHE"] = str(training.scratch())  # what programs cost is measured, and nothing stays behind
    keep_freed_memory()  # as our commands do; what a peer gains by it in the same process is its own
    for name in names:
        print(f"{name} ...", flush=True)
        section = SUBJECTS[name](2 if given.quick else given.rounds, given.quick)
        print(section.text, flush=True)
        page.write(name, section)


if __name__ == "__main__":
    main()
