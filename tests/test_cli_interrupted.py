"""Commands stopped or killed in the middle: what they leave under a final name is whole, or it is not there."""

import io
import json
import shutil
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import faults
import tiny
from ddpm.cli import COMMANDS
from ddpm.store import Facts, load_weights

PICTURE = "grey/cats/00.png"
SCORED = ["--reference", "grey", "--features", "random", "--device", "cpu"]
MADE = ["--out", "made", "--device", "cpu"]
# All but train, of which tests/test_faults_kill.py makes more.
LINES = {
    "check": ["photos", *tiny.QUICK, "--steps", "1", "--out", "made"],
    "sample": ["zoo", "-n", "6", "--steps", "4", *MADE],
    "evaluate": ["plain", "--reference", "grey", "--metrics", "nll,rate,grid", "-n", "4", "--batch", "2", *MADE],
    "evaluate fid": ["zoo", *SCORED, "--metrics", "fid,kid", "-n", "8", "--batch", "4", "--steps", "2", *MADE],
    "tune": ["zoo", *SCORED, "-n", "8", "--evaluations", "2", "--samplers", "ddim,dpm++", "--grids", "uniform"],
    "progressive": ["zoo", "-n", "3", "--steps", "4", "--out", "made/walk.png", "--device", "cpu"],
    "interpolate": ["plain", PICTURE, "grey:3", "--steps", "4", *MADE],
    "inpaint": ["plain", PICTURE, "--mask", "left", "--resample", "1", "-n", "4", "--steps", "4", *MADE],
    "invert": ["plain", PICTURE, "grey:3", "--steps", "4", *MADE],
    "img2img": ["plain", PICTURE, "--t", "20", "-n", "4", "--steps", "4", *MADE],
    "convert": ["plain", "made", "--to", "ddpm", "--device", "cpu"],
    "convert file": ["plain", "made/plain.safetensors", "--to", "ddpm", "--device", "cpu"],
    "info": ["zoo"],
    "report": ["zoo", "--samples", "4", "--steps", "4", "--device", "cpu"],
    "plot": ["schedule", "linear", "cosine", "--respace", "20", "--out", "made/schedule.svg"],
}
KEPT = ("evaluate", "evaluate fid", "tune")  # go on with what they have, file by file
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
# A signal before this line finds Python itself at work.
BEGIN = "import ddpm.cli; print('begun', flush=True)\n"


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny.photos(tmp_path / "photos", 12)
    tiny.photos(tmp_path / "grey", 12, grey=True)
    tiny.run(tmp_path / "zoo")
    tiny.run(tmp_path / "plain", Facts("zoo", 10))
    return tmp_path


# -- looking ---------------------------------------------------------------------------------------------------


def open_whole(path):
    """Raises what its reader raises, if the file is not whole."""
    data = path.read_bytes()
    match path.suffix:
        case ".png" | ".webp":
            with Image.open(io.BytesIO(data)) as image:
                for frame in range(getattr(image, "n_frames", 1)):
                    image.seek(frame)
                    image.load()
        case ".json":
            json.loads(data)
        case ".safetensors":
            assert all(bool(value.isfinite().all()) for value in load_weights(path)[0].values())
        case ".npy":
            np.load(io.BytesIO(data), allow_pickle=False)
        case ".npz":
            assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None
        case ".html" | ".svg":
            assert data.rstrip().endswith((b"</html>", b"</svg>"))
        case ".md":
            assert data.startswith(b"---\n") and data.endswith(b"\n")
        case other:
            raise AssertionError(f"nobody knows how to look at a {other or path.name}")


def whole(folder):
    """Names of what stands there under its own name, every file of which has been opened."""
    paths = [path for path in folder.rglob("*") if not any(part.startswith(".") for part in path.parts)]
    for path in paths:
        if path.is_file() and path.name != "log.jsonl":
            open_whole(path)
    return sorted(str(path.relative_to(folder)) for path in paths if path.is_file())


def halves(folder):
    """What a process that was stopped should have cleared away."""
    return sorted(str(path) for path in folder.rglob("*") if path.name.endswith((".tmp", ".partial")))


# -- in the middle of a write ------------------------------------------------------------------------------------

WRITING = {
    "sample": ["sample", "zoo", "-n", "2", "--steps", "2", *MADE],
    "plot": ["plot", "schedule", "linear", "--out", "made.png"],
    "convert": ["convert", "plain", "made", "--to", "ddpm", "--no-samples"],
}


