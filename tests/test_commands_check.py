"""`ddpm check` as a user meets it: sets and runs with known faults, what is said of them, what is written."""

import json
import math
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import tiny
from ddpm.store import Description, Facts, Run, load_weights


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A folder of its own with photos in it, its own cache, and the process's signals as they were."""
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for i in range(40):
        save(tmp_path / "photos" / ("cats", "dogs")[i % 2] / f"{i:02d}.png", scene(i))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def scene(seed, size=(16, 16)):
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def said(out):
    """The facts by name: lines of two columns."""
    pairs = (line.strip().split("  ", 1) for line in out.splitlines() if "  " in line.strip())
    return {name.strip(): value.strip() for name, value in pairs}


def record(name="photos"):
    return json.loads(Path(f"check/{name}/survey.json").read_text())


def opened(path):
    with Image.open(path) as image:
        return image.copy()


# -- data ------------------------------------------------------------------------------------------------------


def test_a_set_without_fault(call):
    status, out, _ = call("check", "photos")
    assert status == 0
    facts = said(out)
    assert facts["pictures"] == "40 to train on; all can be read"
    assert facts["sizes"] == "16 x 16 (height x width), all of them"
    assert facts["kinds"] == "colour 40" and facts["become"] == "16 x 16 colour"
    assert facts["copies"] == "none with the same pixels"
    assert facts["cats"].split()[0] == facts["dogs"].split()[0] == "20"
    assert "2 classes of the same size" in out and "nothing stands out" in out and "worth a look" not in out
    assert "--budget 1h" in out and "photos/contact.png" in out
    found = record()
    assert (found["pictures"], found["looked_at"], found["classes"]) == (40, 40, {"cats": 20, "dogs": 20})
    assert found["sizes"] == [{"height": 16, "width": 16, "count": 40}] and found["worth_a_look"] == []


