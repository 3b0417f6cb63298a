"""Every published file, by the flags that OpenAI's two READMEs give it and the layout that they stand for.

Weights are on the device `meta`: keys and shapes without numbers.
"""

import re

import pytest
import torch

from ddpm.convert import openai
from ddpm.convert.published import PUBLISHED
from ddpm.errors import UserError
from openai_nets import Net, blueprint

MULT = {32: (1, 2, 2, 2), 64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}
MULT[512] = (0.5, 1, 1, 2, 2, 4, 4)

# model flags, as in the READMEs but for what all of a project have in common
IMPROVED = "--diffusion_steps 4000 --noise_schedule cosine --learn_sigma True"
IMPROVED_64 = f"{IMPROVED} --image_size 64 --num_channels 128 --num_res_blocks 3"
IMPROVED_32 = f"{IMPROVED} --image_size 32 --num_channels 128 --num_res_blocks 3 --dropout 0.3"
UNSCALED = "--rescale_learned_sigmas False --rescale_timesteps False"
BEDROOM = (
    "--image_size 256 --num_channels 128 --num_res_blocks 2 --num_heads 1 --learn_sigma True "
    "--use_scale_shift_norm False --attention_resolutions 16 --diffusion_steps 1000 --noise_schedule linear "
    f"{UNSCALED}"
)
GUIDED = (
    "--attention_resolutions 32,16,8 --diffusion_steps 1000 --learn_sigma True --resblock_updown True "
    "--use_scale_shift_norm True"
)
GUIDED_256 = f"{GUIDED} --image_size 256 --noise_schedule linear --num_channels 256 --num_head_channels 64"
UPSAMPLER = f"{GUIDED} --class_cond True --noise_schedule linear --num_channels 192 --num_res_blocks 2"
CLASSIFIER = (
    "--classifier_attention_resolutions 32,16,8 --classifier_width 128 --classifier_pool attention "
    "--classifier_resblock_updown True --classifier_use_scale_shift_norm True"
)

FLAGS = {
    "cifar10_uncond_50M_500K.pt": IMPROVED_32,
    "cifar10_uncond_vlb_50M_500K.pt": f"{IMPROVED_32} --use_kl True",
    "imagenet64_uncond_100M_1500K.pt": IMPROVED_64,
    "imagenet64_uncond_vlb_100M_1500K.pt": f"{IMPROVED_64} --use_kl True",
    "imagenet64_cond_270M_250K.pt": f"{IMPROVED_64} --num_channels 192 --class_cond True {UNSCALED}",
    "upsample_cond_500K.pt": "--num_channels 192 --num_res_blocks 2 --learn_sigma True --class_cond True "
    f"--large_size 256 --small_size 64 --diffusion_steps 4000 --noise_schedule linear {UNSCALED}",
    "lsun_uncond_100M_1200K_bs128.pt": BEDROOM,
    "lsun_uncond_100M_2400K_bs64.pt": BEDROOM,
    "64x64_diffusion.pt": f"{GUIDED} --class_cond True --dropout 0.1 --image_size 64 --noise_schedule cosine "
    "--num_channels 192 --num_head_channels 64 --num_res_blocks 3 --use_new_attention_order True",
    "128x128_diffusion.pt": f"{GUIDED} --class_cond True --image_size 128 --noise_schedule linear "
    "--num_channels 256 --num_heads 4 --num_res_blocks 2",
    "256x256_diffusion.pt": f"{GUIDED_256} --class_cond True --num_res_blocks 2",
    "256x256_diffusion_uncond.pt": f"{GUIDED_256} --class_cond False --num_res_blocks 2",
    "512x512_diffusion.pt": f"{GUIDED_256} --class_cond True --num_res_blocks 2 --image_size 512",
    "64_256_upsampler.pt": f"{UPSAMPLER} --large_size 256 --small_size 64 --num_heads 4",
    "128_512_upsampler.pt": f"{UPSAMPLER} --large_size 512 --small_size 128 --num_head_channels 64 "
    "--attention_resolutions 32,16",
    "64x64_classifier.pt": f"{CLASSIFIER} --image_size 64 --classifier_depth 4 --noise_schedule cosine",
    "128x128_classifier.pt": f"{CLASSIFIER} --image_size 128 --classifier_depth 2",
    "256x256_classifier.pt": f"{CLASSIFIER} --image_size 256 --classifier_depth 2",
    "512x512_classifier.pt": f"{CLASSIFIER} --image_size 512 --classifier_depth 2",
    "lsun_bedroom.pt": f"{GUIDED_256} --dropout 0.1 --num_res_blocks 2",
    "lsun_cat.pt": f"{GUIDED_256} --dropout 0.1 --num_res_blocks 2",
    "lsun_horse.pt": f"{GUIDED_256} --dropout 0.1 --num_res_blocks 2",
    "lsun_horse_nodropout.pt": f"{GUIDED_256} --dropout 0.0 --num_res_blocks 2",
}

# in millions: Dhariwal & Nichol 2021, appendix I; improved-diffusion's are in the files' names, as "50M"
PARAMETERS = {
    "lsun_bedroom.pt": 552,
    "64x64_diffusion.pt": 296,
    "128x128_diffusion.pt": 422,
    "256x256_diffusion.pt": 554,
    "512x512_diffusion.pt": 559,
    "64x64_classifier.pt": 65,
    "128x128_classifier.pt": 43,
    "256x256_classifier.pt": 54,
    "512x512_classifier.pt": 54,
    "64_256_upsampler.pt": 312,
    "128_512_upsampler.pt": 309,
}
STEPS = {
    "cifar10_uncond_50M_500K.pt": 500_000,
    "lsun_uncond_100M_2400K_bs64.pt": 2_400_000,
    "lsun_cat.pt": 200_000,
}


