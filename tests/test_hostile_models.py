"""Hostile models and configs: each is refused by one line, no code of theirs runs, memory stays bounded."""

import json
import os
import pickle
import resource
import select
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import hostile_models as hostile
import tiny
from hostile_models_case import SENTINEL, Case, our_weights
from hostile_models_damage import whole
from hostile_models_ours import described, description, ours
from hostile_models_pickles import Payload
from hostile_models_small import BOMB

ROOM = 2 << 30
"""Bytes that opening may take beyond what pytest has: a hundred times the largest case's."""
PATIENCE = 30
"""Seconds."""


@pytest.fixture
def bounded():
    """More memory is an error here, and so is more time: what waits for a pipe is stopped."""
    before = resource.getrlimit(resource.RLIMIT_AS)

    def late(*_):
        raise AssertionError("hangs")

    usual = signal.signal(signal.SIGALRM, late)
    hostile.limited(ROOM)
    signal.alarm(PATIENCE * 4)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, usual)
        resource.setrlimit(resource.RLIMIT_AS, before)


def files(folder):
    """What is in a folder, but for what a test made."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def one_line(text):
    return text.isprintable() and 0 < len(text) <= 2100


@pytest.mark.parametrize("family", hostile.FAMILIES, ids=lambda family: family.__name__)
def test_each_is_refused_by_a_line_that_says_why(tmp_path, monkeypatch, bounded, family):
    place, elsewhere = tmp_path / "corpus", tmp_path / "elsewhere"
    place.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    wrong, count = [], 0
    for case in family(place):
        before = files(place) if case.what == "model" and count % 20 == 0 else None
        outcome, text = hostile.tried(case)
        count += 1
        if case.expected == "any" and outcome == "opened":
            continue
        if outcome != "refused" or case.says not in text or not one_line(text):
            wrong.append(f"{case.name}: {outcome} {text[-2000:]}")
        elif before is not None and before != files(place):
            wrong.append(f"{case.name}: {set(before) ^ set(files(place))}")
    assert not wrong, "\n\n".join([f"{len(wrong)} of {count}", *wrong])
    assert not (place / SENTINEL).exists() and not files(elsewhere)


def test_the_payloads_are_such(tmp_path):
    """What is refused above would have run."""
    mark = tmp_path / SENTINEL
    pickle.loads(pickle.dumps(Payload(os.mkdir, str(mark))))
    assert mark.is_dir()


def test_what_is_damaged_is_whole_before(models):
    for model in models:
        outcome, text = hostile.tried(model.case)
        assert outcome == ("refused" if model.case.says else "opened") and model.case.says in text, text
        assert all((model.folder / name).is_file() for name in model.files)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return whole(tmp_path_factory.mktemp("models") / "whole")


@given(
    which=st.integers(0, 18),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=4),
)
@example(which=1, edits=[(0.0, 8, b"\xff" * 8)])
@example(which=3, edits=[(1.0, 0, b"\0" * 40)])
def test_bytes_replaced_anywhere(models, tmp_path_factory, which, edits):
    """A part of a file, however short and wherever, becomes another: it opens, or says in a line why not."""
    every = [(model, name) for model in models for name in model.files]
    model, name = every[which % len(every)]
    place = tmp_path_factory.mktemp("edited") / "model"
    shutil.copytree(model.folder, place)
    target = place / name
    data = target.read_bytes()
    for share, length, new in edits:
        at = round(share * len(data))
        data = data[:at] + new + data[at + length :]
    target.write_bytes(data)
    outcome, text = hostile.tried(replace(model.case, path=place / model.case.path.relative_to(model.folder)))
    shutil.rmtree(place)
    assert outcome == "opened" or (outcome == "refused" and one_line(text)), text


# -- permissions -------------------------------------------------------------------------------------------------


@contextmanager
def unreadable(tmp_path, *paths):
    """Inside, these may not be read, even by root, whom no permissions stop; what is above them may be passed."""
    above = [folder for folder in (tmp_path, *tmp_path.parents) if "pytest" in str(folder)]
    modes = {path: path.stat().st_mode for path in (*above, *paths)}
    user = os.geteuid()
    for path, mode in modes.items():
        path.chmod(0 if path in paths else mode | 0o011)
    if not user:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        for path, mode in modes.items():
            path.chmod(mode)


def test_what_may_not_be_read(tmp_path):
    run = tiny.run(tmp_path / "run").folder
    config = tmp_path / "config.yaml"
    config.write_text("net: {channels: 8}")
    weights = run / "checkpoints" / "000000007" / "ema.safetensors"
    locked = tmp_path / "locked"
    locked.mkdir()
    (locked / "model.pt").write_bytes(b"x")
    with unreadable(tmp_path, config, weights, locked):
        for case in (
            Case("a file", weights),
            Case("in a folder", locked / "model.pt"),
            Case("a folder", locked),
            Case("a config", config, what="config"),
            Case("a net", weights, what="features"),
        ):
            outcome, text = hostile.tried(case)
            assert outcome == "refused" and "Permission denied" in text and one_line(text), (case.name, text)
        outcome, text = hostile.tried(Case("a run", run))
        assert outcome == "refused" and "no whole checkpoint" in text


# -- the command line --------------------------------------------------------------------------------------------


def test_commands_say_it_in_a_line(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    tiny.photos(tmp_path / "photos", 6)
    weights = tiny.weights(tiny.config(), 3, 1)
    wide = ours(corpus / "wide.safetensors", weights, described("config.net.channels", 10**9))
    name = corpus / "two\nlines.pt"
    name.write_bytes(b"hello")
    bomb = corpus / "bomb.yaml"
    bomb.write_text(BOMB)
    os.mkfifo(corpus / "pipe.yaml")
    (corpus / "nothing.pt2").write_bytes(b"")
    fid = ["evaluate", "fashion", "--reference", "photos", "--metrics", "fid", "--features"]
    train = ["train", "photos", *tiny.QUICK, "--steps", "1", "--out", "out"]
    for arguments, says in (
        (["info", wide], "net.channels 1000000000 is even"),
        (["sample", wide, "-n", "1", "--out", "out"], "net.channels 1000000000 is even"),
        (["sample", "fashion", "-n", "1", "--classifier", wide, "--out", "out"], "net.channels 1000000000"),
        (["convert", wide, "out", "--to", "ddpm"], "net.channels 1000000000 is even"),
        (["evaluate", wide, "--reference", "photos"], "net.channels 1000000000 is even"),
        ([*train, "--init-from", wide], "net.channels 1000000000 is even"),
        (["info", name], r"two\nlines.pt: damaged, or not a file of PyTorch"),
        ([*train, "--config", bomb], "bomb.yaml, line 2: not YAML (*a0 repeats"),
        ([*train, "--config", corpus / "pipe.yaml"], "is a pipe; name a file"),
        ([*fid, corpus / "nothing.pt2"], "is empty"),
        ([*train, "--net.chanels", "3"], "--net.chanels: no such option; did you mean --net.channels?"),
        ([*train, "--chanels", "3"], "--chanels: no such option; did you mean --channels?"),
        ([*train, "--train.keep-evry=3"], "--train.keep-evry: no such option; did you mean --train.keep"),
        ([*train, "--net.channels", "x"], "--net.channels: invalid literal for int"),
        ([*train, "--preset", "cifra10"], "--preset cifra10: did you mean cifar10?"),
        (["sample", "fashon"], "did you mean fashion?"),
        (["sample", "fashion", "more"], "more: one argument too many"),
        (["sample"], "MODEL"),
    ):  # fmt: skip
        status, _, errors = call(*arguments)
        assert status == 2 and errors.startswith("ddpm: ") and errors.count("\n") == 1, (arguments, errors)
        assert says in errors, errors
    assert not (tmp_path / "out").exists() and not (tmp_path / "runs").exists()


def test_a_model_does_not_command_the_terminal(tmp_path, call):
    """Names in a file are shown, not obeyed."""

    def change(values):
        values["config"]["data"]["path"] = ["\x1b[2Jgone\nx"]
        values["config"]["train"]["init_from"] = "\ud800"
        values["data"] |= {"name": "\x1b]0;title\x07", "classes": ["a\x1b[31m", "b\n", "\ud800"]}
        values |= {"plan": ["\x1b[2J"], "command": "\x1b[2J\r"}

    path = tmp_path / "loud.safetensors"
    ours(path, our_weights(), json.dumps(description(change)))
    status, out, _ = call("info", path)
    assert status == 0 and r"\x1b[2Jgone\nx" in out and r"0 a\x1b[31m" in out and r"\ud800" in out
    assert all(line.isprintable() for line in out.split("\n"))


# -- by the hundred ----------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_models_damaged_at_random(tmp_path):
    """Fifteen hundred, in a process that may take 1 GB; whatever hangs or crashes it is an outcome too."""
    count, room = 1500, 1 << 30
    outcomes, wrong, most, done = {"refused": 0, "opened": 0}, [], 0, 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    while done < count:
        arguments = [tmp_path / f"from {done}", done, count - done, room]
        child = subprocess.Popen(
            [sys.executable, hostile.__file__, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=elsewhere,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        while done < count:
            ready, _, _ = select.select([child.stdout], [], [], 60 + PATIENCE)
            line = child.stdout.readline() if ready else b""
            done += 1
            if not line:
                wrong.append(f"number {done - 1}: {'crash' if ready else 'hang'}")
                break
            name, outcome, text, grown = json.loads(line)
            most = max(most, grown)
            if outcome == "trace" or (outcome == "refused" and not one_line(text)):
                wrong.append(f"{name}: {text}")
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        child.kill()
        child.communicate()
    run = len(list(tmp_path.rglob(SENTINEL))) + len(files(elsewhere))
    print(
        f"models tried {count}, refused {outcomes['refused']}, opened {outcomes['opened']}, "
        f"stack traces {len(wrong)}, code run {run}, most memory {most / 1e6:.0f} MB"
    )
    assert not wrong, "\n\n".join(wrong[:10])
    assert run == 0 and most < room
    assert outcomes["opened"] > count // 20 and outcomes["refused"] > count // 3  # else nothing was tried
