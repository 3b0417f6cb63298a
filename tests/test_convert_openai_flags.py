"""OpenAI's flags of a model, and a model by its flags."""

import re

import pytest
import torch

from ddpm.build import build_net
from ddpm.config import Config
from ddpm.convert import openai
from ddpm.convert.openai_flags import Flags
from ddpm.errors import UserError
from ddpm.store import Description, Facts


def described(classes: int = 0, **changes: object) -> Description:
    small = {"net__style": "openai", "net__channels": 32, "net__multipliers": (1, 2), "net__blocks": 1}
    made = Config().with_(**{**small, "net__heads": 4, **changes})
    return Description(made, Facts(classes=tuple(f"class{i}" for i in range(classes))))


def fresh(description: Description) -> dict[str, torch.Tensor]:
    return build_net(description.config, len(description.facts.classes)).state_dict()


CLASSIFIER = {"train__task": "classifier", "net__head_channels": 32}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"net__style": "ho"}, r"--net.style ho: .* \(their nets have the style openai\); take --to ddpm"),
        ({"net__patch": 2}, "--net.patch 2: .* single pixels"),
        ({"net__groups": 8}, "--net.groups 8: .* 32 groups"),
        ({"data__size": (32, 48)}, "--data.size 32 48: .* squares"),
        ({"train__task": "upsampler", "data__low_size": (8, 16)}, "--data.low-size 8 16: .* squares"),
        ({"chain__schedule": "sigmoid"}, "--chain.schedule sigmoid: .* linear and cosine"),
        ({"denoiser__predicts": "v"}, "--denoiser.predicts v: .* eps or x0"),
        ({"denoiser__variance": "learned"}, "--denoiser.variance learned: .* learned_range"),
        ({"train__task": "classifier"}, "--net.head-channels 0: .* so many channels each"),
    ],
)
def test_what_the_format_cannot_say_is_refused(changes, message):
    description = described(2, **changes)
    with pytest.raises(UserError, match=message):
        openai.write(fresh(description), description)
    with pytest.raises(UserError, match=message):
        openai.flags(description)


@pytest.mark.parametrize(
    ("changes", "classes"),
    [
        ({"denoiser__predicts": "x0", "denoiser__clip": False, "net__dropout": 0.25, "data__size": (64, 64)}, 0),
        ({"denoiser__variance": "small", "net__qkv": "split", "net__resample": "block", "net__attention": ()}, 10),
        ({"denoiser__variance": "learned_range", "loss__kind": "vlb", "net__scale_shift": True}, 1000),
        ({"denoiser__variance": "learned_range", "loss__kind": "hybrid", "chain__steps": 4000}, 0),
        (
            {"denoiser__variance": "learned_range", "loss__kind": "hybrid", "loss__vlb_weight": 1 / 500}
            | {"chain__steps": 500, "chain__schedule": "cosine", "chain__rescale": True},
            0,
        ),
        ({"train__task": "upsampler", "net__qkv": "split", "data__channels": 1}, 4),
        ({"train__task": "upsampler", "data__low_size": (16, 16), "net__head_channels": 8}, 0),
        ({**CLASSIFIER, "net__qkv": "split"}, 5),
        ({**CLASSIFIER, "net__heads": 1, "net__head_channels": 64, "net__attention": (), "chain__steps": 50}, 5),
    ],
)
def test_flags_make_an_exported_file_readable(changes, classes):
    """Ours → theirs → ours: the same weights, and the same model."""
    description = described(classes, **changes)
    weights = {key: torch.randn_like(value) for key, value in fresh(description).items()}
    flags = openai.flags(description)
    assert set(flags) <= set(Flags.__dataclass_fields__)
    read = openai.read(openai.write(weights, description), "model.pt", openai.from_flags(flags))
    assert set(read.weights) == set(weights)
    assert all(torch.equal(read.weights[key], value) for key, value in weights.items())
    ours, again = description.config, read.description.config
    assert again.chain == ours.chain and again.data.size == ours.data.size and again.data.small == ours.data.small
    assert again.train.task == ours.train.task and len(read.description.facts.classes) == classes
    if ours.train.task == "classifier":  # which has no denoiser; the number of heads follows from their width
        assert again.net == ours.with_(net__heads=again.net.heads, net__dropout=0.0).net
    else:
        assert (again.net, again.denoiser, again.loss) == (ours.net, ours.denoiser, ours.loss)


