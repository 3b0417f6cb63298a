"""Where a contact sheet puts its pictures, and how large."""

import numpy as np
import pytest
from PIL import ImageFont

from ddpm.draw.sheet import Block, Section, _shortened, sheet

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def plain(colour, size=(10, 10)):
    return np.broadcast_to(np.array(colour, np.uint8)[:, None, None], (3, *size))


def where(page, colour):
    """(left, top, right, bottom) of all pixels of a colour."""
    rows, columns = np.nonzero((np.asarray(page) == colour).all(-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def size(box):
    return box[2] - box[0], box[3] - box[1]


@pytest.mark.parametrize(
    ("side", "shown"),
    [(10, 100), (28, 112), (32, 96), (64, 128), (100, 100), (150, 150), (300, 100)],
)
def test_pictures_are_enlarged_by_whole_factors_and_shrunk_if_large(side, shown):
    page = sheet([Section("one", [Block((), [plain(RED, (side, side))])])])
    assert size(where(page, RED)) == (shown, shown)


def test_a_picture_keeps_its_shape():
    page = sheet([Section("one", [Block((), [plain(RED, (20, 50))])])])
    assert size(where(page, RED)) == (100, 40)


def test_pictures_of_a_block_stand_side_by_side_and_blocks_flow():
    blocks = [Block(("a",), [plain(RED), plain(GREEN)]), Block(("b",), [plain(BLUE)])]
    wide = sheet([Section("all", blocks)], width=500)
    red, green, blue = (where(wide, colour) for colour in (RED, GREEN, BLUE))
    assert red[1] == green[1] == blue[1] and red[2] < green[0] < green[2] < blue[0]
    narrow = sheet([Section("all", blocks)], width=300)
    red, green, blue = (where(narrow, colour) for colour in (RED, GREEN, BLUE))
    assert red[1] == green[1] and blue[1] > red[3] and blue[0] == red[0]
    assert narrow.width < wide.width


def test_sections_stand_one_under_another_below_their_headings():
    page = sheet([Section("first", [Block((), [plain(RED)])]), Section("second", [Block((), [plain(BLUE)])])])
    red, blue = where(page, RED), where(page, BLUE)
    pixels = np.asarray(page.convert("L"))
    assert (pixels[: red[1]] < 128).any() and (pixels[red[3] : blue[1]] < 128).any()


def test_captions_stand_above_their_pictures_and_end_with_them():
    page = sheet([Section("", [Block(("a name much too long for " * 9,), [plain(RED)])])])
    left, top, right, _ = where(page, RED)
    ink = np.asarray(page.convert("L"))[:top] < 200
    assert ink.any() and not ink[:, right + 1 :].any() and not ink[:, : left - 1].any()


def test_grey_and_transparent_pictures():
    clear = np.zeros((4, 10, 10), np.uint8)
    page = np.asarray(sheet([Section("", [Block((), [np.full((1, 10, 10), 40, np.uint8), clear])])]))
    assert (page == 40).all(-1).sum() == 100 * 100 and not (page == 0).all(-1).any()


def test_nothing_to_show():
    assert min(sheet([]).size) >= 1
    assert min(sheet([Section("none", [])]).size) >= 1
    assert min(sheet([Section("none", [Block(("empty",), [])])]).size) >= 1


def test_a_name_is_shortened_in_its_middle():
    font = ImageFont.load_default(12)
    text = "rose/10503217854_e66a804309_n.jpg"
    short = _shortened(text, 120, font)
    assert font.getlength(short) <= 120 < font.getlength(text)
    first, last = short.split("…")
    assert text.startswith(first) and text.endswith(last) and abs(len(first) - len(last)) <= 1
    assert _shortened(text, 1000, font) == text
