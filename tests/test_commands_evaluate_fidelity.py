"""`ddpm evaluate --metrics fid,…` as a user meets it: drawn or given pictures, stops, processes, mistakes."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image

import tiny
from ddpm.commands.evaluate_fidelity import label, table
from ddpm.commands.evaluate_sides import is_model, pictures_of
from ddpm.commands.processes import console_of
from ddpm.errors import UserError
from ddpm.evaluate.features import open_features
from ddpm.evaluate.records import Records
from ddpm.evaluate.scores import Mean
from ddpm.loading import load
from ddpm.pipeline import Pipeline
from ddpm.processes import Processes
from ddpm.store import Facts
from ddpm.version import __version__

ZOO = tiny.ANIMALS
NONE = Facts("zoo", 10)
FEW = ("--steps", 3, "--device", "cpu", "--features", "random")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny.photos(tmp_path / "photos", 30, grey=True)
    return tmp_path


@pytest.fixture
def evaluate(call):
    """ddpm evaluate run --reference photos --metrics fid … → status, output, errors."""

    def evaluate(*options, model="run", reference="photos", metrics="fid", few=FEW):
        return call("evaluate", model, "--reference", reference, "--metrics", metrics, *few, *options)

    return evaluate


def refused(call, *arguments):
    status, out, err = call("evaluate", *arguments, "--device", "cpu")
    lines = [line for line in err.splitlines() if not line.startswith("decoding ")]
    assert status == 2 and len(lines) == 1 and lines[0].startswith("ddpm: "), (status, out, err)
    return lines[0]


def records(out="run/evaluation"):
    return [json.loads(path.read_text()) for path in sorted(Path(out).glob("*/fidelity-*.json"))]


def record(out="run/evaluation"):
    (found,) = records(out)
    return found


def results(out="run/evaluation"):
    return {name: found["value"] for name, found in record(out)["results"].items()}


def fid_of(a, b):
    """By the formula, in features of the random net."""
    x, y = (open_features("random")(one).pooled.double().numpy() for one in (a, b))
    s, r = np.cov(x.T), np.cov(y.T)
    # tr (s r)^½ by the eigenvalues of a symmetric product, as s r itself is singular for so few pictures
    root = scipy.linalg.sqrtm(s + 1e-12 * np.eye(len(s))).real
    both = np.sqrt(np.clip(np.linalg.eigvalsh(root @ r @ root), 0, None)).sum()
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s) + np.trace(r) - 2 * both


def photos(folder="photos"):
    paths = sorted(Path(folder).rglob("*.png"))
    return np.stack([np.asarray(Image.open(path)) for path in paths])[:, None]


# -- what a model draws ------------------------------------------------------------------------------------------


def test_the_pictures_of_sample_are_scored_as_pixels(evaluate):
    tiny.run("run", ZOO)  # photos have other classes, which do not matter
    status, out, err = evaluate("-n", 20, "--seed", 3, "--sampler", "ddim", "--batch", 7)
    assert status == 0, err
    drawn = load("run", "cpu").sample(20, seed=3, steps=3, sampler="ddim").pixels
    assert results()["fid"] == pytest.approx(fid_of(drawn, photos()), rel=1e-3)
    words = (
        "20 pictures drawn by run (ddim, 3 steps, grid uniform, seed 3) against the 30 of photos, in 256 features"
    )
    assert f"{words} of random\n60 evaluations of the model: 3 a picture\n" in out
    assert "evaluations 60/60" in err and "features of the reference 30/30" in err
    shown = re.search(r"^Fréchet distance +(\S+) *$", out, re.M)
    assert shown and float(shown[1]) == pytest.approx(results()["fid"], rel=1e-3)
    assert "note: Fréchet distance of 20 pictures in 256 features comes out far too large" in out


def test_a_record_says_all_that_it_takes_to_repeat_it(evaluate):
    tiny.run("run", ZOO)
    options = ("--sampler", "heun", "--churn", 0.5, "--weights", "model", "--variance", "small", "-n", 12)
    assert evaluate(*options, metrics="kid,precision,fid")[0] == 0
    found, model = record(), load("run", "cpu", "model")
    assert list(found["results"]) == ["kid", "precision", "fid"]
    for name, value in {
        "metric": "fidelity",
        "model": "run",
        "checkpoint": model.checkpoint,
        "step": 7,
        "weights": "model",
        "sampler": "heun",
        "steps": 3,
        "evaluations": 5,
        "grid": "log-snr",
        "churn": 0.5,
        "seed": 0,
        "variance": "small",
        "clip": True,
        "features": {"name": "random", "key": open_features("random").key, "count": 256},
        "pictures": 12,
        "pairwise": {"samples": 12, "reference": 30, "spread": "evenly"},
        "device": "cpu",
    }.items():
        assert found[name] == value, name
    reference = found["reference"]
    assert (reference["data"], reference["name"], reference["pictures"]) == ("photos", "photos", 30)
    assert reference["size"] == [8, 8] and reference["channels"] == 1 and len(reference["fingerprint"]) == 64
    assert found["versions"]["ddpm"] == __version__ and found["versions"]["torch"] == torch.__version__
    assert set(found["versions"]) == {"ddpm", "torch", "torchmetrics", "python"}
    assert set(found["caveats"]) == {"kid", "precision", "fid"}
    assert set(found["results"]["kid"]) == {"value", "deviation"}


def test_more_pictures_go_on_from_fewer_in_any_batches(evaluate):
    tiny.run("run", NONE)
    assert evaluate("-n", 12, "--batch", 5)[0] == 0
    status, out, _ = evaluate("-n", 20, "--batch", 3, metrics="fid,sfid,kid,precision,recall")
    assert status == 0 and "12 pictures drawn before, 8 to go: 24 evaluations of the model" in out
    assert evaluate("-n", 20, "--out", "fresh", metrics="fid,sfid,kid,precision,recall")[0] == 0
    assert records()[1]["results"]["fid"]["value"] == pytest.approx(results("fresh")["fid"], rel=1e-5)
    assert records()[1]["results"]["sfid"]["value"] == pytest.approx(results("fresh")["sfid"], rel=1e-5)
    assert records()[1]["results"]["kid"]["value"] == pytest.approx(results("fresh")["kid"], rel=1e-4)


def test_other_references_and_metrics_draw_nothing(evaluate, tmp_path):
    tiny.run("run", NONE)
    tiny.photos(tmp_path / "others", 24, grey=True)
    assert evaluate("-n", 12)[0] == 0
    for reference, metrics in (("photos", "kid,fid"), ("others", "fid")):
        status, out, err = evaluate("-n", 12, reference=reference, metrics=metrics)
        assert status == 0 and "the features of all of them are kept" in out and "evaluations" not in err
    ours = {found["reference"]["name"]: found["results"] for found in records()}
    assert list(ours["photos"]) == ["fid", "kid"]  # what was taken before stays
    assert list(ours["others"]) == ["fid"] and ours["others"] != ours["photos"]
    assert len(list(Path("run/evaluation").iterdir())) == 1


@pytest.mark.parametrize(
    "option",
    [
        ("--seed", 1),
        ("--sampler", "ddpm"),
        ("--grid", "edm"),
        ("--steps", 4),
        ("--variance", "small"),
        ("--engine", "onnx"),
    ],
)
def test_what_decides_the_pictures_has_a_folder_of_its_own(evaluate, option):
    tiny.run("run", NONE)
    assert evaluate("-n", 4)[0] == 0
    status, out, _ = evaluate("-n", 4, *option)
    assert status == 0 and "kept" not in out and len(list(Path("run/evaluation").iterdir())) == 2


def test_stopped_it_goes_on(evaluate, monkeypatch):
    tiny.run("run", NONE)
    sample, drawn = Pipeline.sample, []

    def stopped(self, n, **options):
        drawn.append((options["first"], n))
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return sample(self, n, **options)

    monkeypatch.setattr(Pipeline, "sample", stopped)
    status, out, err = evaluate("-n", 20, "--batch", 6)
    assert status == 130 and "12 of 20 pictures are kept in run/evaluation/dpmppsde-3-random-" in out
    assert err.endswith("ddpm: stopped\n") and not records()
    status, out, _ = evaluate("-n", 20, "--batch", 6)
    assert status == 0 and "12 pictures drawn before, 8 to go" in out
    assert drawn == [(0, 6), (6, 6), (12, 6), (12, 6), (18, 2)]
    assert evaluate("-n", 20, "--out", "fresh")[0] == 0
    assert results() == pytest.approx(results("fresh"), rel=1e-5)


def test_stopped_before_anything_is_kept(evaluate, monkeypatch):
    tiny.run("run", NONE)

    def stopped(self, n, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "sample", stopped)
    status, out, _ = evaluate("-n", 20, "--batch", 8)
    assert status == 130 and "8 pictures are kept together once all are done; --batch 2 keeps fewer" in out


def test_pictures_of_a_damaged_part_are_drawn_again(evaluate):
    tiny.run("run", NONE)
    assert evaluate("-n", 12, "--batch", 4)[0] == 0
    expected = results()
    part = sorted(Path("run/evaluation").glob("*/parts/*.npz"))[1]
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1  # in an array: the numbers are whole, so it is only seen when all is read
    part.write_bytes(data)
    status, _, err = evaluate("-n", 12, "--batch", 4)
    assert status == 0 and "evaluations 12/12" in err and results() == pytest.approx(expected, rel=1e-5)


def test_held_out_pictures(evaluate, tmp_path):
    tiny.run("run", NONE, data__path=(str(tmp_path / "photos"),), data__holdout="0.5", data__labels="none")
    status, _, err = evaluate("-n", 4, reference="held-out")
    assert status == 0, err
    assert record()["reference"]["name"] == "photos-held-out" and record()["reference"]["pictures"] == 15


def test_pictures_are_drawn_in_stretches(evaluate, monkeypatch):
    """What lies between pictures that are kept is not drawn with them."""
    tiny.run("run", NONE)
    assert evaluate("-n", 20, "--batch", 4)[0] == 0
    expected = results()
    parts = sorted(Path("run/evaluation").glob("*/parts/*.npz"))
    parts[0].unlink(), parts[1].unlink(), parts[3].unlink()
    sample, drawn = Pipeline.sample, []

    def seen(self, n, **options):
        drawn.append((options["first"], n))
        return sample(self, n, **options)

    monkeypatch.setattr(Pipeline, "sample", seen)
    status, _, err = evaluate("-n", 20, "--batch", 10)
    assert status == 0 and "evaluations 36/36" in err and results() == pytest.approx(expected, rel=1e-5)
    assert drawn == [(0, 8), (12, 2), (14, 2)]


# -- pictures that are given ----------------------------------------------------------------------------------


def test_what_sample_wrote_is_known_for_it(evaluate, call):
    tiny.run("run", NONE)
    assert call("sample", "run", "-n", 12, "--steps", 3, "--device", "cpu", "--no-film", "--out", "drawn")[0] == 0
    status, out, err = evaluate(model="drawn", few=FEW[2:])
    assert status == 0, err
    assert "12 pictures of drawn against the 30 of photos" in out and "features 12/12" in err
    found = record("evaluation/drawn")
    assert (
        found["samples"]["drawn"]["sampler"] == "dpm++sde"
        and found["samples"]["pictures"] == found["pictures"] == 12
    )
    assert evaluate("-n", 12)[0] == 0  # the same pictures, drawn
    assert found["results"]["fid"]["value"] == pytest.approx(results()["fid"], rel=1e-5)
    status, out, err = evaluate(model="drawn", few=FEW[2:], metrics="kid")
    assert status == 0 and "the features of all of them are kept" in out and "features 12" not in err
    assert evaluate(model="photos", reference="drawn", few=FEW[2:])[0] == 0
    assert record("evaluation/photos")["reference"]["name"] == "drawn"


def test_a_set_against_itself(evaluate):
    status, _, err = evaluate(model="photos", few=FEW[2:], metrics="fid,precision,recall")
    assert status == 0, err
    made = results("evaluation/photos")
    assert made["fid"] == pytest.approx(0, abs=1e-6) and made["precision"] == made["recall"] == 1


def test_some_of_a_folder_are_spread_over_it(evaluate):
    assert evaluate("-n", 7, model="photos", few=FEW[2:])[0] == 0
    x = photos()
    some = x[[0, 4, 8, 12, 17, 21, 25]]  # k * 30 // 7
    assert results("evaluation/photos")["fid"] == pytest.approx(fid_of(some, x), rel=1e-3)


def test_arrays_and_colour(evaluate, tmp_path):
    """Grey against colour is colour on both sides."""
    colours = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    np.save("colours.npy", colours)
    status, _, err = evaluate(model="photos", reference="colours.npy", few=FEW[2:])
    assert status == 0, err
    found = record("evaluation/photos")
    expected = fid_of(np.repeat(photos(), 3, axis=1), colours.transpose(0, 3, 1, 2))
    assert found["reference"]["channels"] == 3 and found["results"]["fid"]["value"] == pytest.approx(
        expected, rel=1e-3
    )


def test_sizes_that_differ(evaluate, call, tmp_path):
    tiny.photos(tmp_path / "wide", 12, (8, 12), grey=True)
    named = ("--reference", "photos", "--metrics", "fid", "--features", "random")
    err = refused(call, "wide", *named)
    assert "wide is of 8 x 12 and photos of 8 x 8; --size 8x12 brings both to one" in err
    status, _, err = evaluate("--size", 8, model="wide", few=FEW[2:])
    assert status == 0, err
    expected = fid_of(photos("wide")[..., 2:10], photos())
    assert results("evaluation/wide")["fid"] == pytest.approx(expected, rel=1e-3)
    Image.new("L", (20, 20)).save("photos/cats/large.png")
    err = refused(call, "wide", *named)
    assert "photos: pictures of 2 sizes, 8 x 8 to 20 x 20; --size 8 brings both sides to one" in err


def test_which_first_argument_is_a_model(tmp_path, call):
    tiny.run("run", NONE)
    tiny.run("fashion", NONE)  # a path that is there beats an embedded name
    np.save("a.npy", np.zeros((4, 8, 8), np.uint8))
    Path("broken.zip").write_bytes(b"none")
    Path("weights.pt").write_bytes(b"none")
    Path("empty").mkdir()
    newest = next(Path("run/checkpoints").iterdir())
    for name in ("run", "fashion", str(newest), str(newest / "ema.safetensors"), "nothing", "weights.pt"):
        assert is_model(name), name
    for name in ("photos", "a.npy", "broken.zip", "empty", "hub:org/name"):
        assert not is_model(name), name
    assert pictures_of("photos") == "photos"


# -- scores that need more of a net ---------------------------------------------------------------------------


class Classes(torch.nn.Module):
    """Features: means of rows. Logits: those of four quarters, sharpened."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor]:
        x = x.float()
        return x.mean((1, 3)), None, torch.nn.functional.avg_pool2d(x, 4).flatten(1) / 8.0


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "quarters.pt2"
    example = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(Classes(), (example,), dynamic_shapes=shapes), path)
    return path


