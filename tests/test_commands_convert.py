"""`ddpm convert`: what is written, what it says, and every mistake it names."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import ddpm
import test_convert_ho as his
import tiny
from ddpm.commands.convert import read_names
from ddpm.convert import openai
from ddpm.errors import UserError
from ddpm.presets import preset
from ddpm.store import Description, Facts, load_weights, save_weights
from test_convert_foreign import CONFIG, OURS

OPTIONS = ["--net.heads", "2", "--net.qkv", "legacy", "--chain.schedule", "cosine", "--chain.steps", "50"]
OPTIONS += ["--chain.no-rescale", "--denoiser.predicts", "eps", "--data.size", "8", "8"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of ours in a file, OpenAI's file of it without flags, and the weights."""
    folder, weights = tmp_path_factory.mktemp("models"), tiny.weights(CONFIG, 3, 1)
    save_weights(folder / "zoo.safetensors", weights, OURS)
    torch.save(openai.write(weights, OURS), folder / "model000007.pt")
    return folder, weights


@pytest.fixture
def at(models, tmp_path, monkeypatch):
    """A folder with the models, to stand in."""
    for path in models[0].iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pixels(path):
    return ddpm.load(path, "cpu").sample(2, steps=3, label=[0, 2]).pixels


# -- what is written -------------------------------------------------------------------------------------------


def test_to_openai_and_back(at, call, models):
    status, out, _ = call("convert", "zoo.safetensors", "deep/zoo.pt", "--to", "openai")
    assert status == 0 and "wrote deep/zoo.pt (" in out and "and deep/zoo.pt.json, which has its flags" in out
    assert (
        out.endswith("next: ddpm sample deep/zoo.pt\n") and "note: it has 3 classes, OpenAI's scripts 1000" in out
    )
    state = torch.load("deep/zoo.pt", weights_only=True)
    expected = openai.write(models[1], OURS)
    assert state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in expected)
    assert json.loads((at / "deep/zoo.pt.json").read_text())["num_heads"] == 2
    assert np.array_equal(pixels("deep/zoo.pt"), pixels("zoo.safetensors"))
    status, out, _ = call("convert", "deep/zoo.pt", "back.safetensors", "--to", "ddpm")
    weights, description = load_weights(at / "back.safetensors")
    assert status == 0 and all(torch.equal(value, models[1][key]) for key, value in weights.items())
    assert description.facts == tiny.ANIMALS and description.step == 7
    assert description.command == "ddpm convert zoo.pt back.safetensors --to ddpm"


def test_what_the_file_cannot_say_is_given(at, call, models):
    (at / "names.txt").write_text("ant\n\n  bee\ncat\n")
    arguments = ("model000007.pt", "zoo2.safetensors", "--to", "ddpm", "--classes", "names.txt", *OPTIONS)
    status, out, _ = call("convert", *arguments)
    assert status == 0 and "note:" not in out
    assert out.startswith("model000007.pt: a model of pictures of 8 x 8 with 757,414 parameters and 3 classes\n")
    description = load_weights(at / "zoo2.safetensors")[1]
    assert description.config.net == CONFIG.net and description.config.chain == CONFIG.chain
    assert description.facts == Facts(classes=("ant", "bee", "cat")) and description.step == 7
    assert np.array_equal(pixels("zoo2.safetensors"), pixels("zoo.safetensors"))


def test_to_diffusers(at, call, models):
    status, out, _ = call(
        "convert", "zoo.safetensors", "zoo", "--to", "diffusers", "--licence", "mit", "--device", "cpu"
    )
    assert status == 0 and "wrote zoo: README.md, model_index.json, samples.png, scheduler, unet\n" in out
    assert sorted(path.name for path in at.iterdir()) == ["model000007.pt", "zoo", "zoo.safetensors"]
    card = (at / "zoo" / "README.md").read_text()
    assert "license: mit" in card and "ddpm sample zoo" in card and ".made" not in card and ".tmp" not in card
    with Image.open(at / "zoo" / "samples.png") as image:
        assert image.text["ddpm:model"] == "zoo"
    assert np.array_equal(pixels("zoo"), pixels("zoo.safetensors"))
    assert ddpm.load("zoo", "cpu").grids is None  # a folder of diffusers is no run
    status, out, _ = call("convert", "zoo", "again.safetensors", "--to", "ddpm")
    weights, description = load_weights(at / "again.safetensors")
    assert status == 0 and all(torch.equal(value, models[1][key]) for key, value in weights.items())
    assert (description.config, description.facts) == (OURS.config, OURS.facts)


