from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm.data import load, open_source, open_sources
from ddpm.errors import UserError

RNG = np.random.default_rng(0)


def pictures(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("shape", "channels", "to_chw"),
    [
        ((6, 9, 11), 1, lambda x: x[:, None]),
        ((6, 9, 11, 1), 1, lambda x: x.transpose(0, 3, 1, 2)),
        ((6, 9, 11, 3), 3, lambda x: x.transpose(0, 3, 1, 2)),
        ((6, 1, 9, 11), 1, lambda x: x),
        ((6, 3, 9, 11), 3, lambda x: x),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_layouts_bit_exact(tmp_path: Path, shape: Any, channels: int, to_chw: Any, suffix: str) -> None:
    array = pictures(*shape)
    path = tmp_path / f"set{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    else:
        np.savez(path, images=array)
    source = open_source(path)
    assert (source.name, len(source), source.classes, source.labels) == ("set", 6, (), None)
    assert source.describe(2) == f"set{suffix}[2]"
    assert source.look().sizes == {(9, 11): 6}
    assert source.look().grey == (6 if channels == 1 else 0)
    out = load(source, (9, 11), channels, cache=tmp_path / "cache")
    np.testing.assert_array_equal(out.pixels, to_chw(array))
    np.testing.assert_array_equal(source.picture(3), to_chw(array)[3].transpose(1, 2, 0))


def test_four_channels_go_on_white(tmp_path: Path) -> None:
    array = pictures(2, 5, 6, 4)
    array[..., 3] = 0
    np.save(tmp_path / "a.npy", array)
    source = open_source(tmp_path / "a.npy")
    assert source.look().alpha == 2
    assert (load(source, (5, 6), 3, cache=tmp_path / "cache").pixels == 255).all()


@pytest.mark.parametrize(
    ("picture_key", "label_key"),
    [("images", "labels"), ("pictures", "y"), ("x", "labels"), ("arr_0", "arr_1"), ("x_train", "y_train")],
)
def test_npz_keys(tmp_path: Path, picture_key: str, label_key: str) -> None:
    array = pictures(4, 8, 8, 3)
    np.savez(tmp_path / "a.npz", **{picture_key: array, label_key: np.array([2, 0, 1, 2])})
    source = open_source(tmp_path / "a.npz")
    assert source.classes == ("0", "1", "2")
    assert source.labels is not None and source.labels.dtype == np.int64
    assert source.labels.tolist() == [2, 0, 1, 2]
    np.testing.assert_array_equal(source.picture(1), array[1])
    off = open_source(tmp_path / "a.npz", labels="none")
    assert (off.classes, off.labels) == ((), None)


def test_openai_samples_and_cifar_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples_3x64x64x3.npz", pictures(3, 64, 64, 3), np.array([[7], [0], [7]]))
    source = open_source(tmp_path / "samples_3x64x64x3.npz")
    assert source.labels is not None and source.labels.tolist() == [1, 0, 1]
    assert source.classes == ("0", "7")


def test_class_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=pictures(2, 8, 8), y=np.array([1, 0]), classes=np.array(["ant", "bee"]))
    source = open_source(tmp_path / "a.npz")
    assert source.classes == ("ant", "bee")
    assert source.notes == ("2 classes from labels: ant, bee",)


def test_the_arrays_are_not_read_to_look(tmp_path: Path) -> None:
    """Only headers and labels: a damaged picture array is found when it is decoded, as a UserError."""
    path = tmp_path / "a.npz"
    np.savez(path, images=pictures(50, 32, 32), labels=np.arange(50) % 2)
    data = bytearray(path.read_bytes())
    data[20_000] ^= 1
    path.write_bytes(data)
    source = open_source(path)
    assert len(source) == 50
    with pytest.raises(UserError, match=r"a\.npz: images cannot be read"):
        load(source, (32, 32), 1, cache=tmp_path / "cache")


OBJECTS = np.array([b"x", None], dtype=object)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 8, 8, 3), np.float32)}, r"images: float32 values, .* save \(255 \* x\)"),
        ({"images": np.zeros((2, 8, 8, 3), np.int64)}, r"int64 values, .* save x.astype\('uint8'\)"),
        ({"images": OBJECTS}, "Python objects, which are never unpickled"),
        ({"images": pictures(8, 8)}, r"shape \[8, 8\], but pictures are"),
        ({"images": pictures(8, 8, 3)}, r"shape \[8, 8, 3\], .*one picture is x\[None\]"),
        ({"images": pictures(2, 8, 8, 2)}, r"shape \[2, 8, 8, 2\], but pictures are"),
        ({"images": pictures(0, 8, 8)}, "holds no picture"),
        ({"a": pictures(2, 8, 8)}, "holds a, but none of images, pictures, x, arr_0, x_train"),
        ({"x": pictures(2, 8, 8), "y": np.array([0, 1, 2])}, r"y: shape \[3\] for 2 pictures"),
        ({"x": pictures(2, 8, 8), "y": np.eye(2)}, r"y: shape \[2, 2\] for 2 pictures"),
        ({"x": pictures(2, 8, 8), "y": np.array([0.0, 1.0])}, "y: float64 values: give class numbers"),
        ({"x": pictures(2, 8, 8), "y": np.array([0, -1])}, "values from -1 to 0"),
        (
            {"x": pictures(2, 8, 8), "y": np.array([0, 2]), "classes": np.array(["a", "b"])},
            "values from 0 to 2, but there are 2 classes: number the classes from 0",
        ),
        (
            {"x": pictures(2, 8, 8), "y": np.array([0, 1]), "classes": OBJECTS},
            r"classes: object \[\d\]: give at most",
        ),
    ],
)
def test_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=message) as caught:
        open_source(tmp_path / "a.npz")
    assert str(tmp_path / "a.npz") in str(caught.value) and "\n" not in str(caught.value)