def test_a_net_of_ones_own(evaluate, program):
    few = ("--device", "cpu", "--features", program)
    status, out, err = evaluate(model="photos", few=few, metrics="is,fid")
    assert status == 0, err
    assert "8 features of quarters.pt2" in out and re.search(r"^Inception Score +\d\.\d+ +\d\.?\d*$", out, re.M)
    assert "±: standard deviation over 10 splits for the Inception Score" in out
    assert record("evaluation/photos")["features"]["name"] == "quarters.pt2"
    x = photos().astype(np.float64)
    logits = x.reshape(30, 2, 4, 2, 4).mean((2, 4)).reshape(30, 4) / 8
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    most = np.exp((p * (np.log(p + 1e-300) - np.log(p.mean(0)))).sum(1).mean())
    assert 1 < record("evaluation/photos")["results"]["is"]["value"] < most * 1.2  # of splits of 3, about as large


def test_what_a_net_lacks_is_said_before_anything_is_drawn(evaluate, program, monkeypatch):
    tiny.run("run", NONE)
    monkeypatch.setattr(Pipeline, "sample", None)
    for features, metric in (("random", "is"), (program, "sfid")):
        status, _, err = evaluate("-n", 12, few=("--device", "cpu", "--features", features), metrics=metric)
        assert status == 2 and f"--metrics {metric}: " in err and "gives no " in err


