"""The classes that can be asked for; how they are drawn and named is tested with sampling, in test_pipeline.py."""

import numpy as np
import pytest
import torch

from ddpm.classes import Classes, places
from ddpm.errors import UserError

PETS = Classes("pets", ("dogs", "cats", "0"), (0.2, 0.3, 0.5))


@pytest.mark.parametrize("label, number", [("cats", 1), ("1", 1), (1, 1), ("0", 2), (0, 2), (2, 2)])
def test_a_name_beats_a_number(label, number):
    assert PETS.number(label) == number and PETS.one(label).tolist() == [number]


@pytest.mark.parametrize("given", [["dogs", 1], np.array([1, 1]), torch.tensor([1, 2])])
def test_one_for_each_picture(given):
    assert PETS.labels(2, 5, 0, given).tolist() == [PETS.number(_plain(one)) for one in given]
    with pytest.raises(UserError, match="label: 2 labels for 3 pictures; give one, or one for each"):
        PETS.labels(3, 0, 0, given)


def _plain(label):
    return label if isinstance(label, str) else int(label)


def test_without_classes():
    none = Classes("plain", ())
    assert none.labels(3, 0, 0) is None and none.one(None) is None
    with pytest.raises(UserError, match="--class cat: plain was trained without classes"):
        none.one("cat")


def test_the_one_class_is_never_drawn():
    with pytest.raises(UserError, match="--class: pets draws by class; give that of the picture, or another"):
        PETS.one(None)


def test_without_frequencies_all_are_as_frequent():
    drawn = Classes("pets", ("a", "b", "c", "d")).labels(4000, 0, 1)
    counts = torch.bincount(drawn, minlength=4)
    assert (counts - 1000).abs().max() < 4 * np.sqrt(4000 * 0.25 * 0.75)


def test_places_go_by_name_or_by_number_where_there_are_no_names():
    assert places(("cat", "ant", "dog"), ("ant", "bee", "cat")) == [2, 0, None]
    assert places(("0", "1"), ("ant", "bee")) == [0, 1] == places(("ant", "bee"), ("0", "1"))
    assert places(("0", "1"), ("ant", "bee", "cat")) == [None, None]
    assert places(("1", "0"), ("0", "1")) == [1, 0]
    assert places((), ("ant",)) == []
