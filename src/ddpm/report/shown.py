"""What rules look at and what they say: what a run has shown, and an advice with the command for it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ddpm.config import Config
from ddpm.report.trouble import Sign
from ddpm.store import Facts

WORTH_LOOKING = 50_000  # pictures seen before a model of small pictures is worth looking at (ddpm.plan)


class Advice(NamedTuple):
    """What to do, why, and how."""

    what: str
    why: str
    command: str = ""


@dataclass(frozen=True)
class Shown:
    """What the rules look at.

    command: what made the run. signs: of trouble.
    """

    folder: str
    command: str
    config: Config
    facts: Facts
    step: int
    plan: Sequence[str]
    state: str
    records: Sequence[dict[str, Any]]
    signs: Sequence[Sign] = ()


def again(shown: Shown, change: str, suffix: str) -> str:
    """The command that made the run with something changed, into a folder of its own."""
    made = shlex.split(shown.command)
    if made[:2] != ["ddpm", "train"]:
        made = ["ddpm", "train", *shown.config.data.path]
    changed = {"--out", "--steps", "--budget", *(word for word in change.split() if word.startswith("--"))}
    kept, skip = [], False
    for word in made:
        name, _, value = word.partition("=")
        if word.startswith("--"):
            skip = name in changed and not value
            if name in changed:
                continue
        elif skip:  # the value of what was left out
            skip = False
            continue
        kept.append(word)
    return f"{shlex.join(kept)} {change} --out {shlex.quote(f'{shown.folder}-{suffix}')}"


def number(value: Any) -> float | None:
    """A finite number of a log's record, else None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None
