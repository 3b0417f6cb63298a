"""A classifier's training: what a step computes, how it is measured, and that stopping changes nothing."""

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from ddpm.config import ChainConfig, Config, DataConfig, NetConfig, OptimizerConfig, TrainConfig
from ddpm.data import load, open_source
from ddpm.errors import UserError
from ddpm.events import Ended, Evaluated, Logged, Previewed, Saved
from ddpm.heldout import HELD_OUT, held_out_error
from ddpm.noise import Purpose, normals
from ddpm.store import Description, Run
from ddpm.train import facts, fit
from ddpm.trainer import Trainer, check_classes


def tiny(**changes) -> Config:
    config = Config(
        DataConfig(("stripes",), (8, 8), 1, flip=True),
        NetConfig(8, (1, 2), 1, (1,), dropout=0.3, groups=4, style="openai", scale_shift=True, resample="block"),
        ChainConfig("cosine", 40),
        optimizer=OptimizerConfig(lr=2e-3, warmup=3, decay="cosine", weight_decay=0.05, ema=0.9),
        train=TrainConfig(task="classifier", steps=12, batch=6, log_every=4, checkpoint_every=5, preview_every=0),
    )
    return config.with_(**changes)


def stripes(folder, count=40, upright=0.5, seed=0):
    """Pictures of upright stripes, so large a share of them, class 0, and of level ones, class 1."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 10 >= round(10 * upright)).astype(np.int64)
    images = np.zeros((count, 8, 8), np.uint8)
    for one, label in zip(images, labels, strict=True):
        lines = (np.arange(8) + rng.integers(4)) % 4 < 2
        one[:] = np.where(lines[:, None] if label else lines[None, :], 220, 30)
    np.savez(folder / f"{seed}.npz", images=images, labels=labels)
    return load(open_source(folder / f"{seed}.npz"), (8, 8), 1, cache=folder / "cache")


@pytest.fixture
def pictures(tmp_path):
    return stripes(tmp_path)


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def train(config, pictures, folder, held_out=None, stop_after=None):
    """Runs a training, from the folder's newest checkpoint if there is one; returns its events and run."""
    run, description = Run(folder), Description(config, facts(pictures, held_out))
    if not run.exists():
        run = Run.create(folder, description)
    count = 0

    def stop():
        nonlocal count
        count += 1
        return stop_after is not None and count > stop_after

    trainer = Trainer(config, pictures, Accelerator(cpu=True), held_out)
    return list(fit(trainer, run, description, run.newest()[0], stop)), run


def told(run):
    """The log but for the time it took."""
    timed = ("pictures_per_second", "seconds")
    return [{k: v for k, v in record.items() if k not in timed} for record in run.records()]


def files(run):
    return {p.name: p.read_bytes() for p in sorted(run.newest()[0].folder.glob("*.safetensors"))}


def test_a_step_is_the_cross_entropy_of_noisy_pictures(pictures, accelerator):
    """Noised with the cosine schedule's own formula; softmax and logarithm in numpy."""
    config = tiny(net__dropout=0.0)
    trainer, reference = (Trainer(config, pictures, accelerator) for _ in range(2))
    terms = trainer.step(0).terms
    x0, labels = pictures.batch(reference.order.index(0), reference.order.flips(0))
    t, _ = reference.times.draw(0, 6)
    noise = normals(0, Purpose.TRAIN_NOISE, torch.arange(6), torch.tensor([0]), (1, 8, 8))[0]
    course = np.cos((t.numpy() / 40 + 0.008) / 1.008 * math.pi / 2) ** 2
    signal = torch.from_numpy(course / math.cos(0.008 / 1.008 * math.pi / 2) ** 2).float()[:, None, None, None]
    with torch.no_grad():
        logits = (
            reference.plain(signal.sqrt() * x0 + (1 - signal).sqrt() * noise, (t - 1).float()).double().numpy()
        )
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    named = chances[np.arange(6), labels.numpy()]
    np.testing.assert_allclose(terms.loss.numpy(), -np.log(named), rtol=1e-4)
    assert terms.error.tolist() == (named <= 0.5).astype(float).tolist() and terms.vlb is None


