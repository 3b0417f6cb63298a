"""What a path holds is told by its content: every format, every wrapping, and every refusal."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import test_convert_bundle as bundles
import test_convert_ho as his
import tiny
from ddpm.config import ChainConfig, Config, DataConfig, DenoiserConfig, LossConfig, NetConfig
from ddpm.convert import diffusers_folder, openai
from ddpm.convert.foreign import files, is_foreign, read_foreign, remembered
from ddpm.errors import UserError
from ddpm.presets import preset
from ddpm.store import Description, Facts, save_weights

CONFIG = Config(
    DataConfig((), (8, 8)),
    NetConfig(32, (1, 2), 1, (1,), dropout=0.0, style="openai", heads=2, scale_shift=True),
    ChainConfig("cosine", 50),
    DenoiserConfig("eps", "learned_range"),
    LossConfig("hybrid"),
)
OURS = Description(CONFIG, tiny.ANIMALS, 7)
GIVEN = {
    "net.heads": 2,
    "net.qkv": "legacy",
    "chain.schedule": "cosine",
    "chain.steps": 50,
    "chain.rescale": False,
    "denoiser.predicts": "eps",
    "data.size": (8, 8),
}


@pytest.fixture(scope="module")
def weights():
    return {seed: tiny.weights(CONFIG, 3, seed) for seed in (1, 2)}


@pytest.fixture(scope="module")
def states(weights):
    """OpenAI's, of two different trainings of one net."""
    return {seed: openai.write(one, OURS) for seed, one in weights.items()}


def same(found, expected):
    return found.weights.keys() == expected.keys() and all(
        torch.equal(value, expected[key]) for key, value in found.weights.items()
    )


def saved(path, values):
    torch.save(values, path)
    return path


# -- OpenAI's --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model000100.pt", "a.pth", "a.ckpt", "a.safetensors", "a"])
def test_openai_s_layout_under_any_name(tmp_path, weights, states, name):
    path = tmp_path / name
    save_file(states[1], path) if name.endswith("safetensors") else torch.save(states[1], path)
    found = read_foreign(path, GIVEN)
    assert found.kind == "openai" and same(found, weights[1])
    assert found.description.config.chain == CONFIG.chain and found.description.config.net == CONFIG.net
    assert found.description.step == (100 if "100" in name else 0)
    assert files(path) == [path]


