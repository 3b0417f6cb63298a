"""Runs on disk: bit-exact, described by themselves, whole or not there, and never read when damaged."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

import ddpm
import tiny
from ddpm.atomic import write_json
from ddpm.config import Config, NetConfig
from ddpm.errors import UserError
from ddpm.store import (
    Description,
    Facts,
    Run,
    load_weights,
    open_checkpoint,
    read_json,
    save_weights,
)

DESCRIBED = Description(
    Config(net=NetConfig(64, (1, 2))),
    Facts("zoo", 10, ("ant", "bee ü"), (0.25, 0.75), "f" * 64, 3),
    17,
    ("size 8 x 8: small", "net: narrow"),
    "ddpm train zoo --steps 17",
)


def tensors():
    torch.manual_seed(0)
    return {
        "plain": torch.randn(3, 4),
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "turned": torch.randn(4, 6).T,
        "half": torch.randn(7).half(),
        "bf16": torch.randn(7).bfloat16(),
        "double": torch.tensor([1e-300, -0.0, float("inf")], dtype=torch.float64),
        "whole": torch.tensor([2**40, -1]),
        "scalar": torch.tensor(5.0),
        "empty": torch.zeros(0, 3),
    }


def saved(run, step, keep=10, value=None):
    parts = {"model": {"w": torch.full((4,), float(step if value is None else value))}}
    return run.save(Description(DESCRIBED.config, DESCRIBED.facts, step), parts, {"images": step}, keep)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# -- round trips -----------------------------------------------------------------------------------------------


def test_tensors_come_back_bit_by_bit(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, tensors(), DESCRIBED)
    back, _ = load_weights(path)
    assert set(back) == set(tensors())
    for name, value in tensors().items():
        assert back[name].dtype == value.dtype and back[name].shape == value.shape
        same = back[name].contiguous().flatten().view(torch.uint8) if value.ndim else back[name]
        expected = value.contiguous().flatten().view(torch.uint8) if value.ndim else value
        assert torch.equal(same, expected), name


def test_the_header_describes_the_file(tmp_path):
    save_weights(tmp_path / "w.safetensors", tensors(), DESCRIBED)
    assert load_weights(tmp_path / "w.safetensors")[1] == DESCRIBED
    run = Run.create(tmp_path / "run", DESCRIBED)
    assert run.exists() and Run(tmp_path / "run").description() == DESCRIBED
    written = json.loads((tmp_path / "run/config.json").read_text())
    assert written["versions"]["torch"] == torch.__version__ and written["versions"]["ddpm"] == ddpm.__version__


def test_a_checkpoint_comes_back(tmp_path):
    run = Run.create(tmp_path / "run", DESCRIBED)
    parts = {"model": tensors(), "optimizer": {"w:exp_avg": torch.ones(2)}}
    folder = run.save(DESCRIBED, parts, {"images": 5, "window": {"since": 3}}, keep=2)
    checkpoint, damaged = run.newest()
    assert (checkpoint.folder, checkpoint.step, damaged) == (folder, 17, [])
    assert checkpoint.state["images"] == 5 and checkpoint.state["window"] == {"since": 3}
    assert torch.equal(checkpoint.tensors("model")["last"], tensors()["last"])
    assert names(folder) == ["model.safetensors", "optimizer.safetensors", "state.json"]


# -- damage ----------------------------------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-2] ^= 4
    path.write_bytes(data)


DAMAGE = {
    "truncated": ("model.safetensors", truncate),
    "flipped": ("model.safetensors", flip_a_bit),
    "missing": ("model.safetensors", lambda path: path.unlink()),
    "emptied": ("model.safetensors", lambda path: path.write_bytes(b"")),
    "state missing": ("state.json", lambda path: path.unlink()),
    "state truncated": ("state.json", lambda path: path.write_bytes(path.read_bytes()[:20])),
    "state foreign": ("state.json", lambda path: path.write_text('{"step": 3}')),
    "state a list": ("state.json", lambda path: path.write_text("[1]")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_in_the_newest_is_named_and_the_older_used(tmp_path, damage):
    run = Run.create(tmp_path / "run", DESCRIBED)
    saved(run, 10)
    name, spoil = DAMAGE[damage]
    newest = saved(run, 20)
    spoil(newest / name)
    checkpoint, damaged = run.newest()
    assert checkpoint.step == 10 and torch.equal(checkpoint.tensors("model")["w"], torch.full((4,), 10.0))
    assert len(damaged) == 1 and damaged[0].startswith(f"{newest / name}: ") and "\n" not in damaged[0]
    with pytest.raises(UserError, match=r"damaged|missing"):
        open_checkpoint(newest)


def test_all_damaged_is_none_found(tmp_path):
    run = Run.create(tmp_path / "run", DESCRIBED)
    for step in (1, 2):
        flip_a_bit(saved(run, step) / "model.safetensors")
    checkpoint, damaged = run.newest()
    assert checkpoint is None and [("000000002" in damaged[0]), ("000000001" in damaged[1])] == [True, True]
    assert Run.create(tmp_path / "other", DESCRIBED).newest() == (None, [])


def test_loading_a_model_notes_the_damaged_checkpoint(tmp_path):
    run = tiny.run(tmp_path / "run", step=7)
    made = tiny.config()
    late = Description(made, tiny.ANIMALS, 9)
    folder = run.save(late, {"ema": tiny.weights(made, 3, 5), "model": tiny.weights(made, 3, 6)}, {}, keep=2)
    truncate(folder / "ema.safetensors")
    model = ddpm.load(run.folder, "cpu")
    assert model.description.step == 7
    assert len(model.notes) == 1 and str(folder / "ema.safetensors") in model.notes[0]
    assert "an older checkpoint is used" in model.notes[0]


# -- thinning --------------------------------------------------------------------------------------------------


def test_the_newest_are_kept(tmp_path):
    run = Run.create(tmp_path / "run", DESCRIBED)
    for step in (5, 9, 10, 15):
        saved(run, step, keep=2)
    assert names(run.folder / "checkpoints") == ["000000010", "000000015"]
    assert run.newest()[0].step == 15


def test_a_checkpoint_is_never_thinned_in_favour_of_a_damaged_one(tmp_path):
    """Training went on from step 5, as the later checkpoints are damaged."""
    run = Run.create(tmp_path / "run", DESCRIBED)
    for step in (5, 10, 20):
        saved(run, step)
    for name in ("000000010", "000000020"):
        flip_a_bit(run.folder / "checkpoints" / name / "model.safetensors")
    assert run.newest()[0].step == 5
    run.rewind(5)
    saved(run, 7, keep=2)
    assert run.newest()[0].step == 7


def test_saving_the_same_step_again_replaces_it(tmp_path):
    run = Run.create(tmp_path / "run", DESCRIBED)
    saved(run, 10, value=1)
    saved(run, 10, value=2)
    assert names(run.folder / "checkpoints") == ["000000010"]
    assert run.newest()[0].tensors("model")["w"][0] == 2.0


# -- whole or not at all ---------------------------------------------------------------------------------------


def test_a_checkpoint_that_cannot_be_written_leaves_the_others(tmp_path, monkeypatch):
    run = Run.create(tmp_path / "run", DESCRIBED)
    saved(run, 10)

    def full(path, values):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ddpm.store.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        saved(run, 20, keep=1)
    assert names(run.folder / "checkpoints") == ["000000010"] and run.newest()[0].step == 10


def test_what_a_killed_save_left_goes_with_the_next_one(tmp_path):
    """The kill's half checkpoint, which can be gigabytes, is no checkpoint and does not stay for ever."""
    run = Run.create(tmp_path / "run", DESCRIBED)
    saved(run, 10)
    shutil.copytree(run.folder / "checkpoints/000000010", run.folder / "checkpoints/.000000020.999999.tmp")
    assert run.newest()[0].step == 10
    run.rewind(10)
    saved(run, 20)
    assert names(run.folder / "checkpoints") == ["000000010", "000000020"]


