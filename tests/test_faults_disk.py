"""What a disk can do to a training: kills in a write, no room, damage, no permission, another training."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import faults
import tiny
from ddpm import atomic
from ddpm.data import load, open_source
from ddpm.events import Ended, Saved, Stepped
from ddpm.store import Description, Run
from ddpm.train import facts, fit
from ddpm.trainer import Trainer

OPTIONS = ["photos", *faults.QUICK, "--loss.times", "loss-second-moment"]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny.photos(tmp_path / "photos", faults.PHOTOS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes of their own
    yield tmp_path
    torch.set_num_threads(threads)


def options(steps, every, *more):
    return [*OPTIONS, "--steps", steps, "--checkpoint-every", every, *more]


@pytest.fixture
def train(call):
    """`ddpm train …` in this process, which must end well; what it printed."""

    def train(*arguments):
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        status, out, err = call("train", *arguments)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        assert status == 0, out + err
        return out

    return train


# -- kills -----------------------------------------------------------------------------------------------------

# Writes a checkpoint over and over, and is killed before the first, second, … thing that it does to the disk.
EVERY_MOMENT = """
import os, shutil, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
import tiny
from ddpm.store import Description, Run

CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")
parts = {part: {"w": torch.arange(3.0)} for part in ("model", "ema", "optimizer")}

def save(folder, step):
    run = Run(folder)
    run.save(Description(tiny.config(), tiny.ANIMALS, step), parts, {"images": step}, keep=2, best=2, every=6)

def kill_before(moment):
    seen = 0
    def hook(event, values):
        nonlocal seen
        if event in CHANGES and (event != "open" or "moment" in str(values[0])):
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

Run.create("template", Description(tiny.config(), tiny.ANIMALS))
for step in (2, 4, 6, 8, 10):
    save("template", step)
again = sys.argv[2] == "again"
for moment in range(1, 1000):
    folder = Path(f"moment-{moment:03d}")
    shutil.copytree("template", folder)
    child = os.fork()
    if not child:
        kill_before(moment)
        save(folder, 10 if again else 12)
        os._exit(0)
    if not os.waitpid(child, 0)[1]:
        break
"""


@pytest.mark.parametrize("what", ["another", "again"])
def test_killed_at_every_moment_of_a_write_and_of_thinning(workplace, what):
    """Between any two changes to the disk each checkpoint is whole or gone, and what may stay stays."""
    words = [sys.executable, "-c", EVERY_MOMENT, str(Path(__file__).parent), what]
    left = faults.end(faults.spawn(words))
    assert left.status == 0, left.err
    rule = [2, 6, 8, 10] if what == "again" else [2, 6, 10, 12]  # best, every sixth, the two newest
    *killed, survivor = sorted(Path().glob("moment-*"))
    assert len(killed) > 20 and faults.check_whole(survivor) == rule
    remains = 0
    for folder in killed:
        steps = faults.check_whole(folder)
        remains += bool(list(folder.rglob(".*.tmp")))
        run = Run(folder)
        run.rewind(run.newest()[0].step)  # as a resumed training does at first
        after = faults.check_whole(folder)
        assert after == steps and {2, 6} <= set(after) <= {2, 6, 8, 10, 12}
        assert 10 in after or (what == "again" and 8 in after)  # replaced, it has no name for a moment
        assert not list(folder.rglob("*.tmp"))
    assert remains > 10


@pytest.mark.soak
def test_killed_while_a_checkpoint_is_written(workplace, train):
    train(*options(12, 2), "--out", "whole")
    process = faults.start("train", *options(12, 2), "--out", "run", before=faults.SLOW.format(seconds=0.15))
    with faults.killed_after(process):
        while not list(Path("run/checkpoints").glob(".000000006.*.tmp/*")):
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
        process.wait()
    assert list(Path("run/checkpoints").glob(".*.tmp")) and max(faults.check_whole("run")) == 4
    assert "going on after step 4" in train("--resume", "--out", "run")
    faults.check_same("run", "whole")


# -- no room ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(workplace):
    """A disk of its own of 16 MB."""
    place = workplace / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("takes the right to mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place):
    """Takes all of a disk's room."""
    size = 1 << 20
    with (place / "ballast").open("ab", buffering=0) as file:
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2


