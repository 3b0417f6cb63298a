"""Who of several processes does what, and how it shows that one is gone."""

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddpm import processes
from ddpm.errors import UserError
from ddpm.processes import ALONE, Processes, left_alone


@given(st.integers(0, 300), st.integers(1, 40))
def test_rows_are_dealt_in_order_and_evenly(n, count):
    shares = [Processes(index, count).rows(n) for index in range(count)]
    assert [i for one in shares for i in range(n)[one]] == list(range(n))
    sizes = [one.stop - one.start for one in shares]
    assert max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)


def test_one_alone_talks_to_nobody():
    part = torch.arange(3.0)
    assert ALONE.main and ALONE.rows(5) == slice(0, 5) and ALONE.any(True) and not ALONE.any(False)
    assert ALONE.joined(part, 3) is part and torch.equal(ALONE.added(part), torch.arange(3.0))
    assert ALONE.told(lambda: 7) == 7 and ALONE.tensors({"a": part}, "cpu") == {"a": part}
    with pytest.raises(UserError, match="wrong"):
        ALONE.told(lambda: _raise(UserError("wrong")))


def _raise(error):
    raise error


def test_how_torch_says_that_another_one_left():
    assert left_alone(RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:4711"))
    assert left_alone(torch.distributed.DistBackendError("NCCL communicator was aborted"))
    assert not left_alone(RuntimeError("shape mismatch")) and not left_alone(ValueError("gloo"))


class Store:
    """Counters that several processes share; `alive` of the others go up at every look."""

    def __init__(self, alive):
        self.alive, self.counts = alive, {}

    def add(self, key, more):
        index = int(key.rpartition("/")[2])
        if more == 0 and index in self.alive:
            more = 1
        self.counts[index] = self.counts.get(index, 0) + more
        return self.counts[index]


@pytest.mark.parametrize(
    ("alive", "said"), [({0, 2}, "process 1 has not been heard of for"), (None, "meeting place")]
)
def test_one_that_gives_no_sign_ends_the_others(monkeypatch, capsys, alive, said):
    class Left(Exception):
        pass

    def leave(status):
        raise Left(status)

    store = Store(alive)
    if alive is None:
        store.add = lambda key, more: _raise(RuntimeError("Connection reset"))
    monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(processes, "_BEAT", 0.001)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(Left):
        processes._watch(Processes(0, 3))
    error = capsys.readouterr().err
    assert error.startswith("ddpm: process 0 of 3 stops: ") and said in error and "--resume" in error


def test_who_leaves_is_not_missed(monkeypatch):
    crew = Processes(0, 2)
    monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", lambda: Store({1}))
    monkeypatch.setattr(processes, "_BEAT", 0.001)
    crew.leave()
    processes._watch(crew)
