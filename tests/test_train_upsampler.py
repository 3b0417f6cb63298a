"""Training an upsampler: what its net is told, that it learns from it, and that stopping changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

import ddpm
from ddpm.config import ChainConfig, Config, DataConfig, DenoiserConfig, NetConfig, OptimizerConfig, TrainConfig
from ddpm.data import load, open_source
from ddpm.events import Evaluated, Previewed
from ddpm.store import Description, Run
from ddpm.train import facts, fit
from ddpm.trainer import Trainer


def config(**changes) -> Config:
    made = Config(
        DataConfig(("stripes",), (8, 8), 1, flip=True, low_size=(4, 2)),
        NetConfig(8, (1, 2), 1, (), dropout=0.1, groups=4),
        ChainConfig("cosine", 50),
        DenoiserConfig("v"),
        optimizer=OptimizerConfig(lr=2e-3, warmup=3, decay="cosine", ema=0.9),
        train=TrainConfig(
            steps=12, batch=6, log_every=4, preview_every=6, checkpoint_every=5, task="upsampler", label_drop=0.3
        ),
    )
    return made.with_(**changes)


def opened(folder, count=40, size=(8, 8)):
    """Grey noise of two classes."""
    rng = np.random.default_rng(count)
    np.savez(
        folder / f"{count}.npz",
        images=rng.integers(0, 256, (count, *size)).astype(np.uint8),
        labels=np.arange(count) % 2,
    )
    return open_source(folder / f"{count}.npz")


@pytest.fixture
def pictures(tmp_path):
    return load(opened(tmp_path), (8, 8), 1, cache=tmp_path / "cache")


@pytest.fixture
def held_out(tmp_path):
    return load(opened(tmp_path, 20), (8, 8), 1, cache=tmp_path / "cache")


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


class Told:
    """Stands before a trainer's net, and keeps what it is told."""

    def __init__(self, trainer):
        self.seen = []
        trainer.plain.register_forward_pre_hook(self.keep, with_kwargs=True)

    def keep(self, net, arguments, keywords):
        self.seen.append({name: value.clone() for name, value in keywords.items()})


def small(pixels):
    """uint8 [N, 1, 8, 8] by hand, in 4 x 2: means of 2 x 4 pixels, halves to the even level."""
    blocks = pixels.reshape(-1, 1, 4, 2, 2, 4).astype(int)
    return np.rint(blocks.sum(axis=(3, 5)) / 8)


def test_the_net_is_told_the_picture_it_is_shown_made_small(pictures, accelerator):
    """After flips: the small picture is that of the mirrored one."""
    trainer = Trainer(config(train__accumulate=2), pictures, accelerator)
    told = Told(trainer)
    trainer.step(3)
    index, flips = trainer.order.index(3), trainer.order.flips(3)
    assert flips.any() and not flips.all()
    shown = pictures.pixels[index.numpy()].copy()
    shown[flips.numpy()] = shown[flips.numpy()][..., ::-1]
    low = torch.cat([one["low"] for one in told.seen])
    assert low.shape == (6, 1, 4, 2) and [len(one["low"]) for one in told.seen] == [3, 3]
    np.testing.assert_allclose((low.numpy() + 1) * 127.5, small(shown), atol=1e-4)
    labels = torch.cat([one["label"] for one in told.seen])
    own = torch.from_numpy(pictures.labels)[index]
    assert ((labels == own) | (labels == -1)).all()


def test_random_windows_are_cut_before_they_are_made_small(tmp_path, accelerator):
    made = config(data__crop="random", data__flip=False)
    source = opened(tmp_path, 12, (16, 12))
    ragged = load(source, (8, 8), 1, crop="random", cache=tmp_path / "cache")
    trainer = Trainer(made, ragged, accelerator)
    told = Told(trainer)
    trainer.step(0)
    pixels, _ = ragged.rows(trainer.order.index(0).numpy(), trainer.order.places(0).numpy())
    np.testing.assert_allclose((told.seen[0]["low"].numpy() + 1) * 127.5, small(pixels), atol=1e-4)


