"""Training: what it computes, that it learns, and that stopping changes nothing."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from ddpm.config import (
    ChainConfig,
    Config,
    DataConfig,
    DenoiserConfig,
    LossConfig,
    NetConfig,
    OptimizerConfig,
    TrainConfig,
    to_json,
)
from ddpm.data import Pictures, load, open_source
from ddpm.errors import UserError
from ddpm.events import Began, Ended, Evaluated, Logged, Previewed, Saved, Scored
from ddpm.heldout import held_out_error
from ddpm.noise import Purpose, normals
from ddpm.store import Description, Run
from ddpm.train import facts, fit
from ddpm.trainer import Trainer, ema_decay, learning_rate


def tiny(**changes) -> Config:
    config = Config(
        DataConfig(("stripes",), (8, 8), 1, flip=True),
        NetConfig(8, (1, 2), 1, (), dropout=0.1, groups=4),
        ChainConfig("cosine", 50),
        DenoiserConfig("v"),
        LossConfig(),
        OptimizerConfig(lr=2e-3, warmup=3, decay="cosine", ema=0.9),
        TrainConfig(steps=12, batch=6, log_every=4, preview_every=6, checkpoint_every=5),
    )
    return config.with_(**changes)


@pytest.fixture
def pictures(tmp_path) -> Pictures:
    """40 pictures of upright (0) and level (1) stripes."""
    rng = np.random.default_rng(0)
    images = np.zeros((40, 8, 8), np.uint8)
    for i, one in enumerate(images):
        stripes = (np.arange(8) + rng.integers(4)) % 4 < 2
        one[:] = np.where(stripes[None, :] if i % 2 else stripes[:, None], 220, 30)
    np.savez(tmp_path / "stripes.npz", images=images, labels=np.arange(40) % 2)
    return load(open_source(tmp_path / "stripes.npz"), (8, 8), 1, cache=tmp_path / "cache")


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def train(config, pictures, accelerator, folder, stop_after=None):
    """Runs a training, from the folder's newest checkpoint if there is one; returns its events and run."""
    run = Run(folder)
    description = Description(config, facts(pictures))
    if not run.exists():
        run = Run.create(folder, description)
    checkpoint, damaged = run.newest()
    assert not damaged
    count = 0

    def stop():
        nonlocal count
        count += 1
        return stop_after is not None and count > stop_after

    trainer = Trainer(config, pictures, accelerator)
    return list(fit(trainer, run, description, checkpoint, stop)), run


def log_of(run: Run):
    """The log but for the time it took."""
    return [
        {k: v for k, v in record.items() if k not in ("pictures_per_second", "seconds")}
        for record in run.records()
    ]


def files_of(run: Run):
    checkpoint, _ = run.newest()
    return {p.name: p.read_bytes() for p in sorted(checkpoint.folder.glob("*.safetensors"))}


def test_events_files_and_log(pictures, accelerator, tmp_path):
    events, run = train(tiny(), pictures, accelerator, tmp_path / "run")
    kinds = [type(e) for e in events]
    assert kinds[0] is Began and kinds[-1] is Ended and events[-1].complete
    assert [e.step for e in events if isinstance(e, Logged)] == [4, 8, 12]
    assert [e.step for e in events if isinstance(e, Saved)] == [5, 10, 12]
    previews = [e for e in events if isinstance(e, Previewed)]
    assert [e.step for e in previews] == [6, 12] and all(e.path.is_file() for e in previews)
    assert sorted(p.name for p in (run.folder / "checkpoints").iterdir()) == ["000000010", "000000012"]
    assert [r["images"] for r in run.records()] == [24, 48, 72]
    assert not list(run.folder.rglob("*.tmp"))
    state = json.loads((run.folder / "checkpoints/000000012/state.json").read_text())
    assert state["step"] == 12 and state["images"] == 72


@pytest.mark.parametrize("stops", [[5], [7], [1, 3, 4]])
@pytest.mark.parametrize(("accumulate", "label_drop"), [(1, 0.0), (3, 0.4)])
def test_stopping_changes_nothing(pictures, accelerator, tmp_path, stops, accumulate, label_drop):
    """Weights, averages, optimizer and log are bit-equal, with dropout and flips, also between two log lines."""
    config = tiny(train__accumulate=accumulate, train__label_drop=label_drop)
    _, whole = train(config, pictures, accelerator, tmp_path / "whole")
    for stop in stops:
        events, _ = train(config, pictures, accelerator, tmp_path / "parts", stop_after=stop)
        assert not events[-1].complete
    events, parts = train(config, pictures, accelerator, tmp_path / "parts")
    assert events[-1].complete and events[0].step == sum(stops)
    # the checkpoint's header names the same step, so whole files compare equal
    assert files_of(parts) == files_of(whole)
    assert log_of(parts) == log_of(whole)


