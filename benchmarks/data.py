"""How fast are batches: from the decoded cache, streamed, and from JPEG files one by one as most trainers do.

    python benchmarks/data.py [--size 32] [--batch 128] [--rounds 5] [--from 32] [--workers 1,2] [--data DATA]
    python benchmarks/data.py --photographs [--rounds 9] [--workers 2] [--quick]           the fourth part, alone
    python benchmarks/data.py --fidelity FOLDER [--sizes 32,64]                the fifth, of real photographs

1. Decoding with each number of threads: as the cache is built, and as it is streamed.
2. Batches from the cache beside opening, converting and stacking JPEG files one by one, in one process.
3. Steps of a small net (forward and backward) on streamed batches, with and without decoding ahead, and on
   cached ones.
4. Building the cache from photographs of 256 and 1024 pixels, all of it (reading, hashing, decoding, writing),
   beside what diffusers' and lucidrains' examples do to each picture, in a DataLoader with as many workers: open,
   RGB, Resize (bilinear; bicubic beside it), CenterCrop, ToTensor, Normalize. No worker's start is counted.
5. How the cache's pixels differ from those of whole decoding and one filter over them, and the peers' likewise.

All that is compared is measured in turn within each round, so that a busy machine slows all of it; ratios are
medians over rounds. Pictures are smooth random JPEGs of --from pixels made here, or DATA (without part 2);
photographs are noise with the spectrum of photographs (amplitude 1/f^1.4), 2 to 3 bits a pixel as JPEGs.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ddpm.data import Order, Pictures, Source, decode, load, open_source
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


def photographs(folder: Path, side: int, count: int) -> list[Path]:
    """JPEGs with the spectrum of photographs, quality 90: a few, and the same ones shifted."""
    rng = np.random.default_rng(side)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1 / side
    few = []
    for _ in range(min(8, count)):
        x = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((3, side, side))) / frequency**1.4, (side, side))
        x = 1.5 * x.mean(axis=0) + 0.15 * x  # colours differ less than brightness
        x = 128 + 55 * (x - x.mean()) / x.std()
        few.append(np.clip(x, 0, 255).astype(np.uint8).transpose(1, 2, 0))
    folder.mkdir(parents=True)
    paths = [folder / f"{k:05}.jpg" for k in range(count)]
    for k, path in enumerate(paths):
        shifted = np.roll(few[k % len(few)], tuple(rng.integers(0, side, 2)), (0, 1))
        Image.fromarray(shifted).save(path, quality=90)
    return paths


def resized(image: Image.Image, size: int, filter_: Image.Resampling) -> Image.Image:
    """The shorter side brought to the size, then cut from the centre."""
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), filter_)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


class PeerSet(Dataset[torch.Tensor]):
    """A map-style set with the transforms of the examples, as torchvision does them to PIL pictures."""

    def __init__(self, paths: list[Path], size: int, filter_: Image.Resampling) -> None:
        self.paths, self.size, self.filter = paths, size, filter_

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        with Image.open(self.paths[i]) as image:
            pixels = np.array(resized(image.convert("RGB"), self.size, self.filter))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float().div_(255).sub_(0.5).div_(0.5)


def building(rounds: int, workers: list[int], quick: bool) -> None:
    """Pictures a second that go into the cache, and through the peers' transforms."""
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    for side, count in ((256, 64), (1024, 8)) if quick else ((256, 2048), (1024, 192)):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "pictures"
            paths = photographs(folder, side, count)
            bits = 8 * statistics.mean(path.stat().st_size for path in paths) / side**2
            source = open_source(folder)
            print(f"{count:,} photographs of {side} px, {bits:.1f} bits a pixel")
            for size in (32, 64):
                for n in workers:
                    beside_peers(source, paths, size, n, rounds, filters)


