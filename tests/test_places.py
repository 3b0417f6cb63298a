"""Where something may be written."""

import os
from pathlib import Path

import pytest

from ddpm.errors import UserError
from ddpm.places import check_place, unwritable


def test_places_that_are_free_or_can_be_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "new", tmp_path / "there", tmp_path / "a/b/c/d.png", Path("x"), Path()):
        check_place(path)


def test_a_place_in_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/a/b: cannot be written \(.*file is a file\); choose another --out"):
        check_place(tmp_path / "file/a/b")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_of_somebody_else(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"is not yours to write\); choose another DST"):
        check_place(tmp_path / "new", "choose another DST")


def test_a_place_that_is_denied(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UserError, match=r"new: cannot be written \(.* is not yours to write\); choose another"):
        check_place(tmp_path / "new")


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(UserError, match=r"cannot be written \(File name too long\); choose another --out"):
        check_place(tmp_path / ("x" * 300) / "y")


@pytest.mark.parametrize(
    "error, why",
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("4 requested and 0 written"), "4 requested and 0 written"),
    ],
)
def test_what_is_said_where_writing_fails(error, why):
    assert str(unwritable(Path("a/b"), error)) == f"a/b: cannot be written ({why}); choose another --out"
    assert str(unwritable(Path("a/b"), error, "free some")) == f"a/b: cannot be written ({why}); free some"
