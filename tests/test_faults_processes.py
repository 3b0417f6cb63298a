"""Several processes at one training: the same numbers, whoever dies, wherever they are."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

import faults
import tiny
from ddpm.store import Run

STEPS = 10
OPTIONS = ["photos", *faults.QUICK, "--steps", STEPS, "--checkpoint-every", 5, "--holdout", "0.2"]
CASES = {
    "plain": [],
    "accumulate": ["--train.accumulate", "2", "--batch", "9"],
    "label drop": ["--label-drop", "0.4"],
    "loss-second-moment": ["--loss.times", "loss-second-moment", "--batch", "15", "--steps", "20"],
    "upsampler": ["--task", "upsampler"],
    "classifier": ["--task", "classifier"],
    "shard": ["--train.shard"],
}
GONE_ON_WITH = ("plain", "loss-second-moment", "shard")  # by two, which four began
# Before `ddpm.cli` runs: each process keeps what it computes a step of.
SEEN = """
import os, torch, ddpm.trainer
_given = ddpm.trainer.Trainer._in_parts
def _seen(self, k, *given):
    torch.save(given, f"seen-{k}-{self.crew.index}-{self.crew.count}.pt")
    return _given(self, k, *given)
ddpm.trainer.Trainer._in_parts = _seen
"""
STOPPED = 60  # seconds within which the others end


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny.photos(tmp_path / "photos", faults.PHOTOS)
    return tmp_path


@pytest.fixture
def alone(call):
    """`ddpm train …` by this process, which must end well; what it printed."""

    def alone(*arguments):
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        status, out, err = call("train", *arguments)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        assert status == 0, out + err
        return out

    return alone


def trained(count, *arguments, **how):
    """`ddpm train …` by `count` processes, all of which must end well; what the main one printed."""
    started = faults.crew(count, "train", *arguments, **how)
    with faults.killed_after(*started):
        left = faults.together(started)
    for one in left:
        assert one.status == 0, "\n".join(f"{one.out}{one.err}" for one in left)
    assert not any(one.out for one in left[1:])
    return left[0].out


def check_told(left):
    """A process that another one has left alone: a line of what happened and what to do, and no more."""
    said = faults.line_of(left.err)
    assert left.status not in (0, -9) and "--resume" in said and "frame #" not in left.err, left
    return said


# -- the same numbers ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_see_what_one_sees_and_stop_together(workplace, alone):
    """Seven pictures a step, four and three. SIGTERM to one of them; one alone goes on."""
    options = [*OPTIONS, "--label-drop", 0.4, "--steps", 40]
    both = faults.crew(2, "train", *options, "--out", "two", before=SEEN, pipesize=4096)
    with faults.killed_after(*both):
        faults.until(both[0], "step 4/")
        both[1].send_signal(signal.SIGTERM)
        left = faults.together(both)
    assert [one.status for one in left] == [143, 143], left
    assert "stopped; go on with: ddpm train --resume --out two" in left[0].out and not left[1].out
    step = faults.check_whole("two")[-1]
    assert 4 <= step < 40
    for k in range(step):
        parts = [torch.load(f"seen-{k}-{i}-2.pt") for i in (0, 1)]
        assert [len(part[0]) for part in parts] == [4, 3]
    out = alone("--resume", "--out", "two")
    assert "note: 2 processes trained this run until now, 1 from here on: pictures, levels and noise stay" in out
    assert f"going on after step {step}" in out
    alone(*options, "--out", "one")
    faults.check_near("two", "one")


@pytest.mark.slow
def test_one_that_is_killed_ends_the_others(workplace, alone):
    check_killed(alone, 1, ["--loss.times", "loss-second-moment"])


@pytest.mark.slow
def test_sharded_it_is_the_same(workplace, alone):
    """FSDP over gloo: the same numbers, and files that do not tell who wrote them."""
    options = [*OPTIONS, "--train.shard", "--train.keep", 9]
    out = trained(2, *options, "--out", "two")
    assert "ddpm report two" in out
    alone(*options, "--out", "one")
    faults.check_near("two", "one")
    shutil.rmtree("two/checkpoints/000000010")
    assert "going on after step 5" in alone("--resume", "--out", "two")
    faults.check_near("two", "one")


def check_killed(alone, who, more):
    """Process `who` of two dies; the other one says so within a minute, and nothing is lost."""
    options = [*OPTIONS, *more, "--steps", 60]
    both = faults.crew(2, "train", *options, "--out", "two", pipesize=4096)
    with faults.killed_after(*both):
        faults.until(both[0], "step 12/")
        both[who].kill()
        since = time.monotonic()
        left = faults.together(both)
        assert faults.elapsed(since) < STOPPED
    assert left[who].status == -9
    check_told(left[1 - who])
    steps = faults.check_whole("two")
    assert steps and steps[-1] < 60
    assert f"going on after step {steps[-1]}" in alone("--resume", "--out", "two")
    alone(*options, "--out", "one")
    faults.check_near("two", "one")


# -- at length -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counts():
    """What the figures at the end are of."""
    return {"trainings": 0, "processes": 0}


def count(counts, n):
    counts["trainings"] += 1
    counts["processes"] += n


@pytest.mark.soak
@pytest.mark.parametrize("case", CASES)
def test_the_same_on_one_two_and_four(workplace, alone, counts, case):
    options = [*OPTIONS, *CASES[case]]
    alone(*options, "--out", "1")
    count(counts, 1)
    for n in (2, 4):
        trained(n, *options, "--out", n, before=SEEN)
        faults.check_near(str(n), "1")
        count(counts, n)
    # What each was given, put together, is the batch: the same bits on two and four.
    for k in range(Run("1").newest()[0].step):
        wholes = [whole_batch(k, n) for n in (2, 4)]
        assert wholes[0].keys() == wholes[1].keys()
        assert all(torch.equal(value, wholes[1][name]) for name, value in wholes[0].items()), k
    if case not in GONE_ON_WITH:
        return
    shutil.copytree("4", "4-2")
    shutil.rmtree(sorted(Path("4-2/checkpoints").iterdir())[-1])
    trained(2, "--resume", "--out", "4-2")
    faults.check_near("4-2", "1")
    count(counts, 2)


def whole_batch(k, n):
    """Pictures, levels, weights, noise and what else the net was told in step k, by all of n processes."""
    parts = [torch.load(f"seen-{k}-{i}-{n}.pt") for i in range(n)]
    assert max(len(one[0]) for one in parts) - min(len(one[0]) for one in parts) <= 1
    named = {str(i): torch.cat([one[i] for one in parts]) for i in range(4)}
    return named | {name: torch.cat([one[4][name] for one in parts]) for name in parts[0][4]}


@pytest.mark.soak
def test_dropout_differs_by_process_alone(workplace, alone):
    """Resumed by as many it is bit-equal; by another number the training says that it is not."""
    options = [*OPTIONS, "--net.dropout", 0.3, "--train.keep", 9]
    trained(2, *options, "--out", "whole")
    shutil.copytree("whole", "run")
    shutil.rmtree("run/checkpoints/000000010")
    shutil.copytree("run", "other")
    trained(2, "--resume", "--out", "run")
    faults.check_same("run", "whole")
    assert "; dropout, which every process draws for itself, differs" in alone("--resume", "--out", "other")


@pytest.mark.soak
def test_the_main_one_killed_ends_the_others(workplace, alone):
    check_killed(alone, 0, [])


@pytest.mark.soak
def test_one_killed_before_they_have_met(workplace):
    """Nobody waits for ever for one that never comes; ten minutes are made ten seconds here."""
    soon = "import ddpm.processes; ddpm.processes._MEETING = 10"
    for who in (0, 1):
        both = faults.crew(2, "train", *OPTIONS, "--out", "run", before=soon)
        with faults.killed_after(*both):
            both[who].kill()
            left = faults.together(both)
        assert "not all have come within" in check_told(left[1 - who])
    assert not Path("run").exists()


@pytest.mark.soak
@pytest.mark.parametrize("who", [0, 1])
def test_one_that_stands_still_ends_the_others(workplace, alone, who):
    """As a machine without power, or one that is cut off: nothing is closed, nothing answers."""
    options = [*OPTIONS, "--steps", 4000]
    with Path("said").open("w") as said:
        both = faults.crew(2, "train", *options, "--out", "run", stdout=said)
    with faults.killed_after(*both):
        while "step 10/" not in Path("said").read_text():
            assert both[0].poll() is None
            time.sleep(0.1)
        os.kill(both[who].pid, signal.SIGSTOP)
        since = time.monotonic()
        left = faults.end(both[1 - who])
        assert faults.elapsed(since) < STOPPED
        line = check_told(left)
        assert f"process {1 - who} of 2 stops: " in line and " for 40 s; start them all again" in line
        os.kill(both[who].pid, signal.SIGCONT)  # it comes back, and finds itself alone
        check_told(faults.end(both[who]))
    assert faults.check_whole("run")


@pytest.mark.soak
def test_the_others_wait_for_the_main_one_s_last_report(workplace):
    """It takes longer than a process may be silent, and the others have nothing left to do."""
    slowly = """
