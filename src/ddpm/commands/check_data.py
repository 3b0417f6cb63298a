"""What a data set is like and what is worth a look in it; with a run's options also what the run would be."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ddpm.atomic import write_json
from ddpm.commands.contact import as_json, write_sheet
from ddpm.commands.findings import show_bars, show_facts, show_findings, show_list
from ddpm.commands.options import progress
from ddpm.commands.planning import PlanOptions, accelerator_for, plan_for, show_plan
from ddpm.presets import preset
from ddpm.samples import check_out, written
from ddpm.units import counted

if TYPE_CHECKING:
    import torch

    from ddpm.config import DataConfig
    from ddpm.data import Source
    from ddpm.data.survey import Item, Survey

MADE = ("survey.json", "contact.png")
_QUICK = 2_000
_SHOWN_SIZES = 3
_RARE = 20  # pictures of a class that are too few to learn it from
_UNEVEN = 10  # times as many pictures in the largest class as in the smallest


def check_data(
    options: PlanOptions, given: dict[str, Any], paths: Sequence[str], out: Console, quick: bool
) -> int:
    """Exit status: 0, or 2 where nothing could be trained."""
    from ddpm.data import open_sources
    from ddpm.data.survey import survey
    from ddpm.loading import pick_device
    from ddpm.plan import DEFAULT_BUDGET, parse_duration

    # What is asked for wrongly is refused before anything is looked at.
    device = pick_device(options.device)
    seconds = parse_duration(options.budget) if options.budget else DEFAULT_BUDGET
    usual = preset(options.preset).data.labels if options.preset else "auto"
    train, held = open_sources(paths, given.get("data.labels", usual), given.get("data.holdout", ""))
    folder = check_out(options.out or Path("check") / train.name, MADE, "ddpm check")
    for note in dict.fromkeys((*train.notes, *(held.notes if held else ()))):
        out.print(note)
    with progress("looking") as advance:
        found = survey(train, held, _QUICK if quick else 0, progress=advance)
    data = _settings(options, given, train, device, seconds) if found.usable and found.sizes else None
    _show(train.name, found, data, out)
    batch = given.get("train.batch", preset(options.preset).train.batch if options.preset else None)
    worth = _worth(found, data, batch)
    record = {"name": train.name, "data": list(paths), **as_json(found), "worth_a_look": worth}
    if data is None:
        with written(folder) as beside:
            write_json(beside / MADE[0], record)
        show_findings(worth, out, "")
        out.print(f"everything found: {folder / MADE[0]}")
        return 2
    status = 2 if found.usable < (batch or 1) else 0
    if status == 0 and _run_asked_for(options, given):
        accelerator = accelerator_for(options, given)
        own = dataclasses.replace(options, out=None)
        out.print(f"\nthe training, on {accelerator.device}:")
        planned, _ = plan_for(own, given, train, accelerator, Console(quiet=True), time.perf_counter())
        show_plan(dataclasses.replace(planned, warnings=(), obstacles=()), out)
        worth += [*planned.obstacles, *planned.warnings]
        status = 2 if planned.obstacles else 0
        record = {**record, "plan": list(planned.reasons), "worth_a_look": worth}
    with written(folder) as beside:
        write_json(beside / MADE[0], record)
        write_sheet(beside / MADE[1], train, held, found, data)
    show_findings(worth, out, "nothing stands out")
    out.print(f"\ncontact sheet: {folder / MADE[1]}; everything found: {folder / MADE[0]}")
    if status == 0 and not _run_asked_for(options, given):
        out.print("what a training would be and take: the same command with --budget 1h, or any option of train")
    return status


def _settings(
    options: PlanOptions, given: dict[str, Any], train: Source, device: torch.device, seconds: float
) -> DataConfig:
    """How pictures would be brought to one size, by preset or plan."""
    from ddpm.plan import for_data, readable
    from ddpm.transfer import open_origin, settings

    if options.preset:
        base = preset(options.preset).with_(data__channels=1 if readable(train).colour == 0 else 3)
        return base.with_(**{name.replace(".", "__"): value for name, value in given.items()}).data
    if given.get("train.init_from"):
        given, _ = settings(open_origin(given["train.init_from"]), given, bool(train.classes))
    return for_data(train, device, given, seconds).config.data


def _run_asked_for(options: PlanOptions, given: dict[str, Any]) -> bool:
    """Whether anything is asked for that only a training needs."""
    beyond = any(not name.startswith("data.") for name in given)
    return beyond or any((options.budget, options.preset, options.device))


# -- what is told ----------------------------------------------------------------------------------------------


def _show(name: str, found: Survey, data: DataConfig | None, out: Console) -> None:
    out.print(f"\n{name}")
    rows = [("pictures", _pictures(found))]
    if found.sizes:
        rows += [("sizes", _sizes(found)), ("kinds", _kinds(found))]
    if data is not None:
        rows.append(("become", _fate(found, data)))
    rows.append(("copies", _copies(found)))
    rows.append(("near copies", _near(found)))
    show_facts(rows, out)
    if found.classes:
        out.print(_classes(found))
        show_bars(found.classes, out)
    show_list(
        f"{counted(len(found.unreadable), 'picture')} cannot be read:",
        [f"{item.name}: {reason}" for item, reason in found.unreadable],
        out,
    )


def _classes(found: Survey) -> str:
    least, most = min(found.classes.values()), max(found.classes.values())
    text = counted(len(found.classes), "class", "classes")
    if most == least:
        return f"{text} of the same size"
    if most < 1.1 * least:
        return f"{text} of about the same size"
    return text + (f", the largest {most / least:.1f} times the smallest" if least else "")


def _pictures(found: Survey) -> str:
    text = f"{found.total:,} to train on" + (f", {found.held:,} held out" if found.held else "")
    if found.sampled:
        text += f"; {found.seen:,} looked at (--quick), spread evenly"
    bad = len(found.unreadable)
    return text + (f"; {bad:,} cannot be read" if bad else "; all can be read" if not found.sampled else "")


def _sizes(found: Survey) -> str:
    """Height x width, the most frequent first."""
    common = found.sizes.most_common(_SHOWN_SIZES)
    if len(found.sizes) == 1:
        return f"{_by(common[0][0])} (height x width), all of them"
    shown = ", ".join(f"{_by(size)} ({count:,})" for size, count in common)
    if len(found.sizes) <= _SHOWN_SIZES:
        return f"{shown}, height x width"
    ordered = sorted(found.sizes, key=lambda size: size[0] * size[1])
    return (
        f"{len(found.sizes):,}, from {_by(ordered[0])} to {_by(ordered[-1])} (height x width); most often {shown}"
    )


def _kinds(found: Survey) -> str:
    text = ", ".join(f"{kind} {count:,}" for kind, count in found.kinds.most_common())
    return text + (f"; {found.colourless:,} stored in colour show none" if found.colourless else "")


def _fate(found: Survey, data: DataConfig) -> str:
    from ddpm.data.survey import fitting

    kinds = {1: "grey", 3: "colour", 4: "colour with transparency"}
    fate = fitting(found.sizes, data.size, data.crop)
    text = f"{_by(data.size)} {kinds[data.channels]}"
    how = {
        "centre": f"cut from the centre: {fate.lost:.0%} of an average picture is cut away",
        "random": f"cut at random: {fate.lost:.0%} of an average picture is outside, elsewhere each time",
        "pad": f"padded with {data.background}: {fate.lost:.0%} of an average picture is padding",
        "none": f"stretched, by {fate.lost:.0%} on average",
    }
    if fate.lost >= 0.005:
        text += f", {how[data.crop]}"
        if fate.worst > fate.lost + 0.005:
            text += f", {fate.worst:.0%} at the worst ({_by(fate.worst_size)})"
    if fate.enlarged:
        text += f"; {counted(fate.enlarged, 'smaller picture')} enlarged"
    return text


def _copies(found: Survey) -> str:
    if not found.copies:
        return f"none with the same pixels{_among(found)}"
    spare = sum(len(group) - 1 for group in found.copies)
    text = f"{counted(spare, 'picture')} the same, pixel by pixel, as another{_among(found)}"
    return text + _apart(
        sum(_labels_differ(group) for group in found.copies), sum(_leaks(group) for group in found.copies), "group"
    )


def _near(found: Survey) -> str:
    rule = f"thumbnails correlate by {found.limit:.3f} or more"
    if not found.near:
        return f"no two others look nearly the same ({rule}){_among(found)}"
    pictures = len({(item.held, item.number) for pair in found.near for item in (pair.first, pair.second)})
    text = "" if found.complete else "at least "
    text += f"{counted(len(found.near), 'pair')} of {pictures:,} pictures look nearly the same ({rule})"
    return f"{text}{_among(found)}" + _apart(
        sum(pair.across for pair in found.near), sum(pair.leak for pair in found.near), "pair"
    )


def _among(found: Survey) -> str:
    return f", among the {found.seen:,} looked at" if found.sampled else ""


def _apart(across: int, leaks: int, noun: str) -> str:
    parts = [
        f"{counted(count, noun)} {what}"
        for count, what in ((across, "across classes"), (leaks, "both trained on and held out"))
        if count
    ]
    return f"; {', '.join(parts)}" if parts else ""


def _labels_differ(group: Sequence[Item]) -> bool:
    return len({item.label for item in group}) > 1


def _leaks(group: Sequence[Item]) -> bool:
    return len({item.held for item in group}) > 1


# -- what is worth a look --------------------------------------------------------------------------------------


def _worth(found: Survey, data: DataConfig | None, batch: int | None) -> list[str]:
    """A line for each thing, with the mend; the gravest first."""
    lines = []
    if not found.usable or not found.sizes:
        return [f"none of the {found.seen:,} pictures looked at can be read: there is nothing to train on"]
    if batch is not None and found.usable < batch:
        most = 1 << (found.usable.bit_length() - 1)
        lines.append(
            f"{counted(found.usable, 'picture')} to train on, fewer than a batch of {batch}: add pictures, or "
            f"--batch {most}"
        )
    if found.unreadable:
        share = len(found.unreadable) / found.seen
        part = f" ({share:.1%})" if share >= 0.0005 else ""
        lines.append(
            f"{counted(len(found.unreadable), 'picture')}{part} cannot be read and would be left out: "
            "mend or delete them"
        )
    lines += [*_worth_copies(found), *_worth_classes(found)]
    if data is not None:
        lines += _worth_fate(found, data)
    if found.flat:
        lines.append(
            f"{counted(len(found.flat), 'picture')} of a single tone, as {found.flat[0].name}: nothing can be "
            "learnt from them"
        )
    return lines


def _worth_copies(found: Survey) -> list[str]:
    lines = []
    leaks = [_of_both(group, "held") for group in found.copies if _leaks(group)]
    leaks += [(pair.first, pair.second) for pair in found.near if pair.leak]
    leaked = {item.number for group in found.copies if _leaks(group) for item in group if item.held}
    leaked |= {item.number for pair in leaks for item in pair if item.held}
    if leaks:
        lines.append(
            f"{counted(len(leaked), 'held-out picture')} also trained on, the same or nearly, as "
            f"{_pair(leaks[0])}: what is measured on held-out pictures will look too good; take them out of one"
        )
    across = [_of_both(group, "label") for group in found.copies if _labels_differ(group)]
    if across:
        lines.append(
            f"{counted(len(across), 'picture')} in two classes at once, as {_pair(across[0])}: one of the two "
            "classes must be wrong"
        )
    doubtful = [(pair.first, pair.second) for pair in found.near if pair.across]
    if doubtful:
        lines.append(
            f"{counted(len(doubtful), 'pair')} of nearly the same picture in different classes, as "
            f"{_pair(doubtful[0])}: see the contact sheet whether a class is wrong"
        )
    spare = sum(len(group) - 1 for group in found.copies)
    if spare >= 0.01 * found.seen:
        lines.append(
            f"{spare / found.seen:.0%} of the pictures are copies of others: they count twice, and are learnt by "
            "heart first; delete them"
        )
    return lines


def _worth_classes(found: Survey) -> list[str]:
    lines, counts = [], found.classes
    empty = [name for name, count in counts.items() if not count]
    rare = sorted((count, name) for name, count in counts.items() if 0 < count < _RARE)
    if empty:
        lines.append(f"{counted(len(empty), 'class', 'classes')} without a picture, as {empty[0]}")
    if rare:
        listed = ", ".join(f"{name} ({count})" for count, name in rare[:5])
        more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
        lines.append(
            f"fewer than {_RARE} pictures in {listed}{more}: too few to learn a class from; add pictures, merge "
            "classes, or --labels none"
        )
    some = [count for count in counts.values() if count]
    if some and max(some) >= _UNEVEN * min(some):
        lines.append(
            f"the largest class has {max(some) / min(some):.0f} times the pictures of the smallest: samples of "
            "the small ones will be the poorest; add pictures to them"
        )
    return lines


def _worth_fate(found: Survey, data: DataConfig) -> list[str]:
    from ddpm.data.survey import fitting

    lines, readable = [], found.sizes.total()
    fate = fitting(found.sizes, data.size, data.crop)
    if fate.enlarged > 0.05 * readable:
        lines.append(
            f"{fate.enlarged / readable:.0%} of the pictures are smaller than {_by(data.size)} and would be "
            "enlarged, which blurs: take a smaller --size"
        )
    if data.crop == "centre" and fate.lost > 0.15:
        lines.append(
            f"{fate.lost:.0%} of an average picture is cut away: --crop pad keeps all of it, random cuts "
            "elsewhere each time"
        )
    if data.channels > 1 and found.colourless == readable:
        lines.append("all pictures are stored in colour but show none: --channels 1 trains faster")
    return lines


def _of_both(group: Sequence[Item], what: str) -> tuple[Item, Item]:
    """The first of a group and the first that differs from it."""
    first = group[0]
    return first, next(item for item in group if getattr(item, what) != getattr(first, what))


def _pair(pair: tuple[Item, Item]) -> str:
    return " and ".join(item.name + " (held out)" * item.held for item in pair)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