# -- refusals --------------------------------------------------------------------------------------------------


def test_an_existing_run_is_refused_and_left_alone(tmp_path):
    Run.create(tmp_path / "run", DESCRIBED)
    before = (tmp_path / "run/config.json").read_bytes()
    with pytest.raises(UserError, match=r"holds a run already; continue it with --resume"):
        Run.create(tmp_path / "run", Description(Config(), Facts()))
    assert (tmp_path / "run/config.json").read_bytes() == before


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        Run.create(tmp_path, DESCRIBED)
    assert names(tmp_path) == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    assert Run.create(tmp_path / "empty", DESCRIBED).exists()


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nothing/here"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot be written .*choose another --out"):
        Run.create(tmp_path / place, DESCRIBED)


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '{"format": "other/1"}', "null", "\xff"])
def test_a_foreign_config_is_refused_by_name(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"not written by ddpm|not JSON") as error:
        Run(tmp_path).description()
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "changes",
    [{"step": "many"}, {"step": None}, {"plan": 5}, {"config": 3}, {"config": {"net": []}}, {"data": "x"}],
)
def test_a_config_with_wrong_values_is_refused_by_name(tmp_path, changes):
    write_json(tmp_path / "config.json", {**DESCRIBED.to_json(), **changes})
    with pytest.raises(UserError) as error:
        Run(tmp_path).description()
    assert str(error.value).startswith(f"{tmp_path / 'config.json'}: ")


