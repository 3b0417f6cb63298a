"""Are class-conditional samples what was asked for? A classifier trained on real pictures says.

    python benchmarks/recognise.py train TRAIN_IMAGES TRAIN_LABELS TEST_IMAGES TEST_LABELS   (about 5 minutes)
    python benchmarks/recognise.py score MODEL [MODEL ...] [-n 1000] [--steps 20] [--seed 0]

The four files are Fashion-MNIST's, as IDX. `train` prints the classifier's own accuracy on the test pictures and
keeps it in benchmarks/recogniser.pt; `score` draws as many pictures of each class and prints how many are
recognised as the class asked for, the classifier's own figure beside it.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ddpm
from ddpm.memory import keep_freed_memory

KEPT = Path(__file__).with_name("recogniser.pt")


def classifier() -> nn.Module:
    """Two pairs of convolutions and two linear layers: about 92.5 % on the 10,000 test pictures."""

    def layer(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *layer(1, 32), *layer(32, 32), nn.MaxPool2d(2),
        *layer(32, 64), *layer(64, 64), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10),
    )  # fmt: skip


def idx(path: Path) -> np.ndarray:
    data = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def as_input(pixels: np.ndarray) -> Tensor:
    return torch.tensor(pixels).float().div(127.5).sub(1.0).view(-1, 1, 28, 28)


@torch.no_grad()
def accuracy(net: nn.Module, pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each picture, whether it is recognised."""
    net.eval()
    guesses = torch.cat([net(as_input(part)).argmax(1) for part in np.array_split(pixels, -(-len(pixels) // 500))])
    return guesses.numpy() == labels


def train(files: list[Path], epochs: int = 4, batch: int = 128, lr: float = 3e-3) -> None:
    pixels, labels, test_pixels, test_labels = map(idx, files)
    torch.manual_seed(0)
    net = classifier()
    steps = epochs * (len(pixels) // batch)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    course = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.25)
    answers = torch.from_numpy(labels.astype(np.int64))
    for epoch in range(epochs):
        net.train()
        for rows in torch.randperm(len(pixels))[: steps // epochs * batch].split(batch):
            x = as_input(pixels[rows.numpy()])
            flip = torch.rand(len(x)) < 0.5
            x[flip] = x[flip].flip(3)
            loss = F.cross_entropy(net(x), answers[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            course.step()
        own = accuracy(net, test_pixels, test_labels).mean()
        print(f"epoch {epoch + 1}: {own:.2%} of the real test pictures", flush=True)
    torch.save({"net": net.state_dict(), "own": float(own)}, KEPT)


def score(models: list[str], n: int, steps: int, seed: int) -> None:
    if not KEPT.exists():
        raise SystemExit(f"{KEPT} is missing: make it with the train command (see --help)")
    kept = torch.load(KEPT, weights_only=True)
    net = classifier()
    net.load_state_dict(kept["net"])
    print(f"the classifier itself: {kept['own']:.2%} of the 10,000 real test pictures")
    for name in models:
        model = ddpm.load(name)
        each = -(-n // 10)
        asked = np.repeat(np.arange(10), each)
        samples = model.sample(len(asked), sampler="ddim", steps=steps, seed=seed, label=asked.tolist())
        right = accuracy(net, samples.pixels[:, 0], asked)
        print(f"{name}: {right.mean():.2%} of {len(asked)} samples, ddim {steps} steps, seed {seed}")
        shares = right.reshape(10, each).mean(1)
        print("  " + "  ".join(f"{c} {s:.0%}" for c, s in zip(model.classes, shares, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train").add_argument("files", type=Path, nargs=4)
    scored = commands.add_parser("score")
    scored.add_argument("models", nargs="+")
    scored.add_argument("-n", type=int, default=1000)
    scored.add_argument("--steps", type=int, default=20)
    scored.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    keep_freed_memory()
    if given.command == "train":
        train(given.files)
    else:
        score(given.models, given.n, given.steps, given.seed)


if __name__ == "__main__":
    main()
