"""How much the gradient of a batch varies, by how its levels t are drawn.

    python benchmarks/gradient_noise.py runs/vlb --reference fashion --batches 200
    python benchmarks/gradient_noise.py runs/hybrid --reference fashion --loss simple hybrid vlb

Nothing is trained: the weights stay as the model has them. For every sampler of t so many batches are drawn, each
with pictures, levels and noise of its own. With g a batch's gradient and G = E[g], which no sampler may change,

    noise     tr Cov(g) / |G|²
    scale     batch size · noise: pictures at which noise and signal are alike   (McCandlish et al. 2018, eq. 2.8)

tr Cov is the mean over batches of the squared distance of g from the mean of the i before it, times i/(i + 1):
each is unbiased and they are uncorrelated, so they bring their own standard error. |G|² is the mean inner product
of the samplers' mean gradients, which are independent, so it is unbiased too. Whether the mean gradients agree is
tested by exchanging batches between samplers: p is the share of exchanges that lie as far apart.

The losses that loss-second-moment goes by are those of the training's checkpoint (times.safetensors), or, where it
has none or the loss is another than the model's, ten drawn at each level with these weights.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.build import build_denoiser, build_loss, build_net
from ddpm.config import Config
from ddpm.data import Order, Pictures, load, open_sources
from ddpm.errors import UserError
from ddpm.loading import find, pick_device
from ddpm.losses import Loss
from ddpm.memory import keep_freed_memory
from ddpm.noise import Purpose, normals
from ddpm.store import load_weights
from ddpm.timesteps import LossSecondMoment, TimeSampler, make_time_sampler

SAMPLERS = ("uniform", "low-discrepancy", "loss-second-moment")
SKETCH = 2048  # numbers that stand for a gradient in the test; inner products of sums of them are off by 2 %
EXCHANGES = 999
DIFFERENT = 0.001  # p from which on the mean gradients are said to differ


class Measured(NamedTuple):
    """Of a sampler's batches: the mean gradient [P], squared distances [n − 1], sketches [n, SKETCH], losses."""

    mean: Tensor
    distances: list[float]
    sketches: Tensor
    losses: list[float]

    @property
    def variance(self) -> float:
        """tr Cov(g)."""
        return statistics.mean(self.distances)

    @property
    def error(self) -> float:
        """Its standard error."""
        return statistics.stdev(self.distances) / math.sqrt(len(self.distances))


class Subject:
    """A net with its data and loss, and the gradient of any of their batches."""

    def __init__(self, config: Config, weights: dict[str, Tensor], pictures: Pictures, device: torch.device):
        net = build_net(config, len(pictures.classes))
        net.load_state_dict(weights)
        self.net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config, self.pictures, self.device = config, pictures, device
        self.model, self.loss = build_denoiser(config, self.net), build_loss(config)
        self.parameters = list(self.net.parameters())

    def losses(self, order: Order, k: int, t: Tensor, loss: Loss | None = None) -> Tensor:
        """Each picture's loss [B] at these levels, for the pictures and the noise of step k of an order."""
        config = self.config
        flips = order.flips(k) if config.data.flip else None
        places = order.places(k) if config.data.crop == "random" else None
        x0, labels = self.pictures.batch(order.index(k), flips, places)
        x0 = x0.to(self.device, memory_format=torch.channels_last)
        numbers = torch.arange(order.batch, device=self.device)
        noise = normals(order.seed, Purpose.TRAIN_NOISE, numbers, torch.tensor([k]), x0.shape[1:])[0]
        cond = {} if labels is None else {"label": labels.to(self.device)}
        torch.manual_seed(order.seed + k)  # of the dropout
        return self.loss(self.model, x0, t, noise, cond).loss

    def gradient(self, loss: Tensor) -> Tensor:
        """∇loss as one float64 vector."""
        found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g for g, p in zip(found, self.parameters, strict=True)]
        return torch.cat([part.flatten() for part in parts]).double()


