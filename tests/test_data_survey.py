"""What is found in folders whose every picture and fault is known."""

import errno
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ddpm.data import open_source, open_sources
from ddpm.data.survey import fitting, survey
from ddpm.errors import UserError


def scene(seed, size=(40, 40), channels=3):
    """A smooth random picture of (h, w)."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, channels), dtype=np.uint8)
    image = Image.fromarray(small.squeeze())
    return image.resize(size[::-1], Image.Resampling.BICUBIC)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    """Twelve different pictures in two classes."""
    for i in range(12):
        save(tmp_path / "set" / ("cats", "dogs")[i % 2] / f"{i:02d}.png", scene(i))
    return tmp_path / "set"


def names(group):
    return [item.name for item in group]


def test_a_set_without_fault(folder):
    found = survey(open_source(folder))
    assert (found.total, found.held, found.seen, found.usable, found.sampled) == (12, 0, 12, 12, False)
    assert found.sizes == Counter({(40, 40): 12}) and found.kinds == Counter({"colour": 12})
    assert found.classes == {"cats": 6, "dogs": 6}
    assert not (found.copies or found.near or found.unreadable or found.flat or found.colourless)


def test_sizes_kinds_and_hidden_grey(folder):
    save(folder / "cats" / "a.png", scene(100, (20, 60), 1))
    save(folder / "cats" / "b.png", scene(101, (20, 60), 1).convert("RGB"))
    save(folder / "dogs" / "c.jpg", scene(102, (30, 50)).convert("CMYK"))
    turned = Image.Exif()
    turned[0x0112] = 6
    save(folder / "dogs" / "d.jpg", scene(103, (30, 50)), exif=turned)
    found = survey(open_source(folder))
    assert found.sizes == Counter({(40, 40): 12, (20, 60): 2, (30, 50): 1, (50, 30): 1})
    assert found.kinds == Counter({"colour": 14, "grey": 1, "CMYK": 1}) and found.colourless == 1


def test_copies_are_the_same_pixels_in_whatever_file(folder):
    """PNG, WebP without loss and BMP of one picture; a JPEG of it is another, nearly the same."""
    original = Image.open(folder / "cats" / "00.png")
    save(folder / "dogs" / "same.webp", original, lossless=True)
    save(folder / "cats" / "same.bmp", original)
    save(folder / "cats" / "bad.jpg", original, quality=40)
    found = survey(open_source(folder))
    assert [sorted(names(group)) for group in found.copies] == [["cats/00.png", "cats/same.bmp", "dogs/same.webp"]]
    (pair,) = found.near  # one for the group, not three
    assert {pair.first.name, pair.second.name} == {"cats/bad.jpg", "dogs/same.webp"}
    assert pair.across and not pair.leak and pair.correlation > 0.95


def test_large_jpegs_are_compared_by_all_their_pixels(tmp_path):
    """Decoded at an eighth two pictures may be equal that are not: here one pixel block differs in detail."""
    pixels = np.full((1200, 1200, 3), 120, np.uint8)
    pixels[:600] = 60
    save(tmp_path / "a.jpg", Image.fromarray(pixels), quality=100, subsampling=0)
    save(tmp_path / "b.jpg", Image.fromarray(pixels), quality=100, subsampling=0)
    pixels[800:808:2, 800:808] += 20  # a stripe whose mean over the block is then put back
    pixels[801:808:2, 800:808] -= 20
    save(tmp_path / "c.jpg", Image.fromarray(pixels), quality=100, subsampling=0)
    a, c = (Image.open(tmp_path / name) for name in ("a.jpg", "c.jpg"))
    for image in (a, c):
        image.draft(None, (128, 128))
    assert a.size == c.size == (150, 150) and a.tobytes() == c.tobytes()
    found = survey(open_source(tmp_path))
    assert [names(group) for group in found.copies] == [["a.jpg", "b.jpg"]]


def test_unreadable_pictures_are_named_and_not_counted(folder):
    (folder / "cats" / "text.jpg").write_text("hello")
    (folder / "dogs" / "cut.png").write_bytes((folder / "dogs" / "01.png").read_bytes()[:300])
    (folder / "dogs" / "empty.png").write_bytes(b"")
    found = survey(open_source(folder))
    assert {item.name for item, _ in found.unreadable} == {"cats/text.jpg", "dogs/cut.png", "dogs/empty.png"}
    assert all(reason for _, reason in found.unreadable)
    assert found.usable == 12 and found.classes == {"cats": 6, "dogs": 6} and found.sizes.total() == 12


def test_nothing_readable(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_text("no picture")
    found = survey(open_source(tmp_path))
    assert found.usable == 0 and len(found.unreadable) == 3 and not found.sizes and not found.near


def test_pictures_of_one_tone(folder):
    save(folder / "cats" / "black.png", Image.new("RGB", (40, 40)))
    save(folder / "cats" / "white.png", Image.new("RGB", (40, 40), "white"))
    save(folder / "dogs" / "white2.png", Image.new("RGB", (50, 40), "white"))
    found = survey(open_source(folder))
    assert {item.name for item in found.flat} == {"cats/black.png", "cats/white.png", "dogs/white2.png"}
    assert not found.near and not found.copies  # (40, 40) and (50, 40) are not the same


def test_leaks_between_trained_on_and_held_out(folder, tmp_path):
    other = tmp_path / "other"
    save(other / "cats" / "copy.png", Image.open(folder / "cats" / "02.png"))
    save(other / "dogs" / "near.jpg", Image.open(folder / "dogs" / "03.png"), quality=50)
    save(other / "dogs" / "new.png", scene(55))
    train, held = open_sources([folder], holdout=str(other))
    found = survey(train, held)
    assert (found.total, found.held, found.seen) == (12, 3, 15)
    (group,) = found.copies
    assert [(item.name, item.held) for item in group] == [("cats/02.png", False), ("cats/copy.png", True)]
    (pair,) = found.near
    assert pair.leak and not pair.across
    assert {(one.name, one.held) for one in (pair.first, pair.second)} == {
        ("dogs/03.png", False),
        ("dogs/near.jpg", True),
    }
    assert found.classes == {"cats": 6, "dogs": 6}


def test_a_near_pair_of_copies_shows_the_leak(folder, tmp_path):
    """The copy that is held out is named, though another one was the first of its group."""
    original = Image.open(folder / "cats" / "04.png")
    save(folder / "cats" / "z.jpg", original, quality=50)
    other = tmp_path / "other"
    save(other / "cats" / "held.png", original)
    train, held = open_sources([folder], holdout=str(other))
    found = survey(train, held)
    (pair,) = found.near
    assert pair.leak and {pair.first.name, pair.second.name} == {"cats/z.jpg", "cats/held.png"}


def test_a_sample_is_spread_evenly(folder):
    found = survey(open_source(folder), sample=5)
    assert found.seen == 5 and found.sampled and found.sizes.total() == 5
    assert found.usable == 12 and found.classes == {"cats": 6, "dogs": 6}
    assert not survey(open_source(folder), sample=12).sampled


def test_progress_ends_with_all(folder):
    told = []
    survey(open_source(folder), progress=lambda *at: told.append(at), workers=3)
    assert told == [(12, 12)]


def test_arrays_are_looked_at_too(tmp_path):
    pixels = np.stack([np.asarray(scene(i, (24, 24), 1)) for i in (0, 1, 2, 0)])
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.array([0, 1, 0, 1]))
    found = survey(open_source(tmp_path / "a.npz"))
    assert [[(item.number, item.label) for item in group] for group in found.copies] == [[(0, "0"), (3, "1")]]
    assert found.kinds == Counter({"grey": 4})


def test_a_mistake_of_the_source_is_no_unreadable_picture(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8), np.uint8))
    source = open_source(tmp_path / "a.npy")

    def broken(i):
        raise UserError("gone")

    source.opened = broken
    with pytest.raises(UserError, match="gone"):
        survey(source)


SHAPES = Counter({(100, 100): 1, (50, 100): 2, (10, 20): 1})


@pytest.mark.parametrize(
    ("crop", "size", "lost", "worst", "worst_size", "enlarged"),
    [
        # Half of the wide ones lies outside a square.
        ("centre", (64, 64), 3 * 0.5 / 4, 0.5, (50, 100), 3),
        ("random", (64, 64), 3 * 0.5 / 4, 0.5, (50, 100), 3),
        # Of the square that a wide one is fitted into, half is padding; (50, 100) is not enlarged to (32, 64).
        ("pad", (64, 64), 3 * 0.5 / 4, 0.5, (50, 100), 1),
        # A wide one becomes a square: stretched to twice its height.
        ("none", (64, 64), 3 * 1.0 / 4, 1.0, (50, 100), 3),
        ("centre", (32, 64), 0.5 / 4, 0.5, (100, 100), 1),
        ("centre", (10, 20), 0.5 / 4, 0.5, (100, 100), 0),
    ],
)
def test_what_a_common_shape_costs(crop, size, lost, worst, worst_size, enlarged):
    fate = fitting(SHAPES, size, crop)
    assert (fate.lost, fate.worst) == pytest.approx((lost, worst))
    assert (fate.worst_size, fate.enlarged) == (worst_size, enlarged)


def test_one_shape_costs_nothing():
    fate = fitting(Counter({(30, 40): 7}), (30, 40))
    assert (fate.lost, fate.enlarged) == (0.0, 0)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_an_error_that_passes_is_no_unreadable_picture(folder, error):
    source = open_source(folder)

    def broken(i):
        raise error

    source.opened = broken
    with pytest.raises(UserError, match=r"cats/00\.png: cannot be read now \("):
        survey(source)


def test_a_copy_that_cannot_be_decoded_in_full_is_unreadable(tmp_path):
    """At an eighth of their size both could be; then one is taken away."""
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        save(tmp_path / name, scene(0, (1200, 1200)))
    source, times = open_source(tmp_path), Counter()
    opened = source.opened

    def gone_at_the_second_look(i):
        times[i] += 1
        if i == 1 and times[i] == 2:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return opened(i)

    source.opened = gone_at_the_second_look
    found = survey(source)
    assert [(item.name, why) for item, why in found.unreadable] == [("b.jpg", "No such file or directory")]
    assert [names(group) for group in found.copies] == [["a.jpg", "c.jpg"]]
    assert found.usable == 2 and found.sizes.total() == 2
