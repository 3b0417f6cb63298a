"""The model card: read back by huggingface_hub, its code run by diffusers, its words held against the model."""

import dataclasses
import re
import shlex

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from huggingface_hub import ModelCard
from PIL import Image

import tiny
from ddpm.card import write_card
from ddpm.errors import UserError
from ddpm.loading import load, load_classifier
from ddpm.store import Facts

PICTURES = Facts("zoo", 10, (), (), "f" * 64)


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo").mkdir()
    return tmp_path


def card(folder, model, **options):
    """The card as the hub's own library reads it."""
    write_card(folder, model, **{"to": "ddpm", "licence": "mit", "run": None, "samples": False} | options)
    return ModelCard.load(folder / "README.md")


def python(text):
    """The code for diffusers, which is the block marked `python`."""
    return re.search(r"```python\n(.*?)```", text, re.S).group(1)


def test_the_front_matter_is_what_the_hub_reads(workplace):
    run = tiny.run(workplace / "runs/zoo", data__path=("hub:org/animals@full:train", "photos", "hub:other/set"))
    read = card(workplace / "zoo", load(run.folder, "cpu"), to="diffusers", licence="CC-BY-4.0")
    data = read.data
    assert (data.license, data.library_name) == ("cc-by-4.0", "diffusers")
    assert data.pipeline_tag == "unconditional-image-generation"
    assert data.tags == ["unconditional-image-generation", "ddpm", "diffusion", "class-conditional"]
    assert data.datasets == ["org/animals", "other/set"]
    assert data.eval_results is None and data.metrics is None
    assert read.text.lstrip().startswith("# zoo\n")


@pytest.mark.parametrize(
    "given, fields",
    [
        ("MIT", {"license": "mit"}),
        (" openrail++ ", {"license": "openrail++"}),
        ("Our Own 1.0", {"license": "other", "license_name": "Our Own 1.0"}),
        ("yes: no", {"license": "other", "license_name": "yes: no"}),
        (None, {"license": "unknown"}),
        (" ", {"license": "unknown"}),
    ],
)
def test_a_licence_is_one_of_the_hub_s_or_named(workplace, given, fields):
    read = card(workplace / "zoo", load(tiny.run(workplace / "run", PICTURES).folder, "cpu"), licence=given)
    front = yaml.safe_load((workplace / "zoo/README.md").read_text().split("---\n")[1])
    assert {key: value for key, value in front.items() if key.startswith("license")} == fields
    assert ("## Licence" in read.text) == (fields["license"] != "unknown")
    assert ("nobody has given one" in read.text) == (fields["license"] == "unknown")


@pytest.mark.parametrize(
    "task, tag, words",
    [
        ("image", "unconditional-image-generation", "draws grey pictures of 8 x 8, by 3 classes."),
        ("upsampler", "image-to-image", "enlarges grey pictures of 4 x 4 to 8 x 8, by 3 classes."),
        ("classifier", "image-classification", "A classifier of noisy grey pictures of 8 x 8"),
    ],
)
def test_each_kind_of_model(workplace, task, tag, words):
    run = tiny.run(
        workplace / "run", train__task=task, data__low_size=(4, 4), net__style="openai", net__scale_shift=True
    )
    model = (load_classifier if task == "classifier" else load)(run.folder, "cpu")
    read = card(workplace / "zoo", model)
    assert read.data.pipeline_tag == tag and read.data.tags[0] == tag and words in read.text
    state = run.newest()[0].tensors("ema")
    assert f"| Parameters | {sum(value.numel() for value in state.values()):,} |" in read.text
    assert "0 ant, 1 bee, 2 cat" in read.text
    assert ("The net predicts" in read.text) == (task != "classifier")
    commands = {"image": "ddpm sample zoo -n 16 --class ant", "upsampler": "--upsample zoo --class ant"}
    assert commands.get(task, "--classifier zoo --classifier-scale 1 --class ant") in read.text
    settings = yaml.safe_load(re.search(r"```yaml\n(.*?)```", read.text, re.S).group(1))
    assert settings["net"]["channels"] == 8 and settings["train"]["task"] == task
    assert ("denoiser" in settings) == (task != "classifier")


def test_nothing_in_it_names_a_place_on_the_machine(workplace):
    run = tiny.run(
        workplace / "secret/run",
        data__path=("/home/alice/photos",),
        data__holdout="/home/alice/held",
        train__init_from="/home/alice/runs/flowers",
        chain__steps=4,
    )
    description = dataclasses.replace(load(run.folder, "cpu").description, command="ddpm train /home/alice/photos")
    model = load(run.folder, "cpu")
    model.description = description
    read = card(workplace / "zoo", model, run=run.folder, samples=True)
    assert "alice" not in read.content and "secret" not in read.content
    assert "It started from the weights of flowers." in read.text
    with Image.open(workplace / "zoo/samples.png") as picture:
        assert "alice" not in str(picture.info) and "secret" not in str(picture.info)


