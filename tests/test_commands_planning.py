"""The plan as `ddpm train` shows it: overrides, files, precedence, and the table on a terminal and in a pipe."""

import json

import pytest
from PIL import Image
from rich.console import Console

import tiny
from ddpm.cli import main
from ddpm.commands.planning import PlanOptions, asked_for, show_plan
from ddpm.config import Config
from ddpm.errors import UserError
from ddpm.plan import Decision, Expected, Planned
from ddpm.store import Run


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny.photos(tmp_path / "photos")
    return tmp_path


@pytest.fixture
def dry(capsys):
    """dry(options …) → the plan's lines by their first word, and the config by its options."""

    def dry(*options, data=("photos",)):
        arguments = ["train", *data, "--device", "cpu", "--dry-run", *map(str, options)]
        status = main(arguments)
        out, err = capsys.readouterr()
        assert status == 0, err
        config = {
            line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line.startswith("--")
        }
        plan = {line.partition("  ")[0]: " ".join(line.split()) for line in out.splitlines() if "  " in line}
        return plan, config

    return dry


def options(**given):
    return PlanOptions(data=("photos",), **given)


# -- what depends on what was asked for ------------------------------------------------------------------------


def test_the_plan_follows_the_width_asked_for(dry):
    plan, config = dry("--steps", 3, "--size", 8, "--net.channels", 20)
    assert (config["--net.channels"], config["--net.groups"]) == ("20", "5")
    # 30 photos are one batch: 4e-3 for 32 channels and 32 pictures
    assert float(config["--optimizer.lr"]) == pytest.approx(4e-3 * (32 / 20 * 30 / 32) ** 0.5)
    assert plan["width"] == "width 20 asked for" and "by √(32/20) for the width" in plan["learning rate"]
    assert plan["steps"] == "steps 3 asked for" and plan["time"].startswith("time not measured")


def test_the_plan_follows_the_batch_asked_for(dry):
    plan, config = dry("--steps", 3, "--size", 8, "--net.channels", 32, "--net.multipliers", 1, "--batch", 8)
    assert float(config["--optimizer.lr"]) == pytest.approx(2e-3) and plan["batch"] == "batch 8 asked for"


def test_pictures_with_transparency_in_four_channels(workplace, dry):
    (workplace / "clear").mkdir()
    for i in range(4):
        Image.new("RGBA", (8, 8), (9, 9, 9, 40 * i)).save(workplace / "clear" / f"{i}.png")
    arguments = [*tiny.NET, "--size", 8, "--steps", 1, "--device", "cpu", "--data.channels", 4]
    assert main(["train", "clear", *map(str, arguments)]) == 0
    assert Run("runs/clear").description().config.data.channels == 4


# -- files -----------------------------------------------------------------------------------------------------


def test_the_command_line_wins_over_the_file_and_the_file_over_the_plan(workplace, dry):
    (workplace / "c.yaml").write_text(
        "net: {channels: 8, groups: 2}\ntrain: {steps: 7, batch: 5}\noptimizer: {lr: 1e-3, ema: 0.5}\n"
        "data: {size: 8}"
    )
    plan, config = dry("--config", "c.yaml", "--batch", 6, "--optimizer.lr", 2e-3)
    assert (config["--net.channels"], config["--net.groups"], config["--data.size"]) == ("8", "2", "8 8")
    assert (config["--train.steps"], config["--train.batch"], config["--optimizer.lr"]) == ("7", "6", "0.002")
    assert config["--optimizer.ema"] == "0.5" and plan["EMA"].endswith("asked for")
    assert plan["width"] == "width 8 asked for" and plan["batch"] == "batch 6 asked for"
    assert config["--net.multipliers"] == "1"  # the plan's
    _, config = dry("--config", "c.yaml", "--preset", "cifar10", "--net.multipliers", 1, "--net.attention")
    assert (config["--net.channels"], config["--chain.schedule"], config["--train.steps"]) == ("8", "linear", "7")


