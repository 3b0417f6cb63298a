"""DATA by the command line: several of them, held-out pictures, and a resume that finds both again."""

import json
import re
import shutil
import signal
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


# -- classes -----------------------------------------------------------------------------------------------


def labelled(folder, kind):
    """24 pictures of two classes as DATA of a kind, and the names of the classes, in their order."""
    names = ("tabby cat", "Äpfel & Birnen")
    rng, number = np.random.default_rng(0), np.arange(24) % 2
    pixels = rng.integers(0, 256, (24, 8, 8), dtype=np.uint8)
    folder.mkdir()
    if kind == "idx":
        for name, array in (("images-idx3", pixels), ("labels-idx1", (3 + 4 * number).astype(np.uint8))):
            head = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
            (folder / f"train-{name}-ubyte").write_bytes(head + array.tobytes())
        return folder, ("3", "7")
    if kind == "npz":
        np.savez(folder / "all.npz", images=pixels, labels=1 - number, classes=np.array(names[::-1]))
        return folder / "all.npz", names[::-1]
    files = [f"{names[k]}/{i} ü.png" if kind == "folders" else f"{i}.png" for i, k in enumerate(number)]
    for file, one in zip(files, pixels, strict=True):
        (folder / file).parent.mkdir(exist_ok=True)
        Image.fromarray(one).save(folder / file)
    pairs = [(file, names[k]) for file, k in zip(files, number, strict=True)]
    if kind == "csv":
        (folder / "animals.csv").write_text("file,label\n" + "".join(f'{a},"{b}"\n' for a, b in pairs))
        return folder / "animals.csv", names
    if kind == "json":
        (folder / "dataset.json").write_text(json.dumps({"labels": pairs}, ensure_ascii=False))
    return folder, names


@pytest.mark.parametrize("kind", ["folders", "csv", "json", "idx", "npz"])
def test_classes_are_kept_by_name_and_drawn_by_name(workplace, capsys, kind):
    """The names reach the run's facts; asked for by name or number, the class is in record and file names."""
    data, names = labelled(workplace / "data", kind)
    quick = [*tiny.QUICK, *STEPS, "--steps", 1, "--train.preview-every", 0]
    assert quietly("train", data, *quick, "--label-drop", 0.2, "--out", "run") == 0
    described = Run("run").description()
    assert described.facts.classes == names and described.facts.frequencies == (0.5, 0.5)
    assert described.config.train.label_drop == 0.2
    for label, expected in ((names[1], names[1]), ("0", names[0])):
        draw = ["sample", "run", "-n", 2, "--steps", 2, "--no-film", "--class", label, "--out", f"drawn{label}"]
        assert quietly(*draw, "--cfg-scale", 2) == 0
        record = json.loads(Path(f"drawn{label}/samples.json").read_text())
        assert [record["classes"][k] for k in record["labels"]] == [expected] * 2 and record["cfg_scale"] == 2.0
        assert all(re.sub(r"\W+", "-", expected) in path.name for path in Path(f"drawn{label}/pictures").iterdir())
    capsys.readouterr()
    assert quietly("sample", "run", "-n", 1, "--class", names[1][:-1] + "x", "--out", "no") == 2
    err = capsys.readouterr().err
    assert f"no such class; {'' if kind == 'idx' else f'did you mean {names[1]}? '}there are 0 {names[0]}" in err
