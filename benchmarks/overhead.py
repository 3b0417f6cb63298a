"""What a sampling step costs outside the net: ours, diffusers' schedulers, and the bare arithmetic, in turn.

    python benchmarks/overhead.py [--rounds 9] [--batch 1]
    python benchmarks/overhead.py --share      noise as a share of a step of the embedded model's net at batch 64

The net returns its input, so nothing but the step is timed. Noise is timed on its own line: diffusers' ancestral
step draws it with torch.randn, ours comes from addresses; "ours, noise given" leaves it out. All medians over
rounds A B C A B C …, and ratios to the bare arithmetic of the same round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

from ddpm.chain import make_chain
from ddpm.denoiser import Denoiser
from ddpm.nets import UNet
from ddpm.noise import WalkNoise
from ddpm.samplers import DDIM, Ancestral, Sampler, walk

STEPS = 1000


class Same(nn.Module):
    """A net that costs nothing."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return x


def ours(sampler: Sampler, x: Tensor, noise: Callable[[int], Tensor]) -> None:
    model = Denoiser(Same(), make_chain("linear", STEPS))
    for _ in walk(model, sampler, x, noise):
        pass


def diffusers(scheduler: DDPMScheduler | DDIMScheduler, x: Tensor) -> None:
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        x = scheduler.step(x, t, x).prev_sample


@torch.no_grad()
def bare(x: Tensor, noise: Tensor, ancestral: bool) -> None:
    """The same formulas on numbers that are already there: clip, re-derived eps or posterior mean, noise."""
    for _ in range(STEPS):
        x0 = x.sub(x, alpha=0.1).mul_(1.1).clamp_(-1.0, 1.0)
        if ancestral:
            x = (0.3 * x0).add_(x, alpha=0.7).add_(noise, alpha=0.1)
        else:
            eps = x.sub(x0, alpha=0.9).mul_(1.2)
            x = (0.5 * x0).add_(eps, alpha=0.5)


@torch.no_grad()
def share_of_noise(rounds: int, batch: int = 64) -> None:
    """Noise for a step of a small net's walk against the step itself, in turn."""
    net = (
        UNet(1, 48, (1, 2), 1, (), 0.0, groups=8, patch=2, classes=10).eval().to(memory_format=torch.channels_last)
    )
    x, label = torch.randn(batch, 1, 28, 28), torch.zeros(batch, dtype=torch.int64)
    shares = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        net(x, torch.zeros(batch), label)
        middle = time.perf_counter()
        made = WalkNoise(0, torch.arange(batch), x.shape[1:])
        for t in range(10, 0, -1):
            made(t)
        shares.append((time.perf_counter() - middle) / 10 / (middle - start))
    share = statistics.median(shares[1:])
    print(f"noise for {batch} pictures of 28 x 28: {share:.2%} of a step of the net (median of {rounds} rounds)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--share", action="store_true")
    given = parser.parse_args()
    if given.share:
        share_of_noise(given.rounds)
        return
    x = torch.randn(given.batch, 3, 32, 32)
    still = torch.randn_like(x)
    numbers = torch.arange(given.batch)
    ddpm = DDPMScheduler(STEPS, variance_type="fixed_large", clip_sample=True)
    ddim = DDIMScheduler(STEPS, clip_sample=True, set_alpha_to_one=True)

    def noise_alone() -> None:
        made = WalkNoise(0, numbers, x.shape[1:])
        for t in range(STEPS, 0, -1):
            made(t)

    def torch_noise() -> None:
        for _ in range(STEPS):
            torch.randn_like(x)

    cases: dict[str, Callable[[], None]] = {
        "ddim  bare arithmetic": lambda: bare(x, still, ancestral=False),
        "ddim  ours": lambda: ours(DDIM(), x, lambda t: still),
        "ddim  diffusers": lambda: diffusers(ddim, x),
        "ddpm  bare arithmetic": lambda: bare(x, still, ancestral=True),
        "ddpm  ours, noise given": lambda: ours(Ancestral(), x, lambda t: still),
        "ddpm  ours, noise made": lambda: ours(Ancestral(), x, WalkNoise(0, numbers, x.shape[1:])),
        "ddpm  diffusers": lambda: diffusers(ddpm, x),
        "noise ours": noise_alone,
        "noise torch.randn": torch_noise,
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for i in range(given.rounds + 1):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if i:  # the first round warms up
                times[name].append((time.perf_counter() - start) / STEPS * 1e6)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {tuple(x.shape)}, {given.rounds} rounds")
    bases = {"ddim": "ddim  bare arithmetic", "ddpm": "ddpm  bare arithmetic", "nois": "noise torch.randn"}
    for name, taken in times.items():
        base = times[bases[name[:4]]]
        ratio = statistics.median(a / b for a, b in zip(taken, base, strict=True))
        spread = f"{min(taken):7.1f} to {max(taken):7.1f}"
        print(f"{name:24} {statistics.median(taken):7.1f} µs ({spread})   {ratio:6.2f} × {bases[name[:4]][6:]}")


if __name__ == "__main__":
    main()
