"""nll and rate of `ddpm evaluate`, from one pass over the pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from ddpm.draw.plots import write
from ddpm.errors import UserError
from ddpm.evaluate import Bits, Measurement, Records, choose, measure, rate, summarise
from ddpm.evaluate.measuring import FORMAT, kept_batch
from ddpm.evaluate.summary import Mean, figure
from ddpm.memory import AtOnce
from ddpm.units import counted

if TYPE_CHECKING:
    from ddpm.commands.evaluate import Case, Options
    from ddpm.pipeline import Pipeline

USUAL = 1000
"""Pictures taken of a larger set, unless asked for otherwise."""


def choose_measurement(model: Pipeline, options: Options, metrics: Sequence[str]) -> Measurement | None:
    """What is to be measured for nll and rate, None for neither; UserError for options that exclude each other."""
    fitted = None
    if options.grid not in (None, "uniform"):
        if options.steps is None or options.draws is not None:
            raise UserError(
                f"--grid {options.grid}: has the levels of so many steps; add --steps K, without --draws"
            )
        fitted = model.fitted(options.steps, options.grid).levels
    if "rate" in metrics:
        if options.draws is not None:
            raise UserError(f"--draws {options.draws}: rate needs every level; leave it out, or take --steps K")
        return choose(model.denoiser, options.steps or "all", fitted=fitted)
    if "nll" in metrics:
        return choose(model.denoiser, options.steps, options.draws, fitted)
    for name, value in (("steps", options.steps), ("draws", options.draws)):
        if value is not None:
            raise UserError(
                f"--{name} {value}: belongs to nll and rate; leave it out, or add one of them to --metrics"
            )
    return None


def measure_bits(case: Case, what: Measurement, metrics: Sequence[str]) -> None:
    """One pass, then a table, a record and a figure of each."""
    numbers, out = case.numbers(USUAL), case.console
    n = len(numbers)
    records = Records(
        case.out, f"{case.reference.name}-{what.slug}", {**case.key(), **what.about(), "format": FORMAT}
    )
    there = len(records.there() & set(numbers.tolist()))
    tell(case, n, there, what.words(), what.evaluations)
    if case.crew.main:
        records.prepare()
    batch = case.batch(kept_batch(case.model.device, case.reference.size, what.evaluations))
    with kept(case, numbers, records, batch), case.progress() as advance:
        measured = measure(
            what,
            case.reference,
            numbers,
            records,
            seed=case.options.seed,
            batch=batch,
            device=case.model.device,
            progress=advance,
            crew=case.crew,
        )
    if measured is None:
        return
    about = {
        "what": what.words(),
        **case.about(n),
        **what.about(),
        "evaluations_a_picture": what.evaluations,
    }
    caption, written = case.caption(n, what.title(), what.model.variance), []
    if "nll" in metrics:
        summary = summarise(what, measured)
        out.print(table_of(summary.parts(), summary.total, what.levels))
        record = records.write_result(f"nll-{n}.json", {"metric": "nll", **about, "results": summary.to_json()})
        written.append((write(figure(what, summary, caption), records.path(f"nll-{n}.png")), record))
    if "rate" in metrics:
        assert isinstance(measured, Bits)  # nothing is drawn for rate
        curve = rate.RateDistortion.from_pictures(measured, what.levels)
        out.print(columns(rate.HEADINGS, [row.cells() for row in rate.table(curve)]))
        if curve.rate_se is not None:
            out.print("±: standard error over pictures")
        record = records.write_result(f"rate-{n}.json", {"metric": "rate", **about, "results": curve.to_json()})
        written.append((write(rate.figure(curve, caption), records.path(f"rate-{n}.png")), record))
    out.print(f"Measured: {what.words()}.")
    for picture, record in written:
        out.print(f"open {picture}; all numbers are in {record}")


def tell(case: Case, n: int, there: int, words: str, evaluations: int) -> None:
    """What is going to be measured of n pictures, what it costs, and how many are there already."""
    case.console.print(f"{case.model.name} on {case.measured_on(n)}")
    case.console.print(words)
    cost = f"{counted((n - there) * evaluations, 'evaluation')} of the net"
    cost += f", in {case.crew.count} processes" if case.crew.count > 1 else ""
    if there == n:
        case.console.print("every picture was measured before: nothing is computed")
    elif there:
        case.console.print(f"{counted(there, 'picture')} measured before, {n - there:,} to go: {cost}")
    else:
        case.console.print(f"{cost}: {evaluations:,} a picture")


@contextmanager
def kept(case: Case, numbers: np.ndarray, records: Records, batch: AtOnce) -> Iterator[None]:
    """Says what is kept of a measurement, of so many pictures at once, that is stopped."""
    try:
        yield
    except KeyboardInterrupt:
        there = len(records.there() & set(numbers.tolist()))
        if there:
            case.console.print(
                f"{there:,} of {counted(len(numbers), 'picture')} are kept in {records.folder}; the same command "
                "goes on with the others"
            )
        else:
            rows = min(batch.rows, len(numbers))
            case.console.print(
                f"nothing is kept: {counted(rows, 'picture')} are kept together once all are measured; --batch "
                f"{max(1, rows // 4)} keeps fewer, sooner"
            )
        raise


def columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of numbers."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def table_of(parts: dict[str, Mean], total: Mean, levels: np.ndarray) -> Table:
    """The parts of the bits/dim, and their sum, of a chain that has these levels of the native one."""
    T, first, last = len(levels), int(levels[0]), int(levels[-1])
    between = f"t = 2 … {T:,}"
    if last > T:  # some are left out
        ends = f"{levels[1]:,} … {last:,}" if T > 2 else f"{last:,}"
        between = f"t = {ends} ({counted(T - 1, 'step')})"
    decoder = "decoder, L_0" if first == 1 else f"decoder, from t = {first:,}"
    names = {"prior": "prior, L_T", "between": between, "decoder": decoder}
    table = Table("", box=None, pad_edge=False)
    for heading in ("bits/dim", "standard error"):
        table.add_column(heading, justify="right")
    rows = [(names[name], mean) for name, mean in parts.items() if T > 1 or name != "between"]
    for name, mean in (*rows, ("total", total)):
        error = mean.standard_error
        table.add_row(name, f"{mean.value:.4f}", "" if error is None else f"{error:.4f}")
    return table