@pytest.mark.slow
def test_a_full_disk_loses_nothing_that_was_there(workplace, train, small_disk):
    train(*options(40, 4), "--out", "whole")
    process = faults.start("train", *options(40, 4), "--out", "disk/run", pipesize=4096)
    with faults.killed_after(process):
        faults.until(process, "saved ")
        fill(small_disk)
        left = faults.end(process)
    newest, damaged = Run("disk/run").newest()
    assert newest is not None and not damaged and newest.step < 40
    noted = "could not be written (No space left on device); training goes on, and the one before is still there"
    assert left.status == 2 and noted in left.out and "step 40/40" in left.out
    said = faults.line_of(left.err)
    assert said.startswith("ddpm: disk/run: the checkpoint of step 40 could not be written (No space left on dev")
    assert said.endswith("make room and go on from the last whole one with: ddpm train --resume --out disk/run")
    faults.check_whole("disk/run")
    (small_disk / "ballast").unlink()
    assert f"going on after step {newest.step}" in train("--resume", "--out", "disk/run")
    faults.check_same("disk/run", "whole")


@pytest.mark.soak
def test_a_full_disk_and_two_processes(small_disk, train):
    """Both end; only the main one knows why."""
    both = faults.crew(2, "train", *options(40, 4), "--out", "disk/run", pipesize=4096)
    with faults.killed_after(*both):
        faults.until(both[0], "saved ")
        fill(small_disk)
        left = faults.together(both)
    assert [one.status for one in left] == [2, 2] and not left[1].err.count("ddpm:"), left
    assert "the checkpoint of step 40 could not be written (No space left" in faults.line_of(left[0].err)
    (small_disk / "ballast").unlink()
    train("--resume", "--out", "disk/run")
    train(*options(40, 4), "--out", "whole")
    faults.check_near("disk/run", "whole")


@pytest.mark.soak
def test_room_that_is_made_in_time_is_taken(workplace, train, small_disk):
    """Nothing is missing, not even of the log, whose lines had to wait."""
    train(*options(60, 4), "--out", "whole")
    process = faults.start("train", *options(60, 4), "--out", "disk/run", pipesize=4096)
    with faults.killed_after(process):
        faults.until(process, "saved ")
        fill(small_disk)
        faults.until(process, "note: the checkpoint of step")
        (small_disk / "ballast").unlink()
        left = faults.end(process)
    assert left.status == 0 and not left.err.count("ddpm:"), left
    faults.check_same("disk/run", "whole")


def test_lines_that_had_to_wait_are_written_before_what_is_saved_after_them(workplace, monkeypatch):
    trainer, run, description = small_training(workplace, steps=6, every=6)
    opened, full = Path.open, [True]

    def without_room(path, mode="r", *rest, **named):
        if path.name == "log.jsonl" and "a" in mode and full[0]:
            raise OSError(28, "No space left on device")
        return opened(path, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", without_room)
    for event in fit(trainer, run, description):
        if isinstance(event, Stepped) and event.step == 6:
            assert not run.records()
        full[0] = not isinstance(event, Saved) and full[0]
        if type(event).__name__ == "Logged" and event.step == 6:
            full[0] = False  # the last line has been refused, too
    assert [one["step"] for one in run.records()] == [1, 2, 3, 4, 5, 6]


# -- damage ----------------------------------------------------------------------------------------------------


def truncated(data, dice):
    return data[: int(dice.integers(0, len(data)))]


def flipped(data, dice):
    """One bit of it."""
    place, bit = int(dice.integers(len(data))), int(dice.integers(8))
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def values(data):
    """What state.json says but for its own checksum, which a flipped bit may rename."""
    return [(key, value) for key, value in json.loads(data).items() if not isinstance(value, str)]


FILES = ["model", "ema", "optimizer", "times", "state"]


@pytest.fixture
def finished(workplace):
    """A whole run of 6 steps by the library alone, with a checkpoint of every second."""
    trainer, run, description = small_training(workplace, steps=6, every=2, keep=9)
    list(fit(trainer, run, description))
    return run


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [truncated, flipped])
def test_any_damage_to_the_newest_is_found(finished, name, damage):
    """A single bit of any of its files; and of state.json, whose numbers no other checksum covers."""
    folder = finished.checkpoint(6)
    (path,) = folder.glob(f"{name}.*")
    data, dice = path.read_bytes(), np.random.default_rng(len(name))
    for _ in range(40):
        path.write_bytes(damage(data, dice))
        newest, damaged = finished.newest()
        if newest.step == 6:  # what was left out of the JSON's reading: white space, an escape
            assert name == "state" and values(path.read_bytes()) == values(data)
            continue
        assert newest.step == 4 and len(damaged) == 1 and str(path) in damaged[0], damaged
    path.write_bytes(data)
    assert finished.newest()[0].step == 6


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("optimizer", flipped),
        pytest.param("state", truncated, marks=pytest.mark.soak),
        *[pytest.param(name, flipped, marks=pytest.mark.soak) for name in FILES if name != "optimizer"],
        *[pytest.param(name, truncated, marks=pytest.mark.soak) for name in FILES if name != "state"],
    ],
)
def test_damaged_it_goes_on_from_the_one_before(workplace, train, name, damage):
    train(*options(8, 2), "--train.keep", 3, "--out", "whole")
    shutil.copytree("whole", "run")
    (path,) = Path("run/checkpoints/000000008").glob(f"{name}.*")
    path.write_bytes(damage(path.read_bytes(), np.random.default_rng(1)))
    out = train("--resume", "--out", "run")
    assert f"note: {path}: " in out and "an older checkpoint is used" in out and "going on after step 6" in out
    faults.check_same("run", "whole")


