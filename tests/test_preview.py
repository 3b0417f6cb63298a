"""Previews: what they show, and that it is the same at every time."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddpm
import tiny
from ddpm.data import Pairs
from ddpm.events import Previewed
from ddpm.preview import preview, preview_count, preview_layout
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


# -- upsamplers ------------------------------------------------------------------------------------------------


def upsampler(folder, facts, **changes):
    made = {"data__size": (16, 16), "data__low_size": (8, 4), "train__task": "upsampler", **changes}
    run = tiny.run(folder, facts, **made)
    return run, *(ddpm.load(run.folder, "cpu", weights) for weights in ("ema", "model"))


@pytest.mark.parametrize("classes", [(), ("ant", "bee")])
def test_an_upsampler_shows_what_it_makes_of_pictures_it_is_given(tmp_path, classes):
    """Each row has the small picture, two enlarged ones and the original; all are found in the sheet, in order."""
    facts = Facts("zoo", 10, classes, (0.5, 0.5) if classes else ())
    run, averaged, current = upsampler(tmp_path / "up", facts)
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 256, (12, 1, 16, 16), dtype=np.uint8)
    small = rng.integers(0, 256, (12, 1, 8, 4), dtype=np.uint8)
    labels = np.arange(12) % 2 if classes else None
    given = Pairs(small, whole, labels)
    event = preview(averaged, current, Run(run.folder), given)
    assert event == Previewed(7, run.folder / "samples" / "000000007.png")
    sheet = np.asarray(Image.open(event.path).convert("L"))
    label = None if labels is None else labels.tolist()
    made = [one.sample(12, steps=25, low=small, label=label).pixels for one in (averaged, current)]
    squares = small.repeat(2, axis=2).repeat(4, axis=3)
    left_of = []
    for k in range(12):
        places = [place(sheet, one[k, 0]) for one in (squares, *made, whole)]
        assert len({top for top, _ in places}) == 1 and [x for _, x in places] == sorted(x for _, x in places)
        left_of.append(places[0])
    assert left_of[0] < left_of[1] and left_of[6][1] > left_of[0][1] and left_of[6][0] == left_of[0][0]
    first = event.path.read_bytes()
    preview(averaged, current, Run(run.folder), given)
    assert event.path.read_bytes() == first


def place(sheet, pixels):
    """Where a picture, each pixel of it some times as large, is in a sheet; it is there once."""
    scale = 102 // (pixels.shape[1] + 2)
    large = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    h, w = large.shape
    found = [
        (y, x)
        for y, x in zip(*np.where(sheet[: 1 - h, : 1 - w] == large[0, 0]), strict=True)
        if np.array_equal(sheet[y : y + h, x : x + w], large)
    ]
    assert len(found) == 1
    return found[0]


def test_large_pictures_are_fewer_and_not_enlarged(tmp_path):
    assert preview_count((32, 32)) == 12 and preview_count((102, 60)) == 12 and preview_count((103, 60)) == 6
    run, averaged, current = upsampler(tmp_path / "up", Facts("zoo", 10), data__size=(16, 128))
    whole = np.random.default_rng(0).integers(0, 256, (6, 1, 16, 128), dtype=np.uint8)
    event = preview(averaged, current, Run(run.folder), Pairs(whole[:, :, ::2, ::32].copy(), whole, None))
    with Image.open(event.path) as sheet:
        assert sheet.width == 4 * 132 + 3 * 12 and sheet.height == 2 * 26 + 6 * 18 + 2
