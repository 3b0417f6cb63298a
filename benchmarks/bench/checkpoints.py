"""Checkpoints: saving and loading, and what training loses by them."""

from __future__ import annotations

import time

import nets
import numpy as np
import torch
from page import Section
from rounds import in_turn
from training import Diffusers, Ours, scratch

from ddpm.saving import Saving
from ddpm.store import Description, Run
from ddpm.train import facts


def checkpoints(rounds: int, quick: bool) -> Section:
    section = Section("Checkpoints")
    name, batch = (nets.SMALL if quick else nets.PAPER), 2
    own, peer, folder = Ours(name, batch), Diffusers(name, batch), scratch()
    for one in (own, peer):  # which makes the optimizers' moments
        one()
    trainer = own.trainer
    start = Description(trainer.config, facts(trainer.pictures, None), step=1)
    run, step = Run.create(folder / "run", start), 0

    def ours() -> None:
        nonlocal step
        step += 1
        run.save(Description(trainer.config, start.facts, step=step), trainer.tensors(), {}, keep=1)

    def ours_back() -> None:
        trainer.restore(run.newest()[0])

    def plain() -> None:
        state = {"net": trainer.plain.state_dict(), "ema": trainer.ema.state_dict()}
        torch.save({**state, "optimizer": trainer.optimizer.state_dict()}, folder / "plain.pt")

    def plain_back() -> None:
        state = torch.load(folder / "plain.pt", weights_only=True)
        trainer.plain.load_state_dict(state["net"])
        trainer.ema.load_state_dict(state["ema"])
        trainer.optimizer.load_state_dict(state["optimizer"])

    cases = {
        "save, ours": ours,
        "save, torch.save": plain,
        "save, diffusers": lambda: peer.save(folder / "theirs"),
        "load, ours": ours_back,
        "load, torch.load": plain_back,
        "load, diffusers": lambda: peer.load(folder / "theirs"),
    }
    times = in_turn(cases, min(rounds, 5))
    size = sum(v.nbytes for part in trainer.tensors().values() for v in part.values())
    section.say(
        f"{name}: weights, averages and Adam's moments, {size / 1e6:,.0f} MB. Ours are written whole or not at "
        "all, flushed to the disk, with SHA-256 sums, which are compared on loading. `torch.save` does none of "
        "it, nor does diffusers' training example: `save_state` with `save_pretrained` of net and averages."
    )
    rows = []
    for case in cases:
        others = [f"{case.split(',')[0]}, {other}" for other in ("torch.save", "torch.load", "diffusers")]
        ratios = (str(times.faster(case, one)) if one != case else "" for one in others if one in cases)
        rows.append((case, f"{times.median(case):.2f} s", *(ratios if case.endswith("ours") else ("", ""))))
    section.table(("", "seconds", "times torch's speed", "times diffusers'"), rows)
    _lost(section, own, run, start, rounds)
    return section


def _lost(section: Section, own: Ours, run: Run, start: Description, rounds: int) -> None:
    """How much longer steps take with a checkpoint than without."""
    trainer = own.trainer
    pauses, beside = [], []
    for k in range(min(rounds, 4)):
        step = in_turn({"step": own}, 3, warm=0).median("step")
        saving, begun, steps = Saving(run), time.perf_counter(), 0
        saving.start(Description(trainer.config, start.facts, step=1000 + k), trainer.tensors(), {}, keep=1)
        pauses.append(time.perf_counter() - begun)
        while not list(saving.done()):
            own()
            steps += 1
        saving.close()
        beside.append(time.perf_counter() - begun - pauses[-1] - steps * step)
    pause, slowed = float(np.median(pauses)), max(0.0, float(np.median(beside)))
    every = trainer.config.train.checkpoint_every
    share = (pause + slowed) / (pause + slowed + every * step)
    section.say(
        f"Training waits {pause:.2f} s for a copy; while the file is written beside it, its steps lose "
        f"{slowed:.2f} s more (medians of {len(pauses)})."
    )
    section.target(
        f"checkpoints < 1 % of training time, one every {every} steps of batch {trainer.config.train.batch}",
        f"{share:.3%}", share < 0.01,
    )  # fmt: skip


SUBJECTS = {"checkpoints": checkpoints}