def train(made, pictures, accelerator, folder, held_out=None, stop_after=None):
    run, description = Run(folder), Description(made, facts(pictures, held_out))
    if not run.exists():
        run = Run.create(folder, description)
    checkpoint, _ = run.newest()
    count = 0

    def stop():
        nonlocal count
        count += 1
        return stop_after is not None and count > stop_after

    return list(fit(Trainer(made, pictures, accelerator, held_out), run, description, checkpoint, stop)), run


def files_of(run):
    checkpoint, _ = run.newest()
    return {path.name: path.read_bytes() for path in sorted(checkpoint.folder.glob("*.safetensors"))}


def test_stopping_changes_nothing(pictures, held_out, accelerator, tmp_path):
    """Bit-equal weights, averages, optimizer, previews and log, with flips, dropout and labels left out."""
    made = config()
    _, whole = train(made, pictures, accelerator, tmp_path / "whole", held_out)
    for stop in (3, 4):
        events, _ = train(made, pictures, accelerator, tmp_path / "parts", held_out, stop)
        assert not events[-1].complete
    events, parts = train(made, pictures, accelerator, tmp_path / "parts", held_out)
    assert events[-1].complete and files_of(parts) == files_of(whole) and len(files_of(whole)) == 3
    for name in ("000000006.png", "000000012.png"):
        assert (parts.folder / "samples" / name).read_bytes() == (whole.folder / "samples" / name).read_bytes()
    timeless = [
        [
            {k: v for k, v in record.items() if k not in ("pictures_per_second", "seconds")}
            for record in run.records()
        ]
        for run in (whole, parts)
    ]
    assert timeless[0] == timeless[1]


def test_previews_and_the_held_out_error_are_of_held_out_pictures(pictures, held_out, accelerator, tmp_path):
    events, run = train(config(), pictures, accelerator, tmp_path / "run", held_out)
    assert [e.step for e in events if isinstance(e, Previewed)] == [6, 12]
    assert all(0 < e.held_out < 9 for e in events if isinstance(e, Evaluated))
    trainer = Trainer(config(), pictures, accelerator, held_out)
    shown = trainer.pairs()
    assert np.array_equal(shown.whole, held_out.pixels[np.arange(12) * 20 // 12])
    np.testing.assert_array_equal(shown.small, small(shown.whole))
    assert np.array_equal(
        Trainer(config(), pictures, accelerator).pairs().whole, pictures.pixels[np.arange(12) * 40 // 12]
    )
    plain = config(train__task="image", data__low_size=(0, 0))
    assert Trainer(plain, pictures, accelerator).pairs() is None
    with Image.open(run.folder / "samples" / "000000012.png") as image:
        assert image.width > 600


def test_it_learns_what_the_small_picture_says(accelerator, tmp_path):
    """Flat pictures of any grey: told the small one, the picture is known, whatever the noise."""
    levels = np.linspace(0, 255, 64).round().astype(np.uint8)
    np.savez(tmp_path / "flat.npz", images=np.broadcast_to(levels[:, None, None], (64, 8, 8)).copy())
    flat = load(open_source(tmp_path / "flat.npz"), (8, 8), 1, cache=tmp_path / "cache")
    made = config(
        train__label_drop=0.0,
        train__steps=150,
        train__batch=32,
        train__preview_every=0,
        train__checkpoint_every=150,
        net__dropout=0.0,
        optimizer__lr=4e-3,
    )
    _, run = train(made, flat, accelerator, tmp_path / "run")
    model = ddpm.load(run.folder, "cpu")
    low = np.broadcast_to(np.array([30, 128, 220], np.uint8)[:, None, None, None], (3, 1, 4, 2)).copy()
    means = model.sample(3, low=low, steps=10).pixels.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, [30, 128, 220], atol=20)
    assert replace(model.description, step=0).config.train.task == "upsampler"
