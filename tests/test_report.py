"""The report: whatever a run has or lacks, one page says it."""

import json
import os
import time

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm.build import build_denoiser, build_net
from ddpm.data import load, open_source
from ddpm.errors import UserError
from ddpm.pipeline import Pipeline
from ddpm.report import NAME, gather, publish, publish_stopped, write
from ddpm.report.material import newest, state_of
from ddpm.store import Description, Facts, Run
from ddpm.train import facts
from test_draw_page import Parsed
from tiny import config, photos, run

QUICK = {"samples": 4, "steps": 2, "device": "cpu"}
SECTIONS = 10


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return load(open_source(photos(folder / "pets", grey=True)), (8, 8), 1, cache=folder / "cache")


@pytest.fixture
def made(tmp_path, pictures):
    """A run on the pictures, half done."""
    return run(tmp_path / "pets", facts(pictures))


def log(made, steps=(2, 4, 6, 8), **more):
    for step in steps:
        values = {
            "step": step,
            "images": 6 * step,
            "loss": 1 / step,
            "mse": 0.9 / step,
            "lr": 1e-3,
            "gradient": 0.5,
        }
        made.log({**values, "pictures_per_second": 12.0, "quarters": [0.1, None, 0.3, 0.4], **more})


def preview(made, step):
    folder = made.folder / "samples"
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), 4 * step, np.uint8)).save(folder / f"{step:09d}.png")


def read(path):
    parsed = Parsed(path.read_text(encoding="utf-8"))
    assert len(parsed.all("section")) == SECTIONS
    return parsed


def images(parsed, start):
    return [a["alt"] for a in parsed.all("img") if a["alt"].startswith(start)]


def test_everything_there_is_is_shown(made, pictures):
    log(made)
    made.log({"step": 8, "held_out": 0.5, "trained_on": 0.4})
    preview(made, 4)
    preview(made, 8)
    path = write(made, pictures, **QUICK)
    assert path == made.folder / NAME
    parsed = read(path)
    assert len(images(parsed, "training pictures of")) == 20
    assert len(images(parsed, "sample of cats")) == len(images(parsed, "sample of dogs")) == 2
    assert len(images(parsed, "previews over the training")) == 2
    assert [len(images(parsed, name)) for name in ("xₜ", "ε̂", "x̂₀", "mean")] == [12] * 4
    assert sum((a.get("class") or "").split()[:1] == ["card"] for a in parsed.all("div")) == 18
    titles = (
        "Error of the net",
        "By quarter",
        "Held-out",
        "Length of the gradient",
        "Learning rate",
        "Pictures a",
        "Brightness of pictures",
        "Contrast of pictures",
    )
    assert all(title in parsed.text for title in titles) and len(parsed.all("svg")) == len(titles)
    assert "of 12 steps8" in parsed.text  # the number's name comes first, and is shown below it
    assert "ddpm sample" in parsed.text
    assert not [a for a in parsed.all("p") if a.get("class") == "note"]
    assert not list(made.folder.glob(".*.tmp"))


@pytest.mark.parametrize("kind, first", [("hybrid", "Error of the net"), ("vlb", "The bound on the log")])
def test_the_bound_has_its_curve(tmp_path, pictures, kind, first):
    learned = {"loss__kind": kind, "denoiser__variance": "learned_range"}
    made = run(tmp_path / "run", facts(pictures), **learned)
    for step in range(1, 13):
        log(made, (step,), vlb=9.0 - 0.5 * step, loss=9.0 - 0.5 * step if kind == "vlb" else 0.1)
    parsed = read(write(made, pictures, **QUICK))
    titles = ("Error of the net", "The bound on the log", "By quarter", "Length", "Learning rate", "Pictures a")
    titles += ("Brightness of pictures", "Contrast of pictures")
    assert len(parsed.all("svg")) == len(titles) and all(title in parsed.text for title in titles)
    assert min(("Error of the net", "The bound on the log"), key=parsed.text.index) == first
    assert "bits/dim in training3.000" in parsed.text  # a tenth of twelve lines is one
    assert ("plus 0.001 times the bound" in parsed.text) == (kind == "hybrid")
    assert len(images(parsed, "mean")) == 12  # the variance's outputs are no picture
    loss = [a["aria-label"] for a in parsed.all("svg")]
    assert "bits/dim over the steps" in loss


