"""Files and folders appear whole or not at all, also when the process is killed on the way."""

import json
import signal
import subprocess
import sys

import pytest

from ddpm.atomic import new_folder, remove_folder, sweep, write_bytes, write_json


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_new_files_and_folders(tmp_path):
    write_bytes(tmp_path / "file", b"\x00\xff")
    write_json(tmp_path / "values", {"a": [1, None, "ü"]})
    with new_folder(tmp_path / "deep" / "folder") as folder:
        (folder / "file").write_text("x")
        assert names(tmp_path / "deep") == [folder.name] and folder.name.startswith(".")
    assert names(tmp_path) == ["deep", "file", "values"] and names(tmp_path / "deep") == ["folder"]
    assert (tmp_path / "file").read_bytes() == b"\x00\xff" and names(tmp_path / "deep/folder") == ["file"]
    assert json.loads((tmp_path / "values").read_text()) == {"a": [1, None, "ü"]}


def test_an_old_one_is_replaced(tmp_path):
    for content in ("old", "new"):
        write_bytes(tmp_path / "file", content.encode())
        with new_folder(tmp_path / "folder") as folder:
            (folder / content).write_text(content)
    assert (tmp_path / "file").read_text() == "new" and names(tmp_path / "folder") == ["new"]


def test_a_failure_in_a_new_folder_leaves_the_old_one(tmp_path):
    target = tmp_path / "a" / "folder"
    with new_folder(target) as folder:
        (folder / "file").write_text("old")
    with pytest.raises(RuntimeError), new_folder(target) as folder:
        (folder / "file").write_text("new")
        raise RuntimeError
    assert names(target.parent) == ["folder"] and (target / "file").read_text() == "old"
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "other") as folder:
        raise KeyboardInterrupt
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failure_in_writing_a_file_leaves_the_old_one(tmp_path, monkeypatch, fails):
    write_bytes(tmp_path / "file", b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*(("ddpm.atomic.os.fsync", full) if fails == "fsync" else ("pathlib.Path.replace", full)))
    with pytest.raises(OSError, match="No space left"):
        write_bytes(tmp_path / "file", b"new")
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"old"


KILLED = """
import os, signal, sys
from pathlib import Path
import ddpm.atomic as atomic
where = Path(sys.argv[1])
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "file":
    atomic.os.fsync = die
    atomic.write_bytes(where / "file", b"new")
else:
    with atomic.new_folder(where / "folder") as folder:
        atomic.write_bytes(folder / "file", b"new")
        atomic.flush_folder = die
"""


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_killed_process_leaves_the_old_content(tmp_path, what):
    write_bytes(tmp_path / "file", b"old")
    with new_folder(tmp_path / "folder") as folder:
        write_bytes(folder / "file", b"old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), what], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert [n for n in names(tmp_path) if not n.startswith(".")] == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"old" == (tmp_path / "folder/file").read_bytes()


def test_removing_a_folder(tmp_path):
    with new_folder(tmp_path / "folder") as folder:
        (folder / "file").write_text("x")
    remove_folder(tmp_path / "folder")
    assert names(tmp_path) == []


def test_sweeping_takes_only_what_was_left(tmp_path):
    for name in (".000000020.999.tmp", ".config.json.999.tmp", "mine.tmp", ".hidden", "kept"):
        (tmp_path / name).mkdir() if "0020" in name else (tmp_path / name).write_text("x")
    (tmp_path / ".000000020.999.tmp/model.safetensors").write_text("x")
    sweep(tmp_path)
    assert names(tmp_path) == [".hidden", "kept", "mine.tmp"]
    sweep(tmp_path / "nothing")
