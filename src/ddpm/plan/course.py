"""What follows from the number of steps: warm-up, average, how often to look; and what does not fit it."""

from __future__ import annotations

import math

import torch

from ddpm.config import Config
from ddpm.plan.choosing import FEW, usual_batch
from ddpm.plan.decisions import Choices
from ddpm.trainer import ema_decay
from ddpm.units import duration

PREVIEWS = 10
_CHECKPOINT_SECONDS, _LOG_SECONDS = 600.0, 5.0  # at the most between two of them
_WRITING_SHARE = 20  # of the time at the most goes into writing checkpoints: a twentieth
_HIGHEST = 8e-3  # learning rate that a net of 32 channels was trained with (docs/log.md)
# Of classifiers: Dhariwal & Nichol's for 128 channels, one for 32; half and twice of it did as well in 600 steps.
_CLASSIFIER_GPU, _CLASSIFIER, _CLASSIFIER_DECAY = 3e-4, 1e-3, 0.05
_TUNING = 0.25  # of a fresh net's rate, for weights that are good already
_OFTEN = 200  # a picture of a small set has been seen so often before it is known by heart


def choose_rate(choices: Choices, device: torch.device) -> None:
    """Peak and decay of the learning rate, and Adam's β2, for the width and the batch there are."""
    # Adam's rate goes down with the width (Nichol & Dhariwal 2021, section 6, scale it by 1/√channels), and with
    # the root of the batch where that is smaller than the rate was chosen for.
    batch, channels = choices["train.batch"], choices["net.channels"]
    gpu = device.type == "cuda"
    share = min(1.0, batch / usual_batch(choices["data.size"], device))
    base, width = (2e-4, 128) if gpu else (4e-3, 32)
    classifies = choices["train.task"] == "classifier"
    if classifies:
        base = _CLASSIFIER_GPU if gpu else _CLASSIFIER
    tuning = _TUNING if choices["train.init_from"] else 1.0
    rate = choices.pick("optimizer.lr", tuning * base * math.sqrt(width / channels * share))
    paper = "ADM's classifiers'" if classifies else "Ho et al.'s"
    why = f"{paper} {base:.0e} for 128 channels" if gpu else f"high, for few steps: {base:.0e} for 32 channels"
    why = why.replace("e-0", "e-")
    if channels != width:
        why += f", by √({width}/{channels}) for the width"
    if share < 1.0:
        why += f", by √{share:.2g} for the small batch"
    if tuning < 1.0:
        why += ", a quarter of it for weights that are good already"
    choices.say("learning rate", f"{rate:.1e}", why, "optimizer.lr")
    decay = choices.pick("optimizer.decay", "cosine")
    why = "from the peak to 0 at the last step" if decay != "none" else "the rate stays at its peak"
    choices.say("decay", decay, why, "optimizer.decay")
    choices.pick("optimizer.beta2", 0.99)
    if classifies:
        weight_decay = choices.pick("optimizer.weight_decay", _CLASSIFIER_DECAY)
        why = "ADM's classifiers': they learn pictures by heart sooner than models of pictures do"
        choices.say("weight decay", f"{weight_decay:g}", why, "optimizer.weight_decay")


