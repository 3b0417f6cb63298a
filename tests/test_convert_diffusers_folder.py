"""Folders both ways: diffusers' own nets and pipelines give what ours do, and nothing is lost on the way."""

import dataclasses
import json
from pathlib import Path

import diffusers.pipelines.ddpm.pipeline_ddpm
import diffusers.schedulers.scheduling_ddpm
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import tiny
from ddpm.build import build_denoiser, build_net
from ddpm.config import ChainConfig, Config, DataConfig, DenoiserConfig, LossConfig, NetConfig
from ddpm.convert.diffusers_folder import read, recognises, write
from ddpm.convert.record import Foreign
from ddpm.errors import UserError
from ddpm.noise import WalkNoise
from ddpm.pipeline import Pipeline
from ddpm.samplers import Ancestral, walk
from ddpm.store import Description, Facts
from test_nets_unet import GOOGLE_DDPM_CIFAR10_32, randomise

OPENAI = {"groups": 8, "style": "openai", "scale_shift": True, "head_channels": 8, "dropout": 0.3}
# Nets of ours, the height and width and channels of their pictures, and how many classes they know.
NETS = {
    "ho": (NetConfig(16, (1, 2, 2), 2, (1,), groups=8), (16, 16), 3, 0),
    "ho, grey, oblong, by class, several heads": (
        NetConfig(8, (1, 2, 2), 1, (1, 2), groups=4, heads=4),
        (8, 12),
        1,
        5,
    ),
    "ho, resampling in blocks": (NetConfig(16, (1, 2), 1, (1,), groups=8, resample="block"), (8, 8), 3, 3),
    "ho, block, attention everywhere": (
        NetConfig(16, (1, 2), 1, (0, 1), groups=8, resample="block", head_channels=16),
        (8, 8),
        4,
        0,
    ),
    "openai": (NetConfig(16, (1, 2, 3), 2, (1, 2), **OPENAI), (16, 8), 3, 5),
    "openai, split": (NetConfig(16, (1, 1.5), 1, (0,), qkv="split", **OPENAI), (12, 12), 3, 0),
    "adm": (NetConfig(16, (1, 2, 3), 1, (1, 2), resample="block", **OPENAI), (16, 16), 3, 7),
    "adm, split, no attention but the middle's": (
        NetConfig(16, (1, 2), 2, (), resample="block", qkv="split", **OPENAI),
        (8, 16),
        3,
        0,
    ),
    "openai, added": (NetConfig(16, (1, 2), 1, (1,), groups=8, style="openai", heads=2), (8, 8), 3, 2),
    "one level": (NetConfig(16, (1,), 1, (0,), groups=8, heads=2), (6, 10), 3, 0),
    "a width that is no short multiple": (NetConfig(14, (1, 58 / 14), 1, (1,), groups=2), (8, 8), 3, 0),
}


def model(name: str, **changes: object) -> tuple[torch.nn.Module, Description]:
    """A net with random weights under which attention matters, and its description."""
    net, size, channels, classes = NETS[name]
    config = Config(DataConfig(("zoo",), size, channels), net).with_(**changes)
    if config.denoiser.variance == "learned_range":
        config = config.with_(loss__kind="hybrid")
    made = build_net(config, classes).eval().requires_grad_(False)
    stir(made)
    facts = Facts("zoo", 10, tuple(f"kind {i}" for i in range(classes)), (), "f" * 64, 1)
    return made, Description(config, facts, 4321, ("why not",), "ddpm train zoo")


def stir(net: torch.nn.Module) -> None:
    randomise(net)
    with torch.no_grad():
        for name, value in net.named_parameters():
            value *= 6.0 if "attention" in name and name.endswith("weight") and value.ndim == 2 else 1.0


def written(folder: Path, name: str, **changes: object) -> tuple[torch.nn.Module, Description]:
    made, description = model(name, **changes)
    write(folder, made.state_dict(), description)
    return made, description


