"""Scores while training: what is logged, which checkpoint is kept, and that stopping changes nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import sqrtm

import tiny
from ddpm.checking import check
from ddpm.config import Config
from ddpm.data import load as decoded
from ddpm.data.files import Part
from ddpm.data.opening import find
from ddpm.errors import UserError
from ddpm.evaluate import scorer as scoring
from ddpm.evaluate.features import open_features
from ddpm.evaluate.scorer import Scorer
from ddpm.loading import load
from ddpm.store import Run


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def scripted(monkeypatch, values):
    """Scores as they are written down, in place of those that are drawn."""
    left = list(values)
    monkeypatch.setattr(Scorer, "score", lambda self, pipeline: left.pop(0))
    return left


def train(call, *options):
    tiny.photos(Path("photos"), 12, (16, 16), grey=True)
    arguments = ["photos", "--size", 8, "--batch", 4, "--device", "cpu", "--out", "run", *tiny.NET]
    status, out, err = call("train", *arguments, "--train.evaluate-samples", 6, *options)
    assert status == 0, err
    return out


def logged():
    return [record for record in Run(Path("run")).records() if "fid" in record]


def steps_kept():
    return sorted(int(path.name) for path in Path("run/checkpoints").iterdir())


def test_the_best_checkpoint_is_kept_while_others_are_thinned(call, monkeypatch):
    scripted(monkeypatch, [5.0, 2.0, 3.0, 4.0, 2.5, 2.0])
    out = train(call, "--steps", 12, "--train.evaluate-every", 2, "--checkpoint-every", 2, "--train.keep", 1)
    assert [(record["step"], record["fid"]) for record in logged()] == [
        (2, 5.0), (4, 2.0), (6, 3.0), (8, 4.0), (10, 2.5), (12, 2.0)
    ]  # fmt: skip
    assert steps_kept() == [4, 12]  # of two as good the first
    assert "step 4, ddpm sample run/checkpoints/000000004" in out
    state = json.loads(Path("run/checkpoints/000000012/state.json").read_text())
    assert state["best"] == {"step": 4, "fid": 2.0}
    assert load("run/checkpoints/000000004", "cpu").description.step == 4


def test_a_new_best_is_saved_at_once_and_the_old_one_goes(call, monkeypatch):
    scripted(monkeypatch, [5.0, 4.0, 3.0, 9.0])
    out = train(call, "--steps", 8, "--train.evaluate-every", 2, "--checkpoint-every", 8, "--train.keep", 1)
    assert steps_kept() == [6, 8]
    assert out.count("the best so far: its checkpoint is kept") == 3


def test_what_is_drawn_is_scored(call):
    """Of the run's last averages the same score comes out, by the pieces it is made of."""
    train(call, "--steps", 4, "--train.evaluate-every", 4)
    (record,) = logged()
    assert record["samples"] == 6 and record["features"] == "random" and record["step"] == 4
    model = load("run", "cpu")
    net = open_features("random")
    pictures = decoded(find("photos", "auto").open(Part()), (8, 8), 1)
    drawn = net(model.sample(6, seed=scoring.SEED).pixels).pooled.double().numpy()
    real = net(pictures.rows(np.arange(12), None)[0]).pooled.double().numpy()
    covs = [np.cov(x, rowvar=False) for x in (drawn, real)]
    root = np.trace(sqrtm(covs[0] @ covs[1]).real)
    expected = ((drawn.mean(0) - real.mean(0)) ** 2).sum() + np.trace(covs[0]) + np.trace(covs[1]) - 2 * root
    assert record["fid"] == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("task", ["classifier", "upsampler"])
def test_only_models_that_draw_by_themselves(task):
    config = Config().with_(train__task=task, train__evaluate_every=5)
    with pytest.raises(UserError, match=r"--train\.evaluate-every 5: scores what a model draws by itself"):
        check(config)


def test_a_net_there_is_not(call):
    tiny.photos(Path("photos"), 12, (16, 16), grey=True)
    arguments = ["photos", "--size", 8, "--batch", 4, "--steps", 2, "--device", "cpu", *tiny.NET]
    options = ["--train.evaluate-every", 2, "--train.evaluate-features", "resnet"]
    status, _, err = call("train", *arguments, *options)
    assert status == 2 and "--features resnet: neither a file nor a net" in err and err.count("\n") >= 1