@pytest.mark.parametrize("accumulate", [1, 3])
def test_stopping_changes_nothing(tmp_path, pictures, accumulate):
    """Weights, averages, optimizer and log are bit-equal, with dropout, flips and held-out pictures."""
    config, held_out = tiny(train__accumulate=accumulate), stripes(tmp_path, count=10, seed=1)
    _, whole = train(config, pictures, tmp_path / "whole", held_out)
    for stop in (3, 6):
        events, _ = train(config, pictures, tmp_path / "parts", held_out, stop)
        assert not events[-1].complete
    events, parts = train(config, pictures, tmp_path / "parts", held_out)
    assert events[0].step == 9 and events[-1].complete
    assert files(parts) == files(whole) and told(parts) == told(whole)
    plain, dropping = (Trainer(tiny(net__dropout=p), pictures, Accelerator(cpu=True)) for p in (0.0, 0.3))
    plain.step(0), dropping.step(0)  # the first one trains what opens the branches
    assert not torch.equal(plain.step(1).terms.loss, dropping.step(1).terms.loss), "dropout did nothing"


def test_the_log_tells_how_often_it_is_right(tmp_path, pictures, accelerator):
    """Over all levels and by quarter of the chain, against the same steps sorted by hand; and no squared error."""
    config = tiny(train__log_every=6)
    events, run = train(config, pictures, tmp_path / "run")
    logged = [e for e in events if isinstance(e, Logged)]
    trainer = Trainer(config, pictures, accelerator)
    done = [trainer.step(k) for k in range(12)]
    for line, record, window in zip(logged, run.records(), (done[:6], done[6:]), strict=True):
        t, wrong = (torch.cat([pick(one) for one in window]) for pick in (lambda s: s.t, lambda s: s.terms.error))
        assert line.mse is None and line.accuracy == pytest.approx(1 - wrong.mean().item())
        by_hand = [1 - wrong[(t > 10 * k) & (t <= 10 * k + 10)].mean().item() for k in range(4)]
        assert line.quarters == pytest.approx(by_hand, abs=1e-6)
        assert record["accuracy"] == line.accuracy and record["accuracy_quarters"] == list(line.quarters)
        assert not {"mse", "quarters", "vlb"} & set(record)


def test_looks_are_logged_and_no_picture_is_drawn(tmp_path, pictures):
    held_out = stripes(tmp_path, count=10, seed=1)
    for every, steps in ((0, [5, 10, 12]), (6, [6, 12])):
        events, run = train(tiny(train__preview_every=every), pictures, tmp_path / f"run{every}", held_out)
        looks = [e for e in events if isinstance(e, Evaluated)]
        assert [e.step for e in looks] == steps and isinstance(events[-1], Ended)
        assert [e.step for e in events if isinstance(e, Saved)] == [5, 10, 12]
        assert not any(isinstance(e, Previewed) for e in events) and not (run.folder / "samples").exists()
        records = [r for r in run.records() if "held_out_accuracy" in r]
        assert records == [
            {
                "step": one.step,
                "held_out_accuracy": one.held_out,
                "held_out_quarters": list(one.held_out_quarters),
                "trained_on_accuracy": one.trained_on,
                "trained_on_quarters": list(one.trained_on_quarters),
            }
            for one in looks
        ]


class Opinion(nn.Module):
    """Says class 0 at timesteps below a limit and class 1 above, whatever it sees; keeps what it was told."""

    def __init__(self, limit):
        super().__init__()
        self.limit, self.told = limit, []

    def forward(self, x, timestep):
        self.told.append((x, timestep))
        return nn.functional.one_hot((timestep >= self.limit).long(), 2).float()


