"""Config files: what they ask for, in YAML and JSON, and what is wrong with them, by file, key or line."""

import json

import pytest
import yaml

from ddpm.cli import main
from ddpm.commands.configfile import read_config, write_yaml
from ddpm.config import Config, OptimizerConfig, to_json
from ddpm.errors import UserError
from ddpm.presets import PRESETS
from ddpm.store import Description, Facts, Run

# No field has its default, and words that YAML 1.1 would read as something else.
OTHER = Config().with_(
    data__size=(48, 64),
    data__channels=1,
    data__crop="none",
    data__background="#102030",
    data__labels="none",
    data__holdout="0.1",
    data__flip=False,
    data__cache="never",
    net__attention=(),
    net__multipliers=(3,),
    chain__schedule="betas",
    chain__betas=(1e-4, 0.02),
    chain__steps=2,
    optimizer__lr=1e-5,
    optimizer__clip=0.0,
    train__precision="bf16",
    train__init_from="on",
    train__trackers=("wandb",),
)


@pytest.fixture
def file(tmp_path):
    """file(text, name) → its path."""

    def file(text, name="c.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return file


def applied(given):
    return Config().with_(**{name.replace(".", "__"): value for name, value in given.items()})


def test_a_part_of_a_config_asks_for_its_keys_alone(file):
    text = """
        # what I want
        data: {size: 64, crop: none}
        net:
          channels: 48
          multipliers: [1, 2]
          attention: 1
        chain:
        optimizer: {lr: 1e-4, decay: none, clip: 1}
        train: {precision: no, steps: 800_000, compile: true}
    """
    given = read_config(file(text))
    assert given == {
        "data.size": (64, 64),
        "data.crop": "none",
        "net.channels": 48,
        "net.multipliers": (1, 2),
        "net.attention": (1,),
        "optimizer.lr": 1e-4,
        "optimizer.decay": "none",
        "optimizer.clip": 1.0,
        "train.precision": "no",
        "train.steps": 800_000,
        "train.compile": True,
    }
    assert type(given["optimizer.clip"]) is float


@pytest.mark.parametrize("size", ["64x96", "'64x96'", "[64, 96]", "64X96"])
def test_sizes_are_written_as_people_do(file, size):
    assert read_config(file(f"data: {{size: {size}}}")) == {"data.size": (64, 96)}
    if size.startswith(("[", "'")):
        assert read_config(file(json.dumps({"data": {"size": yaml.safe_load(size)}}), "c.json")) == {
            "data.size": (64, 96)
        }


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-4", 1e-4),
        ("1E-4", 1e-4),
        ("1.e-4", 1e-4),
        (".5", 0.5),
        ("5e+3", 5000.0),
        ("2", 2.0),
        ("1_000.5", 1000.5),
    ],
)
def test_numbers_are_those_of_yaml_1_2(file, text, value):
    """YAML 1.1, which PyYAML reads, takes 1e-4 for a word."""
    assert read_config(file(f"optimizer: {{lr: {text}}}")) == {"optimizer.lr": value}


@pytest.mark.parametrize("config", [Config(), OTHER, *[make() for make in PRESETS.values()]])
def test_what_is_written_is_read_back(file, config):
    given = read_config(file(write_yaml(config)))
    assert applied(given) == config.with_(data__path=()) and "data.path" not in given
    # and it is YAML to everybody else
    everything = to_json(config)
    del everything["data"]["path"]
    assert yaml.safe_load(write_yaml(config)).keys() == everything.keys()


@pytest.mark.parametrize("config", [Config().with_(data__path=("a", "b")), OTHER])
def test_a_run_s_config_is_read_as_it_is(tmp_path, config):
    run = Run.create(tmp_path / "run", Description(config, Facts("zoo", 7), plan=("net: wide",)))
    assert applied(read_config(run.folder / "config.json")) == config


