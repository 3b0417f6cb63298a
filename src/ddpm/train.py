"""Training as a stream of events.

A step is a function of the weights and its number k alone: which pictures, levels, noise and dropout it uses
are addressed by (seed, k), the learning rate is a formula in k. So stopping and going on changes nothing, and
no generator's state is ever saved.
"""

from __future__ import annotations

import copy
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ddpm.atomic import write_bytes
from ddpm.build import build_denoiser, build_loss, build_net, build_time_sampler
from ddpm.config import Config, OptimizerConfig
from ddpm.data import Order, Pictures, check_batch
from ddpm.errors import UserError
from ddpm.losses import Terms
from ddpm.nets.unet import check_size
from ddpm.noise import Purpose, bits, normals
from ddpm.pipeline import Pipeline
from ddpm.store import Checkpoint, Description, Facts, Run

PREVIEW_STEPS = 25


@dataclass(frozen=True)
class Began:
    """Training starts, or goes on, after `step` of `steps`."""

    step: int
    steps: int
    parameters: int
    device: str


@dataclass(frozen=True)
class Logged:
    """Means over the steps since the last one of these; seconds is the time left."""

    step: int
    loss: float
    mse: float
    lr: float
    gradient: float
    pictures_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Previewed:
    """A grid of samples was written."""

    step: int
    path: Path


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    step: int
    path: Path


@dataclass(frozen=True)
class Ended:
    """Training is over; complete unless it was told to stop."""

    step: int
    complete: bool


TrainEvent = Began | Logged | Previewed | Saved | Ended