def follow_steps(
    choices: Choices, seconds: float | None = None, saving: float = 0.0, previews: int = PREVIEWS
) -> None:
    """The rest of a config whose number of steps is known; perhaps also the seconds of a step and of a save."""
    steps = choices["train.steps"]
    warmup = choices.pick("optimizer.warmup", max(1, min(1000, steps // 20)))
    choices.say("warm-up", f"{warmup:,} steps", "5 % of all, at most 1,000", "optimizer.warmup")
    horizon = min(10_000, max(10, steps // 20))
    ema = choices.pick("optimizer.ema", 1.0 - 1.0 / horizon)
    choices.say("EMA", f"over {1 / (1 - ema):,.0f} steps", "5 % of all, at most 10,000", "optimizer.ema")
    _looks(choices, max(1, previews))
    tenth = max(50, steps // 10)
    longest = max(1, int(_CHECKPOINT_SECONDS / seconds)) if seconds else steps
    shortest = math.ceil(_WRITING_SHARE * saving / seconds) if seconds else 1
    every = choices.pick("train.checkpoint_every", min(steps, max(shortest, min(tenth, longest))))
    why = f"ten in all, or one in {duration(_CHECKPOINT_SECONDS)}" + (
        "; writing takes a twentieth of the time at the most" if shortest > min(tenth, longest) else ""
    )
    why += f"; the newest {choices['train.keep']} kept"
    choices.say("checkpoints", _every(every), why, "train.checkpoint_every")
    longest = max(1, int(_LOG_SECONDS / seconds)) if seconds else 100
    every = choices.pick("train.log_every", max(1, min(100, steps // 50, longest)))
    choices.say("log", _every(every), "50 lines or more, one in 5 s or more often", "train.log_every")


def _looks(choices: Choices, previews: int) -> None:
    """How often previews are drawn; of a classifier, how often its accuracy is measured."""
    if choices["train.task"] != "classifier":
        every = choices.pick("train.preview_every", -(-choices["train.steps"] // previews))
        why = f"{previews} in all, a tenth of the time at the most" if previews > 1 else "one, at the end"
        choices.say("previews", _every(every), why, "train.preview_every")
        return
    every = choices.pick("train.preview_every", 0)
    if choices["data.holdout"]:
        why = "on held-out pictures and on as many trained on, by quarter of t"
        choices.say("accuracy", _every(every) if every else "every checkpoint", why, "train.preview_every")
    else:
        choices.say("accuracy", "of training batches", "--holdout 0.05 would tell that on pictures it never sees")


def _draws_a_level(levels: int) -> float:
    """Even draws a level, on average, until probably each has had ten: Poisson's law for a level, once too few."""
    draws = 10.0
    while levels * math.exp(-draws) * sum(draws**k / math.factorial(k) for k in range(10)) > 0.5:
        draws += 0.5
    return draws


def _every(steps: int) -> str:
    return "none" if steps == 0 else "every step" if steps == 1 else f"every {steps:,} steps"


def events(steps: int, every: int) -> int:
    """How many checkpoints or previews there are: one each `every` steps and at the last; none for 0."""
    return -(-steps // every) if every else 0


def horizons(config: Config, pictures: int | None = None) -> list[str]:
    """What of a course does not fit its number of steps, or the pictures there are: a line each, with the mend."""
    train, optimizer = config.train, config.optimizer
    steps, lines = train.steps, []
    fifth = max(1, steps // 5)
    if optimizer.warmup > fifth:
        lines.append(
            f"warm-up: {optimizer.warmup:,} of {steps:,} steps, more than a fifth; --optimizer.warmup {fifth} "
            "shortens it"
        )
    horizon = 1.0 / (1.0 - optimizer.ema)
    if horizon > 1.001 * fifth and steps >= 50:
        reached = 1.0 / (1.0 - ema_decay(optimizer.ema, steps - 1))
        lines.append(
            f"EMA: its horizon of {horizon:,.0f} steps is more than a fifth of {steps:,}; its own warm-up makes "
            f"that {reached:,.0f} at the end; --optimizer.ema {1 - 1 / max(10, steps // 20):.4g} is the plan's"
        )
    looks = "look" if train.task == "classifier" else "preview"
    for name, every in ((looks, train.preview_every), ("checkpoint", train.checkpoint_every)):
        if every > steps:
            lines.append(f"{name}s: every {every:,} steps, so there is one at the last of {steps:,} alone")
    settled = math.ceil(_draws_a_level(config.chain.steps) * config.chain.steps / train.batch)
    if config.loss.times == "loss-second-moment" and settled > steps // 2:
        lines.append(
            f"levels: loss-second-moment draws them evenly until each has had ten losses, "
            f"about {settled:,} steps, and there are {steps:,}; give more --steps or fewer --chain.steps"
        )
    highest = _HIGHEST * math.sqrt(32 / config.net.channels)
    if optimizer.lr > highest:
        lines.append(
            f"learning rate {optimizer.lr:g}: higher than any tried for {config.net.channels} channels "
            f"({highest:.1e}); if the loss jumps or stays, --lr {highest / 2:.1e}"
        )
    if pictures is None:
        return lines
    if pictures < train.batch:
        lines.append(f"batch {train.batch}: more than the {pictures:,} pictures there are; --batch {pictures}")
    seen = steps * train.batch / max(1, pictures)
    if pictures < FEW and seen > _OFTEN:
        lines.append(
            f"each of the {pictures:,} pictures is seen {seen:,.0f} times: "
            + (
                "a classifier of so few comes to know them by heart; give more pictures, --data.crop random, or "
                "--holdout 0.1 to see it"
                if train.task == "classifier"
                else "a model of so few comes to draw them again instead of new ones; give more pictures or fewer "
                "--steps, or compare previews and pictures"
            )
        )
    if seen < 1:
        lines.append(f"only {seen:.0%} of the pictures are seen at all in {steps:,} steps of {train.batch}")
    return lines
