"""ode of `ddpm evaluate`: the likelihood by the probability-flow ODE, beside the bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from ddpm.commands.evaluate_bits import kept, tell
from ddpm.draw.plots import write
from ddpm.errors import UserError
from ddpm.evaluate import Records
from ddpm.evaluate.ode import FORMAT, Flow, Summary, figure, measure, on_grid, summarise, usual_batch
from ddpm.evaluate.summary import Mean
from ddpm.units import counted

if TYPE_CHECKING:
    from ddpm.commands.evaluate import Case, Options

USUAL = 100
"""Pictures taken of a larger set, unless asked for otherwise: each takes as long as several of the bound."""


def choose_flow(options: Options, metrics: Sequence[str]) -> Flow | None:
    """How the ODE is to be solved, None where it is not asked for; UserError for numbers out of their range."""
    if "ode" not in metrics:
        return None
    usual, text = Flow(), options.probes
    if text not in (None, "exact") and not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise UserError(f"--probes {text}: takes a number from 1, or exact")
    probes = usual.probes if text is None else 0 if text == "exact" else int(text)
    return Flow(usual.steps if options.ode_steps is None else options.ode_steps, probes)


def measure_ode(case: Case, flow: Flow) -> None:
    """The pass over the pictures, a table, a record and a figure."""
    numbers, out, model, reference = case.numbers(USUAL), case.console, case.model.denoiser, case.reference
    n, dimensions = len(numbers), reference.pictures.channels * math.prod(reference.size)
    about = {**flow.about(), "T": on_grid(model, flow.steps).native.T}  # refused before anything is written
    records = Records(case.out, f"{reference.name}-ode", {**case.key(), **about, "format": FORMAT})
    there = len(records.there() & set(numbers.tolist()))
    tell(case, n, there, flow.words(), flow.evaluations)
    times = flow.probes or dimensions
    if there < n:
        out.print(f"each with {counted(times, 'derivative')}, which takes about twice as long as the evaluation")
    if case.crew.main:
        records.prepare()
    batch = case.batch(usual_batch(case.model.device, reference.size, flow))
    with kept(case, numbers, records, batch), case.progress() as advance:
        measured = measure(
            model,
            flow,
            reference,
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
    summary = summarise(model, flow, measured, dimensions)
    error = summary.log_p.standard_error
    nats = f"{summary.log_p.value:,.1f}" + ("" if error is None else f" ± {error:.1f}")
    out.print(table_of(summary))
    out.print(
        f"log p(x_0): {nats} nats a picture of {counted(dimensions, 'number')}. The steps are "
        f"about {summary.error:.1g} bits/dim off, at most {summary.worst_error:.1g} of a picture."
    )
    record = records.write_result(
        f"ode-{n}.json",
        {
            "metric": "ode",
            "what": flow.words(),
            **case.about(n),
            **about,
            "evaluations_a_picture": flow.evaluations,
            "derivatives_an_evaluation": times,
            "dimensions": dimensions,
            "results": summary.to_json(),
        },
    )
    caption = f"{case.model.name} on {case.measured_on(n)}, with uniform noise on their pixels; {flow.detail()}."
    picture = write(figure(summary, caption), records.path(f"ode-{n}.png"))
    out.print(f"Measured: {flow.words()}.")
    out.print(f"open {picture}; all numbers are in {record}")


def table_of(summary: Summary) -> Table:
    """The parts of the bits/dim, and their sum."""
    table = Table("", box=None, pad_edge=False)
    for heading in ("bits/dim", "standard error"):
        table.add_column(heading, justify="right")
    pixels = Mean(summary.pixels, None)
    parts = {"prior, of x_T": summary.prior, "change of volume": summary.volume, "pixels, log2 127.5": pixels}
    for name, one in {**parts, "total": summary.total}.items():
        error = one.standard_error
        table.add_row(name, f"{one.value:.4f}", "" if error is None else f"{error:.4f}")
    return table
