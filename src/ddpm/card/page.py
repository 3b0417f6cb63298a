"""The card's page: what the model is, samples, what it was trained on, what was measured, what is not known."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from PIL import Image

from ddpm.atomic import write_bytes
from ddpm.card.front import front_matter, task_of
from ddpm.card.measured import Result, of_run
from ddpm.card.use import use
from ddpm.config import Config
from ddpm.data.hub import PREFIX
from ddpm.errors import UserError
from ddpm.guide import NoisyClassifier
from ddpm.pipeline import Pipeline
from ddpm.places import unwritable
from ddpm.samples import text_of
from ddpm.units import counted

NAME, PICTURE = "README.md", "samples.png"
_SEED, _STEPS, _WIDE = 0, 50, 640  # of the samples, and about how many pixels their grid is wide
_SHOWN = 1000  # classes listed at the most
_PREDICTS = {"eps": "the noise ε", "x0": "the picture x_0", "v": "v = α ε − σ x_0", "mean": "the step's mean"}
_VARIANCES = {
    "small": "fixed, the posterior's β̃",
    "large": "fixed, the forward step's β",
    "learned": "learned",
    "learned_range": "learned, between β̃ and β",
}


def write_card(
    folder: Path,
    model: Pipeline | NoisyClassifier,
    *,
    to: str,
    licence: str | None,
    run: Path | None,
    samples: bool = True,
) -> None:
    """Writes README.md and samples.png into an exported folder.

    Args:
        folder: holds the exported model.
        model: the same, as ours.
        to: its format: "diffusers", "openai" or "ddpm".
        licence: of the weights, by the hub's name or any other; None where nobody has said.
        run: the run it comes from, whose evaluation/ tells what was measured; None for none.
        samples: draw some; a classifier and an upsampler draw nothing by themselves.

    UserError if the folder is not there, cannot be written, or a result in the run is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; a card is of an exported model")
    licence = (licence or "").strip() or None
    results, left_out = of_run(run, model.checkpoint, model.description)
    drawn = _draw(model) if samples and isinstance(model, Pipeline) and task_of(model) == "image" else None
    parts = (
        front_matter(model, to, licence, results),
        _title(model),
        "" if drawn is None else drawn.words,
        use(folder, model, to),
        _what(model),
        _training(model),
        _numbers(model, results, left_out),
        _licence(licence),
        _unknown(model, licence, results),
    )
    text = "\n".join(part.strip("\n") + "\n" for part in parts if part)
    try:
        if drawn is not None:
            png = io.BytesIO()
            drawn.grid.save(png, "png", pnginfo=text_of(drawn.record))
            write_bytes(folder / PICTURE, png.getvalue())
        write_bytes(folder / NAME, text.encode())
    except OSError as error:
        raise unwritable(folder, error, "choose another folder") from None


def _title(model: Pipeline | NoisyClassifier) -> str:
    data, of = model.description.config.data, model.description.facts
    size, small = (" x ".join(map(str, one)) for one in (data.size, data.small))
    colour = {1: "grey", 3: "colour", 4: "colour (with transparency)"}[data.channels]
    about = {
        "image": f"A diffusion model that draws {colour} pictures of {size}",
        "upsampler": f"A diffusion model that enlarges {colour} pictures of {small} to {size}",
        "classifier": f"A classifier of noisy {colour} pictures of {size}, which guides diffusion models",
    }[task_of(model)]
    classes = counted(len(model.classes), "class", "classes")
    by = f": it tells {classes} apart" if task_of(model) == "classifier" else f", by {classes}"
    trained = f" It was trained on {_plain(of.name)}." if of.name else ""
    return f"\n# {_plain(model.name)}\n\n{about}{by if model.classes else ''}.{trained}"


def _what(model: Pipeline | NoisyClassifier) -> str:
    """A table of facts, and the settings of the net."""
    config, of = model.description.config, model.description
    net = model.denoiser.net if isinstance(model, Pipeline) else model.model.net
    chain, told = config.chain, " (the net is told t·1000/T)" if config.chain.rescale else ""
    rows = [
        ("Pictures", f"{config.data.size[0]} x {config.data.size[1]}, {counted(config.data.channels, 'channel')}"),
        ("Parameters", f"{sum(p.numel() for p in net.parameters()):,}"),
        ("Noise levels", f"T = {chain.steps:,}, schedule {chain.schedule}{told}"),
    ]
    if task_of(model) == "upsampler":
        rows.insert(1, ("Small pictures", " x ".join(map(str, config.data.small))))
    if task_of(model) != "classifier":
        rows.append(("The net predicts", _PREDICTS[config.denoiser.predicts]))
        rows.append(("Variance of a step", _VARIANCES[config.denoiser.variance]))
    if model.checkpoint:
        rows.append(("Checkpoint", f"step {of.step:,}, SHA-256 {model.checkpoint}…"))
    if model.classes:
        shown = enumerate(model.classes[:_SHOWN])
        listed = [str(i) if str(i) == name else f"{i} {_plain(name)}" for i, name in shown]
        more = len(model.classes) - len(listed)
        rows.append(("Classes", ", ".join(listed) + (f" and {more:,} more" if more else "")))
    return f"\n## The model\n\n{_table(('', ''), rows)}{_settings(config)}"