def test_as_that_run_was(workplace, dry, capsys):
    tiny.photos(workplace / "others", 12)
    quick = [*tiny.NET, "--size", "8", "--batch", "4", "--device", "cpu", "--steps", "2", "--seed", "5"]
    assert main(["train", "photos", *quick, "--out", "first"]) == 0
    before = Run("first").description().config
    assert main(["train", "others", "--config", "first/config.json", "--device", "cpu"]) == 0
    assert Run("runs/others").description().config == before.with_(data__path=("others",))
    # without DATA, that run's
    assert main(["train", "--config", "first/config.json", "--device", "cpu", "--out", "second"]) == 0
    assert Run("second").description().config == before
    first, second = (Run(name).newest()[0].tensors("model") for name in ("first", "second"))
    assert all((first[key] == second[key]).all() for key in first)
    # the same file again is no change to a run that goes on
    assert main(["train", "--resume", "--out", "second", "--config", "first/config.json"]) == 0
    capsys.readouterr()


def test_a_budget_takes_the_place_of_a_file_s_steps(workplace):
    (workplace / "c.json").write_text(json.dumps({"train": {"steps": 7, "batch": 5}, "data": {"path": ["there"]}}))
    file = workplace / "c.json"
    assert asked_for(options(config_file=file), []) == {"train.steps": 7, "train.batch": 5}
    assert asked_for(options(config_file=file, budget="5m"), []) == {"train.batch": 5}
    assert asked_for(options(config_file=file, steps=3), [])["train.steps"] == 3
    assert asked_for(PlanOptions(config_file=file), [])["data.path"] == ("there",)


def test_a_file_s_mistakes_are_the_command_s(workplace, capsys):
    (workplace / "c.yaml").write_text("net: {chanels: 8}")
    assert main(["train", "photos", "--config", "c.yaml", "--steps", "1"]) == 2
    assert capsys.readouterr().err == "ddpm: c.yaml: net.chanels: no such setting; did you mean channels?\n"
    with pytest.raises(UserError, match=r"--config none\.yaml: missing, there is no such file"):
        asked_for(options(config_file=workplace.__class__("none.yaml")), [])


# -- shown and kept --------------------------------------------------------------------------------------------


PLANNED = Planned(
    Config(),
    (Decision("batch", "32", "usual on cpu"), Decision("learning rate", "4.0e-03", "high " * 40)),
    Expected(1.0, 2, 3),
    ("few pictures",),
    ("disk: full",),
)


def shown(terminal):
    out = Console(
        width=60, force_terminal=terminal, record=True, soft_wrap=True, highlight=False, no_color=True, quiet=False
    )
    with out.capture() as captured:
        show_plan(PLANNED, out)
    return captured.get()


def test_in_a_pipe_a_decision_is_a_line(workplace):
    lines = shown(False).splitlines()
    assert lines[0] == "batch          32       usual on cpu"
    assert lines[1].rstrip() == ("learning rate  4.0e-03  " + "high " * 40).rstrip()
    assert lines[2:] == ["note: few pictures", "this will not work: disk: full"]


def test_on_a_terminal_it_is_a_table_of_its_width():
    lines = Console(width=200, record=True).render_str(shown(True)).plain.splitlines()
    assert any("what" in line and "why" in line for line in lines)
    assert len(lines) > 6 and "high high" in "".join(lines)


def test_a_run_keeps_its_plan(workplace, capsys):
    assert main(["train", "photos", *tiny.QUICK, "--steps", "2"]) == 0
    out = capsys.readouterr().out
    kept = json.loads((workplace / "runs/photos/config.json").read_text())["plan"]
    assert len(kept) > 15 and all(isinstance(line, str) for line in kept)
    for what in ("size 8 x 8", "batch 4", "computed in 1 part", "precision no", "memory ", "disk "):
        assert any(line.startswith(what) for line in kept), what
        assert what.split()[0] in out


def test_what_cannot_work_is_shown_and_refused(workplace, capsys, monkeypatch):
    monkeypatch.setattr("ddpm.plan.spending.free_disk", lambda folder: 1000)
    arguments = ["train", "photos", *tiny.QUICK, "--steps", "2"]
    assert main([*arguments, "--dry-run"]) == 0
    assert "this will not work: disk: the run takes about" in capsys.readouterr().out
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert (
        err.splitlines()[-1].startswith("ddpm: disk: the run takes about 1") and not (workplace / "runs").exists()
    )


def test_a_preset_is_of_one_task(capsys):
    for name, task, own in (
        ("cifar10", "classifier", "image"),
        ("adm-imagenet64-classifier", "image", "classifier"),
    ):
        status = main(["train", "fashion", "--preset", name, "--task", task, "--dry-run", "--device", "cpu"])
        error = capsys.readouterr().err
        assert status == 2 and f"--task {task}: the preset {name} is of the task {own}" in error
