"""Batch against peak memory, for every preset, with and without activations computed again."""

from __future__ import annotations

import nets
import torch
from page import Section
from peaks import peak, told

from ddpm.build import build_net
from ddpm.config import Config
from ddpm.footprint import footprint
from ddpm.plan.machine import STATE_BYTES, inputs
from ddpm.presets import ORIGINS, PRESETS, preset

BATCHES = (1, 4, 16, 64, 128)
AGAIN = {"": {}, "finest level": {"checkpoint_activations": True, "checkpoint_levels": 1},
         "all": {"checkpoint_activations": True}}  # fmt: skip
"""What is computed again on the way back, and the fields of `train` that ask for it."""


def batches(rounds: int, quick: bool) -> Section:
    section = Section("Batch against memory")
    section.say(
        "GiB of tensors that live at once in a step of training, float32, counted on the meta device "
        "(ddpm/footprint.py): weights, averages, gradients and moments, and what a batch computed at once adds, "
        "attention's matrices included, which fused attention does not keep. Not in it: what kernels take for "
        "themselves while they run, and the interpreter. *Again*: what "
        "`--checkpoint-activations` computes a second time on the way back (`--train.checkpoint-levels 1`: the "
        "finest level alone). A batch that does not fit is computed in parts (`--accumulate`, or by itself when "
        "memory runs out), each of which takes what its own size does."
    )
    head = ("preset", "state", "again", *(f"batch {batch}" for batch in BATCHES))
    rows = []
    for names in _alike(("cifar10",) if quick else tuple(PRESETS)):
        config, classes = preset(names[0]), ORIGINS[names[0]].classes
        with torch.device("meta"):
            state = STATE_BYTES * sum(p.numel() for p in build_net(config, classes).parameters())
        for again, fields in AGAIN.items():
            total = (state + counted(config, classes, batch, fields) for batch in BATCHES)
            first = ("", "") if again else ("<br>".join(names), f"{state / 2**30:.2f}")
            rows.append((*first, again or "nothing", *(f"{one / 2**30:,.1f}" for one in total)))
    section.table(head, rows)
    if not quick and nets.DEVICE.type == "cpu":
        _measured(section)
    return section


def counted(config: Config, classes: int, batch: int, fields: dict[str, int]) -> int:
    """Bytes that a forward and a backward pass add to weights and gradients."""
    with torch.device("meta"):
        net = build_net(config, classes)
    net.checkpoint_activations = bool(fields.get("checkpoint_activations"))
    net.checkpoint_levels = fields.get("checkpoint_levels", 0)
    x, t, cond = inputs(config, classes, batch)
    for p in net.parameters():  # counted with the state
        p.grad = torch.empty_like(p)
    return footprint(lambda: net(x, t, **cond).square().mean().backward())


def _alike(names: tuple[str, ...]) -> list[list[str]]:
    """The presets whose nets and pictures are the same, together."""
    groups: dict[object, list[str]] = {}
    for name in names:
        config = preset(name)
        learned = config.denoiser.variance.startswith("learned")
        key = (config.net, config.data.size, config.data.small, config.train.task, learned, ORIGINS[name].classes)
        groups.setdefault(repr(key), []).append(name)
    return list(groups.values())


def _measured(section: Section) -> None:
    section.say(
        f"Measured: {nets.PAPER} at batch 128, all of a training's process at its peak (the resident set), and "
        "the second of two steps."
    )
    rows, least = [], 0.0
    for again, fields in AGAIN.items():
        given = "".join(f", train__{name}={value}" for name, value in fields.items())
        least, seconds = peak(f"training.Ours(nets.PAPER, 128{given})")
        rows.append((again or "nothing", told(least), f"{seconds:.1f} s"))
    section.table(("again", "peak", "a step"), rows)
    section.target(
        f"{nets.PAPER} trains at batch 128 in under 8 GB", f"{least * 2**30 / 1e9:.1f} GB", least < 8e9 / 2**30
    )


SUBJECTS = {"batches": batches}
