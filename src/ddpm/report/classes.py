"""What a classifier's page shows in place of pictures: how often it is right, over the training and by noise."""

from __future__ import annotations

import math

from ddpm.draw import page
from ddpm.draw.charts import Series, line_chart
from ddpm.heldout import HELD_OUT
from ddpm.report import faults
from ddpm.report.material import Material
from ddpm.report.parts import by_quarter as lines
from ddpm.report.parts import steps
from ddpm.report.quarters import NAMES
from ddpm.store import Facts


def curves(made: Material) -> str:
    """Cross-entropy, accuracy and what else the log has, over the steps."""
    if not made.records:
        return page.note("Nothing has been logged yet.")
    span = (0.0, float(max(made.step, 1)))
    shares = _shares(made.description.facts)
    ignorant = -sum(share * math.log(share) for share in shares if share)
    loss = [made.series("cross-entropy", "loss")]
    right = [
        made.series("training batches", "accuracy"),
        made.series("held out", "held_out_accuracy"),
        made.series("trained on", "trained_on_accuracy"),
    ]
    parts = [
        page.chart(
            "Cross-entropy",
            line_chart(loss, "cross-entropy over the steps", span=span, smooth=True),
            loss,
            "What training minimises: −log p(y | xₜ), the surprise at the true class, averaged over all noise "
            f"levels. Knowing only how frequent the classes are, it would be {ignorant:.2f}.",
        ),
        _accuracy(
            "How often it is right",
            right,
            span,
            "The share of noisy pictures whose class it names, at all levels. Training batches, mirrored and cut "
            "as asked for, are seen by the weights of the moment; the others by the averaged ones. When held-out "
            "pictures fall behind those trained on, it learns pictures by heart.",
        ),
        _accuracy(
            "By quarter of the noise levels, in training",
            lines(made, "accuracy_quarters"),
            span,
            "Of training batches, from the cleanest quarter of the levels to the noisiest.",
            ordered=True,
        ),
        _accuracy(
            "By quarter of the noise levels, held out",
            lines(made, "held_out_quarters"),
            span,
            "Of pictures it never trains on, with the averaged weights.",
            ordered=True,
        ),
        *steps(made, span),
    ]
    return faults.note(made.records) + page.charts(*parts)


def by_quarter(made: Material) -> str:
    """The accuracy at each quarter of the levels, beside that of a guess."""
    held_out = [_last(line) for line in lines(made, "held_out_quarters")]
    known = [_last(line) for line in lines(made, "trained_on_quarters")]
    if any(value is not None for value in held_out):
        shown, how = (
            held_out,
            (
                f"Measured on at most {HELD_OUT} held-out pictures, each at one level of every quarter, and on as "
                "many that it trains on: differences of less than 5 % say little."
            ),
        )
    else:
        shown, known = [_lately(line) for line in lines(made, "accuracy_quarters")], []
        how = (
            "Measured on the last tenth of what was trained on: no pictures are held out (--holdout), which alone "
            "would say how it does on pictures it never saw."
        )
    if all(value is None for value in shown):
        return page.note("Nothing has been measured yet.")
    T, guess = made.description.config.chain.steps, max(_shares(made.description.facts))
    rows = []
    for k, (name, value) in enumerate(zip(NAMES, shown, strict=True)):
        last = -(-(k + 1) * T // len(NAMES))
        if value is not None:
            beside = known[k] if k < len(known) else None
            more = "" if beside is None else f", trained on {beside:.1%}"
            rows.append((f"{name}, t ≤ {last:,}", value, f"{value:.1%}{more}"))
    rows.append(("a guess", guess, f"{guess:.1%}"))
    return page.bars(rows) + page.text(
        f"A noisiest quarter that is hardly better than guessing the most frequent class ({guess:.1%}) is normal: "
        "under so much noise nobody can tell the classes apart.",
        how,
    )


def _accuracy(
    title: str, series: list[Series], span: tuple[float, float], caption: str, ordered: bool = False
) -> str:
    shown = [line for line in series if line.points()]
    drawing = line_chart(shown, f"{title} over the steps", span=span, smooth=True, log=False)
    return page.chart(title, drawing, shown, caption, ordered=ordered)


def _shares(facts: Facts) -> tuple[float, ...]:
    """The share of each class in the data."""
    return facts.frequencies or (1 / max(1, len(facts.classes)),) * max(1, len(facts.classes))


def _last(line: Series) -> float | None:
    points = line.points()
    return points[-1][1] if points else None


def _lately(line: Series) -> float | None:
    """The mean of the last tenth of a line."""
    values = [y for _, y in line.points()]
    late = values[-max(1, len(values) // 10) :]
    return sum(late) / len(late) if late else None
