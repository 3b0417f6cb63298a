"""A classifier from the command line: trained, looked at, guiding; what is refused before anything is spent."""

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from ddpm.store import Facts, Run

GARMENTS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")
FEW = ["--net.channels", 8, "--net.multipliers", 1, 2, "--steps", 4, "--batch", 6, "--device", "cpu"]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Photos of cats and dogs, garments of the embedded model's classes, and photos of nothing."""
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny.photos(tmp_path / "photos", 24, grey=True)
    shutil.copytree(tmp_path / "photos/cats", tmp_path / "plain")
    for i, name in enumerate(2 * GARMENTS):
        (tmp_path / "garments" / name).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (28, 28), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "garments" / name / f"{i}.png")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_trained_it_says_how_often_it_is_right(call):
    status, out, err = call(
        *("train", "photos", "--task", "classifier", *FEW, "--holdout", 0.2, "--out", "c", "--checkpoint-every", 2)
    )
    assert status == 0, err
    plan = {line.split("  ")[0]: " ".join(line.split()) for line in out.splitlines() if "  " in line}
    assert plan["task"] == "task classifier of 2 classes asked for"
    assert plan["weight decay"].startswith("weight decay 0.05")
    assert plan["accuracy"].startswith("accuracy every checkpoint on held-out pictures and on as many")
    assert not {"target", "previews", "loss"} & set(plan)
    lines = out.splitlines()
    assert sum(line.startswith("held-out pictures: accuracy ") for line in lines) == 2
    assert "could not be written" not in out
    assert lines[-1].endswith("guide a model of these classes with: ddpm sample MODEL --classifier c")
    config = Run("c").description().config
    assert config.train.task == "classifier" and config.net.style == "openai" and config.net.resample == "block"
    assert not Path("c/samples").exists()
    page = Path("c/report.html").read_text(encoding="utf-8")
    assert "What it knows at each level of noise" in page and "badge complete" in page

    status, out, _ = call("info", "c")
    assert status == 0 and "parameters, a classifier of noisy pictures" in out and "right about" in out
    assert "--train.task" in out and "--loss.times" in out
    for absent in ("--denoiser.", "--loss.kind", "--train.label-drop", "--data.low-size"):
        assert absent not in out
    assert "denoiser" in call("info", "c", "--yaml")[1]  # a file says everything

    status, out, _ = call("check", "c")
    facts = {name: " ".join(rest) for name, *rest in (line.split() for line in out.splitlines() if line)}
    assert status == 0 and facts["accuracy"].endswith("at the start") and "cross-entropy" in facts["loss"]
    assert "held out" in out and "; the highest " in out and "--classifier c --classifier-scale 1" in out

    status, out, _ = call("train", "--resume", "--out", "c")
    assert status == 0 and "complete at step 4; guide a model" in out

    # a run's own config trains another one like it
    status, _, err = call("train", "photos", "--config", "c/config.json", "--out", "again", "--holdout", 0.2)
    assert status == 0, err
    again, before = (Run(name).description().config for name in ("again", "c"))
    assert again.net == before.net and again.train.task == "classifier"

    for command in (["sample", "c"], ["evaluate", "c", "--reference", "photos"], ["interpolate", "c", "x", "y"]):
        status, _, err = call(*command, "--device", "cpu")
        assert status == 2 and "is a classifier, which guides a model of pictures: ddpm sample MODEL" in err


def test_it_guides_the_embedded_model(call):
    status, _, err = call("train", "garments", "--task", "classifier", *FEW, "--out", "g")
    assert status == 0, err
    assert Run("g").description().config.chain.schedule == "cosine"
    drawn = []
    for scale in (0, 2):
        where = f"drawn{scale}"
        status, _, err = call(
            *("sample", "fashion", "-n", 2, "--sampler", "ddim", "--steps", 3, "--class", "bag", "--out", where),
            *("--classifier", "g", "--classifier-scale", scale, "--device", "cpu"),
        )
        assert status == 0, err
        drawn.append(sorted(Path(where).rglob("*.png"))[0].read_bytes())
    assert drawn[0] != drawn[1]
    status, _, err = call("sample", "fashion", "--classifier", "fashion", "--device", "cpu")
    assert status == 2 and "--classifier fashion: is a model of pictures; train a classifier with" in err


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (
            "plain",
            [],
            "--task classifier: these pictures have no classes; give a folder with a sub-folder for each",
        ),
        ("photos", ["--labels", "none"], "--labels none: a classifier learns classes; leave it out"),
        ("photos", ["--label-drop", 0.1], "--label-drop 0.1: is of models of pictures"),
        ("photos", ["--loss.kind", "hybrid"], "--loss.kind hybrid: is of models of pictures"),
        ("photos", ["--denoiser.predicts", "v"], "--denoiser.predicts v: is of models of pictures"),
        ("photos", ["--size", 9], "must be multiples of 2; the nearest are 8 × 8 and 10 × 10"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_measured(call, data, options, message):
    status, out, err = call("train", data, "--task", "classifier", *FEW, *options, "--out", "no")
    assert status == 2 and message in err and "measuring" not in out and not Run("no").exists()


def test_a_check_of_data_says_what_a_classifier_would_be(call):
    status, out, err = call("check", "photos", "--task", "classifier", *FEW)
    assert status == 0, err
    assert "classifier of 2 classes" in out and "ADM's encoder" in out
    status, out, err = call("check", "plain", "--task", "classifier", *FEW)
    assert status == 2 and "these pictures have no classes" in err


def test_a_classifier_starts_from_another_or_from_a_model_of_pictures(call):
    assert call("train", "photos", "--task", "classifier", *FEW, "--out", "c")[0] == 0
    few = ["--steps", 2, "--batch", 4, "--device", "cpu"]
    status, out, err = call("train", "photos", "--init-from", "c", *few, "--out", "tuned")
    assert status == 0, err
    assert "starts from the weights of c: net, chain and channels are its own" in out
    tuned = Run("tuned").description().config
    assert tuned.train.task == "classifier" and tuned.net == Run("c").description().config.net
    tiny.run(Path("zoo"), Facts("zoo", 10, ("cats", "cows"), (0.5, 0.5), "f" * 64))
    status, out, err = call("train", "photos", "--task", "classifier", "--init-from", "zoo", *few, "--out", "half")
    assert status == 0, err
    assert "starts from the way down of zoo" in out and "its way up is left out" in out
    for options, message in (
        (["--task", "image", "--init-from", "c"], "--task image: c was trained with --task classifier"),
        (["--size", 16, "--init-from", "c"], "--size 16 16: c was trained with 8 8"),
        (["--task", "upsampler", "--init-from", "zoo"], "--task upsampler: zoo was trained with --task image"),
    ):
        status, _, err = call("train", "photos", *options, *few, "--out", "no")
        assert status == 2 and message in err and not Run("no").exists()


def test_labels_are_left_out_of_a_model_that_knew_them_all(call):
    tiny.run(Path("zoo"), Facts("zoo", 10, ("cats", "dogs"), (0.5, 0.5), "f" * 64))
    few = ["--steps", 2, "--batch", 4, "--device", "cpu", "--train.preview-every", 0]
    status, out, err = call("train", "photos", "--init-from", "zoo", "--label-drop", 0.15, *few, "--out", "free")
    assert status == 0, err
    assert "labels left out of 15 %: asked for" in Run("free").description().plan
    assert "without one it starts as with the mean of its classes" in out
    assert (
        call("sample", "free", "-n", 1, "--cfg-scale", 2, "--class", "cats", "--steps", 2, "--device", "cpu")[0]
        == 0
    )
