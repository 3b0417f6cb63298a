"""benchmarks/gradient_noise.py against gradients of known mean and variance: a_t, a vector for each level."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import tiny
from ddpm.timesteps import LossSecondMoment, Uniform

PATH = Path(__file__).parent.parent / "benchmarks" / "gradient_noise.py"
T, BATCH, BATCHES = 8, 4, 400


@pytest.fixture(scope="module")
def noise():
    spec = importlib.util.spec_from_file_location("gradient_noise", PATH)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "gradient_noise", module)
        spec.loader.exec_module(module)
        yield module


class Known:
    """A picture's loss at level t is θ · a_t, so its gradient is a_t: long at few levels, as the bound's are."""

    device = torch.device("cpu")
    pictures = range(50)
    a = torch.randn(T, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    a *= torch.linspace(0.1, 1.0, T, dtype=torch.float64)[:, None] ** 3

    def __init__(self):
        self.theta = torch.zeros(30, dtype=torch.float64, requires_grad=True)
        self.parameters = [self.theta]

    def losses(self, order, k, t):
        return self.a[t - 1] @ self.theta

    def gradient(self, loss):
        return torch.autograd.grad(loss, self.theta)[0]


def moments(p):
    """|G|² and tr Cov of a batch's gradient when t has probabilities p and each counts 1/(T p): by hand."""
    mean = Known.a.mean(0)
    second = (p * (1 / (T * p)) ** 2 * Known.a.square().sum(1)).sum()
    return mean.square().sum().item(), (second - mean.square().sum()).item() / BATCH


def drawn(noise, times, seed=3):
    return noise.measure(Known(), times, BATCHES, BATCH, seed)


def importance(weighted=True):
    """As the losses' lengths ask for; its draws may be left without their weights."""
    times = LossSecondMoment(T, 7)
    for _ in range(10):
        times.update(torch.arange(1, T + 1), Known.a.norm(dim=1))
    if not weighted:
        draw = times.draw
        times.draw = lambda step, batch: (draw(step, batch)[0], torch.ones(batch))
    return times


def test_variance_and_signal_are_those_of_the_closed_form(noise):
    times = importance()
    uniform, important = drawn(noise, Uniform(T, 5)), drawn(noise, times)
    square, variance = moments(torch.full((T,), 1 / T, dtype=torch.float64))
    _, least = moments(times.probabilities())
    for one, expected in ((uniform, variance), (important, least)):
        assert abs(one.variance - expected) < 4 * one.error and one.error < 0.1 * expected
    found, doubt = noise.signal([uniform, important])
    assert abs(found - square) < 4 * doubt and doubt < 0.5 * square
    assert important.variance < 0.7 * uniform.variance and least < 0.7 * variance


def test_agreeing_means_pass_and_a_biased_sampler_is_found(noise, capsys):
    uniform, important = drawn(noise, Uniform(T, 5)), drawn(noise, importance())
    times, p = noise.disagreement(uniform, important)
    assert 0.3 < times < 3 and p > 0.01
    biased = drawn(noise, importance(weighted=False))
    assert noise.disagreement(uniform, biased)[1] <= noise.DIFFERENT
    assert noise.report({"uniform": uniform, "loss-second-moment": important}, BATCH)
    assert not noise.report({"uniform": uniform, "loss-second-moment": biased}, BATCH)
    assert "times the variance" in capsys.readouterr().out


def test_sketches_keep_lengths(noise):
    """Inner products of sketches are those of the gradients within 1/√SKETCH or so."""
    one = drawn(noise, Uniform(T, 5))
    assert one.sketches.mean(0).square().sum().item() == pytest.approx(one.mean.square().sum().item(), rel=0.1)


def test_it_runs_on_a_run(noise, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    photos = tiny.photos(tmp_path / "photos", grey=True)
    from ddpm.data import load, open_source
    from ddpm.train import facts

    known = facts(load(open_source(photos), (8, 8), 1))
    learned = {"loss__kind": "vlb", "denoiser__variance": "learned_range", "loss__times": "loss-second-moment"}
    run = tiny.run(tmp_path / "run", known, chain__steps=5, **learned)
    options = ["--reference", str(photos), "--batches", "10", "--loss", "simple", "vlb"]
    monkeypatch.setattr(sys, "argv", ["gradient_noise.py", str(run.folder), *options])
    assert noise.main() == 0
    out = capsys.readouterr().out
    assert out.count("loss-second-moment by losses drawn with these weights") == 2
    assert out.count("low-discrepancy against loss-second-moment") == 2