def same_output(ours: torch.nn.Module, theirs: UNet2DModel, size: tuple[int, int]) -> None:
    """The two nets agree to 1e-5 of the largest output."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, theirs.config.in_channels, *size, generator=generator)
    t, classes = torch.tensor([0.0, 17.25, 999.0]), theirs.config.num_class_embeds
    label = torch.tensor([0, classes - 1, 1]) if classes else None
    with torch.no_grad():
        expected = theirs.eval()(x, t, class_labels=label).sample
        actual = ours(x, t, label)
    assert expected.std() > 0.05
    torch.testing.assert_close(actual, expected, atol=1e-5 * expected.abs().max().item(), rtol=0.0)


def loaded(found: Foreign) -> torch.nn.Module:
    """The net of what was read."""
    net = build_net(found.description.config, len(found.description.facts.classes)).eval()
    net.load_state_dict(found.weights)
    return net


# -- ours → theirs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_diffusers_net_of_the_folder_is_ours(tmp_path, name):
    variance = "learned_range" if "openai" in name else "large"
    ours, description = written(tmp_path, name, denoiser__variance=variance)
    theirs = UNet2DModel.from_pretrained(tmp_path / "unet")
    same_output(ours, theirs, description.config.data.size)
    assert theirs.config.dropout == description.config.net.dropout


@pytest.mark.parametrize("name", NETS)
def test_ours_there_and_back_loses_nothing(tmp_path, name):
    ours, description = written(
        tmp_path, name, chain__schedule="sigmoid", chain__steps=300, denoiser__predicts="v"
    )
    back = read(tmp_path)
    assert back.kind == "diffusers" and back.description == description and back.notes == ()
    assert back.weights.keys() == ours.state_dict().keys()
    assert all(torch.equal(back.weights[key], value) for key, value in ours.state_dict().items())


def addressed(monkeypatch: pytest.MonkeyPatch, noise: WalkNoise, T: int) -> list[int]:
    """diffusers draws our noise: the start, then that of the steps from T … 2; returns those still to be drawn."""
    steps = [0, *range(T, 1, -1)]

    def drawn(shape, **_):
        made = noise(steps.pop(0)).clone()
        assert tuple(shape) == made.shape
        return made

    for module in (diffusers.pipelines.ddpm.pipeline_ddpm, diffusers.schedulers.scheduling_ddpm):
        monkeypatch.setattr(module, "randn_tensor", drawn)
    return steps


def drawn(folder: Path, monkeypatch: pytest.MonkeyPatch, config: Config) -> tuple[np.ndarray, Pipeline, WalkNoise]:
    """What diffusers draws with a net of ours and our noise, in [0, 1]; the net as our Pipeline, and the noise."""
    net = build_net(config, 0).eval().requires_grad_(False)
    stir(net)
    net.conv_out.bias.zero_()  # else the pictures would be white
    write(folder, net.state_dict(), Description(config, Facts()))
    ours = Pipeline(build_denoiser(config, net).eval(), Description(config, Facts()), "zoo")
    noise = WalkNoise(3, torch.arange(2), (3, *config.data.size))
    theirs = DDPMPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    T = ours.denoiser.chain.T
    left = addressed(monkeypatch, noise, T)
    pictures = theirs(batch_size=2, num_inference_steps=T, output_type="np").images.transpose(0, 3, 1, 2)
    assert left == [] and pictures.std() > 0.1 and ((pictures > 0.0) & (pictures < 1.0)).mean() > 0.3
    return pictures, ours, noise


@pytest.mark.parametrize(
    ("variance", "predicts", "chain"),
    [
        ("small", "eps", ChainConfig("linear", 22)),
        ("small", "v", ChainConfig("cosine", 12)),
        ("small", "x0", ChainConfig("sigmoid", 12)),
        ("large", "eps", ChainConfig("betas", 12, tuple(np.linspace(0.001, 0.5, 12).tolist()))),
        ("large", "v", ChainConfig("betas", 5, (0.1, 0.2, 0.1, 0.5, 0.9))),
        ("learned_range", "eps", ChainConfig("linear", 22)),
        ("learned_range", "v", ChainConfig("cosine", 12)),
    ],
)
def test_the_pipeline_draws_our_picture(tmp_path, monkeypatch, variance, predicts, chain):
    """From the same noise, ancestral: x_0 to 1e-5, so pixels but for how they are rounded.

    The two differ in nothing but arithmetic: theirs holds ᾱ in float32. The last step draws no noise in either, so
    that variances differ at t = 1 (theirs has 1e-20 where ours has the next step's) is not to be seen.
    """
    config = Config(
        DataConfig((), (8, 8), 3),
        NetConfig(8, (1, 2), 1, (1,), groups=4, head_channels=8),
        chain,
        DenoiserConfig(predicts, variance),
        LossConfig("hybrid" if variance == "learned_range" else "simple"),
    )
    expected, ours, noise = drawn(tmp_path, monkeypatch, config)
    *_, last = walk(ours.denoiser, Ancestral(), noise(0), noise)
    np.testing.assert_allclose((last.x / 2 + 0.5).clamp(0, 1), expected, atol=1e-5)
    pictures = ours.sample(2, sampler="ddpm", seed=3).pixels
    assert np.abs(pictures - expected * 255.0).max() <= 0.5 + 255e-5


@pytest.mark.slow
def test_a_thousand_steps_draw_our_picture(tmp_path, monkeypatch):
    """Ho et al.'s chain: what float32 leaves of ᾱ adds up to less than 1e-4."""
    config = Config(DataConfig((), (4, 4), 3), NetConfig(4, (1,), 1, (0,), groups=2))
    expected, ours, _ = drawn(tmp_path, monkeypatch, config)
    pictures = ours.sample(2, sampler="ddpm", seed=3).pixels
    assert np.abs(pictures - expected * 255.0).max() <= 0.5 + 255e-4


def test_a_pipeline_with_classes_is_loaded(tmp_path):
    ours, description = written(tmp_path, "adm")
    theirs = DDPMPipeline.from_pretrained(tmp_path)
    same_output(ours, theirs.unet, description.config.data.size)
    assert isinstance(theirs.scheduler, DDPMScheduler)


def test_weights_say_what_they_are(tmp_path):
    _, description = written(tmp_path, "ho")
    with safe_open(tmp_path / "unet/diffusion_pytorch_model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert Description.from_json(json.loads(file.metadata()["ddpm"]), "header") == description


def test_nothing_is_written_of_what_cannot_be(tmp_path):
    made, description = model("ho")
    config = description.config.with_(denoiser__predicts="mean")
    with pytest.raises(UserError, match=r"--denoiser.predicts mean"):
        write(tmp_path, made.state_dict(), dataclasses.replace(description, config=config))
    with pytest.raises(UserError, match=r"mystery.weight: not a weight .*; was the model changed by hand\?"):
        write(tmp_path, {"mystery.weight": torch.zeros(1)}, description)
    assert list(tmp_path.iterdir()) == []


# -- theirs → ours -----------------------------------------------------------------------------------------------

SMALL = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8,
    "sample_size": 8,
}
THEIRS = {
    "diffusers' own details": SMALL,
    "by class, variance learned": {**SMALL, "num_class_embeds": 4, "out_channels": 6, "dropout": 0.2},
    "ho": {**GOOGLE_DDPM_CIFAR10_32, **SMALL, "sample_size": (8, 12), "attention_head_dim": None},
    "adm": {
        **SMALL,
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 8,
        "attention_head_dim": 16,
        "in_channels": 1,
        "out_channels": 1,
    },
    "no attention but the middle's": {
        **SMALL,
        "block_out_channels": (14, 58),
        "norm_num_groups": 2,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "attention_head_dim": 29,
    },
}


def unet(**options: object) -> UNet2DModel:
    net = UNet2DModel(**options)
    stir(net)
    return net


def plain(part: UNet2DModel | DDPMScheduler) -> dict[str, object]:
    """A config of theirs without what is private; null groups are the others."""
    config = {key: value for key, value in json.loads(json.dumps(part.config)).items() if key[0] != "_"}
    if "attn_norm_num_groups" in config:
        config["attn_norm_num_groups"] = config["attn_norm_num_groups"] or config["norm_num_groups"]
    return config


@pytest.mark.parametrize("name", THEIRS)
def test_theirs_there_and_back_is_bit_equal(tmp_path, name):
    theirs = unet(**THEIRS[name])
    variance = "learned_range" if theirs.config.out_channels == 6 else "fixed_large"
    pipeline = DDPMPipeline(theirs, DDPMScheduler(variance_type=variance, beta_schedule="squaredcos_cap_v2"))
    pipeline.save_pretrained(tmp_path / "theirs")
    assert recognises(tmp_path / "theirs")
    found = read(tmp_path / "theirs")
    size = found.description.config.data.size
    assert size == tuple(theirs.config.sample_size if "ho" in name else (8, 8))
    same_output(loaded(found), theirs, size)
    if theirs.config.num_class_embeds:
        assert found.description.facts.classes == ("0", "1", "2", "3")
        assert found.description.config.loss.kind == "hybrid"

    (tmp_path / "ours").mkdir()
    write(tmp_path / "ours", found.weights, found.description)
    again = DDPMPipeline.from_pretrained(tmp_path / "ours")
    state, expected = again.unet.state_dict(), theirs.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in expected)
    assert plain(again.unet) == plain(theirs) and plain(again.scheduler) == plain(pipeline.scheduler)