def test_all_damaged_nothing_is_thrown_away(workplace, train, call):
    train(*options(4, 2), "--out", "run")
    for path in Path("run/checkpoints").glob("*/model.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    before = {
        path: hashlib.sha256(path.read_bytes()).digest() for path in Path("run").rglob("*") if path.is_file()
    }
    status, _, err = call("train", "--resume", "--out", "run")
    said = "ddpm: run: no checkpoint of this run is whole; start it anew with another --out"
    assert status == 2 and faults.line_of(err) == said
    after = {path: hashlib.sha256(path.read_bytes()).digest() for path in Path("run").rglob("*") if path.is_file()}
    assert after == before


# -- no permission ---------------------------------------------------------------------------------------------


@pytest.fixture
def shut():
    """Makes a folder read-only, or writable again; what holds for everybody else does not for root."""
    mounted = []

    def shut(folder, to=True):
        if os.geteuid():
            folder.chmod(0o555 if to else 0o755)
        elif to:
            for words in (["--bind", folder, folder], ["-o", "remount,ro,bind", folder]):
                if not shutil.which("mount") or subprocess.run(["mount", *words], capture_output=True).returncode:
                    pytest.skip("takes the right to mount a folder read-only")
                mounted.append(folder) if folder not in mounted else None
        else:
            mounted.remove(folder)
            subprocess.run(["umount", "-l", folder], check=True)

    yield shut
    for folder in list(mounted):
        shut(folder, False)


def test_a_folder_that_is_read_only_is_told_before_anything_is_spent(workplace, call, shut):
    runs = workplace / "runs"
    runs.mkdir()
    shut(runs)
    status, out, err = call("train", *options(4, 2), "--out", "runs/run")
    said = f"ddpm: runs/run: cannot be written ({runs} is not yours to write); choose another --out"
    assert status == 2 and faults.line_of(err) == said and "pictures of photos" not in out
    shut(runs, False)
    assert not list(runs.iterdir()) and not Path("cache").exists()


@pytest.mark.soak
def test_a_folder_that_becomes_read_only_keeps_what_it_has(workplace, train, call, shut):
    """The training goes on in vain, says so, and can be gone on with when it may write again."""
    train(*options(40, 4), "--out", "whole")
    process = faults.start("train", *options(40, 4), "--out", "run", pipesize=4096)
    with faults.killed_after(process):
        faults.until(process, "saved ")
        shut(workplace / "run")
        left = faults.end(process)
    assert left.status == 2 and "; training goes on, and the one before is still there: make room" in left.out
    assert faults.line_of(left.err).startswith("ddpm: run: the checkpoint of step 40 could not be written (")
    steps = faults.check_whole("run")
    assert steps and max(steps) < 40
    status, _, err = call("train", "--resume", "--out", "run")
    assert status == 2 and faults.line_of(err).startswith("ddpm: run: cannot be written (")
    shut(workplace / "run", False)
    train("--resume", "--out", "run")
    faults.check_same("run", "whole")


