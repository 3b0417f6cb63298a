"""Trackers: what reaches TensorBoard's and W&B's own files, read back with their own readers."""

import itertools
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from PIL import Image

import tiny
from ddpm.commands import track
from ddpm.commands.track import Tracked, check_trackers
from ddpm.errors import UserError
from ddpm.events import Ended, Evaluated, Logged, Previewed


def events(folder: Path, first: int, last: int):
    """A line of the log for each step, held-out errors and a preview at the last."""
    for step in range(first, last + 1):
        yield Logged(step, 1.0 / step, 2.0 / step, (0.4, None, 0.2, 0.1), 1e-3, 0.5, 100.0, float(step), 1.0)
    yield Evaluated(last, 0.3, 0.25)
    path = folder / "preview.png"
    Image.fromarray(np.full((6, 9, 3), 40, np.uint8)).save(path)
    yield Previewed(last, path)
    yield Ended(last, True)


def tracked(run, names, parts):
    for first, last in parts:
        accelerator = Accelerator(cpu=True, log_with=list(names) or None, project_dir=track.place(run.folder))
        show = Tracked(accelerator, run, tiny.config(train__trackers=names), names, first - 1)
        for event in events(run.folder, first, last):
            show(event)


def test_tensorboard_has_every_value_once_after_a_resume(tmp_path):
    run = tiny.run(tmp_path / "zoo")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorboard's own
        tracked(run, ("tensorboard",), [(1, 5), (4, 6)])
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        log = EventAccumulator(str(Path(track.place(run.folder)) / "ddpm"))
        log.Reload()
    losses = log.Scalars("loss")
    assert [e.step for e in losses] == [1, 2, 3, 4, 5, 6]
    assert [e.value for e in losses] == pytest.approx([1.0 / k for k in range(1, 7)])
    assert [e.value for e in log.Scalars("mse by t/quarter 3")] == pytest.approx([0.2] * 6)
    assert "mse by t/quarter 2" not in log.Tags()["scalars"]  # no level was drawn there
    assert log.Scalars("held-out/held out")[-1].value == pytest.approx(0.3)
    picture = log.Images("preview")[-1]
    assert (picture.width, picture.height, picture.step) == (9, 6, 6)


def test_the_bound_reaches_the_tracker_where_it_is_known(tmp_path, monkeypatch):
    accelerator, logged = Accelerator(cpu=True), []
    monkeypatch.setattr(accelerator, "log", lambda values, step: logged.append((step, values)))
    show = Tracked(accelerator, tiny.run(tmp_path / "zoo"), tiny.config(), (), 0)
    show.names = ("tensorboard",)
    first, second = itertools.islice(events(tmp_path, 1, 2), 2)
    show(replace(first, vlb=4.5))
    show(second)
    assert logged[0][1]["bits per dim"] == 4.5 and "bits per dim" not in logged[1][1]


def test_a_classifier_s_accuracies_reach_the_tracker(tmp_path, monkeypatch):
    accelerator, logged = Accelerator(cpu=True), []
    monkeypatch.setattr(accelerator, "log", lambda values, step: logged.append((step, values)))
    show = Tracked(accelerator, tiny.run(tmp_path / "zoo"), tiny.config(), (), 0)
    show.names = ("tensorboard",)
    first = next(events(tmp_path, 1, 1))
    show(replace(first, mse=None, accuracy=0.5))
    show(Evaluated(1, 0.4, 0.6, (0.7, 0.5, 0.3, 0.1), (0.7, None, 0.6, 0.5)))
    (_, line), (_, looked) = logged
    assert line["accuracy"] == 0.5 and line["accuracy by t/quarter 3"] == 0.2
    assert not [name for name in line if "mse" in name] and "accuracy by t/quarter 2" not in line
    assert looked["held-out/held out"] == 0.4 and looked["held-out by t/quarter 4"] == 0.1
    assert looked["trained-on by t/quarter 1"] == 0.7 and "trained-on by t/quarter 2" not in looked


def test_wandb_offline_writes_into_the_run_under_one_id(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tiny.run(tmp_path / "zoo")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tracked(run, ("wandb",), [(1, 2), (3, 3)])
    files = list(Path(track.place(run.folder)).rglob("*.wandb"))
    assert files and all(f.stat().st_size > 0 for f in files)
    assert len({f.name for f in files}) == 1  # run-ID.wandb
    assert not (Path.cwd() / "wandb").exists()


def test_no_trackers_no_folder(tmp_path):
    run = tiny.run(tmp_path / "zoo")
    tracked(run, (), [(1, 2)])
    assert not Path(track.place(run.folder)).exists()


def test_a_tracker_that_is_not_installed_is_named(monkeypatch):
    check_trackers(())
    check_trackers(("tensorboard", "wandb"))
    monkeypatch.setattr("accelerate.utils.is_wandb_available", lambda: False)
    with pytest.raises(UserError, match=r"--trackers wandb: is not installed; pip install wandb"):
        check_trackers(("wandb",))


def test_a_tracker_that_fails_does_not_end_the_training(tmp_path, monkeypatch):
    run, told = tiny.run(tmp_path / "zoo"), []
    accelerator = Accelerator(cpu=True, log_with=["tensorboard"], project_dir=track.place(run.folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        show = Tracked(
            accelerator, run, tiny.config(train__trackers=("tensorboard",)), ("tensorboard",), 0, told.append
        )

    def full(*values, **options):
        raise OSError("no space left")

    monkeypatch.setattr(accelerator, "log", full)
    for event in events(run.folder, 1, 3):
        show(event)
    assert told == ["note: tensorboard left from here on: no space left"]


def test_a_tracker_that_cannot_start_says_how_to_go_on(tmp_path, monkeypatch):
    run = tiny.run(tmp_path / "zoo")
    accelerator = Accelerator(cpu=True, log_with=["tensorboard"], project_dir=track.place(run.folder))

    def no_key(*values, **options):
        raise RuntimeError("no API key")

    monkeypatch.setattr(accelerator, "init_trackers", no_key)
    with pytest.raises(UserError, match=r"--trackers tensorboard: no API key; .*WANDB_MODE=offline.*--resume"):
        Tracked(accelerator, run, tiny.config(train__trackers=("tensorboard",)), ("tensorboard",), 0)
