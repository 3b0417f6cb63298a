"""Figures: pixels and numbers arrive as they are, no text covers another or leaves the page, files are whole."""

import io
import subprocess
import sys
from itertools import combinations, pairwise

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from scipy.optimize import minimize

from ddpm.draw.plots import Line, Panel, Row, apart, curves, table, write
from ddpm.errors import UserError


def random_pixels(count, channels=1, high=6, wide=9, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, channels, high, wide), dtype=np.uint8)


def rendered(figure):
    """The PNG that is written, uint8 [H, W, 3]."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=figure.dpi)
    return np.asarray(Image.open(file).convert("RGB"))


def texts(figure):
    """Each visible text's box in pixels, by what it says; tick labels too."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    found = list(figure.texts)
    for axes in figure.axes:
        found += [*axes.texts, axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = axis.get_view_interval()
            found += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in found if t.get_text()]


def check_layout(figure):
    """All text lies on the page, and no two texts cover each other."""
    boxes = texts(figure)
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, (text, box)
    for (one, a), (other, b) in combinations(boxes, 2):
        across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        # Boxes hold room for letters that reach below the line: they may touch by a pixel or two, not cover.
        assert across <= 2 or down <= 2, f"{one!r} and {other!r} cover each other by {across:.0f} x {down:.0f}"


@pytest.mark.parametrize("titles", [(), ("First", "Second")])
@pytest.mark.parametrize("columns", [1, 3])
def test_what_is_drawn_stands_under_the_first_title_in_lines(titles, columns):
    panel = Panel("loss", [Line("", np.arange(3.0), np.arange(3.0))], "step", "loss")
    rows = [[panel] * columns] * 2
    words = "a net " * 60 + "w" * 20
    figure = curves(rows, titles, words)
    check_layout(figure)
    (said,) = [text for text in figure.texts if text.get_text().startswith("a net")]
    assert said.get_text().split() == words.split() and "\n" in said.get_text()
    assert [text.get_text() for text in figure.texts if text is not said] == list(titles)
    plain = curves(rows, titles)
    for axes, other in zip(figure.axes, plain.axes, strict=True):  # as large as without
        assert axes.get_window_extent().height == pytest.approx(other.get_window_extent().height)


# -- tables of pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("high, wide, width, scale", [(6, 9, 90, 10), (40, 30, 150, 5), (70, 300, 150, 1)])
def test_every_pixel_is_a_square_of_its_own_colour(channels, high, wide, width, scale):
    rows = [
        Row("one", random_pixels(3, channels, high, wide, 1), [("k", "abc")]),
        Row("two", random_pixels(3, channels, high, wide, 2)),
    ]
    figure = table(rows, ["a", "b", "c"], width=width)
    page = rendered(figure)
    expected = [pixels for row in rows for pixels in row.pixels]
    assert len(figure.axes) == len(expected) == 6
    for axes, pixels in zip(figure.axes, expected, strict=True):
        box = axes.get_window_extent()
        left, top = round(box.x0), page.shape[0] - round(box.y1)
        block = page[top : top + scale * high, left : left + scale * wide]
        large = pixels.repeat(scale, axis=1).repeat(scale, axis=2).transpose(1, 2, 0)
        assert np.array_equal(block, np.broadcast_to(large, block.shape))


def test_rows_and_columns_stand_in_order():
    figure = table([Row(name, random_pixels(4)) for name in ("up", "down")], list("abcd"))
    boxes = [axes.get_position() for axes in figure.axes]
    for k in range(4):
        assert boxes[k].x0 == boxes[k + 4].x0 and boxes[k].y0 > boxes[k + 4].y1
    assert all(boxes[k].x1 < boxes[k + 1].x0 for k in range(3))
    where = dict(texts(figure))
    width, height = figure.get_size_inches() * figure.dpi
    for k, name in enumerate("abcd"):
        assert (where[name].x0 + where[name].x1) / 2 == pytest.approx(
            (boxes[k].x0 + boxes[k].x1) / 2 * width, abs=3
        )
    for k, name in enumerate(("up", "down")):
        assert boxes[4 * k].y0 * height < (where[name].y0 + where[name].y1) / 2 < boxes[4 * k].y1 * height


@pytest.mark.parametrize(
    "name", ["x", "a name that is longer than a picture is wide", r"$\hat{x}_0$ of $\bar\alpha_t$"]
)
def test_the_words_of_a_table_have_room(name):
    captions = [(r"$\bar\alpha$", ["0.976"] * 5), ("log SNR", ["−10.12"] * 5)]
    figure = table([Row(name, random_pixels(5), captions)] * 2, [f"{k / 10}" for k in range(5)], corner="t/T")
    check_layout(figure)
    assert {name, "t/T", "0.976", "log SNR", "0.3"} <= {text for text, _ in texts(figure)}


def test_a_caption_missing_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        table([Row("one", random_pixels(3), [("k", ["1", "2"])])])