def test_flags_are_theirs():
    description = described(1000, net__attention=(0, 1), data__size=(64, 64), net__qkv="split")
    assert openai.flags(description) == {
        "image_size": 64,
        "num_channels": 32,
        "num_res_blocks": 1,
        "num_heads": 4,
        "num_head_channels": -1,
        "dropout": 0.1,
        "use_scale_shift_norm": False,
        "resblock_updown": False,
        "predict_xstart": False,
        "diffusion_steps": 1000,
        "noise_schedule": "linear",
        "rescale_timesteps": False,
        "use_new_attention_order": True,
        "attention_resolutions": "64,32",
        "class_cond": True,
        "learn_sigma": False,
        "use_kl": False,
        "rescale_learned_sigmas": False,
        "channel_mult": "1,2",
    }
    nowhere = openai.flags(described(net__attention=(), data__size=(64, 64)))["attention_resolutions"]
    assert 64 // int(nowhere) not in (1, 2)  # the factors of the levels, as their code finds them


def test_flags_that_say_nothing_are_passed_over_and_wrong_ones_named():
    assert openai.from_flags({"use_fp16": True, "batch_size": 4, "class_cond": True}) == {}
    assert openai.from_flags({"num_heads": 4}) == {"net.heads": 4}
    assert openai.from_flags({"learn_sigma": False, "sigma_small": True}) == {
        "denoiser.variance": "small",
        "loss.kind": "simple",
    }
    assert openai.from_flags({"classifier_depth": 4}) == {
        "net.blocks": 4,
        "net.head_channels": 64,
        "net.qkv": "legacy",
    }
    for flags, message in (
        ({"num_heads": "4"}, "x.json.num_heads: holds '4'; takes int"),
        ({"noise_schedule": "sigmoid"}, "x.json.noise_schedule: holds 'sigmoid'; takes linear or cosine"),
        ({"classifier_pool": "spatial"}, "x.json.classifier_pool: holds 'spatial'; takes attention"),
        ({"num_heads": 4, "num_heads_upsample": 2}, "x.json.num_heads_upsample: holds 2; our nets have as many"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            openai.from_flags(flags, "x.json")
    assert "net.heads" in openai.from_flags({"num_heads": 4, "num_heads_upsample": 4})


@pytest.mark.parametrize(
    ("changes", "classes", "said"),
    [
        ({"net__multipliers": (1, 2, 3, 4), "data__size": (64, 64)}, 1000, []),
        ({}, 0, []),
        ({}, 10, ["it has 10 classes, OpenAI's scripts 1000: set NUM_CLASSES in script_util.py"]),
        ({"data__channels": 1}, 0, ["it has 1 channels"]),
        ({"net__multipliers": (1, 1.5)}, 0, ["OpenAI's scripts have no multipliers 1 1.5 for 32 pixels"]),
        ({"train__task": "upsampler", "net__qkv": "split"}, 0, ["no multipliers 1 2 for 32", "the legacy order"]),
        ({**CLASSIFIER}, 1000, ["no multipliers 1 2 for 32 pixels", "heads of 64 channels"]),
        ({"denoiser__variance": "small"}, 0, ["sigma_small is a flag of improved-diffusion's scripts alone"]),
        ({"train__label_drop": 0.1}, 1000, ["classifier-free guidance is lost"]),
    ],
)
def test_what_their_scripts_cannot_be_told_is_noted(changes, classes, said):
    notes = openai.notes(described(classes, **changes))
    assert len(notes) == len(said)
    assert all(part in note for part, note in zip(said, notes, strict=True))