@pytest.mark.parametrize("classes, columns, rows", [(0, 6, 6), (3, 3, 4), (10, 10, 4), (37, 10, 4), (250, 10, 10)])
def test_samples_are_the_model_s_own(workplace, classes, columns, rows):
    facts = dataclasses.replace(PICTURES, classes=tuple(f"kind|{k}" for k in range(classes)))
    model = load(tiny.run(workplace / "run", facts, chain__steps=4).folder, "cpu")
    text = card(workplace / "zoo", model, samples=True).text
    count = min(columns * rows, classes if classes > 10 else columns * rows)
    labels = None
    if classes:
        labels = [k % classes for k in range(count)] if classes < 40 else [k * classes // 100 for k in range(100)]
    same = model.sample(count, sampler="ddim", steps=4, seed=0, label=labels)
    with Image.open(workplace / "zoo/samples.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(same.grid(columns, 640)))
        assert picture.info["ddpm:seed"] == "0" and picture.info["ddpm:checkpoint"] == model.checkpoint
    assert f"![samples](samples.png)\n\nNot selected: {count} pictures of seed 0, DDIM with 4 steps" in text
    if 0 < classes <= 10:
        assert "a column a class: kind\\|0, kind\\|1, kind\\|2" in text
    assert ("a class each" in text) == (classes > 10)


def test_what_draws_nothing_by_itself_has_no_samples(workplace):
    up = load(tiny.run(workplace / "up", train__task="upsampler", data__low_size=(4, 4)).folder, "cpu")
    text = card(workplace / "zoo", up, samples=True).text
    assert "samples.png" not in text and not (workplace / "zoo/samples.png").exists()


def folder_of_diffusers(folder, size, classes, learned):
    """A folder such as diffusers saves it, small enough to walk."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=size,
        in_channels=1,
        out_channels=2 if learned else 1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
        attention_head_dim=8,
        num_class_embeds=classes or None,
    )
    kind = "learned_range" if learned else "fixed_large"
    scheduler = DDPMScheduler(num_train_timesteps=8, variance_type=kind)
    DDPMPipeline(unet, scheduler).save_pretrained(folder)


@pytest.mark.parametrize("classes", [(), ("ant", "two\nlines")])
@pytest.mark.parametrize("learned", [False, True])
def test_its_code_for_diffusers_runs(workplace, classes, learned):
    variance = {"denoiser__variance": "learned_range", "loss__kind": "hybrid"} if learned else {}
    facts = dataclasses.replace(PICTURES, classes=classes)
    model = load(tiny.run(workplace / "run", facts, chain__steps=8, **variance).folder, "cpu")
    folder_of_diffusers(workplace / "zoo", (8, 8), len(classes), learned)
    names = {}
    exec(python(card(workplace / "zoo", model, to="diffusers").text), names)
    if not classes:
        assert len(names["images"]) == 4 and names["images"][0].size == (8, 8)
    else:
        assert names["images"].shape == (4, 1, 8, 8) and names["images"].dtype == torch.uint8
    read = card(workplace / "zoo", model)
    assert read.data.library_name == "ddpm" and "diffusers" not in read.content


@pytest.mark.parametrize("to, given", [("openai", "zoo/ema.pt"), ("ddpm", "zoo"), ("diffusers", "zoo")])
def test_the_command_names_what_can_be_loaded(workplace, to, given):
    for name in ("ema.pt", "model.safetensors"):
        (workplace / "zoo" / name).touch()
    model = load(tiny.run(workplace / "run", PICTURES).folder, "cpu")
    assert f"ddpm sample {given} -n 16\n" in card(workplace / "zoo", model, to=to).text


def test_odd_names_stay_what_they_are(workplace):
    facts = dataclasses.replace(tiny.ANIMALS, name="my *best* | set", classes=("a b", "c`d", "<e>"))
    model = load(tiny.run(workplace / "run", facts, train__label_drop=0.1).folder, "cpu")
    text = card(workplace / "zoo", model).text
    assert "It was trained on my \\*best\\* \\| set." in text
    assert "0 a b, 1 c\\`d, 2 \\<e\\> |" in text
    command = re.search(r"```sh\n(.*)\n```", text).group(1)
    assert shlex.split(command)[-4:] == ["--class", "a b", "--cfg-scale", "3"]
    assert "10% of the labels were left out, for classifier-free guidance." in text


def test_what_is_known_of_the_training_and_what_is_not(workplace):
    facts = dataclasses.replace(PICTURES, skipped=3, held_out="e" * 64)
    run = tiny.run(workplace / "run", facts, data__crop="pad", data__flip=False, optimizer__lr=0.004)
    model = load(run.folder, "cpu")
    text = card(workplace / "zoo", model).text
    assert "- 10 pictures of zoo, 3 more could not be read.\n" in text
    assert "- They were padded where their shape was another, and never mirrored.\n" in text
    assert "- Others were held out of training.\n" in text and "`" + "f" * 16 + "`" in text
    assert "- 7 steps of 6, 42 pictures seen, Adam with a rate of 0.004" in text
    assert f"| Checkpoint | step 7, SHA-256 {model.checkpoint}… |" in text
    assert "Where the training pictures come from" in text and "nothing was measured of this checkpoint" in text
    foreign = dataclasses.replace(model.description, facts=Facts(), step=0)
    model.description, model.checkpoint = foreign, ""
    text = card(workplace / "zoo", model).text
    assert "## Training" not in text and "Checkpoint" not in text
    assert "What it was trained on: the file it comes from does not say." in text
    assert "How long it was trained: the file it comes from does not say." in text
    hub = tiny.run(workplace / "hub", PICTURES, data__path=("hub:org/animals",))
    assert "Where the training pictures come from" not in card(workplace / "zoo", load(hub.folder, "cpu")).text


def test_where_it_cannot_be_written(workplace, monkeypatch):
    model = load(tiny.run(workplace / "run", PICTURES).folder, "cpu")
    with pytest.raises(UserError, match="nowhere: no such folder; a card is of an exported model"):
        card(workplace / "nowhere", model)

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ddpm.card.page.write_bytes", full)
    with pytest.raises(UserError, match=r"zoo: cannot be written \(No space left on device\); choose"):
        card(workplace / "zoo", model)
