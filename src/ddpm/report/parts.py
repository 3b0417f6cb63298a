"""The parts of the page, each from the material: HTML, or a line that says what it lacks."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ddpm.build import build_net
from ddpm.config import Config, meaningless, to_json
from ddpm.draw import page, picture
from ddpm.draw.charts import Series, line_chart
from ddpm.report import faults, looks, nearest, words
from ddpm.report.advice import advise
from ddpm.report.material import Material
from ddpm.report.quarters import NAMES
from ddpm.report.shown import Shown
from ddpm.report.trouble import signs
from ddpm.units import counted, duration

_FILM_FRAMES = 24
_FILM_WIDTH = 700  # narrower previews are enlarged in squares, not blurred
_SHEET, _ROW = 60, 10  # pictures of the contact sheet without classes, and of a class


def numbers(made: Material) -> list[tuple[str, str]]:
    train = made.description.config.train
    values = [(f"of {train.steps:,} steps", f"{made.step:,}")]
    if (seconds := made.seconds()) is not None:
        values.append(("training time", duration(seconds)))
        speed = made.speeds()
        if speed and made.state == "running":
            values.append(("left", duration((train.steps - made.step) * train.batch / speed[-1])))
    if (mse := made.last("mse")) is not None:
        values.append(("squared error", f"{mse:.4f}"))
    if (accuracy := made.lately("accuracy")) is not None:
        values.append(("right in training", f"{accuracy:.1%}"))
    if (accuracy := made.last("held_out_accuracy")) is not None:
        values.append(("right on held-out pictures", f"{accuracy:.1%}"))
    if (vlb := made.lately("vlb")) is not None:
        values.append(("bits/dim in training", f"{vlb:.3f}"))
    if (held_out := made.last("held_out")) is not None:
        values.append(("on held-out pictures", f"{held_out:.4f}"))
    values.append(("pictures seen", f"{made.step * train.batch:,}"))
    if made.pipeline is not None:
        values.append(("page computed on", str(made.pipeline.device)))
    return values


def data(made: Material) -> str:
    config, facts, pictures = made.description.config, made.description.facts, made.pictures
    html = page.text(words.data(config, facts))
    shares = facts.frequencies or (1 / max(1, len(facts.classes)),) * len(facts.classes)
    if pictures is None:
        html += page.note(f"No contact sheet: {made.without['pictures']}.")
    elif facts.classes and pictures.labels is not None:
        shown = looks.most_frequent(facts.frequencies, len(facts.classes))
        named = []
        for k in shown:
            members = np.flatnonzero(pictures.labels == k)
            chosen = members[nearest.spread_over(len(members), _ROW)]
            named.append((facts.classes[k], f"{shares[k]:.1%}", _images(nearest.pictures_at(pictures, chosen))))
        html += page.rows([row for row in named if row[2]], "training pictures of")
    else:
        chosen = nearest.spread_over(len(pictures), _SHEET)
        html += page.sheet(_images(nearest.pictures_at(pictures, chosen)), "training picture", _ROW)
    if facts.classes:
        bars = page.bars(
            [(c, s, f"{round(s * facts.count):,}  ({s:.1%})") for c, s in zip(facts.classes, shares, strict=True)]
        )
        html += page.details("How many pictures each class has", bars)
    if pictures is not None and pictures.skipped:
        lines = [f"{name}: {reason}" for name, reason in pictures.skipped[:50]]
        html += page.details(f"{counted(len(pictures.skipped), 'picture')} left out", page.bullets(lines))
    return html


def model(made: Material) -> str:
    description = made.description
    config = description.config
    told = words.model(config, _parameters(made), len(description.facts.classes))
    html = page.text(told, words.objective(config), words.course(config, description.facts))
    if description.plan:
        html += page.details("What the plan decided, and why", page.bullets(description.plan))
    rows = [
        (f"{section}.{name}", json.dumps(value) if isinstance(value, (list, tuple)) else str(value))
        for section, values in to_json(config).items()
        for name, value in values.items()
        if f"{section}.{name}" not in meaningless(config)
    ]
    html += page.details("Every setting", page.table(rows))
    return html + (page.text("Made by:") + page.code(description.command) if description.command else "")


def _parameters(made: Material) -> int:
    if made.pipeline is not None:
        return sum(p.numel() for p in made.pipeline.denoiser.net.parameters())
    with torch.device("meta"):
        net = build_net(made.description.config, len(made.description.facts.classes))
    return sum(p.numel() for p in net.parameters())


def scores(made: Material, span: tuple[float, float]) -> list[str]:
    """How far samples were from the pictures while it trained, and where they were nearest."""
    line = made.series("distance", "fid")
    told = [record for record in made.records if "fid" in record]
    if not line.points():
        return []
    step, least = min(line.points(), key=lambda point: point[1])
    samples, features = told[-1].get("samples", 0), told[-1].get("features", "")
    caption = (
        f"Fréchet distance of {samples:,} samples of the averaged net from the training pictures, in {features} "
        f"features, the same seed each time: {least:.4g} at step {step:,.0f} is the least, and that checkpoint is "
        "kept. Of so few samples it comes out too large; compare it with itself alone."
    )
    chart = line_chart([line], "distance of samples from the pictures over the steps", span=span)
    return [page.chart("Samples against the pictures", chart, [line], caption)]


def curves(made: Material) -> str:
    """Loss and its parts, gradient, rate and speed over the steps."""
    if not made.records:
        return page.note("Nothing has been logged yet.")
    config = made.description.config
    span = (0.0, float(max(made.step, 1)))
    loss, mse = made.series("loss", "loss"), made.series("squared error", "mse")
    vlb, kind = made.series("bits/dim", "vlb"), config.loss.kind
    same = all(a == b for a, b in zip(loss.y, mse.y, strict=False))
    main = [mse] if same or kind == "vlb" else [loss, mse]
    apart = [made.series("held out", "held_out"), made.series("trained on", "trained_on")]
    quarters = by_quarter(made, "quarters")
    error, bound = (
        page.chart(
            "Error of the net's prediction",
            line_chart(main, "loss over the steps", span=span, smooth=True),
            main,
            "How far the prediction is from the truth, averaged over all noise levels. It falls fast, then "
            "slowly: late gains are small and still visible in the pictures." + _loss_caption(config, same),
        ),
        page.chart(
            "The bound on the log-likelihood",
            line_chart([vlb], "bits/dim over the steps", span=span, smooth=True),
            [vlb],
            _bound_caption(config),
        ),
    )
    parts = [
        *((bound, error) if kind == "vlb" else (error, bound)),
        page.chart(
            "By quarter of the noise levels",
            line_chart(quarters, "squared error by quarter of the levels", span=span, smooth=True),
            [line for line in quarters if line.points()],
            f"The squared error at levels 1 to {config.chain.steps // 4:,} (cleanest) up to the last quarter "
            "(noisiest): shapes are decided at the noisy levels, fine detail at the clean ones.",
            ordered=True,
        ),
        page.chart(
            "Held-out pictures",
            line_chart([line for line in apart if line.points()], "error on held-out pictures", span=span),
            [line for line in apart if line.points()],
            "The averaged net's error on pictures it never trains on, and on as many it does, at the same levels "
            "and noise. When the two lines part, it learns pictures by heart.",
        ),
        *scores(made, span),
        *steps(made, span),
    ]
    return faults.note(made.records) + page.charts(*parts)


def by_quarter(made: Material, key: str) -> list[Series]:
    """A line for each quarter of the chain, from a key of the log that has one value for each."""
    return [made.series(name, partial(_quarter, key=key, k=k)) for k, name in enumerate(NAMES)]


def steps(made: Material, span: tuple[float, float]) -> list[str]:
    """Gradient, rate and speed, whatever is trained."""
    clip = _clip_caption(made.description.config.optimizer.clip)
    return [
        _chart(made, "gradient", "Length of the gradient", clip, span, zero=False),
        _chart(made, "lr", "Learning rate", "How large a step the optimizer takes.", span, zero=True),
        _chart(
            made,
            "pictures_per_second",
            "Pictures a second",
            "Dips are other work on the machine.",
            span,
            zero=True,
        ),
    ]


def _loss_caption(config: Config, same: bool) -> str:
    """What the loss is beside the error."""
    if config.loss.kind == "vlb":
        return " Here it is watched only: what is minimised is the bound."
    weighted = "" if same else " The loss is the same error with the levels weighted."
    if config.loss.kind == "hybrid":
        plain = config.loss.weight == "simple" and config.loss.error == "l2"
        base = "this error" if plain else "this error with the levels weighted"
        return f" The loss is {base} plus {config.loss.vlb_weight:g} times the bound."
    return weighted


def _bound_caption(config: Config) -> str:
    """What bits/dim are, and how well they are known."""
    noisy = (
        " Every level is drawn alike, and the few clean ones hold most of the bits, so single lines jump: look at "
        "the mean."
        if config.loss.times != "loss-second-moment"
        else ""
    )
    return (
        "The variational bound in bits/dim: how many bits a number of a picture would take, on average, if the "
        "pictures were stored with this model; 8 for raw pixels, lower is better. Estimated from what training "
        f"draws, with the weights of the moment and without the prior's share, which is next to nothing.{noisy}"
    )


def _clip_caption(clip: float) -> str:
    return "The norm before clipping" + (f"; steps over {clip:g} are shortened to it." if clip else ".")


def _chart(made: Material, key: str, title: str, caption: str, span: tuple[float, float], zero: bool) -> str:
    series = [made.series("last", key)]
    drawing = line_chart(series, f"{title} over the steps", span=span, zero=zero, smooth=not zero)
    return page.chart(title, drawing, series, caption)


def previews(made: Material) -> str:
    paths = sorted(p for p in (made.run.folder / "samples").glob("*.png") if p.stem.isdigit())
    keep = {round(k) for k in np.linspace(0, len(paths) - 1, _FILM_FRAMES)} if paths else set()
    frames = []
    for i in sorted(keep):
        try:
            with Image.open(paths[i]) as image:
                frame = image.convert("RGB")
        except OSError:  # removed, or damaged: the others still tell
            continue
        times = -(-_FILM_WIDTH // frame.width)
        enlarged = frame.resize((times * frame.width, times * frame.height), Image.Resampling.NEAREST)
        frames.append((f"step {int(paths[i].stem):,}", enlarged))
    if not frames:
        return page.note("No preview has been drawn yet.")
    html = page.text(
        "Every preview starts from the same noise, so that what changes from one to the next is the model alone."
        + _columns(made)
    )
    return html + page.film(frames, "previews over the training")


def _columns(made: Material) -> str:
    if made.description.config.train.task != "upsampler":
        return ""
    return (
        " A row has the small picture, what the averaged weights and the weights as they are make of it, and the "
        "original."
    )


def denoising(made: Material) -> str:
    seen = made.denoising
    if seen is None:
        return page.note(f"No denoising to show: {made.without.get('pipeline') or made.without['pictures']}.")
    what = "A training picture" if made.pictures is not None else "A sample"
    if made.enlarged is not None and made.enlarged.held_out:
        what = "A held-out picture"
    told = "and the small picture" if made.enlarged is not None else "alone"
    html = page.text(
        f"{what} is mixed with more and more noise (xₜ). From each mixture {told} the model tells the noise (ε̂) "
        "from the picture (x̂₀). Where there is much noise x̂₀ is a blur, the mean of all pictures that could be "
        "under it; it sharpens as the noise goes.",
        "Sampling goes from level to level: xₛ is the mean of p(xₛ | xₜ), in the last row, plus some noise; s is "
        "the next level shown. At the top that mean is faint, as most of xₛ is still noise. At t = 1 there is "
        "next to no noise to tell, and ε̂ is the error of x̂₀, magnified.",
        "Level t counts from clean (0) to noise; log SNR = log(α²/σ²) is the logarithm of signal over noise. "
        "Values beyond black and white are cut; ε̂ is black at −3 and white at +3."
        + (" Transparency is shown in x̂₀ alone." if made.description.config.data.channels == 4 else ""),
    )
    levels = [
        (
            f"{t:,}",
            f"{snr:+.1f}".replace("-", "−"),
            _images(np.stack([seen.xt[i], seen.eps[i], seen.predicted[i], seen.mean[i]])),
        )
        for i, (t, snr) in enumerate(zip(seen.levels, seen.log_snr, strict=True))
    ]
    return html + page.steps(("level t", "log SNR"), ("xₜ", "ε̂", "x̂₀", "mean"), levels)


def samples(made: Material) -> str:
    drawn = made.drawn
    if drawn is None:
        return page.note(f"No samples: {made.without['pipeline']}.")
    facts = made.description.facts
    how = (
        f"{counted(len(drawn.samples), 'picture')}, not chosen from more: drawn from noise with the "
        f"averaged weights in {looks.how_drawn(drawn.samples)}."
    )
    if not drawn.labels:
        return page.text(how) + page.sheet(_images(drawn.of(0)), "sample", 6)
    few = len(drawn.labels) < len(facts.classes)
    rest = f" The {len(drawn.labels)} most frequent of {len(facts.classes)} classes." if few else ""
    named = [(facts.classes[label], "", _images(drawn.of(k))) for k, label in enumerate(drawn.labels)]
    return page.text(how + rest) + page.rows(named, "sample of")


def speed(made: Material) -> str:
    train = made.description.config.train
    values = []
    if speeds := made.speeds():
        typical = float(np.median(speeds))
        values += [
            ("pictures a second, typically", words.amount(typical)),
            ("a step", _short(train.batch / typical)),
        ]
    if (seconds := made.seconds()) is not None:
        values.append(("training so far", duration(seconds)))
    timed = made.drawn or made.enlarged
    if timed is not None and made.pipeline is not None:
        each = timed.seconds / len(timed.samples)
        steps = timed.samples.record["steps"]
        values.append((f"a sample of {steps} steps, on {made.pipeline.device}", _short(each)))
        whole = each / steps * made.pipeline.denoiser.native.T
        values.append((f"a sample of all {made.pipeline.denoiser.native.T:,} steps", _short(whole)))
    if not values:
        return page.note("Nothing has been measured yet.")
    return page.numbers(values) + page.text(
        "Training time is that of the steps, without previews and checkpoints. A sample's time was measured for "
        "this page, many at once; a training that runs beside it makes it longer."
        if timed is not None
        else ""
    )


def next(made: Material) -> str:
    description = made.description
    shown = Shown(
        str(made.run.folder),
        description.command,
        description.config,
        description.facts,
        made.step,
        description.plan,
        made.state,
        made.records,
        signs(made.records, made.checks),
    )
    items = advise(shown)
    if not items:
        return page.note("Wait for the first lines of the log.")
    return page.advice(items)


def _quarter(record: dict[str, Any], key: str, k: int) -> Any:
    values = record.get(key)
    return values[k] if isinstance(values, list) and k < len(values) else None


def _short(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.2f} s" if seconds < 10 else duration(seconds)


def _images(pixels: npt.NDArray[np.uint8]) -> list[Image.Image]:
    return [picture(one) for one in pixels]