def test_to_a_folder_of_ours(at, call):
    (at / "shared").mkdir()  # an empty folder may stand there
    status, out, _ = call("convert", "zoo.safetensors", "shared", "--to", "ddpm", "--no-samples")
    assert status == 0 and "wrote shared: README.md, model.safetensors\n" in out
    assert np.array_equal(pixels("shared"), pixels("zoo.safetensors"))
    model = ddpm.load("shared", "cpu")
    assert model.name == "shared" and model.grids is None and model.classes == ("ant", "bee", "cat")
    assert call("info", "shared")[1].startswith("shared/model.safetensors (")


def test_a_run_s_averaged_weights_or_its_plain_ones(at, call):
    run = tiny.run(at / "run", step=7)
    for which in ("ema", "model"):
        status, _, _ = call("convert", "run", f"{which}.safetensors", "--to", "ddpm", "--weights", which)
        expected, _ = load_weights(run.folder / "checkpoints" / "000000007" / f"{which}.safetensors")
        weights, _ = load_weights(at / f"{which}.safetensors")
        assert status == 0 and all(torch.equal(value, expected[key]) for key, value in weights.items())


def test_no_place_of_this_machine_is_handed_on(at, call):
    made = CONFIG.with_(data__path=("/home/ann/secret=1/photos/", "hub:ann/birds"), data__holdout="../ann/held")
    made = made.with_(train__init_from="C:\\ann\\old.safetensors")
    plan = ("data.holdout /home/ann/held: asked for", "batch 6: asked for", "train.init_from /ann/old: asked for")
    command = "ddpm train /home/ann/secret=1/photos/ hub:ann/birds --holdout=../ann/held --optimizer.lr 1e-4"
    save_weights(
        at / "of-ann.safetensors", tiny.weights(made, 0, 1), Description(made, Facts("photos"), 7, plan, command)
    )
    for target, to in (("a.safetensors", "ddpm"), ("a", "ddpm"), ("b", "diffusers"), ("c.pt", "openai")):
        assert call("convert", "of-ann.safetensors", target, "--to", to, "--no-samples")[0] == 0
    for path in at.rglob("*"):
        if path.is_file() and path.name != "of-ann.safetensors":
            data = path.read_bytes()
            assert b"secret" not in data and b"/ann/" not in data and b"\\ann" not in data
    with safe_open(at / "a.safetensors", "pt") as file:
        header = json.loads(file.metadata()["ddpm"])
    assert header["command"] == "ddpm train photos hub:ann/birds --holdout=held --optimizer.lr 1e-4"
    assert header["plan"] == ["batch 6: asked for"]
    assert header["config"]["data"]["path"] == ["photos", "hub:ann/birds"]
    assert (header["config"]["data"]["holdout"], header["config"]["train"]["init_from"]) == (
        "held",
        "old.safetensors",
    )


def test_a_classifier_and_an_upsampler(at, call):
    net = CONFIG.with_(net__head_channels=16, net__heads=1)
    classifier = net.with_(train__task="classifier", denoiser__variance="large", loss__kind="simple")
    upsampler = net.with_(train__task="upsampler", data__low_size=(4, 4))
    for made, name, line in (
        (classifier, "judge", "ddpm sample MODEL --classifier judge.pt"),
        (upsampler, "larger", "ddpm sample BASE --upsample larger.pt"),
    ):
        save_weights(at / f"{name}.safetensors", tiny.weights(made, 3, 1), Description(made, tiny.ANIMALS, 7))
        status, out, _ = call("convert", f"{name}.safetensors", f"{name}.pt", "--to", "openai")
        assert status == 0 and f"next: {line}" in out
        status, _, _ = call("convert", f"{name}.safetensors", name, "--to", "ddpm")
        assert status == 0 and not (at / name / "samples.png").exists()
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([1.0, 30.0])
    ours, theirs = (ddpm.load_classifier(one, "cpu").model.net for one in ("judge.safetensors", "judge.pt"))
    assert (
        torch.equal(ours(x, t), theirs(x, t))
        and ddpm.load_classifier("judge", "cpu").classes == tiny.ANIMALS.classes
    )


def test_ho_s_variables_with_a_preset(at, call):
    np.savez(at / "his.npz", **his.variables(ch=128, mult=(1, 2, 2, 2)))
    status, out, _ = call("convert", "his.npz", "his.safetensors", "--to", "ddpm", "--preset", "cifar10")
    assert status == 0 and "35,746,307 parameters" in out and "no averaged variables" in out
    assert load_weights(at / "his.safetensors")[1].config == preset("cifar10")