def stored_history(folder: Path, T: int, seed: int) -> LossSecondMoment | None:
    """As the training left it; None without one that knows every level."""
    if not (folder / "times.safetensors").is_file():
        return None
    times = LossSecondMoment(T, seed)
    times.restore(load_weights(folder / "times.safetensors")[0])
    return times if bool((times.counts >= times.losses.shape[1]).all()) else None


def fresh_history(subject: Subject, seed: int) -> LossSecondMoment:
    """A sampler that knows ten losses of every level with these weights, each of another picture."""
    T, batch = subject.model.chain.T, 64
    times = LossSecondMoment(T, seed)
    levels = torch.arange(times.losses.numel()) % T + 1
    order = Order(len(subject.pictures), min(batch, len(subject.pictures)), seed)
    with torch.no_grad():
        for k in range(-(-len(levels) // order.batch)):
            t = levels.roll(-k * order.batch)[: order.batch]  # the last batch begins anew
            times.update(t, subject.losses(order, k, t))
    return times


def measure(subject: Subject, times: TimeSampler, batches: int, batch: int, seed: int) -> Measured:
    """The gradients of so many batches, one after another; kept are sums and sketches."""
    order = Order(len(subject.pictures), batch, seed)
    count = sum(p.numel() for p in subject.parameters)
    # Each element goes, with a random sign, to a random one of the sketch's numbers: the same for all samplers.
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(SKETCH, (count,), generator=generator).to(subject.device)
    signs = (torch.randint(2, (count,), generator=generator) * 2.0 - 1.0).double().to(subject.device)
    mean = torch.zeros(count, dtype=torch.float64, device=subject.device)
    sketches, distances, losses = [], [], []
    for i in range(batches):
        t, weight = times.draw(i, batch)
        loss = (subject.losses(order, i, t) * weight.to(subject.device)).mean()
        gradient = subject.gradient(loss)
        losses.append(loss.item())
        apart = gradient - mean
        if i:
            distances.append(apart.square().sum().item() * i / (i + 1))
        mean += apart / (i + 1)
        sketch = torch.zeros(SKETCH, dtype=torch.float64, device=subject.device)
        sketches.append(sketch.index_add_(0, places, signs * gradient))
    return Measured(mean, distances, torch.stack(sketches).cpu(), losses)


def signal(all_measured: list[Measured]) -> tuple[float, float]:
    """|G|² and its standard error, from inner products of the mean gradients of different samplers."""
    values, errors = [], []
    for i, one in enumerate(all_measured):
        for other in all_measured[:i]:
            values.append((one.mean @ other.mean).item())
            # along(a) spreads as the inner product does when a's batches are drawn anew
            along = [a.sketches @ b.sketches.mean(0) for a, b in ((one, other), (other, one))]
            errors.append(math.sqrt(sum(a.var().item() / len(a) for a in along)))
    return statistics.mean(values), statistics.mean(errors)  # each error is of a pair: of the mean it is no more


def disagreement(one: Measured, other: Measured, seed: int = 0) -> tuple[float, float]:
    """|difference of the mean gradients|² as a multiple of what chance makes of it on average, and p."""
    both, n = torch.cat([one.sketches, other.sketches]), len(one.sketches)
    generator = torch.Generator().manual_seed(seed)
    found = (one.sketches.mean(0) - other.sketches.mean(0)).square().sum()
    here = torch.rand(EXCHANGES, len(both), generator=generator).argsort(1) < n  # n places of each row, at random
    sides = torch.where(here, 1.0 / n, -1.0 / (len(both) - n)).double()
    by_chance = (sides @ both).square().sum(1)
    p = (1 + int((by_chance >= found).sum())) / (1 + EXCHANGES)
    return (found / by_chance.mean()).item(), p


def report(all_measured: dict[str, Measured], batch: int) -> bool:
    """Prints the table and the tests; whether all mean gradients agree."""
    square, doubt = signal(list(all_measured.values()))
    print(f"|mean gradient|² {square:.4g} ± {doubt:.2g}")
    known = square > 2 * doubt
    if not known:
        print("that is too uncertain to divide by: take more --batches")
    print(f"{'sampler of t':<20}{'tr Cov(g)':>22}{'noise':>10}{'scale':>12}{'loss':>22}")
    for name, one in all_measured.items():
        variance = f"{one.variance:.4g} ± {one.error:.2g}"
        loss = f"{statistics.mean(one.losses):.4f} ± "
        loss += f"{statistics.stdev(one.losses) / math.sqrt(len(one.losses)):.2g}"
        relative = one.variance / square
        noise, scale = (f"{relative:.3g}", f"{batch * relative:,.0f}") if known else ("-", "-")
        print(f"{name:<20}{variance:>22}{noise:>10}{scale:>12}{loss:>22}")
    best = all_measured[SAMPLERS[-1]]
    agree = True
    for name, one in all_measured.items():
        if one is best:
            continue
        ratio = one.variance / best.variance
        error = ratio * math.hypot(one.error / one.variance, best.error / best.variance)
        times, p = disagreement(one, best)
        agree &= p > DIFFERENT
        print(
            f"{name} against {SAMPLERS[-1]}: {ratio:.2f} ± {error:.2f} times the variance; the mean gradients lie "
            f"{times:.2f} times as far apart as by chance (squared, p = {p:.3f})"
        )
    return agree


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a run, a checkpoint, a .safetensors file or an embedded name")
    parser.add_argument(
        "--reference", nargs="+", help="DATA the batches are of; by default what it was trained on"
    )
    parser.add_argument("--batches", type=int, default=200, help="of each sampler")
    parser.add_argument("--batch", type=int, help="pictures in each; by default the training's")
    parser.add_argument(
        "--loss", nargs="+", choices=("simple", "hybrid", "vlb"), help="by default the model's own"
    )
    parser.add_argument("--weights", choices=("model", "ema"), default="model", help="trained, or their averages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    options = parser.parse_args()
    if options.batches < 10:
        parser.error("--batches: at least 10")
    keep_freed_memory()
    path, _ = find(options.model, options.weights)
    weights, description = load_weights(path)
    config, device = description.config, pick_device(options.device)
    batch = options.batch or config.train.batch
    data = config.data
    source, _ = open_sources(
        options.reference or data.path, "auto" if description.facts.classes else "none", data.holdout
    )
    pictures = load(source, data.size, data.channels, crop=data.crop, background=data.background)
    if pictures.classes != description.facts.classes:
        raise UserError(f"--reference {source.name}: its classes are not those of {options.model}")
    agree = True
    for kind in options.loss or (config.loss.kind,):
        subject = Subject(
            config.with_(loss__kind=kind), {key: value.float() for key, value in weights.items()}, pictures, device
        )
        T = subject.model.chain.T
        learned = stored_history(path.parent, T, options.seed) if kind == config.loss.kind else None
        history = "losses of the checkpoint" if learned else "losses drawn with these weights"
        learned = learned or fresh_history(subject, options.seed)
        print(
            f"\n{path}, step {description.step:,}: loss {kind}, {T:,} levels, "
            f"{sum(p.numel() for p in subject.parameters):,} parameters; {options.batches} batches of {batch} a "
            f"sampler; {SAMPLERS[-1]} by {history}"
        )
        found, start = {}, time.perf_counter()
        for number, name in enumerate(SAMPLERS, 1):
            seed = options.seed + 1000 * number
            times = learned if name == SAMPLERS[-1] else make_time_sampler(name, T, seed)
            found[name] = measure(subject, times, options.batches, batch, seed)
        agree &= report(found, batch)
        print(f"{time.perf_counter() - start:.0f} s on {device}, torch {torch.__version__}")
    if not agree:
        print("the mean gradients differ: a sampler is biased", file=sys.stderr)
    return 0 if agree else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