def test_the_flat_layout_in_a_pickle_with_attention_s_old_names(tmp_path):
    """As google/ddpm-cifar10-32 was published."""
    options = {**GOOGLE_DDPM_CIFAR10_32, **SMALL}
    theirs = unet(**options)
    renamed = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    old = {}
    for key, value in theirs.state_dict().items():
        for new, name in renamed.items():
            key = key.replace(new, name)
        old[key] = value
    torch.save(old, tmp_path / "diffusion_pytorch_model.bin")
    config = {"_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", **options}
    (tmp_path / "config.json").write_text(json.dumps(config))
    scheduler = {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": "0.1.1",
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "clip_sample": True,
        "num_train_timesteps": 1000,
        "trained_betas": None,
        "variance_type": "fixed_large",
    }
    (tmp_path / "scheduler_config.json").write_text(json.dumps(scheduler))
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    found = read(tmp_path)
    same_output(loaded(found), theirs, (8, 8))
    made = found.description.config
    assert (made.chain, made.denoiser) == (ChainConfig(), DenoiserConfig("eps", "large", True))
    assert made.net == NetConfig(16, (1, 2), 2, (1,), 0.0, 8, qkv="split")
    (tmp_path / "model_index.json").unlink()
    assert recognises(tmp_path) and read(tmp_path).description == found.description


