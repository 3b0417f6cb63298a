"""Sampling with the paper's net: a step, that is net and sampler, by batch; ours by engine."""

from __future__ import annotations

from collections.abc import Callable

import nets
import torch
from page import Section
from rounds import Times, in_turn

from ddpm.build import build_denoiser
from ddpm.engines import ENGINES, Programmed, check_engine
from ddpm.errors import UserError
from ddpm.noise import WalkNoise
from ddpm.samplers import DDIM, walk

PEER = "diffusers, eager"
Case = Callable[[], object]


def steps(batch: int) -> int:
    """Of a timed walk."""
    return 3 if batch < 64 else 2


def ours(name: str, batch: int, engine: str = "torch", tell: Callable[[str], object] = print) -> Case:
    """A walk of so many steps; tell: is told what an engine's program cost."""
    config = nets.config(name)
    net = nets.ours(name).eval().requires_grad_(False)
    if engine != "torch":
        net = Programmed(net, engine, tell)
    model = build_denoiser(config, net).eval().respace(str(steps(batch)))
    numbers = torch.arange(batch, device=nets.DEVICE)
    noise = WalkNoise(0, numbers, (config.data.channels, *config.data.size))
    return lambda: [step.x for step in walk(model, DDIM(), noise(0), noise)]


def theirs(name: str, batch: int) -> Case:
    """diffusers' DDIMPipeline, as many steps."""
    import diffusers

    pipeline = diffusers.DDIMPipeline(nets.theirs(name).eval(), diffusers.DDIMScheduler(1000))
    pipeline.set_progress_bar_config(disable=True)
    return lambda: pipeline(batch_size=batch, num_inference_steps=steps(batch), output_type="np")


def halved(case: Case) -> Case:
    """The same under bf16 autocast."""

    def run() -> object:
        with torch.autocast(nets.DEVICE.type, torch.bfloat16):
            return case()

    return run


def sampling(rounds: int, quick: bool) -> Section:
    section = Section("Sampling")
    name = nets.SMALL if quick else nets.PAPER
    section.say(
        f"DDIM steps of {name} (net and step together; the mean of two or three), float32 unless said; diffusers: "
        "UNet2DModel of the same layers in a DDIMPipeline. *Share*: of the speed of a large matrix product of the "
        "same precision, measured in the same rounds. Engines' programs are made afresh."
    )
    for batch in (1,) if quick else (1, 16, 64):
        _compare(section, name, batch, rounds if batch < 64 else max(2, rounds // 2))
    return section


def _compare(section: Section, name: str, batch: int, rounds: int) -> None:
    section.say(f"**Batch {batch}**")
    products = {"float32": nets.Product()}
    cases: dict[str, Case] = {"ours, eager": ours(name, batch), PEER: theirs(name, batch)}
    for engine in ENGINES[1:]:
        try:
            check_engine(engine)
        except UserError as error:
            section.say(f"Left out: {error}")
            continue
        cases[f"ours, {engine}"] = ours(name, batch, engine, lambda text: section.say(f"`{text}`"))
    if nets.DEVICE.type == "cuda":
        cases |= {f"{case}, bf16": halved(cases[case]) for case in ("ours, eager", PEER)}
        products["bf16"] = nets.Product(torch.bfloat16)
    times = in_turn({**cases, **products}, rounds, warm=2)
    peaks = {kind: product.flops / times.median(kind) for kind, product in products.items()}
    work = nets.flops(name, backward=False) * batch
    rows = []
    for case in cases:
        seconds, halves = times.median(case) / steps(batch), case.endswith("bf16")
        peer = f"{PEER}, bf16" if halves else PEER
        rows.append(
            (
                case, f"{seconds * 1e3:,.0f} ms", f"{batch / seconds:,.1f}",
                f"{work / seconds / peaks['bf16' if halves else 'float32']:.0%}",
                "" if case == peer else str(times.faster(case, peer)),
            )
        )  # fmt: skip
    section.table(("", "a step", "pictures × steps a second", "share", "times diffusers' speed"), rows)
    _judge(section, batch, times)


def _judge(section: Section, batch: int, times: Times) -> None:
    eager = times.faster("ours, eager", PEER)
    section.target(f"eager at batch {batch} ≥ 1.00 × diffusers", str(eager), eager.median >= 1.0)
    wanted = {1: 1.35, 16: 1.15}.get(batch)
    engines = [f"ours, {engine}" for engine in ENGINES[1:] if f"ours, {engine}" in times.taken]
    if wanted and engines:
        best = max((times.faster(case, PEER) for case in engines), key=lambda ratio: ratio.median)
        section.target(f"an engine at batch {batch} ≥ {wanted} × diffusers", str(best), best.median >= wanted)


SUBJECTS = {"sampling": sampling}