def test_a_program_of_another_size(evaluate, program, tmp_path):
    tiny.photos(tmp_path / "wide", 12, (8, 12), grey=True)
    few = ("--device", "cpu", "--features", program)
    status, _, err = evaluate(model="wide", reference="wide", few=few)
    assert status == 2 and "quarters.pt2: does not take uint8 pictures of 1x8x12" in err


# -- several processes ----------------------------------------------------------------------------------------


def start(rank, port, *arguments):
    env = {**os.environ, "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ddpm.cli", "evaluate", *map(str, arguments)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def two(*arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [start(rank, port, *arguments) for rank in (0, 1)]
    try:
        return [(*one.communicate(timeout=120), one.returncode) for one in started]
    finally:
        for one in started:
            one.kill()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(evaluate):
    tiny.run("run", ZOO)
    metrics = "fid,kid,precision,recall"
    arguments = ("run", "--reference", "photos", "--metrics", metrics, *FEW, "-n", 20, "--batch", 3)
    (out, err, status), (silent, quiet, other) = two(*arguments, "--out", "both")
    assert status == other == 0, err + quiet
    assert "60 evaluations of the model: 3 a picture, in 2 processes" in out and "photos" not in silent
    assert "evaluations, process 1 of 2 30/30" in err and "evaluations" not in quiet  # 10 pictures of 20
    assert evaluate("-n", 20, "--out", "one", metrics=metrics)[0] == 0
    parts = []
    for where in ("one", "both"):
        (folder,) = Path(where).iterdir()
        kept = Records(folder.parent, "x", {})
        kept.folder = folder
        parts.append(kept.read(np.arange(20)))
    for name in ("pooled", "spatial"):
        np.testing.assert_allclose(parts[1][name], parts[0][name], rtol=1e-3, atol=1e-3)
    assert results("both") == pytest.approx(results("one"), rel=1e-3)
    assert len(list(Path("both").glob("*/parts/*"))) == 8


def test_one_process_is_the_main_one():
    alone = Processes(device="cpu")
    with alone.first():
        alone.wait()
    alone.leave()
    assert alone.main and console_of(Processes(1, 2)).quiet and not console_of(alone).quiet


# -- what is printed ------------------------------------------------------------------------------------------


def test_only_inception_has_an_fid():
    assert [label(name, "inception") for name in ("fid", "sfid", "kid", "is")] == [
        "FID", "sFID", "KID", "Inception Score"
    ]  # fmt: skip
    assert [label(name, "mine.pt2") for name in ("fid", "precision")] == ["Fréchet distance", "precision"]
    made = table({"fid": 12.3456, "kid": Mean(0.01234, 0.0056)}, "inception")
    cells = [list(column.cells) for column in made.columns]
    assert cells == [["FID", "KID"], ["12.35", "0.01234"], ["", "0.0056"]]
    made = table({"fid": 12345.6, "kid": Mean(-333.3, 151.0)}, "mine.pt2")
    assert [list(column.cells) for column in made.columns][1:] == [["12,350", "-333.3"], ["", "150"]]


# -- mistakes -------------------------------------------------------------------------------------------------

OF = ["--reference", "photos", "--features", "random"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "--metrics", "fidd"], "--metrics fidd: no such metric; did you mean fid?"),
        (
            ["run", "--metrics", "fid,nll"],
            "take two commands, --metrics nll and --metrics fid, as -n, --steps and",
        ),
        (["run", "--metrics", "kid", "--draws", 3], "--draws 3: belongs to nll; leave it out"),
        (["run", "--metrics", "fid", "-n", "all"], "-n all: run draws as many as it is told; give a number"),
        (
            ["run", "--metrics", "fid", "--size", 8],
            "--size 8: is for folders; run draws the size it was trained on",
        ),
        (["run", "--metrics", "fid", "-n", 1], "1 picture to score: fid takes at least 2"),
        (["run", "--metrics", "fid", "--eta", 1, "-n", 4], "--eta 1"),
        (["run", "--metrics", "fid", "--cfg-scale", 2, "-n", 4], "--cfg-scale 2: run was trained without classes"),
        (["run", "--metrics", "fid", "--variance", "learned"], "--variance learned: run has learned none"),
        (["photos", "--metrics", "fid", "--sampler", "ddim"], "--sampler ddim: is for a MODEL, and photos is"),
        (["photos", "--metrics", "fid", "--corrector-snr", 1], "--corrector-snr 1.0: is for a MODEL"),
        (["photos", "--metrics", "fid", "--cfg-scale", 2], "--cfg-scale 2.0: is for a MODEL"),
        (["photos", "--metrics", "fid", "--engine", "onnx"], "--engine onnx: is for a MODEL"),
        (["photos", "--metrics", "fid", "-n", 31], "-n 31: photos has 30 pictures; leave it out"),
        (["photos", "--metrics", "fid", "-n", "x"], "-n x: takes a number of pictures from 1, or all"),
        (["photos", "--metrics", "fid", "--size", "3x"], "--size 3x: takes a height and a width"),
        (
            ["photos", "--metrics", "nll"],
            "photos: holds pictures, and nll is of a MODEL; of pictures there are fid",
        ),
        (["nothing", "--metrics", "fid"], "nothing: there is no such file, folder or embedded model"),
        (["up", "--metrics", "fid"], "up: enlarges small pictures .* ddpm sample BASE --upsample up --out DIR"),
        (["sorter", "--metrics", "fid"], "sorter: is a classifier"),
    ],
)
def test_mistakes_in_the_command(call, arguments, expected):
    tiny.run("run", NONE)
    tiny.run("up", NONE, data__size=(16, 16), data__low_size=(8, 8), train__task="upsampler")
    if arguments[0] == "sorter":
        classifier("sorter")
    arguments = [*arguments, *OF] if "nll" not in arguments else [*arguments, *OF[:2]]
    assert re.search(expected.replace("?", r"\?"), refused(call, *arguments))