def test_stopping_changes_neither_scores_nor_the_best(pictures, accelerator, tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    config = tiny(train__evaluate_every=3, train__evaluate_samples=4, train__preview_every=0, train__keep=1)
    events, whole = train(config, pictures, accelerator, tmp_path / "whole")
    for stop in (4, 3):
        train(config, pictures, accelerator, tmp_path / "parts", stop_after=stop)
    _, parts = train(config, pictures, accelerator, tmp_path / "parts")
    scored = [event for event in events if isinstance(event, Scored)]
    best = min(scored, key=lambda event: event.fid)
    assert [event.step for event in scored] == [3, 6, 9, 12]
    assert log_of(parts) == log_of(whole) and files_of(parts) == files_of(whole)
    for run in (whole, parts):
        assert run.newest()[0].state["best"] == {"step": best.step, "fid": best.fid}
        assert (run.folder / "checkpoints" / f"{best.step:09d}").is_dir()


LEARNS = {"loss__kind": "vlb", "loss__times": "loss-second-moment", "denoiser__variance": "learned_range"}


@pytest.mark.parametrize(("kind", "stops"), [("vlb", [4, 2]), ("hybrid", [9])])
def test_stopping_changes_nothing_where_the_levels_follow_from_the_losses(
    pictures, accelerator, tmp_path, kind, stops
):
    """Three levels, each with its ten losses after some eight steps: stopped before and after that."""
    config = tiny(**LEARNS, chain__steps=3, train__accumulate=2, train__preview_every=0).with_(loss__kind=kind)
    trained, whole = train(config, pictures, accelerator, tmp_path / "whole")
    for stop in stops:
        events, _ = train(config, pictures, accelerator, tmp_path / "parts", stop_after=stop)
        assert not events[-1].complete
    events, parts = train(config, pictures, accelerator, tmp_path / "parts")
    assert events[-1].complete and events[0].step == sum(stops)
    assert "times.safetensors" in files_of(parts) and files_of(parts) == files_of(whole)
    assert log_of(parts) == log_of(whole) and trained[-1].complete
    # it came to what it is for
    saved = whole.newest()[0].tensors("times")
    assert saved["counts"].sum() == 12 * 6 and saved["counts"].min() >= 10
    trainer = Trainer(config, pictures, accelerator)
    trainer.restore(whole.newest()[0])
    probabilities = trainer.times.probabilities()
    assert probabilities.max() > 1.5 * probabilities.min()
    # and a checkpoint of levels drawn evenly has no such file
    _, even = train(tiny(train__steps=1, train__preview_every=0), pictures, accelerator, tmp_path / "even")
    assert "times.safetensors" not in files_of(even)


@pytest.mark.parametrize("times", ["uniform", "loss-second-moment"])
def test_the_log_tells_the_bound_of_the_losses_that_know_it(pictures, accelerator, tmp_path, times):
    """Means over each window of (weight · T · term), and of the loss and error weighted alike, by hand."""
    config = tiny(**LEARNS, chain__steps=3, train__preview_every=0).with_(loss__times=times)
    events, run = train(config, pictures, accelerator, tmp_path / "run")
    logged = [e for e in events if isinstance(e, Logged)]
    trainer = Trainer(config, pictures, accelerator)
    done = [trainer.step(k) for k in range(12)]
    if times == "uniform":
        assert all(torch.all(one.weight == 1) for one in done)
    else:
        assert not torch.all(done[-1].weight == 1)
    for i, line in enumerate(logged):
        window = done[4 * i : 4 * i + 4]
        for ours, name in ((line.loss, "loss"), (line.mse, "error"), (line.vlb, "vlb")):
            expected = torch.stack([(one.weight * getattr(one.terms, name)).mean() for one in window]).mean()
            assert ours == pytest.approx(expected.item(), rel=1e-5)
        assert line.vlb == line.loss  # the loss is the bound
    assert [record["vlb"] for record in run.records()] == [line.vlb for line in logged]
    events, run = train(tiny(train__preview_every=0), pictures, accelerator, tmp_path / "simple")
    assert all(e.vlb is None for e in events if isinstance(e, Logged))
    assert all("vlb" not in record for record in run.records())


def test_a_step_weighs_its_levels(pictures, accelerator):
    """The gradient is of the mean of weight · loss, so that it is that of evenly drawn levels in expectation."""
    config = tiny(**LEARNS, chain__steps=3, net__dropout=0.0, optimizer__clip=0.0)
    trainer, reference = (Trainer(config, pictures, accelerator) for _ in range(2))
    history = {
        "losses": torch.tensor([[8.0] * 10, [2.0] * 10, [1.0] * 10]).double(),
        "counts": torch.full((3,), 10),
    }
    for one in (trainer, reference):
        one.times.restore(history)
    ours = trainer.step(0)
    x0, label = pictures.batch(reference.order.index(0), reference.order.flips(0))
    t, weight = reference.times.draw(0, 6)
    assert torch.equal(ours.t, t) and torch.equal(ours.weight, weight) and len(weight.unique()) > 1
    noise = normals(0, Purpose.TRAIN_NOISE, torch.arange(6), torch.tensor([0]), (1, 8, 8))[0]
    terms = reference.loss(reference.model, x0, t, noise, {"label": label})
    (weight * terms.loss).mean().backward()
    norm = torch.sqrt(sum(p.grad.square().sum() for p in reference.parameters if p.grad is not None))
    assert ours.gradient.item() == pytest.approx(norm.item(), rel=1e-5)
    # it learns from the losses as they are, not from the weighted ones
    assert trainer.times.counts.tolist() == (10 + torch.bincount(t - 1, minlength=3)).tolist()
    last = int(t[-1])
    place = (int(trainer.times.counts[last - 1]) - 1) % 10
    assert trainer.times.losses[last - 1, place].item() == pytest.approx(terms.loss[-1].item(), rel=1e-5)


@pytest.mark.parametrize(("kind", "variance"), [("vlb", "learned"), ("hybrid", "learned_range")])
def test_the_bound_is_learned(pictures, accelerator, kind, variance):
    """Of the same levels and noise, before and after."""
    config = tiny(train__steps=40, optimizer__lr=5e-3, net__dropout=0.0, chain__steps=20, loss__kind=kind).with_(
        denoiser__variance=variance, train__batch=20
    )
    trainer = Trainer(config, pictures, accelerator)
    x0, label = pictures.batch(torch.arange(40))
    t, noise = (
        1 + torch.arange(40) % 20,
        normals(5, Purpose.HELD_OUT, torch.arange(40), torch.tensor([0]), (1, 8, 8))[0],
    )

    def bound() -> float:
        with torch.no_grad():
            return trainer.loss(trainer.model, x0, t, noise, {"label": label}).vlb.mean().item()

    before = bound()
    for k in range(40):
        trainer.step(k)
    assert bound() < 0.85 * before


def test_a_lost_log_line_and_preview_after_the_checkpoint_are_redone(pictures, accelerator, tmp_path):
    _, whole = train(tiny(), pictures, accelerator, tmp_path / "whole")
    _, run = train(tiny(), pictures, accelerator, tmp_path / "killed", stop_after=9)
    # as if killed after step 10: its log has a later line, half written
    with (run.folder / "log.jsonl").open("a") as file:
        file.write('{"step": 11, "loss": 99.0}\n{"step": 12, "lo')
    train(tiny(), pictures, accelerator, tmp_path / "killed")
    assert log_of(run) == log_of(whole)


def test_accumulation_is_the_same_step(pictures, accelerator):
    whole = Trainer(tiny(net__dropout=0.0), pictures, accelerator)
    parts = Trainer(tiny(net__dropout=0.0, train__accumulate=4), pictures, accelerator)
    for k in range(3):
        (a, norm_a, *_), (b, norm_b, *_) = whole.step(k), parts.step(k)
        torch.testing.assert_close(a.loss, b.loss, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm_a, norm_b, rtol=1e-3, atol=1e-5)
    for p, q in zip(whole.parameters, parts.parameters, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-2, atol=1e-4)


def steps_of(trainer, count=4):
    """Losses and gradient norms of the first steps, and the weights after them."""
    done = [trainer.step(k) for k in range(count)]
    losses = torch.stack([one.terms.loss for one in done])
    return losses, torch.stack([one.gradient for one in done]), [p.detach().clone() for p in trainer.parameters]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointed_activations_change_nothing(pictures, accelerator, dropout):
    """Bit by bit: the way back computes the same numbers again, with the same dropout."""
    plain = steps_of(Trainer(tiny(net__dropout=dropout), pictures, accelerator))
    again = Trainer(tiny(net__dropout=dropout, train__checkpoint_activations=True), pictures, accelerator)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.numel()), x)[1], lambda x: x):
        again.model.output(torch.randn(6, 1, 8, 8), torch.ones(6, dtype=torch.int64), label=torch.zeros(6).long())
    few = sum(kept)
    kept.clear()
    again.plain.checkpoint_activations = False
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.numel()), x)[1], lambda x: x):
        again.model.output(torch.randn(6, 1, 8, 8), torch.ones(6, dtype=torch.int64), label=torch.zeros(6).long())
    assert few < 0.5 * sum(kept)
    again.plain.checkpoint_activations = True
    for a, b in zip(plain[2], steps_of(again)[2], strict=True):
        assert torch.equal(a, b)


