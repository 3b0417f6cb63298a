"""Fine-tuning from the command line: what is taken over, what is said, what is refused."""

import shutil
import signal

import pytest
import torch

import tiny
from ddpm.cli import main
from ddpm.store import Facts, Run, load_weights

FACTS = Facts("zoo", 10, ("cats", "cows"), (0.5, 0.5), "f" * 64)


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Twelve photos of cats and dogs, and a model that knows cats and cows."""
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny.photos(tmp_path / "photos", 12, grey=True)
    tiny.run(tmp_path / "zoo", FACTS)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def tune(*options):
    few = ["--steps", 2, "--batch", 4, "--device", "cpu", "--train.preview-every", 0]
    return main([str(a) for a in ["train", "photos", "--init-from", "zoo", *few, *options]])


def start(folder):
    """Embeddings by class, and another weight, of a model's averaged weights."""
    weights, description = load_weights(folder / "ema.safetensors")
    rows = dict(zip(description.facts.classes, weights["label.weight"], strict=True))
    return rows, weights["conv_in.weight"]


def test_it_starts_from_the_model_and_says_so(capsys):
    assert tune("--lr", 1e-12, "--out", "tuned") == 0
    out = capsys.readouterr().out
    assert "starts from the weights of zoo" in out
    assert "new classes, which start as the mean of the model's: dogs" in out
    assert "not in the data: cows" in out
    assert any(line.startswith("width") and line.endswith("the model's") for line in out.splitlines())
    config = Run("tuned").description().config
    assert config.net == tiny.config().net and config.chain == tiny.config().chain
    assert config.data.size == (8, 8) and config.train.init_from == "zoo"
    had, first = start(Run("zoo").newest()[0].folder)
    has, then = start(Run("tuned").newest()[0].folder)
    torch.testing.assert_close(has["cats"], had["cats"], rtol=0, atol=1e-6)
    torch.testing.assert_close(has["dogs"], (had["cats"] + had["cows"]) / 2, rtol=0, atol=1e-6)
    torch.testing.assert_close(then, first, rtol=0, atol=1e-6)


def test_the_rate_is_a_quarter_of_a_fresh_nets(capsys):
    assert tune("--out", "tuned") == 0
    fresh = ["train", "photos", "--steps", "2", "--batch", "4", "--device", "cpu", "--out", "fresh", "--size", "8"]
    assert main([*fresh, "--net.channels", "8", "--net.groups", "4", "--net.multipliers", "1", "2"]) == 0
    rates = [Run(name).description().config.optimizer.lr for name in ("tuned", "fresh")]
    assert rates[0] == pytest.approx(rates[1] / 4)
    assert "a quarter of it for weights that are good already" in capsys.readouterr().out


def test_another_size_is_taken():
    assert tune("--size", 12, "--out", "larger") == 0
    assert Run("larger").description().config.data.size == (12, 12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--net.channels", 16], "--net.channels 16: zoo was trained with 8"),
        (["--channels", 3], "--channels 3: zoo was trained with 1"),
        (["--size", 9], "multiples of 2"),
        (["--preset", "cifar10"], "--preset and --init-from"),
    ],
)
def test_what_does_not_fit_is_refused(capsys, options, message):
    assert tune(*options, "--out", "no") == 2
    assert message in capsys.readouterr().err and not Run("no").exists()


def test_a_model_that_is_not_there(capsys):
    assert main(["train", "photos", "--init-from", "zop", "--device", "cpu"]) == 2
    assert "zop: there is no such file" in capsys.readouterr().err


def test_killed_before_its_first_checkpoint_it_starts_from_the_model_again():
    assert tune("--lr", 1e-12, "--out", "tuned") == 0
    shutil.rmtree("tuned/checkpoints")
    assert main(["train", "--resume", "--out", "tuned", "--device", "cpu"]) == 0
    had, first = start(Run("zoo").newest()[0].folder)
    has, then = start(Run("tuned").newest()[0].folder)
    torch.testing.assert_close(has["cats"], had["cats"], rtol=0, atol=1e-6)
    torch.testing.assert_close(then, first, rtol=0, atol=1e-6)
