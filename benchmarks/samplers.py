"""Quality against evaluations of the net: every sampler, by the Fréchet distance in a feature net.

    python benchmarks/samplers.py MODEL DATA NET.pt2 KEPT.jsonl [-n 1000] [--seeds 0] [--evaluations 5,10,20,50]
                                  [--ancestral 250,1000] [--table]

Every row that is done stands in KEPT.jsonl, so that the same command goes on after a stop; --table prints what is
there. The features of NET.pt2 (benchmarks/features.py makes one) of n samples are compared with those of all of
DATA, as the model takes it. Classes are as frequent as in its training data. A row's seed is that of its samples.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import ddpm
from ddpm.evaluate import open_reference
from ddpm.evaluate.features import FeatureNet, open_features
from ddpm.evaluate.scores import Moments, frechet
from ddpm.memory import keep_freed_memory
from ddpm.pipeline import Pipeline

SETTINGS: tuple[tuple[str, dict[str, Any], tuple[str, ...]], ...] = (
    ("dpm++sde", {}, ("trailing", "log-snr")),
    ("dpm++", {}, ("trailing", "log-snr", "uniform", "edm")),
    ("ddim", {}, ("uniform", "trailing", "log-snr")),
    ("heun", {}, ("log-snr", "edm")),
    ("heun", {"churn": 5.0}, ("edm",)),
    ("pc", {}, ("uniform",)),
    ("ddpm", {}, ("uniform", "trailing")),
)


def moments_of(pixels: np.ndarray, net: FeatureNet) -> Moments:
    return Moments.of(net(pixels).pooled)


def steps_of(sampler: str, evaluations: int) -> int:
    """The most steps that so many evaluations allow."""
    return {"heun": (evaluations + 1) // 2, "pc": evaluations // 2}.get(sampler, evaluations)


def rows(evaluations: list[int], ancestral: list[int]) -> Iterator[tuple[str, dict[str, Any], str, int]]:
    for count in evaluations:
        for sampler, options, grids in SETTINGS:
            for grid in grids:
                if count == 20 or grid == grids[0]:  # `ddpm tune` tries them all
                    yield sampler, options, grid, count
    for count in ancestral:
        yield "ddpm", {}, "uniform", count


def measure(model: Pipeline, reference: Moments, net: FeatureNet, n: int, seed: int, row: Any) -> dict[str, Any]:
    sampler, options, grid, count = row
    steps, start = steps_of(sampler, count), time.perf_counter()
    samples = model.sample(n, sampler=sampler, steps=steps, grid=grid, seed=seed, **options)
    drawn = time.perf_counter() - start
    return {
        "sampler": sampler,
        "grid": grid,
        "evaluations": count,
        "steps": steps,
        "options": options,
        "n": n,
        "seed": seed,
        "distance": frechet(moments_of(samples.pixels, net), reference),
        "features": net.name,
        "seconds": round(drawn, 1),
        "checkpoint": model.checkpoint,
    }


def table(kept: list[dict[str, Any]]) -> None:
    found: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in kept:
        options = "".join(f" {name} {value:g}" for name, value in one["options"].items())
        found[one["sampler"] + options, one["grid"]][one["evaluations"]].append(one["distance"])
    counts = sorted({one["evaluations"] for one in kept})
    print("| sampler | grid | " + " | ".join(map(str, counts)) + " |")
    print("|---" * (2 + len(counts)) + "|")
    for (sampler, grid), by in found.items():
        cells = [
            f"{np.mean(by[c]):.2f}" + (f" ± {np.std(by[c], ddof=1):.2f}" if len(by[c]) > 1 else "")
            if by[c]
            else ""
            for c in counts
        ]
        print(f"| {sampler} | {grid} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("net")
    parser.add_argument("kept", type=Path)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--evaluations", default="5,10,20,50")
    parser.add_argument("--ancestral", default="250,1000")
    parser.add_argument("--only", default="", help="samplers, with commas between; all without")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    kept = [json.loads(line) for line in given.kept.read_text().splitlines()] if given.kept.is_file() else []
    if given.table:
        return table(kept)
    keep_freed_memory()
    model, net = ddpm.load(given.model), open_features(given.net)
    pictures = open_reference(given.data, model).pictures
    pooled = [net(pictures.rows(part, None)[0]).pooled for part in np.array_split(np.arange(len(pictures)), 50)]
    reference = Moments.of(np.concatenate([part.numpy() for part in pooled]))
    names = ("sampler", "options", "grid", "evaluations", "seed", "n")
    done = [tuple(one[name] for name in names) for one in kept]
    evaluations, ancestral = (
        [int(c) for c in text.split(",") if c] for text in (given.evaluations, given.ancestral)
    )
    for seed in map(int, given.seeds.split(",")):
        for row in rows(evaluations, ancestral):
            if (*row[:4], seed, given.n) in done or (given.only and row[0] not in given.only.split(",")):
                continue
            made = measure(model, reference, net, given.n, seed, row)
            with given.kept.open("a") as file:
                file.write(json.dumps(made) + "\n")
            what = f"{made['sampler']} {made['options'] or ''} {made['grid']} {made['evaluations']} seed {seed}"
            print(f"{what}: {made['distance']:.2f} ({made['seconds']} s)", flush=True)
    return None


if __name__ == "__main__":
    main()
