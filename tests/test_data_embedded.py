from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.data import embedded, load, open_source

NAMES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")


def test_fashion(tmp_path: Path) -> None:
    assert embedded() == ("fashion",)
    source = open_source("fashion")
    assert (source.name, len(source), source.classes) == ("fashion", 10_000, NAMES)
    assert source.labels is not None
    assert np.bincount(source.labels).tolist() == [1000] * 10
    # The training set opens with an ankle boot, two tops, a dress: the labels file of Fashion-MNIST says so.
    assert source.labels[:5].tolist() == [9, 0, 0, 3, 0]
    pictures = load(source, (28, 28), 1, cache=tmp_path)
    assert pictures.pixels.shape == (10_000, 1, 28, 28)
    # The published mean of the training set is 0.2860.
    assert abs(pictures.pixels.mean() / 255 - 0.2860) < 0.002
    # Trousers are narrow, pullovers are not: the labels belong to the pictures.
    widths = [(pictures.pixels[source.labels == k].max(axis=(1, 2)) > 50).sum(axis=1).mean() for k in (1, 2)]
    assert widths[0] < 0.75 * widths[1]


def test_a_path_beats_an_embedded_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fashion").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "fashion" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert len(open_source("fashion")) == 1


def test_pictures_are_called_after_the_name() -> None:
    assert open_source("fashion").describe(3) == "fashion[3]"
