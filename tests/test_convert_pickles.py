"""Files of PyTorch, good, damaged and hostile; nothing in them is ever run."""

import argparse
import io
import os
import pickle
import tarfile
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from ddpm.convert.pickles import is_pickle, read_pickle
from ddpm.errors import UserError

STATE = OrderedDict(weight=torch.arange(6.0).reshape(2, 3), step=torch.tensor(7), half=torch.ones(2).half())


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def saved(path, values, legacy=False):
    torch.save(values, path, _use_new_zipfile_serialization=not legacy)
    return path


def pickled(path, values, protocol):
    path.write_bytes(pickle.dumps(values, protocol))
    return path


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["model.pt", "state.ckpt", "no-suffix"])
def test_a_state_dict(tmp_path, legacy, name):
    path = saved(tmp_path / name, {"model": STATE, "step": 7, "rate": 0.1, "names": ["a", None]}, legacy)
    assert is_pickle(path)
    read = read_pickle(path)
    assert (read["step"], read["rate"], read["names"]) == (7, 0.1, ["a", None])
    assert all(
        torch.equal(value, STATE[key]) and value.dtype == STATE[key].dtype for key, value in read["model"].items()
    )


@pytest.mark.parametrize("kind", ["zip", "legacy", 0, 1, 2, 3, 4, 5])
def test_nothing_is_run(tmp_path, kind):
    """With the right to run it, unpickling makes a folder; here it never appears."""
    trap = tmp_path / "trap"
    values = {"weight": torch.zeros(2) if kind in ("zip", "legacy") else 0, "x": Hostile(trap)}
    path = tmp_path / "model.pt"
    if isinstance(kind, int):
        pickled(path, values, kind)
    else:
        saved(path, values, kind == "legacy")
    with pytest.raises(
        UserError, match=r"would run code on loading: it calls (posix|nt)\.mkdir; ask for"
    ) as error:
        read_pickle(path)
    assert not trap.exists() and "\n" not in str(error.value) and str(path) in str(error.value)
    if isinstance(kind, int):
        pickle.loads(path.read_bytes())
        assert trap.exists()  # so the trap is one


@pytest.mark.parametrize(
    "value, called",
    [
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (argparse.Namespace(lr=1), "argparse.Namespace"),
        (np.float64(1.0), "multiarray.scalar"),
    ],
)
def test_what_else_would_be_called_is_named(tmp_path, value, called):
    with pytest.raises(UserError, match=f"it calls [a-z._]*{called}; ask for its weights alone"):
        read_pickle(saved(tmp_path / "m.pt", {"weight": torch.zeros(2), "x": value}))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols(tmp_path, protocol, legacy):
    """torch reads tensors alone of those up to 3; of newer ones nothing is said of code, for there is none."""
    path = tmp_path / "m.pt"
    torch.save(dict(STATE), path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    try:
        assert torch.equal(read_pickle(path)["weight"], STATE["weight"])
    except UserError as error:
        assert protocol > 3 and f"a pickle of protocol {protocol}, of which tensors alone" in str(error)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_cut_off(tmp_path, legacy, share):
    data = saved(tmp_path / "whole.pt", dict(STATE, large=torch.zeros(1000)), legacy).read_bytes()
    (tmp_path / "m.pt").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=r"m.pt: damaged, or not a file of PyTorch; fetch it again$"):
        read_pickle(tmp_path / "m.pt")


def with_zip(path, *names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"x")


def with_tar(path):
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("storages"), io.BytesIO())


def with_program(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda at: at.write_bytes(b""), "is empty"),
        (lambda at: at.write_text("hello"), "damaged, or not a file of PyTorch"),
        (lambda at: at.write_text("\n <!DOCTYPE html><html>Not found</html>"), "a web page"),
        (lambda at: at.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"),
        (lambda at: with_zip(at, "a.txt"), "damaged, or not a file of PyTorch"),
        (with_tar, r"a \.tar as PyTorch wrote before"),
        (with_program, "a TorchScript program, which holds code"),
        (lambda at: saved(at, [1, 2]), "holds a list, not a state dict"),
        (lambda at: saved(at, torch.zeros(2)), "holds a Tensor, not a state dict"),
        (lambda at: at.write_bytes(bytes(range(256)) * 9), "damaged, or not a file of PyTorch"),
    ],
)
def test_what_is_no_state_dict(tmp_path, make, message):
    make(tmp_path / "m.pt")
    with pytest.raises(UserError, match=rf"^{tmp_path / 'm.pt'}: .*{message}") as error:
        read_pickle(tmp_path / "m.pt")
    assert "\n" not in str(error.value)


def test_what_is_taken_for_a_pickle(tmp_path):
    for name in ("a.pt", "a.PTH", "a.ckpt", "a.pkl", "a.bin"):
        (tmp_path / name).write_text("x")
        assert is_pickle(tmp_path / name)
    assert is_pickle(pickled(tmp_path / "plain", {}, 2))
    for make in (
        lambda at: np.savez(at, x=np.zeros(2)),
        lambda at: with_zip(at, "a.txt"),
        lambda at: at.write_text("x"),
    ):
        make(tmp_path / "other.npz")
        assert not is_pickle(tmp_path / "other.npz")
