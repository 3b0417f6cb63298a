"""Out of memory in training: the pictures are computed in more parts, and the step is the same."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import tiny
from ddpm.data import load, open_source
from ddpm.events import Ended, Noted
from ddpm.store import Description, Run
from ddpm.train import facts, fit
from ddpm.trainer import Trainer

CONFIG = tiny.config(train__batch=8, train__log_every=2, train__preview_every=0)


@pytest.fixture
def pictures(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", images=images)
    return load(open_source(tmp_path / "noise.npz"), (8, 8), 1, cache=tmp_path / "cache")


def small(trainer, most, error=None):
    """A net that fits so many pictures at once."""
    loss = trainer.loss

    def limited(model, x0, *rest):
        if len(x0) > most:
            raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return loss(model, x0, *rest)

    trainer.loss = limited
    return trainer


@pytest.mark.parametrize(
    "error",
    [
        None,
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_the_step_is_the_same_in_more_parts(pictures, error):
    whole = Trainer(CONFIG, pictures, Accelerator(cpu=True))
    split = small(Trainer(CONFIG, pictures, Accelerator(cpu=True)), 3, error)
    for k in range(3):
        a, b = whole.step(k), split.step(k)
        assert torch.equal(a.t, b.t) and len(b.terms.loss) == 8
        torch.testing.assert_close(a.loss, b.loss)
        torch.testing.assert_close(a.gradient, b.gradient, rtol=1e-4, atol=1e-6)
    assert whole.parts == 1 and split.parts == 4
    for p, q in zip(whole.parameters, split.parameters, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


def test_it_goes_on_with_a_line_about_it(pictures, tmp_path):
    trainer = small(Trainer(CONFIG, pictures, Accelerator(cpu=True)), 4)
    description = Description(CONFIG, facts(pictures))
    events = list(fit(trainer, Run.create(tmp_path / "run", description), description))
    assert [e.text for e in events if isinstance(e, Noted)] == [
        "step 1: out of memory; its pictures are computed in 2 parts from here on"
    ]
    assert isinstance(events[-1], Ended) and events[-1].complete


def test_one_picture_that_does_not_fit_ends_it(pictures):
    trainer = small(Trainer(CONFIG, pictures, Accelerator(cpu=True)), 0)
    with pytest.raises(torch.OutOfMemoryError):
        trainer.step(0)
    assert trainer.parts == 8


def test_other_errors_are_not_taken_for_it(pictures):
    trainer = small(Trainer(CONFIG, pictures, Accelerator(cpu=True)), 0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.step(0)
    assert trainer.parts == 1
