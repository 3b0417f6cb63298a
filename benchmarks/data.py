"""How fast are batches: from the decoded cache, streamed, and from JPEG files one by one as most trainers do.

    python benchmarks/data.py [--size 32] [--batch 128] [--rounds 5] [--from 32] [--workers 1,2] [--data DATA]

1. Decoding with each number of threads: as the cache is built, and as it is streamed.
2. Batches from the cache beside opening, converting and stacking JPEG files one by one, in one process.
3. Steps of a small net (forward and backward) on streamed batches, with and without decoding ahead, and on
   cached ones.

All that is compared is measured in turn within each round, so that a busy machine slows all of it; ratios are
medians over rounds. Pictures are smooth random JPEGs of --from pixels made here, or DATA (without part 2).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ddpm.data import Order, Pictures, Source, load, open_source
from ddpm.nets.unet import UNet

PICTURES = 4096


def make(folder: Path, size: int) -> list[Path]:
    """Smooth random JPEG pictures, which compress like photographs and not like noise."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{k:05}.jpg" for k in range(PICTURES)]
    for path in paths:
        small = Image.fromarray(rng.integers(0, 256, (max(2, size // 4), max(2, size // 4), 3), dtype=np.uint8))
        small.resize((size, size), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def decoded(paths: list[Path], size: tuple[int, int], index: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Open, convert, resize, mirror, scale, stack: what a map-style data set and its collate function do."""
    pictures = []
    for k, mirror in zip(index.tolist(), flip.tolist(), strict=True):
        with Image.open(paths[k]) as image:
            pixels = np.asarray(image.convert("RGB").resize(size[::-1], Image.Resampling.LANCZOS))
        pixels = pixels[:, ::-1] if mirror else pixels
        pictures.append(torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1.0).permute(2, 0, 1))
    return torch.stack(pictures)


def rate(steps: int, do: Callable[[int], object], first: int) -> float:
    """Steps a second."""
    start = time.perf_counter()
    for step in range(first, first + steps):
        do(step)
    return steps / (time.perf_counter() - start)


def threads(source: Source, size: tuple[int, int], batch: int, rounds: int, workers: list[int]) -> None:
    """Pictures a second, built and streamed, by the number of threads."""
    order = Order(len(source), batch, seed=0)
    streams = {n: load(source, size, 3, keep="never", workers=n) for n in workers}
    built: dict[int, list[float]] = {n: [] for n in workers}
    streamed: dict[int, list[float]] = {n: [] for n in workers}
    for k in range(rounds):
        for n in workers if k % 2 else reversed(workers):
            with tempfile.TemporaryDirectory() as cache:
                calls: list[tuple[float, int]] = []  # from the first task done on: hashing is not meant

                def told(stage: str, done: int, total: int, calls: list[tuple[float, int]] = calls) -> None:
                    if stage == "decoding":
                        calls.append((time.perf_counter(), done))

                load(source, size, 3, cache=Path(cache), workers=n, progress=told)
                built[n].append((calls[-1][1] - calls[0][1]) / (calls[-1][0] - calls[0][0]))
            stream = streams[n]
            streamed[n].append(batch * rate(8, lambda step, s=stream: s.batch(order.index(step)), 1000 * k))
    for what, speeds in (("built", built), ("streamed", streamed)):
        for n in workers:
            ratio = statistics.median(a / b for a, b in zip(speeds[n], speeds[workers[0]], strict=True))
            print(f"{what:9} {n:2} thread(s): {statistics.median(speeds[n]):8,.0f} pictures/s, ratio {ratio:5.2f}")


def beside_files(kept: Pictures, paths: list[Path], batch: int, rounds: int) -> None:
    """Batches from the cache and from JPEG files."""
    order = Order(len(kept), batch, seed=0)

    def from_cache(step: int) -> torch.Tensor:
        return kept.batch(order.index(step), order.flips(step))[0]

    def from_files(step: int) -> torch.Tensor:
        return decoded(paths, kept.size, order.index(step), order.flips(step))

    ratios = []
    for k in range(rounds):
        files = rate(4, from_files, 1000 * k)
        cache = rate(200, from_cache, 1000 * k)
        ratios.append(cache / files)
        print(
            f"round {k}: cache {cache:8,.1f} batches/s ({cache * batch:10,.0f} pictures/s), "
            f"JPEG {files:6,.1f} batches/s ({files * batch:7,.0f} pictures/s), ratio {ratios[-1]:6.1f}"
        )
    print(f"cache beside files: median ratio {statistics.median(ratios):.1f}")


def with_net(kept: Pictures, stream: Pictures, batch: int, rounds: int, steps: int) -> None:
    """Steps a second of forward and backward through a small net."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = UNet(3, 16, (1, 2), 1, (), dropout=0.0, groups=8).to(device)
    order = Order(len(kept), batch, seed=0)

    def step(pictures: Pictures, ahead: bool, k: int) -> None:
        x = pictures.batch(order.index(k), order.flips(k))[0].to(device)
        if ahead:
            pictures.ahead(order.index(k + 1))
        net(x, torch.zeros(batch, device=device)).square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    kinds = {"cached": (kept, False), "streamed": (stream, False), "streamed, ahead": (stream, True)}
    speeds: dict[str, list[float]] = {name: [] for name in kinds}
    for pictures, ahead in kinds.values():
        step(pictures, ahead, 0)
    for k in range(rounds):
        for name, (pictures, ahead) in kinds.items():
            speeds[name].append(rate(steps, lambda i, p=pictures, a=ahead: step(p, a, i), 1000 * (k + 1)))
    for name, values in speeds.items():
        ratio = statistics.median(a / b for a, b in zip(values, speeds["cached"], strict=True))
        print(f"net on {device.type}, {name:16} {statistics.median(values):8.2f} steps/s, {ratio:5.2f} of cached")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--from", type=int, default=0, dest="made")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--data", default="")
    given = parser.parse_args()
    size, workers = (given.size, given.size), [int(n) for n in given.workers.split(",")]
    made = given.made or given.size
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pictures"
        folder.mkdir()
        paths = [] if given.data else make(folder, made)
        source = open_source(given.data or folder)
        print(f"{len(source):,} pictures brought to {given.size}x{given.size}, batch {given.batch}")
        threads(source, size, given.batch, given.rounds, workers)
        kept = load(source, size, 3, cache=Path(temporary) / "cache")
        if paths:
            beside_files(kept, paths, given.batch, given.rounds)
        stream = load(source, size, 3, keep="never", workers=workers[-1])
        with_net(kept, stream, given.batch, given.rounds, given.steps)


if __name__ == "__main__":
    main()
