"""grid of `ddpm evaluate`: the best levels for every number of steps, measured on the pictures and kept."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm.commands.evaluate_bits import columns, kept, tell
from ddpm.commands.options import progress
from ddpm.draw.plots import write
from ddpm.evaluate import Records
from ddpm.evaluate.measuring import FORMAT, batches, on_device
from ddpm.evaluate.spacing import Sums, figure, grids_of
from ddpm.evaluate.spacing import measure as measure_spacing
from ddpm.grids import NAME, Grids, write_grids
from ddpm.walks import usual_batch

if TYPE_CHECKING:
    from ddpm.commands.evaluate import Case

USUAL = 100
"""Pictures taken of a larger set, unless asked for otherwise: levels are told apart by far fewer than bits."""
_SHOWN = (5, 10, 20, 50, 100)


def measure_grid(case: Case) -> None:
    """The measurement, a table, a figure, and the file that `--grid fitted` reads: a run's own, if it is one."""
    numbers, out, model = case.numbers(USUAL), case.console, case.model.denoiser
    T = model.chain.T
    about = {"kind": "spacing", "T": T, "variance": model.variance, "clip": model.clip, "format": FORMAT}
    records = Records(case.out, f"{case.reference.name}-grid", {**case.key(), **about})
    sums, missing = _added(records, numbers)
    words = f"cost of every step between two of the {T:,} levels, for the best chain of K steps"
    tell(case, len(numbers), len(numbers) - len(missing), words, T)
    size = case.options.batch or usual_batch(case.model.device, case.reference.size)
    with kept(case, numbers, records), progress("evaluations") as advance:
        while len(missing):
            for rows, told in batches(missing, T, size, advance):
                x0, which, cond = on_device(case.reference, rows, case.model.device)
                made = measure_spacing(model, x0, which, case.options.seed, progress=told, **cond)
                records.add(rows, {name: np.asarray(value) for name, value in dataclasses.asdict(made).items()})
            sums, missing = _added(records, numbers)
    assert sums is not None  # there is at least one picture
    grids = dataclasses.replace(
        grids_of(sums, model, seed=case.options.seed),
        model=case.model.name,
        checkpoint=case.model.checkpoint,
        weights=case.options.weights,
        data=case.reference.name,
        fingerprint=case.reference.pictures.fingerprint,
    )
    shown = [grid for grid in grids.grids if grid.steps in _SHOWN]
    rows_shown = [(str(grid.steps), f"{grid.bits:.4f}", f"{grid.even:.4f}") for grid in shown]
    out.print(columns(("steps", "bits/dim, fitted", "bits/dim, even"), rows_shown))
    picture = write(figure(grids), records.path(f"grid-{len(numbers)}.png"))
    out.print(f"open {picture}; the levels are in {_written(case, records, grids)}")


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


def _written(case: Case, records: Records, grids: Grids) -> str:
    path = case.model.grids or records.path(NAME)
    write_grids(path, grids)
    return str(path)
