"""What a message may look like, whatever is in it."""

import pytest

from ddpm.errors import UserError, printable, short


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain, with ümlauts, β and 日本", "plain, with ümlauts, β and 日本"),
        ("two\nlines\r\n", r"two\nlines\r\n"),
        ("\x1b[2J\x07\x00", r"\x1b[2J\x07\x00"),
        ("\ud800", r"\ud800"),
        ("\u2028", r"\u2028"),
        ("\u202e", r"\u202e"),  # turns what follows around
        ("'\"\\", "'\"\\"),
    ],
)
def test_a_message_is_one_line_that_any_terminal_shows(text, shown):
    assert printable(text) == shown == str(UserError(text))
    assert printable(shown) == shown


def test_a_long_message_keeps_its_beginning_and_its_mend():
    text = str(UserError("FILE: " + "x" * 10**6 + "; take another"))
    assert text.startswith("FILE: xxx") and text.endswith("xxx; take another") and len(text) == 2003
    assert str(UserError("y" * 2000)) == "y" * 2000


def test_values_are_shown_shortly_whatever_they_are():
    deep = []
    for _ in range(10**5):
        deep = [deep]
    wide = [1]
    for _ in range(60):
        wide = [wide, wide]  # its whole text would have 2^60 numbers
    for value in (deep, wide, "x" * 10**6, {str(i): i for i in range(10**5)}, int("9" * 4000), 1 << 10**5):
        assert 0 < len(short(value)) < 200
    assert (short("48"), short(48.5), short(None), short([1, 2])) == ("'48'", "48.5", "None", "[1, 2]")
