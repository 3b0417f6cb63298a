"""How x_s is drawn from x_t: the walk, and the samplers it takes.

walk.py        walk, Sampler, Step
ancestral.py   ddpm: ancestral sampling; pc: predictor–corrector
ddim.py        ddim, and its inversion
ode.py         heun (EDM's algorithms 1 and 2), dpm++ and dpm++sde (DPM-Solver++ 2M)
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ddpm.errors import UserError
from ddpm.samplers.ancestral import Ancestral, PredictorCorrector
from ddpm.samplers.ddim import DDIM, Inversion
from ddpm.samplers.ode import DPMSolver, Heun
from ddpm.samplers.walk import Noise, Sampler, Step, followed, walk

__all__ = [
    "DDIM",
    "SAMPLERS",
    "Ancestral",
    "DPMSolver",
    "Heun",
    "Inversion",
    "Noise",
    "PredictorCorrector",
    "Sampler",
    "Step",
    "followed",
    "make_sampler",
    "options_of",
    "walk",
]

SAMPLERS = ("ddpm", "ddim", "dpm++", "dpm++sde", "heun", "pc")
_OF: dict[str, type[Sampler[Any]]] = {"ddpm": Ancestral, "ddim": DDIM, "heun": Heun, "pc": PredictorCorrector}


def options_of(name: str) -> tuple[str, ...]:
    """The names of a sampler's own options."""
    return tuple(field.name for field in fields(_OF[name])) if name in _OF else ()  # type: ignore[arg-type]


def make_sampler(name: str, /, **options: Any) -> Sampler[Any]:
    """The sampler of a name of SAMPLERS, with its own options; UserError for others, and for another's options."""
    if name not in SAMPLERS:
        raise UserError(f"--sampler {name}: takes {', '.join(SAMPLERS[:-1])} or {SAMPLERS[-1]}")
    for option, value in options.items():
        if option not in options_of(name):
            owner = next((one for one in SAMPLERS if option in options_of(one)), None)
            of = "no sampler has such an option"
            if owner:
                of = f"belongs to the sampler {owner}; {name} has none, take --sampler {owner}"
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            raise UserError(f"--{option.replace('_', '-')} {shown}: {of}")
    if name.startswith("dpm++"):
        return DPMSolver(stochastic=name == "dpm++sde")
    return _OF[name](**options)
