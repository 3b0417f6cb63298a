from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.data import Source, load, open_source, open_sources
from ddpm.data.several import Chosen, Several, by_name
from ddpm.errors import UserError


def picture(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def save(path: Path, k: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(k)).save(path, "PNG")


def named(source: Source) -> list[str]:
    assert source.labels is not None and source.labels.dtype == np.int64
    return [source.classes[label] for label in source.labels]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Classes (emu, cat) in an array, (cat, dog) in a folder, none in a flat one."""
    np.savez(
        tmp_path / "birds.npz",
        images=np.stack([picture(k) for k in range(3)]),
        labels=np.array([1, 0, 1]),
        classes=np.array(["emu", "cat"]),
    )
    for k, name in enumerate(["cat/a.png", "dog/b.png"]):
        save(tmp_path / "pets" / name, 10 + k)
    for k in range(2):
        save(tmp_path / "flat" / f"{k}.png", 20 + k)
    return tmp_path


def test_one_after_another_with_classes_united_by_name(home: Path) -> None:
    source, held = open_sources([home / "birds.npz", home / "pets"])
    assert held is None
    assert (source.name, len(source)) == ("birds+pets", 5)
    assert source.classes == ("emu", "cat", "dog")
    assert named(source) == ["cat", "emu", "cat", "cat", "dog"]
    for i, k in enumerate([0, 1, 2, 10, 11]):
        np.testing.assert_array_equal(source.picture(i), picture(k))
    assert [source.describe(i) for i in (2, 3)] == ["birds: birds.npz[2]", "pets: cat/a.png"]
    assert source.content(4) == (home / "pets" / "dog" / "b.png").read_bytes()
    assert source.content(1) == b"(8, 8, 3)" + picture(1).tobytes()
    assert (source.place(1), source.place(4)) == (None, home / "pets" / "dog" / "b.png")
    assert source.notes == ("birds: 2 classes from labels: emu, cat", "pets: 2 classes from sub-folders: cat, dog")
    look = source.look()
    assert (look.seen, look.colour, look.sizes) == (5, 5, {(8, 8): 5})


def test_sources_are_no_classes_themselves(home: Path) -> None:
    save(home / "more" / "0.png", 30)
    source, _ = open_sources([home / "flat", home / "more"])
    assert (len(source), source.classes, source.labels) == (3, (), None)


def test_one_source_is_itself(home: Path) -> None:
    source, held = open_sources([home / "pets"])
    assert (source.name, held) == ("pets", None)
    assert source.fingerprint() == open_source(home / "pets").fingerprint()
    assert len(open_sources(str(home / "pets"))[0]) == 2  # a single path will do


def test_classes_and_none_do_not_mix(home: Path) -> None:
    with pytest.raises(UserError, match=r"flat: no classes, but other DATA has \(cat, dog\): .*--labels none"):
        open_sources([home / "pets", home / "flat"])
    source, _ = open_sources([home / "pets", home / "flat"], labels="none")
    assert (len(source), source.labels) == (4, None)


def test_a_single_class_folder_counts_beside_others(home: Path) -> None:
    save(home / "extra" / "cat" / "z.png", 40)
    assert open_source(home / "extra").classes == ()
    source, _ = open_sources([home / "pets", home / "extra"])
    assert named(source) == ["cat", "dog", "cat"]
    (home / "one.csv").write_text("file,label\nflat/0.png,dog\n")
    source, _ = open_sources([home / "one.csv", home / "pets"])
    assert named(source) == ["dog", "cat", "dog"]
    save(home / "extra" / "cow" / "z.png", 41)
    assert named(open_sources([home / "pets", home / "extra"])[0]) == ["cat", "dog", "cat", "cow"]


def test_names(home: Path) -> None:
    for k in range(5):
        save(home / "sets" / str(k) / "photos" / "a.png", k)
    paths = [home / "sets" / str(k) / "photos" for k in range(5)]
    source, _ = open_sources(paths)
    assert source.name == "photos+photos+photos+2more"
    assert source.describe(4) == "photos (5): a.png"  # told apart


def test_twice_the_same(home: Path) -> None:
    with pytest.raises(UserError, match=r"flat/\.\./pets: given twice: give each DATA once"):
        open_sources([home / "pets", home / "flat" / ".." / "pets"])
    with pytest.raises(UserError, match="fashion: given twice"):
        open_sources(["fashion", "fashion"])
    with pytest.raises(UserError, match="no DATA: give"):
        open_sources([])


def test_fingerprints_follow_each_source_and_their_order(home: Path) -> None:
    def both(*data: Path) -> tuple[str, str]:
        source, _ = open_sources(data, labels="none")
        return source.fingerprint(), source.stamp().state

    seen = [both(home / "pets", home / "flat"), both(home / "flat", home / "pets")]
    assert both(home / "pets", home / "flat") == seen[0]
    save(home / "flat" / "1.png", 99)
    seen.append(both(home / "pets", home / "flat"))
    assert len({print_ for print_, _ in seen}) == len({state for _, state in seen}) == 3


def test_decoded_with_labels_and_skipped(home: Path) -> None:
    (home / "pets" / "cat" / "0.png").write_bytes(b"junk")
    source, _ = open_sources([home / "birds.npz", home / "pets"])
    pictures = load(source, (8, 8), 3, cache=home / "cache")
    assert pictures.skipped == (("pets: cat/0.png", "not a picture in a known format"),)
    assert pictures.labels is not None
    assert [pictures.classes[k] for k in pictures.labels] == ["cat", "emu", "cat", "cat", "dog"]


def test_chosen_pictures(home: Path) -> None:
    whole = Several([open_source(home / "birds.npz"), open_source(home / "pets")])
    source = Chosen(whole, np.array([4, 0]), ("dog", "cat", "emu"), ("a note",))
    assert (len(source), source.name, source.notes) == (2, "birds+pets", ("a note",))
    assert named(source) == ["dog", "cat"]
    np.testing.assert_array_equal(source.picture(0), picture(11))
    assert source.describe(1) == "birds: birds.npz[0]"
    assert source.place(0) == home / "pets" / "dog" / "b.png"
    assert source.content(1).endswith(picture(0).tobytes())
    assert Chosen(whole, np.array([4, 0]), (), ()).labels is None


def test_fingerprint_of_chosen_pictures_is_of_them_alone(home: Path) -> None:
    def both(*index: int) -> tuple[str, str]:
        source = Chosen(open_source(home / "pets", "none"), np.array(index), (), ())
        return source.fingerprint(), source.stamp().state

    first, second, turned = both(0), both(1), both(1, 0)
    assert len({*first, *second, *turned, *both(0, 1)}) == 8
    save(home / "pets" / "dog" / "b.png", 99)
    assert both(0)[0] == first[0]
    assert both(1)[0] != second[0]


def test_labels_by_name() -> None:
    class_of = {"cat": 0, "dog": 1}
    source = open_source("fashion")
    with pytest.raises(ValueError, match="not in"):
        by_name(source, tuple(class_of))
    turned = by_name(source, source.classes[::-1])
    assert source.labels is not None
    np.testing.assert_array_equal(turned, 9 - source.labels)
    with pytest.raises(ValueError, match="no classes"):
        by_name(open_source("fashion", "none"), ())


def test_chosen_pictures_of_another_shape_are_others(tmp_path: Path) -> None:
    """The same bytes with other axes are other pictures, though only some of them are hashed."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 12), dtype=np.uint8)
    found = []
    for shape in ((8, 6, 12), (8, 12, 6)):
        np.save(tmp_path / "a.npy", pixels.reshape(shape))
        train, _ = open_sources([tmp_path / "a.npy"], holdout="0.25")
        found.append((train.fingerprint(), load(train, (6, 12), 1, cache=tmp_path / "cache").pixels.copy()))  # type: ignore[attr-defined]
    assert found[0][0] != found[1][0]
    assert not np.array_equal(found[0][1], found[1][1])
