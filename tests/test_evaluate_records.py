"""What is kept of an evaluation: parts come back as they were, damage is noticed, keys are kept apart."""

import json

import numpy as np
import pytest

from ddpm.errors import UserError
from ddpm.evaluate.records import Records

KEY = {"checkpoint": "abc", "seed": 0}


def part(numbers):
    """Arrays that say whose they are."""
    numbers = np.asarray(numbers)
    return numbers, {"total": numbers / 7, "terms": np.outer(numbers, [1.0, 0.5]), "level": numbers[:, None] * 3}


@pytest.fixture
def records(tmp_path):
    made = Records(tmp_path / "out", "flowers-all", KEY)
    for numbers in ([0, 10, 20], [30, 40], [5]):
        made.add(*part(numbers))
    return made


def test_rows_come_back_bit_by_bit_in_the_order_asked_for(records):
    assert records.there() == {0, 5, 10, 20, 30, 40}
    numbers, expected = part([40, 5, 0, 20])
    found = Records(records.folder.parent, "flowers-all", KEY).read(numbers)  # another process
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert np.array_equal(found[name], values) and found[name].dtype == values.dtype


def test_a_picture_that_was_not_measured(records):
    with pytest.raises(KeyError, match="7"):
        records.read(np.array([0, 7]))


def test_nothing_is_there_before_the_first_part(tmp_path):
    made = Records(tmp_path, "x", KEY)
    assert made.there() == set() and not made.folder.exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "foreign"])
def test_a_damaged_part_counts_as_not_there(records, damage):
    path = sorted((records.folder / "parts").iterdir())[0]
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        at = data.index(np.float64(10 / 7).tobytes())  # a value: its checksum no longer fits
        data[at] ^= 1
    path.write_bytes({"cut": data[:-30], "empty": b"", "foreign": b"no archive", "flipped": data}[damage])
    if damage == "flipped":  # the numbers are whole; what was measured is only seen when it is read
        assert records.there() == {0, 5, 10, 20, 30, 40}
        with pytest.raises(KeyError):
            records.read(np.array([10]))
    assert records.there() == {5, 30, 40}
    records.add(*part([0, 10, 20]))
    assert records.there() == {0, 5, 10, 20, 30, 40}
    assert len(list((records.folder / "parts").iterdir())) == 3  # in the place of the damaged one
    assert np.array_equal(records.read(np.array([10]))["total"], [10 / 7])


def test_what_a_killed_write_left_is_no_part(records):
    (records.folder / "parts" / ".0000050-aa.npz.1.tmp").write_bytes(b"half")
    assert records.there() == {0, 5, 10, 20, 30, 40}


def test_of_a_picture_measured_twice_the_first_counts(records):
    numbers, arrays = part([20, 21])
    records.add(numbers, {**arrays, "total": arrays["total"] + 1})
    assert np.array_equal(records.read(np.array([20, 21]))["total"], [20 / 7, 22 / 7 + 6 / 7])


def test_batches_come_back_whole(records):
    found = {tuple(numbers): arrays["total"].tolist() for numbers, arrays in records.parts()}
    assert found == {tuple(n): (np.array(n) / 7).tolist() for n in ([0, 10, 20], [30, 40], [5])}


def test_other_settings_have_their_own_folder(records):
    other = Records(records.folder.parent, "flowers-all", {**KEY, "seed": 1})
    other.add(*part([0]))
    assert other.folder != records.folder and other.there() == {0}
    assert records.there() == {0, 5, 10, 20, 30, 40}
    same = Records(records.folder.parent, "flowers-all", dict(reversed(KEY.items())))
    assert same.folder == records.folder
    assert json.loads((records.folder / "key.json").read_text()) == KEY


@pytest.mark.parametrize("name", ["a/b: c", "../up", "花 x", "..."])
def test_any_name_makes_one_folder(tmp_path, name):
    made = Records(tmp_path / "out", name, KEY)
    made.add(*part([1]))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [made.folder.name]


def test_results_are_json_for_everybody(records):
    path = records.write_result("nll-6.json", {"mean": 3.5, "none": None})
    assert json.loads(path.read_text()) == {"mean": 3.5, "none": None} and path == records.path("nll-6.json")
    with pytest.raises(ValueError, match="JSON"):
        records.write_result("nll-6.json", {"mean": float("nan")})
    assert json.loads(path.read_text())["mean"] == 3.5


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*choose another --out"):
        Records(tmp_path / "file", "x", KEY).prepare()
    with pytest.raises(UserError, match=r"cannot be written .*choose another --out"):
        Records(tmp_path / "file", "x", KEY).add(*part([1]))
