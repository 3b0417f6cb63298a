"""Every command given what it cannot take: exit status 2, one line, nothing written; and what --debug adds."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import tiny
from ddpm.cli import COMMANDS
from ddpm.errors import UserError
from ddpm.store import Facts

PICTURE = "grey/cats/00.png"
DRAW = ["-n", "1", "--steps", "2", "--device", "cpu"]
SCORED = ["--reference", "grey", "--features", "random", "--device", "cpu"]
MEASURED = ["plain", "--reference", "grey", "-n", "2", "--device", "cpu"]
# One of each command that works. Of an option that is given twice the last one counts.
WORKS = {
    "train": ["photos", *tiny.QUICK, "--steps", "1"],
    "check": ["photos", *tiny.QUICK, "--steps", "1"],
    "sample": ["zoo", *DRAW],
    "evaluate": [*MEASURED, "--steps", "2"],
    "evaluate fid": ["zoo", *SCORED, "--metrics", "fid", "-n", "4", "--steps", "2"],
    "evaluate ode": [*MEASURED, "--metrics", "ode", "--ode-steps", "2"],
    "evaluate grid": [*MEASURED, "--metrics", "grid"],
    "evaluate pictures": ["grey", *SCORED, "--metrics", "fid,kid"],
    "tune": ["zoo", *SCORED, "-n", "4", "--evaluations", "2", "--samplers", "ddim", "--grids", "uniform"],
    "progressive": ["zoo", *DRAW],
    "interpolate": ["plain", PICTURE, PICTURE, "--steps", "2", "--device", "cpu"],
    "inpaint": ["plain", PICTURE, "--mask", "left", "--resample", "1", *DRAW],
    "invert": ["plain", PICTURE, "--steps", "2", "--device", "cpu"],
    "img2img": ["plain", PICTURE, "--t", "20", *DRAW],
    "convert": ["plain", "made", "--to", "ddpm", "--no-samples"],
    "info": ["zoo"],
    "report": ["zoo", "--samples", "2", "--steps", "2", "--device", "cpu"],
    "plot forward": ["forward", PICTURE],
    "plot schedule": ["schedule", "linear"],
}
# Values of each kind that are none of it, with spaces between; '' is the empty one.
COUNT = "'' x -1 0 nan 1.5"
HUGE = "99999999999999999999"
NUMBER = "'' x nan inf"
SEED = f"'' x -1 1.5 nan {2**64}"
NAME = "'' x -1 nan"
SIZE = "'' x -1 0 nan 8x 8x8x8 9 ²"
DEVICE = "x gpu -1 nan cuda:99"
STEPS = "'' x 0 -1 nan 1.5 41 ddim0 3,,4"
GRID = f"{NAME} edm:x edm:0 none.json fitted"
METHOD = {
    "--sampler": NAME, "--steps": STEPS, "--grid": GRID, "--eta": f"{NUMBER} 2 -1", "--churn": NUMBER,
    "--corrections": "x -1 1.5", "--predictor": NAME,
}  # fmt: skip
GUIDE = {"--cfg-scale": NUMBER, "--classifier": "'' none", "--classifier-scale": "x nan 2"}
SHARED = {"--batch": COUNT, "--weights": NAME, "--device": DEVICE}
DRAWN = {**SHARED, **METHOD, "-n": COUNT, "--seed": SEED}
PLANNED = {
    "--steps": COUNT, "--lr": "'' x nan 0 -1", "--size": SIZE, "--budget": "x 5m nan", "--preset": "x -1 nan",
    "--seed": SEED, "--labels": NAME, "--holdout": "x nan 1 -0.5 2", "--channels": "'' x 0 2 -1", "--crop": NAME,
    "--background": "'' x #12", "--task": NAME, "--label-drop": f"{NUMBER} 1 -0.1", "--precision": NAME,
    "--trackers": "x", "--checkpoint-every": "x -1 nan", "--device": DEVICE, "--config": f"none.yaml {PICTURE}",
    "--init-from": f"none {PICTURE}", "--net.channels": "x 0 -1 3", "--net.widht": "3", "--chain.steps": "x 0 -1",
    "--batch": COUNT,
}  # fmt: skip
WRONG = {
    "train": {**PLANNED, "--batch": f"{COUNT} 13 {HUGE}"},
    "check": PLANNED,
    "sample": {
        **DRAWN, **GUIDE, "--class": "'' x 3 -1", "--size": f"{SIZE} {HUGE}", "--upsample": "none zoo",
        "--low": "none grey", "--upsample-steps": "3", "--upsample-sampler": "x ddim",
    },
    "evaluate": {
        **SHARED, "-n": f"{COUNT} {HUGE}", "--steps": STEPS, "--seed": SEED, "--reference": "'' none",
        "--metrics": "'' x , nll,fid fdi", "--draws": "x 0 -1", "--grid": GRID, "--variance": f"{NAME} learned",
        "--features": "random", "--sampler": "ddim", "--probes": "2", "--size": "8", "--cfg-scale": "2",
    },
    "evaluate fid": {
        "--features": f"'' x none.pt2 {PICTURE}", "-n": "0 1 x all", "--size": "8", "--draws": "3",
        "--sampler": NAME, "--steps": STEPS, "--reference": "'' none",
    },
    "evaluate ode": {"--ode-steps": "x 0 -2 3", "--probes": "'' x 0 -1 1.5", "--steps": "9"},
    "evaluate grid": {"--steps": "9", "--draws": "9", "-n": "0"},
    "evaluate pictures": {
        "-n": "0 x 99", "--size": "'' x -1 0 nan 8x ²", "--steps": "5", "--variance": "small",
        "--reference": "'' none held-out",
    },
    "tune": {
        **SHARED, "-n": COUNT, "--seed": SEED, "--evaluations": "'' x 0 -1 1.5 81", "--samplers": "x ddim,x",
        "--grids": "x fitted", "--budget": "x -5m", "--reference": "'' none", "--features": "'' x none.pt2",
    },
    "progressive": {
        **DRAWN, **GUIDE, "--shown": COUNT, "--share": "'' x -1 0 99 1,,2", "--first": "x -1", "--class": "'' x 3",
    },
    "interpolate": {
        **SHARED, **METHOD, "--t": f"{COUNT} 41", "--lambdas": "x nan inf", "--mode": NAME, "--seed": SEED,
        "--class": "0",
    },
    "inpaint": {
        **DRAWN, "--mask": "'' x box:1 box:0,0,nan,1 box:0,0,0,0 none.png grey", "--jump": COUNT,
        "--resample": COUNT,
    },
    "invert": {**SHARED, "--steps": STEPS, "--grid": GRID, "--refinements": "x -1 nan"},
    "img2img": {**DRAWN, "--t": f"{COUNT} 41"},
    "convert": {
        "--to": NAME, "--weights": NAME, "--preset": NAME, "--classes": f"'' none.txt {PICTURE} zoo",
        "--device": DEVICE, "--push": "'' a,b a/b/c -x", "--net.channels": "3", "--net.heads": "x",
    },
    "info": {},
    "report": {"--samples": COUNT, "--steps": COUNT, "--device": DEVICE},
    "plot forward": {
        "--number": "'' x -1 9 nan", "--schedules": NAME, "--steps": f"{COUNT} {HUGE}",
        "--levels": f"{COUNT} {HUGE}", "--size": "'' x -1 0 nan 8x ² 1000000000", "--seed": SEED,
    },
    "plot schedule": {"--steps": f"{COUNT} {HUGE}", "--respace": "'' x 0 -1 1001 fitted x:3 fitted:x"},
}  # fmt: skip
# What is missing, or cannot go together; a line in full each.
OTHERS = """
train / train '' / train fotos / train photos more / train photos --budget 5m --steps 3 / train --resume
train --resume --out fotos / train hub: / train text.png / train photos --data.path other
train photos --resume --steps 1 --out zoo
check / check '' / check fotos / check text.png / check zoo --steps 3 / check zoo --quick / check photos more
sample / sample none / sample text.png / sample photos / sample zoo more / sample zoo --size 8 --low grey
sample zoo --cfg-interval 1 2 / sample zoo --sampler ddim --churn 1 / sample zoo --cfg-scale 2 / sample classifier
evaluate / evaluate zoo / evaluate none --reference grey / evaluate photos --reference grey
evaluate zoo --reference text.png / evaluate text.png --reference grey / evaluate zoo --reference held-out
evaluate plain --reference grey --grid uniform --draws 3 --steps 3 / evaluate zoo --reference grey
tune / tune zoo / tune none --reference grey / tune zoo --reference held-out / tune text.png --reference grey
progressive / progressive none / progressive text.png / progressive zoo --share 20 --shown 3 / progressive photos
interpolate / interpolate plain / interpolate plain PIC / interpolate none PIC PIC / interpolate plain PIC none.png
interpolate plain PIC text.png / interpolate plain PIC grey / interpolate plain PIC grey:99
inpaint / inpaint plain / inpaint none PIC / inpaint plain none.png --mask left / inpaint plain PIC --mask text.png
inpaint plain text.png --mask left / inpaint plain PIC / inpaint plain PIC --mask box:0,0,1,1 --invert
invert / invert plain / invert none PIC / invert plain none.png / invert plain text.png / invert plain grey:99
invert plain grey / img2img / img2img plain / img2img none PIC / img2img plain none.png / img2img plain text.png
img2img plain grey:99 / img2img zoo PIC --class x / convert / convert plain / convert plain made
convert none made --to ddpm / convert text.png made --to ddpm / convert photos made --to ddpm
convert plain made --to openai / convert plain made.pt --to ddpm / convert plain . --to ddpm
convert plain made.safetensors --to diffusers / convert plain made.safetensors --to ddpm --licence mit
info / info none / info text.png / info photos / info zoo more / info presets --yaml / info zoo --what
report / report none / report photos / report text.png / report zoo more
plot / plot x / plot forward / plot forward none.png / plot forward text.png / plot forward PIC --number 1
plot schedule none / plot schedule linear --what / plot forward ''
"""
# A file; in a file; where nobody can write; a name no disk takes; a folder of others. For a figure its name.
PLACES = ["text.png", "text.png/in", "/proc/nothing/here", "x" * 300]
FOLDERS = [*PLACES, "photos"]
FIGURES = ["photos", "text.png/in.png", "x.gif", "/proc/nothing/here.png", "x" * 300 + ".png"]
OUT = {
    **dict.fromkeys(("train", "check", "sample", "interpolate", "inpaint", "invert", "img2img"), FOLDERS),
    **dict.fromkeys(("progressive", "plot forward", "plot schedule"), FIGURES),
    **dict.fromkeys(("evaluate", "evaluate fid", "tune"), PLACES),  # they make a folder of their own in it
}

_VALUES = [
    [[entry.split()[0], *WORKS[entry], option, value] for value in shlex.split(values)]
    for entry, options in WRONG.items()
    for option, values in options.items()
]
# Of each option one value, of the next one the next; all of them in the soak.
SOME = [values[i % len(values)] for i, values in enumerate(_VALUES)]
REST = [one for values in _VALUES for one in values if one not in SOME]
LINES = [shlex.split(line.replace("PIC", PICTURE)) for line in re.split(r" / |\n", OTHERS.strip())]
PLACED = [[entry.split()[0], *WORKS[entry], "--out", out] for entry, places in OUT.items() for out in places]
PLACED += [["convert", "plain", out, "--to", "ddpm", "--no-samples"] for out in FOLDERS]


def snapshot(folder):
    """Names and times of what is there, but for decoded pictures, and the lock that a run keeps."""
    paths = [path for path in folder.rglob("*") if "cache" not in path.parts and path.name != ".lock"]
    return {str(path): path.stat().st_mtime_ns if path.is_file() else 0 for path in paths}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models of pictures with and without classes, a classifier, pictures, and a text that says it is one."""
    folder = tmp_path_factory.mktemp("faults")
    tiny.photos(folder / "photos", 12)
    tiny.photos(folder / "grey", 12, grey=True)
    tiny.run(folder / "zoo")
    tiny.run(folder / "plain", Facts("zoo", 10))
    tiny.run(folder / "classifier", train__task="classifier")
    (folder / "text.png").write_text("no picture")
    return folder