def test_bfloat16_is_the_same_training_within_its_precision(pictures):
    """bfloat16 keeps 8 bits: a relative error of 2^-8 in each product, averaged over a sum."""
    losses, gradients, weights = steps_of(Trainer(tiny(net__dropout=0.0), pictures, Accelerator(cpu=True)))
    AcceleratorState._reset_state(True)
    half = Trainer(
        tiny(net__dropout=0.0, train__precision="bf16"), pictures, Accelerator(cpu=True, mixed_precision="bf16")
    )
    losses16, gradients16, weights16 = steps_of(half)
    AcceleratorState._reset_state(True)
    assert not torch.equal(losses, losses16), "nothing was computed in bfloat16"
    torch.testing.assert_close(losses16, losses, rtol=0.03, atol=0.01)
    torch.testing.assert_close(gradients16, gradients, rtol=0.05, atol=0.01)
    assert all(p.dtype == torch.float32 for p in weights16)  # weights, averages and optimizer stay whole
    for a, b in zip(weights, weights16, strict=True):  # Adam's first steps are of the size of the rate
        assert (a - b).abs().max() <= 4 * 2e-3


COMPILED = """
import sys, numpy as np, torch
from accelerate import Accelerator
from pathlib import Path
from ddpm.config import Config, from_json
from ddpm.data import load, open_source
from ddpm.trainer import Trainer
import json
folder = Path(sys.argv[1])
config = from_json(Config, json.loads(sys.argv[2]))
pictures = load(open_source(folder / "stripes.npz"), (8, 8), 1, cache=folder / "cache")
weights = []
for compiled in (False, True):
    trainer = Trainer(config.with_(train__compile=compiled), pictures, Accelerator(cpu=True))
    done = [trainer.step(k) for k in range(4)]
    weights.append([p.detach() for p in trainer.parameters])
    losses = torch.stack([one.terms.loss for one in done]), torch.stack([one.gradient for one in done])
    if compiled:
        torch.testing.assert_close(losses[0], plain[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(losses[1], plain[1], rtol=1e-3, atol=1e-5)
        assert not torch.equal(losses[0], plain[0]) or torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    plain = losses
print(torch._dynamo.utils.counters["stats"]["unique_graphs"], torch._dynamo.utils.counters["graph_break"])
for a, b in zip(*weights):
    torch.testing.assert_close(a, b, rtol=1e-2, atol=2e-4)
"""