import time, ddpm.processes, ddpm.report
ddpm.processes._BEAT, _gather = 1.0, ddpm.report.gather
ddpm.report.gather = lambda *given, **named: (time.sleep(25), _gather(*given, **named))[1]
"""
    out = trained(2, *OPTIONS, "--out", "run", before=slowly)
    assert "done; look at run/report.html" in out and Path("run/report.html").exists()


@pytest.mark.soak
def test_accelerate_starts_them_too(workplace, alone):
    """Its word for several processes on one machine, whatever they run on."""
    words = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--num_machines", 1]
    words += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", faults.free_port()]
    words += ["-m", "ddpm.cli", "train", *OPTIONS, "--out", "two"]
    left = faults.end(faults.spawn([sys.executable, *map(str, words)]))
    assert left.status == 0 and "done; look at two/report.html" in left.out, left
    assert '"processes": 2' in Path("two/checkpoints/000000010/state.json").read_text()
    alone(*OPTIONS, "--out", "one")
    faults.check_near("two", "one")


@pytest.mark.soak
def test_a_folder_that_another_training_has(workplace):
    """All of the second ones leave; one line says why."""
    with Path("said").open("w") as said:
        first = faults.start("train", *OPTIONS, "--steps", 4000, "--out", "run", stdout=said)
    with faults.killed_after(first):
        while "saved" not in Path("said").read_text():
            assert first.poll() is None
            time.sleep(0.1)
        both = faults.crew(2, "train", "--resume", "--out", "run")
        with faults.killed_after(*both):
            left = faults.together(both)
        assert [one.status for one in left] == [2, 2] and not left[1].err, left
        assert f"another training writes here (process {first.pid} on " in faults.line_of(left[0].err)


@pytest.mark.soak
def test_a_batch_that_some_would_have_nothing_of(workplace):
    three = faults.crew(3, "train", *OPTIONS, "--batch", 2, "--out", "run")
    with faults.killed_after(*three):
        left = faults.together(three)
    assert all(one.status for one in left) and not Path("run").exists(), left
    said = faults.line_of(left[0].err)
    assert said.startswith("ddpm: --batch 2: of 3 processes some would have no picture; give --batch 3 or more")


# -- two machines ----------------------------------------------------------------------------------------------


def agent(node, port, cwd, *arguments, each=1):
    """One machine's launcher, as the README has it."""
    words = ["-m", "torch.distributed.run", "--nnodes", 2, "--node-rank", node, "--nproc-per-node", each]
    words += ["--master-addr", "127.0.0.2", "--master-port", port, "--local-addr", f"127.0.0.{2 + node}"]
    words += ["-m", "ddpm.cli", "train", *arguments]
    env = {"GLOO_SOCKET_IFNAME": "lo", "DDPM_CACHE": cwd / "cache"}
    return faults.spawn([sys.executable, *map(str, words)], env, cwd=cwd)


