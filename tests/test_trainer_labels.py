"""Labels left out in training, which guidance without a classifier needs: how many, which, and never in a look."""

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import tiny
from ddpm.config import ChainConfig, Config, DataConfig, DenoiserConfig, NetConfig, OptimizerConfig, TrainConfig
from ddpm.data import load, open_source
from ddpm.errors import UserError
from ddpm.guidance import NO_CLASS
from ddpm.guide import Guide
from ddpm.heldout import held_out_error
from ddpm.losses import Terms
from ddpm.store import Description
from ddpm.train import facts
from ddpm.trainer import Trainer


def config(**changes) -> Config:
    made = Config(
        DataConfig(("grey",), (8, 8), 1, flip=False),
        NetConfig(8, (1, 2), 1, (), dropout=0.0, groups=4),
        ChainConfig("cosine", 40),
        DenoiserConfig("v"),
        optimizer=OptimizerConfig(lr=1e-2, warmup=0, ema=0.9),
        train=TrainConfig(steps=120, batch=10, label_drop=0.3, preview_every=0),
    )
    return made.with_(**changes)


@pytest.fixture
def pictures(tmp_path):
    """Half of them dark (0), half light (1)."""
    labels = np.arange(40) % 2
    images = np.full((40, 8, 8), 40, np.uint8) + 175 * labels[:, None, None].astype(np.uint8)
    np.savez(tmp_path / "grey.npz", images=images, labels=labels)
    return load(open_source(tmp_path / "grey.npz"), (8, 8), 1, cache=tmp_path / "cache")


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def told(trainer: Trainer) -> list[torch.Tensor]:
    """The labels that losses are taken with, call by call, from now on."""
    seen: list[torch.Tensor] = []

    def loss(model, x0, t, noise, cond):
        seen.append(cond["label"].clone())
        nothing = trainer.parameters[0].sum() * torch.zeros(len(x0))  # the net itself is not asked
        return Terms(nothing, nothing.detach())

    trainer.loss = loss
    return seen


def test_a_share_is_left_out_of_each_class_and_the_rest_is_told(pictures, accelerator):
    trainer = Trainer(config(), pictures, accelerator)
    seen, steps = told(trainer), 150
    true = []
    for k in range(steps):
        trainer.step(k)
        true.append(pictures.batch(trainer.order.index(k))[1])
    labels, true = torch.cat(seen), torch.cat(true)
    assert len(labels) == 10 * steps
    left_out = labels == NO_CLASS
    assert torch.equal(labels[~left_out], true[~left_out])
    for which in (true >= 0, true == 0, true == 1):
        n = int(which.sum())
        assert abs(left_out[which].double().mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / n)
    # one at a time: as many in a batch as a binomial has, and none oftener than another
    counts = left_out.view(steps, 10).sum(1).double()
    assert abs(counts.var().item() / (10 * 0.3 * 0.7) - 1.0) < 4 * math.sqrt(2 / steps)
    places = left_out.view(steps, 10).double().mean(0)
    assert (places - 0.3).abs().max() < 4.5 * math.sqrt(0.3 * 0.7 / steps)


def test_which_follows_from_seed_and_step_alone(pictures, accelerator):
    def labels(k: int, **changes) -> list[int]:
        trainer = Trainer(config(**changes), pictures, accelerator)
        seen = told(trainer)
        trainer.step(k)
        return torch.cat(seen).tolist()

    expected = labels(7)
    assert expected.count(NO_CLASS) > 0 and labels(7) == expected
    assert labels(7, train__accumulate=3) == labels(7, train__accumulate=10) == expected
    gone = [label == NO_CLASS for label in expected]
    masks = {tuple(label == NO_CLASS for label in labels(k, train__batch=40)) for k in range(6)}
    assert len(masks) == 6
    assert [label == NO_CLASS for label in labels(7, train__seed=1)] != gone
    # a larger share leaves out the same ones, and more
    more = [label == NO_CLASS for label in labels(7, train__label_drop=0.9)]
    assert sum(more) > sum(gone) and all(b or not a for a, b in zip(gone, more, strict=True))
    assert NO_CLASS not in labels(7, train__label_drop=0.0)


def test_a_look_leaves_none_out(pictures, accelerator):
    trainer = Trainer(config(train__label_drop=0.9), pictures, accelerator, held_out=pictures)
    trainer.step(0)
    seen = told(trainer)
    held_out_error(trainer)
    labels = torch.cat(seen)
    assert len(labels) == 80 and labels.min() == 0 and labels.double().mean() == 0.5


def test_both_models_are_learned(pictures, accelerator, tmp_path):
    """Told a class, it draws that; told none, either; and guidance goes beyond the class."""
    trainer = Trainer(config(), pictures, accelerator)
    for k in range(120):
        trainer.step(k)
    model, _ = trainer.pipelines(Description(trainer.config, facts(pictures)), "grey")

    def brightness(scale: float, label: int) -> np.ndarray:
        return model.sample(24, steps=6, label=label, guide=Guide(cfg_scale=scale)).pixels.mean((1, 2, 3)) / 255

    dark, light = (brightness(1.0, k) for k in range(2))
    assert dark.mean() < 0.3 and light.mean() > 0.7
    either = brightness(0.0, 0)
    assert 0.1 < np.mean(either > 0.5) < 0.9
    assert brightness(3.0, 0).mean() < dark.mean() and brightness(3.0, 1).mean() > light.mean()


def test_there_must_be_labels_to_leave_out(pictures, accelerator, tmp_path):
    np.savez(tmp_path / "none.npz", images=np.zeros((20, 8, 8), np.uint8))
    none = load(open_source(tmp_path / "none.npz"), (8, 8), 1, cache=tmp_path / "cache")
    with pytest.raises(UserError, match=r"^--label-drop 0.3: these pictures have no classes; leave it out$"):
        Trainer(config(), none, accelerator)
    Trainer(config(train__label_drop=0.0), none, accelerator)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["photos/cats", "--label-drop", 0.1], "--label-drop 0.1: these pictures have no classes; leave it out"),
        (["photos", "--labels", "none", "--label-drop", 0.1], "--label-drop 0.1: these pictures have no classes"),
        (["photos", "--label-drop", 1], "--label-drop 1"),
        (["photos", "--label-drop", -0.1], "--label-drop -0.1: lies in [0, 1)"),
        (["photos", "--task", "classifier", "--label-drop", 0.1], "--label-drop 0.1: is of models of pictures"),
    ],
)
def test_what_is_said_to_a_mistake(call, tmp_path, monkeypatch, options, said):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny.photos(tmp_path / "photos", 12)
    status, _, err = call("train", *options, *tiny.QUICK, "--steps", 2)
    assert status == 2 and err.splitlines()[-1].startswith("ddpm: ") and said in err
    assert not (tmp_path / "runs").exists()