def test_no_run_no_json(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        Run(tmp_path).description()
    with pytest.raises(UserError, match=r"nothing\.json: missing"):
        read_json(tmp_path / "nothing.json")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"ddpm": "{}"}, {"ddpm": "no json"}, {"ddpm": "[]"}])
def test_foreign_weights_are_refused_by_name(tmp_path, metadata):
    path = tmp_path / "foreign.safetensors"
    save_file({"w": torch.ones(2)}, path, metadata)
    with pytest.raises(UserError) as error:
        load_weights(path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\xff" * 64])
def test_a_file_that_is_no_safetensors_is_refused_by_name(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged or not a safetensors file") as error:
        load_weights(path)
    assert str(error.value).startswith(f"{path}: ")
    with pytest.raises(UserError, match="there is no such file"):
        load_weights(tmp_path / "none.safetensors")


# -- log -------------------------------------------------------------------------------------------------------


def test_a_half_written_last_line_is_left_out(tmp_path):
    run = Run.create(tmp_path / "run", DESCRIBED)
    assert run.records() == []
    for step in (1, 2):
        run.log({"step": step, "loss": 0.5})
    with (run.folder / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert [r["step"] for r in run.records()] == [1, 2]


def test_rewinding_takes_back_what_came_later_and_nothing_else(tmp_path):
    run = Run.create(tmp_path / "run", DESCRIBED)
    for step in (1, 2, 3):
        run.log({"step": step})
    with (run.folder / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    (run.folder / "samples").mkdir()
    for name in ("000000002.png", "000000003.png", "mine.png", "notes.txt"):
        (run.folder / "samples" / name).write_text("x")
    run.rewind(2)
    assert [r["step"] for r in run.records()] == [1, 2]
    assert (run.folder / "log.jsonl").read_text().count("\n") == 2
    assert names(run.folder / "samples") == ["000000002.png", "mine.png", "notes.txt"]
    run.log({"step": 3})
    assert [r["step"] for r in run.records()] == [1, 2, 3]


def test_a_place_that_cannot_hold_a_run_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("")
    for name, rule in (
        ("file", r"cannot be written \(.*file is a file\)"),
        ("full", "is not empty and holds no run"),
    ):
        with pytest.raises(UserError, match=f"{name}: {rule}; choose another --out"):
            Run(tmp_path / name).check_free()
    Run(tmp_path / "new" / "run").check_free()
    assert not (tmp_path / "new").exists()
