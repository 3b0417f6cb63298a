from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.data import open_source, open_sources
from ddpm.data.opening import find, is_data
from ddpm.errors import UserError


def message(data: str | Path, **options: str) -> str:
    with pytest.raises(UserError) as caught:
        open_source(data, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_missing_path_proposes_what_is_near(tmp_path: Path) -> None:
    (tmp_path / "flowers-128.zip").write_bytes(b"")
    text = message(tmp_path / "flower-128.zip")
    assert text.startswith(f"{tmp_path / 'flower-128.zip'}: no such file or folder: give a folder, .zip or .tar")
    assert text.endswith(f"; did you mean {tmp_path / 'flowers-128.zip'}?")
    assert message("fashon").endswith("; did you mean fashion?")
    far = message(tmp_path / "nowhere" / "xyzzy")
    assert "did you mean" not in far and ".npz" in far and "embedded set (fashion)" in far


def test_what_is_accepted_is_named(tmp_path: Path) -> None:
    text = message("xyzzy")
    for kind in (".zip", ".tar", ".csv", ".json", ".jsonl", ".npz", ".npy", ".parquet", "IDX", "hub:org/name"):
        assert kind in text


def test_what_is_missing_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)  # asking for it would say so
    (tmp_path / "photos").mkdir()
    for data in ("photos/cats", "nowhere/cats.zip", "nowhere/cats.TAR.GZ", "nowhere/cats.csv", "nowhere/a.png"):
        assert f"{data}: no such file or folder: give" in message(data)
    assert "pip install 'ddpm[hub]'" in message("nowhere/cats")


def test_parts(tmp_path: Path) -> None:
    for name in ("top/b/1.png", "top/a/x/2.png", "top/3.png", "top/.c/4.png"):
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / "p" / name)
    assert list(find(tmp_path / "p").parts()) == ["a", "b"]
    assert list(find("fashion").parts()) == []
    assert is_data("fashion") and is_data(str(tmp_path)) and is_data("hub:x") and not is_data(str(tmp_path / "x"))


def test_empty_folder(tmp_path: Path) -> None:
    assert "no picture in this folder: give" in message(tmp_path)
    (tmp_path / "a.npz").write_bytes(b"")
    assert message(tmp_path).endswith("; it holds a.npz: give that file")


def test_things_that_are_no_data(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    assert "a.png: a single picture: give the folder that holds it" in message(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("hello")
    assert "notes.txt: not a data set that can be read: give a folder" in message(tmp_path / "notes.txt")
    assert message("fashion", labels="yes") == "labels 'yes': give one of auto, none"


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "set.v2"
    folder.mkdir()
    Image.new("L", (4, 4)).save(folder / "a.png")
    assert open_source(folder).name == "set.v2"
    assert open_source(f"{folder}/").name == "set.v2"
    monkeypatch.chdir(folder)
    assert open_source(".").name == "set.v2"
    np.save(tmp_path / "set.v2.npy", np.zeros((1, 8, 8), np.uint8))
    assert open_source(tmp_path / "set.v2.npy").name == "set.v2"
    for listed, name in (("pets.v2.csv", "pets.v2"), ("labels.csv", "set.v2"), ("dataset.json", "set.v2")):
        (folder / listed).write_text('["a.png"]' if listed.endswith("json") else "a.png\n")
        assert open_source(folder / listed).name == name
        (folder / listed).unlink()


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 8, 8), np.uint8))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_source("~/a.npy")) == 1


def test_home_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert message("~nobody-of-that-name/x.zip").startswith("~nobody-of-that-name/x.zip: no such file or folder")
    assert not is_data("~nobody-of-that-name/x.zip")
    with pytest.raises(UserError, match=r"--holdout ~nobody-of-that-name/x\.zip: neither a share"):
        open_sources(["fashion"], holdout="~nobody-of-that-name/x.zip")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("...npz", "data"),  # after ".." a folder elsewhere would be called
        ("a\nb\x1b[2J.npz", r"a\nb\x1b[2J"),
        ("a\udcff.npz", "a?"),
        (f"{200 * 'n'}.npz", 100 * "n"),
        ("día 日本.npz", "día 日本"),
    ],
)
def test_names_for_runs_are_names_of_folders(file: str, name: str, tmp_path: Path) -> None:
    try:
        np.savez(tmp_path / file, images=np.zeros((2, 8, 8), np.uint8))
    except OSError:
        pytest.skip("the disk takes UTF-8 names alone")
    assert open_source(tmp_path / file).name == name


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npz")
    assert "is a pipe; name a file" in message(tmp_path / "a.npz")
