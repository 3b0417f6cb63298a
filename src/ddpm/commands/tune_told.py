"""What `ddpm tune` says and writes of what it found: a table, a line for each number of evaluations, a figure."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from itertools import pairwise
from statistics import stdev
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table

from ddpm.config import to_json
from ddpm.draw.plots import write
from ddpm.evaluate.tuning import Contest, by_sampler, figure, front
from ddpm.tuned import Winner
from ddpm.units import counted
from ddpm.version import __version__

if TYPE_CHECKING:
    from ddpm.commands.tune import Case


def tell(case: Case, contests: Sequence[Contest]) -> None:
    """The table, the winners, what was left out; the figure and the record."""
    out, rounds, n = case.console, case.rounds, case.rounds.n
    for one in contests:
        for reason in one.refused.values():
            out.print(f"left out: {reason}")
    if not any(one.few for one in contests):
        refused = [reason for one in contests for reason in one.refused.values()]
        out.print(
            "nothing was tried: " + (refused[0] if refused else "the budget was over; the same command goes on")
        )
        return
    if any(one.full for one in contests):
        out.print(table(contests))
        rest = f"; -: not in the best third with {rounds.few:,}" if rounds.few < n else ""
        out.print(
            f"Fréchet distance with {n:,} pictures of seed {rounds.seed}, each sampler on its best grid{rest}"
        )
    for one in contests:
        out.print(line(one))
    best = [one.ranked[0] for one in contests if one.whole]
    for less, more in pairwise(best):
        if more.score >= less.score:
            counts = more.setting.evaluations, less.setting.evaluations
            out.print(f"{counts[0]} evaluations: no nearer than {counts[1]}")
    out.print(
        f"±: over {len(rounds.seeds)} seeds. Distances of other numbers of pictures, seeds or feature nets are "
        "not comparable with these"
    )
    caption = (
        f"{case.model.name} against {counted(len(case.reference), 'picture')} of {case.reference.name}, Fréchet "
        f"distance in features of {case.net.name}, seed {rounds.seed}. Of each sampler the best grid and options."
    )
    picture = write(figure(contests, rounds, caption), case.records.path(f"tune-{n}.png"))
    record = case.records.write_result(f"tune-{n}.json", result(case, contests))
    out.print(f"open {picture}; all numbers are in {record}")


def table(contests: Sequence[Contest]) -> Table:
    """Of each sampler the best grid and its distance, a column a number of evaluations."""
    made = Table("evaluations", box=None, pad_edge=False)
    for one in contests:
        made.add_column(str(one.evaluations))
    tried = {setting.sampler for one in contests for setting in one.tried}
    found = by_sampler(contests, "full")
    for sampler in sorted(tried, key=lambda name: list(found).index(name) if name in found else len(found)):
        at = {setting.evaluations: (setting, score) for setting, score in found.get(sampler, [])}
        cells = []
        for one in contests:
            if one.evaluations not in at:
                cells.append("-")
                continue
            setting, score = at[one.evaluations]
            options = "".join(f" {name} {value:g}" for name, value in setting.options)
            cells.append(f"{score:.2f} {setting.grid}{options}")
        made.add_row(sampler, *cells)
    return made


def line(one: Contest) -> str:
    """What came of one number of evaluations."""
    head = counted(one.evaluations, "evaluation")
    if not one.whole:
        done = f"{len(one.few)} of {counted(len(one.tried), 'setting')} tried, {len(one.full)} with all pictures"
        return f"{head}: left out, as the budget was over ({done}); the same command goes on"
    best, *others = one.ranked
    text = f"{head}: {best.setting.words()}, {_spread(best)}"
    if others:
        sure = "with every seed" if one.sure else "but not with every seed: as good, for all one can tell"
        behind = f"behind by {others[0].score - best.score:.2f}, {sure}"
        text += f"; next {others[0].setting.words()}, {_spread(others[0])}, {behind}"
    return text


def _spread(one: Winner) -> str:
    return f"{one.score:.2f} ± {stdev(one.scores):.2f}"


def result(case: Case, contests: Sequence[Contest]) -> dict[str, Any]:
    """All numbers, as plain values."""

    def scored(found: dict[Any, float]) -> list[dict[str, Any]]:
        return [{**to_json(one), "cost": one.cost, "distance": score} for one, score in found.items()]

    rounds, model, pictures = case.rounds, case.model, case.reference.pictures
    every = front(item for one in contests for item in one.full.items())
    return {
        "metric": "Fréchet distance",
        "features": {"net": case.net.name, "key": case.net.key},
        "model": model.name,
        "checkpoint": model.checkpoint,
        "reference": {
            "data": case.options.reference,
            "name": case.reference.name,
            "fingerprint": pictures.fingerprint,
            "pictures": len(pictures),
        },
        "pictures": {"all settings": rounds.few, "the best third": rounds.n},
        "seeds": list(rounds.seeds),
        "device": str(model.device),
        "versions": {"ddpm": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "front": scored(dict(every)),
        "contests": [
            {
                "evaluations": one.evaluations,
                "whole": one.whole,
                "winners": [to_json(winner) for winner in one.ranked],
                "ahead with every seed": one.sure if one.whole else None,
                "full": scored(one.full),
                "few": scored(one.few),
                "refused": [{**to_json(setting), "why": why} for setting, why in one.refused.items()],
            }
            for one in contests
        ],
    }
