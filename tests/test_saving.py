"""Checkpoints written beside the training."""

import errno
import threading

import pytest
import torch

import tiny
from ddpm import store
from ddpm.events import Saved, Unsaved
from ddpm.saving import Saving
from ddpm.store import Description


@pytest.fixture
def run(tmp_path):
    return tiny.run(tmp_path / "zoo")


def start(saving, step, parts):
    description = Description(tiny.config(), tiny.ANIMALS, step)
    saving.start(description, parts, {"images": 6 * step}, keep=2)


def test_what_is_written_is_what_was_there_at_the_start(run, monkeypatch):
    """The training changes its weights while they are written."""
    go, write = threading.Event(), store.save_weights
    monkeypatch.setattr(store, "save_weights", lambda *given: (go.wait(10), write(*given))[1])
    weight = torch.arange(12.0).view(3, 4).t()  # in another layout than the file's
    saving = Saving(run)
    start(saving, 9, {"model": {"w": weight}})
    weight.zero_()
    assert list(saving.done()) == []
    go.set()
    (saved,) = saving.done(wait=True)
    assert saved == Saved(9, run.checkpoint(9)) and list(saving.done(wait=True)) == []
    newest, damaged = run.newest()
    assert newest.step == 9 and not damaged
    assert torch.equal(newest.tensors("model")["w"], torch.arange(12.0).view(3, 4).t())
    saving.close()


def test_a_full_disk_leaves_what_was_there(run, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    saving = Saving(run)
    with monkeypatch.context() as patch:
        patch.setattr(store, "save_weights", full)
        start(saving, 9, {"model": {"w": torch.ones(2)}})
        (event,) = saving.done(wait=True)
    assert event == saving.failed == Unsaved(9, "No space left on device")
    assert run.newest()[0].step == 7 and [p.name for p in (run.folder / "checkpoints").iterdir()] == ["000000007"]
    start(saving, 10, {"model": {"w": torch.ones(2)}})
    assert list(saving.done(wait=True)) == [Saved(10, run.checkpoint(10))] and saving.failed is None
    saving.close()


def test_other_errors_are_not_hidden(run, monkeypatch):
    def wrong(*given):
        raise TypeError("a mistake of ours")

    monkeypatch.setattr(store, "save_weights", wrong)
    saving = Saving(run)
    start(saving, 9, {"model": {"w": torch.ones(2)}})
    with pytest.raises(TypeError, match="ours"):
        list(saving.done(wait=True))
    saving.close()
