from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.data import Source, load, open_source
from ddpm.data.lists import numbered
from ddpm.errors import UserError


def picture(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def save(path: Path, k: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(k)).save(path, "PNG")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for k in range(4):
        save(root / "all" / f"{k}.png", k)
    return root


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def named(source: Source) -> list[str]:
    assert source.labels is not None and source.labels.dtype == np.int64
    return [source.classes[label] for label in source.labels]


def test_files_in_the_order_of_the_list(photos: Path) -> None:
    path = written(
        photos / "animals.csv", "file,label\nall/2.png,dog\n./all/0.png,cat\nall\\3.png,dog\nall/2.png,cat\n"
    )
    source = open_source(path)
    assert (source.name, len(source)) == ("animals", 4)
    assert source.classes == ("cat", "dog")
    assert named(source) == ["dog", "cat", "dog", "cat"]
    assert [source.describe(i) for i in range(4)] == ["all/2.png", "all/0.png", "all/3.png", "all/2.png"]
    for i, k in enumerate([2, 0, 3, 2]):
        np.testing.assert_array_equal(source.picture(i), picture(k))
        assert source.content(i) == (photos / "all" / f"{k}.png").read_bytes()
    assert source.notes == ("2 classes from animals.csv: cat, dog",)
    assert open_source(path, labels="none").labels is None


def test_absolute_paths_and_files_without_a_suffix(photos: Path, tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "picture", 7)
    path = written(photos / "a.json", json.dumps([str(tmp_path / "elsewhere" / "picture"), "../photos/all/1.png"]))
    source = open_source(path)
    np.testing.assert_array_equal(source.picture(0), picture(7))
    np.testing.assert_array_equal(source.picture(1), picture(1))
    assert source.labels is None
    assert source.notes == ("no classes: a.json has no labels (label, class, category, target)",)


def test_integers_are_sorted_as_numbers() -> None:
    classes, labels = numbered(["10", "9", "-1", "10"])
    assert classes == ("-1", "9", "10")
    assert labels is not None and labels.tolist() == [2, 1, 0, 2]
    assert numbered(["10", "9", "x"])[0] == ("10", "9", "x")


def test_a_single_class_counts_if_others_have_it() -> None:
    assert numbered(["cat", "cat"]) == ((), None)
    assert numbered(["cat", "cat"], ("dog",)) == ((), None)
    assert numbered(["cat", "cat"], ("cat", "dog"))[0] == ("cat",)


def test_one_class_is_none(photos: Path) -> None:
    source = open_source(written(photos / "a.csv", "all/0.png,cat\nall/1.png,cat\n"))
    assert (source.labels, source.notes) == (None, ("no classes: all labels in a.csv are cat",))


def test_missing_labels_are_refused_with_their_line(photos: Path) -> None:
    path = written(photos / "a.csv", "file,label\nall/0.png,cat\n\nall/1.png,\nall/2.png,dog\nall/3.png\n")
    with pytest.raises(
        UserError, match=r"a\.csv, line 4: all/1\.png has no label, as 2 of 4 have none: .*--labels none"
    ):
        open_source(path)
    assert len(open_source(path, labels="none")) == 4


def test_missing_files_are_counted_when_decoding(photos: Path, tmp_path: Path) -> None:
    path = written(photos / "a.csv", "file,label\nall/0.png,cat\nall/9.png,dog\nall/1.png,dog\nall,dog\n")
    pictures = load(open_source(path), (8, 8), 3, cache=tmp_path / "cache")
    assert len(pictures) == 2
    assert [name for name, _ in pictures.skipped] == ["all/9.png", "all"]
    assert pictures.skipped[0][1] == "no such file"
    assert pictures.labels is not None and pictures.labels.tolist() == [0, 1]


def test_lists_of_nothing_that_is_there(photos: Path) -> None:
    path = written(photos / "all" / "a.csv", "all/0.png,cat\nall/1.png,dog\n")
    with pytest.raises(
        UserError, match=r"none of its 2 files is there \(first: .*all/all/0\.png\): list paths from"
    ):
        open_source(path)


def test_fingerprints_follow_names_contents_and_labels(photos: Path, tmp_path: Path) -> None:
    def print_of(text: str) -> str:
        source = open_source(written(photos / "a.csv", text))
        return load(source, (8, 8), 3, cache=tmp_path / "cache").fingerprint

    seen = [print_of("all/0.png,cat\nall/1.png,dog\n")]
    assert print_of("file;class\nall/0.png;cat\nall/1.png;dog\n") == seen[0]
    seen.append(print_of("all/1.png,cat\nall/0.png,dog\n"))  # order
    seen.append(print_of("all/0.png,dog\nall/1.png,cat\n"))  # labels
    seen.append(print_of("all/0.png,cat\nall/1.png,emu\n"))  # class names
    save(photos / "all" / "1.png", 77)
    seen.append(print_of("all/0.png,cat\nall/1.png,dog\n"))
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name,label\nall/0.png,x\nall/1.png,y\nall/2.png,x\nall/3.png,y\n"),
        (
            "metadata.jsonl",
            "".join(f'{{"file_name": "all/{k}.png", "label": "{"xy"[k % 2]}"}}\n' for k in range(4)),
        ),
        ("dataset.json", json.dumps({"labels": [[f"all/{k}.png", "xy"[k % 2]] for k in range(4)]})),
    ],
)
def test_well_known_lists_give_a_folder_or_archive_its_classes(
    photos: Path, tmp_path: Path, name: str, text: str
) -> None:
    path = written(photos / name, text)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for file in sorted(photos.rglob("*.*")):
            archive.write(file, f"top/{file.relative_to(photos)}")
    folder = open_source(photos)
    for source in (folder, open_source(path), open_source(tmp_path / "z.zip")):
        assert named(source) == ["x", "y", "x", "y"]
        np.testing.assert_array_equal(source.picture(3), picture(3))
    assert open_source(path).name == folder.name == "photos"
    assert folder.notes == (f"2 classes from {name}: x, y",)
    assert open_source(photos, labels="none").classes == ()


