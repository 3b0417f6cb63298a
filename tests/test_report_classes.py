"""The page of a classifier: how often it is right, by noise, and nothing of pictures it cannot draw."""

import math

import numpy as np
import pytest

import tiny
from ddpm.data import load, open_source
from ddpm.errors import UserError
from ddpm.report import gather, publish_stopped, write
from ddpm.store import Description, Facts, Run
from ddpm.train import facts
from test_draw_page import Parsed

ZOO = Facts("zoo", 40, ("ant", "bee", "cat"), (0.5, 0.25, 0.25), "f" * 64)
SECTIONS = ["Data", "Model", "Curves", "By noise", "Speed", "Next"]


def classifier(folder, of=ZOO, **changes):
    return tiny.run(folder, of, train__task="classifier", optimizer__weight_decay=0.05, **changes)


def log(made, steps=range(1, 8)):
    for step in steps:
        line = {"step": step, "images": 6 * step, "loss": 1 / step, "accuracy": 0.1 * step, "lr": 1e-3}
        quarters = [0.1 * step, None, 0.05 * step, 0.25]
        made.log({**line, "accuracy_quarters": quarters, "gradient": 3.0, "pictures_per_second": 12.0})


def look(made, step, held_out, trained_on):
    each = ("held_out", held_out), ("trained_on", trained_on)
    line = {f"{name}_accuracy": float(np.mean(values)) for name, values in each}
    made.log({"step": step, **line, **{f"{name}_quarters": list(values) for name, values in each}})


def read(path):
    parsed = Parsed(path.read_text(encoding="utf-8"))
    assert len(parsed.all("section")) == len(SECTIONS)
    return parsed


def test_what_a_classifier_shows(tmp_path):
    data = load(open_source(tiny.photos(tmp_path / "pets", grey=True)), (8, 8), 1, cache=tmp_path / "cache")
    made = classifier(tmp_path / "run", facts(data), data__holdout="0.1")
    log(made)
    look(made, 4, (0.6, 0.6, 0.5, 0.4), (0.7, 0.6, 0.5, 0.4))
    look(made, 7, (0.875, 0.75, 0.625, 0.5), (0.9375, 0.75, 0.5, 0.4375))
    parsed = read(write(made, data, device="cpu"))
    titles = ("Cross-entropy", "How often it is right", "By quarter of the noise levels, in training")
    titles += ("By quarter of the noise levels, held out", "Length of the gradient", "Learning rate", "Pictures a")
    assert all(title in parsed.text for title in titles) and len(parsed.all("svg")) == len(titles)
    assert f"it would be {math.log(2):.2f}" in parsed.text  # cats and dogs, as many of either
    for shown in ("cleanest, t ≤ 10", "second, t ≤ 20", "third, t ≤ 30", "noisiest, t ≤ 40"):
        assert shown in parsed.text
    for shown in ("87.5%, trained on 93.8%", "50.0%, trained on 43.8%", "right on held-out pictures68.8%"):
        assert shown in parsed.text
    assert "A classifier of noisy pictures of pets" in parsed.text and "An encoder of" in parsed.text
    assert "cross-entropy −log p(y | xₜ)" in parsed.text and "Weight decay is 0.05." in parsed.text
    assert "Guide a model with it" in parsed.text and len(parsed.all("img")) == 20  # the contact sheet alone
    for absent in ("Samples", "squared error", "denoiser.", "loss.kind", "label_drop", "U-Net", "nearest"):
        assert absent not in parsed.text, absent
    assert not [a for a in parsed.all("p") if a.get("class") == "note"]


def test_without_held_out_pictures_the_training_s_are_shown(tmp_path):
    made = classifier(tmp_path / "run")
    log(made)
    parsed = read(write(made, None, device="cpu"))
    assert "70.0%" in parsed.text and "35.0%" in parsed.text and "second, t ≤" not in parsed.text
    assert "no pictures are held out" in parsed.text and "Hold some pictures out" in parsed.text
    assert "a guess50.0%" in parsed.text.replace("\n", "")
    # the surprise of (1/2, 1/4, 1/4): a bit and a half
    assert f"it would be {1.5 * math.log(2):.2f}" in parsed.text


def test_a_run_that_has_just_begun(tmp_path):
    made = Run.create(tmp_path / "new", Description(tiny.config(train__task="classifier"), ZOO))
    parsed = read(write(made, None, why="the data are elsewhere", device="cpu"))
    assert "Nothing has been logged yet" in parsed.text and parsed.text.count("Nothing has been measured yet") == 2
    assert not parsed.all("img")


def test_lines_that_lack_something(tmp_path):
    made = classifier(tmp_path / "run")
    made.log({"step": 2, "loss": float("nan"), "accuracy": "?", "accuracy_quarters": 3})
    made.log({"step": 4, "held_out_accuracy": 0.5, "held_out_quarters": [0.5]})
    parsed = read(write(made, None, device="cpu"))
    assert "cleanest, t ≤ 10" in parsed.text and "noisiest, t" not in parsed.text


def test_its_step_is_the_log_s_or_the_checkpoint_s(tmp_path):
    made = classifier(tmp_path / "run")
    assert gather(made, None).step == 7  # saved, and nothing logged
    log(made, range(1, 10))
    material = gather(made, None)
    assert material.step == 9 and material.pipeline is None and material.drawn is None
    log(made, (10, 11))
    assert "stopped" in Parsed(publish_stopped(material).read_text()).text
    with pytest.raises(UserError, match="holds no run"):
        gather(Run(tmp_path), None)