def machines(folders, *arguments, **how):
    port = faults.free_port()
    return [agent(node, port, folder, *arguments, **how) for node, folder in enumerate(folders)]


@pytest.mark.soak
@pytest.mark.parametrize("disk", ["shared", "separate"])
def test_two_machines(workplace, alone, counts, disk):
    """Two addresses of this one, two processes each; with nothing in common but the pictures' content."""
    here, there = workplace, workplace if disk == "shared" else workplace / "there"
    if disk == "separate":
        there.mkdir()
        shutil.copytree("photos", there / "photos")
    options = [*OPTIONS, "--label-drop", 0.3, "--train.preview-every", 5, "--out", "two"]
    pair = machines((here, there), *options, each=2)
    with faults.killed_after(*pair):
        left = faults.together(pair)
    assert [one.status for one in left] == [0, 0], left
    count(counts, 4)
    if disk == "separate":
        assert sorted(path.name for path in there.iterdir()) == ["cache", "photos"]
    alone(*options[:-1], "one")
    faults.check_near("two", "one")
    shutil.rmtree("two/checkpoints/000000010")
    pair = machines((here, there), "--resume", "--out", "two", each=1)
    with faults.killed_after(*pair):
        left = faults.together(pair)
    assert [one.status for one in left] == [0, 0], left
    assert "going on after step 5" in left[0].out
    faults.check_near("two", "one")
    count(counts, 2)