@pytest.mark.parametrize("command, number", [*zip(WRITING, SIGNALS, strict=True)])
def test_in_the_middle_of_a_write(workplace, call, command, number):
    """Its first flush to the disk takes a minute, and there it is when the signal comes."""
    before = f"{BEGIN}{faults.SLOW.format(seconds=60)}"
    process = faults.start(*WRITING[command], before=before)
    with faults.killed_after(process):
        deadline = time.monotonic() + 120
        while not (found := halves(workplace)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert found and process.poll() is None
        time.sleep(0.2)
        process.send_signal(number)
        status, _, err = faults.end(process, 30)
    assert status == (-9 if number == signal.SIGKILL else 128 + number)
    assert not list(workplace.glob("made*"))
    if number == signal.SIGKILL:
        assert err.count("ddpm: ") == 0
    else:
        assert halves(workplace) == [] and faults.line_of(err) == "ddpm: stopped"
    assert call(*WRITING[command])[0] == 0 and list(workplace.glob("made*"))


# -- at random ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def figures():
    return {"commands interrupted": 0, "half-written outputs": 0, "stack traces": 0}


def output_of(line):
    return Path("zoo" if line in ("tune", "report", "info") else "made")


def started(line):
    """The command, from the moment that it is ddpm's; how its stderr goes on."""
    process = faults.start(line.split()[0], *LINES[line], before=BEGIN + faults.SLOW.format(seconds=0.03))
    faults.until(process, "begun")
    return process


def test_every_command_is_here():
    assert {line.split()[0] for line in LINES} == set(COMMANDS) - {"train"}


@pytest.mark.soak
@pytest.mark.parametrize("line", LINES)
def test_stopped_at_random_it_leaves_nothing_or_all(workplace, figures, line):
    """Once with each signal, at a moment of the time that all of it takes; on what is left it runs through."""
    dice, output = np.random.default_rng(list(line.encode())), output_of(line)
    shutil.copytree("zoo", "zoo before")

    def afresh():
        for folder in ("made", "zoo"):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree("zoo before", "zoo")

    process = started(line)
    with faults.killed_after(process):
        began = time.monotonic()
        status, _, err = faults.end(process)
        lasts = faults.elapsed(began)
    assert status == 0, err
    names, none = whole(output), whole(Path("zoo before")) if output.name == "zoo" else []
    for number in SIGNALS:
        interrupted, tries = False, 0
        while not interrupted:
            tries += 1
            assert tries < 50, f"signal {number} never stops it"
            afresh()
            if dice.random() < 0.3:
                shutil.rmtree("cache", ignore_errors=True)
            process = started(line)
            with faults.killed_after(process):
                time.sleep(0.02 + dice.uniform(0, lasts))
                process.send_signal(number)
                status, _, err = faults.end(process, 60)
            figures["stack traces"] += "Traceback" in err or "Exception ignored" in err
            assert "Traceback" not in err and "Exception ignored" not in err, err
            interrupted = status != 0
            if not interrupted:
                continue
            figures["commands interrupted"] += 1
            # -number: while Python itself was leaving, all having been done
            assert status in (-9,) if number == signal.SIGKILL else status in (128 + number, -number), err
            if status == 128 + number:
                assert faults.line_of(err) == "ddpm: stopped"
                assert halves(workplace) == [], "not cleared away"
            try:
                left = whole(output) if output.exists() else []
                assert line in KEPT or left in (none, names), left
                assert set(left) <= set(names)
            except Exception:
                figures["half-written outputs"] += 1
                raise
            if left == names and line.startswith("convert"):
                shutil.rmtree(output)  # it replaces nothing
            process = started(line)
            with faults.killed_after(process):
                status, _, err = faults.end(process)
            assert status == 0, err
            assert whole(output) == names


@pytest.mark.soak
def test_so_many_were_interrupted(figures):
    print(", ".join(f"{what} {count}" for what, count in figures.items()))
    assert figures["commands interrupted"] >= 3 * len(LINES)
    assert figures["half-written outputs"] == figures["stack traces"] == 0


# -- no room -----------------------------------------------------------------------------------------------------


@pytest.fixture
def little_disk(tmp_path):
    """A disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True)
    if not done or done.returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "zoo", "-n", "200", "--steps", "1", "--device", "cpu", "--out", "disk/made"],
        ["invert", "plain", *["grey:1"] * 40, "--steps", "1", "--device", "cpu", "--out", "disk/made"],
        ["plot", "forward", PICTURE, "--size", "128", "--out", "disk/made.png"],
        ["convert", "plain", "disk/made", "--to", "ddpm", "--no-samples"],
        ["check", "photos", "--out", "disk/made"],
        ["evaluate", "plain", "--reference", "grey", "-n", "2", "--steps", "2", "--out", "disk/made"],
    ],
    ids=lambda one: one[0],
)
def test_a_full_disk_is_one_line(call, little_disk, arguments):
    if arguments[0] in ("check", "evaluate"):  # which write little
        (little_disk / "others").write_bytes(bytes(60 << 10))
    status, _, err = call(*arguments)
    line = faults.line_of(err)
    assert status == 2 and line.startswith("ddpm: ") and "No space left on device" in line and "made" in line
    assert ".tmp" not in line and halves(little_disk) == []
    left = [path for path in little_disk.rglob("*") if path.is_file() and path.name != "others"]
    if arguments[0] == "evaluate":  # keeps what it has
        for path in left:
            open_whole(path)
    else:
        assert left == [] and not list(little_disk.glob("made*"))
