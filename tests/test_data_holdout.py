from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ddpm.data import Source, open_source, open_sources
from ddpm.data.holdout import draw
from ddpm.errors import UserError


def save(path: Path, k: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")


def filled(root: Path, *names: str) -> Path:
    for k, name in enumerate(names):
        save(root / f"{name}.png", k)
    return root


def split(data: object, holdout: str, labels: str = "auto") -> tuple[Source, Source]:
    train, held = open_sources(data if isinstance(data, list) else [data], labels, holdout)
    assert held is not None
    return train, held


def described(source: Source) -> list[str]:
    return [source.describe(i) for i in range(len(source))]


def named(source: Source) -> list[str]:
    assert source.labels is not None and source.labels.dtype == np.int64
    return [source.classes[label] for label in source.labels]


def refused(data: object, holdout: str, labels: str = "auto") -> str:
    with pytest.raises(UserError) as caught:
        split(data, holdout, labels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=60).map(np.array),
    st.floats(0.001, 0.999),
)
def test_every_class_gives_its_part_and_keeps_a_picture(labels: np.ndarray, share: float) -> None:
    sizes = np.bincount(labels)
    if sizes.max() == 1:
        with pytest.raises(UserError, match="no class has two pictures"):
            draw(labels, share)
        return
    held = draw(labels, share)
    assert (np.diff(held) > 0).all() and held[0] >= 0 and held[-1] < len(labels)
    assert len(held) == min(max(1, round(share * len(labels))), (sizes[sizes > 0] - 1).sum())
    taken = np.bincount(labels[held], minlength=len(sizes))
    assert (taken[sizes > 0] < sizes[sizes > 0]).all()
    part = (sizes - (sizes > 0)) * len(held) / (sizes[sizes > 0] - 1).sum()
    assert (np.abs(taken - part) <= 1 + 1e-9).all()


def test_drawn_evenly_and_always_the_same() -> None:
    labels = np.repeat(np.arange(10), 1000)
    held = draw(labels, 0.1)
    np.testing.assert_array_equal(held, draw(labels, 0.1))
    # Uniform within a class: mean of 1,000 ranks in 0 ... 999 is 499.5 with deviation 288.7 / sqrt(1000) = 9.1.
    assert abs((held % 1000).mean() - 499.5) < 4 * 9.1
    assert len(np.unique(held % 1000)) > 600  # 632 are expected of independent draws


def test_share(tmp_path: Path) -> None:
    root = filled(tmp_path / "p", *(f"{name}/{k}" for name in ("cat", "dog") for k in range(10)))
    train, held = split(root, "0.2")
    assert (train.name, len(train), len(held)) == ("p", 16, 4)
    assert sorted(described(train) + described(held)) == described(open_source(root))
    assert named(held) == ["cat", "cat", "dog", "dog"]
    assert train.classes == held.classes == ("cat", "dog")
    assert [name.split("/")[0] for name in described(train)] == named(train)
    assert train.notes == ("2 classes from sub-folders: cat, dog",)
    assert held.notes == ("4 pictures of 20 held out: the same at every start",)
    before = train.fingerprint()
    assert split(root, "0.2")[0].fingerprint() == before
    save(root / described(held)[0], 99)
    assert split(root, "0.2")[0].fingerprint() == before
    save(root / described(train)[0], 99)
    assert split(root, "0.2")[0].fingerprint() != before


def test_share_of_an_array_and_of_several(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (10, 8, 8), np.uint8))
    train, held = split(tmp_path / "a.npy", "0.001")
    assert (len(train), len(held), held.labels) == (9, 1, None)
    root = filled(tmp_path / "p", *map(str, range(10)))
    train, held = split([tmp_path / "a.npy", root], "0.5")
    assert (len(train), len(held)) == (10, 10)
    assert len({*described(train), *described(held)}) == 20


def test_share_of_one_picture(tmp_path: Path) -> None:
    assert refused(filled(tmp_path / "p", "a"), "0.5").startswith("--holdout 0.5: no class has two pictures")