def _settings(config: Config) -> str:
    """All that was chosen, but for what names places on a machine."""
    values = dataclasses.asdict(config)
    for section, names in (("data", ("path", "holdout", "cache")), ("train", ("init_from", "trackers"))):
        for name in names:
            values[section].pop(name)
    if config.train.task == "classifier":  # it has neither
        values["loss"] = {"times": config.loss.times}
        del values["denoiser"]
    text = yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False, default_flow_style=None, width=1000)
    return f"\n<details><summary>All settings</summary>\n\n```yaml\n{text}```\n\n</details>"


def _training(model: Pipeline | NoisyClassifier) -> str:
    config, facts, step = model.description.config, model.description.facts, model.description.step
    lines = []
    if facts.count:
        skipped = f", {facts.skipped:,} more could not be read" if facts.skipped else ""
        lines.append(f"{counted(facts.count, 'picture')} of {_plain(facts.name or 'no name')}{skipped}.")
        how = "mirrored left to right at random" if config.data.flip else "never mirrored"
        crop = {"centre": "cut from the centre", "random": "cut at random", "pad": "padded", "none": "stretched"}
        lines.append(f"They were {crop[config.data.crop]} where their shape was another, and {how}.")
        if facts.held_out:
            lines.append("Others were held out of training.")
    if facts.fingerprint:
        lines.append(f"Fingerprint of what was trained on: `{facts.fingerprint[:16]}`.")
    if step:
        seen = f"{step:,} steps of {config.train.batch:,}, {step * config.train.batch:,} pictures seen"
        average = (
            f"; the weights are running averages, decay {config.optimizer.ema:g}" if config.optimizer.ema else ""
        )
        lines.append(f"{seen}, Adam with a rate of {config.optimizer.lr:g}{average}.")
    if config.train.init_from:
        lines.append(f"It started from the weights of {_plain(Path(config.train.init_from).name)}.")
    if config.train.label_drop:
        lines.append(f"{config.train.label_drop:.0%} of the labels were left out, for classifier-free guidance.")
    return "\n## Training\n\n" + "".join(f"- {line}\n" for line in lines) if lines else ""


# -- samples ---------------------------------------------------------------------------------------------------


class _Drawn(NamedTuple):
    """A grid of samples, the section about it, and its record."""

    grid: Image.Image
    words: str
    record: dict[str, Any]


def _draw(model: Pipeline) -> _Drawn:
    """Pictures that nobody selected."""
    columns, labels = _layout(len(model.classes), model.size[1])
    n = len(labels) if labels else columns**2
    steps = min(_STEPS, model.denoiser.native.T)
    samples = model.sample(n, sampler="ddim", steps=steps, seed=_SEED, label=labels)
    how = f"Not selected: {n} pictures of seed {_SEED}, DDIM with {counted(steps, 'step')}, no guidance"
    if labels:
        shown = [_plain(model.classes[k]) for k in labels[:columns]]
        how += f"; a column a class: {', '.join(shown)}" if len(model.classes) <= columns else "; a class each"
    words = f"\n## Samples\n\n![samples]({PICTURE})\n\n{how}."
    return _Drawn(samples.grid(columns, _WIDE), words, samples.record)


def _layout(classes: int, wide: int) -> tuple[int, list[int] | None]:
    """Columns of the grid, fewer of large pictures, and the labels: a column a class, or a picture."""
    most = max(4, min(10, _WIDE // wide))
    if not classes:
        return min(6, most), None
    if classes <= most:
        return classes, list(range(classes)) * 4
    return most, [k * classes // most**2 for k in range(most**2)] if classes >= most**2 else list(range(classes))


# -- what was measured, and what was not -----------------------------------------------------------------------


def _numbers(model: Pipeline | NoisyClassifier, results: Sequence[Result], left_out: Sequence[str]) -> str:
    if not results and not left_out:
        return ""
    rows = []
    for result in results:
        value = f"{result.value:.4g}" + ("" if result.error is None else f" ± {result.error:.2g}")
        n = "" if result.pictures is None else f"{result.pictures:,}"
        rows.append((result.name, value, n, _plain(result.reference), _plain(result.how)))
    text = "\n## Measured\n\n"
    if rows:
        text += _table(("metric", "value", "pictures", "reference", "how"), rows)
        text += "\n±: standard error of the mean over pictures."
        text += f" All of the checkpoint {model.checkpoint}…, before it was exported." if model.checkpoint else ""
    return text + "".join(f"\n\n{line}" for line in left_out)


def _licence(licence: str | None) -> str:
    if licence is None:
        return ""
    return f"\n## Licence\n\n{_plain(licence)}, of the weights. The pictures they were trained on have their own."


def _unknown(model: Pipeline | NoisyClassifier, licence: str | None, results: Sequence[Result]) -> str:
    """What a reader would want to be told, and is not."""
    facts, step = model.description.facts, model.description.step
    hub = any(path.startswith(PREFIX) for path in model.description.config.data.path)
    lines = []
    if licence is None:
        lines.append("The licence: nobody has given one, and without it the weights may not be used by others.")
    if not facts.count:
        lines.append("What it was trained on: the file it comes from does not say.")
    elif not hub:
        lines.append("Where the training pictures come from, who or what is in them, and under which licence.")
    if not step:
        lines.append("How long it was trained: the file it comes from does not say.")
    if not results:
        lines.append("How good it is: nothing was measured of this checkpoint.")
    elif task_of(model) != "classifier" and not any(result.kind == "fid" for result in results):
        lines.append("How good its samples are in numbers: FID, precision and recall were not measured.")
    if task_of(model) != "classifier":
        lines.append("Whether it repeats pictures it was trained on: that was not tested.")
    return "\n## Not known\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _plain(text: str) -> str:
    """A text as itself in Markdown, and in a cell of a table."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))