def test_to_the_hub(at, call, monkeypatch):
    sent = []
    monkeypatch.setattr(
        "ddpm.card.push", lambda folder, repo: sent.append((folder, repo)) or f"https://hub/{repo}"
    )
    status, out, _ = call("convert", "zoo.safetensors", "a", "--to", "ddpm", "--no-samples", "--push", "me/zoo")
    assert status == 0 and sent == [(Path("a"), "me/zoo")] and "\nuploaded to https://hub/me/zoo\n" in out

    def nobody(folder, repo):
        raise UserError("--push me/zoo: nobody is logged in")

    monkeypatch.setattr("ddpm.card.push", nobody)
    status, _, errors = call("convert", "zoo.safetensors", "b", "--to", "ddpm", "--no-samples", "--push", "me/zoo")
    assert status == 2 and errors.endswith("is logged in; b is whole, and hf upload me/zoo b sends it later\n")
    assert np.array_equal(pixels("b"), pixels("zoo.safetensors"))


# -- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            "model000007.pt x.safetensors --to ddpm",
            r"--net.heads 4 .*--data.size 64 64 \(image_size, large_size\)$",
        ),
        ("zoo.safetensors x --to openai", r"x: --to openai writes a file; name it x\.pt$"),
        ("zoo.safetensors x.pt --to ddpm", r"x\.pt: --to ddpm writes no \.pt; name a folder, or take --to openai"),
        ("zoo.safetensors x.pt --to diffusers", r"--to diffusers writes no \.pt"),
        ("zoo.safetensors x.safetensors --to diffusers", r"writes a folder; name it without \.safetensors"),
        ("zoo.safetensors full --to diffusers", r"full: is there already; choose another DST, or remove it"),
        ("zoo.safetensors zoo.safetensors --to ddpm", r"zoo\.safetensors: is there already"),
        ("zoo.safetensors there.pt --to openai", r"there\.pt\.json: is there already"),
        ("zoo.safetensors full/file/x --to ddpm", r"x: cannot be written \(.*file is a file\)"),
        ("zoo.safetensors . --to ddpm", "is the folder you stand in"),
        ("zoo.safetensors x.pt --to openai --push me/x", r"--push: belongs to a folder with a model card"),
        ("zoo.safetensors x.safetensors --to ddpm --licence mit", r"--licence: belongs to a folder"),
        ("zoo.safetensors x --to ddpm --net.heads 4", r"--net\.heads: zoo\.safetensors says itself what it is"),
        ("zoo.safetensors x --to ddpm --preset cifar10", r"--preset: zoo\.safetensors says itself"),
        ("zoo.safetensors x --to ddpm --classes two", r"--classes two: holds 2 names, and zoo has 3 classes"),
        ("zoo.safetensors x --to ddpm --classes none", r"--classes none: cannot be read"),
        ("nothing x --to ddpm", r"nothing: there is no such file, folder or embedded model"),
        ("full/file x --to ddpm", r"full/file: not a model; give a run's folder"),
        ("fashion x --to diffusers --no-samples", r"--net\.patch 2: diffusers"),
        ("fashion x.pt --to openai", r"--net\.style ho: OpenAI's format cannot say it"),
    ],
)
def test_mistakes(at, call, arguments, message):
    (at / "full").mkdir()
    (at / "full" / "file").write_text("mine")
    (at / "there.pt.json").write_text("{}")
    (at / "two").write_text("a\nb\n")
    before = {path: path.stat().st_mtime_ns for path in at.rglob("*")}
    status, out, errors = call("convert", *arguments.split())
    assert status == 2 and out.count("\n") <= 1 and errors.count("\n") == 1
    with pytest.raises(UserError, match=message):
        raise UserError(errors.removeprefix("ddpm: ").rstrip())
    assert {path: path.stat().st_mtime_ns for path in at.rglob("*")} == before


def test_weights_of_another_net_are_not_written(at, call):
    save_weights(at / "odd.safetensors", tiny.weights(CONFIG, 4, 1), OURS)
    for target, to in (("x.safetensors", "ddpm"), ("x", "diffusers"), ("x.pt", "openai")):
        status, _, errors = call("convert", "odd.safetensors", target, "--to", to)
        assert status == 2 and "not those of the net it describes (label.weight differs)" in errors
    assert not list(at.glob("x*"))


def test_names_of_classes(tmp_path):
    path = tmp_path / "names"
    for text in ("a\nb c\n", '["a", "b c"]', "\ufeffa\r\n b c \r\n\r\n"):
        path.write_text(text, encoding="utf-8")
        assert read_names(path) == ("a", "b c")
    for data, message in (
        (b"[1, 2]", "takes names, and one of these is none"),
        (b'["a"', "not JSON"),
        (b"a\nb\na\n", "names a twice"),
        (b"\xff\xfe\xfa", "not text in UTF-8"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=f"^--classes {path}: .*{message}"):
            read_names(path)