@pytest.fixture(autouse=True)
def workplace(place, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(place / "cache"))
    monkeypatch.chdir(place)
    return place


def test_every_command_is_here():
    for table in (WORKS, WRONG, [line[0] for line in LINES]):
        assert {entry.split()[0] for entry in table} == set(COMMANDS)
    writing = set(COMMANDS) - {"convert", "info", "report"}  # into DST, nowhere, into RUN
    assert {entry.split()[0] for entry in OUT} == writing


def check_fault(call, workplace, arguments):
    before = snapshot(workplace)
    status, _, err = call(*arguments)
    said = [line for line in err.splitlines() if not re.match(r"[\w ]+ \d+/\d+$", line)]  # but for progress
    assert status == 2 and "Traceback" not in err, err
    assert len(said) == 1 and said[0].startswith("ddpm: ") and len(said[0]) > 10, err
    assert snapshot(workplace) == before


def named(one):
    return f"{one[0]} {' '.join(one[-2:])[:60]}"


@pytest.mark.parametrize("arguments", [*SOME, *LINES, *PLACED], ids=named)
def test_a_fault_is_one_line_and_nothing_is_written(call, workplace, arguments):
    check_fault(call, workplace, arguments)


@pytest.mark.soak
@pytest.mark.parametrize("arguments", REST, ids=named)
def test_any_other_wrong_value_likewise(call, workplace, arguments):
    check_fault(call, workplace, arguments)


