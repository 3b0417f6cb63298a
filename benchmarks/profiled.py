"""Where the time of a step goes: one step of training, one of sampling, one picture of building the cache.

    python benchmarks/profiled.py training [--no-winograd] [--batch 8]
    python benchmarks/profiled.py sampling [--engine compile] [--batch 1]
    python benchmarks/profiled.py data [--size 32]

Of the paper's CIFAR-10 net, or with --small of one for 28 × 28. Times are each operation's own, without those it
calls, as torch's profiler has them, which adds some of its own; of a compiled program it sees what is done around
it alone. Shares are of their sum. For pictures times are cProfile's.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "bench"), str(HERE)]

import data  # noqa: E402
import nets  # noqa: E402
from sampling import ours  # noqa: E402
from sampling import steps as walked  # noqa: E402
from training import Ours  # noqa: E402

from ddpm.data import decode, open_source  # noqa: E402

STEPS = 3


def told(do: Callable[[], object], steps: int, shown: int) -> None:
    """A table of operations, the dearest first, by step."""
    do()
    start = time.perf_counter()
    do()
    print(f"a step takes {(time.perf_counter() - start) / steps * 1e3:,.0f} ms, without the profiler")
    with profile(activities=[ProfilerActivity.CPU]) as found:
        do()
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    print(f"{'operation':44} {'ms a step':>10} {'share':>7} {'calls a step':>13}")
    for event in events[:shown]:
        own = event.self_cpu_time_total
        print(f"{event.key[:44]:44} {own / steps / 1e3:10.1f} {own / total:7.1%} {event.count / steps:13.0f}")
    rest = sum(event.self_cpu_time_total for event in events[shown:])
    print(f"{'all others':44} {rest / steps / 1e3:10.1f} {rest / total:7.1%}")
    print(f"{'together':44} {total / steps / 1e3:10.1f}")


def training(name: str, batch: int, winograd: bool, shown: int) -> None:
    step = Ours(name, batch, train__winograd=winograd)

    def several() -> None:
        for _ in range(STEPS):
            step()

    told(several, STEPS, shown)


def sampling(name: str, batch: int, engine: str, shown: int) -> None:
    told(ours(name, batch, engine), walked(batch), shown)


def pictures(size: int, shown: int) -> None:
    """Photographs of 256 pixels, one thread."""
    with tempfile.TemporaryDirectory() as folder:
        count = len(data.photographs(Path(folder) / "photographs", 256, 512))
        source, to = open_source(folder), decode.Fit((size, size), 3)
        for k in range(32):
            source.fitted(k, to)
        meter = cProfile.Profile()
        meter.enable()
        for k in range(count):
            source.fitted(k, to)
        meter.disable()
        pstats.Stats(meter).strip_dirs().sort_stats("tottime").print_stats(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=("training", "sampling", "data"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--no-winograd", action="store_true")
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--shown", type=int, default=14)
    given = parser.parse_args()
    name = nets.SMALL if given.small else nets.PAPER
    if given.subject == "training":
        training(name, given.batch or 8, not given.no_winograd, given.shown)
    elif given.subject == "sampling":
        sampling(name, given.batch or 1, given.engine, given.shown)
    else:
        pictures(given.size, given.shown)


if __name__ == "__main__":
    main()
