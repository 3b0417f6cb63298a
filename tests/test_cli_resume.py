"""Stopping a training and going on with it, by the command line: signals, kills, and what resuming refuses."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tiny
from ddpm.cli import main
from ddpm.store import Run, open_checkpoint

STEPS, EVERY = 150, 10
ARGUMENTS = ["train", "photos", *tiny.QUICK, "--net.dropout", "0.1", "--steps", str(STEPS), "--out", "run"]
ARGUMENTS += ["--checkpoint-every", str(EVERY), "--train.log-every", "1", "--train.preview-every", "0"]
RESUME = ["train", "--resume", "--out", "run"]


def quietly(arguments):
    """main(…), with the process's signals as they were after it."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return main([str(argument) for argument in arguments])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def log_of(run):
    return [
        {k: v for k, v in record.items() if k not in ("pictures_per_second", "seconds")}
        for record in run.records()
    ]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny.photos(tmp_path / "photos")
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDPM_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        tiny.photos(folder / "photos")
        assert quietly(ARGUMENTS) == 0
    return Run(folder / "run")


def parted(folder, steps=4, *options):
    """A run whose last checkpoint is lost, so that there is something to go on with."""
    rhythm = ["--steps", steps, "--checkpoint-every", 2, "--train.preview-every", 0]
    assert quietly(["train", "photos", *tiny.QUICK, *rhythm, *options, "--out", "run"]) == 0
    shutil.rmtree(folder / "run" / "checkpoints" / f"{steps:09d}")
    return Run(folder / "run")


# -- signals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, status", [("SIGINT", 130), ("SIGTERM", 143), ("SIGKILL", -9)])
def test_stopped_at_any_time_it_goes_on_exactly(whole, workplace, capsys, name, status):
    # The pipe holds some 50 lines: training waits for its reader, and cannot end before the signal.
    command, pipe = [sys.executable, "-m", "ddpm", *ARGUMENTS], subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, pipesize=4096)
    try:
        seen = []
        for line in process.stdout:
            seen.append(line)
            if line.startswith("step 15/"):
                os.kill(process.pid, getattr(signal, name))
                break
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status, "".join(seen) + err
    assert "Traceback" not in err
    run = Run("run")
    checkpoint, damaged = run.newest()
    assert checkpoint is not None and not damaged and checkpoint.step < STEPS
    if name == "SIGKILL":
        assert checkpoint.step % EVERY == 0
    else:
        assert checkpoint.step >= 15 and "go on with: ddpm train --resume --out run" in out
        assert "once more to leave at once" in err and err.count("\n") < 20
    assert quietly(RESUME) == 0
    assert f"going on after step {checkpoint.step}" in capsys.readouterr().out
    end, damaged = run.newest()
    assert end.step == STEPS and not damaged
    expected = whole.newest()[0]
    for part in ("model", "ema", "optimizer"):
        tensors = end.tensors(part)
        assert all(torch.equal(tensors[key], value) for key, value in expected.tensors(part).items()), part
    assert log_of(run) == log_of(whole)


# -- going on --------------------------------------------------------------------------------------------------


def test_by_the_data_s_name_or_the_run_s(workplace, capsys):
    assert quietly(["train", "photos", *tiny.QUICK, "--steps", 2, "--checkpoint-every", 1]) == 0
    shutil.rmtree("runs/photos/checkpoints/000000002")
    assert quietly(["train", "photos", "--resume"]) == 0
    assert "going on after step 1" in capsys.readouterr().out
    # complete: nothing is left to do, and the data is not needed
    shutil.rmtree("photos")
    assert quietly(["train", "--resume", "--out", "runs/photos"]) == 0
    assert "complete at step 2" in capsys.readouterr().out


def test_a_run_stopped_before_its_first_checkpoint_starts_anew(workplace, capsys):
    run = parted(workplace)
    shutil.rmtree(run.folder / "checkpoints")
    assert quietly(RESUME) == 0
    assert [r["step"] for r in run.records()] == [1, 2, 3, 4] and run.newest()[0].step == 4


