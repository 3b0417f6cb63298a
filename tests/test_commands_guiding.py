"""The options of guidance: what `ddpm sample` makes of them and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddpm
import tiny
from ddpm.guide import Guide
from ddpm.store import Facts

FEW = replace(tiny.ANIMALS, classes=("ant", "cat"), frequencies=(0.5, 0.5))


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    tiny.run(runs / "zoo", train__label_drop=0.1)
    tiny.run(runs / "kept")
    tiny.run(runs / "plain", Facts("zoo", 10))
    tiny.run(runs / "judge", train__task="classifier")
    return tmp_path


def drawn(folder: str) -> tuple[dict, np.ndarray]:
    """The record, and the single pictures as they were written."""
    record = json.loads((Path(folder) / "samples.json").read_text())
    pictures = [np.asarray(Image.open(path)) for path in sorted((Path(folder) / "pictures").iterdir())]
    return record, np.stack(pictures)


def sample(call, model: str, *options, out: str = "here"):
    status, _, err = call("sample", f"runs/{model}", "-n", 3, "--steps", 4, "--no-film", "--out", out, *options)
    assert status == 0, err
    return drawn(out)


def test_classifier_free(call):
    plain, before = sample(call, "zoo", "--class", "cat")
    record, after = sample(call, "zoo", "--class", "cat", "--cfg-scale", 3, "--cfg-interval", 5, 35, out="guided")
    assert not any("cfg" in key or "classifier" in key for key in plain)
    assert record["cfg_scale"] == 3.0 and record["cfg_interval"] == [5, 35]
    guide = Guide(3.0, (5, 35))
    expected = ddpm.load("runs/zoo", "cpu").sample(3, steps=4, label="cat", guide=guide).pixels[:, 0]
    assert np.array_equal(after, expected) and (before != after).mean() > 0.1


def test_by_a_classifier(call):
    """Its scale is 1 unless given; the model's own classes are not needed."""
    options = ["--classifier", "runs/judge", "--class", "bee"]
    for model in ("zoo", "plain"):
        record, pixels = sample(call, model, *options)
        assert (record["classifier"], record["classifier_scale"]) == ("judge", 1.0)
        again, same = sample(call, model, *options, "--classifier-scale", 1, out="again")
        assert record == again and np.array_equal(pixels, same)
        strong, other = sample(call, model, *options, "--classifier-scale", 20, out="strong")
        assert strong["classifier_scale"] == 20.0 and (other != pixels).any()


def test_off(call):
    """A classifier that counts 0 times is not even opened."""
    expected, pixels = sample(call, "zoo")
    for off in (
        ["--cfg-scale", 1],
        ["--classifier", "runs/judge", "--classifier-scale", 0],
        ["--classifier", "runs/nowhere", "--classifier-scale", 0],
        ["--classifier-scale", 0],
    ):
        record, same = sample(call, "zoo", *off, out="off")
        assert record == expected and np.array_equal(pixels, same)


def test_both_at_once(call):
    record, _ = sample(call, "zoo", "--cfg-scale", 2, "--classifier", "runs/judge", "--classifier-scale", 0.5)
    assert (record["cfg_scale"], record["classifier"], record["classifier_scale"]) == (2.0, "judge", 0.5)


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("zoo", ["--cfg-scale", -1], "--cfg-scale -1: is 0 or more"),
        ("zoo", ["--cfg-scale", "nan"], "--cfg-scale nan: is 0 or more"),
        ("zoo", ["--cfg-scale", "inf"], "--cfg-scale inf: is 0 or more"),
        ("zoo", ["--classifier", "runs/judge", "--classifier-scale", -2], "--classifier-scale -2: is 0 or more"),
        ("zoo", ["--classifier-scale", 2], "--classifier-scale 2: say which classifier, with --classifier RUN"),
        ("zoo", ["--cfg-interval", 2, 9], "--cfg-interval: belongs to --cfg-scale, which is off"),
        ("zoo", ["--cfg-scale", 2, "--cfg-interval", 9, 2], "--cfg-interval 9 2: takes two levels, from 1 to 40"),
        ("zoo", ["--cfg-scale", 2, "--cfg-interval", 0, 2], "--cfg-interval 0 2: takes two levels, from 1 to 40"),
        (
            "zoo",
            ["--cfg-scale", 2, "--cfg-interval", 2, 41],
            "--cfg-interval 2 41: takes two levels, from 1 to 40",
        ),
        ("plain", ["--cfg-scale", 2], "--cfg-scale 2: plain was trained without classes; leave it out"),
        ("kept", ["--cfg-scale", 2], "--cfg-scale 2: kept was trained with a label on every picture and cannot"),
        (
            "zoo",
            ["--classifier", "runs/kept"],
            "--classifier runs/kept: is a model of pictures; train a classifier",
        ),
        (
            "zoo",
            ["--classifier", "runs/jugde"],
            "runs/jugde: there is no such file, folder or embedded model; did",
        ),
        (
            "zoo",
            ["--classifier", "runs/judge", "--size", 16],
            "--classifier judge: knows pictures of 8 x 8 with 1",
        ),
        (
            "zoo",
            ["--classifier", "runs/few"],
            "--classifier few: does not know the class bee of zoo; it knows ant",
        ),
        ("plain", ["--classifier", "runs/judge", "--class", "cow"], "--class cow: no such class; there are 0 ant"),
        ("plain", ["--class", "ant"], "--class ant: plain was trained without classes"),
        ("judge", [], "judge: is a classifier, which guides a model of pictures: ddpm sample MODEL --classifier"),
    ],
)
def test_what_is_said_to_a_mistake(call, workplace, model, options, said):
    if "runs/few" in options:
        tiny.run(workplace / "runs" / "few", FEW, train__task="classifier")
    status, _, err = call("sample", f"runs/{model}", "-n", 1, "--steps", 2, "--out", "here", *options)
    assert status == 2 and err.startswith("ddpm: ") and err.count("\n") == 1 and said in err
    assert not Path("here").exists()


def test_help(call):
    status, out, _ = call("sample", "--help")
    options = ("--cfg-scale S", "--cfg-interval T T", "--classifier RUN", "--classifier-scale S")
    assert status == 0 and all(option in out for option in options)