def test_refused_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8)))
    with pytest.raises(UserError, match=r"a\.npy: float64 values"):
        open_source(tmp_path / "a.npy")
    np.save(tmp_path / "o.npy", OBJECTS, allow_pickle=True)
    with pytest.raises(UserError, match=r"o\.npy: Python objects, which are never unpickled"):
        open_source(tmp_path / "o.npy")
    for junk in (b"", b"junk", (tmp_path / "a.npy").read_bytes()[:200]):
        (tmp_path / "j.npy").write_bytes(junk)
        with pytest.raises(UserError, match=r"j\.npy: not a readable \.npy array"):
            open_source(tmp_path / "j.npy")
        (tmp_path / "j.npz").write_bytes(junk)
        with pytest.raises(UserError, match=r"j\.npz: not a whole \.npz file"):
            open_source(tmp_path / "j.npz")


def test_resized_grey_and_colour(tmp_path: Path) -> None:
    array = np.full((2, 8, 8), 77, np.uint8)
    np.save(tmp_path / "a.npy", array)
    out = load(open_source(tmp_path / "a.npy"), (4, 6), 3, cache=tmp_path / "cache")
    assert out.pixels.shape == (2, 3, 4, 6)
    assert (out.pixels == 77).all()


def test_classes_are_the_values_there_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=pictures(4, 8, 8), y=np.array([60_000, 1, 7, 1], np.uint16))
    source = open_source(tmp_path / "a.npz")
    assert source.classes == ("1", "7", "60000")
    assert source.labels is not None and source.labels.tolist() == [2, 0, 1, 0]


def test_more_values_than_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((70_000, 1, 5), np.uint8), y=np.arange(70_000))
    with pytest.raises(
        UserError, match=r"y: 70,000 different values, but there are at most 65,536 classes: .*none"
    ):
        open_source(tmp_path / "a.npz")


def test_one_class_is_none_unless_others_have_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", x=pictures(3, 8, 8), y=np.array([3, 3, 3]))
    source = open_source(tmp_path / "one.npz")
    assert (source.classes, source.labels, source.notes) == ((), None, ("no classes: y has but one",))
    np.savez(tmp_path / "two.npz", x=pictures(3, 8, 8), y=np.array([3, 5, 3]))
    _, held = open_sources([tmp_path / "two.npz"], holdout=str(tmp_path / "one.npz"))
    assert held is not None and held.classes == ("3", "5")
    assert held.labels is not None and held.labels.tolist() == [0, 0, 0]


def test_a_npz_that_is_called_npy(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=pictures(3, 8, 8))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(UserError, match=r"a\.npy: not a readable \.npy array"):
        open_source(tmp_path / "a.npy")
