"""A picture and its mask as a model takes them: by arithmetic on arrays, and pictures that Pillow made."""

import numpy as np
import pytest
from PIL import Image

from ddpm.config import DataConfig
from ddpm.data.given import AREAS, area, is_area, parted
from ddpm.errors import UserError

RNG = np.random.default_rng(0)
TO = DataConfig(size=(8, 8), channels=1)
PICTURE = RNG.integers(0, 256, (1, 8, 8), dtype=np.uint8)


def drawn(values, mode="L"):
    return Image.fromarray(np.asarray(values, np.uint8), mode) if mode == "L" else Image.fromarray(values)


def block(high, wide, rows, columns, value=255):
    made = np.zeros((high, wide), np.uint8)
    made[rows, columns] = value
    return made


# -- areas -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, rows, columns",
    [
        ("left", slice(None), slice(0, 4)),
        ("right", slice(None), slice(4, 8)),
        ("top", slice(0, 3), slice(None)),
        ("bottom", slice(3, 6), slice(None)),
        ("centre", slice(1, 4), slice(2, 6)),  # of 6 rows the middles at 1.5, 2.5 and 3.5 lie within 1.5 … 4.5
        ("box:0.25,0.5,0.5,0.25", slice(3, 4), slice(2, 6)),
        ("box:0,0,1,1", slice(None), slice(None)),
        ("box:0.9,0.5,1,1", slice(3, 6), slice(7, 8)),
    ],
)
def test_areas(text, rows, columns):
    assert is_area(text)
    assert np.array_equal(area(text, (6, 8)), block(6, 8, rows, columns) > 0)


def test_halves_are_the_whole_of_it():
    for size in ((7, 9), (28, 28), (1, 2)):
        for a, b in (("left", "right"), ("top", "bottom")):
            if min(size) > 1:
                assert np.array_equal(area(a, size), ~area(b, size))


@pytest.mark.parametrize(
    "text, message",
    [
        ("center", "--mask center: no such picture or area; did you mean centre? give a picture that is white"),
        ("hole.png", "--mask hole.png: no such picture or area; give a picture that is white where to paint"),
        ("box:1,2,3", "--mask box:1,2,3: takes four numbers"),
        ("box:a,0,1,1", "takes four numbers, X,Y,W,H, as box:0.25,0.5,0.5,0.5"),
        ("box:0,0,8,8", "X, Y, W and H are shares of width and height, from 0 to 1"),
        ("box:0,0,0,1", "from 0 to 1"),
        ("box:nan,0,1,1", "from 0 to 1"),
        ("box:0.5,0.5,0.01,0.01", "holds no pixel's middle of 8 x 8; take a larger one"),
    ],
)
def test_what_is_no_area(text, message):
    with pytest.raises(UserError) as error:
        parted(PICTURE, text, TO)
    assert message in str(error.value)


def test_names_of_areas():
    assert all(is_area(name) for name in AREAS) and not is_area("hole.png") and not is_area("boxes")


# -- masks -----------------------------------------------------------------------------------------------------


def test_white_is_painted_and_black_is_kept():
    mask = block(8, 8, slice(2, 5), slice(1, 7))
    pixels, hole = parted(PICTURE, drawn(mask), TO)
    assert np.array_equal(pixels, PICTURE) and np.array_equal(hole, mask > 0) and hole.dtype == bool
    assert np.array_equal(parted(PICTURE, mask[None], TO)[1], hole)
    assert np.array_equal(parted(PICTURE, hole, TO)[1], hole)
    assert np.array_equal(parted(PICTURE, drawn(mask), TO, invert=True)[1], ~hole)
    assert np.array_equal(parted(PICTURE, "left", TO, invert=True)[1], parted(PICTURE, "right", TO)[1])


def test_it_is_cut_at_half_of_white():
    mask = np.zeros((8, 8), np.uint8)
    mask[0] = [0, 1, 100, 127, 128, 200, 254, 255]
    assert parted(PICTURE, drawn(mask), TO)[1][0].tolist() == [False] * 4 + [True] * 4
    # ITU-R 601 luma: 0.299, 0.587 and 0.114 of red, green and blue
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[0, :3] = [[255, 0, 0], [0, 255, 0], [255, 0, 255]]
    assert parted(PICTURE, drawn(colour, "RGB"), TO)[1][0, :3].tolist() == [False, True, False]


def test_what_is_transparent_in_a_mask_is_kept():
    ink = np.zeros((8, 8, 4), np.uint8)
    ink[..., :3] = 255  # white nobody sees
    ink[2:4, 2:4, 3] = 255
    painted = block(8, 8, slice(2, 4), slice(2, 4)) > 0
    assert np.array_equal(parted(PICTURE, drawn(ink, "RGBA"), TO)[1], painted)
    ink[..., :3] = 0
    assert np.array_equal(parted(PICTURE, drawn(ink, "RGBA"), TO, invert=True)[1], painted)


@pytest.mark.parametrize("crop", ["centre", "none", "random", "pad"])
def test_it_lies_where_it_was_drawn(crop):
    to = DataConfig(size=(8, 8), channels=1, crop=crop)
    mask = block(80, 160, slice(None), slice(80, None))
    picture = np.where(mask, 200, 50)[None].astype(np.uint8)
    for other in (mask, mask[::10, ::10]):
        pixels, hole = parted(picture, drawn(other), to)
        rows = slice(2, 6) if crop == "pad" else slice(None)  # what is added is kept
        assert np.array_equal(hole, block(8, 8, rows, slice(4, 8)) > 0)
        assert np.array_equal(hole[rows], pixels[0, rows] > 125)


