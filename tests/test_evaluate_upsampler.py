"""The bound of an upsampler: of a picture that is known in small."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import ddpm
import tiny
from ddpm.chain import make_chain
from ddpm.data.pictures import Cached
from ddpm.denoiser import Denoiser
from ddpm.evaluate import open_reference
from ddpm.evaluate.measuring import choose, measure, on_device
from ddpm.evaluate.records import Records
from ddpm.evaluate.reference import Reference
from ddpm.store import Facts


class Enlarges(torch.nn.Module):
    """A net that takes each small pixel for a square of large ones, and so knows pictures that are made so."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, timestep, low):
        return F.interpolate(low, x.shape[2:], mode="nearest")


def reference(count=6, small=(2, 4)):
    """Pictures of 8 x 8 made of rectangles of one grey each."""
    coarse = np.random.default_rng(1).integers(0, 256, (count, 1, *small), dtype=np.uint8)
    whole = coarse.repeat(8 // small[0], axis=2).repeat(8 // small[1], axis=3)
    return coarse, Reference(Cached(whole, None, (), "squares", "f" * 64), None, small=small)


def test_the_net_is_told_each_picture_made_small():
    coarse, squares = reference()
    x0, _, cond = on_device(squares, np.array([4, 1]), torch.device("cpu"))
    assert x0.dtype == torch.float64 and set(cond) == {"low"} and cond["low"].dtype == torch.float32
    assert torch.equal(cond["low"], torch.from_numpy(coarse[[4, 1]]).float() / 127.5 - 1)
    labelled = Reference(squares.pictures, np.array([1, 0, 1, 0, 1, 0]), small=(2, 4))
    assert on_device(labelled, np.array([4, 1]), torch.device("cpu"))[2]["label"].tolist() == [1, 0]


def test_what_is_told_costs_nothing(tmp_path):
    """With the exact picture in view every step is the posterior itself: but for the ends nothing is paid."""
    model = Denoiser(Enlarges(), make_chain("cosine", 20), "x0", "small")
    _, squares = reference()
    what = choose(model, steps="all")
    bits = measure(what, squares, np.arange(6), Records(tmp_path, "squares", {}))
    assert bits.error.abs().max() < 1e-12 and bits.terms[:, 1:].abs().max() < 1e-9
    # the decoder's term: a Gaussian of the next step's small deviation at the pixel's own value
    assert 0 < bits.terms[:, 0].mean() < 8 and torch.allclose(bits.total, bits.prior + bits.terms[:, 0])


@pytest.mark.parametrize("task, small", [("upsampler", (4, 4)), ("image", None)])
def test_data_as_an_upsampler_takes_it(tmp_path, monkeypatch, task, small):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    photos = tiny.photos(tmp_path / "photos", 4, grey=True)
    low = {"data__low_size": small} if small else {}
    run = tiny.run(tmp_path / "up", Facts("zoo", 10), train__task=task, **low)
    opened = open_reference(str(photos), ddpm.load(run.folder, "cpu"))
    assert opened.small == small and len(opened) == 4
