"""Grids and films: every pixel is where it belongs, and nothing is blurred."""

import numpy as np
import pytest
from PIL import Image

from ddpm.draw import film, grid, picture

GAP = 2


def pictures(count, channels=3, high=5, wide=7):
    return np.random.default_rng(0).integers(0, 250, (count, channels, high, wide), dtype=np.uint8)


def cells(image, count, columns, high, wide):
    """The pictures of a grid, and what lies between them."""
    sheet = np.asarray(image)
    between = np.ones(sheet.shape[:2], bool)
    found = []
    for i in range(count):
        top, left = GAP + i // columns * (high + GAP), GAP + i % columns * (wide + GAP)
        found.append(sheet[top : top + high, left : left + wide])
        between[top : top + high, left : left + wide] = False
    return found, sheet[between]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count, columns, rows", [(1, 1, 1), (6, 3, 2), (7, 3, 3), (5, 5, 1), (4, 1, 4)])
def test_every_picture_is_in_its_place(channels, count, columns, rows):
    pixels = pictures(count, channels)
    image = grid(pixels, columns)
    assert image.mode == ("L" if channels == 1 else "RGB")
    assert image.size == (columns * (7 + GAP) + GAP, rows * (5 + GAP) + GAP)
    found, between = cells(image, count, columns, 5, 7)
    for one, expected in zip(found, pixels, strict=True):
        assert np.array_equal(one, expected[0] if channels == 1 else expected.transpose(1, 2, 0))
    assert np.all(between == 255)


@pytest.mark.parametrize("width, factor", [(0, 1), (10, 1), (60, 2), (640, 23), (2000, 74)])
def test_small_pictures_are_enlarged_by_whole_factors(width, factor):
    pixels = pictures(6)
    image = grid(pixels, 3, width)
    found, _ = cells(image, 6, 3, 5 * factor, 7 * factor)
    for one, expected in zip(found, pixels, strict=True):
        assert np.array_equal(one, np.kron(expected.transpose(1, 2, 0), np.ones((factor, factor, 1), np.uint8)))
    assert width < 60 or 0.7 * width < image.width <= width + GAP


@pytest.mark.parametrize("high, wide, columns", [(8, 8, 4), (8, 32, 2), (32, 8, 8)])
def test_sixteen_pictures_are_about_square(high, wide, columns):
    image = grid(pictures(16, 1, high, wide))
    assert image.width == columns * (wide + GAP) + GAP
    assert 0.7 < image.width / image.height < 1.5


def test_more_columns_than_pictures():
    assert grid(pictures(2), 10).size == (2 * (7 + GAP) + GAP, 5 + 2 * GAP)


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
def test_one_picture(channels, mode):
    pixels = pictures(1, channels)[0]
    image = picture(pixels)
    assert image.mode == mode and image.size == (7, 5)
    assert np.array_equal(np.asarray(image), pixels[0] if channels == 1 else pixels.transpose(1, 2, 0))


@pytest.mark.parametrize("ending", [".webp", ".gif"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 12])
def test_films_have_every_frame_and_go_round(tmp_path, ending, channels, count):
    levels = np.linspace(0, 240, count).astype(np.uint8)
    frames = [picture(np.full((channels, 12, 16), level, np.uint8)) for level in levels]
    path = tmp_path / f"film{ending}"
    film(frames, str(path), seconds=2.4, hold=3.0)
    with Image.open(path) as image:
        assert image.size == (16, 12) and getattr(image, "n_frames", 1) == count
        assert count == 1 or image.info["loop"] == 0
        durations = []
        for k in range(count):
            image.seek(k)
            shown = np.asarray(image.convert("RGB")).astype(int)
            assert np.abs(shown - int(levels[k])).max() <= 4
            durations.append(image.info.get("duration"))
    if count > 1:
        assert durations == [round(2400 / count)] * (count - 1) + [3000]


@pytest.mark.parametrize("ending", [".webp", ".gif"])
def test_equal_frames_do_not_shorten_a_film(tmp_path, ending):
    frames = [picture(np.full((1, 8, 8), level, np.uint8)) for level in (0, 0, 0, 200)]
    film(frames, str(tmp_path / f"film{ending}"), seconds=0.4, hold=0.5)
    total = 0
    with Image.open(tmp_path / f"film{ending}") as image:
        for k in range(image.n_frames):
            image.seek(k)
            image.load()
            total += image.info["duration"]
    assert total == 3 * 100 + 500
