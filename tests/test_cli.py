"""The command line as a user meets it: what it prints, what it writes, and what it says to a mistake."""

import io
import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import ddpm
import tiny
from ddpm.cli import COMMANDS, main
from ddpm.store import Facts, Run, load_weights


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A folder of its own with 30 photos in it, its own cache, and the process's signals as they were."""
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny.photos(tmp_path / "photos")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if "cache" not in p.parts)


# -- the command itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(call, arguments):
    status, out, err = call(*arguments)
    assert status == 0 and not err
    assert all(f"\n  {name} " in out for name in COMMANDS) and ddpm.__version__ in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(call, command):
    status, out, _ = call(command, "--help")
    assert status == 0 and f"usage: ddpm {command}" in out


def test_version(call):
    assert call("--version") == (0, f"ddpm {ddpm.__version__}\n", "")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_reader_that_is_gone_is_no_error(monkeypatch, option):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    assert main([option]) == 1


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "ddpm", "smaple"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ddpm: smaple: no such command; did you mean sample?\n"


def test_ctrl_c_before_training(call, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ddpm.data.load", interrupted)
    assert call("train", "photos", *tiny.QUICK, "--steps", 1)[::2] == (130, "ddpm: stopped\n")
    assert not (Run("runs/photos").folder).exists()


# -- mistakes --------------------------------------------------------------------------------------------------

TRAIN = ["train", "photos", *tiny.QUICK, "--steps", "1"]
SAMPLE = ["sample", "zoo", "-n", "1", "--steps", "1"]
MISTAKES = [
    (["tarin"], "no such command; did you mean train?"),
    (["train"], "give a folder or .zip of pictures"),
    (["train", "fotos"], "no such file or folder"),
    (["train", "empty"], "no picture in this folder"),
    (["train", "broken", "--steps", "1"], "none of the 2 pictures"),
    ([*TRAIN, "--batch", "31"], "30 usable pictures are fewer than a batch of 31"),
    ([*TRAIN, "--batch", "31", "--dry-run"], "30 usable pictures are fewer than a batch of 31"),
    ([*TRAIN, "--batch", "0"], "--batch 0: is at least 1"),
    ([*TRAIN, "--size", "9"], "multiples of 2; the nearest are 8 × 8 and 10 × 10"),
    ([*TRAIN, "--size", "9", "--dry-run"], "multiples of 2; the nearest are 8 × 8 and 10 × 10"),
    ([*TRAIN, "--size", "0"], "--size 0: takes a height and a width"),
    ([*TRAIN, "--size", "8x"], "--size 8x: takes a height and a width"),
    ([*TRAIN, "--size", "8x8x8"], "--size 8x8x8: takes a height and a width"),
    ([*TRAIN, "--size", "²"], "--size ²: takes a height and a width"),
    (["train", "photos", "--data.size", "0", "8", "--steps", "1"], "--data.size"),
    ([*TRAIN, "--preset", "cifra10"], "there are cifar10"),
    ([*TRAIN, "--budget", "5m"], "--budget and --steps: give one of them"),
    ([*TRAIN, "--train.steps", "5", "--budget", "5m"], "--budget and --steps: give one of them"),
    (["train", "photos", *tiny.QUICK, "--budget", "soon"], "--budget soon: takes a time"),
    ([*TRAIN, "--steps", "0"], "--steps 0: is at least 1"),
    ([*TRAIN, "--lr", "0"], "--optimizer.lr 0.0: is positive"),
    ([*TRAIN, "--device", "gpu"], "--device gpu: takes cpu, cuda or mps"),
    ([*TRAIN, "--net.groups", "0"], "--net.groups 0"),
    ([*TRAIN, "--net.groups", "3"], "--net.groups 3"),
    ([*TRAIN, "--net.channels", "5", "--net.groups", "5"], "--net.channels 5"),
    ([*TRAIN, "--net.multipliers", "0", "1"], "--net.multipliers"),
    ([*TRAIN, "--net.attention", "7"], "--net.attention"),
    ([*TRAIN, "--optimizer.beta1", "2"], "--optimizer.beta1 2.0"),
    ([*TRAIN, "--chain.schedule", "betas"], "betas: every β must lie strictly between 0 and 1"),
    ([*TRAIN, "--chain.schedule", "betas", "--dry-run"], "betas: every β must lie strictly between 0 and 1"),
    ([*TRAIN, "--chain.schedule", "linear", "--chain.steps", "9"], "--chain.steps 9"),
    ([*TRAIN, "--data.path", "other"], "--data.path"),
    ([*TRAIN, "--out", "photos"], "is not empty and holds no run; choose another --out"),
    ([*TRAIN, "--out", "photos/cats/00.png"], "choose another --out"),
    ([*TRAIN, "--out", "/proc/nothing/here"], "cannot be written"),
    ([*TRAIN, "--resume"], "holds no run"),
    (["train", "--resume"], "say which run"),
    (["sample", "zo"], "there is no such file, folder or embedded model"),
    (["sample", "photos"], "holds no run"),
    ([*SAMPLE, "--class", "catt"], "--class catt: no such class; did you mean cat?"),
    ([*SAMPLE, "--class", "3"], "--class 3: no such class; there are 0 ant, 1 bee, 2 cat"),
    ([*SAMPLE, "--size", "9"], "multiples of 2"),
    ([*SAMPLE, "--steps", "0"], "steps"),
    ([*SAMPLE, "--steps", "many"], "steps"),
    ([*SAMPLE, "--eta", "2"], "--eta 2.0"),
    ([*SAMPLE, "-n", "0"], "-n 0: draw at least one picture"),
    ([*SAMPLE, "--batch", "0"], "batch"),
    ([*SAMPLE, "--batch", "-5"], "batch"),
    ([*SAMPLE, "--device", "gpu"], "--device gpu"),
    ([*SAMPLE, "--out", "photos"], "choose another --out"),
    ([*SAMPLE, "--out", "/proc/nothing/here"], "/proc/nothing"),
    (["info", "zo"], "there is no such file, folder or embedded model"),
    (["info", "cifar"], "cifar10"),
]


@pytest.mark.parametrize("arguments, message", MISTAKES, ids=[" ".join(one[-4:]) for one, _ in MISTAKES])
def test_a_mistake_is_one_line_and_nothing_is_written(call, workplace, arguments, message):
    (workplace / "empty").mkdir()
    for name in ("broken/a.png", "broken/b.png"):
        (workplace / name).parent.mkdir(exist_ok=True)
        (workplace / name).write_bytes(b"no picture")
    tiny.run(workplace / "zoo")
    before = files(workplace)
    status, _, err = call(*arguments)
    lines = [line for line in err.splitlines() if not line.startswith(("decoding ", "sampling "))]
    assert status == 2, err
    assert len(lines) == 1 and lines[0].startswith("ddpm: ") and message in lines[0], err
    assert files(workplace) == before


@pytest.mark.parametrize("wrong", ["--batches 3", "--batch three", "--net.channels x", "--net.widht 3", "more"])
def test_options_there_are_not(call, workplace, wrong):
    status, _, err = call("train", "photos", *wrong.split())
    assert status == 2 and wrong.split()[0] in err and "Traceback" not in err
    assert "cache" not in [p.name for p in workplace.iterdir()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["train", "sample"])
def test_a_gpu_there_is_not(call, workplace, command):
    """Not a word of torch's, and never silently the CPU."""
    tiny.run(workplace / "zoo")
    options = [*TRAIN, "--device", "cuda"] if command == "train" else [*SAMPLE, "--device", "cuda"]
    status, _, err = call(*options)
    assert status == 2 and err.count("\n") == 1 and err.startswith("ddpm: --device cuda")


# -- train -----------------------------------------------------------------------------------------------------


def test_a_training_from_end_to_end(call, workplace):
    options = [*tiny.QUICK, "--steps", "4", "--optimizer.lr", "1e-3", "--data.no-flip"]
    status, out, err = call("train", "photos", *options)
    assert status == 0, err
    run = Run("runs/photos")
    assert [r["step"] for r in run.records()] == [1, 2, 3, 4]
    config = run.description().config
    assert (config.train.steps, config.train.batch, config.optimizer.lr, config.data.flip) == (4, 4, 1e-3, False)
    assert (config.net.channels, config.net.multipliers, config.data.size) == (4, (1, 2), (8, 8))
    facts = run.description().facts
    assert (facts.classes, facts.frequencies, facts.count) == (("cats", "dogs"), (0.5, 0.5), 30)
    checkpoint, damaged = run.newest()
    assert checkpoint.step == 4 and not damaged
    count = sum(value.numel() for value in checkpoint.tensors("model").values())
    assert f"30 pictures of photos, {count:,} parameters" in out
    assert "step 4/4" in out and "ddpm sample runs/photos" in out
    assert run.description().command == "ddpm train photos " + " ".join(options)
    with Image.open("runs/photos/samples/000000004.png") as image:
        assert image.width > 100
    assert not list(workplace.rglob("*.tmp"))
    status, _, err = call("train", "photos", *tiny.QUICK, "--steps", 4)
    assert status == 2 and "runs/photos: holds a run already; continue it with --resume" in err


def test_a_dry_run_writes_nothing_and_says_everything(call, workplace):
    before = files(workplace)
    status, out, err = call("train", "photos", *tiny.QUICK, "--steps", 500, "--lr", 0.25, "--dry-run")
    assert status == 0, err
    assert files(workplace) == before
    rows = [line.split() for line in out.splitlines() if line.startswith("--")]
    table = {option: " ".join(values) for option, *values in rows}
    options = {"--train.steps": "500", "--optimizer.lr": "0.25", "--data.size": "8 8", "--net.multipliers": "1 2"}
    assert {key: table[key] for key in options} == options
    assert " parameters" in out and "warm-up" in out


def test_the_budget_is_turned_into_steps_once(call, monkeypatch):
    monkeypatch.setattr("ddpm.plan.machine.seconds_a_step", lambda trainer, steps: 5.0)
    status, out, err = call("train", "photos", *tiny.QUICK, "--budget", "100s", "--train.preview-every", 0)
    assert status == 0, err
    steps = Run("runs/photos").description().config.train.steps
    assert 14 <= steps <= 19 and f"{steps} steps of 5 s measured here" in out
    assert Run("runs/photos").newest()[0].step == steps


def test_a_preset_with_fewer_steps(call):
    preset = ["--preset", "cifar10", "--net.attention", 1]
    status, out, err = call("train", "photos", *tiny.QUICK, *preset, "--steps", 1)
    assert status == 0, err
    config = Run("runs/photos").description().config
    assert (config.chain.schedule, config.chain.steps, config.denoiser.predicts) == ("linear", 1000, "eps")
    assert (config.optimizer.warmup, config.optimizer.ema, config.optimizer.lr) == (5000, 0.9999, 2e-4)
    assert config.data.size == (8, 8) and config.train.steps == 1 and "preset  " in out


def test_broken_pictures_are_counted_listed_and_left_out(call, workplace):
    """Also where the batch is all pictures there are."""
    (workplace / "photos/cats/04.png").write_bytes(b"no picture")
    path = workplace / "photos/dogs/07.png"
    path.write_bytes(path.read_bytes()[:60])
    status, out, err = call("train", "photos", *tiny.NET, "--size", 8, "--steps", 1, "--device", "cpu")
    assert status == 0, err
    assert "2 of 30 pictures could not be read and are left out:" in out
    assert "cats/04.png: " in out and "dogs/07.png: " in out
    facts = Run("runs/photos").description().facts
    assert (facts.count, facts.skipped) == (28, 2) and np.allclose(facts.frequencies, (0.5, 0.5))


@pytest.mark.parametrize("labels", ["auto", "none"])
def test_classes_off(call, labels):
    assert call("train", "photos", *tiny.QUICK, "--steps", 1, "--labels", labels)[0] == 0
    assert Run("runs/photos").description().facts.classes == (("cats", "dogs") if labels == "auto" else ())


@pytest.mark.parametrize("name", ["a[b]c", "[red]x", "of :cat: and me", "ñandú 鳥"])
def test_names_are_printed_as_they_are(call, workplace, name):
    tiny.photos(workplace / name, 4)
    status, out, err = call("train", name, *tiny.QUICK, "--steps", 1)
    assert status == 0, err
    assert f"4 pictures of {name}," in out and f"saved runs/{name}/checkpoints/000000001" in out
    status, out, err = call("info", f"runs/{name}")
    assert status == 0 and f"data {name}: 4 pictures" in out
    status, out, err = call("sample", f"runs/{name}", "-n", 1, "--steps", 1, "--no-film")
    assert status == 0 and f"open samples/{name}/grid.png" in out


# -- sample and info -------------------------------------------------------------------------------------------


def test_sampling_writes_grid_film_and_pictures(call, workplace):
    tiny.run(workplace / "zoo")
    options = ["-n", 3, "--steps", 4, "--seed", 5, "--class", "cat", "--size", "8x12"]
    status, out, err = call("sample", "zoo", *options)
    assert status == 0, err
    pictures = [f"pictures/00000{k}-cat.png" for k in range(3)]
    assert files(workplace / "samples/zoo") == ["film.webp", "grid.png", "pictures", *pictures, "samples.json"]
    with Image.open("samples/zoo/pictures/000002-cat.png") as image:
        assert image.size == (12, 8) and image.text["ddpm:seed"] == "5" and image.text["ddpm:steps"] == "4"
        expected = ddpm.load("zoo", "cpu").sample(3, steps=4, seed=5, label=2, size=(8, 12)).pixels[2, 0]
        assert np.array_equal(np.asarray(image), expected)
    assert "3 pictures of zoo, dpm++sde with 4 trailing steps, seed 5" in out and "samples/zoo/film.webp" in out
    assert "sampling 4/4" in err
    arguments = ["-n", "1", "--sampler", "ddpm", "--weights", "model", "--no-film", "--out", "there"]
    assert call("sample", "zoo", *arguments)[0] == 0
    assert files(workplace / "there")[0] == "grid.png"
    record = json.loads((workplace / "there/samples.json").read_text())
    assert (record["sampler"], record["steps"]) == ("ddpm", 40)


def test_a_damaged_checkpoint_is_noted(call, workplace):
    run = tiny.run(workplace / "zoo")
    (run.folder / "checkpoints/000000009").mkdir()
    for command in (["sample", "zoo", "-n", "1", "--steps", "1"], ["info", "zoo"]):
        status, out, _ = call(*command)
        assert status == 0 and "note: " in out and "000000009" in out and "an older checkpoint is used" in out


def test_info_of_run_checkpoint_and_file(call, workplace):
    facts = Facts("zoo", 1234, ("ant", "bee"), (0.25, 0.75), "f" * 64, 5)
    run = tiny.run(workplace / "zoo", facts)
    run.log({"step": 7, "loss": 0.25, "pictures_per_second": 12.0})
    file = run.folder / "checkpoints/000000007/ema.safetensors"
    count = sum(value.numel() for value in load_weights(file)[0].values())
    for given in ("zoo", file.parent, file):
        status, out, err = call("info", given)
        assert status == 0, err
        for text in (
            *(f"{count:,} parameters", "1,234 pictures, 5 skipped", "step 7 of 12, 42 pictures seen"),
            *("0 ant (25%), 1 bee (75%)", "--net.channels", "--denoiser.predicts"),
        ):
            assert text in out, text
        assert ("loss 0.2500" in out) == (given == "zoo")


@pytest.mark.parametrize("name, count", [("cifar10", "35,746,307"), ("lsun-bedroom256-large", "255,677,955")])
def test_info_of_a_preset(call, name, count):
    status, out, _ = call("info", name)
    assert status == 0 and f"{count} parameters" in out and "Ho et al. 2020" in out


def test_a_dry_resume_trains_nothing_and_info_needs_no_checkpoint(call, workplace):
    assert call("train", "photos", *tiny.QUICK, "--steps", 4, "--out", "run")[0] == 0
    shutil.rmtree(workplace / "run" / "checkpoints" / "000000004")
    before = sorted((path, path.stat().st_mtime_ns) for path in (workplace / "run").rglob("*"))
    status, out, _ = call("train", "--resume", "--dry-run", "--out", "run")
    assert status == 0 and "would go on after step" in out
    assert sorted((path, path.stat().st_mtime_ns) for path in (workplace / "run").rglob("*")) == before
    shutil.rmtree(workplace / "run" / "checkpoints")
    status, out, _ = call("info", "run")
    assert status == 0 and "no checkpoint yet" in out and "--net.channels" in out


def test_a_preset_leaves_classes_out_unless_asked(call):
    options = (
        "--preset",
        "cifar10",
        "--dry-run",
        "--size",
        8,
        "--batch",
        4,
        "--steps",
        1,
        "--net.multipliers",
        1,
        "--net.attention",
    )
    assert "classes from sub-folders" not in call("train", "photos", *options)[1]
    assert "2 classes from sub-folders" in call("train", "photos", "--labels", "auto", *options)[1]
