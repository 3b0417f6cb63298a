"""DATA by the command line: several of them, held-out pictures, and a resume that finds both again."""

import shutil
import signal

import pytest

import tiny
from ddpm.cli import main
from ddpm.store import Run

STEPS = [
    "--steps",
    "4",
    "--checkpoint-every",
    "2",
    "--train.preview-every",
    "2",
    "--train.log-every",
    "1",
    "--chain.steps",
    "10",
]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny.photos(tmp_path / "photos", 12)
    tiny.photos(tmp_path / "more" / "train", 8)
    tiny.photos(tmp_path / "more" / "test", 6)
    return tmp_path


def quietly(*arguments):
    """main(…), with the process's signals as they were after it."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return main([str(argument) for argument in arguments])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_several_data_with_a_split_held_out_and_resumed(workplace, capsys):
    data = ["photos", "more", "--holdout", "test"]
    assert (
        quietly("train", *data, *tiny.QUICK, *STEPS, "--crop", "pad", "--background", "#102030", "--channels", 1)
        == 0
    )
    out = capsys.readouterr().out
    assert "20 pictures of photos+more" in out
    assert "6 pictures held out: test" in out
    run = Run("runs/photos+more")
    chosen = run.description().config.data
    assert (chosen.path, chosen.holdout) == (("photos", "more"), "test")
    assert (chosen.crop, chosen.background, chosen.channels) == ("pad", "#102030", 1)
    assert run.description().facts.classes == ("cats", "dogs")
    measured = [record for record in run.records() if "held_out" in record]
    assert [record["step"] for record in measured] == [2, 4]
    shutil.rmtree(run.folder / "checkpoints" / "000000004")
    assert quietly("train", "--resume", "--out", run.folder) == 0
    assert [record for record in run.records() if "held_out" in record] == measured
    assert quietly("train", *data, "--resume") == 0  # found by the name of the data, and complete


def test_resume_keeps_what_is_held_out(workplace, capsys):
    assert (
        quietly(
            "train", "photos", "--holdout", "0.25", *tiny.QUICK, *STEPS, "--train.preview-every", 0, "--out", "run"
        )
        == 0
    )
    assert "9 pictures of photos" in capsys.readouterr().out
    assert quietly("train", "--resume", "--out", "run", "--holdout", "0.5") == 2
    assert "which --data.holdout would change" in capsys.readouterr().err
    shutil.rmtree(workplace / "run" / "checkpoints" / "000000004")
    assert quietly("train", "more/train", "--resume", "--out", "run") == 2
    assert "more/train: not the pictures this run was started with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["photos", "photos"], "ddpm: photos: given twice"),
        (["photos", "--holdout", "tset"], "ddpm: --holdout tset: neither a share between 0 and 1, nor other DATA"),
        (["photos", "nothing"], "ddpm: nothing: no such file or folder"),
    ],
)
def test_refusals(arguments, says, capsys):
    assert quietly("train", *arguments, *tiny.QUICK, *STEPS) == 2
    assert says in capsys.readouterr().err
