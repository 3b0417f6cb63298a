"""Peers that need torchvision, which has no build beside our torch: in an environment of their own, ours too.

lucidrains' denoising-diffusion-pytorch in training, azula in what a sampling step costs outside the net. Ratios
here are of that environment alone, whose torch is another.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import nets
import torch
from overhead import SHAPE, run_ours
from page import Section
from rounds import in_turn
from torch.utils.flop_counter import FlopCounterMode
from training import BATCH, Diffusers, Ours, pictures

from ddpm.samplers import DDIM, Ancestral

STEPS = 500


class Lucidrains:
    """Unet, GaussianDiffusion and EMA in the loop of its Trainer."""

    def __init__(self, name: str, batch: int):
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet
        from ema_pytorch import EMA

        config = nets.config(name)
        _, every = pictures(config, 4 * batch)
        self.every, self.batch = every.add(1.0).mul(0.5), batch
        net = Unet(
            dim=config.net.channels, dim_mults=config.net.multipliers, channels=config.data.channels,
            dropout=config.net.dropout,
        )  # fmt: skip
        size = config.data.size[0]
        made = GaussianDiffusion(net, image_size=size, timesteps=1000, objective="pred_noise").to(nets.DEVICE)
        self.diffusion = made
        self.optimizer = torch.optim.Adam(made.parameters(), lr=2e-4)
        self.ema = EMA(made, beta=0.9999, update_every=10)
        self.count = nets.parameters(net)

    def __call__(self) -> None:
        index = torch.randint(len(self.every), (self.batch,))
        loss = self.diffusion(self.every[index].to(nets.DEVICE))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.diffusion.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update()

    def flops(self) -> int:
        with FlopCounterMode(display=False) as counter:
            self.diffusion(self.every[:1].to(nets.DEVICE)).backward()
        self.optimizer.zero_grad()
        return int(counter.get_total_flops())


def peers(rounds: int, quick: bool) -> Section:
    section = Section("Peers that need torchvision")
    missing = [name for name in ("denoising_diffusion_pytorch", "azula") if find_spec(name) is None]
    if missing:
        raise SystemExit(f"{', '.join(missing)}: not installed here; run: make bench-peers")
    name = nets.SMALL if quick else nets.PAPER
    _train(section, name, rounds)
    _overhead(section, rounds)
    return section


def _train(section: Section, name: str, rounds: int) -> None:
    batch = BATCH[name]
    other = Lucidrains(name, batch)
    cases: dict[str, Callable[[], object]] = {
        "ours": Ours(name, batch),
        "lucidrains": other,
        "diffusers": Diffusers(name, batch),
    }
    work = dict.fromkeys(cases, nets.flops(name, backward=True) / 1e9) | {"lucidrains": other.flops() / 1e9}
    times = in_turn(cases, rounds)
    section.say(
        f"A step of training of {name} at batch {batch}. lucidrains' net of the same widths is another: "
        f"{other.count / 1e6:.1f}M parameters, {work['lucidrains'] / work['ours']:.0%} of the operations."
    )
    rows = []
    for case in cases:
        rate = batch / times.median(case)
        ratio = "" if case == "ours" else str(times.faster("ours", case))
        rows.append((case, f"{rate:.2f}", f"{rate * work[case]:.0f}", ratio))
    section.table(("", "pictures/s", "GFLOP/s", "ours is × as fast"), rows)


def _overhead(section: Section, rounds: int) -> None:
    from azula.denoise import SimpleDenoiser
    from azula.noise import VPSchedule
    from azula.sample import DDIMSampler, DDPMSampler

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, **given: Any) -> torch.Tensor:
            return x

    x = torch.randn(1, *SHAPE, device=nets.DEVICE)
    denoiser = SimpleDenoiser(Net(), VPSchedule()).to(nets.DEVICE)
    ddim, ddpm = (kind(denoiser, steps=STEPS, silent=True) for kind in (DDIMSampler, DDPMSampler))
    times = in_turn(
        {
            "DDIM, ours": lambda: run_ours(DDIM(), x, None),
            "DDIM, azula": lambda: ddim(x),
            "ancestral, ours": lambda: run_ours(Ancestral(), x, None),
            "ancestral, azula": lambda: ddpm(x),
        },
        rounds,
    )
    section.say("A sampling step at 1 × 3 × 32 × 32 with a net that returns its input, noise included.")
    rows = []
    for case in times.taken:
        kind = case.split(",")[0]
        ratio = "" if case.endswith("ours") else str(times.faster(f"{kind}, ours", case))
        rows.append((case, f"{times.median(case) / STEPS * 1e6:.0f} µs", ratio))
    section.table(("", "a step", "ours is × as fast"), rows)


SUBJECTS = {"peers": peers}
