"""What a JSON file says: the key, the value and the rule of what is refused."""

from pathlib import Path

import pytest

from ddpm.convert.said import Said
from ddpm.errors import UserError

FILE = Path("folder/config.json")


def test_what_is_said_and_what_is_meant():
    said = Said(FILE, {"width": 8, "rate": 1}, {"width": 4, "depth": 2, "none": None})
    assert (said["width"], said["depth"], said["none"]) == (8, 2, None)
    assert said.whole("width") == 8 and said.number("rate") == 1.0 and said.says("rate")
    assert not said.says("depth")
    said.only("none", 3, None, rule="is three")


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "2", None, [2]])
def test_what_is_no_whole_number(value):
    with pytest.raises(UserError, match=r"^folder/config.json: width .*: is a positive whole number$"):
        Said(FILE, {"width": value}, {}).whole("width")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "2", None])
def test_what_is_no_number(value):
    with pytest.raises(UserError, match=r"^folder/config.json: rate .*: is a number$"):
        Said(FILE, {"rate": value}, {}).number("rate")


def test_one_is_not_true():
    with pytest.raises(UserError, match=r"^folder/config.json: flag true: is 1$"):
        Said(FILE, {"flag": True}, {}).only("flag", 1, rule="is 1")
