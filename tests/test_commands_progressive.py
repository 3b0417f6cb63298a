"""`ddpm progressive`: the figure of the walks, the figure of what else could come of them, and what it refuses."""

from pathlib import Path

import pytest
from PIL import Image

import ddpm
import tiny
from ddpm.commands.progressive import parse_levels
from ddpm.errors import UserError
from ddpm.pipeline import Pipeline
from ddpm.store import Facts


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.run(tmp_path / "runs" / "zoo")
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """What the model was asked for."""
    calls = []
    for name in ("progressive", "completions"):
        real = getattr(Pipeline, name)

        def spy(self, *arguments, _name=name, _real=real, **options):
            made = _real(self, *arguments, **options)
            options.pop("progress")
            options["guide"] = options["guide"].about()
            calls.append((_name, arguments, options, made))
            return made

        monkeypatch.setattr(Pipeline, name, spy)
    return calls


COMMON = {"seed": 0, "label": None, "batch": None, "guide": {}}


def test_the_walks(call, asked):
    status, out, err = call("progressive", "runs/zoo", "-n", 2)
    assert status == 0 and out.rstrip() == "open plots/progressive-zoo.png" and "sampling" in err
    ((name, arguments, options, made),) = asked
    assert (name, arguments) == ("progressive", (2,))
    assert options == {**COMMON, "shown": 10, "first": 0}
    with Image.open("plots/progressive-zoo.png") as image:
        high, wide = made.figure().get_size_inches()[::-1] * 200
        assert image.size == (round(wide), round(high))


def test_the_walks_with_options(call, asked):
    options = ["--sampler", "ddpm", "--steps", "3,4", "--shown", 3, "--seed", 4, "--class", "cat", "--first", 2]
    status, out, _ = call("progressive", "runs/zoo", "-n", 1, *options, "--batch", 1, "--out", "here/p.svg")
    assert status == 0 and out.rstrip() == "open here/p.svg"
    ((_, _, options, made),) = asked
    expected = {"sampler": "ddpm", "steps": "3,4", "seed": 4, "label": "cat", "batch": 1, "shown": 3, "first": 2}
    assert options == {**COMMON, **expected}
    assert made.samples.labels == (2,) and len(made.levels) == 3
    assert Path("here/p.svg").read_text().startswith("<?xml")


def test_completions(call, asked):
    status, out, _ = call("progressive", "runs/zoo", "-n", 2, "--share", "30,10", "--first", 3, "--steps", 8)
    assert status == 0 and out.rstrip().endswith("open plots/shared-zoo.png")
    ((name, arguments, options, made),) = asked
    assert (name, arguments) == ("completions", ([30, 10], 2))
    assert options == {**COMMON, "steps": "8", "first": 3}
    assert made.pixels.shape == (2, 2, 1, 8, 8)


@pytest.mark.parametrize("share", [[], ["--share", "30"]])
def test_guided(call, asked, workplace, share):
    tiny.run(workplace / "runs" / "dropped", train__label_drop=0.1)
    guide = ["--cfg-scale", 2, "--cfg-interval", 5, 35]
    for options in ([], guide):
        status, _, _ = call(
            "progressive", "runs/dropped", "-n", 2, "--steps", 8, "--class", "ant", *share, *options
        )
        assert status == 0
    (_, _, _, plain), (_, _, options, guided) = asked
    assert options["guide"] == {"cfg_scale": 2.0, "cfg_interval": [5, 35]}
    ends = [made.pixels if share else made.samples.pixels for made in (plain, guided)]
    assert (ends[0] != ends[1]).mean() > 0.1
    record = guided.record if share else guided.samples.record
    assert record["cfg_scale"] == 2.0 and record["cfg_interval"] == [5, 35]
    if not share:  # they end as `ddpm sample` ends
        model = ddpm.load("runs/dropped", "cpu")
        same = model.sample(2, steps=8, label="ant", guide=ddpm.Guide(2.0, (5, 35))).pixels
        assert (abs(same.astype(int) - ends[1]) <= 1).mean() > 0.99


def test_guided_by_a_classifier(call, asked, workplace):
    """A model without classes is asked for those of the classifier, and they stand in the figure."""
    tiny.run(workplace / "runs" / "plain", Facts("zoo", 10))
    tiny.run(workplace / "runs" / "judge", train__task="classifier")
    options = ["--classifier", "runs/judge", "--class", "bee", "--steps", 4, "--shown", 3]
    status, _, _ = call("progressive", "runs/plain", "-n", 2, *options)
    ((_, _, _, made),) = asked
    assert status == 0 and made.samples.labels == (1, 1) and made.samples.classes == ("ant", "bee", "cat")
    status, _, err = call("progressive", "runs/plain", "-n", 2, "--share", "30", *options[:4], "--cfg-scale", 2)
    assert status == 2 and "--cfg-scale 2: plain was trained without classes" in err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--share", "30,x"], "--share 30,x: takes levels of noise, as 750,500,250"),
        (["--share", ""], "--share : takes levels"),
        (["--share", "50"], "--share 50: a level of noise of this model lies between 1 and 40"),
        (
            ["--share", "30", "--shown", 4],
            "--shown 4: belongs to the walks; with --share the rows are its levels",
        ),
        (
            ["--share", "30", "--sampler", "ddim"],
            "--sampler ddim: draws no noise, all completions are one; take ddpm or dpm++sde",
        ),
        (["--shown", 1], "--shown 1: show at least 2"),
        (["-n", 0], "-n 0: draw at least one picture"),
        (["-n", -3], "-n -3: draw at least one picture"),
        (["--first", -1], "--first -1: pictures are counted from 0"),
        (["--out", "p.gif"], "--out p.gif: a figure's name ends in"),
        (["--class", "dog"], "--class dog: no such class"),
    ],
)
def test_what_is_said_to_a_mistake(call, arguments, said):
    status, _, err = call("progressive", "runs/zoo", *arguments)
    assert status == 2 and err.startswith("ddpm: ") and err.count("\n") == 1 and said in err


def test_levels_as_they_are_written():
    assert parse_levels("750, 500,250") == [750, 500, 250]
    for text in ("", ",", "1;2", "-5", "2.5"):
        with pytest.raises(UserError, match="--share"):
            parse_levels(text)


def test_help(call):
    status, out, _ = call("progressive", "--help")
    assert status == 0 and "--share" in out and "x_t along the walk" in out and "--cfg-scale" in out
    assert "progressive" in call("--help")[1] and "interpolate" in call("--help")[1]