@pytest.mark.slow
def test_a_compiled_net_trains_the_same(pictures, tmp_path):
    """In a process of its own: the checks of annotations that the tests add cannot be compiled."""
    config = json.dumps(to_json(tiny(net__dropout=0.0)))
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, str(tmp_path), config], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    graphs, _, breaks = done.stdout.partition(" ")
    assert int(graphs) >= 1 and "Counter()" in breaks, done.stdout


def test_half_precision_needs_a_gpu(pictures, accelerator):
    with pytest.raises(UserError, match="--precision fp16: needs a CUDA device"):
        Trainer(tiny(train__precision="fp16"), pictures, accelerator)


def test_the_log_tells_the_error_by_quarter_of_t(pictures, accelerator, tmp_path):
    """Against the terms of the same steps, sorted by hand."""
    config = tiny(train__steps=4, train__log_every=4)
    events, run = train(config, pictures, accelerator, tmp_path / "run")
    (logged,) = [e for e in events if isinstance(e, Logged)]
    trainer = Trainer(config, pictures, accelerator)
    done = [trainer.step(k) for k in range(4)]
    t = torch.cat([one.t for one in done])
    mse = torch.cat([one.terms.error for one in done])
    for quarter, (low, high) in enumerate([(1, 13), (14, 25), (26, 38), (39, 50)]):  # of fifty levels
        inside = mse[(t >= low) & (t <= high)]
        assert logged.quarters[quarter] == (pytest.approx(inside.mean().item(), rel=1e-5) if len(inside) else None)
    assert run.records()[0]["quarters"] == list(logged.quarters)