@pytest.mark.parametrize("batch", [6, 32])
def test_accuracy_is_of_every_picture_at_a_level_of_every_quarter(tmp_path, pictures, accelerator, batch):
    """Of an opinion: a class's share in the pictures, 0.3 held out and 0.5 trained on; from half on the rest."""
    held_out = stripes(tmp_path, count=30, upright=0.3, seed=1)
    trainer = Trainer(tiny(train__batch=batch), pictures, accelerator, held_out)
    trainer.ema = Opinion(20)
    apart = held_out_error(trainer)
    assert apart.held_out_quarters == pytest.approx((0.3, 0.3, 0.7, 0.7)) and apart.held_out == pytest.approx(0.5)
    assert apart.trained_on_quarters[:2] == pytest.approx([1 - one for one in apart.trained_on_quarters[2:]])
    half = len(trainer.ema.told) // 2
    for seen in (trainer.ema.told[:half], trainer.ema.told[half:]):
        x, timestep = (torch.cat(part) for part in zip(*seen, strict=True))
        assert len(x) == 4 * 30
        for k, quarter in enumerate(timestep.view(4, 30)):
            assert quarter.min() >= 10 * k and quarter.max() < 10 * k + 10
            assert len(quarter.unique()) == 10, "every level is seen"
        noisy = x.view(4, 30, 64)[3]
        assert torch.corrcoef(noisy).triu(1).abs().max() < 0.7, "every picture has its own noise"


def test_a_chain_of_few_levels_leaves_a_quarter_out(pictures, accelerator):
    trainer = Trainer(tiny(chain__steps=3), pictures, accelerator, pictures)
    apart = held_out_error(trainer)
    assert [one is None for one in apart.held_out_quarters] == [False, False, False, True]
    assert 0 <= apart.held_out <= 1


def test_looks_are_always_the_same_with_averaged_weights_and_no_dropout(pictures, accelerator):
    config = tiny(net__dropout=0.9, train__steps=4)
    trainer = Trainer(config, pictures, accelerator, pictures)
    trainer.step(0)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first = held_out_error(trainer)
    assert torch.equal(torch.rand(3), expected)
    with torch.no_grad():
        for p in trainer.parameters:
            p.normal_()
    assert held_out_error(trainer) == first
    assert first.held_out == first.trained_on and first.held_out_quarters == first.trained_on_quarters
    assert held_out_error(Trainer(config, pictures, accelerator)) is None


def test_at_most_so_many_pictures_are_looked_at(tmp_path, accelerator):
    many = stripes(tmp_path, count=3 * HELD_OUT, seed=2)
    trainer = Trainer(tiny(train__batch=64), many, accelerator, many)
    trainer.ema = Opinion(0)
    held_out_error(trainer)
    assert sum(len(x) for x, _ in trainer.ema.told) == 2 * 4 * HELD_OUT


def test_it_learns_what_can_be_seen(tmp_path, pictures, accelerator):
    """Held-out stripes under little noise, and nothing under pure noise: T is at a log-SNR of about -10."""
    config = tiny(train__steps=80, train__batch=20, optimizer__lr=5e-3, net__dropout=0.0)
    trainer = Trainer(config, pictures, accelerator, stripes(tmp_path, seed=1))
    losses = [trainer.step(k).terms.loss.mean().item() for k in range(80)]
    assert np.mean(losses[-20:]) < 0.6 * math.log(2)
    apart = held_out_error(trainer)
    assert min(apart.held_out_quarters[:2]) > 0.9 and apart.held_out_quarters[3] < apart.held_out_quarters[0]


def test_pictures_that_no_classifier_can_be_trained_on(tmp_path, accelerator):
    np.save(tmp_path / "plain.npy", np.zeros((8, 8, 8), np.uint8))
    plain = load(open_source(tmp_path / "plain.npy"), (8, 8), 1, cache=tmp_path / "cache")
    message = "--task classifier: these pictures have no classes; give a folder with a sub-folder for each"
    with pytest.raises(UserError, match=message):
        Trainer(tiny(), plain, accelerator)
    with pytest.raises(UserError, match="these pictures have one class alone"):
        check_classes(tiny(), ("cats",))
    with pytest.raises(UserError, match=r"--label-drop 0\.1: these pictures have no classes; leave it out"):
        check_classes(Config().with_(train__label_drop=0.1), ())
