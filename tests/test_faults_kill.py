"""Trainings killed at any moment and gone on with: at the end nothing tells them from one that nobody killed."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

import faults
import tiny

EVERYTHING = ["--train.accumulate", "2", "--label-drop", "0.3", "--net.dropout", "0.2", "--holdout", "0.15"]
EVERYTHING += ["--loss.times", "loss-second-moment"]
# What a kill might find half-done: each with the steps between two checkpoints, few, so that there are many.
CASES = {
    "plain": ["--train.preview-every", "10", "--holdout", "0.2"],
    "accumulate": ["--train.accumulate", "3", "--train.log-every", "3"],
    "label drop": ["--label-drop", "0.3", "--train.preview-every", "14"],
    "dropout": ["--net.dropout", "0.3"],
    "loss-second-moment": ["--loss.times", "loss-second-moment", "--train.log-every", "5"],
    "best": ["--train.evaluate-every", "8", "--train.evaluate-samples", "8", "--train.keep", "1"],
    "keep every": ["--train.keep-every", "9", "--train.keep", "1", "--data.crop", "random"],
    "classifier": ["--task", "classifier", "--holdout", "0.2"],
}
KILLS = 7  # of each case, at least
STEPS = 40


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny.photos(tmp_path / "photos", faults.PHOTOS)
    return tmp_path


@pytest.mark.slow
def test_killed_twice_it_ends_as_if_it_had_not_been(workplace):
    """By then levels are drawn by their losses, and the fifteenth of the pictures' epochs is under way."""
    options = ["photos", *faults.QUICK, *EVERYTHING, "--steps", 48, "--checkpoint-every", 5]
    faults.done(*options, "--out", "whole")
    dice, arguments = np.random.default_rng(7), [*options, "--out", "run"]
    for first, last in ((3, 14), (17, 30)):
        # The pipe holds some 40 lines: training waits for its reader, and does not end before the kill.
        process = faults.start("train", *arguments, pipesize=4096)
        with faults.killed_after(process):
            faults.until(process, f"step {dice.integers(first, last)}/")
            time.sleep(dice.uniform(0, 0.1))
            process.kill()
            assert process.wait() == -9
        faults.check_whole("run")
        arguments = ["--resume", "--out", "run"]
    assert "going on after step" in faults.done(*arguments)
    faults.check_same("run", "whole")
    assert (workplace / "run/checkpoints/000000048/times.safetensors").is_file()


@pytest.fixture(scope="module")
def survived():
    """Kills so far, by what the training was at."""
    return {"starting": 0, "writing a checkpoint": 0, "at work": 0}


@pytest.mark.soak
@pytest.mark.parametrize("case", CASES)
def test_killed_at_random_it_ends_as_if_it_had_not_been(workplace, survived, case):
    """Each start is killed at a moment drawn from as long as a whole training takes, until enough were."""
    options = ["photos", *faults.QUICK, "--steps", STEPS, "--checkpoint-every", 3, *CASES[case]]
    began = time.monotonic()
    faults.done(*options, "--out", "whole", before=faults.SLOW.format(seconds=0.01))
    lasts = faults.elapsed(began)
    dice, kills, here = np.random.default_rng(list(case.encode())), 0, dict.fromkeys(survived, 0)
    while kills < KILLS:
        shutil.rmtree("run", ignore_errors=True)
        newest, complete = 0, False
        while not complete:
            if dice.random() < 0.2:
                shutil.rmtree("cache", ignore_errors=True)  # decoding is killed, too
            holds = Path("run/config.json").exists()
            arguments = ["--resume", "--out", "run"] if holds else [*options, "--out", "run"]
            slowly = faults.SLOW.format(seconds=0.01) if dice.random() < 0.5 else ""
            with Path("said").open("a") as said:
                process = faults.start("train", *arguments, before=slowly, stdout=said, stderr=said)
            with faults.killed_after(process):
                killed = faults.kill_after(process, dice.uniform(0, lasts) if kills < KILLS else 10 * lasts)
            assert killed or process.returncode == 0, Path("said").read_text()
            assert not (killed and kills == KILLS), "hangs:\n" + Path("said").read_text()
            kills, complete = kills + killed, not killed
            steps = faults.check_whole("run") if Path("run").is_dir() else []
            assert max(steps, default=0) >= newest, "a checkpoint is gone"
            newest = max(steps, default=0)
            if killed:
                stage = "starting" if not holds and not newest else "at work"
                written = list(Path("run/checkpoints").glob(".*.tmp"))
                here["writing a checkpoint" if written else stage] += 1
        faults.check_same("run", "whole")
    assert "Traceback" not in Path("said").read_text()
    for stage, n in here.items():
        survived[stage] += n


@pytest.mark.soak
def test_so_many_were_survived(survived):
    """The sum of the above; each of them would have failed at the first byte."""
    stages = ", ".join(f"{n} {stage}" for stage, n in survived.items())
    print(f"kills survived {sum(survived.values())}, bytes lost 0, hangs 0 ({stages})")
    assert sum(survived.values()) >= 50 and survived["writing a checkpoint"] > 0