def test_the_contact_sheet_shows_pictures_of_every_class(call):
    for name, colour in (("cats", "red"), ("dogs", "blue")):
        for file in Path("photos", name).iterdir():
            Image.new("RGB", (16, 16), colour).save(file)
    call("check", "photos", "--out", "looked")
    pixels = np.asarray(opened("looked/contact.png"))
    red, blue = ((pixels == colour).all(-1) for colour in ((255, 0, 0), (0, 0, 255)))
    # Ten of each, 6 times enlarged, the classes one under another; and as copies, and none as near copies.
    assert red[: pixels.shape[0] // 2].sum() >= 10 * 96**2 and blue.sum() >= 10 * 96**2
    assert np.nonzero(red.any(1))[0].min() < np.nonzero(blue.any(1))[0].min()


def plant(folder):
    first = opened(folder / "cats" / "00.png")
    save(folder / "dogs" / "copied.png", first)
    ImageEnhance.Brightness(opened(folder / "cats" / "02.png")).enhance(0.7).save(folder / "dogs" / "dark.png")
    (folder / "cats" / "text.jpg").write_text("hello")
    (folder / "cats" / "empty.png").write_bytes(b"")
    save(folder / "dogs" / "wide.png", scene(70, (16, 80)))
    save(folder / "rare" / "a.png", scene(71))


def test_faults_are_named_with_what_mends_them(call, workplace):
    plant(workplace / "photos")
    status, out, _ = call("check", "photos")
    assert status == 0
    assert "45 to train on; 2 cannot be read" not in out and "46 to train on; 2 cannot be read" in out
    assert "  cats/text.jpg: not a picture in a known format" in out and "  cats/empty.png: " in out
    worth = "\n".join(line for line in out.splitlines() if line.startswith("- "))
    assert "2 pictures (4.3%) cannot be read" in worth
    assert "1 picture in two classes at once, as cats/00.png and dogs/copied.png" in worth
    assert "1 pair of nearly the same picture in different classes" in worth and "dogs/dark.png" in worth
    assert "fewer than 20 pictures in rare (1)" in worth and "cats (20)" not in worth
    assert "23 times the pictures of the smallest" in worth
    assert "80% at the worst (16 x 80)" in out
    assert record()["worth_a_look"] == [line[2:] for line in worth.splitlines()]
    assert {one["name"] for one in record()["unreadable"]} == {"cats/text.jpg", "cats/empty.png"}
    assert {one["name"] for one in record()["copies"][0]} == {"cats/00.png", "dogs/copied.png"}


def test_a_leak_into_the_held_out_pictures(call, workplace):
    save(workplace / "test" / "cats" / "again.png", opened("photos/cats/00.png"))
    save(workplace / "test" / "dogs" / "new.png", scene(90))
    status, out, _ = call("check", "photos", "--holdout", "test")
    assert status == 0 and "40 to train on, 2 held out" in out
    assert "- 1 held-out picture also trained on" in out and "cats/again.png (held out)" in out
    assert opened("check/photos/contact.png").size[1] > 300


def test_many_unreadable_pictures_are_all_in_the_record(call, workplace):
    for i in range(14):
        (workplace / "photos" / "cats" / f"x{i:02d}.png").write_text("no")
    _, out, _ = call("check", "photos")
    assert out.count("not a picture in a known format") == 10 and "  ... and 4 more" in out
    assert len(record()["unreadable"]) == 14


def test_nothing_to_train_on(call, workplace):
    for i in range(3):
        path = workplace / "broken" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_text("no picture")
    status, out, _ = call("check", "broken")
    assert status == 2 and "there is nothing to train on" in out
    assert record("broken")["pictures"] == 3 and not (workplace / "check" / "broken" / "contact.png").exists()


def test_fewer_than_a_batch(call):
    status, out, _ = call("check", "photos", "--batch", "64")
    assert (
        status == 2 and "- 40 pictures to train on, fewer than a batch of 64: add pictures, or --batch 32" in out
    )


def test_small_and_grey_pictures(call, workplace):
    for i in range(30):
        save(workplace / "small" / f"{i}.png", scene(i, (10, 10)).convert("L").convert("RGB"))
    status, out, _ = call("check", "small", "--size", "32")
    assert status == 0 and "100% of the pictures are smaller than 32 x 32" in out
    assert "--channels 1 trains faster" in out and "30 stored in colour show none" in out
    assert "classes" not in record("small")["classes"]


def test_crop_decides_what_is_lost(call, workplace):
    for i in range(24):
        save(workplace / "wide" / f"{i}.png", scene(i, (16, 32)))
    _, out, _ = call("check", "wide", "--size", "16")
    assert "50% of an average picture is cut away" in out and "- 50% of an average picture is cut away" in out
    _, out, _ = call("check", "wide", "--size", "16", "--crop", "pad", "--background", "black")
    assert "padded with black: 50% of an average picture is padding" in out and "nothing stands out" in out
    _, out, _ = call("check", "wide", "--size", "16", "--crop", "none")
    assert "stretched, by 100% on average" in out
    _, out, _ = call("check", "wide", "--size", "16", "--crop", "random")
    assert "cut at random: 50%" in out


def test_quick_looks_at_some_and_says_so(call, monkeypatch):
    monkeypatch.setattr("ddpm.commands.check_data._QUICK", 10)
    status, out, _ = call("check", "photos", "--quick")
    assert status == 0 and "40 to train on; 10 looked at (--quick), spread evenly" in out
    assert "among the 10 looked at" in out and record()["looked_at"] == 10


def test_the_records_place(call, workplace):
    assert call("check", "photos", "--out", "there")[0] == 0
    assert sorted(p.name for p in (workplace / "there").iterdir()) == ["contact.png", "survey.json"]
    assert not (workplace / "check").exists()


def test_a_runs_options_show_the_plan(call):
    status, out, _ = call("check", "photos", *tiny.QUICK, "--steps", "60", "--optimizer.ema", "0.999")
    assert status == 0
    facts = said(out)
    assert facts["become"] == "8 x 8 colour" and "asked for" in facts["batch"]
    assert {"time", "memory", "disk", "EMA", "precision"} <= set(facts)
    assert "the training, on cpu:" in out and "- EMA: its horizon of 1,000 steps is more than" in out
    assert any(line.startswith("EMA ") for line in record()["plan"])
    assert any("horizon" in line for line in record()["worth_a_look"])
    assert not Run("runs/photos").exists()


def test_an_impossible_plan(call, monkeypatch):
    monkeypatch.setattr("ddpm.plan.spending.free_disk", lambda folder: 1000)
    status, out, _ = call("check", "photos", *tiny.QUICK, "--steps", "5")
    assert status == 2 and "- disk: the run takes about" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a folder or archive of pictures, or a run's folder"),
        (["fotos"], "no such file or folder"),
        (["photos", "--size", "0"], "--size 0: takes a height and a width"),
        (["photos", "--budget", "soon"], "--budget soon: takes a time"),
        (["photos", "--device", "gpu"], "--device gpu"),
        (["photos", "--holdout", "nothere"], "--holdout nothere"),
        (["photos", *tiny.QUICK, "--size", "9", "--steps", "5"], "multiples of 2"),
    ],
)
def test_mistakes(call, arguments, message):
    status, _, err = call("check", *arguments)
    line = err.splitlines()[-1]
    assert status == 2 and line.startswith("ddpm: ") and message in line and "Traceback" not in err


