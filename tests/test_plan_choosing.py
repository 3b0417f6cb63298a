"""What is decided before pictures are decoded: it fits the data, and follows from what was asked for."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

import tiny
from ddpm.build import build_chain
from ddpm.checking import check
from ddpm.config import DenoiserConfig, LossConfig
from ddpm.data import load, open_source
from ddpm.errors import UserError
from ddpm.plan import for_data
from ddpm.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))


def chosen(folder, device=CPU, seconds=300.0, **asked):
    named = {name.replace("__", "."): value for name, value in asked.items()}
    return for_data(open_source(folder), device, named, seconds)


def reason(choices, what):
    found = [decision for decision in choices.decisions if decision.what == what]
    assert len(found) == 1, what
    return f"{found[0].value}: {found[0].why}"


def trains_a_step(folder, config):
    """The config, with a narrower net of the same levels: a step of it ends with weights that are numbers."""
    config = check(config.with_(net__channels=8, net__groups=4, net__blocks=1, train__steps=1))
    pictures = load(open_source(folder), config.data.size, config.data.channels)
    trainer = Trainer(config, pictures, Accelerator(cpu=True))
    terms = trainer.step(0).terms
    assert torch.isfinite(terms.loss).all() and all(torch.isfinite(p).all() for p in trainer.parameters)


def picture(path, size, value=9, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size[::-1], (value,) * len(mode) if len(mode) > 1 else value).save(path)


# -- pictures --------------------------------------------------------------------------------------------------

SIZES = [(28, 28), (32, 12), (4, 20), (30, 20), (27, 27), (25, 40), (33, 33), (64, 9), (10, 6), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("device", ["cpu", "mps", "cuda"])
@pytest.mark.parametrize("seconds", [60.0, 36000.0])
def test_every_size_the_plan_picks_can_be_trained(tmp_path, size, device, seconds):
    folder = tiny.photos(tmp_path / "p", 4, size)
    config = chosen(folder, torch.device(device), seconds).config
    if max(size) <= 32 and size[0] % 4 == size[1] % 4 == 0:
        assert config.data.size == size
    trains_a_step(folder, config)


@pytest.mark.parametrize(
    "sizes, device, hours, side",
    [
        ([(40, 50), (60, 40), (40, 40), (33, 90)], "cpu", 0.1, 32),
        ([(20, 50), (60, 21), (17, 40)], "cpu", 0.1, 16),
        ([(300, 400)] * 3, "cpu", 0.1, 32),
        ([(300, 400)] * 3, "cpu", 8, 64),
        ([(300, 400)] * 3, "cuda", 0.1, 64),
        ([(500, 400), (300, 400), (70, 70)], "cuda", 8, 64),
        ([(8, 9), (9, 8), (7, 7)], "cpu", 8, 16),
    ],
)
def test_mixed_and_large_pictures_are_brought_to_a_square(tmp_path, sizes, device, hours, side):
    for i, size in enumerate(sizes):
        picture(tmp_path / "p" / f"{i}.png", size, i)
    made = chosen(tmp_path / "p", torch.device(device), 3600.0 * hours)
    assert made.config.data.size == (side, side)
    assert reason(made, "size").startswith(f"{side} x {side}: ")


@pytest.mark.parametrize("size", [(64, 96), (20, 20), (36, 36), (50, 30), (7, 7), (24, 25)])
def test_a_size_asked_for_is_kept_and_works_or_is_refused_clearly(tmp_path, size):
    folder = tiny.photos(tmp_path / "p", 4)
    choices = chosen(folder, data__size=size)
    assert choices.config.data.size == size and reason(choices, "size") == f"{size[0]} x {size[1]}: asked for"
    try:
        trains_a_step(folder, choices.config)
    except UserError as error:
        assert "must be multiples of" in str(error) and "the nearest are" in str(error)
        assert size not in [(64, 96), (20, 20), (36, 36)], "this can be halved"


def test_what_a_square_cuts_off_is_said(tmp_path):
    """Of a picture twice as wide as high, half; of a square none: a quarter of the two."""
    picture(tmp_path / "p/a.png", (40, 80))
    picture(tmp_path / "p/b.png", (40, 40))
    assert "25% of an average picture lies outside" in reason(chosen(tmp_path / "p"), "crop")
    # windows of 1 : 2 keep all of the first and half of the second
    assert "25%" in reason(chosen(tmp_path / "p", data__size=(16, 32)), "crop")
    assert reason(chosen(tmp_path / "p", data__crop="random"), "crop") == "random: asked for"
    assert not [d for d in chosen(tmp_path / "p", data__crop="pad").decisions if d.what == "crop"]
    (tmp_path / "p/a.png").unlink()
    assert not [d for d in chosen(tmp_path / "p").decisions if d.what == "crop"]


@pytest.mark.parametrize("grey", [True, False])
def test_grey_pictures_stay_grey_and_are_not_mirrored(tmp_path, grey):
    made = chosen(tiny.photos(tmp_path / "p", 4, grey=grey))
    assert made.config.data.channels == (1 if grey else 3) and made.config.data.flip is not grey
    assert ("grey" in reason(made, "channels")) is grey
    picture(tmp_path / "p/cats/colour.png", (8, 8))
    assert chosen(tmp_path / "p").config.data.channels == 3


def test_transparency_is_spoken_of_and_can_be_kept(tmp_path):
    for i in range(3):
        picture(tmp_path / f"p/{i}.png", (8, 8), 50 * i, "RGBA")
    assert "transparency is put on white, --data.channels 4 keeps it" in reason(chosen(tmp_path / "p"), "channels")
    config = chosen(tmp_path / "p", data__channels=4).config
    assert (config.data.channels, config.denoiser.predicts) == (4, "x0")
    trains_a_step(tmp_path / "p", config)


def test_pictures_that_cannot_be_read_at_all(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"none of the 1 pictures .* a\.png"):
        chosen(tmp_path / "p")


# -- net -------------------------------------------------------------------------------------------------------


def test_more_time_a_wider_net(tmp_path):
    folder = tiny.photos(tmp_path / "p", 4)
    short, long = (chosen(folder, seconds=s).config.net.channels for s in (60.0, 8 * 3600.0))
    assert short < long


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("channels", [4, 6, 20, 36, 48, 50, 64, 96])
@pytest.mark.parametrize("multipliers", [(1, 2), (1, 3, 3), (2,)])
def test_groups_divide_every_width_asked_for(tmp_path, device, channels, multipliers):
    folder = tiny.photos(tmp_path / "p", 4)
    net = chosen(folder, torch.device(device), net__channels=channels, net__multipliers=multipliers).config.net
    assert (net.channels, net.multipliers) == (channels, multipliers)
    usual = 8 if device == "cpu" else 32
    divisors = [g for g in range(1, usual + 1) if all(channels * m % g == 0 for m in multipliers)]
    assert net.groups == divisors[-1]
    # a level with attention must be one of those there are
    assert all(level < len(multipliers) for level in net.attention)


def test_groups_asked_for_stay(tmp_path):
    assert chosen(tiny.photos(tmp_path / "p", 4), net__channels=48, net__groups=5).config.net.groups == 5


def test_cells_asked_for_change_the_levels(tmp_path):
    """32 x 32: over cells of 2 a halving leaves 8 x 8, over pixels two, over cells of 4 none is needed."""
    folder = tiny.photos(tmp_path / "p", 4, (32, 32))
    for patch, multipliers in ((1, (1, 2, 2)), (2, (1, 2)), (4, (1,))):
        assert chosen(folder, net__patch=patch).config.net.multipliers == multipliers
    assert chosen(folder).config.net.patch == 2
    # on a GPU attention is at 16 x 16, wherever that is
    gpu = torch.device("cuda")
    assert chosen(folder, gpu).config.net.attention == (1,)
    assert chosen(folder, gpu, net__patch=2).config.net.attention == (0,)
    assert chosen(folder, gpu, net__multipliers=(1,)).config.net.attention == ()


@pytest.mark.parametrize("count, dropout", [(20, 0.1), (1999, 0.1), (2000, 0.0)])
def test_few_pictures_take_dropout(tmp_path, count, dropout):
    np.save(tmp_path / "a.npy", np.zeros((count, 8, 8, 3), np.uint8))
    choices = chosen(tmp_path / "a.npy")
    assert choices.config.net.dropout == dropout
    assert ("fewer than 2,000 pictures" in reason(choices, "dropout")) == (count < 2000)
    assert chosen(tmp_path / "a.npy", net__dropout=0.3).config.net.dropout == 0.3


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"net__channels": 0}, "--net.channels 0"),
        ({"net__multipliers": ()}, "--net.multipliers"),
        ({"net__multipliers": (0, 1)}, "--net.multipliers"),
        ({"data__size": (0, 8)}, "--data.size"),
        ({"data__channels": 2}, "--data.channels 2"),
    ],
)
def test_the_impossible_is_refused_and_not_computed_with(tmp_path, asked, message):
    with pytest.raises(UserError) as error:
        chosen(tiny.photos(tmp_path / "p", 4), **asked)
    assert str(error.value).startswith(message)


# -- target and batch ------------------------------------------------------------------------------------------


def test_the_weight_follows_the_prediction(tmp_path):
    folder = tiny.photos(tmp_path / "p", 4)
    for predicts, weight in ((None, "min-snr"), ("x0", "min-snr"), ("eps", "simple"), ("mean", "simple")):
        asked = {} if predicts is None else {"denoiser__predicts": predicts}
        config = check(chosen(folder, **asked).config)
        assert (config.denoiser.predicts, config.loss.weight) == (predicts or "x0", weight)
    config = chosen(folder, loss__weight="p2").config
    assert (config.denoiser.predicts, config.loss.weight) == ("x0", "p2")


@pytest.mark.parametrize(
    "asked, kind, variance, times",
    [
        ({}, "simple", "large", "low-discrepancy"),
        ({"denoiser__variance": "small"}, "simple", "small", "low-discrepancy"),
        ({"loss__kind": "hybrid"}, "hybrid", "learned_range", "low-discrepancy"),
        ({"loss__kind": "vlb"}, "vlb", "learned_range", "loss-second-moment"),
        ({"denoiser__variance": "learned_range"}, "hybrid", "learned_range", "low-discrepancy"),
        ({"denoiser__variance": "learned"}, "hybrid", "learned", "low-discrepancy"),
        ({"loss__kind": "vlb", "denoiser__variance": "large"}, "vlb", "large", "loss-second-moment"),
        ({"loss__kind": "vlb", "loss__times": "uniform"}, "vlb", "learned_range", "uniform"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_loss_and_variance_bring_each_other(tmp_path, asked, kind, variance, times, device):
    choices = chosen(tiny.photos(tmp_path / "p", 4), torch.device(device), **asked)
    config = check(choices.config)
    assert (config.loss.kind, config.denoiser.variance, config.loss.times) == (kind, variance, times)
    assert (config.chain.schedule, config.chain.steps) == ("cosine", 1000)
    told = {decision.what: (decision.value, decision.why) for decision in choices.decisions}
    if kind == "simple":
        assert not {"loss", "variance", "levels of t"} & set(told)
        return
    assert told["loss"] == (
        kind,
        "asked for" if "loss__kind" in asked else f"what teaches the variance {variance}",
    )
    taught = "asked for" if "denoiser__variance" in asked else f"what {kind} teaches, at every pixel"
    assert told["variance"] == (variance, taught)
    assert told["levels of t"][0] == times and ("asked" in told["levels of t"][1]) == ("loss__times" in asked)
    trains_a_step(tmp_path / "p", choices.config)


def test_hybrid_of_a_fixed_variance_is_refused_with_the_mend(tmp_path):
    choices = chosen(tiny.photos(tmp_path / "p", 4), loss__kind="hybrid", denoiser__variance="small")
    with pytest.raises(UserError, match=r"--loss\.kind hybrid: teaches a variance; take --denoiser\.variance"):
        check(choices.config)


def test_betas_bring_their_schedule(tmp_path):
    config = check(chosen(tiny.photos(tmp_path / "p", 4), chain__betas=(0.1, 0.2, 0.3)).config)
    assert (config.chain.schedule, config.chain.steps) == ("betas", 3)
    assert build_chain(config).snr(3) == pytest.approx(0.9 * 0.8 * 0.7 / (1 - 0.9 * 0.8 * 0.7))


def test_no_more_pictures_a_step_than_there_are(tmp_path):
    few = chosen(tiny.photos(tmp_path / "few", 5))
    assert few.config.train.batch == 5 and "fewer than the usual 32" in reason(few, "batch")
    assert chosen(tiny.photos(tmp_path / "many", 40)).config.train.batch == 32
    assert chosen(tmp_path / "few", train__batch=7).config.train.batch == 7


def test_multiples_that_are_no_whole_numbers(tmp_path):
    """8 groups divide 16, 48 and 64; those of 0.5 and 1.5 times 32."""
    choices = chosen(tiny.photos(tmp_path / "p", 4), net__channels=32, net__multipliers=(0.5, 1.5, 2))
    assert choices.config.net.groups == 8
    assert reason(choices, "levels").startswith("3 of 16 48 64: ")


def test_labels_left_out_are_spoken_of(tmp_path):
    folder = tiny.photos(tmp_path / "p", 4)
    assert reason(chosen(folder, train__label_drop=0.15), "labels left out") == "of 15 %: asked for"
    assert not [d for d in chosen(folder).decisions if d.what == "labels left out"]


# -- classifiers -----------------------------------------------------------------------------------------------


def classifier(folder, device="cpu", seconds=300.0, **asked):
    return chosen(folder, torch.device(device), seconds, train__task="classifier", **asked)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("device", ["cpu", "mps", "cuda"])
def test_a_classifier_of_every_size_can_be_trained(tmp_path, size, device):
    folder = tiny.photos(tmp_path / "p", 6, size)
    config = classifier(folder, device).config
    assert config.data == chosen(folder, torch.device(device)).config.data
    narrow = config.with_(net__head_channels=8, train__batch=4)
    trains_a_step(folder, narrow)


@pytest.mark.parametrize("asked", [{}, {"chain__schedule": "linear"}, {"chain__betas": (0.1, 0.2, 0.3)}])
def test_a_classifier_has_the_chain_of_the_model_it_guides(tmp_path, asked):
    folder = tiny.photos(tmp_path / "p", 4)
    assert classifier(folder, **asked).config.chain == chosen(folder, **asked).config.chain


@pytest.mark.parametrize(
    "device, size, patch, attention, head",
    [
        ("cpu", (32, 32), 2, (1,), 32),  # 16 and 8 places a side
        ("cpu", (16, 16), 1, (1,), 32),
        ("cpu", (8, 8), 1, (0,), 32),
        ("cuda", (64, 64), 1, (1, 2, 3), 64),  # 64, 32, 16 and 8, as ADM's for 64 x 64
        ("cuda", (32, 32), 1, (0, 1, 2), 64),
    ],
)
def test_a_classifier_is_adm_s_encoder(tmp_path, device, size, patch, attention, head):
    config = classifier(tiny.photos(tmp_path / "p", 4), device, data__size=size).config
    net = config.net
    assert (net.style, net.scale_shift, net.resample) == ("openai", True, "block")
    assert (net.patch, net.attention, net.head_channels) == (patch, attention, head)
    assert config.loss.times == "low-discrepancy" and config.train.preview_every == 0
    count = classifier(tmp_path / "p", device).decisions[0]
    assert (count.what, count.value) == ("task", "classifier of 2 classes")


@pytest.mark.parametrize("channels", [4, 6, 20, 36, 48, 50, 96])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_heads_of_a_classifier_divide_the_widths_with_attention(tmp_path, device, channels):
    folder = tiny.photos(tmp_path / "p", 4, (32, 32))
    net = classifier(folder, device, net__channels=channels).config.net
    widths = [channels * net.multipliers[k] for k in (*net.attention, -1)]
    most = 32 if device == "cpu" else 64
    fitting = [n for n in range(1, most + 1) if all(width % n == 0 for width in widths)]
    assert net.head_channels == fitting[-1]
    assert classifier(folder, device, net__heads=2).config.net.head_channels == 0


def test_nothing_is_decided_of_what_a_classifier_has_not(tmp_path):
    folder = tiny.photos(tmp_path / "p", 4)
    choices = classifier(folder)
    assert not {"target", "loss", "variance", "labels left out"} & {d.what for d in choices.decisions}
    assert choices.config.denoiser == DenoiserConfig() and choices.config.loss == LossConfig(
        times="low-discrepancy"
    )
    assert check(choices.config) == choices.config
    with pytest.raises(UserError, match="--labels none: a classifier learns classes"):
        classifier(folder, data__labels="none")


@pytest.mark.parametrize("count, dropout", [(20, 0.1), (2000, 0.0)])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_few_pictures_take_dropout_of_a_classifier_too(tmp_path, count, dropout, device):
    np.save(tmp_path / "a.npy", np.zeros((count, 8, 8, 3), np.uint8))
    assert classifier(tmp_path / "a.npy", device).config.net.dropout == dropout
