"""`ddpm evaluate --metrics ode` as a user meets it; what it says to a mistake; what a card tells of it."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from ddpm.card.measured import of_run
from ddpm.evaluate import ode
from ddpm.evaluate.ode import Flow, density, dequantised
from ddpm.loading import load
from ddpm.store import Facts

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
    """ddpm evaluate run --reference photos --metrics ode … → status, output, errors; options may name others."""
    first = ["evaluate", "run", "--reference", "photos", "--device", "cpu"]
    return lambda *options: call(*first, *([] if "--metrics" in options else ["--metrics", "ode"]), *options)


def result(name, out=OUT):
    (path,) = out.glob(f"*/{name}")
    return json.loads(path.read_text())


def x0_of():
    """photos, in the order of folders and names, exactly."""
    order = [*range(0, 12, 2), *range(1, 12, 2)]
    pixels = [np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8) for i in order]
    return torch.from_numpy(np.stack(pixels)[:, None] / 127.5 - 1)


def expected(numbers, flow, seed=0, **cond):
    """log p of those pictures, by the library's own pieces."""
    numbers = torch.tensor(numbers)
    x0 = dequantised(x0_of()[numbers], numbers, seed)
    return density(load("run", "cpu").denoiser, x0, numbers, flow, seed, **cond).log_p.numpy()


def in_bits(log_p):
    return -log_p / 64 / math.log(2) + math.log2(127.5)


def table(out):
    """name → (bits/dim, standard error or None), as printed."""
    rows = re.findall(
        r"^(prior, of x_T|change of volume|pixels, log2 127.5|total) +(-?\d+\.\d+)(?: +(\d+\.\d+))? *$", out, re.M
    )
    return {name: (float(value), float(error) if error else None) for name, value, error in rows}


