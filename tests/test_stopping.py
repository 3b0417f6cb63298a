"""Signals that ask to leave: what they raise, where, and that nothing of it stays behind."""

import _thread
import gc
import os
import signal
import sys
import threading
import time

import pytest

from ddpm.cli import COMMANDS, main
from ddpm.stopping import Stoppable, Stopped

ASKING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def as_they_are():
    """Handlers as a process begins with; and at the end as they were."""
    before = {number: signal.getsignal(number) for number in ASKING}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in ASKING[1:]:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers():
    return [signal.getsignal(number) for number in ASKING], sys.unraisablehook


def wait():
    """Long enough for a signal to arrive; it ends it."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        time.sleep(0.01)
    raise AssertionError("no signal came")


@pytest.mark.parametrize("number", ASKING)
def test_each_raises_and_leaves_no_handler_behind(number):
    before = handlers()
    with Stoppable() as signals, pytest.raises(Stopped):
        os.kill(os.getpid(), number)
        wait()
    assert signals.number == number and handlers() == before


def test_the_first_counts():
    with Stoppable() as signals:
        for number in (signal.SIGTERM, signal.SIGINT):
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
                wait()
    assert signals.number == signal.SIGTERM


def test_enough_is_enough():
    with Stoppable() as signals:
        signals.enough()
        for number in ASKING:
            os.kill(os.getpid(), number)
        time.sleep(0.05)
    assert signals.number == 0


def test_handlers_of_others_stay():
    """As those of a training, of nohup, and of whoever has `ddpm.cli.main` in a program of his own."""
    heard = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    before = handlers()[0]
    with Stoppable() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.05)
        assert signals.number == 0 and heard == [signal.SIGTERM]
    assert handlers()[0] == before


def test_what_is_lost_in_a_destructor_is_raised_after_all(capsys):
    class Slow:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            wait()

    with Stoppable() as signals, pytest.raises(Stopped):
        slow = Slow()
        del slow
        gc.collect()
        wait()
    assert signals.number == signal.SIGTERM and capsys.readouterr().err == ""


def test_other_exceptions_of_destructors_are_told_as_ever():
    class Bad:
        def __del__(self):
            raise ValueError("in a destructor")

    told = []
    before, sys.unraisablehook = sys.unraisablehook, told.append
    try:
        with Stoppable():
            bad = Bad()
            del bad
            gc.collect()
    finally:
        sys.unraisablehook = before
    assert [str(one.exc_value) for one in told] == ["in a destructor"]


def test_in_another_thread_nothing_is_touched():
    before, seen = handlers(), []

    def inside():
        with Stoppable():
            seen.append(handlers())

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before]


# -- the command line --------------------------------------------------------------------------------------------


@pytest.fixture
def stopped_in(monkeypatch):
    """`ddpm info` that gets a signal in the middle of something."""

    def stopped_in(number, then=wait):
        def main(arguments):
            os.kill(os.getpid(), number)
            return then()

        monkeypatch.setattr("ddpm.commands.info.main", main)

    return stopped_in


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_exit_status_says_which(call, stopped_in, number, status):
    before = handlers()
    stopped_in(number)
    assert call("info") == (status, "", "ddpm: stopped\n")
    status_, _, err = call("info", "--debug")
    assert status_ == status and "Traceback" in err and err.endswith("ddpm: stopped\n")
    assert handlers() == before


def swallowed():
    """As a library that hides what is raised in it, and says that it has finished."""
    try:
        wait()
    except BaseException:
        return 0


def disguised():
    """As an import that was cut off."""
    try:
        wait()
    except BaseException:
        raise ImportError("numpy is broken") from None


def left():
    try:
        wait()
    except BaseException:
        raise SystemExit(0) from None


@pytest.mark.parametrize("then", [swallowed, disguised, left])
def test_whatever_becomes_of_it_on_the_way_it_is_a_stop(call, stopped_in, then):
    stopped_in(signal.SIGTERM, then)
    assert call("info") == (143, "", "ddpm: stopped\n")


def test_cleaning_up_is_not_skipped(call, monkeypatch, tmp_path):
    from ddpm.atomic import new_folder

    def main(arguments):
        with new_folder(tmp_path / "made") as beside:
            (beside / "half").write_text("of it")
            os.kill(os.getpid(), signal.SIGTERM)
            wait()

    monkeypatch.setattr("ddpm.commands.info.main", main)
    assert call("info")[0] == 143
    assert list(tmp_path.iterdir()) == []


def test_from_another_thread_it_runs_as_well():
    found = []
    thread = threading.Thread(target=lambda: found.append(main(["--version"])))
    thread.start()
    thread.join()
    assert found == [0] and "info" in COMMANDS


def test_ctrl_c_of_a_handler_that_is_not_ours(call, monkeypatch):
    """As the second one in a training, whose own handler raises it."""

    def main(arguments):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _thread.interrupt_main()
        wait()

    monkeypatch.setattr("ddpm.commands.info.main", main)
    assert call("info") == (130, "", "ddpm: stopped\n")