@pytest.mark.soak
@pytest.mark.parametrize("entry", WORKS)
def test_without_the_fault_it_works(call, tmp_path, place, monkeypatch, entry):
    """Else the lines above would be of something else."""
    shutil.copytree(place, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    status, _, err = call(entry.split()[0], *WORKS[entry])
    assert status == 0, err


# -- what is told of it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["--debug", "info", "none"], ["info", "none", "--debug"], ["info", "--debug", "none"]]
)
def test_debug_shows_the_stack_trace_besides(call, arguments):
    plain, debug = call("info", "none"), call(*arguments)
    assert plain[0] == debug[0] == 2 and "Traceback" not in plain[2]
    assert debug[2].endswith(plain[2]) and "Traceback (most recent call last)" in debug[2]
    assert "commands/info.py" in debug[2] and "UserError: none" in debug[2]


def test_debug_shows_what_lies_behind(call, monkeypatch):
    def main(arguments):
        try:
            raise KeyError("the cause of it")
        except KeyError:
            raise UserError("x: is no y; take z") from None

    monkeypatch.setattr("ddpm.commands.info.main", main)
    assert call("info") == (2, "", "ddpm: x: is no y; take z\n")
    assert "KeyError: 'the cause of it'" in call("info", "--debug")[2]


def broken(module, body):
    """A `main` whose code stands in a module of that name, as far as a stack trace can tell."""
    made = types.ModuleType(module)
    exec(f"def main(arguments):\n    {body}\n", made.__dict__)
    return made.main