@pytest.mark.parametrize(
    "text, name, message",
    [
        ("net: {chanels: 4}", "c.yaml", "c.yaml: net.chanels: no such setting; did you mean channels?"),
        ('{"net": {"chanels": 4}}', "c.json", "c.json: net.chanels: no such setting; did you mean channels?"),
        ("netz: {}", "c.yaml", "c.yaml: netz: no such section; did you mean net?"),
        ("batch: 3", "c.yaml", "c.yaml: batch: no such section; did you mean train: {batch: ...}?"),
        ("channels: 3", "c.yaml", "did you mean data: {channels: ...} or net: {channels: ...}?"),
        ("net.chanels: 3", "c.yaml", "did you mean data: {channels: ...} or net: {channels: ...}?"),
        (
            "xyzzy: 3",
            "c.yaml",
            "xyzzy: no such section; there are data, net, chain, denoiser, loss, optimizer, train",
        ),
        ("net: 3", "c.yaml", "c.yaml: net: holds 3; it is a table of settings"),
        ("net: {channels: 48.5}", "c.yaml", "c.yaml: net.channels: holds 48.5; takes int"),
        ("net: {channels: '48'}", "c.yaml", "c.yaml: net.channels: holds '48'; takes int"),
        ("net: {channels: 048}", "c.yaml", "c.yaml: net.channels: holds 48.0; takes int"),
        ("optimizer: {lr: high}", "c.yaml", "c.yaml: optimizer.lr: holds 'high'; takes float"),
        ("data: {flip: yes}", "c.yaml", "c.yaml: data.flip: holds 'yes'; takes bool"),
        ("data: {size: 64y}", "c.yaml", "c.yaml: data.size 64y: takes a height and a width in pixels"),
        ("data: {size: [1, 2, 3]}", "c.yaml", "c.yaml: data.size: holds [1, 2, 3]"),
        ("train: {precision: 3}", "c.yaml", "c.yaml: train.precision: holds 3; takes no or bf16 or fp16"),
        ("net: {channels: null}", "c.yaml", "c.yaml: net.channels: holds None; takes int"),
        ("", "c.yaml", "c.yaml: holds nothing; it is a table of sections"),
        ("- net\n- data", "c.yaml", "c.yaml: holds ['net', 'data']; it is a table of sections"),
        (
            "net:\n  blocks: 2\nnet:\n  channels: 4",
            "c.yaml",
            "c.yaml, line 3: not YAML (net stands in one table twice)",
        ),
        ('{"net": {}, "net": {}}', "c.json", "c.json: net stands in one table twice"),
        ("net: {channels: 4\ntrain: 1", "c.yaml", "c.yaml, line 2: not YAML"),
        ("net: {1: 2}", "c.yaml", "c.yaml, line 1: not YAML (1 is no name)"),
        ("a: 1\n\tb: 2", "c.yaml", "c.yaml, line 2: not YAML"),
        (
            "net: !!python/object:os.system x",
            "c.yaml",
            "c.yaml, line 1: not YAML (could not determine a constructor",
        ),
        ("net: \x07", "c.yaml", "c.yaml: not YAML ("),
        ('{"net": {},\n}', "c.json", "c.json, line "),
        ('{"format": "ddpm/1", "config": 3}', "c.json", "c.json: damaged"),
    ],
)
def test_a_mistake_is_named_by_file_and_key_or_line(file, text, name, message):
    with pytest.raises(UserError) as error:
        read_config(file(text, name))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(str(file(text, name)))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"--config .*none\.yaml: missing, there is no such file"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00net")
    with pytest.raises(UserError, match=r"binary\.yaml: not text in UTF-8"):
        read_config(tmp_path / "binary.yaml")


@pytest.mark.parametrize("name", ["cifar10", "fashion"])
def test_info_prints_what_config_reads(file, capsys, name):
    assert main(["info", name, "--yaml"]) == 0
    given = read_config(file(capsys.readouterr().out))
    if name == "cifar10":
        assert applied(given) == PRESETS[name]().with_(data__path=())
    else:
        assert given["net.channels"] == 48 and isinstance(applied(given).optimizer, OptimizerConfig)