def test_held_out_pictures_are_measured_like_those_trained_on(pictures, accelerator, tmp_path):
    """The same pictures give the same error; pictures of another kind a larger one after training."""
    config = tiny(train__steps=200, train__preview_every=0, net__dropout=0.0, optimizer__lr=5e-3)
    trainer = Trainer(config, pictures, accelerator, held_out=pictures)
    same = held_out_error(trainer)
    assert same[0] == same[1] and same == held_out_error(trainer)
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "n.npz", images=rng.integers(0, 256, (40, 8, 8), np.uint8), labels=np.arange(40) % 2)
    trainer.held_out = load(open_source(tmp_path / "n.npz"), (8, 8), 1, cache=tmp_path / "cache")
    for k in range(200):
        trainer.step(k)
    held_out, trained_on, *quarters = held_out_error(trainer)
    assert quarters == [(), ()]  # they are of classifiers
    assert held_out > 1.3 * trained_on
    assert trained_on < same[1]


def test_held_out_errors_are_logged_at_previews(pictures, accelerator, tmp_path):
    trainer = Trainer(tiny(), pictures, accelerator, held_out=pictures)
    description = Description(tiny(), facts(pictures))
    run = Run.create(tmp_path / "run", description)
    events = list(fit(trainer, run, description))
    found = [e for e in events if isinstance(e, Evaluated)]
    assert [e.step for e in found] == [6, 12]
    assert [r["held_out"] for r in run.records() if "held_out" in r] == [e.held_out for e in found]


def test_held_out_errors_are_logged_without_previews_too(pictures, accelerator, tmp_path):
    config = tiny(train__preview_every=0)
    trainer = Trainer(config, pictures, accelerator, held_out=pictures)
    events = list(
        fit(
            trainer,
            Run.create(tmp_path / "run", Description(config, facts(pictures))),
            Description(config, facts(pictures)),
        )
    )
    assert [e.step for e in events if isinstance(e, Evaluated)] == [5, 10, 12]
    assert not any(isinstance(e, Previewed) for e in events)


def test_a_kill_between_preview_and_checkpoint_loses_neither(pictures, accelerator, tmp_path):
    """Previews come first, so going on from the checkpoint before draws them again."""
    config = tiny(train__checkpoint_every=6)
    events, whole = train(config, pictures, accelerator, tmp_path / "whole")
    kinds = [type(e) for e in events if e.step == 6 and type(e) in (Previewed, Saved)]
    assert kinds == [Previewed, Saved]
    run = Run.create(tmp_path / "killed", Description(config, facts(pictures)))
    trainer = Trainer(config, pictures, accelerator)
    for event in fit(trainer, run, Description(config, facts(pictures))):
        if isinstance(event, Previewed):
            break  # as if killed here
    assert run.newest() == (None, [])
    train(config, pictures, accelerator, tmp_path / "killed")
    for one, other in zip(
        sorted((whole.folder / "samples").iterdir()), sorted((run.folder / "samples").iterdir()), strict=True
    ):
        assert one.name == other.name and one.read_bytes() == other.read_bytes()


def test_weights_to_start_from(pictures, accelerator):
    given = {k: v + 0.1 for k, v in Trainer(tiny(), pictures, accelerator).plain.state_dict().items()}
    trainer = Trainer(tiny(), pictures, accelerator, weights=given)
    for state in (trainer.plain.state_dict(), trainer.ema.state_dict()):
        assert all(torch.equal(state[k], v) for k, v in given.items())