def checkpoint(folder: Path) -> tuple[UNet2DModel, UNet2DModel]:
    """checkpoint-700 of diffusers' training script, and its nets: averaged, and as it is."""
    theirs = unet(**SMALL)
    average = EMAModel(theirs.parameters(), model_cls=UNet2DModel, model_config=theirs.config)
    with torch.no_grad():
        for value in theirs.parameters():
            value += 0.1
    average.step(theirs.parameters())
    average.save_pretrained(folder / "checkpoint-700/unet_ema")
    theirs.save_pretrained(folder / "checkpoint-700/unet")
    averaged = UNet2DModel.from_pretrained(folder / "checkpoint-700/unet_ema")
    return averaged, theirs


def test_a_checkpoint_of_diffusers_training(tmp_path):
    averaged, theirs = checkpoint(tmp_path)
    DDPMScheduler(prediction_type="sample").save_pretrained(tmp_path / "scheduler")
    folder = tmp_path / "checkpoint-700"
    assert recognises(folder)
    found = read(folder)
    same_output(loaded(found), averaged, (8, 8))
    assert (found.description.step, found.description.config.train.steps) == (700, 700)
    assert found.description.config.denoiser.predicts == "x0"
    assert found.notes == (f"{folder}: has unet_ema and unet; unet_ema is taken",)
    as_is = read(folder, weights="model")
    same_output(loaded(as_is), theirs, (8, 8))
    assert as_is.notes == (f"{folder}: has unet and unet_ema; unet is taken",)
    alone = read(folder / "unet")  # two folders below its scheduler
    assert alone.description == as_is.description and alone.notes == ()
    assert all(torch.equal(alone.weights[key], as_is.weights[key]) for key in as_is.weights)


