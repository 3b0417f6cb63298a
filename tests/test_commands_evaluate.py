"""`ddpm evaluate` as a user meets it: what it prints and writes, how it goes on, what it says to a mistake."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from ddpm.commands import evaluate_grid
from ddpm.commands.evaluate import METRICS, parse_metrics
from ddpm.commands.evaluate_bits import table_of
from ddpm.errors import UserError
from ddpm.evaluate import measuring
from ddpm.evaluate.likelihood import estimate, likelihood
from ddpm.evaluate.summary import Mean
from ddpm.grids import read_grids
from ddpm.loading import load
from ddpm.store import Facts
from ddpm.version import __version__

OUT = Path("run/evaluation")
NONE = Facts("zoo", 10)
PETS = Facts("pets", 10, ("cats", "dogs"), (0.5, 0.5))


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny.photos(tmp_path / "photos", 12, grey=True)
    return tmp_path


@pytest.fixture
def evaluate(call):
    """ddpm evaluate run --reference photos … → status, output, errors."""
    return lambda *options: call("evaluate", "run", "--reference", "photos", "--device", "cpu", *options)


def written(out=OUT):
    """The names of the files in the folders of all keys."""
    return sorted(path.name for path in out.glob("*/*") if path.is_file())


def result(name, out=OUT):
    (path,) = out.glob(f"*/{name}")
    return json.loads(path.read_text())


def x0_of(count=12):
    """photos, in the order of folders and names, exactly."""
    order = [*range(0, count, 2), *range(1, count, 2)]
    pixels = [np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8) for i in order]
    return torch.from_numpy(np.stack(pixels)[:, None] / 127.5 - 1)


def table(out):
    """name → (bits/dim, standard error), as printed."""
    rows = re.findall(r"^(prior, L_T|t = 2 … \d+|decoder, L_0|total) +(-?\d+\.\d+) +(\d+\.\d+)$", out, re.M)
    return {name: (float(value), float(error)) for name, value, error in rows}


# -- the three kinds of number -----------------------------------------------------------------------------------


def test_an_estimate_is_called_one(evaluate):
    tiny.run("run", NONE)
    status, out, err = evaluate("--draws", "4")
    assert status == 0 and "evaluations 60/60" in err
    words = "Monte-Carlo estimate of the bound of the 40-step chain: the decoder's term and 4 drawn ones a picture"
    assert out.count(words) == 2 and "60 evaluations of the net: 5 a picture" in out
    assert "run on 12 pictures of photos\n" in out
    model = load("run", "cpu").denoiser
    expected = estimate(model, x0_of(), torch.arange(12), 4).total.numpy()
    made = table(out)
    assert made["total"] == pytest.approx((expected.mean(), expected.std(ddof=1) / 12**0.5), abs=6e-5)
    assert sum(value for name, (value, _) in made.items() if name != "total") == pytest.approx(
        made["total"][0], abs=2e-4
    )
    assert written() == ["key.json", "nll-12.json", "nll-12.png"]
    with Image.open(next(OUT.glob("*/nll-12.png"))) as picture:
        assert picture.format == "PNG" and picture.width > 800


def test_every_term(evaluate):
    tiny.run("run", NONE)
    status, out, _ = evaluate("--steps", "all")
    assert status == 0 and out.count("bound of the 40-step chain, every term") == 2
    assert "480 evaluations of the net: 40 a picture" in out
    bits = likelihood(load("run", "cpu").denoiser, x0_of(), torch.arange(12))
    record = result("nll-12.json")
    assert record["results"]["bits_per_dim"]["mean"] == pytest.approx(float(bits.total.mean()), rel=1e-5)
    assert record["results"]["terms"]["bits_per_dim"] == pytest.approx(bits.terms.mean(0).tolist(), rel=1e-4)
    assert record["results"]["terms"]["squared_error"] == pytest.approx(bits.error.mean(0).tolist(), rel=1e-4)


def test_a_bound_of_K_steps_is_its_own(evaluate):
    tiny.run("run", NONE)
    status, out, _ = evaluate("--steps", "10", "-n", "5")
    keep = sorted({*range(1, 5), 1, 5, 10, 14, 18, 23, 27, 31, 36, 40})
    assert status == 0 and f"{5 * len(keep)} evaluations of the net: {len(keep)} a picture" in out
    assert (
        f"bound of a chain of {len(keep)} of the 40 levels: 10 evenly spaced, and all of 1 … 4; its own bound, no "
        "estimate of the 40-step chain's"
    ) in out
    numbers = torch.tensor([k * 12 // 5 for k in range(5)])
    bits = likelihood(load("run", "cpu").denoiser.respace(keep), x0_of()[numbers], numbers)
    record = result("nll-5.json")
    assert record["chain"] == record["results"]["terms"]["first"] == keep
    assert record["results"]["bits_per_dim"]["mean"] == pytest.approx(float(bits.total.mean()), rel=1e-5)


def test_a_record_says_all_that_it_takes_to_repeat_it(evaluate):
    tiny.run("run", PETS)
    assert evaluate("--steps", "10", "-n", "5", "--seed", "3", "--weights", "model", "--variance", "small")[0] == 0
    record, model = result("nll-5.json"), load("run", "cpu", "model")
    expected = {
        "metric": "nll",
        "model": "run",
        "checkpoint": model.checkpoint,
        "step": 7,
        "weights": "model",
        "pictures": 5,
        "which": "number k * 12 // 5 for k = 0 ... 4",
        "seed": 3,
        "device": "cpu",
        "kind": "respaced",
        "T": 40,
        "steps": "10",
        "draws": None,
        "variance": "small",
        "clip": True,
    }
    assert {key: record[key] for key in expected} == expected
    assert record["chain_steps"] == len(record["chain"]) and "levels" not in record
    assert record["what"].startswith("bound of a chain of")
    assert record["reference"]["data"] == record["reference"]["name"] == "photos"
    assert len(record["reference"]["fingerprint"]) == 64 and record["reference"]["pictures"] == 12
    assert record["versions"]["ddpm"] == __version__ and record["versions"]["torch"] == torch.__version__


def test_rate_and_nll_are_of_one_pass(evaluate):
    tiny.run("run", NONE)
    status, out, _ = evaluate("--metrics", "rate,nll", "-n", "4")
    assert status == 0 and out.count("160 evaluations of the net: 40 a picture") == 1
    assert written() == ["key.json", "nll-4.json", "nll-4.png", "rate-4.json", "rate-4.png"]
    nll, rate = result("nll-4.json"), result("rate-4.json")
    assert nll["kind"] == rate["kind"] == "every term"
    assert rate["results"]["lossless"] == pytest.approx(nll["results"]["bits_per_dim"]["mean"], rel=1e-12)
    assert "reverse steps" in out and out.count("bound of the 40-step chain, every term") == 2
    status, out, _ = evaluate("--metrics", "rate", "-n", "4", "--steps", "all")
    assert "every picture was measured before: nothing is computed" in out


def test_grid_finds_levels_and_keeps_them_with_the_run(evaluate):
    tiny.run("run", NONE)
    status, out, _ = evaluate("--metrics", "grid", "-n", "6", "--batch", "4")
    assert status == 0 and "240 evaluations of the net: 40 a picture" in out and "run/grids.json" in out
    grids = read_grids(Path("run/grids.json"))
    assert (grids.T, grids.pictures, grids.model, grids.weights, grids.data) == (40, 6, "run", "ema", "photos")
    assert grids.checkpoint == load("run", "cpu").checkpoint
    five = grids.grid(5)
    bits = likelihood(load("run", "cpu").denoiser.respace(five.levels), x0_of()[::2], torch.arange(0, 12, 2))
    assert five.bits == pytest.approx(float(bits.total.mean()), rel=1e-4) and five.bits <= five.even
    status, out, err = evaluate("--metrics", "grid", "-n", "6", "--batch", "4")
    assert "every picture was measured before" in out and "evaluations" not in err
    assert read_grids(Path("run/grids.json")) == grids


def test_the_grids_of_a_run_are_not_replaced_unnoticed(evaluate):
    tiny.run("run", NONE)
    run = Path("run/grids.json")
    status, out, _ = evaluate("--metrics", "grid", "-n", "6")
    assert status == 0 and "replace" not in out and "--grid fitted takes them: run/grids.json" in out
    six = read_grids(run)
    (kept,) = OUT.glob("*/grids.json")
    assert read_grids(kept) == six
    record = result("grid-6.json")
    assert record["metric"] == "grid" and record["pictures"] == 6 and record["checkpoint"] == six.checkpoint
    assert [grid["bits"] for grid in record["results"]["grids"]] == [grid.bits for grid in six.grids]
    for option, value, reason in (
        ("--out", "elsewhere", "--out"),
        ("--variance", "small", "variance small, not large"),
        ("--weights", "model", "not of the averaged weights"),
    ):
        status, out, _ = evaluate("--metrics", "grid", "-n", "4", option, value)
        assert status == 0 and f"run/grids.json is left as it is ({reason})" in out
        assert read_grids(run) == six
    status, out, _ = evaluate("--metrics", "grid", "-n", "4")
    assert status == 0 and "run/grids.json: replaces the grids fitted on 6 pictures of photos\n" in out
    assert read_grids(run).pictures == 4
    run.write_text("{")
    status, out, _ = evaluate("--metrics", "grid", "-n", "4")
    assert status == 0 and "run/grids.json: could not be read, and is replaced" in out
    assert read_grids(run).pictures == 4


def test_grids_of_a_file_say_so(call, workplace):
    ema = next((tiny.run("run", NONE).folder / "checkpoints").iterdir()) / "ema.safetensors"
    (workplace / "zoo.safetensors").write_bytes(ema.read_bytes())
    options = ["--reference", "photos", "--device", "cpu", "-n", "3", "--metrics", "grid"]
    assert call("evaluate", "zoo.safetensors", *options)[0] == 0
    (path,) = Path("evaluation/zoo").glob("*/grids.json")
    assert read_grids(path).weights == "as in the file" and not Path("grids.json").exists()


@pytest.mark.parametrize(
    "levels, names",
    [
        (range(1, 41), ["t = 2 … 40", "decoder, L_0"]),
        ([1, 2, 9, 40], ["t = 2 … 40 (3 steps)", "decoder, L_0"]),
        ([124, 151, 500, 1000], ["t = 151 … 1,000 (3 steps)", "decoder, from t = 124"]),
        ([5, 40], ["t = 40 (1 step)", "decoder, from t = 5"]),
        ([40], ["decoder, from t = 40"]),
        ([1], ["decoder, L_0"]),
    ],
)
def test_rows_are_named_by_the_levels_that_were_measured(levels, names):
    one = Mean(1.0, 0.1)
    made = table_of({"prior": one, "between": one, "decoder": one}, one, np.array(levels))
    assert list(made.columns[0].cells) == ["prior, L_T", *names, "total"]


def test_a_fitted_grid_is_measured_as_its_own_chain(evaluate):
    tiny.run("run", NONE)
    assert evaluate("--metrics", "grid", "-n", "6")[0] == 0
    grid = read_grids(Path("run/grids.json")).grid(5)
    status, out, _ = evaluate("--steps", "5", "--grid", "fitted", "-n", "6", "--metrics", "nll,rate")
    assert status == 0 and "30 evaluations of the net: 5 a picture" in out
    assert "bound of a chain of 5 of the 40 levels: those fitted to it; its own bound, no estimate" in out
    record = result("nll-6.json")
    assert record["chain"] == list(grid.levels) and record["fitted"]
    assert record["results"]["bits_per_dim"]["mean"] == pytest.approx(grid.bits, rel=1e-4)
    status, out, _ = evaluate("--steps", "5", "--grid", "run/grids.json", "--variance", "small", "-n", "2")
    assert (
        status == 0
        and "note: run/grids.json: its grids were fitted with variance large, the model has small" in out
    )


# -- going on ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metrics", ["nll", "rate", "grid"])
def test_the_same_command_goes_on(evaluate, metrics, monkeypatch):
    tiny.run("run", NONE)
    options = ["--metrics", metrics, "--batch", "5", *(["--draws", "3"] if metrics == "nll" else [])]
    assert evaluate(*options, "--out", "whole")[0] == 0
    inner, batches = measuring.on_device, []

    def stopping(*arguments):
        batches.append(arguments[1])
        if len(batches) == 2:
            raise KeyboardInterrupt
        return inner(*arguments)

    for module in (measuring, evaluate_grid):
        monkeypatch.setattr(module, "on_device", stopping)
    status, out, err = evaluate(*options)
    assert status == 130 and err.endswith("ddpm: stopped\n")
    assert "5 of 12 pictures are kept in run/evaluation/photos-" in out and "the same command goes on" in out
    status, out, _ = evaluate(*options)
    assert status == 0 and "5 pictures measured before, 7 to go" in out
    assert [len(rows) for rows in batches] == [5, 5, 5, 2]
    assert result(f"{metrics}-12.json") == result(f"{metrics}-12.json", Path("whole"))
    if metrics == "grid":
        assert read_grids(Path("run/grids.json")) == read_grids(next(Path("whole").glob("*/grids.json")))


@pytest.mark.parametrize("metrics", ["nll", "grid"])
def test_a_stop_before_anything_is_kept(evaluate, metrics, monkeypatch):
    tiny.run("run", NONE)

    def stopping(*arguments):
        raise KeyboardInterrupt

    for module in (measuring, evaluate_grid):
        monkeypatch.setattr(module, "on_device", stopping)
    status, out, _ = evaluate("--metrics", metrics)
    assert status == 130
    assert "nothing is kept: 12 pictures are kept together once all are measured; --batch 3 keeps fewer" in out


@pytest.mark.parametrize("metrics", ["nll", "rate", "grid"])
def test_a_place_that_cannot_be_written_is_noticed_first(evaluate, metrics, monkeypatch):
    tiny.run("run", NONE)
    Path("file").write_text("")
    status, _, err = evaluate("--metrics", metrics, "--out", "file/inside")
    assert status == 2 and "cannot be written" in err and "choose another --out" in err
    assert "evaluations" not in err


def test_other_settings_leave_results_alone(evaluate):
    tiny.run("run", NONE)
    for options in ([], ["--seed", "1"], ["--variance", "small"], ["--steps", "8"]):
        status, out, _ = evaluate("-n", "3", *options)
        assert status == 0 and "measured before" not in out
    assert written().count("nll-3.json") == len(list(OUT.iterdir())) == 4


def test_more_pictures_go_on_from_fewer(evaluate):
    tiny.run("run", NONE)
    assert evaluate("-n", "3")[0] == 0
    status, out, _ = evaluate("-n", "all")
    assert status == 0 and "3 pictures measured before, 9 to go" in out
    assert written() == ["key.json", "nll-12.json", "nll-12.png", "nll-3.json", "nll-3.png"]


# -- models and pictures ----------------------------------------------------------------------------------------


def test_a_conditional_model_is_told_the_classes(evaluate):
    tiny.run("run", PETS)
    status, out, _ = evaluate("--steps", "all")
    labels = torch.tensor([0] * 6 + [1] * 6)
    bits = likelihood(load("run", "cpu").denoiser, x0_of(), torch.arange(12), label=labels)
    assert status == 0 and table(out)["total"][0] == pytest.approx(float(bits.total.mean()), abs=6e-5)
    swapped = likelihood(load("run", "cpu").denoiser, x0_of(), torch.arange(12), label=1 - labels)
    assert abs(float(swapped.total.mean()) - table(out)["total"][0]) > 1e-3


@pytest.mark.parametrize("variance, own", [(None, "learned_range"), ("small", "small"), ("large", "large")])
def test_variances(evaluate, variance, own):
    tiny.run("run", NONE, denoiser__variance="learned_range", loss__kind="hybrid")
    status, _, _ = evaluate("--steps", "all", *(["--variance", variance] if variance else []))
    model = load("run", "cpu").denoiser.with_variance(own)
    bits = likelihood(model, x0_of(), torch.arange(12))
    assert status == 0 and result("nll-12.json")["variance"] == own
    assert result("nll-12.json")["results"]["bits_per_dim"]["mean"] == pytest.approx(
        float(bits.total.mean()), rel=1e-4
    )


def test_where_results_go(call, workplace):
    tiny.run("runs/zoo", NONE)
    ema = next((workplace / "runs" / "zoo" / "checkpoints").iterdir())
    (workplace / "zoo.safetensors").write_bytes((ema / "ema.safetensors").read_bytes())
    options = ["--reference", "photos", "--device", "cpu", "-n", "2"]
    for model, folder in (
        ("runs/zoo", "runs/zoo/evaluation"),
        (ema, "runs/zoo/evaluation"),
        ("zoo.safetensors", "evaluation/zoo"),
    ):
        status, out, _ = call("evaluate", model, *options)
        assert status == 0 and f"{folder}/photos-estimate-" in out
    assert result("nll-2.json", Path("evaluation/zoo"))["weights"] == "as in the file"


def test_up_to_a_thousand_pictures_unless_told(call, workplace):
    pixels = np.random.default_rng(0).integers(0, 256, (1003, 8, 8), dtype=np.uint8)
    np.save(workplace / "many.npy", pixels)
    tiny.run("run", NONE, chain__steps=2)
    status, out, _ = call("evaluate", "run", "--reference", "many.npy", "--device", "cpu")
    assert status == 0 and "run on 1,000 pictures of many, evenly spread over its 1,003" in out
    assert "bound of the 2-step chain, every term" in out  # so short that drawing saves nothing


# -- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        (["--metrics", "nnl"], "--metrics nnl: no such metric; did you mean nll?"),
        (["--metrics", "speed"], "--metrics speed: no such metric; there are nll, rate, grid"),
        (["--metrics", ","], "--metrics: name at least one of nll, rate, grid"),
        (["-n", "13"], "-n 13: photos has 12 pictures; take 1 to all of them"),
        (["-n", "0"], "-n 0: takes a number of pictures from 1, or all"),
        (["-n", "few"], "-n few: takes a number of pictures from 1, or all"),
        (["-n", "-3"], "-n -3: takes a number of pictures from 1, or all"),
        (["--variance", "medium"], "--variance medium: takes small, large, learned or learned_range"),
        (["--batch", "0"], "--batch 0: is at least 1"),
        (["--seed", "-1"], "--seed -1: lies in [0, 2^64)"),
        (["--draws", "0"], "--draws 0: draws 1 to 38 of a chain of 40 steps; --steps all measures every term"),
        (
            ["--draws", "3", "--steps", "9"],
            "--draws 3: so many are drawn from the whole chain; leave out --steps 9",
        ),
        (
            ["--draws", "3", "--metrics", "rate"],
            "--draws 3: rate needs every level; leave it out, or take --steps K",
        ),
        (["--draws", "3", "--metrics", "grid"], "--draws 3: belongs to nll and rate; leave it out, or add one"),
        (
            ["--steps", "all", "--metrics", "grid"],
            "--steps all: belongs to nll and rate; leave it out, or add one",
        ),
        (["--steps", "41"], "--steps 41: takes 1 to 40 of the 40 levels there are to choose from"),
        (["--steps", "many"], "--steps many: takes a number"),
        (
            ["--variance", "learned"],
            "--variance learned: run has learned none; take small, large, or leave it out",
        ),
        (["--grid", "fitted"], "--grid fitted: has the levels of so many steps; add --steps K, without --draws"),
        (["--grid", "fitted", "--steps", "4", "--draws", "3"], "--grid fitted: has the levels of so many steps"),
        (["--grid", "fitted", "--steps", "all"], "--steps all: a fitted grid takes a number of steps, as 20"),
        (["--out", "photos/cats/00.png"], "--out photos/cats/00.png: is a file; name a folder"),
        (["--device", "cuda:99"], "--device cuda:99: there is no such device here"),
    ],
)
def test_mistakes(evaluate, options, message):
    tiny.run("run", NONE)
    status, _, err = evaluate(*options)
    assert status == 2 and err.splitlines()[-1].startswith(f"ddpm: {message}")
    assert not OUT.exists()


def test_a_variance_learned_in_another_way(evaluate):
    tiny.run("run", NONE, denoiser__variance="learned_range", loss__kind="hybrid")
    status, _, err = evaluate("--variance", "learned")
    assert status == 2 and "--variance learned: run has learned learned_range; take small, large" in err


def test_data_without_the_model_s_classes(call):
    tiny.run("run", Facts("zoo", 10, ("ant", "bee"), (0.5, 0.5)))
    status, _, err = call("evaluate", "run", "--reference", "photos", "--device", "cpu")
    assert status == 2 and "ddpm: photos: cats, dogs not among the classes of run (ant, bee); take these" in err


def test_no_reference(call):
    tiny.run("run", NONE)
    status, out, err = call("evaluate", "run")
    assert status == 2 and "--reference" in out + err


def test_metrics():
    assert parse_metrics("nll, rate,nll") == ("nll", "rate")
    assert parse_metrics(",".join(METRICS)) == tuple(METRICS)
    with pytest.raises(UserError):
        parse_metrics("")
