"""The benchmarks' own parts: rounds, ratios, the page, and what a net costs."""

import runpy
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

BENCH = Path(__file__).parents[1] / "benchmarks" / "bench"


@pytest.fixture(autouse=True)
def bench(monkeypatch):
    """Its modules, which stand beside its program, and no longer than a test."""
    monkeypatch.syspath_prepend(str(BENCH))
    yield
    for path in BENCH.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_cases_take_turns():
    from rounds import in_turn

    asked = []
    times = in_turn({"a": lambda: asked.append("a"), "b": lambda: asked.append("b")}, rounds=3, warm=2)
    assert asked == ["a", "b"] * 5
    assert {name: len(of) for name, of in times.taken.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_of_the_same_round():
    """A machine that slows down for a round slows both."""
    from rounds import Times

    times = Times({"fast": [1.0, 10.0, 2.0], "slow": [3.0, 30.0, 4.0]})
    assert tuple(times.faster("fast", "slow")) == (3.0, 2.5, 3.0)
    assert str(times.faster("slow", "fast")) == "0.33 (0.33 to 0.42)"
    assert times.median("fast") == 2.0


def test_seconds_are_seconds():
    from rounds import in_turn

    times = in_turn({"long": lambda: time.sleep(0.05), "short": lambda: time.sleep(0.01)}, rounds=2)
    assert 0.05 <= times.median("long") < 1.0 and 1.5 < times.faster("short", "long").median < 10.0


def test_sections_are_kept_and_stand_in_order(tmp_path):
    from page import Page, Section

    page = Page(tmp_path / "page.md", ("first", "second"))
    for name, figure in (("second", 2), ("first", 1), ("second", 3)):
        section = Section(name.title())
        section.table(("what", "how much"), [("it", figure)])
        section.target("≤ 2", str(figure), figure <= 2)
        page.write(name, section)
    text = page.path.read_text(encoding="utf-8")
    assert text.startswith("# Performance\n") and text.count("## ") == 2
    assert text.index("## First") < text.index("## Second")
    assert "| it | 1 |" in text and "| it | 2 |" not in text and "| it | 3 |" in text
    assert "- reached: ≤ 2: 1" in text and "- **not reached**: ≤ 2: 3" in text
    assert "torch 2." in text and "commit " in text


def test_a_subject_that_there_is_none_of_is_refused_before_anything_is_measured(monkeypatch, capsys, tmp_path):
    program = runpy.run_path(str(BENCH / "__main__.py"))
    monkeypatch.setattr(sys, "argv", ["bench", "--only", "startup,speed", "--out", str(tmp_path / "page.md")])
    with pytest.raises(SystemExit, match="2"):
        program["main"]()
    said = capsys.readouterr()
    assert "--only speed: there are training, sampling, " in said.err and not said.out
    assert not (tmp_path / "page.md").exists()


def test_a_net_costs_what_its_layers_do():
    """The paper's net against a count by hand: convolutions, attention and linear layers, forward."""
    import nets

    def conv(inputs, outputs, size, kernel=3):
        return 2 * inputs * outputs * kernel**2 * size**2

    def block(inputs, outputs, size):
        shortcut = conv(inputs, outputs, size, 1) if inputs != outputs else 0
        return conv(inputs, outputs, size) + conv(outputs, outputs, size) + shortcut + 2 * 512 * outputs

    def attention(channels, size):
        return 4 * conv(channels, channels, size, 1) + 2 * 2 * channels * size**4

    size, total, widths, x = 32, conv(3, 128, 32), [128], 128
    for level, width in enumerate((128, 256, 256, 256)):
        for _ in range(2):
            total += block(x, width, size) + (attention(width, size) if level == 1 else 0)
            x = width
            widths.append(x)
        if level < 3:
            size //= 2
            total += conv(x, x, size)
            widths.append(x)
    total += 2 * block(256, 256, 4) + attention(256, 4)
    for level, width in reversed(list(enumerate((128, 256, 256, 256)))):
        for _ in range(3):
            total += block(x + widths.pop(), width, size) + (attention(width, size) if level == 1 else 0)
            x = width
        if level:
            size *= 2
            total += conv(x, x, size)
    total += conv(128, 3, 32) + 2 * 128 * 512 + 2 * 512 * 512
    assert nets.flops(nets.PAPER, backward=False) == total
    assert 2.9 < nets.flops(nets.PAPER, backward=True) / total < 3.0


def test_both_nets_are_the_same_size():
    import nets

    for name, millions in ((nets.PAPER, 35.7), (nets.SMALL, 1.0)):
        ours, theirs = nets.parameters(nets.ours(name)), nets.parameters(nets.theirs(name))
        assert ours == theirs and np.isclose(ours / 1e6, millions, atol=0.05)


def test_start_up_is_measured():
    import beside

    section = beside.startup(1, quick=True)
    assert "`import ddpm`" in section.text and len(section.targets) == 2


def test_steps_of_sampling_are_measured_outside_the_net():
    import overhead

    section = overhead.overhead(1, quick=True)
    assert "| ancestral, ours, noise given |" in section.text and len(section.targets) == 2


def test_the_share_of_the_update_leaves_the_trainer_as_it_was():
    import nets
    import training

    own = training.Ours(nets.SMALL, 2)
    own()
    assert 0.0 < own.share_of_update() < 0.5
    assert own.trainer._clip.__self__ is own.trainer and own.trainer._update.__self__ is own.trainer


def test_the_peer_goes_back_to_what_it_saved(tmp_path):
    """What is timed as loading loads: net, averages and moments."""
    import nets
    import training

    def state():
        moments = peer.optimizer.state_dict()["state"]
        parts = [peer.net.state_dict().values(), peer.ema.shadow_params, (m["exp_avg"] for m in moments.values())]
        return [value.clone() for part in parts for value in part]

    peer = training.Diffusers(nets.SMALL, 2)
    peer()
    peer.save(tmp_path)
    saved = state()
    peer()
    assert not all(map(torch.equal, saved, state()))
    peer.load(tmp_path)
    assert all(map(torch.equal, saved, state()))


@pytest.mark.parametrize(("attention", "least", "most"), [((), 0.99, 1.01), ((1,), 1.0, 1.2)])
def test_memory_of_a_batch_is_counted_as_a_real_step_takes_it(attention, least, most):
    """Counted without computing, beside the same count of a real step, whose attention keeps no matrices."""
    import batches

    from ddpm.build import build_net
    from ddpm.footprint import footprint
    from ddpm.plan.machine import inputs
    from ddpm.presets import preset

    config = preset("cifar10").with_(net__channels=32, net__attention=attention)
    net, (x, t, _) = build_net(config, 0), inputs(config, 0, 4)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    x, t = torch.zeros(x.shape), torch.zeros(t.shape)
    real = footprint(lambda: net(x, t).square().mean().backward())
    nothing, finest, everything = (batches.counted(config, 0, 4, fields) for fields in batches.AGAIN.values())
    assert least * real < nothing < most * real
    assert everything < 0.8 * finest < 0.8 * nothing


@pytest.mark.soak
def test_peak_memory_is_the_process_s_own():
    """Not this one's, however much it once held; and what was freed again counts."""
    import peaks

    held = bytearray(b"1") * (1 << 30)
    del held
    nothing, much = (peaks.peak(made)[0] for made in ("int", "lambda: bytearray(b'1') * (400 << 20)"))
    assert 0.38 < much - nothing < 0.45