# -- curves ----------------------------------------------------------------------------------------------------


def lines(*ends):
    x = np.linspace(0, 1, 50)
    return [Line(f"line {k}", x, x * end) for k, end in enumerate(ends)]


def test_numbers_are_drawn_as_given_in_one_colour_a_line():
    dots = (np.array([0.2, 0.7]), np.array([0.1, 0.3]))
    first = [Line("one", np.arange(5.0), np.arange(5.0) ** 2, dots), Line("two", np.arange(1.0, 7), np.ones(6))]
    second = [Line("one", np.arange(3.0), np.ones(3)), Line("two", np.arange(3.0), np.zeros(3))]
    figure = curves([[Panel("left", first, "t", "y"), Panel("right", second)]])
    left, right = figure.axes
    assert [
        np.array_equal(drawn.get_xydata(), np.stack([line.x, line.y], 1))
        for drawn, line in zip(right.lines, second, strict=True)
    ] == [True, True]
    curve, points, other = left.lines
    assert np.array_equal(curve.get_xydata(), np.stack([first[0].x, first[0].y], 1))
    assert np.array_equal(points.get_xydata(), np.stack(dots, 1)) and points.get_linestyle() == "None"
    assert curve.get_color() == points.get_color() == right.lines[0].get_color() != other.get_color()
    assert left.get_xlim() == right.get_xlim() == (0.0, 6.0)
    assert (left.get_title("left"), left.get_xlabel(), left.get_ylabel()) == ("left", "t", "y")


def test_panels_of_a_row_may_have_their_own_x():
    short = Panel("a", [Line("", np.arange(4.0), np.arange(4.0))])
    long = Panel("b", [Line("", np.arange(7.0), np.arange(7.0))])
    figure = curves([[short, long]], shared=False)
    assert [axes.get_xlim() for axes in figure.axes] == [(0.0, 3.0), (0.0, 6.0)]
    check_layout(figure)


def test_a_line_that_hardly_changes_looks_like_one_from_zero():
    lines = [Line("", np.arange(3.0), np.array([100.0, 101.0, 100.5]))]
    cut, whole = curves([[Panel("a", lines), Panel("b", lines, from_zero=True)]]).axes
    assert cut.get_ylim()[0] > 99.0
    assert whole.get_ylim()[0] == 0.0 and whole.get_ylim()[1] > 101.0


@pytest.mark.parametrize("ends", [(1.0,), (0.0, 0.0, 0.0, 0.0), (1.0, 0.99, 0.5, 0.49, 0.0), tuple(range(9))])
@pytest.mark.parametrize("titles", [(), ("First", "Second")])
def test_lines_are_named_at_their_ends_without_covering(ends, titles):
    panel = Panel(r"$\bar\alpha_t$", lines(*ends), "t/T")
    figure = curves([[panel, panel]] * 2, titles)
    check_layout(figure)
    boxes = [(text, box) for text, box in texts(figure) if text.startswith("line")]
    assert sorted(text for text, _ in boxes) == sorted(2 * [f"line {k}" for k in range(len(ends))])
    last = (figure.axes[1], figure.axes[3])
    for axes in last:
        assert [note.get_color() for note in axes.texts] == [line.get_color() for line in axes.lines]
    assert all(box.x0 > last[0].get_window_extent().x1 for _, box in boxes)


def test_a_line_that_is_covered_shows_at_the_sides():
    x = np.linspace(0, 1, 20)
    drawn = curves([[Panel("", [Line("under", x, x), Line("over", x, x)])]]).axes[0].lines
    assert drawn[0].get_linewidth() > drawn[1].get_linewidth()


def test_whole_numbers_have_no_halves_on_their_axis():
    figure = curves([[Panel("", [Line("", np.arange(1.0, 21), np.ones(20))])]])
    assert all(np.equal(np.mod(figure.axes[0].get_xticks(), 1), 0))
    figure = curves([[Panel("", [Line("", np.linspace(0, 1, 9), np.ones(9))])]])
    assert any(np.mod(figure.axes[0].get_xticks(), 1) != 0)


@pytest.mark.parametrize("first, low", [(1.0, 0.0), (1e-9, 0.0), (30.0, 30.0), (0.0, 0.0), (-1.0, -1.0)])
def test_an_axis_that_starts_beside_nought_starts_there(first, low):
    x = np.array([first, 200.0])
    assert curves([[Panel("", [Line("", x, x)])]]).axes[0].get_xlim() == (low, 200.0)


