"""Scores while training: what is logged, which checkpoint is kept, and that stopping changes nothing."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from scipy.linalg import sqrtm

import tiny
from ddpm.checking import check
from ddpm.commands.watch import describe
from ddpm.config import Config
from ddpm.data import Pictures
from ddpm.data import load as decoded
from ddpm.data.files import Part
from ddpm.data.opening import find
from ddpm.data.pictures import Cached
from ddpm.errors import UserError
from ddpm.evaluate import scorer as scoring
from ddpm.evaluate.features import open_features
from ddpm.evaluate.scorer import Scorer
from ddpm.events import Logged, Saved, Scored
from ddpm.loading import load
from ddpm.plan import spending
from ddpm.plan.decisions import Choices
from ddpm.plan.machine import Load, Measured
from ddpm.report.follow import Follower
from ddpm.store import Description, Run
from ddpm.train import facts, fit
from ddpm.trainer import Trainer


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
    assert "step 4, at 2; ddpm sample run/checkpoints/000000004" in out
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
    assert status == 2 and "--train.evaluate-features resnet: neither a file nor a net" in err
    assert not Path("runs").exists()  # the same command, mended, is not refused


# -- without the command line ----------------------------------------------------------------------------------

USUAL = {"train__evaluate_every": 2, "train__evaluate_samples": 4, "train__preview_every": 0, "train__keep": 1}


def going(folder, pictures=None, stop_after=None, **changes):
    """A training of eight steps with dropout and flips, from the newest checkpoint if there is one: its events."""
    if pictures is None:
        pixels = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8), dtype=np.uint8)
        pictures = Cached(pixels, np.arange(30) % 2, ("a", "b"), "noise", "f" * 64)
    settings = USUAL | {
        "train__steps": 8,
        "train__checkpoint_every": 4,
        "train__log_every": 1,
        "net__dropout": 0.2,
    }
    config = tiny.config(**settings | changes)
    description, run = Description(config, facts(pictures)), Run(folder)
    run = run if run.exists() else Run.create(folder, description)
    asked = iter(range(100))
    trainer = Trainer(config, pictures, Accelerator(cpu=True))
    yield from fit(
        trainer, run, description, run.newest()[0], lambda: stop_after is not None and next(asked) >= stop_after
    )


def checkpoints(folder):
    return sorted(int(path.name) for path in (Path(folder) / "checkpoints").iterdir())


def tensors(folder):
    """Every tensor of the newest checkpoint."""
    newest = Run(folder).newest()[0]
    parts = [path.stem for path in sorted(newest.folder.glob("*.safetensors"))]
    return {f"{part}/{name}": value for part in parts for name, value in newest.tensors(part).items()}


def told(folder):
    """The log but for the time it took."""
    timed = ("pictures_per_second", "seconds")
    return [{k: v for k, v in record.items() if k not in timed} for record in Run(folder).records()]


def test_training_is_the_same_with_scores_and_without():
    list(going("with"))
    list(going("without", train__evaluate_every=0))
    ours, others = tensors("with"), tensors("without")
    assert ours.keys() == others.keys() and all(torch.equal(ours[name], others[name]) for name in ours)
    assert [record for record in told("with") if "fid" not in record] == told("without")
    assert checkpoints("without") == [8] and "best" not in Run("without").newest()[0].state


@pytest.mark.parametrize("after", [False, True])
def test_killed_between_a_score_and_what_follows_it(monkeypatch, after):
    """While the checkpoint of the best is written, or when it is and older ones are not yet removed."""
    scores, best = {2: 3.0, 4: 2.0, 6: 1.0, 8: 5.0}, 6
    monkeypatch.setattr(Scorer, "score", lambda self, pipeline: scores[pipeline.description.step])
    list(going("whole"))
    save = Run.save

    def killed(self, description, *arguments, **rule):
        if description.step != best or (self.folder / "died").exists():
            return save(self, description, *arguments, **rule)
        (self.folder / "died").touch()
        if after:
            save(self, description, *arguments, keep=100)
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        list(going("parts"))
    # It is written beside the training, which may be a step further by then.
    assert any(line["step"] == best and "fid" in line for line in told("parts"))
    list(going("parts"))
    assert told("parts") == told("whole") and checkpoints("parts") == checkpoints("whole") == [best, 8]
    ours, others = tensors("parts"), tensors("whole")
    assert all(torch.equal(ours[name], others[name]) for name in others)
    states = [Run(name).newest()[0].state["best"] for name in ("parts", "whole")]
    assert states[0] == states[1]


def test_the_best_outlives_stops_and_is_not_thinned_by_what_comes_after(monkeypatch):
    left = scripted(monkeypatch, [3.0, 1.0, 2.0, 1.5])
    for _ in range(2):  # after step 3, and after step 6
        assert not list(going("run", stop_after=3))[-1].complete
    assert checkpoints("run") == [4, 6] and Run("run").newest()[0].state["best"]["step"] == 4
    events = list(going("run"))
    assert events[-1].complete and not left and checkpoints("run") == [4, 8]
    assert [(event.step, event.best) for event in events if isinstance(event, Scored)] == [(8, False)]


def test_keep_counts_the_newest_besides_the_best(monkeypatch):
    scripted(monkeypatch, [1.0, 2.0, 3.0, 4.0])
    list(going("run", train__keep=2, train__checkpoint_every=1))
    assert checkpoints("run") == [2, 7, 8]


def test_the_last_step_is_scored_and_the_best_saved_before_the_next_step(monkeypatch):
    scripted(monkeypatch, [2.0, 1.0])
    events = list(going("run", train__steps=5, train__evaluate_every=4, train__checkpoint_every=100))
    seen = [(type(event), event.step) for event in events if isinstance(event, (Scored, Saved))]
    assert seen == [(Scored, 4), (Saved, 4), (Scored, 5), (Saved, 5)]
    assert checkpoints("run") == [5]  # the older best is no longer kept


def test_the_time_of_scores_is_left_out_of_the_speed(monkeypatch):
    """Of eight steps scored after each, 0.5 s a time, no line may hold a score: 0.5 s are 12 pictures a second."""
    monkeypatch.setattr(Scorer, "score", lambda self, pipeline: time.sleep(0.5) or 1.0)
    clock = {"now": 0.0}
    monkeypatch.setattr(time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.update(now=clock["now"] + seconds))
    step = Trainer.step

    def timed(self, k, stop):
        time.sleep(0.25)
        return step(self, k, stop)

    monkeypatch.setattr(Trainer, "step", timed)
    events = list(going("run", train__evaluate_every=1, train__log_every=2))
    speeds = [event.pictures_per_second for event in events if isinstance(event, Logged)]
    assert speeds == [pytest.approx(6 / 0.25)] * 4


def test_streamed_pictures_are_scored_as_decoded_ones_are():
    tiny.photos(Path("photos"), 20, grey=True)
    source = find("photos", "auto").open(Part())
    for keep in ("always", "never"):
        list(going(keep, decoded(source, (8, 8), 1, keep=keep)))
    ours, others = ([r["fid"] for r in told(keep) if "fid" in r] for keep in ("always", "never"))
    assert ours == others and len(ours) == 4


def test_who_follows_is_told_the_same_scores(monkeypatch):
    scripted(monkeypatch, [3.0, 1.0, 2.0, 0.5])
    training, events = going("run"), []
    events.append(next(training))
    follower = Follower(Run("run"))
    follower.news()
    events += training
    scored = [event for event in events if isinstance(event, Scored)]
    assert [event for event in follower.news() if isinstance(event, Scored)] == scored
    assert [event.best for event in scored] == [True, True, False, True]
    assert describe(scored[1], 8) == (
        "4 samples: Fréchet distance 1 in random features, the best so far: its checkpoint is kept"
    )
    assert describe(scored[2], 8) == "4 samples: Fréchet distance 2 in random features"


def test_the_features_of_the_pictures_are_taken_once(monkeypatch):
    taken, rows = [], Cached.rows
    monkeypatch.setattr(
        Cached, "rows", lambda self, index, place: taken.append(len(index)) or rows(self, index, place)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (300, 1, 8, 8), dtype=np.uint8)
    pictures = Cached(pixels, None, (), "noise", "e" * 64)
    scorer = Scorer(pictures, 4, "random", torch.device("cpu"))
    model = Trainer(tiny.config(), pictures, Accelerator(cpu=True)).pipelines(
        Description(tiny.config(), facts(pictures)), "noise"
    )[0]
    first = scorer.score(model)
    assert taken == [16, 256, 44]  # a glance for the cache's key, then all
    assert scorer.score(model) == first and taken == [16, 256, 44]
    again = Scorer(pictures, 4, "random", torch.device("cpu"))  # as after a resume: from the cache
    assert again.score(model) == first and taken == [16, 256, 44, 16]
    shutil.rmtree("cache")
    assert Scorer(pictures, 4, "random", torch.device("cpu")).score(model) == first


@pytest.mark.parametrize("field, value", [("evaluate_every", -1), ("evaluate_samples", 1)])
def test_numbers_of_scores_that_there_are_none_of(field, value):
    option = f"--train.{field.replace('_', '-')} {value}: "
    with pytest.raises(UserError, match=option):
        check(Config().with_(**{f"train__{field}": value}))


def test_a_budget_pays_for_scores(monkeypatch):
    """300 pictures of 20 evaluations, a third of a step of six pictures each: 333 s every 100 steps of 1 s."""
    monkeypatch.setattr(spending, "measure", lambda *arguments: Measured(1.0, 1))
    monkeypatch.setattr(spending, "count", lambda config, classes: Load(1000, 1000, 1000))
    monkeypatch.setattr(spending, "_look_seconds", lambda *arguments: 0.0)
    pictures: Pictures = Cached(np.zeros((5000, 1, 8, 8), np.uint8), None, (), "blank", "f" * 64)
    asked = {"train.evaluate_every": 100, "train.evaluate_samples": 300, "train.preview_every": 0}
    made = spending.plan(Choices(tiny.config(), asked), pictures, Accelerator(cpu=True), Path("run"), 10_000.0)
    assert made.config.train.steps == pytest.approx(9500 / (1 + 1000 / 3 / 100), rel=0.01)
    assert made.expected.seconds == pytest.approx(9500, rel=0.04)
    (why,) = [decision.why for decision in made.decisions if decision.what == "time"]
    assert "22 scores of about 6 min" in why
