"""What nobody asked for is decided here, from the data, the machine and the time there is.

choices = for_data(source, device, asked, seconds)           pictures, net, target, batch
planned = plan(choices, pictures, accelerator, folder, seconds)   rate, parts, steps, what it will take

Each decision comes with its reason, which the command line prints and the run keeps. What was asked for is
never touched, and what depends on it follows it.
"""

from ddpm.plan.choosing import choose_small, for_data, readable
from ddpm.plan.course import horizons
from ddpm.plan.decisions import Choices, Decision, Expected, Planned
from ddpm.plan.machine import Load, count
from ddpm.plan.spending import DEFAULT_BUDGET, plan, precision
from ddpm.units import amount, duration, parse_duration

__all__ = [
    "DEFAULT_BUDGET",
    "Choices",
    "Decision",
    "Expected",
    "Load",
    "Planned",
    "amount",
    "choose_small",
    "count",
    "duration",
    "for_data",
    "horizons",
    "parse_duration",
    "plan",
    "precision",
    "readable",
]
