"""What to try next: rules over what a run has shown, each with its reason and a command that exists."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from ddpm.report import faults, remedies, words
from ddpm.report.shown import WORTH_LOOKING, Advice, Shown, again, number
from ddpm.units import counted

_FEW = 2_000
_MANY_PASSES = 300
_SMALLER = "--size asks for more"  # what the plan says where the pictures are larger than it took them
_SAID = {"vlb": "bound", "loss": "loss", "mse": "error"}
_SURELY = 0.04  # between two accuracies of 1,024 looks each: more than chance
_FALLING = 0.01  # a loss that falls by less over a fifth of the training has settled


def advise(shown: Shown) -> list[Advice]:
    """Every rule that applies, the most pressing first; how to draw samples stands last, as it always applies."""
    drawn = (
        *(_stopped, _few_pictures, remedies.copies, _held_out, remedies.quarters, _few_seen, _falling),
        *(remedies.colours, faults.shaken, _clipped, remedies.risen, _balance, _skipped),
    )
    classified = (_stopped, _unmeasured, _by_heart, faults.shaken, _few_pictures, _falling, _balance, _skipped)
    classifies = shown.config.train.task == "classifier"
    found: list[Advice] = []
    for rule in classified if classifies else drawn:
        one = rule(shown)
        if one is not None and one.what not in [other.what for other in found]:
            found.append(one)
    if classifies:
        return [*found, _guide(shown)] if shown.step else found
    if shown.state == "complete" and any(_SMALLER in reason for reason in shown.plan):
        found.append(_larger(shown))
    known = shown.config.data.path or shown.config.data.holdout
    if shown.state == "complete" and shown.config.loss.kind != "simple" and known:
        found.append(_measure(shown))
    if shown.step:
        found.append(_sample(shown))
    return found


def _stopped(shown: Shown) -> Advice | None:
    if shown.state != "stopped":
        return None
    left = counted(shown.config.train.steps - shown.step, "step")
    return Advice(
        "Finish the training",
        f"It was stopped with {left} to go. Resuming goes on exactly where it was.",
        f"ddpm train --resume --out {shlex.quote(shown.folder)}",
    )


def _few_pictures(shown: Shown) -> Advice | None:
    count, passes = shown.facts.count, _passes(shown)
    if not 0 < count < _FEW and not passes > _MANY_PASSES:
        return None
    mirrored = "" if shown.config.data.flip else ", mirror them (--data.flip) if they may be mirrored"
    return Advice(
        "Give it more pictures",
        f"{counted(count, 'picture')}, each seen {words.amount(passes)} times so far, can be learnt by "
        f"heart. Add pictures{mirrored}, or raise --net.dropout.",
    )


def _held_out(shown: Shown) -> Advice | None:
    points = [(r["step"], r["held_out"]) for r in shown.records if number(r.get("held_out")) is not None]
    if len(points) < 3:
        return None
    best_step, best = min(points, key=lambda point: point[1])
    last = points[-1][1]
    if last <= 1.03 * best:
        return None
    return Advice(
        "Stop earlier, or regularise",
        f"The error on held-out pictures was lowest at step {best_step:,} ({best:.4f}) and is {last:.4f} now: "
        "since then the net has been learning the training pictures rather than their kind.",
        again(shown, f"--steps {shown.config.train.steps} --net.dropout 0.2", "dropout"),
    )


def _by_heart(shown: Shown) -> Advice | None:
    """A classifier's accuracy on held-out pictures falls while that of training still rises."""
    pairs = [
        (r["step"], held_out, trained_on)
        for r in shown.records
        if (held_out := number(r.get("held_out_accuracy"))) is not None
        and (trained_on := number(r.get("trained_on_accuracy"))) is not None
    ]
    if len(pairs) < 3:
        return None
    best = max(pairs, key=lambda one: one[1])
    last = pairs[-1]
    apart = last[2] - last[1]
    if (best[1] - last[1] <= _SURELY or last[2] <= best[2]) and apart <= 2 * _SURELY:
        return None
    change, what = "", []
    if not shown.config.data.flip:
        what.append("--data.flip, if the pictures may be mirrored")
    if shown.config.data.crop != "random":
        change, what = "--crop random ", ["--crop random", *what]
    decay = max(0.05, 2 * shown.config.optimizer.weight_decay)
    what.append(f"more weight decay ({decay:g})")
    return Advice(
        "Keep it from learning pictures by heart",
        f"It is right about {last[1]:.1%} of held-out pictures, at step {best[0]:,} about {best[1]:.1%}, and "
        f"about {last[2]:.1%} of those trained on. What helps: {', '.join(what)}, more pictures, or fewer steps.",
        again(
            shown,
            f"--steps {shown.config.train.steps} {change}--optimizer.weight-decay {decay:g}",
            "regularised",
        ),
    )


def _unmeasured(shown: Shown) -> Advice | None:
    """A classifier without held-out pictures."""
    if shown.config.data.holdout or not shown.step:
        return None
    return Advice(
        "Hold some pictures out",
        "How often it is right about pictures it never saw cannot be told, and so not whether it knows the "
        "classes or the pictures.",
        again(shown, f"--steps {shown.config.train.steps} --holdout 0.05", "held-out"),
    )


def _few_seen(shown: Shown) -> Advice | None:
    seen = shown.step * shown.config.train.batch
    if shown.state == "running" or seen >= WORTH_LOOKING or not seen:
        return None
    factor = math.ceil(WORTH_LOOKING / seen)
    return Advice(
        "Train for longer",
        f"The net has seen {seen:,} pictures; shapes become worth looking at from about {WORTH_LOOKING:,} on.",
        again(shown, f"--steps {factor * shown.step}", "longer"),
    )


