"""The moving parts of a training: net, averaged net, optimizer, and one step of them.

A step is a function of the weights and its number k alone: which pictures, levels, noise and dropout it uses
are addressed by (seed, k), the learning rate is a formula in k. So stopping and going on changes nothing, and
no generator's state is ever saved.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from ddpm.build import build_denoiser, build_loss, build_model, build_net, build_time_sampler
from ddpm.config import Config, OptimizerConfig
from ddpm.data import Order, Pairs, Pictures, check_batch, pairs, smaller
from ddpm.errors import UserError
from ddpm.guidance import NO_CLASS
from ddpm.losses import Terms
from ddpm.nets.levels import check_size
from ddpm.noise import Purpose, bits, normals, uniform
from ddpm.pipeline import Pipeline
from ddpm.preview import preview_count
from ddpm.store import Checkpoint, Description

QUARTERS = 4
HELD_OUT = 256  # pictures at the most, of either kind
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class Result(NamedTuple):
    """A step's terms [B], the gradient's norm before clipping, the levels int64[B] and their weights [B]."""

    terms: Terms
    gradient: Tensor
    t: Tensor
    weight: Tensor


class Apart(NamedTuple):
    """The fields of an `Evaluated` but its step."""

    held_out: float
    trained_on: float
    held_out_quarters: tuple[float | None, ...] = ()
    trained_on_quarters: tuple[float | None, ...] = ()


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
        check_classes(config, pictures.classes)
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
        self.model = build_model(config, _compiled(self.net) if config.train.compile else self.net)
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
        cond = self._cond(x0, self._dropped(labels, k))
        noise = normals(train.seed, Purpose.TRAIN_NOISE, self.numbers, torch.tensor([k]), x0.shape[1:])[0]
        self.net.train()
        parts = []
        for i, rows in enumerate(torch.arange(train.batch).tensor_split(train.accumulate)):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            if self.config.net.dropout > 0:
                torch.manual_seed(self._dropout_seed(k, i))
            given = {name: value[part] for name, value in cond.items()}
            terms = self.loss(self.model, x0[part], t[part], noise[part], given)
            self.accelerator.backward((terms.loss * weight[part].to(device)).sum() / train.batch)
            parts.append(Terms(terms.loss.detach(), terms.error, terms.vlb))
        clip = self.config.optimizer.clip or math.inf
        gradient = self.accelerator.clip_grad_norm_(self.parameters, clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.optimizer, k, train.steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = ema_decay(self.config.optimizer.ema, k)
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.parameters, 1.0 - decay)
        loss, error, vlb = zip(*parts, strict=True)
        terms = Terms(torch.cat(loss), torch.cat(error), None if vlb[0] is None else torch.cat(vlb))
        if self.times.learns:  # waits for the device, which the others need not
            self.times.update(t, terms.loss)
        return Result(terms, torch.as_tensor(gradient), t, weight)

    def _cond(self, x0: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """What the net is told besides: labels, and for an upsampler the pictures made small."""
        cond = {} if labels is None else {"label": labels.to(x0.device)}
        if self.config.train.task == "upsampler":
            cond["low"] = smaller(x0, self.config.data.small)
        return cond

    def _dropped(self, labels: Tensor | None, k: int) -> Tensor | None:
        """The labels of step k without those that classifier-free guidance has the net do without."""
        share = self.config.train.label_drop
        if labels is None or not share:
            return labels
        drawn = uniform(self.config.train.seed, Purpose.LABEL_DROP, torch.arange(len(labels)), k)[:, 0]
        return torch.where(drawn < share, NO_CLASS, labels)

    def _dropout_seed(self, k: int, part: int) -> int:
        address = torch.tensor([self.accelerator.process_index])
        high, low = bits(self.config.train.seed, Purpose.DROPOUT, address, k, 2 * part + 2)[0, -2:].tolist()
        return int(high << 31 ^ low)

    def evaluate(self) -> Apart | None:
        """The averaged net's mean squared error on held-out pictures, and on as many it trains on; None without.

        Both at the same levels, spread over the chain, and with the same noise; the same ones at every time. Of a
        classifier the accuracy, each picture at a level of every quarter.
        """
        if self.held_out is None:
            return None
        classifies = self.config.train.task == "classifier"
        count = min(HELD_OUT, len(self.held_out), len(self.pictures))
        means: list[float] = []
        quarters: list[tuple[float | None, ...]] = []
        for pictures in (self.held_out, self.pictures):
            errors, quarter = self._errors(pictures, count, QUARTERS if classifies else 1)
            mean = errors.mean().item()
            means.append(1.0 - mean if classifies else mean)
            each = [errors[quarter == k] for k in range(QUARTERS)] if classifies else []
            quarters.append(tuple(1.0 - one.mean().item() if len(one) else None for one in each))
        return Apart(means[0], means[1], quarters[0], quarters[1])

    @torch.no_grad()
    def _errors(self, pictures: Pictures, count: int, looks: int) -> tuple[Tensor, Tensor]:
        """Errors float64[looks · count] of so many pictures at so many levels each, and the quarters of these."""
        model, train, device = build_model(self.config, self.ema), self.config.train, self.accelerator.device
        T = model.chain.T
        errors, levels = [], []
        for look in range(looks):
            for first in range(0, count, train.batch):
                i = torch.arange(first, min(count, first + train.batch))
                x0, labels = pictures.batch(i * len(pictures) // count)
                x0 = x0.to(device, memory_format=torch.channels_last)
                # 0.618…: neighbours in the data, often of one class, get levels far apart.
                t = ((i.double() * _GOLDEN % 1.0 + look) / looks * T).long() + 1
                noise = normals(0, Purpose.HELD_OUT, i.to(device), torch.tensor([look]), x0.shape[1:])[0]
                with self.accelerator.autocast():
                    errors.append(self.loss(model, x0, t, noise, self._cond(x0, labels)).error.cpu().double())
                levels.append(t)
        return torch.cat(errors), (torch.cat(levels) - 1) * QUARTERS // T

    def pipelines(self, description: Description, name: str) -> tuple[Pipeline, Pipeline]:
        """The averaged net and the current one, to draw pictures with."""
        made = [Pipeline(build_denoiser(self.config, net), description, name) for net in (self.ema, self.plain)]
        return made[0], made[1]

    def pairs(self) -> Pairs | None:
        """What an upsampler's previews enlarge, of held-out pictures if there are some; None for another task."""
        if self.config.train.task != "upsampler":
            return None
        size, small = self.config.data.size, self.config.data.small
        return pairs(self.pictures if self.held_out is None else self.held_out, preview_count(size), small)

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


def check_classes(config: Config, classes: Sequence[str]) -> None:
    """UserError unless the pictures have the classes that the task needs."""
    if config.train.task == "classifier" and len(classes) < 2:
        have = "one class alone" if classes else "no classes"
        raise UserError(
            f"--task classifier: these pictures have {have}; give a folder with a sub-folder for each, or a list "
            "or arrays with labels"
        )
    if config.train.label_drop and not classes:
        raise UserError(f"--label-drop {config.train.label_drop:g}: these pictures have no classes; leave it out")


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
