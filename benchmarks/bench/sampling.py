"""Sampling with the paper's net: a step, that is net and sampler, by batch; ours by engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nets
import torch
from page import Section
from rounds import in_turn

from ddpm.build import build_denoiser
from ddpm.engines import ENGINES, Programmed, check_engine
from ddpm.errors import UserError
from ddpm.noise import WalkNoise
from ddpm.samplers import DDIM, walk

STEPS = 3


def sampling(rounds: int, quick: bool) -> Section:
    section = Section("Sampling")
    section.say(
        f"DDIM steps of {nets.PAPER} (net and step together; the mean of {STEPS}), float32; diffusers: "
        "UNet2DModel of the same layers in a DDIMPipeline, eager."
    )
    name = nets.SMALL if quick else nets.PAPER
    for batch in (1,) if quick else (1, 16, 64):
        _compare(section, name, batch, rounds if batch < 64 else max(2, rounds // 2))
    return section


def _compare(section: Section, name: str, batch: int, rounds: int) -> None:
    import diffusers

    config = nets.config(name)
    shape = (config.data.channels, *config.data.size)
    numbers = torch.arange(batch, device=nets.DEVICE)
    pipeline = diffusers.DDIMPipeline(nets.theirs(name).eval(), diffusers.DDIMScheduler(1000))
    pipeline.set_progress_bar_config(disable=True)
    cases: dict[str, Callable[[], object]] = {
        "ours, eager": _walk(build_denoiser(config, nets.ours(name).eval()), numbers, shape),
        "diffusers, eager": lambda: pipeline(batch_size=batch, num_inference_steps=STEPS, output_type="np"),
    }
    section.say(f"**Batch {batch}**")
    for engine in ENGINES[1:]:
        try:
            check_engine(engine)
        except UserError as error:
            section.say(f"Left out: {error}")
            continue
        net = Programmed(
            nets.ours(name).eval().requires_grad_(False), engine, lambda text: section.say(f"`{text}`")
        )
        cases[f"ours, {engine}"] = _walk(build_denoiser(config, net), numbers, shape)
    times = in_turn(cases, rounds, warm=2)
    rows = []
    for case in cases:
        seconds = times.median(case) / STEPS
        ratio = "" if case == "diffusers, eager" else str(times.faster(case, "diffusers, eager"))
        rows.append((case, f"{seconds * 1e3:,.0f} ms", f"{batch / seconds:.1f}", ratio))
    section.table(("", "a step", "pictures × steps a second", "times diffusers' speed"), rows)
    eager = times.faster("ours, eager", "diffusers, eager")
    section.target(f"eager at batch {batch} ≥ 1.00 × diffusers", str(eager), eager.median >= 1.0)
    wanted = {1: 1.35, 16: 1.15}.get(batch)
    others = [case for case in cases if case not in ("ours, eager", "diffusers, eager")]
    if wanted and others:
        best = max((times.faster(case, "diffusers, eager") for case in others), key=lambda ratio: ratio.median)
        section.target(f"an engine at batch {batch} ≥ {wanted} × diffusers", str(best), best.median >= wanted)


def _walk(model: Any, numbers: torch.Tensor, shape: tuple[int, ...]) -> Callable[[], object]:
    model = model.eval().respace(str(STEPS))
    noise = WalkNoise(0, numbers, shape)
    return lambda: [step.x for step in walk(model, DDIM(), noise(0), noise)]


SUBJECTS = {"sampling": sampling}