def _falling(shown: Shown) -> Advice | None:
    """Compares the last fifth of the log with the fifth before it; the difference must exceed its own error."""
    if shown.state == "running" or shown.step * shown.config.train.batch < WORTH_LOOKING:
        return None
    if remedies.told(shown, "copies", "by heart") or _held_out(shown):  # what falls is what it learns by heart
        return None
    # Of the bound the error is an importance-weighted by-product, much noisier than what is minimised.
    bound = shown.config.loss.kind == "vlb"
    key = "vlb" if bound else "loss" if shown.config.train.task == "classifier" else "mse"
    errors = [value for r in shown.records if (value := number(r.get(key))) is not None]
    part = len(errors) // 5
    if part < 5:
        return None
    before, after = errors[-2 * part : -part], errors[-part:]
    drop = (_mean(before) - _mean(after)) / _mean(before)
    doubt = math.sqrt((_variance(before) + _variance(after)) / part) / _mean(before)
    if drop < max(_FALLING, 2 * doubt):
        return None
    return Advice(
        "Train for longer",
        f"The {_SAID[key]} still fell, by {drop:.1%} over the last fifth of the training.",
        again(shown, f"--steps {2 * shown.config.train.steps}", "longer"),
    )


def _clipped(shown: Shown) -> Advice | None:
    limit = shown.config.optimizer.clip
    norms = [value for r in shown.records if (value := number(r.get("gradient"))) is not None]
    late = norms[len(norms) // 2 :]
    if shown.config.loss.kind == "vlb":  # its gradients are as long as T times a term is large, at any rate
        return None
    if not limit or len(late) < 10 or sum(value > limit for value in late) <= len(late) / 2:
        return None
    return Advice(
        "Lower the learning rate",
        f"In most of the second half of the training the gradient was longer than --optimizer.clip {limit:g} and "
        "was shortened, a sign of steps that are too large.",
        again(shown, f"--steps {shown.config.train.steps} --lr {shown.config.optimizer.lr / 2:.1e}", "lower-rate"),
    )


def _balance(shown: Shown) -> Advice | None:
    shares = shown.facts.frequencies
    if len(shares) < 2 or min(shares) >= 0.25 / len(shares):
        return None
    rare = shown.facts.classes[min(range(len(shares)), key=lambda k: shares[k])]
    poor = (
        "it will be recognised the least"
        if shown.config.train.task == "classifier"
        else "its samples will be the poorest"
    )
    return Advice(
        "Even out the classes",
        f"{rare} has {min(shares):.1%} of the pictures, where an even share would be {1 / len(shares):.1%}: "
        f"{poor}. Add pictures of the rare classes, or merge them with others.",
    )


def _skipped(shown: Shown) -> Advice | None:
    if not shown.facts.skipped:
        return None
    return Advice(
        "Mend the unreadable pictures",
        f"{counted(shown.facts.skipped, 'picture')} could not be read; the check names them.",
        f"ddpm check {_data(shown)}",
    )


def _larger(shown: Shown) -> Advice:
    height, width = (2 * side for side in shown.config.data.size)
    size = str(height) if height == width else f"{height}x{width}"
    return Advice(
        "Go larger",
        "The originals are larger than they were trained at. Twice the size shows more, and takes about four "
        "times as long.",
        again(shown, f"--size {size}", size),
    )


def _measure(shown: Shown) -> Advice:
    held_out = bool(shown.config.data.holdout)
    reference = "held-out" if held_out else shlex.quote(shown.config.data.path[0])
    apart = (
        ""
        if held_out
        else " Pictures it was not trained on, given as DATA in their place, say how it generalises."
    )
    return Advice(
        "Measure its bits/dim",
        "The curve is of levels drawn at random and of weights that still changed. This measures the averaged "
        f"weights, with a standard error, and how the bits are spread over the levels.{apart}",
        f"ddpm evaluate {shlex.quote(shown.folder)} --reference {reference} --metrics nll",
    )


def _sample(shown: Shown) -> Advice:
    if shown.config.train.task == "upsampler":
        return _enlarge(shown)
    named = f" --class {shlex.quote(shown.facts.classes[0])}" if shown.facts.classes else ""
    only = " Without a class it draws them as often as they are in the data." if named else ""
    return Advice(
        "Draw pictures from it",
        f"Any number, always the same ones for a seed, with a film of how they come about.{only}",
        f"ddpm sample {shlex.quote(shown.folder)} -n 64{named}",
    )


def _enlarge(shown: Shown) -> Advice:
    data, folder = shown.config.data, shlex.quote(shown.folder)
    h, w = data.small
    return Advice(
        "Enlarge pictures with it",
        f"Those of any DATA: they are brought to {h} x {w} first. Or those that a model draws: ddpm sample BASE "
        f"--upsample {folder}, where BASE was trained on the same pictures with --size {h}x{w}.",
        f"ddpm sample {folder} --low DATA",
    )


def _guide(shown: Shown) -> Advice:
    height, width = shown.config.data.size
    return Advice(
        "Guide a model with it",
        f"It steers the samples of any model of {height} x {width} pictures of these classes, MODEL, towards a "
        "class. A scale of 0 is off, 1 what probability asks for; more makes them more typical and less diverse.",
        f"ddpm sample MODEL -n 64 --class {shlex.quote(shown.facts.classes[0])} --classifier "
        f"{shlex.quote(shown.folder)} --classifier-scale 1",
    )


def _data(shown: Shown) -> str:
    return " ".join(shlex.quote(path) for path in shown.config.data.path)


def _passes(shown: Shown) -> float:
    return shown.step * shown.config.train.batch / shown.facts.count if shown.facts.count else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
