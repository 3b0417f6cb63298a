"""Whether a run can be used and gone on with, how it goes, and what to change."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ddpm.commands.findings import show_facts, show_findings
from ddpm.errors import UserError
from ddpm.units import counted

if TYPE_CHECKING:
    from ddpm.config import Config
    from ddpm.report.shown import Advice
    from ddpm.store import Checkpoint, Description, Run

_SLOWER = 0.7  # of the usual speed, at the end
_JUMP = 3.0  # times the usual gradient, at the end


def check_run(run: Run, out: Console) -> int:
    """Exit status: 0, or 2 where the run can neither be gone on with nor sampled."""
    from ddpm.plan import horizons
    from ddpm.report.material import state_of

    description = run.description()
    config, facts = description.config, description.facts
    worth: list[str] = []
    if line := _unread(run):
        worth.append(line)
    newest, kept = _checkpoints(run, worth)
    records = run.records()
    numbered = [r for r in records if isinstance(r.get("step"), int)]
    step = max([newest.step if newest else 0, *(r["step"] for r in numbered)])
    state = state_of(run, description, records, step)
    rows = [
        ("run", f"{state} at step {step:,} of {config.train.steps:,} ({step / config.train.steps:.0%})"),
        ("pictures seen", _seen(config, facts.count, step)),
        ("checkpoints", kept),
    ]
    same, told = _data(description, worth, needed=state != "complete")
    rows.append(("data", told))
    rows += _course(numbered, config, worth)
    if state != "complete":
        rows.append(("time left", _left(numbered, config, step)))
    rows.append(("EMA", f"over {1 / (1 - config.optimizer.ema):,.0f} of {config.train.steps:,} steps"))
    rows.append(("disk", _disk(run, newest, state, worth)))
    worth += horizons(config, facts.count)
    out.print(f"{run.folder}: {facts.name}, {counted(facts.count, 'picture')}\n")
    show_facts(rows, out)
    usable = newest is not None or (step == 0 and same)
    advised = _advice(run, description, state, step, records, needed=usable)
    show_findings(worth, out, "nothing stands out")
    if advised:
        out.print("\nwhat to do next:")
        for advice in advised:
            out.print(f"- {advice.what}: {advice.why}")
            if advice.command:
                out.print(f"  {advice.command}")
    return 0 if usable else 2


def _unread(run: Run) -> str:
    """Lines of the log, or a config.json, that cannot be read."""
    from ddpm.reading import read_json
    from ddpm.store import Description

    path = run.folder / "config.json"
    try:
        Description.from_json(read_json(path), str(path))
    except UserError as error:
        return f"{error}; the newest checkpoint's description is used in its place"
    log = run.folder / "log.jsonl"
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    whole, lines = text.endswith("\n"), len(text.splitlines())
    lost = lines - len(run.records()) - (not whole and bool(lines))  # the last one may be cut off by a kill
    if lost > 0:
        return f"{log}: damaged, {lost:,} of its {lines:,} lines cannot be read and are left out"
    return ""


def _checkpoints(run: Run, worth: list[str]) -> tuple[Checkpoint | None, str]:
    """The newest whole one, and what there are; all checksums are compared."""
    from ddpm.store import open_checkpoint

    root = run.folder / "checkpoints"
    folders = sorted(p for p in root.iterdir() if p.is_dir() and p.name.isdigit()) if root.is_dir() else []
    newest, whole = None, []
    damaged: list[tuple[Path, str]] = []
    for folder in folders:
        try:
            newest = open_checkpoint(folder)
            whole.append(newest.step)
        except UserError as error:
            if folder.exists():  # a training that goes on removes old ones meanwhile
                damaged.append((folder, str(error)))
    for folder, line in damaged:
        mend = ""
        if newest is not None and int(folder.name) > newest.step:
            mend = f"; ddpm train --resume --out {shlex.quote(str(run.folder))} goes on from step {newest.step:,}"
        elif newest is not None:
            mend = "; a newer one is whole, so nothing is lost"
        worth.append(f"{line}{mend}")
    if not folders:
        return None, "none yet"
    if newest is None:
        worth.append("no checkpoint is whole: start the run anew with another --out")
        return None, f"{len(folders)}, none of them whole"
    steps = " and ".join(f"{step:,}" for step in whole[-2:])
    text = f"{len(whole)} of {len(folders)} whole, " if len(whole) < len(folders) else "whole, "
    text += f"after step {steps}, {_amount(_bytes(newest.folder))} each"
    if broken := _not_numbers(newest):
        worth.append(f"{newest.folder}: {broken} holds values that are no numbers; the run has diverged")
    return newest, text


def _not_numbers(checkpoint: Checkpoint) -> str:
    """The first part of a checkpoint with a weight that is not finite."""
    for part in ("model", "ema"):
        if not (checkpoint.folder / f"{part}.safetensors").is_file():
            continue
        if not all(bool(tensor.isfinite().all()) for tensor in checkpoint.tensors(part).values()):
            return part
    return ""


def _data(description: Description, worth: list[str], needed: bool) -> tuple[bool, str]:
    """Whether the pictures are there and the same, and how to say so."""
    from ddpm.commands.report import open_pictures

    pictures, why = open_pictures(description)
    path = " ".join(description.config.data.path)
    if pictures is not None:
        bad = f", {counted(len(pictures.skipped), 'picture')} left out" if pictures.skipped else ""
        return True, f"{path}: there, and the same{bad}"
    if needed:
        worth.append(f"{why}: the training cannot go on; bring the pictures back")
    return False, why


def _seen(config: Config, pictures: int, step: int) -> str:
    seen = step * config.train.batch
    return f"{seen:,}" + (f", each {seen / pictures:,.1f} times" if pictures else "")


def _course(records: Sequence[dict[str, Any]], config: Config, worth: list[str]) -> list[tuple[str, str]]:
    """Loss, gradient and speed, from the log's lines."""
    if not records:
        return [("loss", "nothing logged yet")]
    bad = next((r["step"] for r in records if "loss" in r and _number(r["loss"]) is None), None)
    if bad is not None:
        worth.append(f"the loss is no number at step {bad:,}: start another run with a lower --lr")
    rows = []
    losses, norms, speeds = (_values(records, key) for key in ("loss", "gradient", "pictures_per_second"))
    if losses:
        first, last = _tenths(losses)
        text = f"{last:.4f}, from {first:.4f} at the start"
        before, after, doubt = _fifths(losses)
        if doubt is not None and after > before + 3 * doubt:
            text += ", rising"
            worth.append(
                f"the loss rises: {before:.4f}, then {after:.4f} over the last fifth; a lower --lr may hold it"
            )
        elif doubt is not None:
            text += ", still falling" if after < before - 2 * doubt else ", no longer falling"
        if config.train.task == "classifier":
            text += "; it is the cross-entropy"
        rows.append(("loss", f"{text}; it is the bound in bits/dim" if config.loss.kind == "vlb" else text))
    if right := _values(records, "accuracy"):
        first, last = _tenths(right)
        rows.append(("accuracy", f"{last:.1%} of training batches, from {first:.1%} at the start"))
    if (bits := _values(records, "vlb")) and config.loss.kind != "vlb":
        first, last = _tenths(bits)
        rows.append(("bits/dim", f"{last:.3f}, from {first:.3f} at the start: the bound, on what training draws"))
    apart = [(value, r["step"]) for r in records if (value := _number(r.get("held_out"))) is not None]
    if apart:
        rows.append(("held out", f"{apart[-1][0]:.4f}, the lowest {min(apart)[0]:.4f} at step {min(apart)[1]:,}"))
    rows += _held_out_accuracy(records)
    if norms:
        usual, late = _median(norms), _median(norms[-max(1, len(norms) // 10) :])
        clip = config.optimizer.clip
        over = sum(norm > clip for norm in norms[len(norms) // 2 :]) / max(1, len(norms) - len(norms) // 2)
        text = f"norm {late:.3g} now, {usual:.3g} usually"
        rows.append(
            ("gradient", text + (f"; over the clip of {clip:g} in {over:.0%} of the second half" if clip else ""))
        )
        if len(norms) >= 20 and late > _JUMP * usual:
            worth.append(f"the gradient has grown to {late / usual:.1f} times its usual norm: a lower --lr")
    if speeds:
        usual, late = _median(speeds), _median(speeds[-3:])
        rows.append(("speed", f"{late:,.0f} pictures a second now, {usual:,.0f} usually"))
        if len(speeds) >= 10 and late < _SLOWER * usual:
            worth.append(
                f"it runs at {late / usual:.0%} of its usual speed: is something else at work on the machine?"
            )
    return rows


def _held_out_accuracy(records: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Of a classifier: now, at its best, and by quarter of t."""
    looks = [(value, r) for r in records if (value := _number(r.get("held_out_accuracy"))) is not None]
    if not looks:
        return []
    (now, record), best = looks[-1], max(value for value, _ in looks)
    quarters = record.get("held_out_quarters")
    each = [_number(one) for one in quarters] if isinstance(quarters, list) else []
    by_t = " ".join("-" if one is None else f"{one:.1%}" for one in each)
    step = next(r["step"] for value, r in looks if value == best)
    return [("held out", f"accuracy {now:.1%}, by t {by_t}; the highest {best:.1%} at step {step:,}")]


def _left(records: Sequence[dict[str, Any]], config: Config, step: int) -> str:
    from ddpm.plan import duration

    speeds = _values(records, "pictures_per_second")
    if not speeds:
        return "not known yet"
    speed = _median(speeds[-3:])
    left = (config.train.steps - step) * config.train.batch / speed
    return f"{duration(left)} at the last {speed:,.0f} pictures a second, previews and checkpoints apart"


def _disk(run: Run, newest: Checkpoint | None, state: str, worth: list[str]) -> str:
    """What the run takes, and whether there is room for its next checkpoint."""
    import shutil

    free, taken = shutil.disk_usage(run.folder).free, _bytes(run.folder)
    needed = _bytes(newest.folder) if newest else 0
    if state != "complete" and needed > free:
        worth.append(
            f"a checkpoint takes {_amount(needed)}, and {_amount(free)} are free at {run.folder}: make room "
            "before going on"
        )
    return f"{_amount(taken)} taken, {_amount(free)} free"


def _advice(
    run: Run, description: Description, state: str, step: int, records: list[dict[str, Any]], needed: bool
) -> list[Advice]:
    from ddpm.report.advice import advise
    from ddpm.report.shown import Shown

    if not needed or state == "running":
        return []
    shown = Shown(
        folder=str(run.folder),
        command=description.command,
        config=description.config,
        facts=description.facts,
        step=step,
        plan=description.plan,
        state=state,
        records=records,
    )
    return advise(shown)


# -- numbers ---------------------------------------------------------------------------------------------------


def _number(value: Any) -> float | None:
    from ddpm.report.shown import number

    return number(value)


def _values(records: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [value for r in records if (value := _number(r.get(key))) is not None]


def _tenths(values: Sequence[float]) -> tuple[float, float]:
    """Means of the first line and of the last tenth of the lines."""
    last = values[-max(1, len(values) // 10) :]
    return values[0], sum(last) / len(last)


def _fifths(values: Sequence[float]) -> tuple[float, float, float | None]:
    """Means of the last fifth but one and of the last, and their difference's standard error; None if too few."""
    part = len(values) // 5
    if part < 3:
        return 0.0, 0.0, None
    before, after = values[-2 * part : -part], values[-part:]
    means = [sum(some) / part for some in (before, after)]
    spread = sum((v - m) ** 2 for some, m in zip((before, after), means, strict=True) for v in some) / (part - 1)
    return means[0], means[1], math.sqrt(spread / part)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _amount(count: int) -> str:
    from ddpm.plan import amount

    return amount(float(count))
