"""grid of `ddpm evaluate`: the best levels for every number of steps, measured on the pictures and kept."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm.commands.evaluate_bits import columns, kept, tell
from ddpm.config import to_json
from ddpm.draw.plots import write
from ddpm.errors import UserError
from ddpm.evaluate import Records
from ddpm.evaluate.measuring import FORMAT, completed, kept_batch, on_device
from ddpm.evaluate.spacing import Sums, figure, grids_of
from ddpm.evaluate.spacing import measure as measure_spacing
from ddpm.grids import NAME, Grids, read_grids, write_grids
from ddpm.units import counted
from ddpm.walks import Progress

if TYPE_CHECKING:
    from ddpm.commands.evaluate import Case

USUAL = 100
"""Pictures taken of a larger set, unless asked for otherwise: levels are told apart by far fewer than bits."""
_SHOWN = (5, 10, 20, 50, 100)


def measure_grid(case: Case) -> None:
    """The measurement, a table, a figure, and the file that `--grid fitted` reads: a run's own, if it is one."""
    numbers, out, model = case.numbers(USUAL), case.console, case.model.denoiser
    T, n = model.chain.T, len(numbers)
    about = {"kind": "spacing", "T": T, "variance": model.variance, "clip": model.clip}
    records = Records(case.out, f"{case.reference.name}-grid", {**case.key(), **about, "format": FORMAT})
    _, missing = _added(records, numbers)
    words = f"cost of every step between two of the {T:,} levels, for the best chain of K steps"
    tell(case, n, n - len(missing), words, T)
    if case.crew.main:
        records.prepare()

    def some(rows: np.ndarray, told: Progress) -> None:
        x0, which, cond = on_device(case.reference, rows, case.model.device)
        made = measure_spacing(model, x0, which, case.options.seed, progress=told, **cond)
        records.add(rows, {name: np.asarray(value) for name, value in dataclasses.asdict(made).items()})

    batch = case.batch(kept_batch(case.model.device, case.reference.size, T))
    with kept(case, numbers, records, batch), case.progress() as advance:
        sums = completed(partial(_added, records, numbers), some, batch, T, advance, case.crew)
    if sums is None:
        return
    grids = dataclasses.replace(
        grids_of(sums, model, seed=case.options.seed),
        model=case.model.name,
        checkpoint=case.model.checkpoint,
        weights=case.weights,
        data=case.reference.name,
        fingerprint=case.reference.pictures.fingerprint,
    )
    shown = [grid for grid in grids.grids if grid.steps in _SHOWN]
    rows_shown = [(str(grid.steps), f"{grid.bits:.4f}", f"{grid.even:.4f}") for grid in shown]
    out.print(columns(("steps K", "bits/dim, fitted", "bits/dim, even"), rows_shown))
    out.print("even: K evenly spaced levels alone, without the 1 … T/K that --steps K adds to them")
    caption = case.caption(n, f"Bounds of chains of K of {T:,} levels", model.variance)
    picture = write(figure(grids, about=caption), records.path(f"grid-{n}.png"))
    result = {"metric": "grid", "what": words, **case.about(n), **about, "evaluations_a_picture": T}
    record = records.write_result(f"grid-{n}.json", {**result, "results": {"grids": to_json(grids)["grids"]}})
    path = records.path(NAME)
    write_grids(path, grids)
    out.print(f"open {picture}; the levels are in {path}, all numbers in {record}")
    _give_to_run(case, path, grids)


def _added(records: Records, numbers: np.ndarray) -> tuple[Sums | None, np.ndarray]:
    """The sums of what was measured of these pictures, and the pictures that are missing in them.

    A batch counts if all its pictures are wanted and none is in another one.
    """
    sums, missing = None, set(numbers.tolist())
    for there, arrays in records.parts():
        if missing.issuperset(there.tolist()):
            missing.difference_update(there.tolist())
            values: dict[str, Any] = {
                name: array if array.ndim else array.item() for name, array in arrays.items()
            }
            sums = Sums(**values) if sums is None else sums + Sums(**values)
    return sums, np.array(sorted(missing), dtype=np.int64)


def _give_to_run(case: Case, fitted: Path, grids: Grids) -> None:
    """Makes them what --grid fitted takes, if they are fitted to what the run is sampled with by default."""
    run, options = case.model.grids, case.options
    if run is None:
        return
    own = case.model.description.config.denoiser.variance
    reasons = {
        f"variance {grids.variance}, not {own}": grids.variance != own,
        "not of the averaged weights": grids.weights != "ema",
        "--out": options.out is not None,
    }
    kept = [reason for reason, holds in reasons.items() if holds]
    if kept:
        case.console.print(f"--grid {fitted} takes these; {run} is left as it is ({', '.join(kept)})")
        return
    if run.is_file():
        try:
            old = read_grids(run)
        except UserError:
            case.console.print(f"{run}: could not be read, and is replaced")
        else:
            if old != grids:
                on = f"{counted(old.pictures, 'picture')} of {old.data or 'other data'}"
                other = "" if old.checkpoint == grids.checkpoint else ", of another checkpoint"
                case.console.print(f"{run}: replaces the grids fitted on {on}{other}")
    write_grids(run, grids)
    case.console.print(f"--grid fitted takes them: {run}")
