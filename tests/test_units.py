"""Times and sizes, read and written."""

import pytest

from ddpm.errors import UserError
from ddpm.units import amount, counted, duration, listed, parse_duration


@pytest.mark.parametrize(
    "text, seconds",
    [("90s", 90), ("20m", 1200), ("20", 1200), ("1.5", 90), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400)],
)
def test_times_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5m", "soon", "5 minutes", "1h30", "1..5h", "5w", "1e3", "nan", "inf"])
def test_what_is_no_time(text):
    with pytest.raises(UserError) as error:
        parse_duration(text)
    assert str(error.value).startswith(f"--budget {text}: takes a time such as 20m")


@pytest.mark.parametrize(
    "seconds, text",
    [
        (-1.0, "0 s"),
        (45.2, "45 s"),
        (180.0, "3 min"),
        (7500.0, "2 h 5 min"),
        (7200.0, "2 h"),
        (3 * 86400 + 4 * 3600.0, "3 d 4 h"),
    ],
)
def test_times_are_written(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "count, text",
    [
        (0, "0 kB"),
        (812_345, "812 kB"),
        (999_499, "999 kB"),
        (999_600, "1.0 MB"),
        (13_000_000, "13 MB"),
        (1_234_567_890, "1.2 GB"),
        (999_600_000, "1.0 GB"),
        (76_600_000_000, "77 GB"),
        (9.96e12, "9,960 GB"),
    ],
)
def test_sizes_are_written(count, text):
    assert amount(count) == text


def test_counts_and_lists():
    assert (counted(1, "step"), counted(0, "step")) == ("1 step", "0 steps")
    assert counted(1500, "class", "classes") == "1,500 classes"
    assert listed(["a", "b"]) == "a, b" and listed([]) == ""
    assert listed([str(k) for k in range(14)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more"
