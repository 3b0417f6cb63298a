from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from ddpm.data import load, open_source, open_sources
from ddpm.errors import UserError


def write(path: Path, array: np.ndarray) -> Path:
    data = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def make(folder: Path, part: str, count: int, gz: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    images, labels = (
        rng.integers(0, 256, (count, 6, 5), dtype=np.uint8),
        (np.arange(count) % 10).astype(np.uint8),
    )
    folder.mkdir(exist_ok=True)
    write(folder / f"{part}-images-idx3-ubyte{gz}", images)
    write(folder / f"{part}-labels-idx1-ubyte{gz}", labels)
    return images, labels


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_file_with_labels_beside(tmp_path: Path, gz: str) -> None:
    images, labels = make(tmp_path, "train", 23, gz)
    source = open_source(tmp_path / f"train-images-idx3-ubyte{gz}")
    assert len(source) == 23
    assert source.classes == tuple("0123456789")
    np.testing.assert_array_equal(source.labels, labels)  # type: ignore[arg-type]
    out = load(source, (6, 5), 1, cache=tmp_path / "cache")
    np.testing.assert_array_equal(out.pixels[:, 0], images)
    off = open_source(tmp_path / f"train-images-idx3-ubyte{gz}", labels="none")
    assert (off.classes, off.labels) == ((), None)


def test_names_for_runs(tmp_path: Path) -> None:
    make(tmp_path / "mnist", "train", 3, ".gz")
    assert open_source(tmp_path / "mnist").name == "mnist"
    assert open_source(tmp_path / "mnist" / "train-images-idx3-ubyte.gz").name == "train-images-idx3-ubyte"


def test_folder_takes_train_and_says_so(tmp_path: Path) -> None:
    images, _ = make(tmp_path / "m", "train", 30, ".gz")
    make(tmp_path / "m", "t10k", 20, ".gz")
    source = open_source(tmp_path / "m")
    assert len(source) == 30
    assert source.notes == (
        "train-images-idx3-ubyte.gz taken, t10k-images-idx3-ubyte.gz left: give a file to choose another, "
        "or --holdout t10k-images-idx3-ubyte.gz",
        "10 classes from train-labels-idx1-ubyte.gz",
    )
    np.testing.assert_array_equal(source.picture(4)[..., 0], images[4])


def test_folder_with_two_unknown_sets_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "m", "one", 3, "")
    make(tmp_path / "m", "two", 3, "")
    with pytest.raises(UserError, match=r"several picture files .*: give one of them"):
        open_source(tmp_path / "m")


def test_without_labels(tmp_path: Path) -> None:
    make(tmp_path, "train", 5, "")
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    source = open_source(tmp_path / "train-images-idx3-ubyte")
    assert source.labels is None
    assert source.notes == ("no classes: no labels file train-labels-idx1-ubyte beside the pictures",)


def test_labels_change_the_fingerprint_but_not_the_decoded_pictures(tmp_path: Path) -> None:
    make(tmp_path, "train", 5, "")
    path = tmp_path / "train-images-idx3-ubyte"

    def fingerprints() -> tuple[str, str]:
        source = open_source(path)
        return source.fingerprint(), load(source, (6, 5), 1, cache=tmp_path / "cache").fingerprint

    before = fingerprints()
    write(tmp_path / "train-labels-idx1-ubyte", np.array([1, 1, 0, 1, 1], np.uint8))
    after = fingerprints()
    assert before[0] == after[0] and before[1] != after[1]
    assert len(list((tmp_path / "cache" / "pictures").iterdir())) == 1


def test_errors(tmp_path: Path) -> None:
    make(tmp_path, "train", 5, "")
    with pytest.raises(UserError, match="an IDX file of labels: give the file of pictures"):
        open_source(tmp_path / "train-labels-idx1-ubyte")
    write(tmp_path / "train-labels-idx1-ubyte", np.zeros(4, np.uint8))
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte: shape \[4\] for 5 pictures"):
        open_source(tmp_path / "train-images-idx3-ubyte")


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_truncated(tmp_path: Path, gz: str) -> None:
    make(tmp_path, "train", 200, gz)
    path = tmp_path / f"train-images-idx3-ubyte{gz}"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"a damaged IDX file .*: copy or download it again"):
        load(open_source(path), (6, 5), 1, cache=tmp_path / "cache")
    path.write_bytes(path.read_bytes()[:6])
    with pytest.raises(UserError, match="a damaged IDX file"):
        open_source(path)


def test_one_class_is_none_unless_others_have_it(tmp_path: Path) -> None:
    make(tmp_path, "t10k", 4, "")
    write(tmp_path / "t10k-labels-idx1-ubyte", np.full(4, 7, np.uint8))
    alone = open_source(tmp_path / "t10k-images-idx3-ubyte")
    assert (alone.classes, alone.notes) == ((), ("no classes: t10k-labels-idx1-ubyte has but one",))
    make(tmp_path, "train", 20, "")
    files = [tmp_path / f"{part}-images-idx3-ubyte" for part in ("train", "t10k")]
    _, held = open_sources([files[0]], holdout=str(files[1]))
    assert held is not None and held.labels is not None and held.labels.tolist() == [7] * 4


def test_labels_that_do_not_begin_at_zero(tmp_path: Path) -> None:
    """As EMNIST's letters: 1 to 26."""
    make(tmp_path, "train", 4, "")
    write(tmp_path / "train-labels-idx1-ubyte", np.array([1, 26, 2, 1], np.uint8))
    source = open_source(tmp_path / "train-images-idx3-ubyte")
    assert source.classes == ("1", "2", "26")
    assert source.labels is not None and source.labels.tolist() == [0, 2, 1, 0]
