"""Engines: the same numbers as torch, programs kept and found again, and what is said of them."""

import builtins
import os
import re
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import tiny
from ddpm import engines
from ddpm.engines import Programmed, check_engine
from ddpm.errors import UserError
from ddpm.nets import UNet
from ddpm.store import Facts

SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4, "attention": (1,)}


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def net(**options):
    torch.manual_seed(0)
    made = UNet(**{**SMALL, **options}).eval().requires_grad_(False)
    for value in made.parameters():  # zeros would hide everything behind them
        nn.init.normal_(value, 1.0 if value.ndim == 1 else 0.0, 0.1)
    return made


NETS = {
    "plain": (net(), {}),
    "classes": (net(classes=3), {"label": torch.tensor([0, -1, 2])}),
    "upsampler": (net(low_channels=3), {"low": torch.linspace(-1.0, 1.0, 3 * 3 * 4 * 4).view(3, 3, 4, 4)}),
    "learned variance": (net(out_channels=6), {}),
}


def given(count=3, size=8):
    torch.manual_seed(1)
    return torch.randn(count, 3, size, size), torch.tensor([0.0, 400.0, 999.0])[:count]


@pytest.mark.parametrize("kind", NETS)
def test_onnx_gives_what_torch_gives(kind):
    plain, cond = NETS[kind]
    said = []
    made, (x, t) = Programmed(plain, "onnx", said.append), given()
    with torch.no_grad():
        torch.testing.assert_close(made(x, t, **cond), plain(x, t, **cond), rtol=1e-4, atol=1e-4)
        # Fewer pictures are filled up, and need no other program.
        few = {name: value[:2] for name, value in cond.items()}
        torch.testing.assert_close(made(x[:2], t[:2], **few), plain(x[:2], t[:2], **few), rtol=1e-4, atol=1e-4)
    assert len(said) == 1
    assert re.fullmatch(
        r"--engine onnx: made in \d+\.\d s; \S+ ms instead of \S+ ms an evaluation of 3: "
        r"(pays off after [\d,]+ evaluations|it does not pay off here, take --engine torch)",
        said[0],
    )


@pytest.mark.slow
def test_compiled_it_gives_what_torch_gives(workplace, monkeypatch):
    """Wide enough for Winograd's algorithm, two pictures at once and the third by itself."""
    plain, cond = net(channels=96, multipliers=(1,), attention=(), classes=3), NETS["classes"][1]
    monkeypatch.setattr(engines, "_NUMBERS_AT_ONCE", 2 * 96 * 16 * 16)
    for came in ("made", "taken from the cache"):
        said = []
        made, (x, t) = Programmed(plain, "compile", said.append), given(size=16)
        with torch.no_grad():
            torch.testing.assert_close(made(x, t, **cond), plain(x, t, **cond), rtol=1e-4, atol=1e-4)
            few = {name: value[1:] for name, value in cond.items()}
            torch.testing.assert_close(made(x[1:], t[1:], **few), plain(x[1:], t[1:], **few), rtol=1e-4, atol=1e-4)
        assert len(said) == 1 and f"--engine compile: {came} in " in said[0]
    (kept,) = (workplace / "cache" / "programs").iterdir()
    assert kept.suffix == ".pt2"


def test_a_program_is_found_again_by_what_it_is_of(workplace):
    x, t = given()

    def came(of, x=x, t=t):
        said = []
        with torch.no_grad():
            Programmed(of, "onnx", said.append)(x, t)
        return "taken from the cache" in said[0]

    assert not came(net()) and came(net())
    assert not came(net(dropout=0.5))  # the same numbers by other layers may be another net
    with torch.no_grad():
        other = net()
        next(other.parameters()).add_(1e-3)
    assert not came(other)
    assert not came(net(), *given(size=16)) and came(net())
    assert len(list((workplace / "cache" / "programs").iterdir())) == 4


def test_gradients_of_the_net_are_torchs(workplace):
    plain = net().requires_grad_(True)
    made, (x, t) = Programmed(plain, "onnx", lambda text: None), given()
    made(x, t).square().sum().backward()
    assert all(p.grad is not None for p in plain.parameters()) and not (workplace / "cache").exists()


def test_a_program_that_is_off_is_not_taken(monkeypatch):
    monkeypatch.setitem(engines._MAKERS, "onnx", lambda of, given: (lambda *given: of(*given) * 1.01, False))
    made, (x, t) = Programmed(net(), "onnx", lambda text: None), given()
    with (
        torch.no_grad(),
        pytest.raises(UserError, match=r"--engine onnx: its program is off by .* take --engine torch"),
    ):
        made(x, t)


def test_nothing_half_made_is_kept(workplace, monkeypatch):
    def dies(*given, **options):
        Path(given[2]).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.onnx, "export", dies)
    made, (x, t) = Programmed(net(), "onnx", lambda text: None), given()
    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        made(x, t)
    assert list((workplace / "cache" / "programs").iterdir()) == []


