"""What a sampling step costs outside the net: the net returns its input, so nothing but the step is timed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from nets import DEVICE
from page import Section
from rounds import Ratio, Times, in_turn
from torch import Tensor, nn

from ddpm.chain import make_chain
from ddpm.denoiser import Denoiser
from ddpm.noise import WalkNoise
from ddpm.samplers import DDIM, Ancestral, Sampler, walk

SHAPE = (3, 32, 32)


class Same(nn.Module):
    """A net that costs nothing."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return x


@functools.cache
def _model() -> Denoiser:
    """Made once, as the peers' schedulers are."""
    return Denoiser(Same(), make_chain("linear", 1000))


def run_ours(sampler: Sampler[Any], x: Tensor, noise: Callable[[int], Tensor] | None) -> None:
    """A walk with a net that costs nothing; noise: in place of the walk's own."""
    noise = noise or WalkNoise(0, torch.arange(len(x), device=DEVICE), SHAPE)
    for _ in walk(_model(), sampler, x, noise, 1000, 1000 - _steps(x)):
        pass


def _steps(x: Tensor) -> int:
    return 500 if len(x) == 1 else 60


def _pipeline(kind: str, batch: int) -> Callable[[], object]:
    """diffusers' pipeline around a net that costs nothing, as many steps."""
    import diffusers

    class Net(diffusers.ModelMixin, diffusers.ConfigMixin):  # type: ignore[misc]
        @diffusers.configuration_utils.register_to_config
        def __init__(self, in_channels: int = 3, sample_size: int = 32):
            super().__init__()
            self.nothing = nn.Parameter(torch.zeros(1))

        def forward(self, sample: Tensor, timestep: Any) -> Any:
            return diffusers.models.unets.unet_2d.UNet2DOutput(sample=sample)

    steps = _steps(torch.empty(batch))
    schedulers = {"ddpm": diffusers.DDPMScheduler, "ddim": diffusers.DDIMScheduler}
    pipelines = {"ddpm": diffusers.DDPMPipeline, "ddim": diffusers.DDIMPipeline}
    pipeline = pipelines[kind](Net(), schedulers[kind](1000)).to(DEVICE)
    pipeline.set_progress_bar_config(disable=True)
    return lambda: pipeline(batch_size=batch, num_inference_steps=steps, output_type="np")


def overhead(rounds: int, quick: bool) -> Section:
    section = Section("A sampling step outside the net")
    section.say(
        "With a net that returns its input. diffusers: its DDIMPipeline and DDPMPipeline. Our noise is addressed, "
        "every number a function of seed, picture and step; diffusers' is `torch.randn`, drawn by the pipeline "
        "once for DDIM, at each step for DDPM."
    )
    for batch in (1,) if quick else (1, 64):
        x = torch.randn(batch, *SHAPE, device=DEVICE)
        still = torch.randn_like(x)
        numbers, steps = torch.arange(batch, device=DEVICE), _steps(x)

        def noise_alone(numbers: Tensor = numbers, steps: int = steps) -> None:
            made = WalkNoise(0, numbers, SHAPE)
            for t in range(1000, 1000 - steps, -1):
                made(t)

        def torch_noise(x: Tensor = x, steps: int = steps) -> None:
            for _ in range(steps):
                torch.randn_like(x)

        def given(t: int, still: Tensor = still) -> Tensor:
            return still

        times = in_turn(
            {
                "DDIM, ours": lambda x=x: run_ours(DDIM(), x, None),
                "DDIM, diffusers": _pipeline("ddim", batch),
                "ancestral, ours, noise given": lambda x=x, given=given: run_ours(Ancestral(), x, given),
                "ancestral, ours": lambda x=x: run_ours(Ancestral(), x, None),
                "ancestral, diffusers": _pipeline("ddpm", batch),
                "noise, ours": noise_alone,
                "noise, torch.randn": torch_noise,
            },
            rounds,
        )
        _tell(section, batch, times, steps)
    return section


def _tell(section: Section, batch: int, times: Times, steps: int) -> None:
    section.say(f"**{batch} × 3 × 32 × 32**")

    def part(name: str, of: str) -> Ratio:
        return times.faster(of, name)

    base = {"DDIM": "DDIM, diffusers", "ance": "ancestral, diffusers", "nois": "noise, torch.randn"}
    rows = [
        (
            name,
            f"{times.median(name) / steps * 1e6:,.0f} µs",
            "" if name in base.values() else str(part(name, base[name[:4]])),
        )
        for name in times.taken
    ]
    section.table(("", "a step", "of diffusers' (torch's) time"), rows)
    if batch == 1:
        for name in ("DDIM", "ancestral"):
            own = f"{name}, ours" if name == "DDIM" else f"{name}, ours, noise given"
            got = part(own, f"{name}, diffusers")
            section.target(
                f"{name} at batch 1 outside net and noise ≤ 0.25 × diffusers'", str(got), got.median <= 0.25
            )
    else:
        for name, wanted in (("ancestral", 0.85), ("DDIM", 0.5)):
            got = part(f"{name}, ours", f"{name}, diffusers")
            section.target(
                f"{name} at batch 64, noise included, ≤ {wanted} × diffusers'", str(got), got.median <= wanted
            )


SUBJECTS = {"overhead": overhead}
