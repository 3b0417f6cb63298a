"""Previews: what they show, and that it is the same at every time."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddpm
import tiny
from ddpm.events import Previewed
from ddpm.preview import preview, preview_layout
from ddpm.store import Facts, Run


@pytest.mark.parametrize("classes", [0, 1, 2, 3, 6, 7, 10, 11, 25, 26, 99, 100, 1000])
def test_the_layout_shows_every_class(classes):
    count, columns, labels = preview_layout(classes)
    if classes in (0, 1, 2, 3, 6, 7, 10, 25, 100, 1000):
        assert count % columns == 0
    if not classes:
        assert labels is None
    elif classes <= 100:
        assert len(labels) == count and set(labels) == set(range(classes))
    else:
        assert len(set(labels)) == count == 100 and max(labels) >= 980 and max(np.diff(labels)) <= 11


def test_rows_are_classes_where_they_are_few():
    _, columns, labels = preview_layout(3)
    rows = np.array(labels).reshape(-1, columns)
    assert (rows == rows[:, :1]).all() and list(rows[:, 0]) == [0, 1, 2]
    _, columns, labels = preview_layout(8)
    assert (np.array(labels).reshape(-1, columns) == np.arange(8)).all()


def test_both_nets_stand_side_by_side(tmp_path: Path):
    run = tiny.run(tmp_path / "r", Facts("zoo", 10, ("ant", "bee"), (0.5, 0.5), "f" * 64))
    averaged, current = (ddpm.load(run.folder, "cpu", weights) for weights in ("ema", "model"))
    event = preview(averaged, current, Run(run.folder))
    assert event == Previewed(7, run.folder / "samples" / "000000007.png")
    sheet = np.asarray(Image.open(event.path).convert("L"))
    for model, left in ((averaged, True), (current, False)):
        labels = [0] * 8 + [1] * 8
        expected = np.asarray(model.sample(16, steps=25, label=labels).grid(8, 640))
        height, width = expected.shape
        part = sheet[-height:, :width] if left else sheet[-height:, -width:]
        np.testing.assert_array_equal(part, expected)
    first = event.path.read_bytes()
    preview(averaged, current, Run(run.folder))
    assert event.path.read_bytes() == first