def test_what_was_not_used_for_longest_goes_first(workplace, monkeypatch):
    """Of 100 bytes each: the oldest goes, and what was used within the hour stays whatever it takes."""
    monkeypatch.setattr(engines, "_MOST_KEPT", 250)
    folder = workplace / "cache" / "programs"
    folder.mkdir(parents=True)
    of, some = engines._Positional(net(), ()), [torch.zeros(1, 3, 8, 8), torch.zeros(1)]

    def kept(engine, age):
        path, _ = engines._kept(engine, ".pt2", of, some, lambda path: path.write_bytes(bytes(100)))
        os.utime(path, (time.time() - age,) * 2)
        return path

    first, second = kept("a", 9000), kept("b", 8000)
    assert kept("a", 7000) == first  # used again
    third = kept("c", 10)
    assert sorted(folder.iterdir()) == sorted([first, third]) and not second.exists()
    fourth = kept("d", 5)
    assert sorted(folder.iterdir()) == sorted([third, fourth])
    fifth = kept("e", 0)
    assert sorted(folder.iterdir()) == sorted([third, fourth, fifth])


def test_times_are_readable():
    assert [engines._ms(s) for s in (0.00123, 0.0928, 1.09, 12.0)] == [
        "1.23 ms",
        "92.8 ms",
        "1,090 ms",
        "12,000 ms",
    ]


def test_what_is_missing_is_one_line(monkeypatch):
    with pytest.raises(UserError, match="--engine tpu: takes torch, compile or onnx"):
        check_engine("tpu")
    true_import = builtins.__import__

    def without(name, *rest, **named):
        if name == "onnxruntime":
            raise ModuleNotFoundError(name=name)
        return true_import(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"--engine onnx: needs onnxruntime, .* pip install 'ddpm\[onnx\]'"):
        check_engine("onnx")


@pytest.mark.parametrize(
    ("engine", "size", "counts", "programs", "runs"),
    [
        ("compile", 8, [5, 3, 1], [3], 2 + 1 + 1),  # five are three and two, filled up
        ("compile", 8, [2, 8], [2, 4], 1 + 2),
        ("compile", 32, [2], [1], 2),  # larger than what is computed at once
        ("onnx", 8, [5, 3], [5], 1 + 1),
    ],
)
def test_many_pictures_are_computed_a_few_at_a_time(monkeypatch, engine, size, counts, programs, runs):
    made, ran = [], []

    def maker(of, given):
        made.append(len(given[0]))

        def program(*given):
            assert len(given[0]) == made[-1]
            ran.append(len(given[0]))
            return of(*given)

        return program, False

    monkeypatch.setitem(engines._MAKERS, engine, maker)
    monkeypatch.setattr(engines, "_seconds", lambda do, x: 1.0)
    monkeypatch.setattr(engines, "_NUMBERS_AT_ONCE", 4 * 8 * 8 * 8)
    plain, runs_to_check = net(), 0
    programmed = Programmed(plain, engine, lambda text: None)
    for count in counts:
        before = len(made)
        x, t = torch.randn(count, 3, size, size), torch.linspace(0.0, 999.0, count)
        with torch.no_grad():
            torch.testing.assert_close(programmed(x, t), plain(x, t), rtol=1e-4, atol=1e-5)
        if len(made) > before:  # run once more, to be compared
            runs_to_check += -(-count // made[-1])
    assert made == programs and len(ran) == runs + runs_to_check


@pytest.mark.slow
def test_no_compiler_is_one_line(monkeypatch):
    def fails(*given, **options):
        raise RuntimeError("No working C++ compiler found in cxx: (None, 'g++')\nmore")

    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", fails)
    made, (x, t) = Programmed(net(), "compile", lambda text: None), given()
    with torch.no_grad(), pytest.raises(UserError, match=r"No working C.. compiler .*take --engine torch"):
        made(x, t)


def test_sampling_with_onnx(call, workplace):
    """The same pictures within a grey level, the last batch smaller; what it cost is said."""
    tiny.run(workplace / "zoo", Facts("zoo", 10, ("ant", "bee"), (0.5, 0.5)))
    options = ["zoo", "-n", 5, "--batch", 3, "--steps", 3, "--sampler", "ddim", "--device", "cpu", "--no-film"]
    for engine in ("torch", "onnx"):
        status, out, err = call("sample", *options, "--engine", engine, "--out", engine)
        assert status == 0, err
        assert ("--engine onnx: made in" in out) == (engine == "onnx")
    from test_commands_sample import pictures

    for a, b in zip(pictures("torch"), pictures("onnx"), strict=True):
        assert abs(a.astype(int) - b.astype(int)).max() <= 1


def test_engines_are_named_by_the_command(call):
    status, _, err = call("sample", "zoo", "--engine", "tpu")
    assert status == 2 and "tpu" in err and "torch" in err and err.count("\n") == 1