def test_a_net_alone_is_asked_for_its_noise(tmp_path):
    theirs = unet(**SMALL)
    theirs.save_pretrained(tmp_path / "net")
    with pytest.raises(UserError) as refused:
        read(tmp_path / "net")
    assert str(refused.value) == (
        f"{tmp_path / 'net'}: there is no scheduler_config.json with it; give --chain.schedule linear or cosine; "
        "--chain.steps 1000; --denoiser.predicts eps, x0 or v; --denoiser.variance small or large"
    )
    given = {"chain.schedule": "cosine", "chain.steps": 500, "denoiser.predicts": "v"}
    with pytest.raises(UserError, match=r"with it; give --denoiser.variance small or large$"):
        read(tmp_path / "net", given)
    found = read(tmp_path / "net", {**given, "denoiser.variance": "small"}).description.config
    assert found.chain == ChainConfig("cosine", 500) and found.denoiser == DenoiserConfig("v", "small")


def test_a_scheduler_without_a_variance_for_a_net_with_one(tmp_path):
    unet(**SMALL, out_channels=6).save_pretrained(tmp_path / "unet")
    DDIMScheduler().save_pretrained(tmp_path / "scheduler")
    with pytest.raises(UserError, match=r"does not say all of its noise; give --denoiser.variance learned_range$"):
        read(tmp_path)
    found = read(tmp_path, {"denoiser.variance": "learned_range"})
    assert found.description.config.loss.kind == "hybrid"


def test_what_is_given_wins_over_the_scheduler_and_not_over_the_net(tmp_path):
    betas = [0.1, 0.2, 0.4]
    theirs = unet(**SMALL)
    DDPMPipeline(theirs, DDPMScheduler(num_train_timesteps=3, trained_betas=betas)).save_pretrained(tmp_path)
    assert read(tmp_path).description.config.chain == ChainConfig("betas", 3, tuple(betas))
    given = {"chain.schedule": "cosine", "denoiser.variance": "large", "data.size": (16, 16), "net.dropout": 0.3}
    found = read(tmp_path, given).description.config
    assert found.chain == ChainConfig("cosine", 3) and found.denoiser.variance == "large"
    assert found.data.size == (16, 16) and found.net.dropout == 0.3 and found.net.head_channels == 8
    assert read(tmp_path, {"net.multipliers": [1, 2]}).weights.keys()  # it is so
    with pytest.raises(UserError, match=r"config.json: its net.blocks is 2, not 3; leave --net.blocks out"):
        read(tmp_path, {"net.blocks": 3})
    with pytest.raises(
        UserError, match=r"config.json: its net.head_channels is 8, not 16; .* --net.head-channels"
    ):
        read(tmp_path, {"net.head_channels": 16})
    with pytest.raises(UserError, match=r"--chain.steps 7: there are 3 numbers in --chain.betas"):
        read(tmp_path, {"chain.steps": 7})
    with pytest.raises(UserError, match=r"config.json: config.denoiser.variance: holds 'odd'; takes small or"):
        read(tmp_path, {"denoiser.variance": "odd"})


