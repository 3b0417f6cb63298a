"""What went wrong while training: steps that were skipped, a way back to a checkpoint, spikes of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ddpm.draw import page
from ddpm.report.shown import Advice, Shown, again, number
from ddpm.spikes import Spike, spikes
from ddpm.units import counted

_NAMED = 3


def spiked(records: Sequence[dict[str, Any]]) -> list[Spike]:
    """The spikes in a log."""
    return spikes([(r["step"], high) for r in records if (high := number(r.get("highest"))) is not None])


def sentences(records: Sequence[dict[str, Any]]) -> list[str]:
    """What there is to say of a log; nothing, where nothing went wrong."""
    said = []
    skipped = max((r["skipped"] for r in records if "skipped" in r), default=0)
    if skipped:
        said.append(
            f"{counted(skipped, 'step')} {'was' if skipped == 1 else 'were'} skipped, as the loss or the gradient "
            "was no number; they changed nothing."
        )
    for one in (r for r in records if "went_back_from" in r):
        whence = f"the checkpoint of step {one['step']:,}" if one["step"] else "the beginning"
        said.append(
            f"At step {one['went_back_from']:,} nothing but such steps came, so training went back to {whence} "
            f"and on at {one['rate']:g} of the learning rate."
        )
    found = sorted(spiked(records), key=lambda one: one.highest / one.usual, reverse=True)
    if found:
        shown = "; ".join(f"{one.highest:.3g} by step {one.step:,}" for one in found[:_NAMED])
        rest = f", and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        said.append(
            f"The loss of a single step jumped {_times(len(found))}: {shown}{rest}, where up to "
            f"{found[0].usual:.3g} was usual."
        )
    return said


def _times(count: int) -> str:
    return "once" if count == 1 else counted(count, "time")


def note(records: Sequence[dict[str, Any]]) -> str:
    """The same for the page."""
    return "".join(page.note(sentence) for sentence in sentences(records))


def shaken(shown: Shown) -> Advice | None:
    """Rates that are too high show like this, before all else."""
    went_back = any("went_back_from" in r for r in shown.records)
    jumps = spiked(shown.records)
    if not went_back and len(jumps) < 2:
        return None
    what = "its numbers went wrong and it went back once" if went_back else f"the loss jumped {len(jumps)} times"
    return Advice(
        "Lower the learning rate",
        f"While training, {what}: a sign of steps that are too large, or of half precision.",
        again(shown, f"--steps {shown.config.train.steps} --lr {shown.config.optimizer.lr / 2:.1e}", "lower-rate"),
    )