def test_a_fault_of_ours_is_one_line(call, monkeypatch):
    """Whatever it is, with its place in ddpm, and not in the library that raised it."""
    monkeypatch.setattr("ddpm.commands.info.main", broken("ddpm.some.module", "import json; json.loads('{\\n')"))
    status, out, err = call("info")
    assert (status, out) == (1, "") and err.count("\n") == 1 and "Traceback" not in err
    assert err.startswith("ddpm: JSONDecodeError: Expecting property name enclosed in double quotes")
    assert "(ddpm.some.module:2)" in err and "--debug" in err
    status, _, err = call("--debug", "info")
    assert status == 1 and "Traceback" in err and "json/decoder.py" in err


@pytest.mark.parametrize(
    "body, line",
    [
        ("raise AssertionError", "ddpm: AssertionError (ddpm.m:2): a fault of ddpm's own"),
        ("raise ValueError('a\\n\\tb\\x1b[31m')", "ddpm: ValueError: a b\\x1b[31m (ddpm.m:2)"),
        ("raise RuntimeError('long ' * 1000)", "ddpm: RuntimeError: long long"),
        ("raise OSError('of a library that gives no number')", "ddpm: OSError: of a library"),
        ("return 1 / 0", "ddpm: ZeroDivisionError: division by zero"),
    ],
)
def test_the_line_is_one_and_short(call, monkeypatch, body, line):
    monkeypatch.setattr("ddpm.commands.info.main", broken("ddpm.m", body))
    status, _, err = call("info")
    assert status == 1 and err.startswith(line) and err.count("\n") == 1 and len(err) < 500


@pytest.mark.parametrize(
    "body, line",
    [
        ("raise OSError(28, 'No space left on device', 'there/x')", "ddpm: there/x: No space left on device\n"),
        ("raise OSError(28, 'No space left on device')", "ddpm: info: No space left on device\n"),
        ("raise MemoryError", "ddpm: out of memory: take less at once, as a smaller --batch\n"),
        (
            "raise RuntimeError('DefaultCPUAllocator: can\\'t allocate memory: 9')",
            "ddpm: out of memory: take less",
        ),
    ],
)
def test_disk_and_memory_are_no_faults_of_ours(call, monkeypatch, body, line):
    monkeypatch.setattr("ddpm.commands.info.main", broken("ddpm.m", body))
    status, _, err = call("info")
    assert status == 2 and err.startswith(line)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_tells_of_debug(call, command):
    status, out, _ = call(command, "--help")
    assert status == 0 and "--debug, anywhere in a command, shows the stack trace" in out
    assert "--debug" in call("--help")[1]


# -- the streams it prints to ----------------------------------------------------------------------------------


def run(*arguments, **how):
    return subprocess.run([sys.executable, "-m", "ddpm", *arguments], stderr=subprocess.PIPE, **how)


BUFFERED = [{}, {"PYTHONUNBUFFERED": "1"}]
"""Python's ways to print: what it could not print at once it tries again when it ends, unless told otherwise."""


def printing(how):
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | how


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("how", BUFFERED)
def test_an_output_that_is_full(workplace, how):
    with Path("/dev/full").open("wb") as full:
        done = run("--help", stdout=full, env=printing(how))
    assert (done.returncode, done.stderr) == (2, b"ddpm: --help: No space left on device\n")


@pytest.mark.parametrize("how", BUFFERED)
def test_a_reader_that_leaves_in_the_middle_hears_nothing(workplace, how):
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        done = run("--help", stdout=theirs, env=printing(how))
    finally:
        os.close(theirs)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_terminal_without_an_e_acute(workplace):
    done = run("tune", "--help", stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and not done.stderr and b"ddpm tune" in done.stdout
    assert not done.stdout.decode("ascii").isspace() and not re.search(rb"\\x|\\u", done.stdout)
