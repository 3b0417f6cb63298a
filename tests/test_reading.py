"""Files that are none, too large or too deep are refused before they are read."""

import os

import pytest

from ddpm.errors import UserError
from ddpm.reading import JSON, check_file, parse_json, read_file, read_json


def test_what_is_a_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": [1, 2.5, null]}')
    assert check_file(path) == 21 and read_file(path, 21) == b'{"a": [1, 2.5, null]}'
    (tmp_path / "link").symlink_to(path)
    assert read_json(tmp_path / "link") == {"a": [1, 2.5, None]}


def test_what_is_none(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for name, message in (
        ("pipe", "is a pipe; name a file"),
        (".", "is a folder; name a file"),
        ("/dev/zero", "is a device; name a file"),
        ("none", "missing, there is no such file"),
        ("gone", "a symbolic link to nothing"),
        ("round", "cannot be read"),
        ("x" * 5000, "cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            check_file(tmp_path / name)
        with pytest.raises(UserError, match=message):
            read_json(tmp_path / name)


def test_nothing_larger_than_such_a_file_can_be_is_read(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(JSON + 1)
    with pytest.raises(UserError, match="is 16,777,217 bytes, and no such file has more than 16,777,216; name"):
        read_json(path)
    with pytest.raises(UserError, match="no such file has more than 3"):
        read_file(path, 3)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "f: damaged, not JSON"),
        (b"\xff", "f: damaged, not JSON"),
        ("[" * 10**5, "f: damaged, it is nested too deeply"),
        ('{"a":' * 10**5, "f: damaged, it is nested too deeply"),
        ("9" * 5000, "f: damaged, not JSON"),
    ],
)
def test_what_is_no_json(text, message):
    with pytest.raises(UserError, match=message):
        parse_json(text, "f")
