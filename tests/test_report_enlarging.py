"""The report of an upsampler: small pictures, what it makes of them, and the originals."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import ddpm
import tiny
from ddpm.commands.report import open_held_out
from ddpm.data import load, open_source, open_sources, pairs
from ddpm.report import gather, looks, publish
from ddpm.train import facts
from test_draw_page import Parsed

QUICK = {"samples": 4, "steps": 2, "device": "cpu"}
UP = {"train__task": "upsampler", "data__low_size": (4, 2)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path):
    return load(open_source(tiny.photos(tmp_path / "pets", 10, grey=True)), (8, 8), 1)


@pytest.fixture
def others(tmp_path):
    return load(open_source(tiny.photos(tmp_path / "others", 6, grey=True)), (8, 8), 1)


@pytest.fixture
def made(tmp_path, pictures):
    return tiny.run(tmp_path / "up", facts(pictures), **UP)


def test_triples_of_training_pictures(made, pictures):
    material = gather(made, pictures, **QUICK)
    assert material.drawn is material.checks is None and material.denoising is not None
    found = material.enlarged
    assert np.array_equal(found.pairs.whole, pictures.pixels[[0, 2, 5, 7]]) and not found.held_out
    model = ddpm.load(made.folder, "cpu")
    labels = pictures.labels[[0, 2, 5, 7]].tolist()
    assert np.array_equal(
        found.samples.pixels, model.sample(4, steps=2, label=labels, low=found.pairs.small).pixels
    )
    page = publish(material).read_text(encoding="utf-8")
    assert "What it makes of small pictures" in page and "What it draws" not in page
    assert "made of training pictures that are evenly spread" in page and "Has it learnt" not in page
    assert "An upsampler of pets" in page and "the picture in 2 × 4, which it is to enlarge" in page
    assert f"ddpm sample {made.folder} --low DATA" in page and "ddpm sample BASE --upsample" in page
    alts = [one["alt"] for one in Parsed(page).all("img") if one["alt"].startswith("small, enlarged, original:")]
    assert len(alts) == 12 and alts[0] == "small, enlarged, original: cats, 1 of 3"
    assert "From each mixture and the small picture the model tells" in page


def test_held_out_pictures_are_preferred(made, pictures, others):
    material = gather(made, pictures, held_out=others, **QUICK)
    assert np.array_equal(material.enlarged.pairs.whole, others.pixels[[0, 1, 3, 4]])
    page = publish(material).read_text(encoding="utf-8")
    assert "made of pictures it never trained on" in page and "A held-out picture is mixed" in page


def test_without_pictures_there_is_nothing_to_enlarge(made):
    page = publish(gather(made, None, why="they are gone", **QUICK)).read_text(encoding="utf-8")
    assert "No samples: they are gone." in page and "No denoising to show: they are gone." in page


def test_differences_in_grey_levels(made, pictures):
    """Against a bilinear enlargement and root mean squares computed here."""
    model = ddpm.load(made.folder, "cpu")
    given = pairs(pictures, 5, (4, 2))
    found = looks.enlarge(model, given, 2, True)
    drawn = found.samples.pixels.astype(float)
    back = np.rint(drawn.reshape(5, 1, 4, 2, 2, 4).sum(axis=(3, 5)) / 8)
    smooth = F.interpolate(torch.from_numpy(given.small.astype(np.float64)), (8, 8), mode="bilinear").numpy()
    for value, a, b in (
        (found.back, back, given.small),
        (found.off, drawn, given.whole),
        (found.smooth, smooth, given.whole),
    ):
        assert value == pytest.approx(np.sqrt(np.mean((a - b.astype(float)) ** 2)), rel=1e-5)


def test_the_report_command_opens_what_was_held_out(tmp_path, call):
    folder = str(tiny.photos(tmp_path / "photos", 10, grey=True))
    source, held = open_sources(folder, "auto", "0.3")
    trained, held_out = load(source, (8, 8), 1), load(held, (8, 8), 1)
    run = tiny.run(tmp_path / "up", facts(trained, held_out), **UP, data__path=(folder,), data__holdout="0.3")
    assert open_held_out(run.description()).fingerprint == held_out.fingerprint
    status, _, err = call("report", run.folder, "--samples", 2, "--steps", 2, "--device", "cpu")
    assert status == 0, err
    assert "made of pictures it never trained on" in (run.folder / "report.html").read_text(encoding="utf-8")
    plain = tiny.run(tmp_path / "plain", facts(trained), data__path=(folder,), data__holdout="0.3")
    assert open_held_out(plain.description()) is None  # a model of pictures needs none
    other = tiny.run(tmp_path / "other", facts(trained, trained), **UP, data__path=(folder,), data__holdout="0.3")
    assert open_held_out(other.description()) is None  # no longer the same
    shutil.rmtree(folder)
    assert open_held_out(run.description()) is None
