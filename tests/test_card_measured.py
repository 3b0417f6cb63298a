"""What a card tells of what was measured: results written by hand, as `ddpm evaluate` leaves them."""

import json

import pytest
from huggingface_hub import ModelCard

import tiny
from ddpm.card import write_card
from ddpm.card.measured import of_run
from ddpm.errors import UserError
from ddpm.loading import load, load_classifier


def record(run, checkpoint, name, **values):
    """A result in a folder of its own, unless `into` says which; the fields that every one has."""
    folder = run.folder / "evaluation" / values.pop("into", name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "key.json").write_text(json.dumps({"checkpoint": checkpoint}))
    reference = values.pop("reference", {"data": "/home/alice/held", "name": "held birds"})
    made = {
        "metric": name,
        "what": "bound of the 40-step chain, every term",
        "checkpoint": checkpoint,
        "weights": "ema",
        "reference": reference,
        "pictures": 100,
        "seed": 5,
        "variance": "large",
        "levels": 40,
    }
    path = folder / f"{name}-{values.get('pictures', 100)}.json"
    path.write_text(json.dumps(made | values))
    return path


def bits(mean, error=None):
    return {"bits_per_dim": {"mean": mean, "standard_error": error}}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tiny.run(tmp_path / "runs/zoo")


def fidelity(results, net="inception", **values):
    """What fid and its like leave, of 5,000 pictures."""
    drawn = {
        "sampler": "dpm++",
        "steps": 20,
        "evaluations": 20,
        "grid": "log-snr",
        "levels": [1, 2],
        "caveats": {},
    }
    features = {"name": net, "key": "k", "count": 2048}
    reference = {"data": "held", "name": "held birds", "fingerprint": "f1", "pictures": 9000}
    made = {"features": features, "reference": reference, "pictures": 5000, **drawn, **values}
    return {**made, "results": results}


def test_an_fid_is_only_called_so_in_features_of_inception(run):
    checkpoint = load(run.folder, "cpu").checkpoint
    scores = {"fid": {"value": 12.5}, "kid": {"value": 0.02, "deviation": 0.0031}, "precision": {"value": 0.75}}
    record(
        run, checkpoint, "fidelity", **fidelity(scores, caveats={"fid": "of 5,000 pictures comes out too large"})
    )
    other = fidelity({"fid": {"value": 3.5}, "is": {"value": 7.0}}, "mine.pt2", cfg_scale=2.0, pictures=1)
    record(run, checkpoint, "fidelity", into="other", **other)
    found, left_out = of_run(run.folder, checkpoint, load(run.folder, "cpu").description)
    assert not left_out
    assert [(one.kind, one.name, one.value, one.error, one.pictures) for one in found] == [
        ("fid", "FID", 12.5, None, 5000),
        ("kid", "KID", 0.02, None, 5000),
        ("precision", "precision", 0.75, None, 5000),
        ("fid-other-features", "Fréchet distance in features of mine.pt2", 3.5, None, 1),
        ("is-other-features", "Inception Score in features of mine.pt2", 7.0, None, 1),
    ]
    drawn = "5,000 samples of dpm++, 20 steps, grid log-snr; against all 9,000"
    assert found[0].how == f"{drawn}; too few for it, averaged weights, seed 5"
    assert found[1].how == f"{drawn}, averaged weights, seed 5; ± 0.0031 over subsets of them"
    assert "1 sample of dpm++, 20 steps, grid log-snr, guided 2 times; against" in found[3].how


def test_of_each_reference_the_result_over_most_pictures_counts(run):
    checkpoint = load(run.folder, "cpu").checkpoint
    for n, fingerprint, value in ((100, "f1", 9.0), (200, "f1", 8.0), (100, "f2", 7.0)):
        reference = {"data": "held", "name": f"set {fingerprint}", "fingerprint": fingerprint, "pictures": 10}
        made = fidelity({"fid": {"value": value}}, pictures=n, reference=reference)
        path = record(run, checkpoint, "fidelity", into="same", **made)
        path.rename(path.with_name(f"fidelity-{fingerprint}-{n}.json"))
    found, _ = of_run(run.folder, checkpoint, load(run.folder, "cpu").description)
    assert sorted((one.reference, one.value) for one in found) == [("set f1", 8.0), ("set f2", 7.0)]