def test_a_mask_of_the_model_s_size_needs_no_proportions():
    picture = RNG.integers(0, 256, (1, 20, 50), dtype=np.uint8)
    mask = block(8, 8, slice(0, 1), slice(3, 4))
    assert np.array_equal(parted(picture, drawn(mask), TO)[1], mask > 0)
    for shape in ((21, 50), (8, 20), (2, 5), (200, 500)):  # the same, or one pixel off
        assert parted(picture, drawn(np.full(shape, 255)), TO)[1].all()
    for shape in ((50, 20), (20, 40), (9, 9)):
        with pytest.raises(
            UserError, match=rf"hole.png: is {shape[0]} x {shape[1]} \(height x width\), and a.png 20"
        ):
            parted(picture, drawn(np.full(shape, 255)), TO, "a.png", "hole.png")


def test_a_picture_turned_by_its_exif(tmp_path):
    """Its mask is drawn on what is seen."""
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = np.zeros((16, 32, 3), np.uint8)
    lying[:, :16] = 255  # the left half, which is above once it stands
    Image.fromarray(lying).save(tmp_path / "a.jpg", exif=exif, quality=100)
    mask = block(32, 16, slice(0, 16), slice(None))
    with Image.open(tmp_path / "a.jpg") as image:
        pixels, hole = parted(image, drawn(mask), DataConfig(size=(8, 8), channels=1, crop="none"))
    assert hole[:4].all() and not hole[4:].any() and (pixels[0, :4] > 200).all() and (pixels[0, 4:] < 50).all()


@pytest.mark.parametrize(
    "mask, invert, message",
    [
        (np.zeros((1, 8, 8), np.uint8), False, "m.png: leaves nothing to paint; --invert paints what it keeps"),
        (np.full((1, 8, 8), 255, np.uint8), True, "m.png: leaves nothing to paint; leave out --invert"),
        (np.zeros((8, 9), bool), False, "m.png: bool [8, 9]; the model takes [8, 8]"),
        (np.zeros((8, 8)), False, "m.png: an array of float64 [8, 8]; takes uint8 [C, H, W] with 1, 3 or 4"),
        (None, False, "--mask: a.png has no transparency that could be one; give a picture that is white where"),
    ],
)
def test_what_is_no_mask(mask, invert, message):
    with pytest.raises(UserError) as error:
        parted(PICTURE, mask, TO, "a.png", "m.png", invert)
    assert message in str(error.value)


# -- the picture's own transparency ----------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_is_a_mask_and_no_background_shows(channels):
    image = np.zeros((8, 8, 4), np.uint8)
    image[..., :3] = RNG.integers(0, 256, (8, 8, 3))
    image[..., 3] = RNG.choice([0, 1, 127, 128, 200, 255], (8, 8))
    to = DataConfig(size=(8, 8), channels=channels, background="red")
    pixels, hole = parted(Image.fromarray(image), None, to)
    assert np.array_equal(hole, image[..., 3] < 128)
    colour = Image.fromarray(image[..., :3])
    expected = np.asarray(colour)[~hole].T if channels == 3 else np.asarray(colour.convert("L"))[~hole][None]
    assert np.array_equal(pixels[:, ~hole], expected)
    assert np.array_equal(parted(np.ascontiguousarray(image.transpose(2, 0, 1)), None, to)[1], hole)
    assert np.array_equal(parted(Image.fromarray(image), None, to, invert=True)[1], ~hole)


def test_what_padding_adds_is_kept():
    image = np.full((4, 8, 4), 255, np.uint8)
    image[:, :3, 3] = 0
    to = DataConfig(size=(8, 8), channels=3, crop="pad", background="blue")
    pixels, hole = parted(Image.fromarray(image), None, to)
    assert np.array_equal(hole, block(8, 8, slice(2, 6), slice(0, 3)) > 0)
    assert (pixels[:, :2] == np.array([0, 0, 255])[:, None, None]).all()


def test_transparency_that_is_drawn_or_nowhere():
    image = np.full((8, 8, 4), 255, np.uint8)
    with pytest.raises(UserError, match=r"a.png: leaves nothing to paint; --invert paints what it keeps"):
        parted(Image.fromarray(image), None, TO, "a.png")
    four = DataConfig(size=(8, 8), channels=4)
    with pytest.raises(
        UserError, match=r"--mask: the model draws transparency itself, so that of a.png is no mask"
    ):
        parted(Image.fromarray(image), None, four, "a.png")
    assert np.array_equal(parted(Image.fromarray(image), "left", four)[0], image.transpose(2, 0, 1))


def test_broken_pictures_are_named(tmp_path):
    Image.fromarray(RNG.integers(0, 256, (50, 50, 4), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    for mask in (None, "left"):
        with (
            Image.open(tmp_path / "a.png") as image,
            pytest.raises(UserError, match="the picture: cannot be decoded"),
        ):
            parted(image, mask, TO)
    with Image.open(tmp_path / "a.png") as image, pytest.raises(UserError, match="the mask: cannot be decoded"):
        parted(np.zeros((1, 50, 50), np.uint8), image, TO)
