"""`ddpm report`: what is written, what is said, and a run followed to its end."""

import threading
import time

import pytest

import ddpm.commands.report as command
from ddpm.cli import main
from ddpm.commands.report import _outdated
from ddpm.data import load, open_source
from ddpm.report import NAME
from ddpm.train import facts
from test_report import log, preview
from tiny import photos, run

QUICK = ["--device", "cpu", "--samples", "2", "--steps", "2"]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A run of 12 steps on pictures that are there, a preview every 6."""
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(command, "_POLL_SECONDS", 0.02)
    data = photos(tmp_path / "pets", grey=True)
    pictures = load(open_source(data), (8, 8), 1)
    return run(
        tmp_path / "run", facts(pictures), data__path=(str(data),), train__preview_every=6, data__flip=False
    )


def say(capsys, *arguments):
    status = main(["report", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_it_writes_and_says_where(made, capsys):
    status, out, _ = say(capsys, made.folder, *QUICK)
    assert status == 0 and out == f"open {made.folder / NAME}\n"
    assert "among all 30 training" in (made.folder / NAME).read_text()


def test_pictures_that_are_gone_or_others_are_said(made, tmp_path, capsys):
    next((tmp_path / "pets" / "cats").iterdir()).unlink()
    status, out, _ = say(capsys, made.folder, *QUICK)
    assert status == 0 and "no longer holds the pictures it was trained on" in out.splitlines()[0]
    (tmp_path / "pets").rename(tmp_path / "moved")
    status, out, _ = say(capsys, made.folder, *QUICK)
    assert status == 0 and "cannot be opened" in out.splitlines()[0] and "pets: no such file" in out
    assert "cannot be opened" in (made.folder / NAME).read_text()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--samples", "0"], "--samples 0: is at least 1"),
        (["--steps", "0"], "--steps 0: is at least 1"),
        (["--device", "nonsense"], "--device nonsense: there is no such device here"),
    ],
)
def test_mistakes_are_one_line(made, capsys, arguments, message):
    status, _, err = say(capsys, made.folder, *QUICK, *arguments)
    assert status == 2 and message in err and len(err.splitlines()) == 1


def test_a_folder_without_a_run_is_an_error(tmp_path, capsys):
    status, _, err = say(capsys, tmp_path)
    assert status == 2 and "holds no run" in err


def test_a_run_is_followed_to_its_end(made, capsys):
    """Another thread stands for the training: it logs, previews and saves while the command looks on."""
    log(made, (2, 4, 6))
    preview(made, 6)

    def train():
        while not (made.folder / NAME).exists():
            time.sleep(0.01)
        log(made, (8, 10, 12))
        checkpoint = made.folder / "checkpoints" / "000000007"
        time.sleep(0.2)
        preview(made, 12)
        checkpoint.rename(made.folder / "checkpoints" / "000000012")

    thread = threading.Thread(target=train)
    thread.start()
    status, out, _ = say(capsys, made.folder, "--follow", *QUICK)
    thread.join()
    lines = out.splitlines()
    assert status == 0 and lines[0] == "following: 12 steps, now after step 6"
    assert f"open {made.folder / NAME}; it is written anew at each preview" in lines
    assert [line.split()[1] for line in lines if line.startswith("step ")] == [
        f"{k}/12" for k in (2, 4, 6, 8, 10, 12)
    ]
    assert any(line.startswith("preview") and "000000012.png" in line for line in lines)
    assert lines[-1] == f"complete; open {made.folder / NAME}"
    assert "step 12" in (made.folder / NAME).read_text()  # written anew for the last preview


def test_leaving_it_leaves_the_training_alone(made, capsys, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", interrupt)
    before = set(made.folder.rglob("*"))
    status, out, _ = say(capsys, made.folder, "--follow", *QUICK)
    assert status == 130 and "the training is left as it is" in out
    assert set(made.folder.rglob("*")) - before == {made.folder / NAME}


def test_a_training_that_has_gone_quiet_is_said_once(made, capsys, monkeypatch):
    monkeypatch.setattr(command, "_QUIET_SECONDS", 0.0)
    rounds = iter(range(4))

    def some(seconds):
        if next(rounds, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", some)
    _, out, _ = say(capsys, made.folder, "--follow", *QUICK)
    assert out.count("nothing new for 5 minutes") == 1 and f"--resume --out {made.folder}" in out


def test_the_training_may_write_the_report_first(tmp_path):
    report, preview = tmp_path / NAME, tmp_path / "1.png"
    report.write_text("")
    assert not _outdated(report, None, 0.0)
    time.sleep(0.02)
    preview.write_text("")
    assert _outdated(report, preview, 0.0) and not _outdated(report, preview, 30.0)
    time.sleep(0.02)
    report.write_text("")
    assert not _outdated(report, preview, 0.0)
    preview.unlink()
    assert not _outdated(report, preview, 0.0)