def test_a_list_beats_folders_as_in_edm_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for k in range(4):
            save(tmp_path / "p.png", k)
            archive.write(tmp_path / "p.png", f"0000{k // 2}/img{k}.png")
        archive.writestr(
            "dataset.json", json.dumps({"labels": [[f"0000{k // 2}/img{k}.png", k % 2] for k in range(4)]})
        )
    source = open_source(tmp_path / "z.zip")
    assert source.classes == ("0", "1")
    assert named(source) == ["0", "1", "0", "1"]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("file,label\nall/0.png,x\n", "metadata.csv left alone: 3 pictures not in it, such as all/1.png"),
        (
            "file,text\n" + "".join(f"all/{k}.png,a\n" for k in range(4)),
            "metadata.csv left alone: it names no classes",
        ),
        ("name,width\nx,3\n", "metadata.csv left alone: its first line (name,width) names no column"),
    ],
)
def test_lists_that_do_not_fit_are_left_alone_and_said_so(photos: Path, text: str, note: str) -> None:
    written(photos / "metadata.csv", text)
    save(photos / "b" / "0.png", 1)
    (photos / "b" / "0.png").unlink()
    source = open_source(photos)
    assert (len(source), source.classes) == (4, ())
    assert any(each.startswith(note) for each in source.notes)


def test_listed_files_that_are_not_in_the_folder(photos: Path) -> None:
    written(photos / "metadata.csv", "file,label\n" + "".join(f"all/{k}.png,{k % 2}\n" for k in range(6)))
    source = open_source(photos)
    assert len(source) == 4
    assert source.notes == ("2 classes from metadata.csv: 0, 1", "2 files in metadata.csv not there")


def test_jsonl_and_tsv_as_data(photos: Path) -> None:
    lines = [f'{{"file_name": "all/{k}.png", "label": "{"xy"[k % 2]}"}}' for k in range(4)]
    rows = ["path\tclass", *(f"all/{k}.png\t{'xy'[k % 2]}" for k in range(4))]
    for path, text in (("x.jsonl", lines), ("x.tsv", rows)):
        source = open_source(written(photos / path, "\n".join(text)))
        assert (source.name, named(source)) == ("x", ["x", "y", "x", "y"])
        np.testing.assert_array_equal(source.picture(3), picture(3))


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_list_that_cannot_be_read_in_an_archive_is_left_alone(
    photos: Path, tmp_path: Path, encrypted: bool
) -> None:
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for k in range(4):
            archive.write(photos / "all" / f"{k}.png", f"{'ab'[k % 2]}/{k}.png")
        archive.writestr("metadata.csv", "file,label\n")
        offset = archive.getinfo("metadata.csv").header_offset
    data = bytearray(path.read_bytes())
    if encrypted:  # bit 0 of the flags in both headers
        data[offset + 6] |= 1
        data[data.rindex(b"metadata.csv") - 46 + 8] |= 1
    else:
        data[offset + 30 + len("metadata.csv")] ^= 1
    path.write_bytes(data)
    source = open_source(path)
    assert source.classes == ("a", "b")
    (note,) = (note for note in source.notes if "left alone" in note and "metadata" in note)
    assert note.startswith("metadata.csv left alone: ") and ("is encrypted" if encrypted else "CRC") in note


def test_names_too_long_for_a_disk_are_missing_files(photos: Path, tmp_path: Path) -> None:
    long = "x" * 5000 + ".png"
    path = written(photos / "a.csv", f"file,label\n{long},cat\nall/0.png,dog\n")
    pictures = load(open_source(path), (8, 8), 3, cache=tmp_path / "cache")
    assert [name for name, _ in pictures.skipped] == [long]
    with pytest.raises(UserError, match="none of its 1 file is there"):
        open_source(written(photos / "b.csv", f"file\n{long}\n"))


def test_labels_of_thousands_of_digits_are_names() -> None:
    assert numbered(["9" * 5000, "10", "9"])[0] == ("10", "9", "9" * 5000)


def test_a_list_in_a_folder_that_is_not_utf8(tmp_path: Path) -> None:
    try:
        save(tmp_path / "b\udcff" / "1.png", 1)
    except OSError:
        pytest.skip("the disk takes UTF-8 names alone")
    for name, called in (("labels.csv", "b?"), ("\udcff.csv", "?")):
        source = open_source(written(tmp_path / "b\udcff" / name, "1.png\n"))
        assert source.name == called
        "".join(source.notes).encode()
