"""grids.json: what is written is read again, and whatever else the file may hold is named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ddpm.errors import UserError
from ddpm.grids import Grid, Grids, choose_grid, read_grids, write_grids

GRIDS = Grids(
    40,
    tuple(Grid((*range(1, k), 40), 5.0 - k / 10, 6.0) for k in (1, 2, 3, 5, 8, 9)),
    variance="learned_range",
    pictures=12,
    seed=3,
    model="zoo",
    checkpoint="0123456789abcdef",
    weights="ema",
    data="zoo",
    fingerprint="f" * 64,
)


@pytest.fixture
def file(tmp_path):
    write_grids(tmp_path / "grids.json", GRIDS)
    return tmp_path / "grids.json"


def test_what_is_written_is_read(file):
    assert read_grids(file) == GRIDS
    values = json.loads(file.read_text())
    assert values["grids"][1] == {"levels": [1, 40], "bits": 4.8, "even": 6.0}
    assert values["checkpoint"] == GRIDS.checkpoint and values["pictures"] == 12
    lines = [line for line in file.read_text().splitlines() if '"levels"' in line]
    assert len(lines) == len(GRIDS.grids)  # a line a grid, to be read by people too


def test_a_grid_by_its_number_of_steps():
    assert GRIDS.grid(3).levels == (1, 2, 40)
    with pytest.raises(
        UserError, match="--steps 4: no grid of so many steps was fitted; there are those of 1 to 3, 5"
    ):
        GRIDS.grid(4)
    with pytest.raises(UserError, match=r"1 to 3, 5, 8, 9$"):
        GRIDS.grid(0)


def changed(values):
    grid = dict(values["grids"][2])
    yield "no JSON", "{", "damaged, not JSON"
    yield "a list", [], "holds no fitted grids"
    yield "another file", {"format": "ddpm/1"}, "holds no fitted grids"
    yield "something missing", {key: values[key] for key in ("format", "T", "grids")}, "settings are missing"
    yield "something new", {**values, "steps": 1}, "steps: no such setting"
    yield "a wrong type", {**values, "T": "forty"}, "T: holds 'forty'"
    for levels in ([], [1, 1, 40], [2, 1, 40], [0, 1, 40], [1, 2, 39], [1, 2, 41]):
        yield str(levels), {**values, "grids": [{**grid, "levels": levels}]}, "do not rise from 1 or above to 40"


def test_what_is_no_file_of_grids(file, tmp_path):
    with pytest.raises(UserError, match="missing"):
        read_grids(tmp_path / "none.json")
    for what, values, message in changed(json.loads(file.read_text())):
        file.write_text(values if isinstance(values, str) else json.dumps(values))
        with pytest.raises(UserError, match=message) as error:
            read_grids(file)
        assert str(error.value).startswith(str(file)), what


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write_grids(tmp_path / "none" / "grids.json", GRIDS)


def test_which_grids_are_taken(file, tmp_path):
    own = tmp_path / "zoo" / "grids.json"
    assert choose_grid(file, None, "zoo", 40) == (GRIDS, file) == choose_grid(str(file), own, "zoo", 40)
    with pytest.raises(
        UserError, match=r"--grid fitted: zoo is no run; name a grids.json, which `ddpm evaluate MODEL"
    ):
        choose_grid("fitted", None, "zoo", 40)
    with pytest.raises(
        UserError, match=r"zoo has no fitted grids yet; `ddpm evaluate .* --metrics grid` makes them"
    ):
        choose_grid("fitted", own, "zoo", 40)
    with pytest.raises(UserError, match=r"--grid log: takes uniform, .*, fitted, or the path of a grids\.json"):
        choose_grid("log", own, "zoo", 40)
    with pytest.raises(UserError, match="--respace log:3: takes"):
        choose_grid("log", own, "zoo", 40, "--respace log:3")
    with pytest.raises(UserError, match="its grids are of 40 levels, and zoo has 50"):
        choose_grid(file, own, "zoo", 50)
    own.parent.mkdir()
    write_grids(own, replace(GRIDS, seed=7))
    assert choose_grid("fitted", own, "zoo", 40) == (replace(GRIDS, seed=7), own)


def test_what_grids_were_fitted_to():
    path = Path("g.json")
    assert GRIDS.differences(path, GRIDS.checkpoint, "learned_range") == []
    (note,) = GRIDS.differences(path, "f" * 16, "learned_range")
    assert "another checkpoint (zoo, 0123456789abcdef)" in note and note.startswith("g.json: ")
    (note,) = GRIDS.differences(path, GRIDS.checkpoint, "large")
    assert "fitted with variance learned_range, the model has large" in note
    assert replace(GRIDS, checkpoint="").differences(path, "f" * 16, "learned_range") == []  # not known