SPLITS = ("train/cat/1", "train/dog/2", "test/cat/3")


def zipped(root: Path) -> Path:
    with zipfile.ZipFile(root.with_suffix(".zip"), "w") as archive:
        for path in root.rglob("*.png"):
            archive.write(path, f"top/{path.relative_to(root)}")
    return root.with_suffix(".zip")


@pytest.mark.parametrize("kind", ["folder", "outer", "zip"])
def test_split_folders(tmp_path: Path, kind: str) -> None:
    root = filled(tmp_path / "p" / "inner" if kind == "outer" else tmp_path / "p", *SPLITS)
    root = zipped(root) if kind == "zip" else tmp_path / "p"
    note = "these sub-folders look like splits, not classes: --holdout test keeps that one out of training"
    assert any(note in each for each in open_source(root).notes)
    train, held = split(root, "test")
    assert (train.name, train.classes, named(train)) == ("p", ("cat", "dog"), ["cat", "dog"])
    assert held.notes == ("1 picture held out: test", "held out: 1 class from sub-folders: cat")
    assert (held.classes, named(held)) == (("cat", "dog"), ["cat"])  # one class is enough where it is known
    assert not any("look like splits" in note for note in train.notes)


def test_split_is_the_folder_it_is_named_after(tmp_path: Path) -> None:
    root = filled(tmp_path / "p", *SPLITS)
    train, _ = split(root, "test")
    alone = open_source(root / "train")
    assert (described(train), train.fingerprint()) == (described(alone), alone.fingerprint())
    assert described(split(root, str(root / "test"))[0]) == described(train)  # as a path, too


def test_several_splits_remain(tmp_path: Path) -> None:
    root = filled(tmp_path / "p", *SPLITS, "val/cow/4", "val/dog/5")
    train, held = split(root, "test")
    assert train.classes == ("cat", "cow", "dog")
    assert described(train) == ["train/cat/1.png", "train/dog/2.png", "val/cow/4.png", "val/dog/5.png"]
    assert named(train) == ["cat", "dog", "cow", "dog"]
    assert named(held) == ["cat"]


def test_a_split_beside_class_folders(tmp_path: Path) -> None:
    train, held = split(filled(tmp_path / "p", "cat/1", "dog/2", "test/cat/3", "test/dog/4"), "test")
    assert (named(train), named(held)) == (["cat", "dog"], ["cat", "dog"])


def test_folders_without_classes(tmp_path: Path) -> None:
    root = filled(tmp_path / "p", "a", "b", "test/c")
    train, held = split(root, "test")
    assert (described(train), described(held)) == (["a.png", "b.png"], ["c.png"])
    assert train.labels is None and held.labels is None
    train, held = split(filled(tmp_path / "q", "cat/1", "dog/2", "emu/3"), "emu", "none")
    assert (len(train), len(held)) == (2, 1)


def test_a_sub_folder_of_each_of_several(tmp_path: Path) -> None:
    a, b = (
        filled(tmp_path / "a", *SPLITS),
        filled(tmp_path / "b", "train/cow/1", "train/dog/1", "test/dog/1", "test/cow/2"),
    )
    train, held = split([a, b], "test")
    assert train.classes == ("cat", "dog", "cow")
    assert (named(train), named(held)) == (["cat", "dog", "cow", "dog"], ["cat", "cow", "dog"])
    c = filled(tmp_path / "c", "cat/1", "dog/2")
    train, held = split([a, c], "test")
    assert (len(train), len(held)) == (4, 1)


def test_other_data(tmp_path: Path) -> None:
    a, b = filled(tmp_path / "a", "cat/1", "dog/2"), filled(tmp_path / "b", "dog/3", "cat/4", "dog/5")
    train, held = split(a, str(b))
    assert train.fingerprint() == open_source(a).fingerprint()
    assert named(held) == ["cat", "dog", "dog"]
    assert split(a, str(zipped(b)))[1].classes == ("cat", "dog")
    flat = filled(tmp_path / "flat", "1", "2")
    train, held = split(flat, str(b))
    assert (train.classes, held.classes, held.labels) == ((), (), None)


