"""Charts: points stand where their axes say, whatever the values are."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddpm.draw.charts import Series, line_chart, log_ticks, number, running_mean, thinned, ticks


def series(x, y, name="loss"):
    return Series(name, tuple(map(float, x)), tuple(y))


def drawn(svg):
    """The lines' points by class, and where the labels of both axes stand: {value: pixel}."""
    root = ElementTree.fromstring(svg)
    lines = {
        line.get("class"): np.array([tuple(map(float, p.split(","))) for p in line.get("points").split()])
        for line in root.iter("polyline")
    }
    x, y = {}, {}
    for text in root.iter("text"):
        if text.get("text-anchor") == "middle":
            x[value(text.text)] = float(text.get("x"))
        elif text.text != "step":
            y[value(text.text)] = float(text.get("y")) - 4  # letters stand below the line they name
    return lines, x, y


def value(text):
    return float(text[:-1]) * {"k": 1e3, "M": 1e6, "G": 1e9}[text[-1]] if text[-1] in "kMG" else float(text)


def read_off(pixels, axis, log=False):
    """Values of pixels by the axis' labels, as one reads them with a ruler."""
    values, places = np.array(sorted(axis)), np.array([axis[v] for v in sorted(axis)])
    slope, start = np.polyfit(places, np.log(values) if log else values, 1)
    read = slope * pixels + start
    return np.exp(read) if log else read


def test_a_linear_chart_reads_as_its_values():
    x, y = np.arange(0, 501, 50), np.linspace(0.2, 0.9, 11)
    lines, x_axis, y_axis = drawn(line_chart([series(x, y.tolist())], "loss"))
    assert len(x_axis) >= 3 and len(y_axis) >= 3
    np.testing.assert_allclose(read_off(lines["s0"][:, 0], x_axis), x, atol=1.0)
    np.testing.assert_allclose(read_off(lines["s0"][:, 1], y_axis), y, atol=2e-3)


def test_a_logarithmic_chart_reads_as_its_values():
    x, y = np.arange(1, 8), np.logspace(0, -3, 7)
    lines, _, y_axis = drawn(line_chart([series(x, y.tolist())], "loss"))
    np.testing.assert_allclose(np.log(read_off(lines["s0"][:, 1], y_axis, log=True)), np.log(y), atol=0.02)


def test_every_series_is_on_the_same_axes():
    first, second = series([0, 10], [1.0, 2.0]), series([5, 20], [3.0, 4.0], "mse")
    lines, x_axis, y_axis = drawn(line_chart([first, second], "two"))
    np.testing.assert_allclose(read_off(lines["s1"][:, 0], x_axis), [5, 20], atol=0.1)
    np.testing.assert_allclose(read_off(lines["s0"][:, 1], y_axis), [1, 2], atol=0.02)


@pytest.mark.parametrize("hole", [None, math.nan, math.inf])
def test_what_is_no_number_is_left_out(hole):
    lines, _, _ = drawn(line_chart([series([1, 2, 3, 4], [1.0, hole, 3.0, 2.0])], "holes"))
    assert len(lines["s0"]) == 3


def test_no_point_is_no_chart_and_one_point_is_a_dot():
    assert line_chart([], "none") == ""
    assert line_chart([series([1, 2], [None, math.nan])], "none") == ""
    svg = line_chart([series([3], [5.0])], "one")
    assert "<circle" in svg and "polyline" not in svg
    ElementTree.fromstring(svg)


@pytest.mark.parametrize("y", [[0.0, 0.0, 0.0], [2.0, 2.0, 2.0], [-1.0, 0.0, 1.0], [1e-9, 1e9, 3.0]])
def test_every_line_stays_inside_its_chart(y):
    lines, _, _ = drawn(line_chart([series([0, 1, 2], y)], "any"))
    assert np.all(lines["s0"] >= 0) and np.all(lines["s0"][:, 0] <= 360) and np.all(lines["s0"][:, 1] <= 216)


def test_a_chart_from_zero_shows_zero():
    _, _, y_axis = drawn(line_chart([series([0, 1], [90.0, 100.0])], "speed", zero=True))
    assert 0.0 in y_axis


def test_smoothing_keeps_the_values_faint_behind_their_mean():
    noisy = np.random.default_rng(0).normal(10, 1, 200)
    lines, _, _ = drawn(line_chart([series(range(200), noisy.tolist())], "noisy", smooth=True))
    assert set(lines) == {"s0 faint", "s0"}
    assert np.abs(np.diff(lines["s0"][:, 1])).mean() < 0.3 * np.abs(np.diff(lines["s0 faint"][:, 1])).mean()
    few, _, _ = drawn(line_chart([series(range(5), noisy[:5].tolist())], "few", smooth=True))
    assert set(few) == {"s0"}


def test_what_a_chart_says_is_escaped():
    root = ElementTree.fromstring(line_chart([series([0, 1], [1.0, 2.0])], 'a "<b>" & c'))
    assert root.get("aria-label") == 'a "<b>" & c'


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_enclose(low, room):
    high = low + room
    if high == low:
        return
    marks = ticks(low, high)
    steps = np.diff(marks)
    slack = 1e-6 * (high - low) + 1e-9 * abs(low) + 1e-11
    assert marks[0] <= low + slack and marks[-1] >= high - slack
    assert 1 <= len(steps) <= 7
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
    leading = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-6)
    assert min(abs(leading - m) for m in (1, 2, 5, 10)) < 1e-2


@given(st.floats(-9, 6), st.floats(0, 12))
def test_logarithmic_ticks_enclose(low, decades):
    low, high = 10.0**low, 10.0 ** (low + decades)
    marks = log_ticks(low, high)
    assert marks == sorted(set(marks)) and 1 <= len(marks) <= 8
    assert marks[0] <= low * (1 + 1e-8)
    assert marks[-1] >= high * (1 - 1e-8)


@given(st.integers(3, 300), st.floats(-5, 5), st.floats(-5, 5))
def test_the_running_mean_of_a_straight_line_is_the_line(count, slope, start):
    line = [(float(x), slope * x + start) for x in range(count)]
    np.testing.assert_allclose(running_mean(line), line, atol=1e-9)


@given(st.integers(1, 3000), st.integers(2, 400))
def test_thinning_keeps_the_mean_and_the_last_point(count, most):
    y = np.random.default_rng(count).normal(size=count)
    line = [(float(i), float(v)) for i, v in enumerate(y)]
    kept = thinned(line, most)
    assert len(kept) <= most and kept[-1] == line[-1]
    if count <= most:
        assert kept == line
    elif (count - 1) % (most - 1) == 0:  # equally many in every part: the mean of means is the mean
        np.testing.assert_allclose(np.mean([v for _, v in kept[:-1]]), y[:-1].mean(), atol=1e-9)


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0, "0"),
        (0.05, "0.05"),
        (12.0, "12"),
        (1500.0, "1.5k"),
        (2e4, "20k"),
        (3e6, "3M"),
        (2e-5, "2e-5"),
        (-2e3, "-2k"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text