@pytest.mark.parametrize("clip", [0.01, 1e3, 0.0])
def test_a_step_is_adam_on_the_clipped_gradient(pictures, accelerator, clip):
    """Against torch's own pieces put together by hand; above the limit, below it and without one."""
    config = tiny(net__dropout=0.0, optimizer__clip=clip)
    trainer, reference = (Trainer(config, pictures, accelerator) for _ in range(2))
    trainer.step(0)
    model = reference.model
    x0, label = pictures.batch(reference.order.index(0), reference.order.flips(0))
    t, _ = reference.times.draw(0, 6)
    noise = normals(0, Purpose.TRAIN_NOISE, torch.arange(6), torch.tensor([0]), (1, 8, 8))[0]
    loss = reference.loss(model, x0, t, noise, {"label": label}).loss.mean()
    loss.backward()
    norm = torch.sqrt(sum(p.grad.square().sum() for p in reference.parameters if p.grad is not None))
    assert 0.01 < norm < 1e3
    adam = torch.optim.Adam(reference.parameters, lr=2e-3 / 3, betas=(0.9, 0.999))
    for p in reference.parameters:
        if p.grad is not None:
            p.grad.mul_(min(1.0, clip / norm) if clip else 1.0)
    start = [p.detach().clone() for p in reference.parameters]
    adam.step()
    for p, q, old, average in zip(reference.parameters, trainer.parameters, start, trainer.averages, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(average, old + 0.9 * (q.detach() - old), rtol=1e-4, atol=1e-6)


def test_it_learns_and_the_average_follows(pictures, accelerator):
    trainer = Trainer(tiny(train__steps=150, optimizer__lr=5e-3, net__dropout=0.0), pictures, accelerator)
    losses = [trainer.step(k)[0].loss.mean().item() for k in range(150)]
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:5])
    for average, p in zip(trainer.averages, trainer.parameters, strict=True):
        assert (average - p).norm() < 0.2 * p.norm() + 0.05


def test_average_never_keeps_the_first_weights():
    """The share of the initial weights after n steps is 9!/((n + 1) … (n + 9))."""
    share = 1.0
    for k in range(100):
        share *= ema_decay(0.9999, k)
        n = k + 1
        assert math.isclose(share, math.factorial(9) / math.prod(range(n + 1, n + 10)), rel_tol=1e-9)
    assert share < 1e-9
    assert ema_decay(0.9999, 1_000_000) == 0.9999


def test_learning_rate_course():
    settings = OptimizerConfig(lr=1.0, warmup=10, decay="linear")
    assert [learning_rate(settings, k, 110) for k in (0, 4, 9, 10, 60)] == [0.1, 0.5, 1.0, 1.0, 0.5]
    assert learning_rate(settings, 109, 110) == pytest.approx(0.01)
    cosine = OptimizerConfig(lr=2.0, warmup=0, decay="cosine")
    assert learning_rate(cosine, 0, 100) == 2.0
    assert learning_rate(cosine, 50, 100) == pytest.approx(1.0)
    assert learning_rate(OptimizerConfig(lr=1.0, warmup=0), 99, 100) == 1.0


def test_training_leaves_torch_s_generator_alone_without_dropout(pictures, accelerator):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Trainer(tiny(net__dropout=0.0), pictures, accelerator).step(0)
    assert torch.equal(torch.rand(3), expected)


def test_dropout_differs_between_steps_and_parts(pictures, accelerator):
    trainer = Trainer(tiny(), pictures, accelerator)
    seeds = {trainer._dropout_seed(k, part) for k in range(20) for part in range(5)}
    assert len(seeds) == 100


def test_fewer_pictures_than_a_batch(pictures, accelerator):
    with pytest.raises(UserError, match="40 usable pictures are fewer than a batch of 64"):
        Trainer(tiny(train__batch=64), pictures, accelerator)


def test_run_folder_is_self_describing(pictures, accelerator, tmp_path):
    _, run = train(tiny(), pictures, accelerator, tmp_path / "run")
    description = Run(Path(run.folder)).description()
    assert description.config == tiny()
    assert description.facts.classes == ("0", "1") and description.facts.frequencies == (0.5, 0.5)
    assert description.facts.count == 40 and description.facts.fingerprint == pictures.fingerprint


def test_a_damaged_config_json_is_made_up_for_by_the_checkpoint(pictures, accelerator, tmp_path):
    _, run = train(tiny(), pictures, accelerator, tmp_path / "run")
    (run.folder / "config.json").write_text('{"format": "ddpm/1", "conf')
    assert Run(run.folder).description().config == tiny()
    (run.folder / "config.json").unlink()
    assert Run(run.folder).exists() and Run(run.folder).description().facts.classes == ("0", "1")