def test_other_data_of_one_class(tmp_path: Path) -> None:
    a, b = filled(tmp_path / "a", "cat/1", "dog/2"), filled(tmp_path / "b", "dog/3")
    assert named(split(a, str(b))[1]) == ["dog"]
    (tmp_path / "b.csv").write_text("b/dog/3.png,dog\n")
    held = split(a, str(tmp_path / "b.csv"))[1]
    assert (held.classes, named(held)) == (("cat", "dog"), ["dog"])


def test_a_name_is_looked_for_inside_data_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def idx(path: Path, values: np.ndarray) -> None:
        head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
        path.write_bytes(gzip.compress(head + values.tobytes()))

    root = tmp_path / "mnist"
    root.mkdir()
    for name, count in (("train", 3), ("t10k", 2)):
        idx(root / f"{name}-images-idx3-ubyte.gz", np.zeros((count, 8, 8), np.uint8))
        idx(root / f"{name}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8))
    train, held = split(root, "t10k-images-idx3-ubyte.gz")
    assert (len(train), len(held), named(held)) == (3, 2, ["0", "1"])
    monkeypatch.chdir(filled(tmp_path / "here", "test/1").parent)
    assert len(split(filled(tmp_path / "p", *SPLITS), "test")[1]) == 1
    assert len(split(filled(tmp_path / "q", "1", "2", "3"), "here")[1]) == 1


def test_files_of_a_held_out_list_are_not_trained_on(tmp_path: Path) -> None:
    root = filled(tmp_path / "p", "cat/1", "cat/2", "dog/3", "dog/4")
    (root / "test.csv").write_text("cat/2.png,cat\ndog/../dog/4.png,dog\n")
    (tmp_path / "linked").symlink_to(root)
    for data, holdout in ((root, "test.csv"), (tmp_path / "linked", str(root / "test.csv"))):
        train, held = split(data, holdout)
        assert (described(train), named(held)) == (["cat/1.png", "dog/3.png"], ["cat", "dog"])
        assert held.notes[0] == f"2 pictures held out: {holdout}; 2 of them taken out of the 4 to train on"


def test_refusals(tmp_path: Path) -> None:
    root = filled(tmp_path / "p", "cat/1", "dog/2", "test/emu/3", "test/cat/4")
    other = filled(tmp_path / "q", "1", "2")
    expected = "--holdout test: emu not among the classes trained on (cat, dog): take these pictures out"
    assert refused(root, "test").startswith(expected)
    text = refused(root, str(other))
    assert text.startswith(
        f"--holdout {other}: no classes, but the training pictures have (cat, dog, test): sort its"
    )
    for holdout in ("1.5", "0", "1", "nan", "-0.1", "tset"):
        assert refused(root, holdout).startswith(
            f"--holdout {holdout}: neither a share between 0 and 1, nor other DATA, nor a sub-folder or split of "
            "DATA (cat, dog, test): give one of them"
        )
    assert "DATA (it has none)" in refused(other, "tset")
    for holdout in (str(root), ".", str(root / "test" / "..")):
        assert refused(root, holdout).startswith(f"--holdout {holdout}: is what is trained on: give a share")
    assert refused("fashion", "fashion").startswith("--holdout fashion: is what is trained on")
    assert "holds out every picture" in refused(other, str(tmp_path), "none")


def test_everything_held_out(tmp_path: Path) -> None:
    root = filled(tmp_path / "p", "1", "2")
    (tmp_path / "all.csv").write_text("p/1.png\np/2.png\n")
    text = refused(root, str(tmp_path / "all.csv"))
    assert (
        text == f"--holdout {tmp_path / 'all.csv'}: holds out every picture: give other DATA, or a smaller share"
    )


def test_a_name_too_long_for_a_file_is_refused_like_any_other(tmp_path: Path) -> None:
    filled(tmp_path / "photos", "a", "b", "c")
    assert "neither a share" in refused(tmp_path / "photos", "x" * 300)
