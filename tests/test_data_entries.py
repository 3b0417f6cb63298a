from __future__ import annotations

import csv
import io
import json

import pytest

from ddpm.data.entries import Entry, parse
from ddpm.errors import UserError


def pairs(text: str, suffix: str = ".csv") -> list[tuple[str, str | None]]:
    return [(entry.file, entry.label) for entry in parse(text.encode(), suffix, "list")]


def refused(text: str | bytes, suffix: str = ".csv") -> str:
    with pytest.raises(UserError) as caught:
        parse(text.encode() if isinstance(text, str) else text, suffix, "list")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_any_delimiter_and_what_python_itself_writes(mark: str, end: str) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=mark, lineterminator=end)
    wanted = [("a.png", "cat"), (f"b{mark} 1.png", 'the "dog"'), ("deep/two\nlines.jpg", "bird")]
    writer.writerows([("file", "label"), *wanted])
    assert pairs(stream.getvalue()) == wanted
    assert pairs("\ufeff" + stream.getvalue(), ".tsv") == wanted


@pytest.mark.parametrize("file", ["file", "Path", "IMAGE", "file_name", "filename", "File Name", " file-name "])
@pytest.mark.parametrize("label", ["label", "Class", "CATEGORY", "target"])
def test_columns_go_by_their_names(file: str, label: str) -> None:
    assert pairs(f"width,{label},{file}\n3,cat,a.png\n4,dog,b.png\n") == [("a.png", "cat"), ("b.png", "dog")]
    assert pairs(json.dumps([{label: "cat", "width": 3, file: "a.png"}]), ".json") == [("a.png", "cat")]


def test_preferred_columns() -> None:
    assert pairs("category,filename,label,file\nx,no.png,cat,a.png\n") == [("a.png", "cat")]


def test_no_header_needed_where_the_first_column_is_pictures() -> None:
    assert pairs("a.png,cat\nb.JPG,dog\n") == [("a.png", "cat"), ("b.JPG", "dog")]
    assert pairs("a.png;1\nb.png;2\n") == [("a.png", "1"), ("b.png", "2")]
    assert pairs("a.png\nc.png\n") == [("a.png", None), ("c.png", None)]
    text = refused("cat,a.png\ndog,b.png\n")
    assert text.startswith(
        "list: its first line (cat,a.png) names no column file, path, image, file_name or filename"
    )
    assert text.endswith(": begin with a line such as file,label")
    assert "names no column" in refused("a.png,cat,3\nb.png,dog,4\n")


def test_blanks() -> None:
    assert pairs("\n\nfile,label\n\n a.png , cat \n,\n  \nb.png,\nc.png\n") == [
        ("a.png", "cat"),
        ("b.png", None),
        ("c.png", None),
    ]


def test_lines_are_counted_as_an_editor_does() -> None:
    entries = parse(b"file,label\n\na.png,cat\n", ".csv", "list")
    assert entries == [Entry("a.png", "cat", "line 3")]


@pytest.mark.parametrize(
    "value",
    [
        [{"file": "a.png", "label": "cat"}, {"file": "b.png", "label": "dog"}],
        {"a.png": "cat", "b.png": "dog"},
        {"labels": [["a.png", "cat"], ["b.png", "dog"]]},
        [["a.png", "cat"], ["b.png", "dog"]],
    ],
)
def test_json(value: object) -> None:
    assert pairs(json.dumps(value), ".json") == [("a.png", "cat"), ("b.png", "dog")]


def test_json_of_stylegan_and_of_files_alone() -> None:
    text = '{"labels": [["00000/img00000000.png", 6], ["00000/img00000001.png", 9.0]]}'
    assert pairs(text, ".json") == [("00000/img00000000.png", "6"), ("00000/img00000001.png", "9")]
    assert pairs('["a.png", "b.png"]', ".json") == [("a.png", None), ("b.png", None)]
    assert pairs('{"labels": "cat", "b.png": null}', ".json") == [("labels", "cat"), ("b.png", None)]


def test_jsonl() -> None:
    text = '{"file_name": "a.png", "label": 3, "text": "a cat"}\n\n{"file_name": "ü\u2028.png", "label": null}\n'
    assert pairs(text, ".jsonl") == [("a.png", "3"), ("ü\u2028.png", None)]


@pytest.mark.parametrize(
    ("text", "suffix", "says"),
    [
        ("", ".csv", "list: an empty list"),
        ("file,label\n", ".csv", "list: an empty list"),
        ("[]", ".json", "list: an empty list"),
        ('{"labels": null}', ".json", "list: an empty list"),
        ("", ".jsonl", "list: an empty list"),
        (
            "file,label\na.png,cat,dog\n",
            ".csv",
            'list, line 2: 3 columns, not 2: put names that hold "," in quotes',
        ),
        ("label,file\ncat,a.png\ncat\n", ".csv", "list, line 3: names no file"),
        ('file,label\na.png,"cat\n', ".csv", "list, line 2: not readable as CSV"),
        ("[1,\n2", ".json", "list, line 2: not JSON"),
        ("[" * 100_000, ".json", "not JSON"),
        ('{"file": "a.png"}\n{"file"}\n', ".jsonl", "list, line 2: not JSON"),
        ("3", ".json", "list: holds no list: give ["),
        ("[3]", ".json", "list, entry 1: 3 is no file name"),
        ('[{"file": null}]', ".json", "list, entry 1: null is no file name"),
        ('[{"file": "  "}]', ".json", "is no file name"),
        ('[{"url": "a.png"}]', ".json", "list, entry 1: none of its keys (url) is file, path, image, file_name"),
        ('["a.png", ["b.png", [0, 1]]]', ".json", "entry 2: the label [0, 1] is neither a name nor an integer"),
        ('{"a.png": true}', ".json", "the label true is neither a name nor an integer"),
        ('{"a.png": 0.5}', ".json", "the label 0.5 is neither"),
        ('{"images": [], "annotations": []}', ".json", "entry 1: the label [] is neither"),
        ('{"file": "a.png", "label": {}}', ".jsonl", "list, line 1: the label {} is neither"),
    ],
)
def test_refusals_say_where(text: str, suffix: str, says: str) -> None:
    assert says in refused(text, suffix)


def test_text_that_is_not_utf_8() -> None:
    assert (
        refused("file,label\nä.png,cat\n".encode("cp1252")) == "list: not UTF-8 text (byte 11): save it as UTF-8"
    )
    assert "not UTF-8" in refused("file,label\n".encode("utf-16"))


@pytest.mark.parametrize(
    ("text", "suffix", "at"),
    [
        ("file,label\na.png,x\nb\0.png,y\n", ".csv", "line 3"),
        ('[["a.png", "x"], ["b\\u0000.png", "y"]]', ".json", "entry 2"),
        ('["\\ud800.png"]', ".json", "entry 1"),
        ('{"file": "a.png", "label": "\\udcff"}', ".jsonl", "line 1"),
    ],
)
def test_what_no_file_can_be_called(text: str, suffix: str, at: str) -> None:
    with pytest.raises(
        UserError, match=f"^a, {at}: a zero byte or half a character in file or label: take it out$"
    ):
        parse(text.encode(), suffix, "a")


def test_a_first_line_without_end() -> None:
    with pytest.raises(UserError, match=r"^a, line 2: 200,000 characters long: give a picture a line$"):
        parse(b"\n" + b"x" * 200_000, ".csv", "a")