def edit(path: Path, **values: object) -> None:
    said = json.loads(path.read_text())
    said = {key: value for key, value in (said | values).items() if value is not ...}
    path.write_text(json.dumps(said))


def test_heads_that_the_config_does_not_say(tmp_path):
    theirs = unet(**SMALL)
    DDPMPipeline(theirs, DDPMScheduler()).save_pretrained(tmp_path)
    edit(tmp_path / "unet/config.json", attention_head_dim=...)
    found = read(tmp_path)
    same_output(loaded(found), theirs, (8, 8))  # eight channels a head
    assert "says nothing of attention_head_dim" in found.notes[0]
    single = read(tmp_path, {"net.heads": 1})
    assert single.notes == () and single.description.config.net.head_channels == 0
    one = UNet2DModel(**SMALL, attention_head_dim=None)
    one.load_state_dict(theirs.state_dict())
    same_output(loaded(single), one, (8, 8))


def test_a_size_that_is_not_said(tmp_path):
    DDPMPipeline(unet(**{**SMALL, "sample_size": None}), DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"config.json: sample_size null: .* give --data.size$"):
        read(tmp_path)
    assert read(tmp_path, {"data.size": (16, 8)}).description.config.data.size == (16, 8)


def test_half_precision_is_said(tmp_path):
    theirs = unet(**SMALL)
    DDPMPipeline(theirs, DDPMScheduler()).save_pretrained(tmp_path)
    path = tmp_path / "unet/diffusion_pytorch_model.safetensors"
    save_file({key: value.half() for key, value in load_file(path).items()}, path.with_suffix(".fp16.safetensors"))
    assert read(tmp_path).notes == ()
    path.unlink()
    found = read(tmp_path)
    assert found.notes == (f"{path.with_suffix('.fp16.safetensors')}: in half precision; there are no others",)
    assert {value.dtype for value in found.weights.values()} == {torch.float32}


# -- the description in the weights ------------------------------------------------------------------------------


def test_a_lone_net_of_ours_knows_its_noise(tmp_path):
    _, description = written(tmp_path, "adm", chain__schedule="cosine")
    (tmp_path / "unet").rename(tmp_path / "net")
    assert read(tmp_path / "net").description == description


def test_json_that_was_changed_is_believed(tmp_path):
    ours, description = written(tmp_path, "openai", denoiser__variance="learned_range")
    edit(tmp_path / "scheduler/scheduler_config.json", prediction_type="v_prediction", timestep_spacing="trailing")
    found = read(tmp_path)
    config = description.config.with_(denoiser__predicts="v")
    assert found.description == dataclasses.replace(description, config=config) and found.notes == ()
    assert all(torch.equal(found.weights[key], value) for key, value in ours.state_dict().items())

    edit(tmp_path / "unet/config.json", sample_size=32)
    found = read(tmp_path)
    path = tmp_path / "unet/config.json"
    assert found.notes == (f"{path}: changed since ddpm wrote it; what its weights say of it is left out",)
    assert found.description.config.data.size == (32, 32) and found.description.facts.classes[0] == "0"
    assert found.description.config.net.qkv == "split"
    same_output(loaded(found), UNet2DModel.from_pretrained(tmp_path / "unet"), (16, 16))


def test_a_scheduler_put_in_its_place(tmp_path):
    _, description = written(tmp_path, "ho")
    DDIMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(tmp_path / "scheduler")
    found = read(tmp_path, {"denoiser.variance": "large"})
    assert found.description.config.chain == ChainConfig("cosine") and found.notes == ()
    assert found.description.facts == description.facts


def test_a_header_that_cannot_be_read_is_left_out(tmp_path):
    _, description = written(tmp_path, "ho")
    path = tmp_path / "unet/diffusion_pytorch_model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt", "ddpm": "{"})
    found = read(tmp_path)
    assert found.description.config.net == dataclasses.replace(description.config.net, qkv="split")


# -- what is none ------------------------------------------------------------------------------------------------


