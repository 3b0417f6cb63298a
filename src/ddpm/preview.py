"""Previews: samples from the same seeds all through a training, of the averaged net and of the net as it is."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ddpm.atomic import write_bytes
from ddpm.data import Pairs
from ddpm.draw import beside, enlarged, grid
from ddpm.events import Previewed
from ddpm.pipeline import Pipeline
from ddpm.store import Run

PREVIEW_STEPS = 25
_MOST_CLASSES = 100
_WIDTH, _COLUMN = 640, 102  # pixels: of a net's samples, and of a column of an upsampler's preview


def preview(averaged: Pipeline, current: Pipeline, run: Run, pairs: Pairs | None = None) -> Previewed:
    """Writes samples/STEP.png: the averaged net's pictures on the left, the current one's on the right.

    Every class is shown, up to a hundred of them evenly spread over all. Of an upsampler the pairs are shown: the
    small picture, what both nets make of it, and the original.
    """
    step, nets = averaged.description.step, (averaged, current)
    steps = min(PREVIEW_STEPS, averaged.denoiser.native.T)
    if pairs is not None:
        labels = None if pairs.labels is None else pairs.labels.tolist()
        made = [p.sample(len(pairs.small), steps=steps, label=labels, low=pairs.small).pixels for p in nets]
        sheet = _compared(pairs, made, step)
    else:
        count, columns, labels = preview_layout(len(averaged.classes))
        grids = [p.sample(count, steps=steps, label=labels).grid(columns, _WIDTH) for p in nets]
        sheet = beside(grids, [f"averaged weights, step {step:,}", "weights as they are"])
    folder = run.folder / "samples"
    folder.mkdir(exist_ok=True)
    path = folder / f"{step:09d}.png"
    png = io.BytesIO()
    sheet.save(png, "png")
    write_bytes(path, png.getvalue())
    return Previewed(step, path)


def _compared(pairs: Pairs, made: Sequence[np.ndarray], step: int) -> Image.Image:
    """A row a picture, in two halves where there is room."""
    size = pairs.whole.shape[2:]
    columns = [enlarged(pairs.small, size), *made, pairs.whole]
    names = ["small", "averaged", "as they are", "original"]
    halves = 1 if max(size) > _COLUMN else 2
    each = -(-len(pairs.small) // halves)
    parts = [
        beside([grid(column[first : first + each], 1, _COLUMN) for column in columns], names)
        for first in range(0, len(pairs.small), each)
    ]
    return beside(parts, [f"step {step:,}", *("" for _ in parts[1:])])


def preview_count(size: tuple[int, int]) -> int:
    """How many pictures of this size each net of an upsampler enlarges for a preview."""
    return 12 if max(size) <= _COLUMN else 6


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