def test_what_jumps_is_said_as_a_mean(made, pictures):
    for step in range(1, 41):
        log(made, (step,), vlb=float(step))
    material = gather(made, pictures, **QUICK)
    assert material.lately("vlb") == (37 + 38 + 39 + 40) / 4 and material.lately("nothing") is None


def test_an_unconditional_run_shows_grids(tmp_path, pictures):
    plain = load(open_source(photos(tmp_path / "plain", grey=True), "none"), (8, 8), 1, cache=tmp_path / "cache")
    made = run(tmp_path / "run", facts(plain))
    parsed = read(write(made, plain, samples=9, steps=2, device="cpu"))
    assert len(images(parsed, "sample,")) == 9 and len(images(parsed, "training picture,")) == 30


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_and_transparency(tmp_path, channels):
    data = load(open_source(photos(tmp_path / "pets")), (8, 8), channels, cache=tmp_path / "cache")
    made = run(tmp_path / "run", facts(data), data__channels=channels)
    assert images(read(write(made, data, **QUICK)), "sample of")


def test_what_is_not_there_is_said(tmp_path, pictures):
    """A run that has just been created, on a machine that does not have the data."""
    made = Run.create(tmp_path / "new", Description(config(), facts(pictures)))
    parsed = read(write(made, None, why="the data are elsewhere", device="cpu"))
    assert parsed.text.count("the data are elsewhere") == 3
    assert parsed.text.count("there is no checkpoint yet") == 2
    assert "Nothing has been logged yet" in parsed.text and "No preview" in parsed.text
    assert not parsed.all("img")


def test_without_the_data_a_sample_is_denoised(made):
    parsed = read(write(made, None, **QUICK))
    assert "A sample is mixed" in parsed.text and len(images(parsed, "xₜ")) == 12


