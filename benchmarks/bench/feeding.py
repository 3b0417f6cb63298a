"""Pictures for the net: batches from the cache, and building it beside what others do to pictures."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import nets
from page import Section
from PIL import Image
from rounds import Times, in_turn
from torch.utils.data import DataLoader
from training import pictures, scratch

from ddpm.data import Order, load, open_source

sys.path.append(str(Path(__file__).parents[1]))  # behind this folder's own
from data import PeerSet, photographs

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def data(rounds: int, quick: bool) -> Section:
    section = Section("Pictures")
    _cached(section, rounds)
    _building(section, rounds, quick)
    return section


def _cached(section: Section, rounds: int) -> None:
    made, _ = pictures(nets.config(nets.PAPER), 4096)
    order = Order(len(made), 128, 0)

    def batches() -> None:
        for k in range(32):
            made.batch(order.index(k), order.flips(k), None)

    rate = 32 * 128 / in_turn({"batches": batches}, rounds).median("batches")
    section.say(
        "Batches of 128 from the cache in random order with flips, 3 × 32 × 32, ready for the net: "
        f"{rate:,.0f} pictures a second."
    )
    section.target("≥ 50,000 cached pictures a second", f"{rate:,.0f}", rate >= 50_000)


def _building(section: Section, rounds: int, quick: bool) -> None:
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    section.say(
        "Building the cache from JPEGs, all of it (reading, hashing, decoding, writing), beside the transforms of "
        f"diffusers' and lucidrains' examples in a DataLoader; {workers} threads or workers, whose start does not "
        "count. Made-up photographs (benchmarks/data.py, which also measures how the cache's pixels differ: "
        "`--fidelity`)."
    )
    rows, ratios = [], []
    for side, count in ((256, 64), (1024, 8)) if quick else ((256, 1024), (1024, 96)):
        folder = scratch() / "photographs"
        paths = photographs(folder, side, count)
        for size in (32, 64):
            times = _round_about(folder, paths, size, workers, rounds)
            ratios.append(times.faster("ours", "bilinear"))
            rates = (f"{count / times.median(case):,.0f}" for case in ("ours", *FILTERS))
            rows.append((f"{side} → {size}", *rates, *(str(times.faster("ours", case)) for case in FILTERS)))
    head = ("pixels", "ours, pictures/s", *FILTERS, *(f"ours × {case}" for case in FILTERS))
    section.table(head, rows)
    worst = min(ratios, key=lambda ratio: ratio.median)
    section.target("cache building ≥ 1.5 × bilinear, in each row", f"at least {worst}", worst.median >= 1.5)


def _round_about(folder: Path, paths: list[Path], size: int, workers: int, rounds: int) -> Times:
    source = open_source(folder)

    def ours() -> None:
        load(source, (size, size), 3, cache=scratch(), workers=workers)

    cases: dict[str, Callable[[], object]] = {"ours": ours}
    for name, chosen in FILTERS.items():
        loader = DataLoader(PeerSet(paths, size, chosen), 64, num_workers=workers, persistent_workers=True)
        cases[name] = lambda loader=loader: [len(batch) for batch in loader]
    return in_turn(cases, rounds)


SUBJECTS = {"data": data}
