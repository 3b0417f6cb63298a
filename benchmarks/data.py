"""How fast are batches from the decoded cache, beside decoding JPEG picture by picture as most trainers do.

    python benchmarks/data.py [--size 32] [--batch 128] [--rounds 5]

Both sides give the same float batches [B, 3, size, size] for the same random pictures of a set made here, one
after the other within each round, so that a busy machine slows both. The decoding side is one process, as one
loader worker is; the cache side is the training process itself. Also how fast the cache is built.
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

from ddpm.data import Order, load, open_source

PICTURES = 4096


def make(folder: Path, size: int) -> list[Path]:
    """Smooth random JPEG pictures, which compress like photographs and not like noise."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{k:05}.jpg" for k in range(PICTURES)]
    for path in paths:
        small = Image.fromarray(rng.integers(0, 256, (max(2, size // 4), max(2, size // 4), 3), dtype=np.uint8))
        small.resize((size, size), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def decoded(paths: list[Path], index: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Open, convert, mirror, scale, stack: what a map-style data set and its collate function do."""
    pictures = []
    for k, mirror in zip(index.tolist(), flip.tolist(), strict=True):
        with Image.open(paths[k]) as image:
            pixels = np.asarray(image.convert("RGB"))
        pixels = pixels[:, ::-1] if mirror else pixels
        pictures.append(torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1.0).permute(2, 0, 1))
    return torch.stack(pictures)


def rate(batches: int, make_batch: Callable[[int], torch.Tensor], first: int) -> float:
    start = time.perf_counter()
    for step in range(first, first + batches):
        make_batch(step)
    return batches / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    size, batch = (given.size, given.size), given.batch
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pictures"
        folder.mkdir()
        paths = make(folder, given.size)
        source = open_source(folder)
        for workers in (1, 2):
            start = time.perf_counter()
            pictures = load(source, size, 3, cache=Path(temporary) / f"cache{workers}", workers=workers)
            print(f"build, {workers} worker(s): {PICTURES / (time.perf_counter() - start):8,.0f} pictures/s")
        order = Order(len(pictures), batch, seed=0)

        def from_cache(step: int) -> torch.Tensor:
            return pictures.batch(order.index(step), order.flips(step))[0]

        def from_files(step: int) -> torch.Tensor:
            return decoded(paths, order.index(step), order.flips(step))

        assert (from_cache(0) - from_files(0)).abs().max() < 1e-6
        ratios = []
        for k in range(given.rounds):
            files = rate(4, from_files, 1000 * k)
            cache = rate(200, from_cache, 1000 * k)
            ratios.append(cache / files)
            print(
                f"round {k}: cache {cache:8,.1f} batches/s ({cache * batch:10,.0f} pictures/s), "
                f"JPEG {files:6,.1f} batches/s ({files * batch:7,.0f} pictures/s), ratio {ratios[-1]:6.1f}"
            )
        print(f"median ratio {statistics.median(ratios):.1f} at {given.size}x{given.size}, batch {batch}")


if __name__ == "__main__":
    main()