def test_results_reach_the_table_and_the_index(run, tmp_path):
    model = load(run.folder, "cpu")
    record(run, model.checkpoint, "nll", results=bits(3.25, 0.0312))
    hub = {"data": "hub:org/birds:test", "name": "org/birds"}
    drawn = {"what": "an estimate", "results": bits(3.5), "reference": hub, "pictures": 1, "levels": 20}
    record(run, model.checkpoint, "nll", into="estimate", weights="as in the file", **drawn)
    curve = {"rate": [0.1, 1.75], "rate_se": [0.1, 0.25], "rmse": [90.0, 0.95], "rmse_se": None}
    record(run, model.checkpoint, "rate", results=curve)
    grids = [{"levels": [*range(1, k), 40], "bits": 4.0 + k / 100, "even": 6.5} for k in (5, 10, 20)]
    record(run, model.checkpoint, "grid", results={"grids": grids})
    write_card(tmp_path, model, to="ddpm", licence="mit", run=run.folder, samples=False)
    read = ModelCard.load(tmp_path / "README.md")

    found = read.data.eval_results
    assert read.data.model_name == "zoo"
    assert {(one.dataset_type, one.dataset_name) for one in found} == {
        ("held-birds", "held birds"),
        ("org/birds", "org/birds"),
    }
    numbers = {(one.metric_type, one.metric_value) for one in found}
    bounds = {("bits_per_dim", value) for value in (3.25, 3.5, 4.1, 4.2)}
    assert numbers == bounds | {("rate", 1.75), ("rmse", 0.95)}
    assert read.data.metrics == ["bits_per_dim", "rate", "rmse"]
    assert all(one.task_type == "unconditional-image-generation" for one in found)

    first = (
        "| bits/dim | 3.25 ± 0.031 | 100 | held birds | bound of the 40-step chain, every term, averaged weights"
    )
    lines = [line for line in read.text.splitlines() if line.startswith(("| bits", "| rate", "| dist"))]
    assert lines[0] == f"{first}, seed 5 |"
    assert lines[1] == "| bits/dim | 3.5 | 1 | org/birds | an estimate, seed 5 |"
    assert any(line.startswith("| rate, bits/dim | 1.75 ± 0.25 | 100 |") for line in lines)
    assert any(line.startswith("| distortion, RMSE of 0–255 | 0.95 | 100 |") for line in lines)
    assert any("bits/dim of 20 fitted steps | 4.2 |" in line and "6.5 of 20 even" in line for line in lines)
    assert f"All of the checkpoint {model.checkpoint}…" in read.text and "alice" not in read.content
    assert "FID, precision and recall were not measured" in read.text and "Left out" not in read.text


def test_the_most_pictures_of_a_setting_count(run):
    model = load(run.folder, "cpu")
    for n, mean in ((100, 3.0), (1000, 3.3), (20, 2.0)):
        record(run, model.checkpoint, "nll", into="one", pictures=n, results=bits(mean, 0.1))
    (found,), left_out = of_run(run.folder, model.checkpoint, model.description)
    assert (found.value, found.pictures) == (3.3, 1000) and left_out == []


def test_what_is_not_the_model_s_own_is_left_out_and_told(run, tmp_path):
    model = load(run.folder, "cpu")
    record(run, "0" * 16, "nll", into="a", results=bits(1.0))
    record(run, "1" * 16, "nll", into="b", results=bits(1.0))
    record(run, model.checkpoint, "nll", into="c", variance="small", results=bits(1.0))
    record(run, model.checkpoint, "sharpness", into="d", results={"any": 1})
    found, left_out = of_run(run.folder, model.checkpoint, model.description)
    assert found == []
    assert left_out == [
        "Measured too, and not told here: d/sharpness-100.json.",
        "Left out: 2 results of other checkpoints of the run.",
        "Left out: 1 result with another variance of the steps than the model's.",
    ]
    write_card(tmp_path, model, to="ddpm", licence=None, run=run.folder, samples=False)
    read = ModelCard.load(tmp_path / "README.md")
    assert read.data.eval_results is None and all(line in read.text for line in left_out)
    assert "nothing was measured of this checkpoint" in read.text
    assert of_run(None, model.checkpoint, model.description) == ([], [])
    assert of_run(tmp_path / "none", model.checkpoint, model.description) == ([], [])


@pytest.mark.parametrize("results", [{}, {"bits_per_dim": 3.0}, {"bits_per_dim": {"mean": "x"}}])
def test_a_damaged_result_is_named(run, results):
    model = load(run.folder, "cpu")
    path = record(run, model.checkpoint, "nll", results=results)
    with pytest.raises(UserError) as error:
        of_run(run.folder, model.checkpoint, model.description)
    assert str(error.value).startswith(f"{path}: damaged") and "\n" not in str(error.value)
    path.write_text("{")
    with pytest.raises(UserError, match="damaged, not JSON"):
        of_run(run.folder, model.checkpoint, model.description)


def test_a_classifier_s_accuracy_is_that_of_its_step(tmp_path):
    run = tiny.run(tmp_path / "run", train__task="classifier", net__style="openai", net__scale_shift=True)
    for step, accuracy in ((3, 0.5), (6, 0.625), (12, 0.9)):
        quarters = [0.9, 0.75, None, 0.25]
        run.log({"step": step, "held_out_accuracy": accuracy, "held_out_quarters": quarters})
        run.log({"step": step, "loss": 1.0})
    model = load_classifier(run.folder, "cpu")
    write_card(tmp_path, model, to="ddpm", licence="mit", run=run.folder)
    read = ModelCard.load(tmp_path / "README.md")
    (found,) = read.data.eval_results
    assert (found.metric_type, found.metric_value, found.task_type) == ("accuracy", 0.625, "image-classification")
    assert (found.dataset_name, found.dataset_type) == ("held out of zoo", "zoo")
    assert "| accuracy | 0.625 |  | held out of zoo |" in read.text
    assert "step 6; by quarter of the chain, clean to noisy: 90% / 75% / – / 25% |" in read.text
