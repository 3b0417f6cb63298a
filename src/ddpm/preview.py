"""Previews: samples from the same seeds all through a training, of the averaged net and of the net as it is."""

from __future__ import annotations

import io

from ddpm.atomic import write_bytes
from ddpm.draw import beside
from ddpm.events import Previewed
from ddpm.pipeline import Pipeline
from ddpm.store import Run

PREVIEW_STEPS = 25
_MOST_CLASSES = 100


def preview(averaged: Pipeline, current: Pipeline, run: Run) -> Previewed:
    """Writes samples/STEP.png: the averaged net's pictures on the left, the current one's on the right.

    Every class is shown, up to a hundred of them evenly spread over all.
    """
    step = averaged.description.step
    count, columns, labels = preview_layout(len(averaged.classes))
    steps = min(PREVIEW_STEPS, averaged.denoiser.native.T)
    grids = [p.sample(count, steps=steps, label=labels).grid(columns, 640) for p in (averaged, current)]
    folder = run.folder / "samples"
    folder.mkdir(exist_ok=True)
    path = folder / f"{step:09d}.png"
    png = io.BytesIO()
    beside(grids, [f"averaged weights, step {step:,}", "weights as they are"]).save(png, "png")
    write_bytes(path, png.getvalue())
    return Previewed(step, path)


def preview_layout(classes: int) -> tuple[int, int, list[int] | None]:
    """How many pictures each net draws for a preview, in how many columns, with which labels.

    Up to six classes are rows, up to ten columns, more share one grid.
    """
    if not classes:
        return 36, 6, None
    if classes <= 6:
        return 8 * classes, 8, [k for k in range(classes) for _ in range(8)]
    if classes <= 10:
        return 4 * classes, classes, list(range(classes)) * 4
    shown = min(classes, _MOST_CLASSES)
    labels = [k * classes // shown for k in range(shown)]
    return shown, 5 if shown <= 25 else 10, labels
