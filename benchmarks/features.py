"""A feature net of a set of pictures, for `ddpm evaluate --features` and `ddpm tune --features`.

    python benchmarks/features.py DATA TEST OUT.pt2 [--size 32] [--epochs 4]       (5 to 10 minutes on one core)

A small classifier is trained on DATA's classes, its accuracy on TEST printed, and a program exported that gives
the 128 numbers before the last layer as features, and the logits. DATA and TEST are as `ddpm train` takes them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.data import Pictures, load
from ddpm.data.files import Part
from ddpm.data.opening import find
from ddpm.memory import keep_freed_memory


class Classifier(nn.Module):
    """Two pairs of convolutions and two linear layers; uint8 [B, C, H, W] → features, None, logits."""

    def __init__(self, channels: int, size: tuple[int, int], classes: int):
        super().__init__()

        def layer(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

        self.body = nn.Sequential(
            *layer(channels, 32), *layer(32, 32), nn.MaxPool2d(2),
            *layer(32, 64), *layer(64, 64), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * (size[0] // 4) * (size[1] // 4), 128), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(128, classes))

    def forward(self, pixels: Tensor) -> tuple[Tensor, None, Tensor]:
        features = self.body(pixels.float() / 127.5 - 1.0)
        return features, None, self.head(features)


def labels_of(pictures: Pictures) -> Tensor:
    assert pictures.labels is not None, "pictures with classes are needed"
    return torch.from_numpy(pictures.labels)


@torch.no_grad()
def accuracy(net: nn.Module, pictures: Pictures) -> float:
    net.eval()
    right = 0
    for rows in torch.arange(len(pictures)).split(500):
        pixels, kept = pictures.rows(rows.numpy(), None)
        right += int((net(torch.from_numpy(pixels))[2].argmax(1) == labels_of(pictures)[kept]).sum())
    return right / len(pictures)


def train(
    net: nn.Module, pictures: Pictures, test: Pictures, epochs: int, batch: int = 128, lr: float = 3e-3
) -> None:
    steps = epochs * (len(pictures) // batch)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    course = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.25)
    answers = labels_of(pictures)
    for epoch in range(epochs):
        net.train()
        for rows in torch.randperm(len(pictures))[: steps // epochs * batch].split(batch):
            pixels, kept = pictures.rows(rows.numpy(), None)
            x = torch.from_numpy(pixels)
            flip = torch.rand(len(x)) < 0.5
            x[flip] = x[flip].flip(3)
            loss = F.cross_entropy(net(x)[2], answers[kept])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            course.step()
        print(f"epoch {epoch + 1}: {accuracy(net, test):.2%} of {len(test):,} test pictures", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("test")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    size = (given.size, given.size)
    pictures = load(find(given.data, "auto").open(Part()), size, given.channels)
    test = load(find(given.test, "auto").open(Part(known=pictures.classes)), size, given.channels)
    net = Classifier(given.channels, size, len(pictures.classes))
    train(net, pictures, test, given.epochs)
    example = torch.zeros(2, given.channels, *size, dtype=torch.uint8)
    program = torch.export.export(net.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, given.out)
    print(f"{given.out}: 128 features and logits of pictures of {size[0]} x {size[1]}")


if __name__ == "__main__":
    main()