def test_a_legacy_file(tmp_path, weights, states):
    torch.save(states[1], tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert same(read_foreign(tmp_path / "a.pt", GIVEN), weights[1])


def test_options_are_asked_for(tmp_path, states):
    with pytest.raises(UserError, match=r"--net.heads 4 .*--net.qkv.*--chain.schedule.*--data.size"):
        read_foreign(saved(tmp_path / "a.pt", states[1]))


def test_flags_beside_the_file(tmp_path, weights, states):
    path = saved(tmp_path / "a.pt", states[1])
    beside = tmp_path / "a.pt.json"
    beside.write_text(json.dumps(openai.flags(OURS)))
    found = read_foreign(path)
    assert same(found, weights[1]) and found.description.config.net == CONFIG.net
    assert found.description.config.chain == CONFIG.chain and found.description.facts.classes == ("0", "1", "2")
    assert files(path) == [path, beside]
    assert read_foreign(path, {"chain.steps": 60}).description.config.chain.steps == 60  # what is given wins
    heads = read_foreign(path, {"net.heads": 2}).description.config.net  # and are not outdone by other flags
    assert (heads.heads, heads.head_channels) == (2, 0)
    judge = {"classifier_depth": 1, "classifier_width": 64, "classifier_attention_resolutions": "8"}
    beside.write_text(json.dumps({**openai.flags(OURS), **judge}))  # of the classifier that guides it
    assert read_foreign(path).description.config.net == CONFIG.net
    beside.write_text(json.dumps({**openai.flags(OURS), **remembered(OURS)}))
    assert read_foreign(path).description.facts == tiny.ANIMALS and read_foreign(path).description.step == 7


@pytest.mark.parametrize(
    "text, message",
    [
        ("[1]", r"a.pt.json: holds \[1\]; it is a table of OpenAI's flags"),
        ("{", "a.pt.json: damaged, not JSON"),
        ('{"num_heads": "four"}', r"a.pt.json.num_heads: holds 'four'; takes int"),
        ('{"ddpm": {"data": {"classes": ["cat"]}}}', r"its ddpm is of another model: it has 1 classes, and .* 3"),
        ('{"ddpm": {"data": {"names": []}}}', r"a.pt.json: ddpm.data.names: no such setting"),
        ('{"ddpm": 3}', r"its ddpm is of another model"),
    ],
)
def test_flags_that_are_none(tmp_path, states, text, message):
    path = saved(tmp_path / "a.pt", states[1])
    (tmp_path / "a.pt.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_foreign(path, GIVEN)


def test_a_preset_says_what_the_file_does_not(tmp_path):
    config = preset("iddpm-cifar10-hybrid").with_(net__blocks=1)
    torch.save(openai.write(tiny.weights(config, 0, 1), Description(config, Facts())), tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"net.blocks is 1, not 3"):
        read_foreign(tmp_path / "a.pt", {"preset": "iddpm-cifar10-hybrid"})
    given = {"preset": "iddpm-cifar10-hybrid", "net.blocks": 1, "chain.steps": 1000}
    found = read_foreign(tmp_path / "a.pt", given)
    assert found.description.config == config.with_(chain__steps=1000)
    with pytest.raises(UserError, match="--preset none-such: there are"):
        read_foreign(tmp_path / "a.pt", {"preset": "none-such"})


@pytest.mark.parametrize(
    "ema, model", [("ema", "model"), ("model_ema", "state_dict"), ("ema_state_dict", "model_state_dict")]
)
def test_inside_a_training_s_dictionary(tmp_path, weights, states, ema, model):
    path = saved(tmp_path / "a.pt", {"step": 3, model: states[1], ema: states[2], "opt": {"state": {}, "lr": 0.1}})
    for which, seed, told, other in (("ema", 2, ema, model), ("model", 1, model, ema)):
        found = read_foreign(path, GIVEN, which)
        assert same(found, weights[seed]) and found.notes == (f"of a.pt its {told} is taken, not its {other}",)
    alone = read_foreign(saved(tmp_path / "b.pt", {model: states[1]}), GIVEN)
    assert same(alone, weights[1]) and alone.notes == (f"of b.pt its {model} is taken",)


def test_inside_the_wrappers_of_torch(tmp_path, weights, states):
    for wrapper in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."):
        wrapped = {f"{wrapper}{key}": value for key, value in states[1].items()}
        assert same(read_foreign(saved(tmp_path / "a.pt", wrapped), GIVEN), weights[1])


# -- Ho et al.'s -----------------------------------------------------------------------------------------------


def test_ho_s_variables_in_every_file(tmp_path):
    made = his.variables()
    given = {**his.GIVEN}
    np.savez(tmp_path / "a.npz", **made, global_step=np.array(7))
    save_file(his.tensors(made), tmp_path / "a.safetensors")
    torch.save(his.port(made), tmp_path / "model-790000.ckpt")
    prefix = bundles.write(tmp_path / "tf" / "model.ckpt-7", {**made, "model/conv_in/W/Adam": np.zeros(3, "f4")})
    expected = read_foreign(tmp_path / "a.npz", given).weights
    index, data = files(prefix)
    for path in (tmp_path / "a.safetensors", tmp_path / "model-790000.ckpt", prefix, prefix.parent, index, data):
        found = read_foreign(path, given)
        assert found.kind == "ho" and same(found, expected)
    assert is_foreign(prefix.parent) and not is_foreign(prefix) and not is_foreign(tmp_path)
    assert files(prefix.parent) == [index, data]


def test_another_checkpoint_of_tensorflow(tmp_path):
    prefix = bundles.write(tmp_path / "model.ckpt-7", {"dense/kernel": np.zeros((2, 2), "f4")})
    with pytest.raises(UserError, match=r"a checkpoint of TensorFlow, but not of Ho et al.'s net"):
        read_foreign(prefix)


# -- diffusers' ------------------------------------------------------------------------------------------------


def test_a_folder_of_diffusers(tmp_path, weights):
    diffusers_folder.write(tmp_path, weights[1], OURS)
    found = read_foreign(tmp_path)
    assert found.kind == "diffusers" and same(found, weights[1]) and found.description == OURS
    assert is_foreign(tmp_path)
    inside = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    assert files(tmp_path)[0] == inside and len(files(tmp_path)) == 3
    with pytest.raises(UserError, match=r"--preset: .* says itself what it is"):
        read_foreign(tmp_path, {"preset": "cifar10"})
    with pytest.raises(UserError, match=r"say nothing without their config.json; give the folder"):
        read_foreign(inside)


# -- what is refused -------------------------------------------------------------------------------------------

T = torch.zeros(2)
NET = {"init_conv.weight": T, "time_mlp.1.weight": T, "final_conv.weight": T}
SCOPED = {"betas": T, **{f"model.{key}": value for key, value in NET.items()}}


@pytest.mark.parametrize(
    "values, message",
    [
        ({"step": 3, "model": SCOPED, "opt": {}, "ema": {"initted": T}}, "lucidrains' .* ddpm train DATA"),
        (SCOPED, "of lucidrains' denoising-diffusion-pytorch"),
        (NET, "of lucidrains' denoising-diffusion-pytorch"),
        ({"pytorch-lightning_version": "2.0", "state_dict": {"model.x": T}}, "a checkpoint of Lightning"),
        ({"model": {"x": T}, "model_ema": {"x": T}, "gns_stats": None}, "of k-diffusion"),
        ({"state": {}, "param_groups": []}, "the state of an optimizer, not a model"),
        (
            {"conv1.weight": T, "b": T, "c": T, "d": T},
            "no layout that is known here: it holds conv1.weight, b, c and 1",
        ),
        (
            {"model": {"conv1.weight": T}, "step": 3},
            "no layout that is known here: it holds model, step; known are",
        ),
        ({}, "it holds nothing"),
        ({"input_blocks.0.0.weight": T, "lr": 0.1}, "lr is no weight; save the net's state dict alone"),
        ({"down_blocks.0.resnets.0.norm1.weight": T}, "weights of a diffusers model"),
    ],
)
def test_what_cannot_be_one_of_ours(tmp_path, values, message):
    path = saved(tmp_path / "model-3.pt", values)
    with pytest.raises(UserError, match=f"^{path}: .*{message}") as error:
        read_foreign(path)
    assert "\n" not in str(error.value)


def test_an_optimizer_of_openai_s_names_the_model_beside(tmp_path):
    with pytest.raises(UserError, match=r"take ema_0.9999_000100.pt"):
        read_foreign(saved(tmp_path / "opt000100.pt", {"state": {}, "param_groups": []}))


def test_a_pickle_that_would_run_code(tmp_path):
    with pytest.raises(UserError, match=r"would run code on loading: it calls torch.nn.modules.linear.Linear"):
        read_foreign(saved(tmp_path / "a.pkl", torch.nn.Linear(2, 2)))


# -- what is left to others ------------------------------------------------------------------------------------


def test_nothing_known(tmp_path):
    """Ours, pictures, text, and what is not there."""
    run = tiny.run(tmp_path / "run")
    checkpoint = run.folder / "checkpoints" / "000000007"
    save_weights(tmp_path / "ours.safetensors", {"x": T}, OURS)
    save_file({"x": T}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 40)
    np.savez(tmp_path / "pictures.npz", np.zeros((2, 8, 8, 3), np.uint8))
    (tmp_path / "words").write_text("12345678{")
    tiny.photos(tmp_path / "photos", 2)
    names = [
        "ours.safetensors",
        "other.safetensors",
        "broken.safetensors",
        "pictures.npz",
        "words",
        "photos",
        "none",
    ]
    for path in [run.folder, checkpoint, checkpoint / "ema.safetensors", *(tmp_path / name for name in names)]:
        assert read_foreign(path) is None and not is_foreign(path)


def test_a_damaged_npz(tmp_path):
    for data in (b"", b"words", b"PK\x03\x04 and no more"):
        (tmp_path / "a.npz").write_bytes(data)
        with pytest.raises(UserError, match=r"a.npz: damaged, or not a .npz of arrays"):
            read_foreign(tmp_path / "a.npz")


def test_a_npz_with_objects_is_not_unpickled(tmp_path):
    made = {"model/temb/dense0/W": np.array([math.pi, None], dtype=object)}
    np.savez(tmp_path / "a.npz", **made)
    with pytest.raises(UserError, match=r"damaged, or not a \.npz of arrays"):
        read_foreign(tmp_path / "a.npz")
