"""Counting and measuring, against published figures, another way to count, and clocks set by hand."""

import mmap
import os
import platform
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import tiny
from ddpm.build import build_net
from ddpm.data.pictures import Cached
from ddpm.plan import machine
from ddpm.plan.machine import Load, count, free_disk, free_memory, measure, seconds_a_step
from ddpm.presets import preset
from ddpm.trainer import Trainer

linux = pytest.mark.skipif(platform.system() != "Linux", reason="read from Linux's own files")


def blank(number=12, size=8, channels=1):
    return Cached(np.zeros((number, channels, size, size), np.uint8), None, (), "blank", "f" * 64)


# -- counting --------------------------------------------------------------------------------------------------


def test_the_paper_s_net_has_the_published_counts():
    """35.7M parameters (Ho et al. 2020); 6.1 billion multiplications a picture (Fang et al. 2023, table 1)."""
    load = count(preset("cifar10"), 0)
    assert load.parameters == 35_746_307
    assert load.flops / 2 == pytest.approx(6.1e9, rel=0.04)


def kept_by_graph(net, x, t):
    """Bytes that autograd's nodes hold after a real forward pass, found by walking from node to node."""
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept, seen, nodes = {}, set(), [net(x, t).grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        for name in dir(node):
            if name.startswith("_saved_"):
                held = getattr(node, name)
                for tensor in held if isinstance(held, (list, tuple)) else [held]:
                    if isinstance(tensor, torch.Tensor):
                        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(size for place, size in kept.items() if place not in weights)


@pytest.mark.parametrize("changes", [{}, {"net__patch": 2, "net__multipliers": (1,)}, {"net__dropout": 0.5}])
def test_what_a_picture_leaves_in_memory_is_what_autograd_holds(changes):
    config = tiny.config(**changes)
    net = build_net(config, 0)
    one, three = (kept_by_graph(net, torch.randn(n, 1, 8, 8), torch.ones(n)) for n in (1, 3))
    assert count(config, 0).activations == pytest.approx((three - one) / 2, rel=0.1)


def test_counts_go_with_pictures_classes_and_checkpointing():
    small, large = (count(tiny.config(data__size=(side, side)), 0) for side in (8, 16))
    assert small.parameters == large.parameters
    # four times the places; attention in the middle goes with their square
    assert 3.5 < large.activations / small.activations < 4.5 and 3.5 < large.flops / small.flops < 4.5
    embedding = 4 * 8
    assert count(tiny.config(), 5).parameters == small.parameters + 5 * embedding
    sparing = count(tiny.config(data__size=(16, 16), train__checkpoint_activations=True), 0)
    assert sparing.activations < large.activations / 2


def test_the_peak_is_weights_and_pictures():
    load = Load(1_000_000, 500_000, 0)
    base = load.peak(tiny.config(), 0)
    # weight, gradient, average and two moments, of 4 bytes
    assert base - Load(0, 500_000, 0).peak(tiny.config(), 0) == 20_000_000
    assert load.peak(tiny.config(), 8) - base >= 8 * 500_000


# -- measuring -------------------------------------------------------------------------------------------------


def clocked(monkeypatch, costs, usual=0.5, kind="cpu", compiled=False):
    """A trainer whose step k takes costs[k] seconds of a clock of its own, and the numbers of its steps."""
    now, numbers = [0.0], []

    def step(k):
        numbers.append(k)
        now[0] += costs.get(k, usual)
        return SimpleNamespace(gradient=torch.zeros(()))

    monkeypatch.setattr(machine.time, "perf_counter", lambda: now[0])
    trainer = Trainer(tiny.config(), blank(), Accelerator(cpu=True))
    trainer.config = tiny.config(train__compile=compiled)
    trainer.accelerator = SimpleNamespace(device=torch.device(kind))
    monkeypatch.setattr(trainer, "step", step)
    return trainer, numbers


def test_a_step_is_the_median_without_the_first_two(monkeypatch):
    trainer, numbers = clocked(monkeypatch, {0: 3.0, 1: 3.0, 4: 2.0})
    assert seconds_a_step(trainer, longest=8.0) == 0.5 and numbers == list(range(5))
    trainer, numbers = clocked(monkeypatch, {}, 0.25)
    assert seconds_a_step(trainer, longest=6.0) == 0.25 and len(numbers) == 24


def test_a_short_training_is_measured_shortly(monkeypatch):
    """Two per cent of 1,000 steps of 0.25 s are 5 s; of 100 steps less than the five steps it takes at least."""
    assert [measured(monkeypatch, steps) for steps in (100, 1000, 100_000)] == [5, 20, 24]


def measured(monkeypatch, steps):
    trainer, numbers = clocked(monkeypatch, {}, 0.25)
    assert seconds_a_step(trainer, steps, 6.0) == 0.25
    return len(numbers)


@pytest.mark.parametrize("kind, compiled, steps", [("cpu", False, 1), ("cpu", True, 3), ("cuda", False, 3)])
def test_long_steps_are_measured_by_few(monkeypatch, kind, compiled, steps):
    """But a first step that is long for reasons of its own is not taken for all."""
    trainer, numbers = clocked(monkeypatch, {0: 90.0}, 20.0, kind, compiled)
    assert seconds_a_step(trainer, longest=6.0) == (90.0 if steps == 1 else 20.0)
    assert len(numbers) == steps


def test_what_is_large_is_measured_on_fewer_pictures_and_scaled_up(monkeypatch):
    config, seen = tiny.config(train__batch=12, train__accumulate=3), []
    load = count(config, 0)
    monkeypatch.setattr(machine, "_MEASURED_FLOPS", 3 * load.flops * 6.5)

    def one_second(trainer, steps):
        seen.append((trainer.config.train.batch, trainer.config.train.accumulate))
        return 1.0

    monkeypatch.setattr(machine, "seconds_a_step", one_second)
    result = measure(config, load, blank(), Accelerator(cpu=True), None)
    # 6 of 12 pictures, in parts of 4 as before: the peak is that of a whole step
    assert seen == [(6, 2)] and result.seconds == 2.0 and (result.memory or 1) > 0
    monkeypatch.setattr(machine, "_MEASURED_FLOPS", 1.0)
    result = measure(config, load, blank(), Accelerator(cpu=True), None)
    assert seen[1:] == [(1, 1)] and result.seconds == 12.0 and result.memory is None


@linux
def test_the_peak_of_this_process_is_seen():
    before = machine._reset_peak(torch.device("cpu"))
    # A map of its own: memory that the process has freed and kept would be used again and not be seen.
    pages = 50_000
    with mmap.mmap(-1, pages * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        block[::4096] = b"1" * pages
    assert machine._peak(torch.device("cpu")) - before == pytest.approx(pages * 4096, rel=0.1)
    assert machine._reset_peak(torch.device("cpu")) < before + 100e6
    assert machine._peak(torch.device("cpu")) < before + 100e6


@linux
def test_a_real_training_stays_below_the_estimate():
    config = tiny.config(net__channels=32, data__size=(16, 16), train__batch=24)
    load, device = count(config, 0), torch.device("cpu")
    before = machine._reset_peak(device)
    result = measure(config, load, blank(24, 16), Accelerator(cpu=True), 50)
    assert 0 < result.seconds < 30 and 0 < result.memory <= before + load.peak(config, 24)


# -- memory and disk -------------------------------------------------------------------------------------------


@linux
def test_free_memory_is_no_more_than_there_is():
    assert 1e6 < free_memory(torch.device("cpu")) <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    "files, free",
    [
        # of 1 MB 600 kB are used, 100 kB of that for files that need not stay
        (
            {"memory.max": "1000000", "memory.current": "600000", "memory.stat": "anon 5\ninactive_file 100000"},
            5e5,
        ),
        ({"memory.max": "1000000", "memory.current": "600000"}, None),
        (
            {
                "memory/memory.limit_in_bytes": "1000000",
                "memory/memory.usage_in_bytes": "600000",
                "memory/memory.stat": "inactive_file 7\ntotal_inactive_file 8",
            },
            400_007,
        ),
        ({"memory.max": "1000", "memory.current": "6000", "memory.stat": "anon 5"}, 0),
        ({"memory.max": "max", "memory.current": "600000", "memory.stat": "inactive_file 0"}, None),
        ({}, None),
    ],
)
def test_a_container_s_limit_counts(tmp_path, monkeypatch, files, free):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(machine, "_GROUPS", tmp_path)
    monkeypatch.setattr(machine, "_field", lambda path, name: 5_000_000_000)
    assert free_memory(torch.device("cpu")) == (5_000_000_000 if free is None else free)
    monkeypatch.setattr(machine, "_field", lambda path, name: None)
    assert free_memory(torch.device("cpu")) == free


def test_free_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    assert free_disk(tmp_path / "a" / "b") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    if platform.system() == "Linux":
        assert free_disk(machine.Path("/proc/nothing/here")) is None