def test_what_is_recognised(tmp_path):
    tiny.run(tmp_path / "run")
    assert not recognises(tmp_path / "run") and not recognises(tmp_path) and not recognises(tmp_path / "none")
    written(tmp_path, "ho")
    assert recognises(tmp_path) and recognises(tmp_path / "unet") and not recognises(tmp_path / "scheduler")
    assert not recognises(tmp_path / "unet/diffusion_pytorch_model.safetensors")
    (tmp_path / "scheduler/config.json").write_text("{")
    assert not recognises(tmp_path / "scheduler")


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def resave(path: Path, change) -> None:
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def lose(state: dict[str, torch.Tensor]) -> None:
    del state["conv_in.bias"], state["conv_in.weight"]


def gain(state: dict[str, torch.Tensor]) -> None:
    state["mid_block.attentions.0.spatial_norm.weight"] = torch.zeros(1)


def widen(state: dict[str, torch.Tensor]) -> None:
    state["conv_in.weight"] = torch.zeros(16, 4, 3, 3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda at: (at / "unet/config.json").unlink(), r"config.json: missing; a folder of diffusers has one"),
        (lambda at: (at / "unet/config.json").write_text("{"), r"unet/config.json: damaged, not JSON"),
        (lambda at: (at / "unet/config.json").write_text("[1]"), r"unet/config.json: holds \[1\]; it is a table"),
        (lambda at: (at / "model_index.json").write_text("[]"), r"model_index.json: this pipeline has no unet"),
        (
            lambda at: edit(at / "model_index.json", vqvae=["diffusers", "VQModel"]),
            r"model_index.json: this pipeline has vqvae besides; only a U-Net of pixels",
        ),
        (
            lambda at: (at / WEIGHTS).unlink(),
            r"unet: has no weights; they are diffusion_pytorch_model.safetensors or",
        ),
        (
            lambda at: (at / WEIGHTS).rename(at / "unet/diffusion_pytorch_model.safetensors.index.json"),
            r"unet: its weights are in several files; save them in one \(max_shard_size\)",
        ),
        (
            lambda at: (at / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n"),
            r"safetensors: a Git LFS pointer, not the weights; fetch them with git lfs pull",
        ),
        (lambda at: (at / WEIGHTS).write_bytes(b"none"), r"safetensors: damaged or not a safetensors file"),
        (lambda at: resave(at / WEIGHTS, lose), r"asks for: it lacks conv_in.weight, and 1 more such"),
        (lambda at: resave(at / WEIGHTS, gain), r"it has mid_block.attentions.0.spatial_norm.weight, for which"),
        (lambda at: resave(at / WEIGHTS, widen), r"it has conv_in.weight of 16 × 4 × 3 × 3 numbers, not 16 × 3 ×"),
        (lambda at: edit(at / "unet/config.json", norm_num_groups=3), r"config.json: --net.groups 3: must divide"),
        (
            lambda at: edit(at / "unet/config.json", block_out_channels=[3, 6], norm_num_groups=3),
            r"config.json: --net.channels 3: is even and at least 4",
        ),
    ],
)
def test_what_is_damaged_is_named(tmp_path, damage, message):
    DDPMPipeline(unet(**{**SMALL, "attention_head_dim": None}), DDPMScheduler()).save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_a_pickle_that_is_no_state(tmp_path):
    DDPMPipeline(unet(**SMALL), DDPMScheduler()).save_pretrained(tmp_path, safe_serialization=False)
    path = tmp_path / "unet/diffusion_pytorch_model.bin"
    assert read(tmp_path).description.config.net.channels == 16
    torch.save({"step": 3}, path)
    with pytest.raises(UserError, match=r"bin: step is no weight; save the net's state dict alone"):
        read(tmp_path)
    torch.save(unet(**SMALL), path)
    with pytest.raises(UserError, match=r"bin: not read, since it is a pickle that would run code"):
        read(tmp_path)
