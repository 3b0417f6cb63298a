"""What a MODEL can be: other projects' files as well as ours, in every command that takes one."""

import hashlib
import json

import numpy as np
import pytest
import torch

import ddpm
import test_convert_ho as his
import tiny
from ddpm.convert import diffusers_folder, openai
from ddpm.errors import UserError
from ddpm.loading import check_fits, grids_path, is_run, opened
from ddpm.store import save_weights
from ddpm.transfer import open_origin
from test_convert_foreign import CONFIG, OURS


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """One model in each format: ours, OpenAI's with flags, OpenAI's without, diffusers'."""
    folder, weights = tmp_path_factory.mktemp("zoo"), tiny.weights(CONFIG, 3, 1)
    save_weights(folder / "ours.safetensors", weights, OURS)
    for name in ("flags.pt", "bare.pt"):
        torch.save(openai.write(weights, OURS), folder / name)
    (folder / "flags.pt.json").write_text(json.dumps(openai.flags(OURS)))
    (folder / "theirs").mkdir()
    diffusers_folder.write(folder / "theirs", weights, OURS)
    (folder / "exported").mkdir()
    save_weights(folder / "exported" / "model.safetensors", weights, OURS)
    return folder


def digits(*paths):
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return (sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest())[:16]


def test_the_same_pictures_from_every_format(zoo):
    expected = ddpm.load(zoo / "ours.safetensors", "cpu").sample(3, steps=3, label=[0, 1, 2])
    for name in ("flags.pt", "theirs", "exported"):
        model = ddpm.load(zoo / name, "cpu")
        assert np.array_equal(model.sample(3, steps=3, label=[0, 1, 2]).pixels, expected.pixels)
        assert model.name == name.removesuffix(".pt") and model.grids is None and model.notes == []


def test_checkpoints_are_told_apart_by_all_that_they_are(zoo):
    assert opened(zoo / "ours.safetensors").checkpoint == digits(zoo / "ours.safetensors")
    assert opened(zoo / "exported").checkpoint == digits(zoo / "exported" / "model.safetensors")
    assert opened(zoo / "flags.pt").checkpoint == digits(zoo / "flags.pt", zoo / "flags.pt.json")
    parts = ("unet/diffusion_pytorch_model.safetensors", "unet/config.json", "scheduler/scheduler_config.json")
    assert opened(zoo / "theirs").checkpoint == digits(*(zoo / "theirs" / part for part in parts))


def test_what_a_command_cannot_be_told_is_an_option_of_convert(zoo, tmp_path, call):
    bare = zoo / "bare.pt"
    for arguments in (["sample", bare], ["info", bare], ["evaluate", bare, "--reference", "fashion"]):
        status, _, errors = call(*arguments)
        assert status == 2 and errors.count("\n") == 1
        assert errors.endswith(f"; these are options of: ddpm convert {bare} NEW --to ddpm\n")
    np.savez(tmp_path / "his.npz", **his.variables())
    with pytest.raises(UserError, match=r"--preset cifar10; these are options of: ddpm convert "):
        ddpm.load(tmp_path / "his.npz")
    with pytest.raises(UserError, match=r"^--net.heads: .*ours.safetensors says itself what it is; leave it out$"):
        opened(zoo / "ours.safetensors", given={"net.heads": 4})


def test_refusals_pass_as_they_are(tmp_path):
    torch.save({"x": 1}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="no layout that is known here") as error:
        ddpm.load(tmp_path / "a.pt")
    assert "ddpm convert" not in str(error.value)


def test_commands_take_them(zoo, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    tiny.photos(tmp_path / "photos", 6)
    for name in ("flags.pt", "theirs"):
        status, out, _ = call("sample", zoo / name, "-n", "2", "--steps", "2", "--no-film", "--device", "cpu")
        assert status == 0 and (tmp_path / "samples" / name.removesuffix(".pt") / "grid.png").is_file()
        status, out, _ = call("info", zoo / name)
        assert status == 0 and f"format {'openai' if name == 'flags.pt' else 'diffusers'})" in out
        assert "757,414 parameters" in out and "--net.heads" in out
        status, out, _ = call("info", zoo / name, "--yaml")
        assert status == 0 and "  heads: 2\n" in out
        status, _, errors = call("plot", "schedule", zoo / name, "--out", tmp_path / "curve.png")
        assert status == 0, errors
    (tmp_path / "photos" / "cats").rename(tmp_path / "photos" / "ant")
    (tmp_path / "photos" / "dogs").rename(tmp_path / "photos" / "cat")
    arguments = ("--reference", "photos", "-n", "2", "--draws", "2", "--device", "cpu")
    status, out, errors = call("evaluate", zoo / "theirs", *arguments)
    assert status == 0, errors
    assert (tmp_path / "evaluation" / "theirs").is_dir() and not (zoo / "theirs" / "evaluation").exists()


def test_info_of_a_file_with_many_classes(tmp_path, call):
    made = CONFIG.with_(net__multipliers=(1,), net__attention=())
    description = type(OURS)(made, type(OURS.facts)(classes=tuple(f"kind {i}" for i in range(120))))
    torch.save(openai.write(tiny.weights(made, 120, 1), description), tmp_path / "a.pt")
    (tmp_path / "a.pt.json").write_text(json.dumps(openai.flags(description)))
    status, out, _ = call("info", tmp_path / "a.pt")
    assert status == 0 and "classes 0 0, 1 1, " in out and "99 99 and 20 more\n" in out
    assert "step" not in out.split("--data.path")[0] and "pictures" not in out.split("--data.path")[0]


def test_training_starts_from_them(zoo):
    origin = open_origin(str(zoo / "theirs"))
    assert origin.description.config.net == CONFIG.net and origin.description.facts.classes == (
        "ant",
        "bee",
        "cat",
    )


def test_a_run_is_told_from_a_folder_of_another_kind(zoo, tmp_path):
    run = tiny.run(tmp_path / "run").folder
    assert is_run(run) and grids_path(run) == run / "grids.json"
    assert grids_path(run / "checkpoints" / "000000007") == run / "grids.json"
    for path in (
        zoo,
        zoo / "theirs",
        zoo / "exported",
        zoo / "theirs" / "unet",
        zoo / "flags.pt",
        tmp_path / "none",
    ):
        assert not is_run(path) and grids_path(path) is None
    # A run may hold a file of that name, and is a run all the same.
    (run / "model.safetensors").write_bytes((zoo / "ours.safetensors").read_bytes())
    assert ddpm.load(run, "cpu").description.config == tiny.config()


def test_which_weight_does_not_fit(zoo):
    found = opened(zoo / "ours.safetensors")
    check_fits(found)
    for key, value, told in (
        ("x", torch.zeros(1), "has no place in it"),
        ("label.weight", torch.zeros(4, 128), "differs"),
    ):
        odd = type(found)(**{**vars(found), "weights": {**found.weights, key: value}})
        with pytest.raises(UserError, match=f"not those of the net it describes \\({key} {told}\\)"):
            check_fits(odd)
    short = {key: value for key, value in found.weights.items() if key != "conv_in.bias"}
    with pytest.raises(UserError, match=r"\(conv_in.bias is missing\)"):
        check_fits(type(found)(**{**vars(found), "weights": short}))
