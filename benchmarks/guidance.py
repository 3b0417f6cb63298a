"""What guidance does to samples: how many are of the class asked for, and how alike they become.

    python benchmarks/recognise.py train TRAIN_IMAGES TRAIN_LABELS TEST_IMAGES TEST_LABELS         (once)
    python benchmarks/guidance.py TEST_IMAGES TEST_LABELS --free RUN --by RUN --model MODEL [-n 500] [--out DIR]

The files are Fashion-MNIST's, as IDX. --free is a model trained with --label-drop, guided without a classifier;
--by is a run of `--task classifier`, which guides --model. For each scale it draws as many pictures of each class
with the same seed, so that only the guidance differs, and prints

    agreement   the share that another classifier, trained on clean pictures, takes for the class asked for
    spread      the mean distance of two pictures of a class, in pixels and in that classifier's features (128
                numbers before its last layer), as a multiple of the same among real test pictures: 1 is as
                diverse as the data

and writes a figure with a row a scale and a column a class.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from recognise import KEPT, accuracy, as_input, classifier, idx
from torch import Tensor, nn

import ddpm
from ddpm.draw.plots import Row, table, write
from ddpm.memory import keep_freed_memory

FREE = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
BY = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True)
class Judge:
    """The other classifier, and what real pictures are like to it."""

    net: nn.Module
    pixels: np.ndarray
    labels: np.ndarray

    @torch.no_grad()
    def features(self, pixels: np.ndarray) -> Tensor:
        body = self.net[:-1]
        return torch.cat([body(as_input(part)) for part in np.array_split(pixels, -(-len(pixels) // 500))])

    def spread(self, pixels: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """The mean distance of two pictures of a class, in pixels and in features."""
        each = as_input(pixels).flatten(1), self.features(pixels)
        of = torch.from_numpy(labels)
        return tuple(float(np.mean([torch.pdist(x[of == k]).mean().item() for k in range(10)])) for x in each)


def show(
    judge: Judge,
    name: str,
    model: ddpm.Pipeline,
    guides: list[tuple[float, ddpm.Guide]],
    given: argparse.Namespace,
) -> list[Row]:
    """Prints a line a scale; returns the first picture of each class at each."""
    asked = np.repeat(np.arange(10), -(-given.n // 10))
    rows = []
    real = judge.spread(*sample_of(judge, len(asked) // 10))
    print(f"\n{name}: {len(asked)} samples a line, {given.sampler} with {given.steps} steps, seed {given.seed}")
    print("scale  agreement      spread in pixels  in features")
    for scale, guide in guides:
        samples = model.sample(
            len(asked),
            sampler=given.sampler,
            steps=given.steps,
            seed=given.seed,
            label=asked.tolist(),
            guide=guide,
        )
        right = accuracy(judge.net, samples.pixels[:, 0], asked)
        error = np.sqrt(right.mean() * (1 - right.mean()) / len(right))
        spread = judge.spread(samples.pixels[:, 0], asked)
        line = f"{scale:5g}   {right.mean():.1%} ± {error:.1%}"
        print(f"{line}   {spread[0] / real[0]:16.2f}   {spread[1] / real[1]:10.2f}", flush=True)
        rows.append(Row(f"s = {scale:g}", samples.pixels[:: len(asked) // 10]))
    return rows


def sample_of(judge: Judge, each: int) -> tuple[np.ndarray, np.ndarray]:
    """So many real pictures of each class."""
    rows = np.concatenate([np.flatnonzero(judge.labels == k)[:each] for k in range(10)])
    return judge.pixels[rows], judge.labels[rows].astype(np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs=2)
    parser.add_argument("--free")
    parser.add_argument("--by")
    parser.add_argument("--model", default="fashion")
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument("--sampler", default="ddim")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scales", type=float, nargs="+")
    parser.add_argument("--out", type=Path, default=Path())
    given = parser.parse_args()
    if not KEPT.exists():
        raise SystemExit(f"{KEPT} is missing: make it with benchmarks/recognise.py train")
    keep_freed_memory()
    kept = torch.load(KEPT, weights_only=True)
    net = classifier()
    net.load_state_dict(kept["net"])
    net.eval()
    judge = Judge(net, *map(idx, given.files))
    print(f"the judging classifier: {kept['own']:.2%} of the 10,000 real test pictures; their spread is 1")
    for name, model, scales in (("free", given.free, FREE), ("by", given.by, BY)):
        if model is None:
            continue
        chosen = given.scales or scales
        if name == "free":
            guides = [(s, ddpm.Guide(cfg_scale=s)) for s in chosen]
            drawn, title = ddpm.load(model), f"classifier-free, {model}"
        else:
            noisy = ddpm.load_classifier(model)
            guides = [(s, ddpm.Guide(classifier=noisy, classifier_scale=s)) for s in chosen]
            drawn, title = ddpm.load(given.model), f"{given.model} by the classifier {model}"
        rows = show(judge, title, drawn, guides, given)
        given.out.mkdir(parents=True, exist_ok=True)
        path = given.out / f"guidance-{name}-{given.sampler}.png"
        print(f"open {write(table(rows, list(ddpm.load('fashion').classes), width=112), path)}")


if __name__ == "__main__":
    main()