def beside_peers(
    source: Source, paths: list[Path], size: int, workers: int, rounds: int, filters: dict[str, Image.Resampling]
) -> None:
    """Ours and each of the peers' filters in turn."""
    loaders = {
        name: DataLoader(PeerSet(paths, size, filter_), 64, num_workers=workers, persistent_workers=True)
        for name, filter_ in filters.items()
    }

    def ours() -> None:
        with tempfile.TemporaryDirectory() as cache:
            load(source, (size, size), 3, cache=Path(cache), workers=workers)

    def seconds(do: Callable[[], object]) -> float:
        start = time.perf_counter()
        do()
        return time.perf_counter() - start

    ways: dict[str, Callable[[], object]] = {"ours": ours}
    ways |= {name: lambda a=loader: [len(x) for x in a] for name, loader in loaders.items()}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for k in range(rounds + 1):
        for name, do in ways.items() if k % 2 else reversed(ways.items()):
            one = seconds(do)
            if k:  # the first starts workers and fills the system's file cache
                taken[name].append(one)
    for name, times in taken.items():
        ratio = statistics.median(a / b for a, b in zip(times, taken["ours"], strict=True))
        rate_ = len(paths) / statistics.median(times)
        what = "built into the cache" if name == "ours" else f"peers' transforms, {name}"
        print(
            f"  to {size}, {workers} worker(s), {what:29} {rate_:8,.0f} pictures/s; ours is {ratio:5.2f} of that"
        )


def fidelity(source: Source, sizes: list[int]) -> None:
    """Mean absolute difference in grey levels and PSNR of JPEGs, from whole decoding and one filter over it.

    All are cut to the same square, as the cache cuts: it is filters that are compared. Of many pictures some.
    """
    filters = {"Lanczos": Image.Resampling.LANCZOS, "bicubic": Image.Resampling.BICUBIC}
    filters["bilinear"] = Image.Resampling.BILINEAR
    for size in sizes:
        found: dict[str, list[npt.NDArray[np.uint8]]] = {name: [] for name in ("ours", *filters)}
        shrunk = []
        for i in range(0, len(source), math.ceil(len(source) / 500)):
            with source.opened(i) as image:
                if image.format != "JPEG":
                    continue
                whole = decode.upright(image).convert("RGB")
            found["ours"].append(source.fitted(i, decode.Fit((size, size), 3)).transpose(1, 2, 0))
            side = min(whole.size)
            left, top = (whole.width - side) / 2, (whole.height - side) / 2
            box = (left, top, left + side, top + side)
            for name, filter_ in filters.items():
                found[name].append(np.asarray(whole.resize((size, size), filter_, box=box)))
            shrunk.append(side / size)
        if not shrunk:
            continue
        print(f"{len(shrunk):,} JPEGs of {source.name}, shrunk {statistics.median(shrunk):.1f} times to {size}")
        stacks = {name: np.stack(these).astype(np.float64) for name, these in found.items()}
        for name, other in (*(("ours", one) for one in filters), ("bilinear", "Lanczos"), ("bilinear", "bicubic")):
            what = "the cache" if name == "ours" else f"whole decoding, {name}"
            print(f"  {what:25} from whole decoding, {other + ':':9} {difference(stacks[name], stacks[other])}")


def difference(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> str:
    """In grey levels and decibels."""
    noise = float(np.square(a - b).mean())
    level = f"{10 * math.log10(255**2 / noise):.1f} dB" if noise else "none: equal"
    return f"{np.abs(a - b).mean():5.2f} grey levels, PSNR {level}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--from", type=int, default=0, dest="made")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--data", default="")
    parser.add_argument("--photographs", action="store_true")
    parser.add_argument("--fidelity", default="")
    parser.add_argument("--sizes", default="32,64")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.fidelity:
        fidelity(open_source(given.fidelity), [int(n) for n in given.sizes.split(",")])
        return
    if given.photographs:
        building(given.rounds, [int(n) for n in given.workers.split(",")], given.quick)
        return
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