class Trainer:
    """The moving parts: net, averaged net, optimizer."""

    def __init__(self, config: Config, pictures: Pictures, accelerator: Accelerator):
        if accelerator.num_processes > 1:
            raise UserError("several processes: this version trains with one; start it without a launcher")
        check_batch(pictures, config.train.batch)
        self.config, self.pictures, self.accelerator = config, pictures, accelerator
        device, settings = accelerator.device, config.optimizer
        net = build_net(config, len(pictures.classes))
        check_size(config.data.size, net.stride)
        net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # The averaged net is a net of its own: nothing is ever swapped, so nothing can leak back.
        self.ema = copy.deepcopy(net).eval().requires_grad_(False)
        optimizer = torch.optim.AdamW(
            net.parameters(),
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
        self.net, self.optimizer = accelerator.prepare(net, optimizer)
        self.plain = accelerator.unwrap_model(self.net)
        self.parameters = list(self.plain.parameters())
        self.averages = list(self.ema.parameters())
        self.model = build_denoiser(config, self.net)
        self.loss = build_loss(config)
        self.times = build_time_sampler(config, self.model.chain.T)
        self.order = Order(len(pictures), config.train.batch, config.train.seed)
        self.numbers = torch.arange(config.train.batch, device=device)

    def step(self, k: int) -> tuple[Terms, Tensor]:
        """Optimizer step number k, counted from 0: its terms [B], and the gradient's norm before clipping."""
        train, device = self.config.train, self.accelerator.device
        flips = self.order.flips(k) if self.config.data.flip else None
        x0, labels = self.pictures.batch(self.order.index(k), flips)
        t, weight = self.times.draw(k, train.batch)
        x0 = x0.to(device, memory_format=torch.channels_last, non_blocking=True)
        noise = normals(train.seed, Purpose.TRAIN_NOISE, self.numbers, torch.tensor([k]), x0.shape[1:])[0]
        self.net.train()
        parts = []
        for i, rows in enumerate(torch.arange(train.batch).tensor_split(train.accumulate)):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            if self.config.net.dropout > 0:
                torch.manual_seed(self._dropout_seed(k, i))
            cond = {} if labels is None else {"label": labels[part].to(device)}
            terms = self.loss(self.model, x0[part], t[part], noise[part], cond)
            self.accelerator.backward((terms.loss * weight[part].to(device)).sum() / train.batch)
            parts.append(Terms(terms.loss.detach(), terms.mse))
        clip = self.config.optimizer.clip or math.inf
        gradient = self.accelerator.clip_grad_norm_(self.parameters, clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.optimizer, k, train.steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = ema_decay(self.config.optimizer.ema, k)
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.parameters, 1.0 - decay)
        terms = Terms(*(torch.cat(values) for values in zip(*parts, strict=True)))
        self.times.update(t, terms.loss)
        return terms, torch.as_tensor(gradient)

    def _dropout_seed(self, k: int, part: int) -> int:
        address = torch.tensor([self.accelerator.process_index])
        high, low = bits(self.config.train.seed, Purpose.DROPOUT, address, k, 2 * part + 2)[0, -2:].tolist()
        return int(high << 31 ^ low)

    # -- state ---------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds: model, ema, and the optimizer's tensors by parameter name."""
        state = self.optimizer.state_dict()["state"]
        names = [name for name, _ in self.plain.named_parameters()]
        return {
            "model": self.plain.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": {f"{names[i]}:{key}": value for i, part in state.items() for key, value in part.items()},
        }

    def state(self) -> dict[str, Any]:
        """What else it holds."""
        scaler = self.accelerator.scaler
        return {} if scaler is None else {"scaler": scaler.state_dict()}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to a checkpoint."""
        self.plain.load_state_dict(checkpoint.tensors("model"))
        self.ema.load_state_dict(checkpoint.tensors("ema"))
        numbers = {name: i for i, (name, _) in enumerate(self.plain.named_parameters())}
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in checkpoint.tensors("optimizer").items():
            parameter, _, key = name.rpartition(":")
            number = numbers[parameter]
            if value.shape == self.parameters[number].shape:
                # Files hold plain tensors; the fused optimizer needs the parameter's own memory layout.
                value = torch.empty_like(self.parameters[number], dtype=value.dtype).copy_(value)
            state.setdefault(number, {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        if self.accelerator.scaler is not None and "scaler" in checkpoint.state:
            self.accelerator.scaler.load_state_dict(checkpoint.state["scaler"])


def learning_rate(settings: OptimizerConfig, k: int, steps: int) -> float:
    """The rate of step k of `steps`, counted from 0: a rise over the warm-up, then the decay to 0."""
    if k < settings.warmup:
        return settings.lr * (k + 1) / settings.warmup
    done = (k - settings.warmup) / max(1, steps - settings.warmup)
    if settings.decay == "linear":
        return settings.lr * (1.0 - done)
    if settings.decay == "cosine":
        return settings.lr * 0.5 * (1.0 + math.cos(math.pi * done))
    return settings.lr


def ema_decay(decay: float, k: int) -> float:
    """The average's decay at step k: min(decay, (1 + k)/(10 + k)).

    A fixed 0.9999 would still be 37 % initial weights after 10,000 steps; with the warm-up their share is
    9!/((n + 1) … (n + 9)) after n steps, gone after a few dozen.
    """
    return min(decay, (1 + k) / (10 + k))


def facts(pictures: Pictures) -> Facts:
    """What the run keeps of its data."""
    frequencies = pictures.frequencies()
    return Facts(
        pictures.name,
        len(pictures),
        pictures.classes,
        () if frequencies is None else tuple(float(f) for f in frequencies),
        pictures.fingerprint,
        len(pictures.skipped),
    )


def fit(
    trainer: Trainer,
    run: Run,
    description: Description,
    checkpoint: Checkpoint | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[TrainEvent]:
    """Trains to the config's last step, from a checkpoint if one is given, writing into the run's folder.

    `stop` is asked after every step; once it says so, a checkpoint is written and training ends.
    """
    config = trainer.config
    train, steps = config.train, config.train.steps
    start = 0
    if checkpoint:
        start = checkpoint.step
        trainer.restore(checkpoint)
    run.rewind(start)
    yield Began(start, steps, sum(p.numel() for p in trainer.parameters), str(trainer.accelerator.device))

    # What the next line of the log will be the mean of; part of a checkpoint, so that resuming keeps the log.
    sums = torch.zeros(3, device=trainer.accelerator.device)
    since = start
    if checkpoint:
        window = checkpoint.state["window"]
        since, sums = window["since"], sums.new_tensor(window["sums"])

    def save(step: int) -> Saved:
        if not math.isfinite(sums[0].item()):
            raise _diverged(step)
        window = {"since": since, "sums": sums.tolist()}
        state = {"images": step * train.batch, "window": window, **trainer.state()}
        return Saved(step, run.save(replace(description, step=step), trainer.tensors(), state, train.keep))

    clock, clocked = time.perf_counter(), start
    saved = start if checkpoint else -1
    step, stopped = start, start < steps and stop()
    while step < steps and not stopped:
        terms, gradient = trainer.step(step)
        step += 1
        # A gradient that overflows in half precision is skipped by the scaler, and left out here.
        gradient = torch.where(gradient.isfinite(), gradient, 0.0).to(sums.device)
        sums += torch.stack([terms.loss.mean(), terms.mse.mean(), gradient])
        stopped = stop()
        if step % train.log_every == 0 or step == steps:
            loss, mse, norm = (sums / (step - since)).tolist()
            seconds = time.perf_counter() - clock
            if not math.isfinite(loss):
                raise _diverged(step)
            speed = (step - clocked) * train.batch / seconds
            left = (steps - step) * train.batch / speed
            rate = learning_rate(config.optimizer, step - 1, steps)
            logged = Logged(step, loss, mse, rate, norm, speed, left)
            run.log({"step": step, "images": step * train.batch, **_record(logged)})
            yield logged
            sums.zero_()
            since = clocked = step
            clock = time.perf_counter()
        paused = time.perf_counter()
        if step % train.checkpoint_every == 0 or step == steps:
            yield save(step)
            saved = step
        if train.preview_every and (step % train.preview_every == 0 or step == steps):
            yield preview(trainer, run, replace(description, step=step))
        clock += time.perf_counter() - paused
    if step != saved:
        yield save(step)
    yield Ended(step, complete=step == steps)


def _diverged(step: int) -> UserError:
    return UserError(
        f"step {step}: the loss is no longer a number, and nothing was saved since it was; start another run with "
        "a lower --lr, or with --train.precision no"
    )


def preview(trainer: Trainer, run: Run, description: Description) -> Previewed:
    """Samples of the averaged net from the same seed at every time, a row a class."""
    model = build_denoiser(trainer.config, trainer.ema)
    pipeline = Pipeline(model, description, run.folder.name)
    count, columns, labels = preview_layout(len(pipeline.classes))
    pixels = pipeline.sample(count, steps=min(PREVIEW_STEPS, model.chain.T), label=labels).grid(columns)
    folder = run.folder / "samples"
    folder.mkdir(exist_ok=True)
    path = folder / f"{description.step:09d}.png"
    png = io.BytesIO()
    pixels.save(png, "png")
    write_bytes(path, png.getvalue())
    return Previewed(description.step, path)


def preview_layout(classes: int) -> tuple[int, int, list[int] | None]:
    """How many pictures a preview has, in how many columns, with which labels: at most ten classes are shown.

    Many classes are columns, few are rows.
    """
    if not classes:
        return 36, 6, None
    shown = min(classes, 10)
    if shown > 6:
        return 4 * shown, shown, list(range(shown)) * 4
    return 8 * shown, 8, [i for i in range(shown) for _ in range(8)]


def _record(logged: Logged) -> dict[str, float]:
    return {
        "loss": logged.loss,
        "mse": logged.mse,
        "lr": logged.lr,
        "gradient": logged.gradient,
        "pictures_per_second": round(logged.pictures_per_second, 2),
    }