def test_logarithmic_axes_and_bands():
    x, y = np.array([1.0, 10.0, 1000.0]), np.array([1.0, 1e-3, 1e-4])
    band = Line("a", x, y, band=(y / 2, y * 2))
    figure = curves(
        [[Panel("both", [band], log="xy"), Panel("x", [Line("b", x, y), Line("c", x, 2 * y)], log="x")]]
    )
    check_layout(figure)
    both, across = figure.axes
    assert (both.get_xscale(), both.get_yscale(), across.get_yscale()) == ("log", "log", "linear")
    assert both.get_xlim() == across.get_xlim() == (1.0, 1000.0)
    corners = {tuple(point) for point in both.collections[0].get_paths()[0].vertices.tolist()}
    assert corners >= {(1.0, 0.5), (1.0, 2.0), (1000.0, 5e-5), (1000.0, 2e-4)}


def test_few_places_on_a_logarithmic_axis_are_its_ticks():
    def shown(places, log="x"):
        figure = curves([[Panel("a", [Line("", np.array(places, float), np.arange(len(places)) + 1.0)], log=log)]])
        check_layout(figure)
        return [text for text, _ in texts(figure) if text[0].isdigit() or text[0] == "$"][: len(places)]

    assert shown([32, 64, 128, 256]) == ["32", "64", "128", "256"]
    assert shown([10**3, 10**4, 10**5, 10**6], "xy") == ["1,000", "10,000", "100,000", "1,000,000"]
    assert "$" in shown([1000, 1001, 100_000])[0]  # the first two would cover each other
    assert "$" in shown(np.geomspace(1, 1e4, 9))[0]


def test_names_stand_at_the_ends_of_lines_on_a_logarithmic_axis():
    x = np.array([1.0, 2.0])
    figure = curves([[Panel("y", [Line("low", x, np.array([1.0, 1.0])), Line("high", x, x**10)], log="y")]])
    low, high = np.log10(figure.axes[0].get_ylim())
    ends = [(np.log10(value) - low) / (high - low) for value in (1.0, 1024.0)]
    assert [note.xy[1] for note in figure.axes[0].texts] == pytest.approx(ends)


def test_a_point_alone_is_inside_its_frame():
    point = np.array([3.0])
    low, high = curves([[Panel("", [Line("", point, point, (point, point))])]]).axes[0].get_xlim()
    assert low < 3.0 < high


def test_an_empty_panel_is_an_empty_frame():
    figure = curves([[Panel("nothing yet", [])]])
    assert rendered(figure).min() < 255


@given(st.lists(st.floats(-5, 5), max_size=8), st.floats(0.01, 2))
def test_apart_keeps_order_and_distance(places, step):
    moved = apart(places, step)
    assert len(moved) == len(places)
    order = sorted(range(len(places)), key=lambda i: places[i])
    assert all(moved[b] - moved[a] >= step - 1e-9 for a, b in pairwise(order))
    ordered = sorted(places)
    if all(b - a >= step for a, b in pairwise(ordered)):
        assert moved == pytest.approx(places)


def test_apart_moves_as_little_as_can_be():
    assert apart([0.0, 0.0], 1.0) == [-0.5, 0.5]
    assert apart([3.0, 3.0, 3.0, 9.0], 1.0) == [2.0, 3.0, 4.0, 9.0]
    for seed in range(5):
        places = np.sort(np.random.default_rng(seed).normal(size=6))
        rule = {"type": "ineq", "fun": lambda x: np.diff(x) - 0.7}
        best = minimize(lambda x, p=places: np.sum((x - p) ** 2), np.arange(6.0), constraints=rule, method="SLSQP")
        assert apart(list(places), 0.7) == pytest.approx(best.x, abs=1e-3)


# -- files -----------------------------------------------------------------------------------------------------


def figure_of_both_kinds(kind):
    return curves([[Panel("title", lines(1.0))]]) if kind == "curves" else table([Row("one", random_pixels(2))])


@pytest.mark.parametrize("kind", ["curves", "table"])
@pytest.mark.parametrize(
    "suffix, start", [(".png", b"\x89PNG"), (".PNG", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_the_ending_says_the_format_and_bytes_do_not_change(tmp_path, kind, suffix, start):
    path = tmp_path / "new" / f"figure{suffix}"
    before = dict(matplotlib.rcParams)
    assert write(figure_of_both_kinds(kind), path) == path
    data = path.read_bytes()
    assert data.startswith(start)
    write(figure_of_both_kinds(kind), path)
    assert path.read_bytes() == data and [p.name for p in path.parent.iterdir()] == [path.name]
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", ["figure", "figure.gif", "figure.png.txt"])
def test_another_ending_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"ends in \.png, \.svg or \.pdf"):
        write(figure_of_both_kinds("curves"), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"folder\.png: is a folder; name a file in it"):
        write(figure_of_both_kinds("curves"), tmp_path / "folder.png")
    with pytest.raises(UserError, match=r"figure\.png: cannot be written \(.+\); choose another"):
        write(figure_of_both_kinds("curves"), tmp_path / "file" / "figure.png")


def test_no_window_system_is_touched():
    code = (
        "import sys, numpy as np; from ddpm.draw.plots import *; "
        "curves([[Panel('', [Line('a', np.arange(3.), np.arange(3.))])]]); "
        "sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