def value(text: str):
    if text in ("True", "False"):
        return text == "True"
    return int(text) if re.fullmatch(r"-?\d+", text) else float(text) if re.fullmatch(r"[\d.]+", text) else text


def flags_of(name: str) -> dict:
    """The flags with the defaults of the project that the file is of; the last of several counts."""
    words = FLAGS[name].split()
    given = {key[2:]: value(text) for key, text in zip(words[::2], words[1::2], strict=True)}
    given |= {key: str(text) for key, text in given.items() if key.endswith("resolutions")}
    improved = name.startswith(("cifar", "imagenet", "upsample", "lsun_uncond"))
    given.setdefault("diffusion_steps", 1000)
    given.setdefault("noise_schedule", "linear")
    given.setdefault("rescale_timesteps", improved)
    if "classifier_depth" in given:
        return given
    given.setdefault("rescale_learned_sigmas", improved and not given.get("use_kl"))  # which overrules it
    defaults = {"num_heads": 4, "num_head_channels": -1, "dropout": 0.0, "class_cond": False, "use_kl": False}
    defaults |= {"predict_xstart": False, "attention_resolutions": "16,8", "use_scale_shift_norm": True}
    defaults |= {"resblock_updown": False}
    if "num_head_channels" in given:
        defaults.pop("num_heads")  # follows from it
    if "large_size" not in given:
        defaults |= {"use_new_attention_order": False}
    return {**defaults, **given}


def net_of(flags: dict) -> Net:
    """What create_model, sr_create_model and create_classifier make of flags."""
    size = flags.get("image_size", flags.get("large_size"))
    mult = MULT[256 if "large_size" in flags and size == 512 else size]
    classifies = "classifier_width" in flags
    resolutions = flags["classifier_attention_resolutions" if classifies else "attention_resolutions"]
    factors = [size // int(text) for text in resolutions.split(",")]
    levels = tuple(level for level in range(len(mult)) if 2**level in factors)
    if classifies:
        pool = size // 2 ** (len(mult) - 1)
        return Net(128, mult, flags["classifier_depth"], levels, out=1000, head_channels=64, pool=pool)
    return Net(
        flags["num_channels"],
        mult,
        flags["num_res_blocks"],
        levels,
        into=6 if "large_size" in flags else 3,
        out=6,
        classes=1000 if flags["class_cond"] else 0,
        scale_shift=flags["use_scale_shift_norm"],
        updown=flags["resblock_updown"],
    )


def state_of(net: Net) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in blueprint(net).items()}


def test_the_table_is_of_the_files_there_are():
    assert set(PUBLISHED) == set(FLAGS)


@pytest.mark.parametrize("name", FLAGS)
def test_a_published_file_is_read_by_its_name(name):
    flags = flags_of(name)
    state = state_of(net_of(flags))
    read = openai.read(state, f"models/{name}")
    assert sum(tensor.numel() for tensor in read.weights.values()) == sum(
        tensor.numel() for tensor in state.values()
    )
    said = openai.flags(read.description)
    assert {flag: said.get(flag) for flag in flags} == flags
    assert set(said) - set(flags) <= {"channel_mult", "num_heads"}
    assert openai.notes(read.description) == ()
    assert "channel_mult" not in said or said["channel_mult"] == ("1,2,2,2" if said["image_size"] == 32 else "")
    classes = 1000 if flags.get("class_cond") or "classifier_width" in flags else 0
    assert read.description.facts.classes == tuple(str(i) for i in range(classes))
    assert read.description.facts.frequencies == ()
    assert read.description.step == STEPS.get(name, read.description.step) > 0
    assert read.notes == (
        f"OpenAI's published {name}: what the shapes do not say is taken from --preset {PUBLISHED[name]}",
    )


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_layouts_have_as_many_weights_as_published(name):
    """The check of this file's own layouts."""
    count = sum(torch.Size(shape).numel() for shape in blueprint(net_of(flags_of(name))).values())
    assert abs(count / 1e6 - PARAMETERS[name]) < 1


def test_another_net_under_a_published_name_is_refused():
    name = "256x256_diffusion.pt"
    wrong = net_of(flags_of(name))
    for other, message in (
        (wrong._replace(blocks=3), "net.blocks is 3, not 2;"),
        (wrong._replace(classes=0), "classes is 0, not 1000;"),
        (wrong._replace(out=3), "denoiser.variance is fixed, not learned_range;"),
        (wrong._replace(levels=(4, 5)), "net.attention is 4 5, not 3 4 5;"),
        (
            net_of(flags_of("64x64_diffusion.pt")),
            "net.channels is 192, not 256, net.multipliers is 1 2 3 4, not 1 1 2 2 4 4, net.blocks is 3, not 2,",
        ),
        (net_of(flags_of("256x256_classifier.pt")), "train.task is classifier, not image,"),
    ):
        with pytest.raises(
            UserError, match=f"{name}: not the file that OpenAI published under this name"
        ) as error:
            openai.read(state_of(other), name)
        assert message in str(error.value) and "give it another name" in str(error.value)


def test_options_win_over_the_table():
    name = "128x128_diffusion.pt"
    state = state_of(net_of(flags_of(name)))
    config = openai.read(state, name, {"net.head_channels": 64, "chain.rescale": True, "data.size": (64, 64)})
    config = config.description.config
    assert (config.net.head_channels, config.chain.rescale, config.data.size) == (64, True, (64, 64))
    state = state_of(net_of(flags_of("lsun_cat.pt")))  # whose heads have 64 channels
    config = openai.read(state, "lsun_cat.pt", {"net.heads": 8}).description.config
    assert (config.net.heads, config.net.head_channels) == (8, 0)
