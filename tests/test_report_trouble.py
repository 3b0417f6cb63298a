"""Looking for trouble: sets of samples with something wrong, and without, from the pixels to the sentence."""

import numpy as np
import pytest
import torch
from torch import nn

from ddpm.build import build_denoiser
from ddpm.data import load, open_source
from ddpm.pipeline import Pipeline
from ddpm.report import looks, trouble
from ddpm.report.quarters import quarters_of
from ddpm.report.trouble import check, leaked, signs
from ddpm.samples import Samples
from ddpm.store import Description, Facts
from test_report_colours import scenes, tinted
from tiny import config


def drawing(pixels, schedule="cosine"):
    """A pipeline that draws given pictures, and what it is asked for."""
    made = config(data__channels=3, data__size=(6, 6), chain__schedule=schedule, chain__steps=1000)
    pipeline, asked = Pipeline(build_denoiser(made, Still()), Description(made, Facts()), "made"), []

    def sample(n, *, steps, first=0):
        asked.append((n, steps, first))
        record = {"steps": steps, "sampler": "dpm++", "evaluations": steps}
        return Samples(pixels[first : first + n], None, (), record)

    pipeline.sample = sample
    return pipeline, asked


class Still(nn.Module):
    """Predicts nothing."""

    def __init__(self):
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(()))

    def forward(self, x, timestep, **cond):
        return self.zero.expand_as(x)


@pytest.fixture
def made(tmp_path):
    def make(pixels, name="set"):
        np.savez(tmp_path / f"{name}.npz", images=pixels.transpose(0, 2, 3, 1))
        return load(open_source(tmp_path / f"{name}.npz"), (6, 6), 3, cache=tmp_path / "cache")

    return make


def checked(pixels, pictures, held_out=None, thorough=True, shown=40):
    pipeline, asked = drawing(pixels)
    drawn = looks.Drawn(pipeline.sample(shown, steps=20), (), 0.01)
    found = check(pipeline, pipeline.description.config, pictures, held_out, drawn, 20, thorough=thorough)
    return found, asked[1:]


def kinds(found, records=()):
    return [sign.kind for sign in signs(records, found)]


def test_a_clean_run_has_no_signs(made):
    found, asked = checked(scenes(200, 1), made(scenes(500, 0)), made(scenes(60, 9), "others"))
    assert signs([], found) == []
    assert asked == [(160, 20, 40)] and len(found.samples) == 200
    assert found.by_pixels.held_out and found.by_features.held_out and found.quarters.count == 60


def test_copies_are_told_with_what_others_are(made):
    pictures = scenes(500, 0)
    found, _ = checked(pictures[:200], made(pictures), made(scenes(60, 9), "others"))
    assert kinds(found) == ["copies"]
    (one,) = signs([], found)
    assert "by pixels 100% count as copies, where 0% of held-out pictures would" in one.what
    assert "by features 100% count as copies" in one.what
    alone, _ = checked(pictures[:200], made(pictures))
    assert "than training pictures to each other" in signs([], alone)[0].what


def test_a_tint_is_told_with_its_levels(made):
    found, _ = checked(tinted(scenes(200, 1), 10, 0, 0), made(scenes(500, 0)))
    (one,) = signs([], found)
    assert one.kind == "colour" and "tinted red" in one.what and "blue" in one.what
    assert str(round(found.colours.channels[0].difference, 1)) in one.what


def test_samples_that_are_dark_flat_or_all_alike_are_told(made):
    data = made(scenes(500, 0))
    dark, _ = checked(tinted(scenes(200, 1), -30, -30, -30), data)
    assert "darker" in signs([], dark)[0].what
    alike, _ = checked(scenes(200, 1, brightness=10.0), data)
    assert kinds(alike) == ["spread"] and "The last level" not in signs([], alike)[0].what


def test_while_training_nothing_is_drawn_for_it(made):
    found, asked = checked(scenes(40, 1), made(scenes(300, 0)), made(scenes(60, 9), "others"), thorough=False)
    assert asked == [] and found.by_features is None and found.quarters is None and found.by_pixels.held_out
    assert found.colours.count == 40 and signs([], found) == []


def test_slow_models_are_asked_for_less(made, monkeypatch):
    monkeypatch.setattr(trouble, "_SECONDS", 0.01)  # room for 40 samples at the speed of the first
    found, asked = checked(scenes(200, 1), made(scenes(500, 0)), made(scenes(60, 9), "others"))
    assert asked == [(40, 20, 40)] and len(found.samples) == 80
    assert found.by_features.looked <= 500 and found.quarters.count >= 32


def test_few_held_out_pictures_are_no_measure(made):
    found, _ = checked(scenes(60, 1), made(scenes(100, 0)), made(scenes(19, 9), "others"))
    assert not found.by_pixels.held_out and found.quarters.count == 19


@pytest.mark.parametrize(
    "worse, said",
    [
        ((1.5, 1.0, 1.0, 1.0), ("In the cleanest quarter of", "larger by 50%", "fine details")),
        ((1.0, 1.2, 1.2, 2.0), ("In the second, third and noisiest quarters of", "2.0 times as large", "shapes")),
    ],
)
def test_quarters_learnt_by_heart_are_told(worse, said):
    same = np.random.default_rng(0).lognormal(0, 0.4, (256, 4))
    few = np.zeros((1, 1, 1, 1), np.uint8)
    (one,) = signs([], trouble.Checks(few, QUIET, None, None, quarters_of(same * np.array(worse), same)))
    assert one.kind == "by heart" and all(words in one.what for words in said)


def test_an_error_that_rose_is_told_without_a_model():
    values = np.linspace(0.1, 0.5, 60)
    records = [{"step": i + 1, "quarters": [0.1, 0.1, 0.1, float(v)]} for i, v in enumerate(values)]
    (one,) = signs(records, None)
    assert one.kind == "risen" and "noisiest" in one.what and "since step 12" in one.what


def test_brightness_leaks_through_the_last_level_of_some_schedules(made):
    """α/σ at T times the deviation of the brightness, in deviations 1/√D of the noise's mean."""
    colours = checked(scenes(60, 1), made(scenes(300, 0)))[0].colours
    linear = leaked(drawing(scenes(1, 0), "linear")[0], colours)
    bar = np.prod(1 - np.linspace(1e-4, 0.02, 1000))
    expected = np.sqrt(bar / (1 - bar)) * colours.deviation / 127.5 * np.sqrt(3 * 36)
    assert linear == pytest.approx(expected, rel=1e-6)
    assert leaked(drawing(scenes(1, 0))[0], colours) < 1e-2
    assert leaked(drawing(scenes(1, 0))[0], None) == 0.0


ONES, NONE = np.ones(1), np.zeros(1, np.int64)
QUIET = trouble.Nearest(NONE[None], ONES[None], ONES, ONES, ONES, NONE, True, 9, 9)