# -- another training ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_trainings_in_one_folder(workplace, train, call):
    """The second says who is there and leaves; the first does not notice. A kill gives the folder free."""
    train(*options(40, 5), "--out", "whole")
    process = faults.start("train", *options(40, 5), "--out", "run", pipesize=4096)
    with faults.killed_after(process):
        faults.until(process, "saved ")
        os.kill(process.pid, signal.SIGSTOP)
        before = faults.check_whole("run")
        status, _, err = call("train", "--resume", "--out", "run")
        assert status == 2
        who = f"ddpm: run: another training writes here (process {process.pid} on "
        assert faults.line_of(err).startswith(who) and "choose another --out" in err
        status, _, err = call("train", *options(40, 5), "--out", "run")
        assert status == 2 and "holds a run already" in faults.line_of(err)
        assert faults.check_whole("run") == before
        os.kill(process.pid, signal.SIGCONT)
        left = faults.end(process)
    assert left.status == 0, left
    faults.check_same("run", "whole")


@pytest.mark.soak
def test_two_that_begin_at_once(workplace):
    """One of them gets the folder."""
    both = [faults.start("train", *options(12, 4), "--out", "run") for _ in range(2)]
    with faults.killed_after(*both):
        left = faults.together(both)
    assert sorted(one.status for one in left) == [0, 2], left
    (loser,) = (one for one in left if one.status)
    said = faults.line_of(loser.err)
    assert "another training writes here" in said or "holds a run already" in said
    assert faults.check_whole("run") == [8, 12]


# -- thinning --------------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_which_checkpoints_stay(workplace, train):
    """The newest two, every ninth step's, and that of the least score, which the log tells."""
    rule = ["--train.keep", 2, "--train.keep-every", 9, "--train.evaluate-every", 4]
    train(*options(24, 3), *rule, "--train.evaluate-samples", 8, "--out", "run")
    scores = {one["step"]: one["fid"] for one in faults.log_of("run") if "fid" in one}
    assert sorted(scores) == [4, 8, 12, 16, 20, 24]
    best = min(scores, key=lambda step: (scores[step], step))
    leads = [s for s in scores if all(scores[s] < scores[t] for t in scores if t < s)]
    written = sorted({*range(3, 25, 3), *leads})
    assert faults.check_whole("run") == sorted({best, 9, 18, *written[-2:]})


# -- long writes -----------------------------------------------------------------------------------------------


def small_training(workplace, steps, every, keep=2):
    config = tiny.config(
        train__steps=steps,
        train__checkpoint_every=every,
        train__log_every=1,
        train__preview_every=0,
        train__keep=keep,
        loss__times="loss-second-moment",
    )
    pictures = load(open_source("photos"), (8, 8), 1, cache=workplace / "cache")
    description = Description(config, facts(pictures))
    run = Run.create(workplace / "run", description)
    return Trainer(config, pictures, Accelerator(cpu=True)), run, description


def test_a_long_write_does_not_hold_up_the_steps(workplace, monkeypatch):
    """The disk flushes nothing until five more steps are done; that would be never, if they waited for it."""
    trainer, run, description = small_training(workplace, steps=20, every=10)
    flush, later, got = os.fsync, threading.Event(), []

    def slowly(handle):
        if threading.current_thread().name.startswith("checkpoint") and not later.is_set():
            got.append(later.wait(60))
        flush(handle)

    monkeypatch.setattr(atomic.os, "fsync", slowly)
    seen = []
    for event in fit(trainer, run, description):
        seen.append(event)
        if event == Stepped(15):
            later.set()
    assert got == [True] and isinstance(event, Ended)
    assert seen.index(Saved(10, run.checkpoint(10))) > seen.index(Stepped(15))
    assert faults.check_whole(run.folder) == [10, 20]