@pytest.mark.soak
def test_a_machine_that_dies_ends_the_other(workplace):
    """Its launcher and all that it has started, at once."""
    there = workplace / "there"
    there.mkdir()
    shutil.copytree("photos", there / "photos")
    pair = machines((workplace, there), *OPTIONS, "--steps", 4000, "--out", "two")
    with faults.killed_after(*pair):
        faults.until(pair[0], "saved ")
        since = time.monotonic()
        machine = psutil.Process(pair[1].pid)
        for one in (machine, *machine.children(recursive=True)):
            one.kill()
        left = faults.end(pair[0])
        assert faults.elapsed(since) < STOPPED and left.status != 0
    assert "process 0 of 2 stops" in left.err and "with --resume" in left.err
    assert faults.check_whole("two")


@pytest.mark.soak
def test_so_many_were_alike(counts):
    print(f"trainings of several processes {counts['trainings']}, of {counts['processes']} processes, hangs 0")


# -- GPUs ------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="takes two GPUs")
def test_sharded_over_gpus_it_is_the_same(workplace):
    options = [one for one in OPTIONS if one not in ("--device", "cpu")]
    options += ["--precision", "no", "--train.shard", "--train.keep", 9]
    trained(2, *options, "--out", "two")
    trained(1, *options, "--out", "one")
    faults.check_near("two", "one", rtol=1e-3)
    shutil.rmtree("two/checkpoints/000000010")
    trained(1, "--resume", "--out", "two")
    faults.check_near("two", "one", rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="takes a GPU")
def test_killed_on_a_gpu_it_goes_on(workplace):
    """To what the order of a GPU's own sums leaves open."""
    options = [one for one in OPTIONS if one not in ("--device", "cpu")]
    options += ["--precision", "no", "--net.dropout", 0.2, "--steps", 60]
    faults.done(*options, "--out", "whole")
    process = faults.start("train", *options, "--out", "run", pipesize=4096)
    with faults.killed_after(process):
        faults.until(process, "step 13/")
        process.kill()
        process.wait()
    faults.done("--resume", "--out", "run")
    faults.check_near("run", "whole", rtol=1e-3)