def test_a_damaged_checkpoint_is_noted_and_made_again(workplace, capsys):
    run = parted(workplace, 6, "--train.keep", 9)
    path = Path("run/checkpoints/000000004/ema.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()
    assert quietly(RESUME) == 0
    out = capsys.readouterr().out
    assert f"note: {path}: damaged" in out and "an older checkpoint is used" in out and "after step 2" in out
    for step in (2, 4, 6):
        assert open_checkpoint(run.folder / "checkpoints" / f"{step:09d}").step == step


def test_nothing_whole_is_left(workplace, capsys):
    run = parted(workplace)
    path = run.folder / "checkpoints/000000002/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert quietly(RESUME) == 2
    assert "no checkpoint of this run is whole" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, named",
    [
        (["--lr", "1"], "--optimizer.lr"),
        (["--steps", "9"], "--train.steps"),
        (["--batch", "5"], "--train.batch"),
        (["--net.channels", "8"], "--net.channels"),
        (["--data.no-flip"], "--data.flip"),
        (["--labels", "none"], "--data.labels"),
        (["--size", "16"], "size"),
        (["--budget", "5m"], "--budget"),
        (["--preset", "cifar10"], "--preset"),
    ],
)
def test_another_config_is_refused_by_the_option_s_name(workplace, capsys, options, named):
    run = parted(workplace)
    before = run.newest()[0].step
    capsys.readouterr()
    assert quietly([*RESUME, *options]) == 2
    err = capsys.readouterr().err
    assert "goes on with the run's own config" in err and f"{named} would change" in err and err.count("\n") == 1
    assert run.newest()[0].step == before


def test_the_same_options_again_are_no_change(workplace):
    parted(workplace)
    assert quietly(["train", "photos", "--resume", "--out", "run", "--batch", 4, "--steps", 4, *tiny.NET]) == 0
    assert Run("run").newest()[0].step == 4


def test_the_same_size_again_is_no_change(workplace):
    """The command that began the run, with --resume put behind it."""
    parted(workplace)
    assert quietly(["train", "photos", *tiny.QUICK, "--steps", 4, "--out", "run", "--resume"]) == 0


@pytest.mark.parametrize(
    "options",
    [
        ("--loss.kind", "hybrid"),
        ("--loss.kind", "vlb", "--chain.steps", "3"),
        ("--denoiser.variance", "learned_range"),
    ],
    ids=["hybrid", "vlb", "variance"],
)
def test_losses_that_know_the_bound_go_on_exactly(workplace, capsys, options):
    """Three levels have had ten losses each after a few batches of 4: from there on, drawing depends on them."""
    run = parted(workplace, 24, *options)
    checkpoint = run.newest()[0]
    assert checkpoint.step == 22
    if "vlb" in options:
        counts, losses = (checkpoint.tensors("times")[key] for key in ("counts", "losses"))
        assert counts.sum() == 4 * 22 and counts.min() >= 10 and (losses > 0).all()
    assert quietly(RESUME) == 0 and ("bits/dim" in capsys.readouterr().out) == ("vlb" in options)
    assert quietly(["train", "photos", *tiny.QUICK, *options, "--steps", 24, "--checkpoint-every", 2,
                    "--train.preview-every", 0, "--out", "straight"]) == 0  # fmt: skip
    straight, found = Run("straight").newest()[0], run.newest()[0]
    names = sorted(path.name for path in straight.folder.iterdir())
    assert ("times.safetensors" in names) == ("vlb" in options)
    for name in names:
        if name.endswith(".safetensors"):
            part = name.removesuffix(".safetensors")
            tensors = found.tensors(part)
            assert all(torch.equal(tensors[key], value) for key, value in straight.tensors(part).items()), part
    assert log_of(run) == log_of(Run("straight")) and all(record["vlb"] > 0 for record in run.records())
    assert quietly(["check", "run"]) == 0 and quietly(["info", "run"]) == 0
    out = capsys.readouterr().out
    unit = " bits/dim" if "vlb" in options else ""
    assert "checkpoints    whole, after step 22 and 24" in out
    assert f"\nloss {run.records()[-1]['loss']:.4f}{unit}, " in out


@pytest.mark.parametrize("change", ["one more", "one less", "another pixel", "renamed class", "all gone"])
def test_other_pictures_are_refused(workplace, capsys, change):
    run = parted(workplace)
    if change == "one more":
        shutil.copy("photos/cats/00.png", "photos/cats/99.png")
    elif change == "one less":
        (workplace / "photos/cats/00.png").unlink()
    elif change == "another pixel":
        shutil.copy("photos/cats/02.png", "photos/cats/00.png")
    elif change == "renamed class":
        (workplace / "photos/cats").rename(workplace / "photos/lions")
    else:
        shutil.rmtree("photos")
    capsys.readouterr()
    assert quietly(RESUME) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("ddpm: photos: ") and ("not the pictures" in err or "no such file or folder" in err)
    assert run.newest()[0].step == 2


def test_pictures_that_moved_are_given_by_name(workplace):
    parted(workplace)
    (workplace / "photos").rename(workplace / "elsewhere")
    assert quietly(["train", "elsewhere", "--resume", "--out", "run"]) == 0
    assert Run("run").newest()[0].step == 4