def test_an_older_log_and_broken_files_are_no_trouble(made, pictures):
    """No key is sure to be there; a kill cuts the last line; a preview may be damaged."""
    log(made, (2,), quarters=None, gradient=float("nan"), lr="?")
    made.log({"step": 4})
    made.log({"note": "no step"})
    with (made.folder / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    preview(made, 4)
    (made.folder / "samples" / "000000006.png").write_bytes(b"\x89PNG broken")
    (made.folder / "samples" / "notes.png").write_bytes(b"")
    parsed = read(write(made, pictures, **QUICK))
    assert len(images(parsed, "previews over the training")) == 1


def test_a_film_of_many_previews_keeps_the_first_and_the_last(made, pictures):
    for step in range(1, 61):
        preview(made, step)
    shown = images(read(write(made, pictures, **QUICK)), "previews over the training")
    assert len(shown) == 24
    assert shown[0].endswith("step 1") and shown[-1].endswith("step 60")


def test_during_training_the_weights_at_hand_are_used(made, pictures):
    description = Description(config(), facts(pictures), step=11)
    net = build_net(config(), 2)
    pipeline = Pipeline(build_denoiser(config(), net), description, "pets")
    text = read(write(made, pictures, pipeline=pipeline, samples=4, steps=2)).text
    assert "11" in text  # its step, which no checkpoint has
    assert not (made.folder / "checkpoints" / "000000011").exists()


def test_a_report_replaces_the_one_before(made, pictures):
    before = write(made, pictures, **QUICK).read_text()
    log(made)
    assert "squared error" in write(made, pictures, **QUICK).read_text() != before


def test_names_that_are_html_do_no_harm(tmp_path, pictures):
    nasty = Facts("<script>x</script>", 3, ("<b>", "&amp;"), (0.5, 0.5), "f" * 64)
    parsed = read(write(run(tmp_path / "<i>&", nasty), None, **QUICK))
    assert len(parsed.all("script")) == 1 and not parsed.all("i")[2:]
    assert "<i>&" in parsed.text


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        write(Run(tmp_path), None)


def test_a_folder_that_cannot_be_written_is_named(made, monkeypatch):
    def refuse(path, data):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ddpm.report.compose.write_bytes", refuse)
    with pytest.raises(UserError, match=r"report\.html: cannot be written \(Permission denied\)"):
        write(made, None, **QUICK)


def test_a_device_that_is_not_here_is_an_error(made):
    with pytest.raises(UserError, match="--device nonsense"):
        write(made, None, device="nonsense")


# -- what it reads -------------------------------------------------------------------------------------------


def test_a_checkpoint_that_vanishes_is_looked_for_again(made, monkeypatch):
    """As when a training that goes on removes it between finding and reading."""
    import ddpm.report.material as material

    calls = []

    def vanishing(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise UserError("ema.safetensors: there is no such file")
        if len(calls) == 2:
            raise FileNotFoundError(2, "gone")
        return load_model(*arguments)

    load_model = material.load
    monkeypatch.setattr(material, "load", vanishing)
    monkeypatch.setattr(material, "_PAUSE", 0.0)
    pipeline, why = newest(made, "cpu")
    assert pipeline is not None and why == "" and len(calls) == 3


def test_a_checkpoint_that_stays_damaged_is_said(made, monkeypatch):
    monkeypatch.setattr("ddpm.report.material._PAUSE", 0.0)
    file = made.folder / "checkpoints" / "000000007" / "ema.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    pipeline, why = newest(made, "cpu")
    assert pipeline is None and "damaged" in why
    assert "damaged" in read(write(made, None, **QUICK)).text


def test_running_stopped_complete(made):
    description = made.description()
    log(made, pictures_per_second=6 * 50 / 100.0)  # a line of the log takes 100 s
    records = made.records()

    def state(age, step=8):
        for path in made.folder.rglob("*"):
            os.utime(path, (time.time() - age,) * 2)
        return state_of(made, description, records, step)

    assert state(0) == state(400) == "running"
    assert state(600) == "stopped"
    assert state(1e6, step=12) == "complete"
    assert state_of(made, description, [], 8) == "stopped"


def test_the_time_is_that_of_the_steps(made, pictures):
    """48 pictures at 12 a second, however long it stood still in between."""
    log(made)
    text = read(write(made, pictures, **QUICK)).text
    assert "4 s" in text


def test_it_costs_a_bounded_number_of_passes(made, pictures):
    description = made.description()

    class Counting(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net, self.seen = net, 0

        def forward(self, x, timestep, **cond):
            self.seen += len(x)
            return self.net(x, timestep, **cond)

    net = Counting(build_net(description.config, 2))
    pipeline = Pipeline(build_denoiser(description.config, net), description, "pets")
    write(made, pictures, pipeline=pipeline, samples=6, steps=5, thorough=False)
    assert net.seen == 6 * 5 + 12
    net.seen = 0
    write(made, pictures, pipeline=pipeline, samples=6, steps=5, held_out=pictures)
    assert net.seen == 200 * 5 + 12 + 2 * 4 * 30


def test_the_whole_config_stands_in_it(made):
    text = read(write(made, None, **QUICK)).text
    values = json.loads((made.folder / "config.json").read_text())["config"]
    for section, settings in values.items():
        shown = [name for name in settings if f"{section}.{name}" in text]
        assert set(settings) - set(shown) == ({"low_size"} if section == "data" else set())  # of upsamplers


def test_a_training_that_is_stopped_says_so_without_asking_the_model_again(made, pictures, monkeypatch):
    log(made, (2, 4))
    material = gather(made, pictures, state="running", **QUICK)
    before = read(publish(material))
    assert 'class="badge running"' in (made.folder / NAME).read_text()
    log(made, (6, 8))
    monkeypatch.setattr(Pipeline, "sample", lambda *a, **b: pytest.fail("sampled"))
    after = read(publish_stopped(material))
    assert 'class="badge stopped"' in (made.folder / NAME).read_text()
    assert len(after.all("img")) == len(before.all("img"))
    assert "48" in after.text  # pictures seen by step 8
