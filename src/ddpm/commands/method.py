"""The options of how pictures are drawn, as the commands that draw them share them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import tyro

from ddpm.commands.options import unset
from ddpm.errors import UserError

Engine = Literal["torch", "compile", "onnx"]
SamplerName = Literal["ddpm", "ddim", "dpm++", "dpm++sde", "heun", "pc"]
_NAMES = "{ddpm,ddim,dpm++,dpm++sde,heun,pc}"


METHOD = tyro.conf.arg(name="")
"""Of an option that is a MethodOptions or OwnOptions: its fields stand among the command's own."""


def check_seed(seed: int) -> None:
    """UserError for one that is none: noise is addressed by 64 bits of it."""
    if not 0 <= seed < 2**64:
        raise UserError(f"--seed {seed}: lies in [0, 2^64)")


@dataclass(frozen=True)
class OwnOptions:
    """What only some samplers take."""

    eta: Annotated[float | None, unset("ETA", "0")] = None
    """Of ddim, noise in its steps: 0 none, 1 as much as in ancestral sampling."""
    churn: Annotated[float | None, unset("S", "0, none")] = None
    """Of heun, noise added and removed again over the walk: EDM's S_churn."""
    churn_range: Annotated[tuple[float, float] | None, unset("LOW HIGH", "all", name="churn-range")] = None
    """Of heun, sigma/alpha where it churns: S_tmin and S_tmax."""
    churn_noise: Annotated[float | None, unset("S", "1", name="churn-noise")] = None
    """Of heun, how strong that noise is: S_noise."""
    predictor: Annotated[Literal["ancestral", "reverse"] | None, unset("{ancestral,reverse}", "ancestral")] = None
    """Of pc."""
    corrections: Annotated[int | None, unset("M", "1")] = None
    """Of pc, Langevin steps at each level."""
    corrector_snr: Annotated[float | None, unset("R", "0.16", name="corrector-snr")] = None
    """Of pc, signal to noise of a Langevin step."""

    def asked(self) -> dict[str, Any]:
        """What was asked for, as the samplers take it."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) is not None}


@dataclass(frozen=True)
class MethodOptions:
    """How pictures are drawn."""

    sampler: Annotated[
        SamplerName | None, unset(_NAMES, "what ddpm tune found best, else dpm++sde; see above where not")
    ] = None
    """dpm++ is DPM-Solver++ 2M, dpm++sde its SDE form; ddpm ancestral sampling; ddim deterministic; heun EDM's
    solver, two evaluations a step; pc a predictor with Langevin corrections."""
    steps: Annotated[
        str | None,
        unset("STEPS", "20 for dpm++ and dpm++sde, 50 for ddim and fitted, 10 for heun, all for ddpm and pc"),
    ] = None
    """How many: 20, or of each section of the chain: 10,15,20, or a whole stride: ddim25."""
    grid: Annotated[
        str | None, unset("GRID", "trailing for dpm++ and dpm++sde, log-snr for heun, else uniform")
    ] = None
    """Which levels: uniform, trailing, quadratic, log-snr, edm (or edm:RHO), fitted (by ddpm evaluate --metrics
    grid), or a grids.json."""
    own: Annotated[OwnOptions, METHOD] = OwnOptions()

    def asked(self) -> dict[str, Any]:
        """What was asked for, as Pipeline's methods take it."""
        chosen = {"sampler": self.sampler, "steps": self.steps, "grid": self.grid}
        return {**{name: value for name, value in chosen.items() if value is not None}, **self.own.asked()}
