"""The moving parts of a training: net, averaged net, optimizer, and one step of them.

A step is a function of the weights and its number k alone: which pictures, levels, noise and dropout it uses
are addressed by (seed, k), the learning rate is a formula in k. So stopping and going on changes nothing, and
no generator's state is ever saved. Of several processes each takes its rows of the batch, and gradients are added.
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
from ddpm.guard import Guard
from ddpm.guidance import NO_CLASS
from ddpm.losses import Terms
from ddpm.memory import free_caches, out_of_memory
from ddpm.nets.blocks import allow_winograd
from ddpm.nets.levels import check_size
from ddpm.noise import Purpose, bits, normals, uniform
from ddpm.pipeline import Pipeline
from ddpm.preview import preview_count
from ddpm.processes import Processes
from ddpm.sharding import collected, local, placed, shard, whole
from ddpm.store import Checkpoint, Description

QUARTERS = 4


class Result(NamedTuple):
    """A step: terms [b], levels int64[b] and their weights [b] of this process's pictures; of the whole batch the
    loss, the gradient's norm before clipping, whether both were numbers, and whether any process wants to stop."""

    terms: Terms
    t: Tensor
    weight: Tensor
    loss: Tensor
    gradient: Tensor
    good: Tensor
    stop: Tensor


class Trainer:
    """The moving parts: net, averaged net, optimizer."""

    def __init__(
        self,
        config: Config,
        pictures: Pictures,
        accelerator: Accelerator,
        held_out: Pictures | None = None,
        weights: Mapping[str, Tensor] | None = None,
        crew: Processes | None = None,
    ):
        """held_out: pictures to measure on and never to train on; weights: to start from, else fresh ones.

        crew: the processes that train together, one alone unless given.
        """
        self.crew = crew = crew or Processes()
        check_batch(pictures, config.train.batch)
        check_share(config.train.batch, config.train.accumulate, crew.count)
        check_classes(config, pictures.classes)
        if config.train.precision == "fp16" and accelerator.device.type != "cuda":
            raise UserError("--precision fp16: needs a CUDA device; take bf16, or leave it out")
        self.config, self.pictures, self.accelerator = config, pictures, accelerator
        self.held_out = held_out
        device, settings = accelerator.device, config.optimizer
        net = build_net(config, len(pictures.classes))
        check_size(config.data.size, net.stride)
        self._weights = weights
        if weights is not None:
            net.load_state_dict(weights)
        net.checkpoint_activations = config.train.checkpoint_activations
        net.checkpoint_levels = config.train.checkpoint_levels
        self.shards = config.train.shard and crew.count > 1
        if not self.shards:  # FSDP takes each block to the device by itself, and in its plain layout alone
            net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # The averaged net is a net of its own: nothing is ever swapped, so nothing can leak back.
        self.ema = copy.deepcopy(net).eval().requires_grad_(False)
        if config.train.winograd and not self.shards:
            allow_winograd(net)
        if self.shards:
            for one in (net, self.ema):
                shard(one)
        optimizer = torch.optim.AdamW(
            net.parameters(),
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
        # Not for training, in accelerate's words: it would wrap the net in DDP, which adds gradients as they come
        # out. Added after the last part of a batch, a part that ran out of memory can be computed again.
        self.net = accelerator.prepare_model(net, evaluation_mode=True)
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        self.plain = accelerator.unwrap_model(self.net)
        self.parameters: list[Tensor] = list(self.plain.parameters())
        self.averages: list[Tensor] = list(self.ema.parameters())
        self.guard = Guard(device, config.train.bad_steps)
        self.asks = device.type != "cuda"
        """Whether the device is asked if a step was good; a GPU, which that would hold up, finds out by itself."""
        self.parts = config.train.accumulate
        """Parts that this process computes its pictures in: more of them after it ran out of memory."""
        # The compiled net shares its weights with the plain one, which previews and checkpoints use.
        self.model = build_model(config, _compiled(self.net) if config.train.compile else self.net)
        self.loss = build_loss(config)
        self.times = build_time_sampler(config, self.model.chain.T)
        self.order = Order(len(pictures), config.train.batch, config.train.seed)
        self.rows = crew.rows(config.train.batch)
        self.numbers = torch.arange(config.train.batch, device=device)[self.rows]

    def step(self, k: int, stop: bool = False) -> Result:
        """Optimizer step number k, counted from 0; stop: whether this process wants to stop after it."""
        train, device, rows = self.config.train, self.accelerator.device, self.rows
        flips = self.order.flips(k)[rows] if self.config.data.flip else None
        places = self.order.places(k)[rows] if self.config.data.crop == "random" else None
        x0, labels = self.pictures.batch(self.order.index(k)[rows], flips, places)
        self.pictures.ahead(self.order.index(k + 1)[rows])
        drawn = self.times.draw(k, train.batch)
        t, weight = drawn[0][rows], drawn[1][rows]
        if device.type == "cuda":
            x0 = x0.pin_memory()  # without which the copy would wait for all steps before it
        x0 = x0.to(device, memory_format=torch.channels_last, non_blocking=True)
        cond = self.cond(x0, self._dropped(labels, k))
        steps = torch.full((1,), k, device=device)
        noise = normals(train.seed, Purpose.TRAIN_NOISE, self.numbers, steps, x0.shape[1:])[0]
        self.net.train()
        terms, loss = self._backward(k, x0, t, weight, noise, cond)
        both = self._add_gradients(torch.stack([loss, torch.tensor(float(stop), device=device)]))
        self.accelerator.unscale_gradients()
        gradient = self._clip()
        # Half precision's scaler skips what overflows by itself, and tries a smaller scale: that is no bad step.
        good = both[0].isfinite() & (gradient.isfinite() | (self.accelerator.scaler is not None))
        self._update(k, good)
        self.guard.take(good)
        if self.times.learns:  # waits for the device, which the others need not
            self.times.update(drawn[0], self.crew.joined(terms.loss, train.batch))
        return Result(terms, t, weight, both[0], gradient, good, both[1])

    def _backward(
        self, k: int, x0: Tensor, t: Tensor, weight: Tensor, noise: Tensor, cond: Mapping[str, Tensor]
    ) -> tuple[Terms, Tensor]:
        """Terms of this process's pictures, and their part of the loss; in more parts if memory runs out."""
        while True:
            try:
                return self._in_parts(k, x0, t, weight, noise, cond)
            except (RuntimeError, MemoryError) as error:
                # Sharded, the others wait for this part: they cannot be made to compute it again.
                if not out_of_memory(error) or self.shards or self.parts >= len(x0):
                    raise
            self.optimizer.zero_grad(set_to_none=True)
            free_caches()
            self.parts = min(len(x0), 2 * self.parts)

    def _in_parts(
        self, k: int, x0: Tensor, t: Tensor, weight: Tensor, noise: Tensor, cond: Mapping[str, Tensor]
    ) -> tuple[Terms, Tensor]:
        batch, device = self.config.train.batch, x0.device
        # FSDP takes the mean of the gradients, of which the sum is wanted.
        scale = (self.crew.count if self.shards else 1) / batch
        parts, total = [], torch.zeros((), device=device)
        for i, rows in enumerate(torch.arange(len(x0)).tensor_split(self.parts)):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            if self.config.net.dropout > 0:
                torch.manual_seed(self._dropout_seed(k, i))
            given = {name: value[part] for name, value in cond.items()}
            terms = self.loss(self.model, x0[part], t[part], noise[part], given)
            loss = (terms.loss * weight[part].to(device)).sum()
            self.accelerator.backward(loss * scale)
            total += loss.detach() / batch
            parts.append(Terms(terms.loss.detach(), terms.error, terms.vlb))
        losses, errors, vlbs = zip(*parts, strict=True)
        return Terms(torch.cat(losses), torch.cat(errors), None if vlbs[0] is None else torch.cat(vlbs)), total

    def _add_gradients(self, beside: Tensor) -> Tensor:
        """Adds gradients, and what goes beside them [n], over the processes; returns the latter."""
        if self.crew.count == 1:
            return beside
        if self.shards:
            return self.crew.added(beside)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        flat = self.crew.added(torch.cat([*(g.reshape(-1) for g in gradients), beside]))
        *sums, beside = torch.split(flat, [*(g.numel() for g in gradients), len(beside)])
        torch._foreach_copy_(gradients, [s.view(g.shape) for s, g in zip(sums, gradients, strict=True)])
        return beside

    def _clip(self) -> Tensor:
        """The gradient's norm, brought to the limit where it is larger."""
        clip = self.config.optimizer.clip
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        # All gradients times 1 is a pass over all of them: left out where asking costs nothing.
        if clip and not (self.asks and bool(whole(norm) <= clip)):
            torch.nn.utils.clip_grads_with_norm_(self.parameters, clip, norm)
        return whole(norm)

    def _update(self, k: int, good: Tensor) -> None:
        """Weights and averages, unless the step was bad."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.guard.rate * learning_rate(self.config.optimizer, k, self.config.train.steps)
        weight: Any = 1.0 - ema_decay(self.config.optimizer.ema, k)
        if not self.asks:
            if self.accelerator.scaler is None:
                self.optimizer.optimizer.found_inf = (~good).float()
            weight = [weight * good] * len(self.averages)
        if not self.asks or bool(good):
            self.optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(self.averages, self.parameters, weight)
        self.optimizer.zero_grad(set_to_none=True)

    def cond(self, x0: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
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
        numbers = torch.arange(self.config.train.batch)[self.rows]
        drawn = uniform(self.config.train.seed, Purpose.LABEL_DROP, numbers, k)[:, 0]
        return torch.where(drawn < share, NO_CLASS, labels)

    def _dropout_seed(self, k: int, part: int) -> int:
        address = torch.tensor([self.accelerator.process_index])
        high, low = bits(self.config.train.seed, Purpose.DROPOUT, address, k, 2 * part + 2)[0, -2:].tolist()
        return int(high << 31 ^ low)

    def pipelines(self, description: Description, name: str) -> tuple[Pipeline, Pipeline]:
        """The averaged net and the current one, to draw pictures with; all processes must call this."""
        nets: list[torch.nn.Module] = [self.ema, self.plain]
        if self.shards:
            nets = [self._whole_net(net) for net in nets]
        made = [Pipeline(build_denoiser(self.config, net), description, name) for net in nets]
        return made[0], made[1]

    def _whole_net(self, net: torch.nn.Module) -> torch.nn.Module:
        """A sharded net in one piece; the other processes get one on the meta device, with nothing in it."""
        state = {name: collected(value, self.crew.main) for name, value in net.state_dict().items()}
        with torch.device("cpu" if self.crew.main else "meta"):
            made = build_net(self.config, len(self.pictures.classes))
        if self.crew.main:
            made.load_state_dict(state)
            made = made.to(self.accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return made.eval().requires_grad_(False)

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
        optimizer = {f"{names[i]}:{key}": value for i, part in state.items() for key, value in part.items()}
        parts = {"model": self.plain.state_dict(), "ema": self.ema.state_dict(), "optimizer": optimizer}
        if self.shards:
            keep = self.crew.main
            parts = {part: {name: collected(one, keep) for name, one in of.items()} for part, of in parts.items()}
        return {**parts, **({"times": times} if times else {})}

    def state(self) -> dict[str, Any]:
        """What else it holds."""
        scaler = self.accelerator.scaler
        made = self.guard.state() | {"processes": self.crew.count}
        return made if scaler is None else made | {"scaler": scaler.state_dict()}

    def sound(self) -> bool:
        """Whether all weights and averages are numbers, of all processes, all of which must call this."""
        own = [
            torch.stack(torch._foreach_norm([local(p.detach()) for p in part]))
            for part in (self.parameters, self.averages)
        ]
        return bool(self.crew.added((~torch.cat(own).isfinite()).sum()) == 0)

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Goes back to a checkpoint, which the main process alone need have; None goes back to the beginning."""
        if checkpoint is None:
            fresh = build_net(self.config, len(self.pictures.classes)).state_dict()
            start = fresh if self._weights is None else self._weights
            parts: dict[str, dict[str, Tensor]] = {"model": dict(start), "ema": dict(start), "optimizer": {}}
            self.times = build_time_sampler(self.config, self.model.chain.T)
        else:
            device, main = self.accelerator.device, self.crew.main
            wanted = ["model", "ema", "optimizer", *(["times"] if self.times.learns else [])]
            parts = {
                part: self.crew.tensors(checkpoint.tensors(part) if main else None, device) for part in wanted
            }
        for net, part in ((self.plain, "model"), (self.ema, "ema")):
            like = net.state_dict()
            net.load_state_dict({name: placed(value, like[name]) for name, value in parts[part].items()})
        numbers = {name: i for i, (name, _) in enumerate(self.plain.named_parameters())}
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            parameter, _, key = name.rpartition(":")
            number = numbers[parameter]
            # Files hold plain tensors; the fused optimizer needs the parameter's own memory layout.
            like_it = value.shape == self.parameters[number].shape
            state.setdefault(number, {})[key] = (
                placed(value, self.parameters[number].detach()) if like_it else value
            )
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        if self.times.learns and checkpoint is not None:
            self.times.restore(parts["times"])
        kept = {} if checkpoint is None else checkpoint.state
        self.guard.restore(kept)
        if self.accelerator.scaler is not None and "scaler" in kept:
            self.accelerator.scaler.load_state_dict(kept["scaler"])


def check_share(batch: int, accumulate: int, processes: int) -> None:
    """UserError unless every process has a picture for each of its parts."""
    if batch < processes * accumulate:
        shown = f" in {accumulate} parts each" if accumulate > 1 else ""
        raise UserError(
            f"--batch {batch}: of {processes} processes{shown} some would have no picture; give --batch "
            f"{processes * accumulate} or more, or start fewer"
        )


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