def classifier(name):
    """Only what it is matters."""
    from ddpm.store import Description, Run

    made = tiny.config(train__task="classifier")
    Run.create(Path(name), Description(made, ZOO)).save(
        Description(made, ZOO, 7),
        {"model": {"x": torch.zeros(1)}, "ema": {"x": torch.zeros(1)}},
        {"images": 1},
        keep=1,
    )


@pytest.mark.parametrize(
    "option",
    [
        ("--sampler", "ddim"),
        ("--features", "random"),
        ("--size", "8"),
        ("--churn-range", "1.0", "2.0"),
        ("--cfg-scale", "2.0"),
        ("--classifier", "c"),
        ("--engine", "compile"),
    ],
)
def test_options_of_drawing_are_not_of_bounds(call, option):
    err = refused(call, "run", "--reference", "photos", "--metrics", "nll,rate", *option)
    assert f"{' '.join(option)}: belongs to fid, " in err and "not to nll or rate" in err


def test_a_held_out_set_is_a_models(call):
    err = refused(call, "photos", "--reference", "held-out", "--metrics", "fid", "--features", "random")
    assert "--reference held-out: is of a MODEL's training, and photos is pictures; give DATA" in err


def test_a_missing_net_is_said_before_anything_is_decoded(call, workplace):
    err = refused(call, "photos", "--reference", "photos", "--metrics", "fid", "--features", "no.pt2")
    assert "--features no.pt2: neither a file nor a net known by name" in err
    assert not (workplace / "cache").exists()


def test_nothing_that_can_be_read(call):
    Path("bad").mkdir()
    Path("bad/a.png").write_bytes(b"none")
    err = refused(call, "bad", "--reference", "bad", "--metrics", "fid", "--features", "random")
    assert "bad: no picture in it can be read; give other DATA" in err


def test_an_output_that_cannot_be_written(evaluate):
    tiny.run("run", NONE)
    Path("here").write_text("")
    assert evaluate("--out", "here", "-n", 4)[0] == 2
    with pytest.raises(UserError, match="choose another --out"):
        Records(Path("here"), "x", {}).prepare()