def test_the_table_the_record_and_the_figure(evaluate):
    tiny.run("run", NONE)
    status, out, err = evaluate("--ode-steps", "4", "--probes", "2", "-n", "5", "--seed", "3")
    how = "4 steps of Runge-Kutta even in log SNR, the divergence by 2 probes"
    words = f"likelihood by the probability-flow ODE, {how}"
    assert status == 0 and out.count(words) == 2 and "evaluations 120/120" in err
    assert "120 evaluations of the net: 24 a picture\neach with 2 derivatives, which takes" in out
    log_p = expected([k * 12 // 5 for k in range(5)], Flow(4, 2), 3)
    each = in_bits(log_p)
    made = table(out)
    assert made["total"] == pytest.approx((each.mean(), each.std(ddof=1) / 5**0.5), abs=6e-5)
    assert made["pixels, log2 127.5"] == (6.9944, None)
    assert sum(value for name, (value, _) in made.items() if name != "total") == pytest.approx(
        each.mean(), abs=2e-4
    )
    assert f"log p(x_0): {log_p.mean():,.1f} ± " in out and "nats a picture of 64 numbers" in out
    record = result("ode-5.json")
    kept = {"metric": "ode", "model": "run", "step": 7, "weights": "ema", "pictures": 5, "seed": 3, "T": 40}
    kept |= {"what": words, "ode_steps": 4, "probes": 2, "clip": False, "from_level": 1, "dequantised": "uniform"}
    kept |= {"evaluations_a_picture": 24, "derivatives_an_evaluation": 2, "dimensions": 64}
    assert {name: record[name] for name in kept} == kept
    assert record["checkpoint"] == load("run", "cpu").checkpoint and record["reference"]["pictures"] == 12
    results = record["results"]
    assert results["bits_per_dim"]["mean"] == pytest.approx(each.mean(), rel=1e-9)
    assert results["log_density_nats"]["mean"] == pytest.approx(log_p.mean(), rel=1e-9)
    assert len(results["noise"]["gamma"]) == len(results["noise"]["share"]) == 4
    with Image.open(next(OUT.glob("*/ode-5.png"))) as picture:
        assert picture.format == "PNG" and picture.width > 500


def test_the_exact_divergence(evaluate):
    tiny.run("run", NONE)
    status, out, _ = evaluate("--ode-steps", "2", "--probes", "exact", "-n", "2")
    assert status == 0 and "the exact divergence" in out and "each with 64 derivatives" in out
    record = result("ode-2.json")
    assert record["probes"] == "exact" and record["derivatives_an_evaluation"] == 64
    exact = expected([0, 6], Flow(2, 0))
    assert record["results"]["log_density_nats"]["mean"] == pytest.approx(exact.mean(), rel=1e-6)


def test_one_picture_has_no_standard_error(evaluate):
    tiny.run("run", NONE)
    status, out, _ = evaluate("--ode-steps", "2", "-n", "1")
    assert status == 0 and table(out)["total"][1] is None and "nan" not in out
    assert result("ode-1.json")["results"]["bits_per_dim"]["standard_error"] is None


def test_beside_the_bound_on_the_same_pictures(evaluate):
    tiny.run("run", NONE)
    status, out, _ = evaluate("--metrics", "nll,ode", "-n", "3", "--steps", "all", "--ode-steps", "2")
    assert status == 0 and result("nll-3.json")["which"] == result("ode-3.json")["which"]
    assert "bound of the 40-step chain, every term" in out and result("nll-3.json")["steps"] == "all"


def test_a_conditional_model_is_told_the_classes(evaluate):
    tiny.run("run", PETS)
    status, _, _ = evaluate("--ode-steps", "2")
    label = torch.tensor([0] * 6 + [1] * 6)
    right, swapped = (expected(list(range(12)), Flow(2, 1), label=k).mean() for k in (label, 1 - label))
    found = result("ode-12.json")["results"]["log_density_nats"]["mean"]
    assert status == 0 and found == pytest.approx(right, rel=1e-6) and abs(found - swapped) > 1e-2


def test_the_same_command_goes_on(evaluate, monkeypatch):
    tiny.run("run", NONE)
    options = ["--ode-steps", "2", "--batch", "5"]
    assert evaluate(*options, "--out", "whole")[0] == 0
    inner, batches = ode.on_device, []

    def stopping(*arguments):
        batches.append(arguments[1])
        if len(batches) == 2:
            raise KeyboardInterrupt
        return inner(*arguments)

    monkeypatch.setattr(ode, "on_device", stopping)
    status, out, _ = evaluate(*options)
    assert status == 130 and "5 of 12 pictures are kept in run/evaluation/photos-ode-" in out
    status, out, _ = evaluate(*options)
    assert status == 0 and "5 pictures measured before, 7 to go" in out
    assert [len(rows) for rows in batches] == [5, 5, 5, 2]
    assert result("ode-12.json") == result("ode-12.json", Path("whole"))
    status, out, _ = evaluate(*options)
    assert status == 0 and "nothing is computed" in out and len(batches) == 4
    next(OUT.glob("*/parts/*.npz")).write_bytes(b"")  # a damaged part
    status, out, _ = evaluate(*options)
    assert status == 0 and result("ode-12.json") == result("ode-12.json", Path("whole"))


def test_other_settings_leave_results_alone(evaluate):
    tiny.run("run", NONE)
    for options in ([], ["--seed", "1"], ["--probes", "2"], ["--ode-steps", "4"], ["--weights", "model"]):
        status, out, _ = evaluate("-n", "2", "--ode-steps", "2", *options)
        assert status == 0 and "measured before" not in out
    assert len(list(OUT.iterdir())) == 5


def test_a_card_tells_it(evaluate):
    run = tiny.run("run", NONE)
    assert evaluate("-n", "2", "--ode-steps", "2")[0] == 0
    model = load("run", "cpu")
    (found,), left_out = of_run(run.folder, model.checkpoint, model.description)
    assert not left_out and (found.kind, found.name) == ("bits_per_dim", "bits/dim by the probability-flow ODE")
    assert found.value == result("ode-2.json")["results"]["bits_per_dim"]["mean"] and found.pictures == 2
    assert found.how.startswith("likelihood by the probability-flow ODE, 2 steps of Runge-Kutta")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--ode-steps", "7"], "--ode-steps 7: takes an even number from 2"),
        (["--ode-steps", "0"], "--ode-steps 0: takes an even number from 2"),
        (["--probes", "many"], "--probes many: takes a number from 1, or exact"),
        (["--probes", "0"], "--probes 0: takes a number from 1, or exact"),
        (["--probes", "65536"], "--probes 65536: takes a number from 1 to 65535, or exact"),
        (
            ["--metrics", "nll", "--probes", "2"],
            "--probes 2: belongs to ode; leave it out, or add it to --metrics",
        ),
        (["--metrics", "fid", "--ode-steps", "2"], "--ode-steps 2: belongs to ode; leave it out, or add it"),
        (["--metrics", "fid,ode"], "--metrics fid,ode: take two commands"),
        (["--steps", "5"], "--steps 5: belongs to nll and rate"),
        (["--cfg-scale", "2"], "--cfg-scale 2.0: belongs to fid"),
    ],
)
def test_mistakes(evaluate, options, message):
    tiny.run("run", NONE)
    status, _, err = evaluate(*options)
    assert status == 2 and err.splitlines()[-1].startswith(f"ddpm: {message}")
    assert not OUT.exists()


def test_a_chain_of_one_step_is_refused(evaluate):
    tiny.run("run", NONE, chain__steps=1)
    status, _, err = evaluate()
    assert status == 2 and "a chain of one step has a single level of noise" in err and not OUT.exists()


def test_what_is_not_finite_is_told(evaluate, monkeypatch):
    tiny.run("run", NONE)

    class Overflowing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(torch.inf))

        def forward(self, x, timestep):
            return x * self.scale

    opened = load("run", "cpu")
    opened.denoiser.net = Overflowing()
    monkeypatch.setattr("ddpm.loading.load", lambda *a: opened)
    status, _, err = evaluate("--ode-steps", "2", "-n", "3")
    assert status == 2 and "photos: picture 0 has a log-density of nan: the net's output is not finite" in err