# -- runs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(call):
    """A complete run of twelve steps on the photos, with two checkpoints."""
    arguments = [
        "--steps",
        "12",
        "--checkpoint-every",
        "6",
        "--train.log-every",
        "1",
        "--train.preview-every",
        "0",
    ]
    assert call("train", "photos", *tiny.QUICK, *arguments)[0] == 0
    run = Run("runs/photos")
    # At an even speed, whatever else the machine has to do while this is tested.
    lines = [{**record, "pictures_per_second": 100.0} for record in run.records()]
    (run.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_a_complete_run(call, trained):
    status, out, _ = call("check", "runs/photos")
    facts = said(out)
    assert status == 0 and "nothing stands out" in out
    assert facts["run"] == "complete at step 12 of 12 (100%)"
    assert facts["pictures seen"] == "48, each 1.2 times"
    assert facts["checkpoints"].startswith("whole, after step 6 and 12, ")
    assert facts["data"] == "photos: there, and the same"
    first, last = trained.records()[0]["loss"], trained.records()[-1]["loss"]
    assert facts["loss"].startswith(f"{last:.4f}, from {first:.4f} at the start")
    assert "time left" not in facts and "what to do next:" in out and "  ddpm sample runs/photos" in out


def test_a_damaged_checkpoint(call, trained):
    path = trained.folder / "checkpoints" / "000000012" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    damaged = path.read_bytes()
    status, out, _ = call("check", "runs/photos")
    assert status == 0 and f"- {path}: damaged, its checksum" in out
    assert "--resume --out runs/photos goes on from step 6" in out
    assert said(out)["checkpoints"].startswith("1 of 2 whole, after step 6")
    shutil.copytree(trained.folder / "checkpoints" / "000000006", trained.folder / "checkpoints" / "000000015")
    assert "a newer one is whole" not in call("check", "runs/photos")[1]  # its state.json says step 6
    older = trained.folder / "checkpoints" / "000000003"
    shutil.copytree(trained.folder / "checkpoints" / "000000012", older)
    assert f"- {older / 'model.safetensors'}: damaged" in call("check", "runs/photos")[1]
    assert "a newer one is whole" in call("check", "runs/photos")[1]
    assert path.read_bytes() == damaged  # looked at, not mended


def test_no_checkpoint_is_whole(call, trained):
    for path in trained.folder.glob("checkpoints/*/ema.safetensors"):
        path.unlink()
    status, out, _ = call("check", "runs/photos")
    assert (
        status == 2 and "- no checkpoint is whole" in out and said(out)["checkpoints"] == "2, none of them whole"
    )


def test_weights_that_are_no_numbers(call, workplace):
    run = tiny.run(workplace / "zoo")
    description = load_weights(run.folder / "checkpoints" / "000000007" / "ema.safetensors")[1]
    parts = {part: run.newest()[0].tensors(part) for part in ("model", "ema")}
    next(iter(parts["ema"].values()))[...] = math.nan
    run.save(Description(description.config, description.facts, 8), parts, {}, keep=2)
    _, out, _ = call("check", "zoo")
    assert "000000008: ema holds values that are no numbers" in out


def test_data_that_changed_or_went_away(call, trained, workplace):
    description = json.loads((trained.folder / "config.json").read_text())
    description["config"]["train"]["steps"] = 99  # so that there is something left to do
    (trained.folder / "config.json").write_text(json.dumps(description))
    assert said(call("check", "runs/photos")[1])["data"] == "photos: there, and the same"
    save(workplace / "photos" / "cats" / "00.png", scene(200))
    status, out, _ = call("check", "runs/photos")
    assert status == 0 and "- photos no longer holds the pictures it was trained on: the training cannot go" in out
    shutil.rmtree(workplace / "photos")
    status, out, _ = call("check", "runs/photos")
    assert status == 0 and "no such file or folder" in said(out)["data"] and "bring the pictures back" in out


def log(run, **series):
    """Writes a log whose lines hold these values."""
    lines = [
        {"step": k + 1, "images": 4 * k, **dict(zip(series, values, strict=True))}
        for k, values in enumerate(zip(*series.values(), strict=True))
    ]
    (run.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def unfinished(folder, steps=1000):
    return tiny.run(folder, Facts("zoo", 10), 7, train__steps=steps)


def test_a_log_that_falls_and_a_log_that_rises(call, workplace):
    run = unfinished(workplace / "zoo")
    steady = {"gradient": [0.5] * 60, "pictures_per_second": [30.0] * 60}
    noise = np.random.default_rng(0).normal(0, 0.001, 60)
    log(run, loss=list(1 / np.arange(1, 61) + noise), **steady)
    facts = said(call("check", "zoo")[1])
    assert facts["loss"].endswith("still falling")
    # 940 steps of 6 pictures at 30 a second are 188 s.
    assert facts["time left"].startswith("3 min at the last 30 pictures a second")
    log(run, loss=list(0.2 + noise), **steady)
    assert said(call("check", "zoo")[1])["loss"].endswith("no longer falling")
    log(run, loss=list(0.2 + noise + np.maximum(0, np.arange(60) - 45) * 0.01), **steady)
    _, out, _ = call("check", "zoo")
    assert said(out)["loss"].endswith("rising") and "- the loss rises: 0.2" in out


def test_gradient_and_speed_at_the_end(call, workplace):
    run = unfinished(workplace / "zoo")
    log(run, loss=[0.2] * 40, gradient=[0.5] * 35 + [5.0] * 5, pictures_per_second=[30.0] * 35 + [9.0] * 5)
    _, out, _ = call("check", "zoo")
    assert "- the gradient has grown to 10.0 times its usual norm" in out
    assert "- it runs at 30% of its usual speed" in out
    assert said(out)["gradient"] == "norm 5 now, 0.5 usually; over the clip of 1 in 25% of the second half"


def test_the_bound_of_a_run(call, workplace):
    """Of a hybrid loss beside it; of the bound itself once."""
    steady = {"gradient": [0.5] * 20, "pictures_per_second": [30.0] * 20}
    bits = [9.0, *[5.0] * 17, 4.0, 3.0]
    for kind in ("hybrid", "vlb"):
        learned = {"loss__kind": kind, "denoiser__variance": "learned_range"}
        run = tiny.run(workplace / kind, Facts("zoo", 10), 7, train__steps=1000, **learned)
        log(run, loss=bits if kind == "vlb" else [0.2] * 20, vlb=bits, **steady)
        checkpoint = run.folder / "checkpoints" / "000000007"
        assert call("check", kind)[0] == 0 and checkpoint.is_dir()
    facts = said(call("check", "hybrid")[1])
    assert facts["bits/dim"] == "3.500, from 9.000 at the start: the bound, on what training draws"
    assert facts["loss"] == "0.2000, from 0.2000 at the start, no longer falling"
    facts = said(call("check", "vlb")[1])
    assert "bits/dim" not in facts and facts["loss"].startswith("3.5000, from 9.0000 at the start, ")
    assert facts["loss"].endswith("; it is the bound in bits/dim")


def test_held_out_pictures_of_a_run(call, workplace):
    run = unfinished(workplace / "zoo")
    apart = [0.5, 0.2, 0.3, None]
    log(run, loss=[0.3] * 4, gradient=[1.0] * 4, pictures_per_second=[9.0] * 4, held_out=apart)
    assert said(call("check", "zoo")[1])["held out"] == "0.3000, the lowest 0.2000 at step 2"


def test_a_loss_that_is_no_number(call, workplace):
    run = unfinished(workplace / "zoo")
    log(run, loss=[0.3, math.nan, 0.2], gradient=[1.0] * 3, pictures_per_second=[9.0] * 3)
    _, out, _ = call("check", "zoo")
    assert "- the loss is no number at step 2: start another run with a lower --lr" in out


def test_a_damaged_log_and_a_damaged_config(call, workplace):
    run = unfinished(workplace / "zoo")
    log(run, loss=[0.3] * 9, gradient=[1.0] * 9, pictures_per_second=[9.0] * 9)
    lines = (run.folder / "log.jsonl").read_text().splitlines()
    (run.folder / "log.jsonl").write_text("\n".join([*lines[:4], "{{{", *lines[5:], ""]))
    _, out, _ = call("check", "zoo")
    assert "log.jsonl: damaged, 1 of its 9 lines cannot be read and are left out" in out
    (run.folder / "log.jsonl").write_text("\n".join([*lines[:4], lines[4][:9]]))  # cut off by a kill
    assert "damaged" not in call("check", "zoo")[1]
    (run.folder / "config.json").write_text("{")
    status, out, _ = call("check", "zoo")
    assert status == 0 and "config.json: damaged" in out and "description is used in its place" in out


def test_a_run_without_room_for_its_next_checkpoint(call, workplace, monkeypatch):
    unfinished(workplace / "zoo")
    usage = shutil.disk_usage(workplace)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    _, out, _ = call("check", "zoo")
    assert "- a checkpoint takes" in out and "make room before going on" in out


def test_a_run_that_has_not_begun(call, workplace):
    Run.create(workplace / "zoo", Description(tiny.config(data__path=("photos",)), Facts("photos", 40)))
    status, out, _ = call("check", "zoo")
    assert said(out)["checkpoints"] == "none yet" and said(out)["loss"] == "nothing logged yet"
    assert status == 2  # the facts name other pictures, so it cannot begin either


def test_a_run_takes_no_options(call, trained):
    status, _, err = call("check", trained.folder, "--budget", "1h")
    assert status == 2 and "a run has its config already; leave the options out" in err


def test_held_out_lines_of_the_log_are_no_losses(call, trained):
    with (trained.folder / "log.jsonl").open("a") as file:
        file.write(json.dumps({"step": 6, "held_out": 0.5, "trained_on": 0.4}) + "\n")
    status, out, _ = call("check", trained.folder)
    assert status == 0 and "the loss is no number" not in out
