"""Training as a stream of events.

A step is a function of the weights and its number k alone: which pictures, levels, noise and dropout it uses
are addressed by (seed, k), the learning rate is a formula in k. So stopping and going on changes nothing, and
no generator's state is ever saved.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from ddpm.build import build_denoiser, build_loss, build_net, build_time_sampler
from ddpm.config import Config, OptimizerConfig
from ddpm.data import Order, Pictures, check_batch
from ddpm.errors import UserError
from ddpm.events import Began, Ended, Evaluated, Logged, Saved, Stepped, TrainEvent
from ddpm.losses import Terms
from ddpm.nets.unet import check_size
from ddpm.noise import Purpose, bits, normals
from ddpm.pipeline import Pipeline
from ddpm.preview import preview
from ddpm.store import Checkpoint, Description, Facts, Run

QUARTERS = 4
HELD_OUT = 256  # pictures at the most, of either kind


class Result(NamedTuple):
    """A step's terms [B], the gradient's norm before clipping, the levels int64[B] and their weights [B]."""

    terms: Terms
    gradient: Tensor
    t: Tensor
    weight: Tensor


class Trainer:
    """The moving parts: net, averaged net, optimizer."""

    def __init__(
        self,
        config: Config,
        pictures: Pictures,
        accelerator: Accelerator,
        held_out: Pictures | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ):
        """held_out: pictures to measure on and never to train on; weights: to start from, else fresh ones."""
        if accelerator.num_processes > 1:
            raise UserError("several processes: this version trains with one; start it without a launcher")
        check_batch(pictures, config.train.batch)
        if config.train.precision == "fp16" and accelerator.device.type != "cuda":
            raise UserError("--precision fp16: needs a CUDA device; take bf16, or leave it out")
        self.config, self.pictures, self.accelerator = config, pictures, accelerator
        self.held_out = held_out
        device, settings = accelerator.device, config.optimizer
        net = build_net(config, len(pictures.classes))
        check_size(config.data.size, net.stride)
        if weights is not None:
            net.load_state_dict(weights)
        net.checkpoint_activations = config.train.checkpoint_activations
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
        # The compiled net shares its weights with the plain one, which previews and checkpoints use.
        self.model = build_denoiser(config, _compiled(self.net) if config.train.compile else self.net)
        self.loss = build_loss(config)
        self.times = build_time_sampler(config, self.model.chain.T)
        self.order = Order(len(pictures), config.train.batch, config.train.seed)
        self.numbers = torch.arange(config.train.batch, device=device)

    def step(self, k: int) -> Result:
        """Optimizer step number k, counted from 0."""
        train, device = self.config.train, self.accelerator.device
        flips = self.order.flips(k) if self.config.data.flip else None
        places = self.order.places(k) if self.config.data.crop == "random" else None
        x0, labels = self.pictures.batch(self.order.index(k), flips, places)
        self.pictures.ahead(self.order.index(k + 1))
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
            parts.append(Terms(terms.loss.detach(), terms.mse, terms.vlb))
        clip = self.config.optimizer.clip or math.inf
        gradient = self.accelerator.clip_grad_norm_(self.parameters, clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.optimizer, k, train.steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = ema_decay(self.config.optimizer.ema, k)
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.parameters, 1.0 - decay)
        loss, mse, vlb = zip(*parts, strict=True)
        terms = Terms(torch.cat(loss), torch.cat(mse), None if vlb[0] is None else torch.cat(vlb))
        if self.times.learns:  # waits for the device, which the others need not
            self.times.update(t, terms.loss)
        return Result(terms, torch.as_tensor(gradient), t, weight)

    def _dropout_seed(self, k: int, part: int) -> int:
        address = torch.tensor([self.accelerator.process_index])
        high, low = bits(self.config.train.seed, Purpose.DROPOUT, address, k, 2 * part + 2)[0, -2:].tolist()
        return int(high << 31 ^ low)

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float] | None:
        """The averaged net's mean squared error on held-out pictures, and on as many it trains on; None without.

        Both at the same levels, spread over the chain, and with the same noise; the same ones at every time.
        """
        if self.held_out is None:
            return None
        model, batch, device = (
            build_denoiser(self.config, self.ema),
            self.config.train.batch,
            self.accelerator.device,
        )
        count = min(HELD_OUT, len(self.held_out), len(self.pictures))
        errors = []
        for pictures in (self.held_out, self.pictures):
            total = 0.0
            for first in range(0, count, batch):
                i = torch.arange(first, min(count, first + batch))
                x0, labels = pictures.batch(i * len(pictures) // count)
                x0 = x0.to(device, memory_format=torch.channels_last)
                # 0.618…: neighbours in the data, often of one class, get levels far apart.
                t = ((i.double() * ((math.sqrt(5.0) - 1.0) / 2.0) % 1.0) * model.chain.T).long() + 1
                noise = normals(0, Purpose.HELD_OUT, i.to(device), torch.tensor([0]), x0.shape[1:])[0]
                cond = {} if labels is None else {"label": labels.to(device)}
                with self.accelerator.autocast():
                    total += self.loss(model, x0, t, noise, cond).mse.sum().item()
            errors.append(total / count)
        return errors[0], errors[1]

    def pipelines(self, description: Description, name: str) -> tuple[Pipeline, Pipeline]:
        """The averaged net and the current one, to draw pictures with."""
        made = [Pipeline(build_denoiser(self.config, net), description, name) for net in (self.ema, self.plain)]
        return made[0], made[1]

    # -- state ---------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds: model, ema, the optimizer's tensors by parameter name, and the losses that a
        time sampler remembers."""
        state = self.optimizer.state_dict()["state"]
        names = [name for name, _ in self.plain.named_parameters()]
        times = self.times.tensors()
        return {
            "model": self.plain.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": {f"{names[i]}:{key}": value for i, part in state.items() for key, value in part.items()},
            **({"times": times} if times else {}),
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
        if self.times.learns:
            self.times.restore(checkpoint.tensors("times"))
        if self.accelerator.scaler is not None and "scaler" in checkpoint.state:
            self.accelerator.scaler.load_state_dict(checkpoint.state["scaler"])


def _compiled(net: torch.nn.Module) -> torch.nn.Module:
    made: torch.nn.Module = torch.compile(net)  # type: ignore[assignment]
    return made


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


def facts(pictures: Pictures, held_out: Pictures | None = None) -> Facts:
    """What the run keeps of its data."""
    frequencies = pictures.frequencies()
    return Facts(
        pictures.name,
        len(pictures),
        pictures.classes,
        () if frequencies is None else tuple(float(f) for f in frequencies),
        pictures.fingerprint,
        len(pictures.skipped),
        "" if held_out is None else held_out.fingerprint,
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
    device = trainer.accelerator.device
    sums, levels = torch.zeros(3 + QUARTERS + 1, device=device), torch.zeros(QUARTERS, dtype=torch.float64)
    since, before = start, 0.0
    if checkpoint:
        window = checkpoint.state["window"]
        since, levels = window["since"], levels.new_tensor(window["levels"])
        sums[: len(window["sums"])] = sums.new_tensor(window["sums"])
        before = float(checkpoint.state["seconds"])
    began = time.perf_counter() - before

    def check_finite(step: int) -> None:
        if not sums[:3].isfinite().all():
            raise _diverged(step)

    def save(step: int) -> Saved:
        window = {"since": since, "sums": sums.tolist(), "levels": levels.tolist()}
        seconds = time.perf_counter() - began
        state = {"images": step * train.batch, "seconds": seconds, "window": window, **trainer.state()}
        return Saved(step, run.save(replace(description, step=step), trainer.tensors(), state, train.keep))

    clock, clocked = time.perf_counter(), start
    saved = start if checkpoint else -1
    step, stopped = start, start < steps and stop()
    while step < steps and not stopped:
        terms, gradient, t, weight = trainer.step(step)
        step += 1
        if trainer.accelerator.scaler is not None:  # it skips a gradient that overflows in half precision
            gradient = torch.where(gradient.isfinite(), gradient, 0.0)
        # Weighted, they are means over levels drawn evenly, whatever drew them. What goes to the device is not
        # waited for: the next batch is made while a GPU still works on this one.
        even = weight.to(device, non_blocking=True)
        loss, mse = (even * terms.loss).mean(), (even * terms.mse).mean()
        sums[:3] += torch.stack([loss, mse, gradient.to(device)])
        if terms.vlb is not None:
            sums[-1] += (even * terms.vlb).mean()
        quarter = (t - 1) * QUARTERS // trainer.model.chain.T
        sums[3:-1].index_add_(0, quarter.to(device, non_blocking=True), even * terms.mse)
        levels += torch.bincount(quarter, weights=weight.double(), minlength=QUARTERS)
        stopped = stop()
        yield Stepped(step)
        if step % train.log_every == 0 or step == steps:
            check_finite(step)
            loss, mse, norm, *errors, vlb = sums.tolist()
            now = time.perf_counter()
            speed = (step - clocked) * train.batch / (now - clock)
            logged = Logged(
                step,
                loss / (step - since),
                mse / (step - since),
                tuple(error / n if n else None for error, n in zip(errors, levels.tolist(), strict=True)),
                learning_rate(config.optimizer, step - 1, steps),
                norm / (step - since),
                speed,
                now - began,
                (steps - step) * train.batch / speed,
                vlb / (step - since) if terms.vlb is not None else None,
            )
            run.log(_record(logged, train.batch))
            yield logged
            sums.zero_()
            levels.zero_()
            since = clocked = step
            clock = time.perf_counter()
        paused = time.perf_counter()
        due = step % train.checkpoint_every == 0 or step == steps
        look = step % (train.preview_every or train.checkpoint_every) == 0 or step == steps
        if due or look:
            check_finite(step)
        # Looks come before the checkpoint: who is killed in between goes on from before both, and looks again.
        if look:
            if (errors_apart := trainer.evaluate()) is not None:
                evaluated = Evaluated(step, *errors_apart)
                run.log({"step": step, "held_out": evaluated.held_out, "trained_on": evaluated.trained_on})
                yield evaluated
            if train.preview_every:
                yield preview(*trainer.pipelines(replace(description, step=step), run.folder.name), run)
        if due:
            yield save(step)
            saved = step
        clock += time.perf_counter() - paused
    if step != saved:
        check_finite(step)
        yield save(step)
    yield Ended(step, complete=step == steps)


def _diverged(step: int) -> UserError:
    return UserError(
        f"step {step}: the loss is no longer a number, and nothing was saved since it was; start another run with "
        "a lower --lr, or with --train.precision no"
    )


def _record(logged: Logged, batch: int) -> dict[str, Any]:
    return {
        "step": logged.step,
        "images": logged.step * batch,
        "loss": logged.loss,
        "mse": logged.mse,
        "quarters": list(logged.quarters),
        **({} if logged.vlb is None else {"vlb": logged.vlb}),
        "lr": logged.lr,
        "gradient": logged.gradient,
        "pictures_per_second": round(logged.pictures_per_second, 2),
        "seconds": round(logged.seconds, 1),
    }
